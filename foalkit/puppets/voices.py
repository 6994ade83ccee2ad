"""Voices of the demo corpus's puppets: source-filter synthesis, every sample from one seeded generator.

A glottal pulse train and a noise source are cut into overlapping windows, and each window is shaped in the
frequency domain by the vocal-tract response of its moment (a cascade of resonances): no loop over samples.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

RATE = 16_000  # Hz, the rate of IEMOCAP's sentence files
HOP = 128  # samples, so the tract moves in steps of 8 ms
WINDOW = 512
FFT = 1024  # twice the window: a resonance may ring on without wrapping round
PEAK = 0.45  # full scale 1.0: two actors at once, or one and the leaked other, stay below clipping

_VOWELS = {  # F1, F2, F3 in Hz of an adult man; mouth opening 0..1; lips from -1 rounded to 1 spread
    "a": (740, 1180, 2540, 1.00, 0.1),
    "e": (530, 1840, 2480, 0.60, 0.6),
    "i": (290, 2250, 3000, 0.30, 1.0),
    "o": (500, 880, 2500, 0.60, -0.8),
    "u": (320, 850, 2300, 0.28, -1.0),
    "æ": (660, 1720, 2410, 0.85, 0.5),
    "ə": (500, 1450, 2500, 0.45, 0.0),
}
_CONSONANTS = {  # voicing, noise, noise's centre in Hz, mouth opening
    "s": (0.0, 0.50, 6200, 0.12),
    "f": (0.0, 0.22, 4500, 0.05),
    "t": (0.0, 0.60, 4200, 0.12),
    "k": (0.0, 0.55, 2200, 0.20),
    "b": (0.1, 0.30, 900, 0.00),
    "m": (0.5, 0.00, 1000, 0.00),
    "l": (0.6, 0.00, 1000, 0.25),
    "z": (0.5, 0.35, 5600, 0.12),
}
# One row per voice setting: its value at the centre of the arousal-valence plane, what one unit of arousal
# adds, what one unit of valence adds, what their product adds: each of the four corners can be placed freely.
_MANNER = {
    "pitch": (2.0, 4.5, 0.5, 1.5),  # semitones above the speaker's own
    "span": (3.4, 1.3, 1.6, 0.6),  # semitones between stressed and unstressed syllables
    "slope": (-1.5, 0.5, 2.5, 1.0),  # semitones gained from start to end
    "tempo": (4.4, 1.3, 0.3, 0.1),  # syllables a second
    "level": (-25.0, 6.5, -0.5, -0.5),  # dB relative to full scale
    "tilt": (-9.0, 3.6, -0.6, -1.0),  # dB an octave above 500 Hz
    "breath": (0.22, -0.02, -0.22, 0.02),  # aspiration beside the voiced source
    "tract": (1.0, 0.01, 0.075, 0.0),  # formant scale: a smile shortens the tract, a scowl lengthens it
    "ring": (0.0, 0.0, 12.0, 0.0),  # dB at 3 kHz: a bright voice has it, a choked one lacks it
    "rough": (0.16, 0.08, -0.14, -0.08),  # depth of the alternating strong and weak pulses
}


@dataclass(frozen=True)
class Voice:
    """One speaker's voice: mean F0 in Hz, formant scale (1 = adult man), tempo, tilt offset (dB/octave)."""

    f0: float
    tract: float
    tempo: float = 1.0
    tilt: float = 0.0


VOICES = {
    "Ses01F": Voice(205, 1.16, 1.02, 0.3), "Ses01M": Voice(112, 1.00, 0.97, -0.3),
    "Ses02F": Voice(188, 1.13, 0.95, -0.4), "Ses02M": Voice(128, 1.02, 1.05, 0.2),
    "Ses03F": Voice(218, 1.18, 1.05, 0.0), "Ses03M": Voice(105, 0.98, 1.00, 0.4),
    "Ses04F": Voice(196, 1.15, 1.00, 0.5), "Ses04M": Voice(120, 1.03, 0.94, -0.2),
    "Ses05F": Voice(210, 1.17, 0.97, -0.2), "Ses05M": Voice(135, 1.01, 1.03, 0.0),
}  # fmt: skip


def manner(arousal: float, valence: float) -> dict[str, float]:
    """Return the voice settings at a point of the arousal-valence plane, both in about [-1, 1]."""
    point = np.array([1.0, arousal, valence, arousal * valence])
    return {name: float((row * point).sum()) for name, row in _MANNER.items()}


