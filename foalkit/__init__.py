"""foalkit: published multimodal emotion recognition results, rerun, doubted and trusted."""

import os
from importlib import import_module
from pathlib import Path

from foalkit import arithmetic

arithmetic.limit_numpy()

__version__ = "0.1.0"

_PACKAGE = Path(__file__).resolve().parent
CHECKOUT = not (_PACKAGE / "shared").is_dir()
"""Whether this package lies in a checkout; a wheel holds foalkit/shared/ (setup.py)."""

SHARED = _PACKAGE.parent if CHECKOUT else _PACKAGE / "shared"
"""Where params/, notebooks/, profiles/, the Snakefile and the locks lie."""

ROOT = SHARED if CHECKOUT else Path(os.environ.get("FOALKIT_ROOT") or ".").resolve()
"""The project's folder, in which outputs/ and all relative paths lie: the checkout, whatever the caller's directory; of
an installed package the folder that FOALKIT_ROOT names, or else the caller's directory."""


def one_line(text: str) -> str:
    """The text with what ends a line, moves a terminal's cursor or cannot be encoded as an escape (\\n, \\x1b)."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def short(text: str, most: int = 1000) -> str:
    """The text, of a longer one its beginning and end with what is between counted."""
    left_out = len(text) - most
    return text if left_out <= 0 else f"{text[: most // 2]} … ({left_out} characters) … {text[-most // 2 :]}"


class UserError(Exception):
    """What is wrong, in which file or key, and what to do about it, in one line."""

    def __str__(self) -> str:
        return one_line(short(super().__str__()))  # it may quote names from a file

    def _render_traceback_(self) -> list[str]:
        # IPython shows this in place of a traceback: the reader's mistake is not in our stack.
        return [f"{type(self).__name__}: {self}"]


def __getattr__(name: str):
    if name == "Recognizer":  # the highest room, on first use: `import foalkit` alone needs no PyTorch
        return import_module("foalkit.recognizer").Recognizer
    raise AttributeError(f"module 'foalkit' has no attribute {name!r}")
