"""Files that are whole or not there, and digests of bytes."""

import errno
import fcntl
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


WHAT_TO_DO = {  # about what the system refuses
    errno.ENOSPC: "free some space and start again: what is done stays",
    errno.EDQUOT: "free some of your quota and start again: what is done stays",
    errno.EROFS: "it is mounted to be read only; name another folder",
    errno.ENOMEM: "the memory is full: end other programs, then start again: what is done stays",
    errno.EMFILE: "raise the limit of open files (ulimit -n), then start again: what is done stays",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), then start again: what is done stays",
    errno.EACCES: "get the right to it (chmod, chown), or name another folder",
    errno.EPERM: "get the right to it (chmod, chown), or name another folder",
    errno.ENOTDIR: "a file stands where a folder should; remove it, or name another folder",
    errno.EEXIST: "something else has that name; remove it, or name another folder",
}


def refusal(error: OSError) -> str:
    """What the system refused, about which file, and what to do."""
    reason = " ".join(str(error.strerror or error).split())
    otherwise = OF_THE_MACHINE if of_the_machine(error) else "look at that file, then start again"
    to_do = WHAT_TO_DO.get(error.errno, otherwise)
    return f"{f'{error.filename}: ' if error.filename else ''}{reason}; {to_do}"


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


FORMULAS = "=+-@\t\r＝＋－＠"  # what begins one
NO_FILE = "no such file"
OF_THE_MACHINE = "a fault of this machine, not of the file: mend it, then start again: what is done stays"
# what a file system says of one file; with every other number it speaks of the machine
OF_A_FILE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EILSEQ,
}  # fmt: skip
SEAL = "digest"  # the key of a mapping's digest of itself


