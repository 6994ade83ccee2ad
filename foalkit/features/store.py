"""The feature store: one packed array per stream and a Parquet index, built once, read without copying."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from foalkit import UserError
from foalkit.files import bytes_digest, digest, read_mapping, write_json, write_parquet

IN_MEMORY_BYTES = 4 << 30  # a store below this is read at once, in order: faster than a cold map
# the packed array by its dtype
FILES = {"float16": "features.f16", "int16": "features.i16", "uint8": "features.u8"}
FULL_SCALE = 32768  # int16 of a sample at 1.0


class FeatureStore:
    """Features of all utterances of one stream: `store[utterance]` is a float16 `(T, D)` view.

    A store of waveforms holds int16 `(S, 1)`: samples times 32 768; one of pictures uint8 `(T, size² · 3)`. `found`
    says, where faces were looked for, in which share of an utterance's frames one was found; `notes` what was filled
    up. `digest` is of the stored bytes, `digests` of each utterance's. In a batch an utterance that the store lacks has
    no frame: its mask is all False. Raises UserError for files that are not whole or
    not those that were written: for the index at once, for an utterance's bytes when it is read first (`verify` reads
    all). `mapped`: a small store too is not read before it is used.
    """

    def __init__(self, folder: Path, *, mapped: bool = False):
        self.folder = folder
        try:
            self.info = read_mapping(folder / "store.json")
            index = pd.read_parquet(folder / "index.parquet")
            self.width, self.digest, self.dtype = (self.info[k] for k in ("width", "digest", "dtype"))
            if self.digest != index_digest(index, self.width, self.dtype):
                raise ValueError("index.parquet is not the one that was written")
            self.lengths = _column(index, "frames")
            self._offsets, self._keys, self.digests = (_column(index, c) for c in ("offset", "key", "digest"))
            kept = (_column(index.dropna(subset=c), c) for c in ("found", "note", "boxes"))
            self.found, self.notes, self.boxes = kept
        except (OSError, ValueError, KeyError, TypeError) as error:  # ValueError: broken JSON or Parquet
            why = str(error).splitlines()[0] if isinstance(error, ValueError) and str(error) else type(error).__name__
            raise self._damaged(why) from None
        file, shape = folder / FILES[self.dtype], (int(index["frames"].sum()), self.width)
        size = np.dtype(self.dtype).itemsize * shape[0] * shape[1]
        if not file.exists() or file.stat().st_size != size:
            raise self._damaged(f"{file.name} and its index disagree")
        self._on: dict = {}  # device → the packed array there
        self._unread = set(self.lengths)  # their bytes have not been compared with the index yet
        self.in_memory = size < IN_MEMORY_BYTES and not (mapped and size)  # there is no map of nothing
        if not self.in_memory:  # PyTorch warns of a read-only map; nothing here writes to what is stored
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self.packed = (
            np.fromfile(file, self.dtype).reshape(shape)
            if self.in_memory
            else np.memmap(file, self.dtype, "r", shape=shape)
        )

    def __getitem__(self, utterance: str) -> np.ndarray:
        offset = self._offsets[utterance]
        features = self.packed[offset : offset + self.lengths[utterance]]
        if utterance in self._unread:
            if bytes_digest(np.ascontiguousarray(features)) != self.digests[utterance]:
                raise self._damaged(f"the bytes of {utterance} are not those that were written")
            self._unread.discard(utterance)
        return features

    def verify(self) -> None:
        """Compare every utterance's bytes with the digest they were written with; raises UserError for another."""
        for utterance in sorted(self._unread, key=self._offsets.get):
            self[utterance]

    def tensors(self, utterances, device="cpu"):
        """`batch` as tensors on a device; on a GPU the whole store stays there where it fills less than half of it."""
        import torch

        packed = self._resident(torch.device(device))
        if packed is None:
            return tuple(torch.from_numpy(x).to(device, non_blocking=True) for x in self.batch(utterances))
        first = torch.tensor([self._offsets.get(u, 0) for u in utterances]).to(packed.device)[:, None]
        lengths = torch.tensor([self.lengths.get(u, 0) for u in utterances])
        at = torch.arange(
            max(1, int(lengths.max())), device=packed.device
        )  # a network needs one frame, if a masked one
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
            if fits:
                self.verify()
            self._on[device] = torch.from_numpy(np.asarray(self.packed)).to(device) if fits else None
        return self._on[device]

    def batch(self, utterances) -> tuple[np.ndarray, np.ndarray]:
        """Padded float32 `(B, T, D)` and its mask `(B, T)`, True where a frame is real; samples in [-1, 1].

        Pictures stay uint8.
        """
        import torch

        lengths = np.array([self.lengths.get(u, 0) for u in utterances])
        kind = np.uint8 if self.dtype == "uint8" else np.float32
        # NumPy asks for huge pages, so that zeros cost little; PyTorch converts float16 several times as fast
        x = np.zeros((len(lengths), max(1, lengths.max()), self.width), kind)
        filled = torch.from_numpy(x)
        for i, utterance in enumerate(utterances):
            if lengths[i]:
                filled[i, : lengths[i]] = torch.from_numpy(self[utterance])
        if self.dtype == "int16":
            x /= FULL_SCALE
        return x, np.arange(x.shape[1]) < lengths[:, None]

    def key(self, utterance: str) -> str | None:
        """What the stored features were made from (a digest), or None for an unknown utterance."""
        return self._keys.get(utterance)

    def _damaged(self, why: str) -> UserError:
        return UserError(f"{self.folder}: damaged ({why}); delete the folder to build it again")


class InMemory(FeatureStore):
    """Features `(T, D)` by utterance that lie in no folder, with a store's `batch` and `tensors`."""

    def __init__(self, features: dict[str, np.ndarray], width: int, dtype: str):
        self.features, self.width, self.dtype = features, width, dtype
        self.lengths = {name: len(x) for name, x in features.items()}

    def __getitem__(self, utterance: str) -> np.ndarray:
        return self.features[utterance]

    def _resident(self, device):
        return None


def write_index(folder: Path, index: pd.DataFrame, width: int, dtype: str, **info) -> None:
    """Write what stands beside a packed array, store.json last: the index, a row per utterance, and `info`."""
    write_parquet(folder / "index.parquet", index)
    about = {"width": width, "dtype": dtype, "digest": index_digest(index, width, dtype)}
    write_json(folder / "store.json", about | info)


def index_digest(index: pd.DataFrame, width: int, dtype: str) -> str:
    """A store's digest: of every utterance's bytes, by name, and how they are to be read."""
    rows = zip(index["utterance"], index["frames"].tolist(), index["digest"], strict=True)
    return digest([width, dtype, sorted(rows)])


def _column(index: pd.DataFrame, name: str) -> dict:
    return dict(zip(index["utterance"], index[name].tolist(), strict=True))
