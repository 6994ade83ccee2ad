"""Tables as people have them (CSV and TSV of any separator, Parquet, label files) as rows of text."""

import codecs
import csv
import io
import re
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from foalkit import UserError
from foalkit.corpora.watched import watched
from foalkit.files import refusal

ENDINGS = (".csv", ".tsv", ".txt", ".parquet")
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
LARGEST = 500_000_000  # bytes of a table


class Sheet(NamedTuple):
    """A table's rows: its columns, each row's place in the file and cells by column, and what is no row, with why."""

    columns: list[str]
    rows: list[tuple[str, dict[str, str]]]
    bad: list[tuple[str, str]]


def read_sheet(
    file: Path, *, rows: str | None = None, separator: str | None = None, encoding: str | None = None, joint: str = ";"
) -> Sheet:
    """The table as text, an empty cell for what is missing; a Parquet list's members are joined by `joint`.

    `rows` is an expression for the lines of a label file. Raises UserError, in one line, for a file that is no table.
    """
    try:
        if file.suffix.lower() == ".parquet" and not rows:
            return _parquet(file, joint)
        if file.suffix.lower() not in ENDINGS and not rows:
            raise UserError(f"{file}: a table is a file of {', '.join(ENDINGS)}; export it as CSV")
        if file.stat().st_size > LARGEST:
            raise UserError(f"{file}: has more than {LARGEST // 10**6} MB, which no table of utterances has")
        text = _text(file.read_bytes(), file, encoding)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such table") from None
    except OSError as error:
        raise UserError(f"the table {refusal(error)}") from None
    return _matching(file, text, rows) if rows else _separated(file, text, separator)


def _text(data: bytes, file: Path, encoding: str | None) -> str:
    marked = next((e for mark, e in BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    try:
        text = data.decode(encoding or marked or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        hint = "say how it is written, for example corpus.encoding=cp1252, or save it as UTF-8"
        raise UserError(f"{file}: line {line} is not {encoding or marked or 'UTF-8'} text; {hint}") from None
    if "\0" in text:
        raise UserError(f"{file}: holds zero bytes; for UTF-16 without a mark say corpus.encoding=utf-16-le")
    return text


def _separated(file: Path, text: str, separator: str | None) -> Sheet:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator or _separator(file, text), strict=True)
    filled, bad = [], []
    try:
        for cells in lines:
            if any(map(str.strip, cells)):
                filled.append((f"{file.name} line {lines.line_num}", cells))
    except csv.Error as error:
        raise UserError(f"{file}: line {lines.line_num}: {error}; is a quotation mark left open?") from None
    if not filled:
        raise UserError(f"{file}: is empty; its first line must name the columns")
    columns = [name.strip() for name in filled[0][1]]
    rows = []
    for place, cells in islice(filled, 1, None):
        while len(cells) > len(columns) and not cells[-1].strip():
            cells = cells[:-1]  # a separator too many at the end of a line
        if len(cells) != len(columns):
            bad.append((place, f"{place} has {len(cells)} cells, the first line has {len(columns)}"))
        else:
            rows.append((place, dict(zip(columns, map(str.strip, cells), strict=True))))
    return Sheet(columns, rows, bad)


def _separator(file: Path, text: str) -> str:
    """What stands most often between the words of the first line, those in quotation marks left out."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    plain = re.sub(r'"[^"]*"', "", first)
    return max("\t,;|" if file.suffix.lower() == ".tsv" else ",;\t|", key=plain.count)


def _matching(file: Path, text: str, rows: str) -> Sheet:
    pattern = re.compile(rows)
    with watched("corpus.rows", rows, [line.strip() for line in text.splitlines()]) as lines:
        found = [(n, match) for n, line in enumerate(lines, 1) if (match := pattern.fullmatch(line))]
    if not found:
        raise UserError(f"{file}: corpus.rows matches none of its lines")
    cells = [(f"{file.name} line {n}", {k: (v or "").strip() for k, v in m.groupdict().items()}) for n, m in found]
    return Sheet(list(pattern.groupindex), cells, [])


def _parquet(file: Path, joint: str) -> Sheet:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file).read()
    except (pyarrow.ArrowException, ValueError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{file}: cannot be read as Parquet ({said})") from None
    columns = [_cell(column.to_pylist(), joint) for column in table.columns]
    names = [name.strip() for name in table.column_names]
    rows = [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return Sheet(names, [(f"{file.name} row {n}", row) for n, row in enumerate(rows, 1)], [])


def _cell(values: list[Any], joint: str) -> list[str]:
    """A column's values as text; a number that pandas turned into 3.0 since some row had none is 3 again."""
    return [_as_text(value, joint) for value in values]


def _as_text(value: Any, joint: str) -> str:
    if isinstance(value, list):
        return joint.join(_as_text(v, joint) for v in value)
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()