def of_the_machine(error: Exception) -> bool:
    """Whether an error is a fault of the machine (disk, network, memory, a library), not of one file."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in OF_A_FILE)


def unusable(file: Path) -> str | None:
    """Why a file cannot be read, by what the file system says of it alone; None where nothing speaks against it.

    Raises OSError for a fault of the machine.
    """
    try:
        found = file.stat()
        if stat.S_ISDIR(found.st_mode):
            return "is a folder"
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for without end
            return "is no regular file"
        file.open("rb").close()  # what it says of rights is true on every file system
        return None if found.st_size else "is empty (0 bytes)"
    except FileNotFoundError:
        return "is a link that leads nowhere" if file.is_symlink() else NO_FILE
    except PermissionError:
        return "may not be read (permission denied)"
    except (OSError, ValueError) as error:
        if of_the_machine(error):
            raise
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def stamp(file: Path) -> str | None:
    """What changes when a file does: its size, times and place on the disk, or why none is known; None for a folder.

    The time of any change and the place tell a file that was copied over another one with that one's time. Raises
    OSError for a fault of the machine.
    """
    try:
        found = file.stat()
    except OSError as error:
        _raise_of_the_machine(error)
        return type(error).__name__
    if stat.S_ISDIR(found.st_mode):
        return None
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where it is not there or may not be entered.

    Raises OSError for a fault of the machine.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        _raise_of_the_machine(error)
        return []


def _raise_of_the_machine(error: OSError) -> None:
    if of_the_machine(error):
        raise error


def entries_below(folder: Path) -> list[Path]:
    """All files and folders below a folder, sorted by path, also those below linked folders.

    No folder is entered twice, whatever leads to it. A link that leads nowhere is given too. Raises OSError for a
    fault of the machine, which would hide what lies in a folder.
    """
    found, seen, starts = [], set(), [folder]
    while starts:  # what links lead to comes last: what lies in the folder itself keeps its own names
        for place, folders, names in os.walk(starts.pop(0), onerror=_raise_of_the_machine):
            here = os.stat(place)
            if (here.st_dev, here.st_ino) in seen:
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            found += [Path(place, name) for name in [*folders, *names]]
            starts += sorted(Path(place, name) for name in folders if Path(place, name).is_symlink())
    return sorted(found)


def refusal_to_enter(folder: Path) -> str | None:
    """Why the files in a folder stay unseen, None where they do not, or where it is no folder."""
    if not folder.is_dir() or os.access(folder, os.R_OK | os.X_OK):
        return None
    return "a folder that may not be entered (permission denied)"


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `value`'s canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return bytes_digest(text.encode(errors="surrogatepass"))  # a file's name may be of other bytes than UTF-8


def bytes_digest(data) -> str:
    """The first 16 hex digits of the SHA-256 of bytes (or of an array's)."""
    return hashlib.sha256(data).hexdigest()[:16]


def file_digest(file: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_mapping(file: Path) -> dict:
    """A JSON file that holds a mapping; raises ValueError for one that is not whole or holds something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


def write_sealed(file: Path, value: dict) -> None:
    """Write a mapping as JSON with a digest of itself, by which `read_sealed` notices a change."""
    value = {k: v for k, v in value.items() if k != SEAL}
    write_json(file, value | {SEAL: digest(json.loads(json.dumps(value)))})


def read_sealed(file: Path) -> dict:
    """A mapping as `write_sealed` wrote it; raises ValueError for one that is not whole or was changed since."""
    value = read_mapping(file)
    if not seal_holds(value):
        raise ValueError("changed after it was written")
    return value


def seal_holds(value: dict) -> bool:
    """Whether a mapping is the one that `write_sealed` wrote."""
    return value.get(SEAL) == digest({k: v for k, v in value.items() if k != SEAL})


@contextmanager
def locked(file: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock of this file, alone or with other `shared` holders; who waits then finds the work done.

    Raises BlockingIOError where it is taken and not to be waited for.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with file.open("a+", encoding="utf-8") as handle:
        try:
            take_lock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            print(f"waiting for another process that prepares {file.stem}")
            take_lock(handle, how)
        yield


def take_lock(handle, how: int) -> bool:
    """Lock a file that is open for reading and writing (NFS asks for both), as `fcntl.flock` does.

    Returns False, and says so, where the file system has no locks: a grid orders its jobs without them. Raises
    BlockingIOError where the lock is taken and not to be waited for.
    """
    try:
        fcntl.flock(handle, how)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        print(f"{handle.name}: this file system has no locks ({error.strerror}): start no second grid on this folder")
        return False
    return True


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file or folder that becomes it when all is written, so that no reader sees half of it.

    Where writing fails, nothing of it stays. Raises OSError, with the path, for what the system refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.errno is not None:  # else it has words only
            error.filename = error.filename or str(path)
        raise
    except Exception as error:
        if refused := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors says it in words
            raise OSError(number := int(refused[1]), os.strerror(number), str(path)) from None
        raise
    finally:
        remove(part)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in the system's temporary one, removed at the end, as are those of processes that were killed."""
    place = Path(tempfile.gettempdir())
    sweep(place, below=False, of="foalkit")
    folder = place / f".foalkit.{platform.node()}-{os.getpid()}-{next(_SCRATCHES)}.part"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove(folder)


_SCRATCHES = itertools.count()


def sweep(folder: Path, *, below: bool = True, of: str = "*") -> None:
    """Remove what processes were writing in this folder, or `below` it, when they died; other machines' after a day.

    With `of`, only what has this name, and none of other machines.
    """
    for part in [*(folder.rglob if below else folder.glob)(f".{of}.*.part")]:
        name, _, process = part.name.removesuffix(".part").rpartition("-")[0].rpartition("-")
        try:
            dead = name.endswith(f".{platform.node()}") and not _lives(int(process))
            if dead or (of == "*" and time.time() - part.stat().st_mtime > 24 * 3600):
                remove(part)
        except (OSError, ValueError):  # gone meanwhile, or a name that is not ours
            continue


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, where there is one."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    with whole(file) as part:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(file: Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV, whole or not at all; a text that a spreadsheet would compute (`=1+1`) begins with `'`."""
    number = r"[+-]?[\d.]+( \[[+-]?[\d.]+, [+-]?[\d.]+\])?"

    def plain(cell):
        formula = isinstance(cell, str) and cell[:1] in FORMULAS and not re.fullmatch(number, cell)
        return f"'{cell}" if cell and formula else cell

    with whole(file) as part:
        table.map(plain).rename(columns=plain).to_csv(part, index=False)


def write_parquet(file: Path, table: "pd.DataFrame") -> None:
    """Write a table as Parquet, whole or not at all; same table, same bytes."""
    with whole(file) as part:
        table.to_parquet(part, index=False, compression="zstd")


def write_tensors(file: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    with whole(file) as part:
        part.touch()
        mode = stat.S_IMODE(part.stat().st_mode)
        save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, part, metadata)
        part.chmod(mode)  # safetensors lets nobody but its owner read what it writes
