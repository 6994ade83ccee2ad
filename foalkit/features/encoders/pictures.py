"""Weight-free encoders of pictures."""

import numpy as np

from foalkit import UserError
from foalkit.params.encoders import Frames, Hog


class HogEncoder:
    """Histograms of oriented gradients `(T, cells² · orientations)` per frame, cell energies square-rooted.

    A picture's histograms are divided by the root mean square of their norms: contrast does not matter. With
    `since_start` the first frame's are subtracted from every frame's: what stays is what has moved, not who is seen.
    """

    def __init__(self, spec: Hog, where: str = "features"):
        self.size, self.cell, self.bins, self.since_start = spec.size, spec.cell, spec.orientations, spec.since_start
        if spec.size % spec.cell:
            raise UserError(f"{where}: hog size {spec.size} is not a multiple of its cell {spec.cell}")
        self.width = (spec.size // spec.cell) ** 2 * spec.orientations
        self.identity = spec.model_dump(exclude={"region", "every"})

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        red, green, blue = np.moveaxis(frames.astype(np.float32), -1, 0)
        grey = (np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue) / 255  # (T, H, W)
        dy, dx = np.gradient(grey, axis=(1, 2))
        position = (np.arctan2(dy, dx) % np.pi) / np.pi * self.bins
        low = np.floor(position)
        share, strength = position - low, np.hypot(dx, dy)
        cells = self.size // self.cell
        result = np.empty((len(grey), cells, cells, self.bins), np.float32)
        for b in range(self.bins):  # linear vote into the two nearest orientations
            vote = strength * ((low % self.bins == b) * (1 - share) + ((low + 1) % self.bins == b) * share)
            result[..., b] = vote.reshape(-1, cells, self.cell, cells, self.cell).mean((2, 4))
        result = np.sqrt(result)
        result /= np.sqrt((result**2).sum(-1).mean((1, 2)))[:, None, None, None] + 1e-6
        return (result - result[:1] if self.since_start else result).reshape(len(grey), -1)


class FramesEncoder:
    """The pictures themselves, uint8 `(frames, size² · 3)`: those in the middle of as many equal parts of a clip."""

    stored_as = "uint8"

    def __init__(self, spec: Frames, where: str = "features"):
        self.frames, self.size, self.width = spec.frames, spec.size, spec.size**2 * 3
        self.identity = spec.model_dump(exclude={"region"})

    def pick(self, count: int) -> np.ndarray:
        """Which of a clip's `count` frames are kept, `(frames,)`; a clip of fewer shows some of them again."""
        return (2 * np.arange(self.frames) + 1) * count // (2 * self.frames)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return frames.reshape(len(frames), -1)