def speak(
    rng: np.random.Generator, voice: Voice, *, seconds: float, arousal: float, valence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Say nonsense for exactly `seconds` at a point of the arousal-valence plane.

    Returns the samples `(round(seconds * RATE),)` float32 within ±PEAK, and the mouth's track `(steps, 2)`
    every HOP samples: opening in 0..1 and lips from -1 (rounded) to 1 (spread).
    """
    how = manner(arousal, valence)
    samples = round(seconds * RATE)
    steps = samples // HOP + 1
    score = _score(rng, steps, how["tempo"] * voice.tempo)
    voicing, noise, centre, opening, lips, accent = score[:6]
    formants = score[6:] * voice.tract * how["tract"]

    # F0: stress, a line from start to end, a slow drift and jitter, in semitones about the speaker's mean.
    tone = how["pitch"] + how["span"] * accent + how["slope"] * np.linspace(-0.5, 0.5, steps)
    tone += gaussian_filter1d(rng.normal(0, 3.0, steps), 8) + rng.normal(0, 0.15 + how["rough"], steps)
    f0 = np.interp(np.arange(samples), np.arange(steps) * HOP, voice.f0 * 2 ** (tone / 12))
    phase = np.cumsum(f0) / RATE
    pulse = 1 - 2 * (phase % 1.0)
    pulse *= 1 - max(how["rough"], 0) * (np.floor(phase) % 2)
    hiss = rng.normal(0, 0.6, samples)

    hertz = np.fft.rfftfreq(FFT, 1 / RATE)
    octaves = np.log2(np.maximum(hertz, 500) / 500)
    tilt = 10 ** ((how["tilt"] + 6 + voice.tilt) * octaves / 20)  # the sawtooth falls by 6 dB itself
    colour = how["ring"] * (
        np.exp(-0.5 * ((hertz - 3000) / 650) ** 2) - 0.6 * np.exp(-0.5 * ((hertz - 1150) / 300) ** 2)
    )
    tract = _tract(hertz, formants) * 10 ** (colour / 20)
    band = np.exp(-0.5 * ((hertz - centre[:, None]) / (0.28 * centre[:, None] + 300)) ** 2)
    voiced = voicing[:, None] * tract
    aspirated = max(how["breath"], 0.01) * voicing[:, None] * np.abs(tract) * np.minimum(hertz / 1500, 1.5)
    sound = _overlap_add(
        _windows(pulse, steps) * (voiced * tilt) + _windows(hiss, steps) * (aspirated + 0.8 * noise[:, None] * band),
        samples,
    )
    edge = min(160, samples // 4)  # 10 ms, so that no turn starts with a click
    sound[:edge] *= np.linspace(0, 1, edge)
    sound[samples - edge :] *= np.linspace(1, 0, edge)
    sound *= 10 ** (how["level"] / 20) / np.sqrt(np.mean(sound**2) + 1e-12)
    sound = PEAK * np.tanh(sound / PEAK)
    return sound.astype(np.float32), np.stack([opening, lips], 1).astype(np.float32)


def _score(rng: np.random.Generator, steps: int, tempo: float) -> np.ndarray:
    """Write syllables onto `(9, steps)`: voicing, noise, its centre, opening, lips, accent, F1, F2, F3."""
    score = np.tile(np.array([0, 0, 2000, 0, 0, 0, 500, 1450, 2500.0])[:, None], steps)
    at = int(rng.integers(2, 5))
    spoken = 0
    while at < steps - 3:
        if spoken % 8 == 0:  # shuffled bags: even a short turn has its share of open and close sounds
            vowels, consonants = (rng.permutation(list(bag.values())) for bag in (_VOWELS, _CONSONANTS))
        length = max(int(RATE / HOP / tempo * rng.lognormal(0, 0.15)), 8)
        f1, f2, f3, opening, lips = vowels[spoken % len(vowels)]
        voicing, noise, centre, closed = consonants[spoken % len(consonants)]
        spoken += 1
        middle, end = at + max(int(0.32 * length), 3), min(at + length, steps - 2)
        stress = rng.normal(0, 0.6)
        score[:, at:middle] = np.array([voicing, noise, centre, closed, lips / 2, stress, f1, f2, f3])[:, None]
        score[:, middle:end] = np.array([1 + 0.2 * stress, 0, centre, opening, lips, stress, f1, f2, f3])[:, None]
        at = end + (int(rng.integers(10, 22)) if rng.random() < 0.5 / tempo else 0)  # slow speech pauses more
    score = gaussian_filter1d(score, 1.6, axis=1)  # coarticulation: nothing in a mouth moves in steps
    return np.maximum(score, np.array([0, 0, 300, 0, -1, -9, 150, 150, 150.0])[:, None])


def _tract(hertz: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Return the complex response `(steps, bins)` of three moving `(3, steps)` and one fixed resonance."""
    last = np.full(formants.shape[1], 3600.0) * formants[2].mean() / 2550
    response = 1.0
    for formant, width in zip([*formants, last], (80, 110, 160, 240), strict=True):
        pole = formant[:, None]
        response = response * (pole**2 / (pole**2 - hertz**2 + 1j * width * hertz))
    return response / np.maximum(np.abs(response[:, 1:40]).max(1, keepdims=True), 1)


def _windows(source: np.ndarray, steps: int) -> np.ndarray:
    padded = np.pad(source, (WINDOW // 2, WINDOW + HOP))
    cut = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:steps]
    return np.fft.rfft(cut * np.hanning(WINDOW + 1)[:-1], FFT)


def _overlap_add(spectra: np.ndarray, samples: int) -> np.ndarray:
    frames = np.fft.irfft(spectra, FFT).reshape(len(spectra), FFT // HOP, HOP) / 2  # four Hann windows sum to 2
    out = np.zeros((len(spectra) + FFT // HOP, HOP))
    for block in range(FFT // HOP):
        out[block : block + len(spectra)] += frames[:, block]
    return out.ravel()[WINDOW // 2 : WINDOW // 2 + samples]
