"""SHA-256 of the media files that features are made from, remembered so that a corpus is hashed once."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from foalkit.features.reader import FILE
from foalkit.features.reasons import Reason, or_reason
from foalkit.files import digest, file_digest, locked, stamp, unusable, write_parquet
from foalkit.params.encoders import Kind
from foalkit.progress import progress


def media_digests(root: Path, table: pd.DataFrame, kinds: Iterable[Kind], folder: Path) -> dict[str, str]:
    """SHA-256 per media file of these kinds, or the Reason why it has none.

    Remembered by the file's stamp, so that a corpus is hashed once.
    """
    columns = sorted({FILE[kind] for kind in kinds if kind in FILE})
    files = sorted({f for column in columns for f in table[column].unique() if f})
    if not files:
        return {}
    cache = folder / f"media-{digest(str(root))}.parquet"
    known, rows = _remembered(cache), {}

    def looked_at(file: str) -> tuple:
        now = (file, stamp(root / file))
        return known[file] if known.get(file, ())[:2] == now else (*now, file_digest(root / file))

    for file in progress(files, "media digests"):
        why = unusable(root / file)  # first: a pipe would be read without end
        rows[file] = Reason(f"{Path(file).name}: {why}") if why else or_reason(Path(file).name, looked_at, file)
    good = {file: row for file, row in rows.items() if not isinstance(row, Reason)}
    with locked(cache.with_suffix(".lock")):  # other jobs have hashed other files meanwhile
        every = {**_remembered(cache), **good}
        write_parquet(cache, pd.DataFrame(every.values(), columns=["file", "stamp", "digest"]))
    return {file: good[file][2] if file in good else why for file, why in rows.items()}


def _remembered(cache: Path) -> dict[str, tuple]:
    """(file, stamp, digest) by file."""
    try:
        table = pd.read_parquet(cache)[["file", "stamp", "digest"]]
    except (OSError, ValueError, KeyError):  # not there, or not whole
        return {}
    return {row[0]: row for row in table.itertuples(index=False, name=None)}
