"""The feature store: one packed array per stream and a Parquet index, built once, read without copying."""

import fcntl
import json
import multiprocessing
import os
import threading
import time
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd

from foalkit import UserError
from foalkit.data import media
from foalkit.data.manifest import corpus_root, read_manifest
from foalkit.params import Clip, Params, digest
from foalkit.progress import progress
from foalkit.records import file_digest, write_json, write_parquet

TO_SORT = 64  # clips of sound that are sorted by length into batches; so many turns at most share frames
AHEAD = 32  # groups decoded ahead of the model at most: a clip of 180 frames at 224 pixels is 27 MB
IN_MEMORY_BYTES = 4 << 30  # a store below this is read at once, in order: faster than a cold map
# the packed array by its dtype
FILES = {"float16": "features.f16", "int16": "features.i16", "uint8": "features.u8"}
FULL_SCALE = 32768  # int16 of a sample at 1.0


class FeatureStore:
    """Features of all utterances of one stream: `store[utterance]` is a float16 `(T, D)` view.

    A store of waveforms holds int16 `(S, 1)`: samples times 32 768; one of pictures uint8 `(T, size² · 3)`. `found`
    says, where faces were looked for, in which share of an utterance's frames one was found; `notes` what was filled
    up; `seconds` how long the build's last run took: `decode` (with crop and resize), `preprocess` (faces), `model`
    and `write`, each added up over its threads, and `total` by the clock.
    """

    def __init__(self, folder: Path):
        try:
            self.info = json.loads((folder / "store.json").read_text())
            index = pd.read_parquet(folder / "index.parquet")
        except (OSError, ValueError) as error:  # ValueError: broken JSON or Parquet
            raise UserError(f"{folder}: damaged ({type(error).__name__}); delete it to rebuild it") from None
        self.width, self.digest = self.info["width"], self.info["digest"]
        self.dtype = self.info.get("dtype", "float16")
        self.lengths = dict(zip(index["utterance"], index["frames"].tolist(), strict=True))
        self._offsets = dict(zip(index["utterance"], index["offset"].tolist(), strict=True))
        self._keys = dict(zip(index["utterance"], index["key"], strict=True))
        looked = index.dropna(subset="found") if "found" in index else index[:0].assign(found=0.0)
        self.found = dict(zip(looked["utterance"], looked["found"].tolist(), strict=True))
        noted = index[index["note"].notna()] if "note" in index else index[:0].assign(note="")
        self.notes = dict(zip(noted["utterance"], noted["note"], strict=True))
        file, shape = folder / FILES[self.dtype], (int(index["frames"].sum()), self.width)
        size = np.dtype(self.dtype).itemsize * shape[0] * shape[1]
        if not file.exists() or file.stat().st_size != size:
            raise UserError(f"{folder}: {file.name} and its index disagree; delete it to rebuild it")
        seconds = folder / "seconds.json"
        self.seconds = json.loads(seconds.read_text()) if seconds.exists() else {}
        self._on: dict = {}  # device → the packed array there
        small = size < IN_MEMORY_BYTES
        if not small:  # PyTorch warns of a read-only map; nothing here writes to what is stored
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self.packed = (
            np.fromfile(file, self.dtype).reshape(shape)
            if small
            else np.memmap(file, self.dtype, "r", shape=shape)
        )

    def __getitem__(self, utterance: str) -> np.ndarray:
        offset = self._offsets[utterance]
        return self.packed[offset : offset + self.lengths[utterance]]

    def gather(self, utterances) -> tuple[np.ndarray, np.ndarray]:
        """The utterances' frames one after the other, as stored `(N, D)`, and how many each has `(B,)`: no padding."""
        return np.concatenate([self[u] for u in utterances]), np.array([self.lengths[u] for u in utterances])

    def tensors(self, utterances, device="cpu"):
        """`batch` as tensors on a device; on a GPU the whole store stays there where it fills less than half of it."""
        import torch

        packed = self._resident(torch.device(device))
        if packed is None:
            return tuple(torch.from_numpy(x).to(device, non_blocking=True) for x in self.batch(utterances))
        first = torch.tensor([self._offsets[u] for u in utterances]).to(packed.device)[:, None]
        lengths = torch.tensor([self.lengths[u] for u in utterances])
        at = torch.arange(int(lengths.max()), device=packed.device)
        mask = at < lengths.to(packed.device)[:, None]
        x = packed[(first + at).where(mask, 0)]  # (B, T, D)
        if self.dtype != "uint8":
            x = x.float()
        if self.dtype == "int16":
            x /= FULL_SCALE
        return x.masked_fill_(~mask[..., None], 0), mask

    def _resident(self, device):
        import torch

        if device.type == "cpu":
            return None
        if device not in self._on:
            fits = self.packed.nbytes < torch.cuda.mem_get_info(device)[0] / 2
            self._on[device] = torch.from_numpy(np.asarray(self.packed)).to(device) if fits else None
        return self._on[device]

    def batch(self, utterances) -> tuple[np.ndarray, np.ndarray]:
        """Padded float32 `(B, T, D)` and its mask `(B, T)`, True where a frame is real; samples in [-1, 1].

        Pictures stay uint8.
        """
        import torch

        lengths = np.array([self.lengths[u] for u in utterances])
        kind = np.uint8 if self.dtype == "uint8" else np.float32
        # NumPy asks for huge pages, so that zeros cost little; PyTorch converts float16 several times as fast
        x = np.zeros((len(lengths), lengths.max(), self.width), kind)
        filled = torch.from_numpy(x)
        for i, utterance in enumerate(utterances):
            filled[i, : lengths[i]] = torch.from_numpy(self[utterance])
        if self.dtype == "int16":
            x /= FULL_SCALE
        return x, np.arange(x.shape[1]) < lengths[:, None]

    def key(self, utterance: str) -> str | None:
        """What the stored features were made from (a digest), or None for an unknown utterance."""
        return self._keys.get(utterance)


