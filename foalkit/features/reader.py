"""From a manifest row to features: which file, range and region, through which encoder."""

from pathlib import Path

import numpy as np

from foalkit.features import media
from foalkit.features.container import picture_remarks
from foalkit.features.encoders import broken, make_encoder
from foalkit.features.reasons import Reason, or_reason
from foalkit.features.store import FULL_SCALE
from foalkit.features.times import used_part
from foalkit.files import digest, whole
from foalkit.params import Params

OTHER_LENGTH, SHORTEST_DIFFERENCE = 0.25, 0.25  # share of a turn's length, and seconds, that its sound may differ by
FILE = {"sound": "audio", "picture": "video"}  # the manifest's column of each kind's file


class Reader:
    """From a manifest row to features: which file, range and region, through which encoder."""

    def __init__(self, params: Params, stream: str, root: Path, digests: dict[str, str]):
        self.root, self.spec, self.clip = root, params.features[stream], params.clip
        self.kind = self.spec.kind
        self.encoder = make_encoder(self.spec, params.weights_folder, f"features.{stream}")
        self.digests = digests  # of the media files
        self.found: dict[str, float] = {}  # by utterance, as FeatureStore's
        self.notes: dict[str, str] = {}
        self.boxes: dict[str, str] = {}  # by utterance, the key of its face's boxes
        self.boxes_folder = params.features_folder / "face_boxes"
        self.width, self.identity = self.encoder.width, self.encoder.identity
        self.dtype = getattr(self.encoder, "stored_as", "float16")
        # a light encoder runs on each core; a large model has all of them, or a GPU, and is handed decoded clips
        self.large = getattr(self.spec, "model", "small") != "small"
        if getattr(self.spec, "region", None) == "face":
            try:
                import foalkit.features.faces  # noqa: F401 (dlib is known to load before a recording is read)
            except ImportError as error:
                raise broken(error, f"features.{stream}", self.spec) from error

    def key(self, row: dict) -> str:
        """A digest of all that the row's features depend on."""
        parts = {"encoder": self.identity, "dtype": self.dtype}
        if self.kind == "numbers":
            return digest({**parts, "file": or_reason(self.name(row), self.encoder.digest, row)})
        file = row[FILE[self.kind]]  # none: left out when it is read
        parts |= {"media": self.digests.get(file), "decoder": media.DECODER, "range": self._range(row)}
        if self.kind == "picture":
            parts |= {"region": self.spec.region, "every": self._every}
            looked_for = self._looks_for_face(row)
            parts |= {"face": self._face_key(row)} if looked_for else {"box": whole_box(row[self._column])}
        return digest(parts)

    def _face_key(self, row: dict) -> str:
        """A digest of all that the row's detected faces depend on."""
        from foalkit.features import faces

        parts = {"media": self.digests.get(row["video"]), "range": self._range(row), "crop": whole_box(row["crop"])}
        return digest({**parts, "decoder": media.DECODER, **faces.IDENTITY})

    def name(self, row: dict) -> str:
        """The name of the file that the row's features are made from, the utterance where it has none."""
        file = self.encoder.file(row) if self.kind == "numbers" else Path(row[FILE[self.kind]])
        return file.name or row["utterance"]

    def __call__(self, row: dict) -> np.ndarray:
        """One row's features as they are stored; raises UserError for what cannot be read."""
        return self.encode(row, self.load(row))

    def encode(self, row: dict, clip: np.ndarray) -> np.ndarray:
        """Features as they are stored, of what `load` gave of the row."""
        return self._packed(clip if self.kind == "numbers" else self.encoder(clip), row)

    def load(self, row: dict) -> np.ndarray:
        """One row's samples, frames or imported features; raises UserError for what cannot be read."""
        if self.kind == "numbers":
            return self.encoder.read(row)
        if not row[FILE[self.kind]]:
            raise media.MediaError(f"{row['utterance']}: has no {FILE[self.kind]} file")
        if isinstance(known := self.digests.get(row[FILE[self.kind]]), Reason):
            raise media.MediaError(known)
        file = self.root / row[FILE[self.kind]]
        start, end = self._range(row)
        if self.kind == "sound":
            rate = getattr(self.encoder, "rate", media.SAMPLE_RATE)
            clip = media.read_audio(file, start, end, rate=rate)
            notes = [getattr(self.encoder, "note", lambda _: None)(clip)]
            own, of_several = media.sound_track(file)
            if own < rate:
                notes.append(f"recorded at {own} Hz, raised to {rate} Hz: above {own // 2} Hz it holds nothing")
            notes += [of_several, self._length_note(row, file)]
        else:
            read = self._faces if self._looks_for_face(row) else self._pictures
            clip, notes = read(row, file, start, end), self._picture_notes(file)
        if said := "; ".join(filter(None, notes)):
            self.notes[row["utterance"]] = f"{file.name}: {said}"
        return clip

    def _picture_notes(self, file: Path) -> list[str]:
        """What must be known of how a film's picture is read."""
        return picture_remarks(file)

    def _length_note(self, row: dict, file: Path) -> str | None:
        """What must be known of a turn's own sound file that does not last as long as its label says."""
        labelled, lasts = row["end"] - row["start"], media.sound_seconds(file)
        if not row["video"] or row["video"] == row["audio"] or "audio_from" in row or lasts is None:
            return None
        if abs(lasts - labelled) > max(OTHER_LENGTH * labelled, SHORTEST_DIFFERENCE):  # never, where no end is known
            return f"lasts {lasts:.2f} s, its label or film {labelled:.2f} s: are both of the same turn?"
        return None

    @property
    def _every(self) -> int:
        return getattr(self.spec, "every", 1)

    @property
    def _pick(self):
        """The encoder's own choice among a clip's frames, None where it has none."""
        return getattr(self.encoder, "pick", None)

    def _looks_for_face(self, row: dict) -> bool:
        """Whether the face must be looked for: the manifest does not say where it is."""
        return self.spec.region == "face" and row["face"] is None

    def _pictures(self, row: dict, file: Path, start: float, end: float) -> np.ndarray:
        """The part of each frame that the manifest says, `(T, size, size, 3)`."""
        box = whole_box(row[self._column])
        if self.spec.region == "face":
            box = media.square(box)
        clip = media.read_frames(file, start, end, crop=box, size=self.encoder.size, every=self._every)
        return clip[self._pick(len(clip))] if self._pick else clip

    def _faces(self, row: dict, file: Path, start: float, end: float) -> np.ndarray:
        """The detected face in each frame, `(T, size, size, 3)`; the boxes are kept for other streams of faces."""
        from foalkit.features import faces

        crop = whole_box(row["crop"])
        boxes, found = self.detected(row)
        if not found.any():
            raise media.MediaError(f"{file.name}: no face found in any of its {len(found)} frames")
        self.found[row["utterance"]] = float(found.mean())
        boxes = boxes[:: self._every]
        wanted = self._pick(len(boxes)) if self._pick else np.arange(len(boxes))
        pictures = media.iter_frames(file, start, end, crop=crop, every=self._every)
        cuts = {
            i: faces.cut(p, box, self.encoder.size)
            for i, (p, box) in enumerate(zip(pictures, boxes, strict=True))
            if i in wanted
        }
        return np.stack([cuts[i] for i in wanted])

    def detected(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        """The detected face's boxes `(T, 4)` within the row's crop, in pixels, and where one was found `(T,)`."""
        key = self._face_key(row)
        self.boxes[row["utterance"]] = key
        kept = self.boxes_folder / f"{key}.npy"
        try:
            boxes, found = np.split(np.load(kept), [4], axis=1)
        except (OSError, ValueError, EOFError):  # not there, or not whole
            boxes, found = self._tracked(row)
            with whole(kept) as part, part.open("wb") as handle:
                np.save(handle, np.column_stack([boxes, found]))
        return boxes, found

    def _tracked(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        from foalkit.features import faces

        start, end = self._range(row)
        return faces.track(media.iter_frames(self.root / row["video"], start, end, crop=whole_box(row["crop"])))

    def _range(self, row: dict) -> tuple[float, float]:
        """The same moment in both files, which need not begin with the utterance."""
        start, end = used_part(self.spec, self.clip, row["end"] - row["start"])
        if self.kind == "sound":
            if (begins := row.get("audio_from")) is None:  # the file is this utterance alone
                return start, end
            return begins + start, begins + min(end, row["end"] - row["start"])
        return row["start"] + start, min(row["end"], row["start"] + end)

    def one_thread_each(self) -> None:
        """Called in each worker thread, so that the workers' matrix products do not share out the same cores."""
        if hasattr(self.encoder, "model"):  # a network of PyTorch's
            import torch

            torch.set_num_threads(1)

    def _packed(self, features: np.ndarray, row: dict) -> np.ndarray:
        """Features as they are stored; raises MediaError for those that fp16 cannot hold."""
        if self.dtype == "uint8":
            return features
        if self.dtype == "float16":
            with np.errstate(over="ignore"):  # what fp16 cannot hold becomes infinite, and is refused
                features = features.astype(np.float16)
        if not np.isfinite(features).all():
            kept = {"float16": "fp16", "int16": "16-bit samples"}[self.dtype]
            raise media.MediaError(f"{self.name(row)}: its features hold NaN or infinity in {kept}")
        if self.dtype == "int16":
            return np.rint(features * FULL_SCALE).clip(-32767, 32767).astype(np.int16)
        return features

    @property
    def _column(self) -> str:
        return "face" if self.spec.region == "face" else "crop"


def whole_box(box) -> media.Box | None:
    """A manifest row's box in whole pixels; None where it has none."""
    return None if box is None else tuple(map(int, box))
