"""Features made elsewhere."""

from pathlib import Path

import numpy as np

from foalkit import UserError
from foalkit.features.encoders.weights import first_line
from foalkit.params.encoders import Imported
from foalkit.params.load import expand


class ImportedFeatures:
    """Features made elsewhere: `(T, width)` per utterance from .npy files found by the params' pattern."""

    def __init__(self, spec: Imported, where: str = "features"):
        self.where = where
        self.folder, self.pattern, self.width = (expand(spec.folder, f"{where}.folder"), spec.pattern, spec.width)
        if not self.folder.is_dir():
            raise UserError(f"{where}.folder: there is no folder {self.folder}")
        self.identity = {"encoder": "imported", "width": spec.width}

    def file(self, row) -> Path:
        """The .npy file of a manifest row."""
        try:
            return self.folder / self.pattern.format_map(row)
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(f"{self.where}.pattern: {self.pattern!r} cannot be filled in ({error!r})") from None

    def read(self, row) -> np.ndarray:
        """The row's features as float32 `(T, width)`.

        Raises UserError when the file is missing, not an array of that width, or holds NaN.
        """
        file = self.file(row)
        try:
            array = np.load(file, allow_pickle=False)
        except FileNotFoundError:
            raise UserError(f"{file.name}: no imported features for utterance {row['utterance']}") from None
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{file.name}: not a NumPy array ({first_line(error)})") from None
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise UserError(f"{file.name}: not an array of numbers")
        if array.ndim != 2 or array.shape[1] != self.width or not len(array):
            raise UserError(f"{file.name}: shape {array.shape}, expected (T, {self.width})")
        if not np.isfinite(array).all():
            raise UserError(f"{file.name}: holds NaN or infinity")
        return array.astype(np.float32)
