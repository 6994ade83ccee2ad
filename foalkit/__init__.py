"""foalkit: published multimodal emotion recognition results, rerun, doubted and trusted."""

from pathlib import Path

from foalkit import arithmetic

arithmetic.limit_numpy()

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parent.parent
"""The project's folder: notebooks/, params/ and outputs/ lie in it whatever the caller's directory."""


class UserError(Exception):
    """What is wrong, in which file or key, and what to do about it, in one line."""

    def _render_traceback_(self) -> list[str]:
        # IPython shows this in place of a traceback: the reader's mistake is not in our stack.
        return [f"{type(self).__name__}: {self}"]