@dataclass(frozen=True)
class Data:
    """A params file's usable utterances and their features: what training reads."""

    table: pd.DataFrame  # the manifest, less what had to be left out
    left_out: pd.DataFrame  # utterance, reason
    stores: dict[str, FeatureStore]
    info: dict  # preprocess.json: digests, counts, ceilings
    classes: list[str]

    def labels(self, utterances) -> np.ndarray:
        """Class numbers `(N,)` in the order of the params' classes."""
        emotion = self.table.set_index("utterance")["emotion"].loc[list(utterances)]
        return emotion.map({c: i for i, c in enumerate(self.classes)}).to_numpy(np.int64)


def open_data(params: Params, streams=None) -> Data:
    """Manifest and features of a params file, prepared now if they are not there or their params changed.

    `streams` limits what is loaded into memory, not what is prepared.
    """
    folder = params.folder
    try:
        info = json.loads((folder / "preprocess.json").read_text())
        fresh = info["params_digest"] == params.data_digest and all(
            (folder / "features" / s / "store.json").exists() for s in params.features
        )
    except FileNotFoundError:
        fresh = False
    if not fresh:
        return prepare(params)
    names = params.features if streams is None else streams
    return Data(
        pd.read_parquet(folder / "manifest.parquet"),
        pd.read_parquet(folder / "left_out.parquet"),
        {s: FeatureStore(folder / "features" / s) for s in names},
        info,
        params.corpus.classes,
    )


def prepare(params: Params) -> Data:
    """Read the corpus, build every stream's features (only where a key changed) and write preprocess.json last.

    A bad utterance is listed with its reason and left out of all streams, so that every variant is tested on
    the same utterances.
    """
    folder = params.folder
    with _lock(folder / "features"):
        root = corpus_root(params.corpus)
        table, left_out = read_manifest(params.corpus)
        stores, bad = {}, {}
        digests = _media_digests(root, table, folder / "features" / "media_digests.parquet", params)
        for stream in params.features:
            stores[stream], failed = build(params, stream, table, root, digests)
            for utterance, reason in failed.items():
                bad.setdefault(utterance, f"{stream}: {reason}")
        table = table[~table["utterance"].isin(bad)].reset_index(drop=True)
        if table.empty:
            raise UserError(f"{root}: no utterance is left; the first reason: {next(iter(bad.values()))}")
        left_out = pd.concat(
            [left_out, pd.DataFrame(sorted(bad.items()), columns=["utterance", "reason"])], ignore_index=True
        )
        card = root / "card.json"
        info = {
            "params_digest": params.data_digest,
            "manifest_digest": digest(table.to_dict("list")),
            "utterances": len(table),
            "left_out": len(left_out),
            "counts": table["emotion"]
            .value_counts()
            .reindex(params.corpus.classes)
            .fillna(0)
            .astype(int)
            .to_dict(),
            "clip": params.clip.model_dump(),
            "longer_than_clip": _longer_than_clip(table, params.clip),
            "features": {s: stores[s].info for s in stores},
            "ceilings": json.loads(card.read_text()).get("ceilings") if card.exists() else None,
        }
        write_parquet(folder / "manifest.parquet", table)
        write_parquet(folder / "left_out.parquet", left_out)
        write_json(folder / "preprocess.json", info)
    return Data(table, left_out, stores, info, params.corpus.classes)


