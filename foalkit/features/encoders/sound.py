"""Weight-free encoders of sound."""

import numpy as np

from foalkit.features.encoders.weights import version
from foalkit.features.media import SAMPLE_RATE
from foalkit.params.encoders import LogMel, Mfcc, Waveform


class LogMelEncoder:
    """Log-mel energies `(T, bands)` in nepers, one frame every `hop_ms`, window 25 ms."""

    def __init__(self, spec: LogMel, where: str = "features"):
        self.spec, self.width = spec, spec.bands
        self.identity = {**spec.model_dump(), "librosa": version("librosa")}

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        hop = SAMPLE_RATE * self.spec.hop_ms // 1000
        return np.log(_mel_power(samples, self.spec.bands, hop) + 1e-6).T


class MfccEncoder:
    """Mel-frequency cepstral coefficients `(T, coefficients)`, every `hop` samples, as many as `seconds` has."""

    def __init__(self, spec: Mfcc, where: str = "features"):
        self.spec, self.width, self.rate = spec, spec.coefficients, spec.rate
        self.identity = {**spec.model_dump(), "librosa": version("librosa")}

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        import librosa

        s = self.spec
        if s.seconds is not None:
            samples = librosa.util.fix_length(samples, size=round(s.seconds * s.rate))
        power = _mel_power(samples, s.bands, s.hop, rate=s.rate, window=s.window)
        return librosa.feature.mfcc(S=librosa.power_to_db(power), n_mfcc=s.coefficients).T.astype(np.float32)

    def note(self, samples: np.ndarray) -> str | None:
        """What a reader must know of a sound that is shorter than the spec's `seconds`."""
        wanted = 0 if self.spec.seconds is None else round(self.spec.seconds * self.rate)
        if len(samples) >= wanted:
            return None
        have, all_of_it = (1 + n // self.spec.hop for n in (len(samples), wanted))
        return f"{have} of {all_of_it} MFCC frames, the rest is silence"


class WaveformEncoder:
    """The samples themselves `(S, 1)`, in [-1, 1]."""

    width, stored_as = 1, "int16"

    def __init__(self, spec: Waveform, where: str = "features"):
        self.identity = spec.model_dump()

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        return samples[:, None]

    def note(self, samples: np.ndarray) -> str | None:
        """How many samples are beyond full scale, which 16-bit numbers cannot hold."""
        beyond = int((np.abs(samples) > 1).sum())
        return f"{beyond} samples are beyond full scale and cut to it" if beyond else None


def _mel_power(samples: np.ndarray, bands: int, hop: int, *, rate: int = SAMPLE_RATE, window: int = 400) -> np.ndarray:
    import librosa

    size = 1 << (window - 1).bit_length()  # the next power of two: 512 for 25 ms at 16 kHz
    if short := len(samples) < size:  # librosa pads it with the same zeros, and warns
        samples = np.pad(samples, size // 2)
    return librosa.feature.melspectrogram(
        y=samples, sr=rate, n_fft=size, center=not short, win_length=window, hop_length=hop, n_mels=bands
    )
