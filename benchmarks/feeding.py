"""A batch of 64 clips, both streams, from the packed fp16 store against one fp32 .npy per utterance plus padding.

Run as `python -m benchmarks.feeding`. Plain is what the published set-up amounts to: load each file, fill it up to 6 s,
stack, mask. Ours hands over the real frames one after the other, as stored. Both are bit-equal once unpacked.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import method
from benchmarks.training_step import QUANTILES, SECONDS, SIZES
from foalkit.features.store import FILES, FeatureStore, write_index
from foalkit.files import bytes_digest


def lengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Seconds of so many clips, drawn as IEMOCAP's turns and cut at 6 s."""
    return np.minimum(np.interp(100 * rng.random(count), QUANTILES, SECONDS), 6.0)


def write_store(folder: Path, frames: np.ndarray, width: int) -> None:
    """A float16 store of utterances `u0`, `u1`, … with so many frames each: random walks, as sound changes slowly."""
    folder.mkdir(parents=True)
    digests = []
    with (folder / FILES["float16"]).open("wb") as file:
        for number, count in enumerate(frames):
            steps = np.random.default_rng(number).standard_normal((count, width), np.float32)
            stored = steps.cumsum(0).astype(np.float16).tobytes()
            file.write(stored)
            digests.append(bytes_digest(stored))
    names = [f"u{n}" for n in range(len(frames))]
    offsets = np.concatenate([[0], frames.cumsum()[:-1]])
    index = pd.DataFrame({"utterance": names, "offset": offsets, "frames": frames, "key": names, "digest": digests})
    write_index(folder, index.assign(found=np.nan, note=None, boxes=None), width, "float16", failed={})


def gathered(store: FeatureStore, utterances) -> tuple[np.ndarray, np.ndarray]:
    """The utterances' frames one after the other, as stored `(N, D)`, and how many each has `(B,)`: no padding."""
    return np.concatenate([store[u] for u in utterances]), np.array([store.lengths[u] for u in utterances])


class Case:
    """The same clips as two stores and as files; `scale` divides lengths and widths, for tests."""

    def __init__(self, folder: Path, clips: int, *, scale: int = 1):
        self.folder, seconds = folder, lengths(clips, np.random.default_rng(0))
        self.stores, self.longest = {}, {}
        for stream, (longest, width) in SIZES.items():
            frames = np.maximum(1, seconds / 6 * longest / scale).astype(int)
            write_store(folder / stream, frames, width // scale)
            self.stores[stream], self.longest[stream] = FeatureStore(folder / stream), longest // scale
            for utterance in self.stores[stream].lengths:
                np.save(self._file(stream, utterance), self.stores[stream][utterance].astype(np.float32))

    def _file(self, stream: str, utterance: str) -> Path:
        return self.folder / stream / f"{utterance}.npy"

    def plain(self, utterances) -> dict:
        """Padded float32 `(B, T, D)` and its mask `(B, T)` of each stream."""
        batch = {}
        for stream, longest in self.longest.items():
            padded, masks = [], []
            for utterance in utterances:
                x = torch.from_numpy(np.load(self._file(stream, utterance)))
                padded.append(torch.nn.functional.pad(x, (0, 0, 0, longest - len(x))))
                masks.append(torch.arange(longest) < len(x))
            batch[stream] = torch.stack(padded), torch.stack(masks)
        return batch

    def ours(self, utterances) -> dict:
        return {stream: gathered(store, utterances) for stream, store in self.stores.items()}

    def padded(self, utterances) -> dict:
        return {stream: store.batch(utterances) for stream, store in self.stores.items()}

    def copied(self, utterances) -> dict:
        """The limit: as many bytes as ours has, each stream's copied in one piece, both kept until the end."""
        counts = {stream: sum(store.lengths[u] for u in utterances) for stream, store in self.stores.items()}
        return {stream: self.stores[stream].packed[:count].copy() for stream, count in counts.items()}

    def sizes(self) -> dict[str, int]:
        """Bytes on disk: of the padded fp32 files that the plain version would need to need no padding, and ours."""
        padded = {s: 4 * longest * self.stores[s].width for s, longest in self.longest.items()}
        plain = sum(padded[s] * len(store.lengths) for s, store in self.stores.items())
        files = (self.folder / s / name for s in self.stores for name in (FILES["float16"], "index.parquet"))
        return {"plain": plain, "ours": sum(file.stat().st_size for file in files)}

    def forget(self) -> None:
        """Ask the system to drop the files from its cache, so that they come from the disk again."""
        for file in self.folder.rglob("*.npy"):
            with file.open("rb") as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def equal(case: Case, utterances) -> bool:
    """Whether plain, packed and padded batches hold the same bits."""
    for stream, (x, mask) in case.plain(utterances).items():
        rows, counts = gathered(case.stores[stream], utterances)
        padded, real = case.stores[stream].batch(utterances)
        longest = padded.shape[1]
        if not (
            np.array_equal(x[mask].numpy(), rows.astype(np.float32))
            and np.array_equal(mask.sum(1).numpy(), counts)
            and np.array_equal(x[:, :longest].numpy(), padded)
            and np.array_equal(mask[:, :longest].numpy(), real)
        ):
            return False
    return True


def measure(rounds: int = 7, *, batch: int = 64, clips: int = 400, scale: int = 1) -> list[dict]:
    """The benchmark's rows; raises AssertionError where the batches are not bit-equal."""
    with tempfile.TemporaryDirectory() as folder:
        case, rng = Case(Path(folder), clips, scale=scale), np.random.default_rng(1)
        names = list(case.stores["audio"].lengths)
        some = [names[i] for i in rng.permutation(clips)[:batch]]
        assert equal(case, some)
        actions = {how: lambda how=how: getattr(case, how)(some) for how in ("plain", "ours", "padded", "copied")}
        seconds, _ = method.side_by_side(f"a batch of {batch} clips, packed and padded", actions, rounds)
        rows = [
            method.row(
                f"a batch of {batch} clips, packed", seconds["plain"], seconds["ours"],
                equality="bit-equal", share=seconds["copied"] / seconds["ours"],
            ),
            method.row(
                f"a batch of {batch} clips, padded fp32", seconds["plain"], seconds["padded"], equality="bit-equal"
            ),
        ]  # fmt: skip
        os.sync()  # what is not written yet cannot be dropped
        cold = {"plain": [], "ours": []}
        for _ in range(rounds):
            some = [names[i] for i in rng.permutation(clips)[:batch]]
            case.forget()
            for how, taken in cold.items():
                start = time.perf_counter()
                getattr(case, how)(some)
                taken.append(time.perf_counter() - start)
        rows.append(
            method.row(
                f"a batch of {batch} clips, packed and preloaded, files on disk (by the clock)",
                np.array(cold["plain"]), np.array(cold["ours"]), equality="bit-equal",
            )
        )  # fmt: skip
        return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    for found in measure(**vars(parser.parse_args())):
        print(found)