def build(params: Params, stream: str, table: pd.DataFrame, root: Path, digests: dict[str, str]):
    """Build or update one stream's store; returns it and {utterance: reason} for what could not be read.

    Rows whose key is unchanged are copied from the store that is there. The new store is written beside it,
    logged utterance by utterance so that a killed run resumes, and renamed into place when whole. On a CPU a clip's
    features depend on its group alone (`_Reader.groups`, of the whole table), not on what had to be made anew.
    """
    began = time.monotonic()
    folder = params.folder / "features" / stream
    reader = _Reader(params, stream, root, digests)
    keys = {row["utterance"]: reader.key(row) for row in table.to_dict("records")}
    old = FeatureStore(folder) if (folder / "store.json").exists() else None
    if (
        old
        and set(old.lengths) | set(old.info["failed"]) == set(keys)
        and all(old.key(u) == keys[u] for u in old.lengths)
        and old.info["failed_keys"] == {u: keys[u] for u in old.info["failed"]}
    ):
        return old, old.info["failed"]

    partial = folder.with_name(f"{stream}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    packed = partial / FILES[reader.dtype]
    frame_bytes = np.dtype(reader.dtype).itemsize * reader.width
    done = _resume(partial / "log.jsonl", packed, keys, frame_bytes)
    groups = reader.groups(table.to_dict("records"))
    count = len(table) - len(done)
    with packed.open("ab") as data, (partial / "log.jsonl").open("a") as log:
        offset = data.tell() // frame_bytes
        results = _results(reader, groups, done, old, keys)
        for row, result in progress(results, f"features of {stream}", count):
            start = time.monotonic()
            entry = {"utterance": row["utterance"], "key": keys[row["utterance"]]}
            if isinstance(result, str):
                entry["failed"] = result
            else:
                data.write(result.tobytes())
                data.flush()
                entry |= {"offset": offset, "frames": len(result), **_said(row, reader, old, keys)}
                offset += len(result)
            log.write(json.dumps(entry) + "\n")
            log.flush()
            done[row["utterance"]] = entry
            reader.seconds["write"] += time.monotonic() - start
    entries = [done[u] for u in keys]  # table order
    good = pd.DataFrame(
        [e for e in entries if "failed" not in e],
        columns=["utterance", "offset", "frames", "key", "found", "note"],
    ).astype({"found": float, "note": "str"})  # NaN: no face was looked for, nothing to note
    failed = {e["utterance"]: e["failed"] for e in entries if "failed" in e}
    if good.empty and failed:
        raise UserError(
            f"{stream}: no utterance could be read; the first reason: {next(iter(failed.values()))}"
        )
    write_parquet(partial / "index.parquet", good)
    write_json(
        partial / "store.json",
        {
            "width": reader.width,
            "dtype": reader.dtype,
            "encoder": reader.identity,
            "frames": int(good["frames"].sum()),
            "digest": digest(dict(zip(good["utterance"], good["key"], strict=True))),
            "found_rate": _found_rate(good["found"].dropna()),
            "noted": int(good["note"].notna().sum()),
            "failed": failed,
            "failed_keys": {u: keys[u] for u in failed},
        },
    )
    # beside store.json, which is the same for the same features
    reader.seconds["total"] = time.monotonic() - began
    write_json(partial / "seconds.json", {part: round(s, 3) for part, s in reader.seconds.items()})
    if folder.exists():
        (folder / "store.json").unlink(missing_ok=True)  # from here on the old store does not count
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    partial.rename(folder)
    (folder / "log.jsonl").unlink()  # last: killed before, the next build finds all its work done
    return FeatureStore(folder), failed


def try_encoders(params: Params, specs: dict, row: dict, root: Path) -> pd.DataFrame:
    """Frames and width that each encoder spec gives for one manifest row: a look before a long extraction."""
    digests = {row[m]: file_digest(root / row[m]) for m in ("audio", "video") if row[m]}
    tried = {}
    for name, spec in specs.items():
        reader = _Reader(params.model_copy(update={"features": {name: spec}}), name, root, digests)
        tried[name] = reader(row).shape
    return pd.DataFrame(tried, index=["frames", "width"]).T


class _Reader:
    """From a manifest row to features: which file, range and region, through which encoder."""

    def __init__(self, params: Params, stream: str, root: Path, digests: dict[str, str]):
        from foalkit.data.encoders import ImportedFeatures, make_encoder

        self.root, self.spec, self.clip = root, params.features[stream], params.clip
        if self.spec.encoder == "imported":
            self.encoder = ImportedFeatures(self.spec)
        else:
            self.encoder = make_encoder(self.spec, params.folder / "weights")
        self.digests = digests  # of the media files
        self.found: dict[str, float] = {}  # by utterance, as FeatureStore's
        self.notes: dict[str, str] = {}
        self.boxes = params.folder / "features" / "face_boxes"
        self.width, self.identity = self.encoder.width, self.encoder.identity
        self.dtype = {"waveform": "int16", "frames": "uint8"}.get(self.spec.encoder, "float16")
        # a light encoder runs on each core; a large model has all of them, or a GPU, and is handed decoded clips
        self.large = getattr(self.spec, "model", "small") != "small"
        self.seconds = {"decode": 0.0, "preprocess": 0.0, "model": 0.0, "write": 0.0}
        self._clock = threading.Lock()

    def groups(self, rows: list[dict]) -> list[list[dict]]:
        """Rows that go through the encoder together, in order: overlapping turns that show one part of one film.

        For sound, as many as its batches are sorted from.
        """
        if getattr(self.encoder, "together", 1) > 1:
            return [rows[first : first + TO_SORT] for first in range(0, len(rows), TO_SORT)]
        groups, until, last = [], 0.0, None
        for row in rows:
            start, end = self._range(row)
            shown = (row["video"], _ints(row["crop"]), _ints(row["face"])) if self._shares else None
            if shown is None or shown != last or start >= until or len(groups[-1]) == TO_SORT:
                groups.append([])
                until = end
            groups[-1].append(row)
            until, last = max(until, end), shown
        return groups

    @property
    def _shares(self) -> bool:
        return self.encoder.modality == "video" and hasattr(self.encoder, "many")

    @contextmanager
    def _timed(self, part: str):
        start = time.monotonic()
        yield
        with self._clock:
            self.seconds[part] += time.monotonic() - start

    def key(self, row: dict) -> str:
        """A digest of all that the row's features depend on."""
        parts = {"encoder": self.identity, "dtype": self.dtype}
        if self.encoder.modality == "imported":
            file = self.encoder.file(row)
            return digest({**parts, "file": file_digest(file) if file.exists() else None})
        file = row[self.encoder.modality]  # none: left out when it is read
        parts |= {"media": self.digests.get(file), "decoder": media.DECODER, "range": self._range(row)}
        if self.encoder.modality == "video":
            parts |= {"region": self.spec.region, "every": self._every}
            parts |= (
                {"face": self._face_key(row)}
                if self._looks_for_face(row)
                else {"box": _ints(row[self._column])}
            )
        return digest(parts)

    def _face_key(self, row: dict) -> str:
        """A digest of all that the row's detected faces depend on."""
        from foalkit.data import faces

        parts = {
            "media": self.digests.get(row["video"]),
            "range": self._range(row),
            "crop": _ints(row["crop"]),
        }
        return digest({**parts, "decoder": media.DECODER, **faces.IDENTITY})

    def __call__(self, row: dict) -> np.ndarray:
        """One row's features as they are stored; raises UserError for what cannot be read."""
        return self.encode([row], [self.load(row)])[0]

    def encode(self, rows: list[dict], clips: list[np.ndarray]) -> list[np.ndarray]:
        """Features as they are stored, of the clips that `load` gave."""
        with self._timed("model"):
            if self.encoder.modality == "imported":
                made = clips
            elif hasattr(self.encoder, "many"):
                made = self.encoder.many(clips)
            else:
                made = [self.encoder(clip) for clip in clips]
        return [self._packed(features, row) for row, features in zip(rows, made, strict=True)]

    def load(self, row: dict) -> np.ndarray:
        """One row's samples, frames or imported features; raises UserError for what cannot be read."""
        modality = self.encoder.modality
        if modality == "imported":
            with self._timed("decode"):
                return self.encoder.read(row)
        if not row[modality]:
            raise media.MediaError(f"{row['utterance']}: has no {modality} file")
        file = self.root / row[modality]
        start, end = self._range(row)
        if modality == "audio":
            with self._timed("decode"):
                rate = getattr(self.encoder, "rate", media.SAMPLE_RATE)
                clip = media.read_audio(file, start, end, rate=rate)
            if note := getattr(self.encoder, "note", lambda _: None)(clip):
                self.notes[row["utterance"]] = f"{file.name}: {note}"
        elif self._looks_for_face(row):
            with self._timed("preprocess"):  # decoding along the way
                clip = self._faces(row, file, start, end)
        else:
            box = _ints(row[self._column])
            if self.spec.region == "face":
                box = square(box)
            with self._timed("decode"):
                size = self.encoder.size
                clip = media.read_frames(file, start, end, crop=box, size=size, every=self._every)
            if pick := self._pick:
                clip = clip[pick(len(clip))]
        return clip

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

    def _faces(self, row: dict, file: Path, start: float, end: float) -> np.ndarray:
        """The detected face in each frame, `(T, size, size, 3)`; the boxes are kept for other streams of faces."""
        from foalkit.data import faces

        crop = _ints(row["crop"])
        kept = self.boxes / f"{self._face_key(row)}.npy"
        if kept.exists():
            boxes, found = np.split(np.load(kept), [4], axis=1)
        else:
            boxes, found = faces.track(media.iter_frames(file, start, end, crop=crop))
            self.boxes.mkdir(parents=True, exist_ok=True)
            with kept.with_suffix(".tmp").open("wb") as handle:
                np.save(handle, np.column_stack([boxes, found]))
            os.replace(kept.with_suffix(".tmp"), kept)
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

    def _range(self, row: dict) -> tuple[float, float]:
        """The same moment in both files: an audio file begins with its utterance, a video file need not."""
        length = row["end"] - row["start"]
        start, end = self.clip.window(length)
        if self.spec.encoder == "mfcc" and self.spec.seconds is not None:  # it says itself which part
            start, end = self.spec.start, self.spec.start + self.spec.seconds
        if self.encoder.modality == "audio":
            return start, end
        return row["start"] + start, min(row["end"], row["start"] + end)

    def one_thread_each(self) -> None:
        """Called in each worker thread, so that the workers' matrix products do not share out the same cores."""
        if self.spec.encoder in {"wavlm", "clip", "expression"}:
            import torch

            torch.set_num_threads(1)

    def _packed(self, features: np.ndarray, row: dict) -> np.ndarray:
        """Features as they are stored; raises MediaError for those that fp16 cannot hold."""
        if self.dtype == "uint8":
            return features
        if self.dtype == "int16":
            return np.rint(features * FULL_SCALE).clip(-32767, 32767).astype(np.int16)
        with np.errstate(over="ignore"):  # what fp16 cannot hold becomes infinite, and is refused
            features = features.astype(np.float16)
        if not np.isfinite(features).all():
            imported = self.encoder.modality == "imported"
            file = self.encoder.file(row) if imported else Path(row[self.encoder.modality])
            raise media.MediaError(f"{file.name}: its features hold NaN or infinity in fp16")
        return features

    @property
    def _column(self) -> str:
        return "face" if self.spec.region == "face" else "crop"


def _ints(box) -> media.Box | None:
    return None if box is None else tuple(map(int, box))


def _said(row: dict, reader: _Reader, old: FeatureStore | None, keys: dict[str, str]) -> dict:
    """What is kept of a stored utterance beside its features: `found` and `note`, None where there is nothing."""
    utterance = row["utterance"]
    said = old if old is not None and old.key(utterance) == keys[utterance] else reader
    return {"found": said.found.get(utterance), "note": said.notes.get(utterance)}


def _found_rate(rates: pd.Series) -> dict | None:
    if rates.empty:
        return None
    return {"mean": rates.mean(), "min": rates.min(), "clips_under_half": int((rates < 0.5).sum())}


def square(box) -> media.Box:
    """The smallest square around a box with the same centre: resizing then keeps the face's proportions."""
    x, y, width, height = map(int, box)
    side = max(width, height)
    return max(0, x - (side - width) // 2), max(0, y - (side - height) // 2), side, side


def _results(reader: _Reader, groups: list[list[dict]], done, old: FeatureStore | None, keys: dict[str, str]):
    """Yield (row, features as stored or the reason why not) in order, for each row that is not `done`.

    Unchanged rows come straight from `old`. Threads decode ahead of a large model, which runs in this one; light
    encoders run in the threads: decoding, FFTs and matrix products release the interpreter's lock.
    """

    def same(row: dict) -> bool:
        return old is not None and old.key(row["utterance"]) == keys[row["utterance"]]

    def wanted(group: list[dict]) -> bool:
        return any(row["utterance"] not in done and not same(row) for row in group)

    def work(group: list[dict]) -> list:
        loaded = [_or_reason(reader.load, row) for row in group]
        return loaded if reader.large else _encoded(reader, group, loaded)

    needed = [wanted(group) for group in groups]
    workers = os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers, initializer=None if reader.large else reader.one_thread_each)
    try:
        made = _in_order(pool, work, list(compress(groups, needed)), ahead=min(4 * workers, AHEAD))
        for group, new in zip(groups, needed, strict=True):
            results = next(made) if new else [None] * len(group)
            if new and reader.large:
                results = _encoded(reader, group, results)
            for row, result in zip(group, results, strict=True):
                if row["utterance"] not in done:
                    yield row, old[row["utterance"]] if same(row) else result
    finally:
        pool.shutdown(cancel_futures=True)


def _encoded(reader: _Reader, rows: list[dict], loaded: list) -> list:
    """The features of a group's clips; reasons stay where they are."""
    good = [i for i, clip in enumerate(loaded) if not isinstance(clip, str)]
    try:
        made = reader.encode([rows[i] for i in good], [loaded[i] for i in good]) if good else []
    except UserError:  # one of them: the others are good without it
        made = [_or_reason(lambda i: reader.encode([rows[i]], [loaded[i]])[0], i) for i in good]
    for i, features in zip(good, made, strict=True):
        loaded[i] = features
    return loaded


def _or_reason(action, given):
    try:
        return action(given)
    except UserError as error:
        return str(error)


def _in_order(pool: ThreadPoolExecutor, action, items: list, ahead: int):
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(action, item))
        if len(waiting) > ahead:  # bounded: a slow disk must not pile up features in memory
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _resume(log: Path, data: Path, keys: dict[str, str], frame_bytes: int) -> dict[str, dict]:
    """What a killed run had finished; the data file is cut back to the last whole utterance."""
    entries = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break  # the line that was being written
    if any(keys.get(e["utterance"]) != e["key"] for e in entries):
        entries = []  # the params or the media changed in between: start over
    frames = sum(e.get("frames", 0) for e in entries)
    if not data.exists() or data.stat().st_size < frames * frame_bytes:
        entries, frames = [], 0
    data.touch()
    os.truncate(data, frames * frame_bytes)
    log.write_text("".join(json.dumps(e) + "\n" for e in entries))
    return {e["utterance"]: e for e in entries}


