"""Files that are whole or not there, and digests of bytes."""

import errno
import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


WHAT_TO_DO = {  # about what the system refuses
    errno.ENOSPC: "free some space and start again: what is done stays",
    errno.EDQUOT: "free some of your quota and start again: what is done stays",
    errno.EROFS: "it is mounted to be read only; name another folder",
    errno.EACCES: "get the right to it (chmod, chown), or name another folder",
    errno.EPERM: "get the right to it (chmod, chown), or name another folder",
    errno.ENOTDIR: "a file stands where a folder should; remove it, or name another folder",
    errno.EEXIST: "something else has that name; remove it, or name another folder",
}


def refusal(error: OSError) -> str:
    """What the system refused, about which file, and what to do."""
    reason = " ".join(str(error.strerror or error).split())
    to_do = WHAT_TO_DO.get(error.errno, "look at that file, then start again")
    return f"{f'{error.filename}: ' if error.filename else ''}{reason}; {to_do}"


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `value`'s canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return bytes_digest(text.encode())


def bytes_digest(data) -> str:
    """The first 16 hex digits of the SHA-256 of bytes (or of an array's)."""
    return hashlib.sha256(data).hexdigest()[:16]


def file_digest(file: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_mapping(file: Path) -> dict:
    """A JSON file that holds a mapping; raises ValueError for one that is not whole or holds something else."""
    value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value


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


def writer() -> str:
    """What temporary files are named by: this machine and process, since machines share folders and count alike."""
    return f"{platform.node()}-{os.getpid()}"


def write_json(file: Path, value: Any) -> None:
    """Write JSON under a temporary name and rename it, so that no reader sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{writer()}")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, file)


def write_parquet(file: Path, table: "pd.DataFrame") -> None:
    """Write a table as Parquet under a temporary name and rename it; same table, same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{writer()}")
    table.to_parquet(partial, index=False, compression="zstd")
    os.replace(partial, file)
