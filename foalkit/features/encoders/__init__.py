"""Encoders: a clip of one kind in, features `(T, D)` out; small, pinned, and checked for their width.

An encoder of sound takes mono samples `(S,)` at its `rate`, 16 kHz where it has none; one of pictures takes RGB frames
`(T, size, size, 3)`; one of numbers reads a manifest row's own file (`file`, `read`). Called with one clip, it returns
`(T, D)`.
"""

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from foalkit import UserError
from foalkit.features.reasons import fault
from foalkit.files import of_the_machine


class Encoder(Protocol):
    """`width` numbers a frame, kept as `stored_as` (float16 without it); `identity` names all that shapes them."""

    width: int
    identity: dict

    def __call__(self, clip: np.ndarray) -> np.ndarray: ...


def make_encoder(spec, weights_folder: Path, where: str = "features") -> Encoder:
    """The encoder that a params entry names; `weights_folder` holds the seeded weights of `model: small`.

    Raises UserError, beginning with the params key `where`, for an unknown model, revision or file, and for a width
    that is not the params', and for an encoder that cannot be made on this installation.
    """
    module, name = spec.made_by.split(".")
    more = (weights_folder, where) if hasattr(spec, "model") else (where,)
    try:
        return getattr(import_module(f"{__name__}.{module}"), name)(spec, *more)
    except UserError:
        raise
    except Exception as error:
        raise broken(error, where, spec) from error


def broken(error: Exception, where: str, spec) -> Exception:
    """What to raise where an encoder fails before it has seen a recording: a fault of the machine, or a UserError."""
    if isinstance(error, MemoryError) or (of_the_machine(error) and error.errno is not None):
        return fault(error, where)
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return UserError(
        f"{where}: the encoder {spec.encoder} does not run on this installation ({_package(error)}{said}); "
        "`foalkit doctor` says what to mend, then start again: no recording is at fault"
    )


def _package(error: Exception) -> str:
    """`librosa: `, the package in whose code an error was raised; empty where it is none's."""
    own = {"foalkit", "__main__", *sys.stdlib_module_names}
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        # a compiled module's frames have no globals, and the file's place in the package
        module = frame.f_globals.get("__name__") or Path(frame.f_code.co_filename).parts[0]
        if (name := module.split(".")[0]) not in own:
            return f"{name}: "
    return ""