def _longer_than_clip(table: pd.DataFrame, clip: Clip) -> int:
    """How many utterances are cut."""
    return 0 if clip.part == "all" else int((table["end"] - table["start"] > clip.seconds).sum())


def _media_digests(root: Path, table: pd.DataFrame, cache: Path, params: Params) -> dict[str, str]:
    """SHA-256 per media file, remembered by size and time of change so that a corpus is hashed once."""
    wanted = {"audio", "video"} if any(s.encoder != "imported" for s in params.features.values()) else set()
    files = sorted({f for column in wanted for f in table[column].unique() if f})
    known = {}
    if cache.exists():
        known = {(r.file, r.size, r.changed): r.digest for r in pd.read_parquet(cache).itertuples()}
    rows = []
    for file in progress(files, "media digests"):
        stat = (root / file).stat()
        found = known.get((file, stat.st_size, stat.st_mtime_ns))
        rows.append((file, stat.st_size, stat.st_mtime_ns, found or file_digest(root / file)))
    write_parquet(cache, pd.DataFrame(rows, columns=["file", "size", "changed", "digest"]))
    return {file: value for file, _, _, value in rows}


@contextmanager
def _lock(folder: Path):
    """One preparation at a time per outputs folder; a second one waits, then finds the work done."""
    if multiprocessing.parent_process() is not None:  # a script's worker process, importing the script again
        raise UserError("a script that prepares data must do so under `if __name__ == '__main__':`")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
