"""A bad file costs one utterance: the one place where what goes wrong with it becomes a line in the list."""

from collections.abc import Callable
from typing import Any

import av

from foalkit import UserError
from foalkit.files import of_the_machine

# not one file's fault: PyTorch's errors, a full memory, a broken installation, a mistake of this program's
OTHERS = (RuntimeError, MemoryError, ImportError, AssertionError)


class Reason(str):
    """Why there is nothing of an utterance or of a file, in one line with the file's name."""


def of_one_file(error: Exception) -> bool:
    """Whether an error speaks against the file that was being read, so that the others can still be read."""
    # FFmpeg asks for too much memory where a damaged file says so
    others = isinstance(error, OTHERS) and not isinstance(error, av.FFmpegError)
    return not others and not of_the_machine(error)


def or_reason(name: str, action: Callable, *given) -> Any:
    """What `action` makes of what it is given, or the Reason why it makes nothing; `name` is the file's.

    Everything that looks at a recording's file, hashes, decodes or encodes it is called here. What would go wrong with
    any other file too (a full disk, too many open files) is raised.
    """
    try:
        return action(*given)
    except UserError as error:  # it names its file
        return Reason(error)
    except Exception as error:
        if not of_one_file(error):
            raise
        what = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return Reason(f"{name}: cannot be read ({' '.join(what.split())})")
