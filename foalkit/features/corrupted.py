"""Features of damaged recordings, made on the fly: decoded as for training, damaged, through the params' own encoder.

Nothing is stored. A face is looked for, and cut out, before the picture is damaged: what is measured is what the
encoder and the network make of the damage, not what the face detector does.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from foalkit import devices
from foalkit.features import corruptions, media
from foalkit.features.reader import Reader, whole_box
from foalkit.features.reasons import Reason, or_reason
from foalkit.files import digest, file_digest
from foalkit.params import Params
from foalkit.params.robustness import Condition

Made = dict[Condition, np.ndarray | Reason]  # features as they would be stored, or why there are none


class CorruptedReader(Reader):
    """A stream's reader that damages what it decodes."""

    def __init__(self, params: Params, stream: str, root: Path):
        super().__init__(params, stream, root, {})
        self.seed = params.robustness.seed
        self.conditions = [c for c in params.robustness.conditions if c.of == self.kind]

    def all_of(self, rows: list[dict], pool: ThreadPoolExecutor) -> dict[str, Made]:
        """Each row's features under each condition, by utterance; a recording is decoded once.

        Of a row that cannot be read every condition has the reason instead.
        """

        def work(row: dict) -> Made | np.ndarray | Reason:
            clip = or_reason(self.name(row), self.load, row)
            return clip if self.large or isinstance(clip, Reason) else self.made(row, clip)

        found = {}
        for row, result in zip(rows, pool.map(work, rows), strict=True):
            if isinstance(result, Reason):
                result = dict.fromkeys(self.conditions, result)
            elif self.large:
                result = self.made(row, result)
            found[row["utterance"]] = result
        return found

    def made(self, row: dict, clip: np.ndarray) -> Made:
        """The features of what `load` gave of the row, under each condition."""
        return {c: or_reason(self.name(row), self._encoded, row, clip, c) for c in self.conditions}

    def _encoded(self, row: dict, clip: np.ndarray, condition: Condition) -> np.ndarray:
        return self.encode(row, self.damaged(row, clip, condition))

    def damaged(self, row: dict, clip: np.ndarray, condition: Condition) -> np.ndarray:
        """What `load` gave of the row, under a condition; what is drawn depends on seed, utterance and condition."""
        kind, level = condition.kind, condition.level
        rng = np.random.default_rng(int(digest([self.seed, row["utterance"], kind, level]), 16))
        rate = getattr(self.encoder, "rate", media.SAMPLE_RATE)
        if kind == "noise_db":
            return corruptions.noise(clip, level, rng)
        if kind == "gaps":
            return corruptions.gaps(clip, level, rng, rate=rate)
        if kind == "late":
            start, end = self._range(row)
            used = np.inf if np.isinf(end) else round((end - start) * rate)
            return corruptions.late(clip, level, rate=rate)[: int(min(used, 1 << 62))]
        if kind == "blur":
            return corruptions.blur(clip, level)
        if kind == "darkness":
            return corruptions.darken(clip, level)
        if kind == "dropped":
            return corruptions.drop(clip, level, rng)
        return corruptions.cover(clip, self._faces_in(row, len(clip)))

    def _faces_in(self, row: dict, count: int) -> np.ndarray:
        """The face's box in each of the `count` pictures that `load` gives `(T, 4)`, in their pixels."""
        size = self.encoder.size
        if self._looks_for_face(row):  # the picture is the face's box
            return np.tile([0, 0, size, size], (count, 1))
        if row["face"] is not None:
            faces, shown = np.tile(np.asarray(row["face"]), (count, 1)), self._shown(row)
        else:
            faces, found = self.detected(row)
            if not found.any():
                raise media.MediaError(f"{row['utterance']}: no face found to cover")
            faces = faces[:: self._every]
            faces = faces[self._pick(len(faces))] if self._pick else faces
            height, width = self._first(row, crop=whole_box(row["crop"])).shape[:2]
            shown = 0, 0, width, height  # boxes are within the crop
        x, y, width, height = shown
        return (faces - [x, y, 0, 0]) * [size / width, size / height, size / width, size / height]

    def _face_key(self, row: dict) -> str:
        if row["video"] not in self.digests:
            self.digests[row["video"]] = file_digest(self.root / row["video"])
        return super()._face_key(row)

    def _shown(self, row: dict) -> media.Box:
        """The part of the video's picture that `load` gives, in its pixels."""
        box = whole_box(row[self._column])
        if box is not None:
            return media.square(box) if self.spec.region == "face" else box
        height, width = self._first(row, as_stored=True).shape[:2]  # as given boxes are
        return 0, 0, width, height

    def _first(self, row: dict, **how) -> np.ndarray:
        return next(media.iter_frames(self.root / row["video"], *self._range(row), **how))


def threads(readers: Iterable[Reader]) -> ThreadPoolExecutor:
    """A thread for each core; their matrix products do not share cores unless a large model runs beside them."""
    light = [reader for reader in readers if not reader.large]
    return ThreadPoolExecutor(devices.cores(), initializer=light[0].one_thread_each if light else None)
