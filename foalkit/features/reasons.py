"""A bad file costs one utterance: the one place where what goes wrong with it becomes a line in the list.

Nothing else costs any. A fault of the machine (memory, disk, network, rights to the kit's own folders, a library) and a
defect of the kit stop the run, are written in no list, and the same command goes on when they are mended.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foalkit import UserError
from foalkit.files import of_the_machine


class Reason(str):
    """Why there is nothing of an utterance or of a file, in one line with the file's name."""


def or_reason(name: str, action: Callable, *given) -> Any:
    """What `action` makes of what it is given, or the Reason why it makes nothing; `name` is the file's.

    Everything that looks at a recording's file, hashes, decodes or encodes it is called here. A Reason is what the kit
    (a UserError) or the file system says of that file. Raises OSError for a fault of the machine, with the file's name,
    and any other error, which is a defect, with a note that names the file.
    """
    try:
        return action(*given)
    except UserError as error:  # it names its file
        return Reason(error)
    except (OSError, MemoryError) as error:
        if of_this_file(error, name):
            return Reason(f"{name}: cannot be read ({error.strerror})")
        raise fault(error, name) from error
    except Exception as error:
        error.add_note(f"{name} was being read; this is a defect of the installation or of foalkit, not of that file")
        raise


def of_this_file(error: Exception, name: str) -> bool:
    """Whether the file system says something of the file of that name itself."""
    return not of_the_machine(error) and Path(str(error.filename or "")).name == Path(name).name


def fault(error: Exception, file: str) -> OSError:
    """A fault of the machine as an OSError that names the file which was being read."""
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), file)
    number, said = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error) or type(error).__name__
    other = getattr(error, "filename", None)
    if other and Path(str(other)).name != Path(file).name:
        return OSError(number, f"{said} (needed for {file}, whose fault it is not)", str(other))
    return OSError(number, said, file)
