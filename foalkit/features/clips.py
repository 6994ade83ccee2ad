"""Any media file, or a part of it, as an utterance: read as the corpus's reader reads one, without a manifest."""

import math
from pathlib import Path

import numpy as np

from foalkit import UserError
from foalkit.features import media
from foalkit.features.container import remarks
from foalkit.features.reader import Reader
from foalkit.features.times import used_part
from foalkit.params import Params

LONGEST = 30.0  # seconds used at once by a model that was trained on whole utterances: two hours would fill the memory
AHEAD = 600.0  # seconds of sound kept while a window goes over a film: a file's sound is decoded from its beginning
PIECE, QUIET = 0.02, 0.01  # seconds; a piece is silent below this share of the loudest one's level (40 dB less)
LOOKS = 8  # pictures in which a face is looked for, where no encoder does


def clip_row(
    file: Path,
    *,
    start: float = 0.0,
    end: float | None = None,
    crop: media.Box | None = None,
    face: media.Box | None = None,
    sound: Path | None = None,
) -> dict:
    """A manifest's row for a part of a media file, [start, end) seconds, with what it lacks (`without`) and `remarks`.

    `crop` and `face` are where speaker and face are in the picture (none: all of it; to be found). `sound` is another
    file with the sound of this part alone, as a corpus has it. Raises UserError for a file that holds no media, and for
    a part that is not in it.
    """
    file = file.absolute()
    if file.is_dir():
        raise UserError(f"{file.name} is a folder; give one file, or the folder to Recognizer.folder")
    without, length = {}, media.seconds(file)
    for name, look in {"audio": media.sample_rate, "video": media.first_frame}.items():
        try:
            look(sound.absolute() if sound and name == "audio" else file)
        except media.MediaError as error:
            without[name] = str(error)
    if not 0 <= start < min(length, math.inf if end is None else end):
        raise UserError(f"{file.name} lasts {length:.2f} s: there is nothing from {start} to {end or length} s in it")
    return {
        "utterance": file.name,
        "audio": "" if "audio" in without else str(sound.absolute() if sound else file),
        "video": "" if "video" in without else str(file),
        "start": start,
        "end": length if end is None else min(end, length),
        # a sound of its own begins with its part; an end that nobody asked for is the file's
        "sound_start": 0.0 if sound else start,
        "sound_end": math.inf if sound or end is None else end,
        "crop": crop,
        "face": face,
        "without": without,
        "remarks": remarks(file, sound is None),
        "length": length,
    }


def windows(row: dict, window: float, hop: float) -> list[dict]:
    """The row of each window of so many seconds, a hop apart, that fits into a row's part; at least one."""
    count = 1 + max(0, math.floor((row["end"] - row["start"] - window) / hop + 1e-6))
    rows = []
    for n in range(count):
        start = round(row["start"] + n * hop, 4)
        end = min(row["end"], round(start + window, 4))
        shift = row["sound_start"] - row["start"]
        rows.append({**row, "start": start, "end": end, "sound_start": start + shift, "sound_end": end + shift})
    return rows


class ClipReader(Reader):
    """A reader of `clip_row`s: sound and picture of one file have one clock, and no file stays behind.

    `levels` is what was heard, by utterance: the samples' level in pieces of 20 ms. `ahead` is how many seconds of
    sound are decoded at once.
    """

    def __init__(self, params: Params, stream: str, ahead: float = 0.0):
        super().__init__(params, stream, Path(), {})
        self.ahead, self._heard = ahead, (None, 0.0, np.zeros(0, np.float32))
        self.levels: dict[str, np.ndarray] = {}
        self._detected: tuple = (None, None)  # the last part that a face was looked for in, and its boxes

    def key(self, row: dict) -> str:
        raise NotImplementedError("features of a clip are not kept")

    def load(self, row: dict) -> np.ndarray:
        """One row's samples or frames; raises UserError for what cannot be read."""
        if self.kind != "sound":
            self.digests[row["video"]] = row["video"]  # one call's boxes: the file stays what it is
            return super().load(row)
        if not row["audio"]:
            raise media.MediaError(f"{row['utterance']}: has no sound")
        rate = getattr(self.encoder, "rate", media.SAMPLE_RATE)
        file, (start, end) = Path(row["audio"]), self._range(row)
        samples = self._samples(file, start, end, rate)
        self.levels[row["utterance"]] = levels(samples, rate)
        own = media.sample_rate(file)
        raised = f"recorded at {own} Hz: above {own // 2} Hz it holds nothing" if own < rate else None
        notes = [getattr(self.encoder, "note", lambda _: None)(samples), raised]
        self.notes[row["utterance"]] = "; ".join(filter(None, notes))
        return samples

    def detected(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        """As a corpus's reader, but the boxes stay in memory: a process that is killed leaves no folder behind."""
        asked = self._face_key(row)
        if self._detected[0] != asked:
            self._detected = asked, self._tracked(row)
        return self._detected[1]

    def _picture_notes(self, file: Path) -> list[str]:
        return []  # they are among the row's remarks: a window of a long film is not to open it once more

    def _samples(self, file: Path, start: float, end: float, rate: int) -> np.ndarray:
        if not self.ahead or math.isinf(end):
            return media.read_audio(file, start, end, rate=rate)
        of, begins, samples = self._heard
        if of != file or not begins <= start < end <= begins + len(samples) / rate:
            try:
                samples = media.read_audio(file, start, max(end, start + self.ahead), rate=rate)
                self._heard = file, start, samples
            except media.MediaError:  # somewhere ahead it cannot be read, or all of it is silent
                return media.read_audio(file, start, end, rate=rate)
            begins = start
        part = samples[round(start * rate) - round(begins * rate) : round(end * rate) - round(begins * rate)]
        if not part.any():
            raise media.MediaError(f"{file.name}: the sound is silent (all zeros)")
        return part

    def _range(self, row: dict) -> tuple[float, float]:
        if self.kind != "sound":
            return self.used(row)
        start, end = self._used_part(row)
        return row["sound_start"] + start, min(row["sound_end"], row["sound_start"] + end)

    def used(self, row: dict) -> tuple[float, float]:
        """From where to where the row's file is used, in its seconds."""
        start, end = self._used_part(row)
        return row["start"] + start, min(row["end"], row["start"] + end)

    def _used_part(self, row: dict) -> tuple[float, float]:
        start, end = used_part(self.spec, self.clip, row["end"] - row["start"])
        return start, start + LONGEST if math.isinf(end) else end


def levels(samples: np.ndarray, rate: int) -> np.ndarray:
    """The root mean square `(N,)` of samples `(S,)` in pieces of 20 ms, one piece at least."""
    size = round(PIECE * rate)
    whole = samples[: len(samples) // size * size] if len(samples) >= size else samples
    return np.sqrt(np.square(whole.reshape(-1, min(size, len(samples)))).mean(1))


def silence(level: np.ndarray) -> float:
    """The share of pieces that are at least 40 dB quieter than the loudest one."""
    return float((level < QUIET * level.max()).mean())


def faces_found(row: dict, start: float, end: float) -> float | None:
    """In which share of 8 pictures, spread evenly over [start, end) seconds of the row's file, a face is found.

    None where no picture can be read.
    """
    from foalkit.features import faces

    step = (end - start) / LOOKS
    found = []
    for n in range(LOOKS):
        at = start + n * step  # the first of them is there however short it is
        try:
            picture = next(media.iter_frames(Path(row["video"]), at, math.inf, crop=row["crop"]))
        except (media.MediaError, StopIteration):  # behind the last picture
            continue
        found.append(faces.detect(picture) is not None)
    return sum(found) / len(found) if found else None
