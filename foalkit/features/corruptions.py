"""Damage to decoded sound `(S,)` and decoded pictures `(T, H, W, 3)`: what real clips suffer, at a level that is known.

Each function returns new arrays of the same kind. What is drawn comes from the generator that is given, so that one
seed gives the same damage on every machine.
"""

import numpy as np
from PIL import Image, ImageFilter

PIECE = 0.1  # seconds of one gap
GREY = 127  # of what covers a mouth
MOUTH = (0.22, 0.62, 0.78, 0.9)  # left, top, right, bottom, as shares of a face's box


def noise(samples: np.ndarray, db: float, rng: np.random.Generator) -> np.ndarray:
    """White Gaussian noise added, whose power over all samples lies `db` decibels below the clip's."""
    added = rng.standard_normal(len(samples))
    signal, power = (np.square(x, dtype=np.float64).mean() for x in (samples, added))
    return (samples + added * np.sqrt(signal / power / 10 ** (db / 10))).astype(np.float32)


def gaps(samples: np.ndarray, share: float, rng: np.random.Generator, *, rate: int) -> np.ndarray:
    """Silence in a `share` of the sound's pieces of 0.1 s (rounded, not all of them), as lost packets leave it."""
    piece = round(PIECE * rate)
    count = -(-len(samples) // piece)
    lost = rng.permutation(count)[: min(round(share * count), count - 1)]
    return np.where(np.isin(np.arange(len(samples)) // piece, lost), 0, samples).astype(np.float32)


def late(samples: np.ndarray, seconds: float, *, rate: int) -> np.ndarray:
    """The sound after `seconds` of silence, `(round(seconds · rate) + S,)`."""
    return np.concatenate([np.zeros(round(seconds * rate), np.float32), samples])


def blur(frames: np.ndarray, share: float) -> np.ndarray:
    """A Gaussian blur whose deviation is a `share` of the shorter side (Pillow's, three box blurs with edges held)."""
    soft = ImageFilter.GaussianBlur(share * min(frames.shape[1:3]))
    return np.stack([np.asarray(Image.fromarray(frame).filter(soft)) for frame in frames])


def darken(frames: np.ndarray, share: float) -> np.ndarray:
    """A `share` of every value, rounded to whole numbers: dark parts lose their differences."""
    return np.rint(frames * np.float32(share)).astype(np.uint8)


def drop(frames: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A `share` of the frames (rounded, never the first) replaced by the last one before them that is kept."""
    count = len(frames)
    kept = np.arange(count)
    kept[1 + rng.permutation(count - 1)[: round(share * count)]] = 0
    return frames[np.maximum.accumulate(kept)]


def cover(frames: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A grey rectangle over the mouth of the face in each frame; `boxes` `(T, 4)` are x, y, width, height in pixels.

    It covers `MOUTH` of the box; parts outside the picture are not there to be covered.
    """
    frames = frames.copy()
    for frame, (x, y, width, height) in zip(frames, boxes, strict=True):
        left, top, right, bottom = MOUTH
        rows = slice(max(0, round(y + top * height)), max(0, round(y + bottom * height)))
        columns = slice(max(0, round(x + left * width)), max(0, round(x + right * width)))
        frame[rows, columns] = GREY
    return frames
