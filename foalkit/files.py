"""Files that are whole or not there, and digests of bytes."""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


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


def write_json(file: Path, value: Any) -> None:
    """Write JSON under a temporary name and rename it, so that no reader sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, file)


def write_parquet(file: Path, table: "pd.DataFrame") -> None:
    """Write a table as Parquet under a temporary name and rename it; same table, same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    table.to_parquet(partial, index=False, compression="zstd")
    os.replace(partial, file)
