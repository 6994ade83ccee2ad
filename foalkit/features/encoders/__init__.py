"""Encoders: a clip of one kind in, features `(T, D)` out; small, pinned, and checked for their width.

An encoder of sound takes mono samples `(S,)` at its `rate`, 16 kHz where it has none; one of pictures takes RGB frames
`(T, size, size, 3)`; one of numbers reads a manifest row's own file (`file`, `read`). Called with one clip, it returns
`(T, D)`.
"""

from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np


class Encoder(Protocol):
    """`width` numbers a frame, kept as `stored_as` (float16 without it); `identity` names all that shapes them."""

    width: int
    identity: dict

    def __call__(self, clip: np.ndarray) -> np.ndarray: ...


def make_encoder(spec, weights_folder: Path, where: str = "features") -> Encoder:
    """The encoder that a params entry names; `weights_folder` holds the seeded weights of `model: small`.

    Raises UserError, beginning with the params key `where`, for an unknown model, revision or file, and for a width
    that is not the params'.
    """
    module, name = spec.made_by.split(".")
    more = (weights_folder, where) if hasattr(spec, "model") else (where,)
    return getattr(import_module(f"{__name__}.{module}"), name)(spec, *more)
