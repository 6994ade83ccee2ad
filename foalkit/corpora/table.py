"""The table reader: a row of a table (CSV, TSV, Parquet, a label file) is an utterance."""

import math
import os
import re
from collections import Counter
from pathlib import Path

from foalkit import UserError, one_line, short
from foalkit.corpora.sheets import Sheet, read_sheet
from foalkit.files import of_the_machine
from foalkit.params.corpora import Table
from foalkit.params.errors import unknown
from foalkit.params.reading import expand

EMPTY = {"", "nan", "NaN", "null", "NULL", "<NA>", "#N/A"}  # what programs write for nothing
SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


LONGEST = 200  # characters of a name, a number or a box
MOST = 1_000_000  # votes of an utterance, and seconds of a recording


class RowError(Exception):
    """Why a row is no utterance."""


def read(root: Path, corpus: Table) -> tuple[list[dict], list[tuple[str, str]]]:
    """The table's rows as manifest rows, and (utterance or line, reason) for those left out.

    Raises UserError for a table that cannot be read and for a column that it lacks, naming the nearest.
    """
    rows, left_out, seen = [], [], {}
    for part, table in (corpus.tables or {"": corpus.table}).items():
        sheet = read_sheet(
            _place(root, table),
            rows=corpus.rows,
            separator=corpus.separator,
            encoding=corpus.encoding,
            joint=corpus.votes or ";",
        )
        _check_columns(corpus, sheet, table)
        left_out += sheet.bad
        for place, row_cells in sheet.rows:
            cells = row_cells | ({"part": part} if part else {})
            utterance = one_line(_filled(corpus.columns.utterance, cells) if corpus.columns.utterance else "") or place
            try:
                row = _utterance(root, corpus, cells, corpus.folders.get(part, ""))
                utterance = row["utterance"]
                if first := seen.get(utterance):
                    raise RowError(f"stands twice, in {first} too, which is used")
                seen[utterance] = place
                rows.append(row)
            except RowError as error:
                left_out.append((utterance, f"{place}: {error}"))
    return rows, left_out


def side(name: str) -> str:
    """train, validation or test, as other names of them mean; raises RowError for another name."""
    if name.lower() not in SIDES:
        raise RowError(f"its split {name!r} is none of train, validation and test")
    return SIDES[name.lower()]


def _place(root: Path, table: str) -> Path:
    """The table's file: in the root, or as it is named."""
    if (root / table).exists():
        return root / table
    named = expand(table, "corpus.table")
    return named if named.exists() or named == Path(table) or "$" in table else root / table


def _check_columns(corpus: Table, sheet: Sheet, table: str) -> None:
    """Raise UserError for the first column that the params name and the table lacks, or has twice."""
    known = [*sheet.columns, *(["part"] if corpus.tables else [])]
    for key, given in corpus.columns:
        for text in given if isinstance(given, list) else [given] if given else []:
            for name in re.findall(r"{([^{}]*)}", text) if "{" in text else [text]:
                if name not in known:
                    raise UserError(f"corpus.columns.{key}: {table}: {unknown('column', name, known)}")
                if known.count(name) > 1:
                    raise UserError(f"corpus.columns.{key}: {table} has {known.count(name)} columns named {name!r}")


def _utterance(root: Path, corpus: Table, cells: dict[str, str], folder: str) -> dict:
    """A row as the manifest has it; raises RowError for one that is none."""

    def said(key: str) -> str:
        given = getattr(corpus.columns, key)
        text = one_line(_filled(given, cells)) if given else ""
        if len(text) > LONGEST and key != "transcript":
            raise RowError(f"its {key} has {len(text)} characters, more than {LONGEST}")
        return text

    named = {key: getattr(corpus.columns, key) for key in ("audio", "video")}
    files = {key: _file(root, folder, _filled(text, cells) if text else "", key) for key, text in named.items()}
    files["audio"] = files["audio"] or (files["video"] if not corpus.columns.audio else "")
    name = said("utterance") or os.path.splitext(files["audio"] or files["video"])[0].replace("/", "_")
    if not name or not name.isprintable() or "/" in name or len(name) > LONGEST:
        raise RowError(f"{name!r} is no name of an utterance" if name else "has neither a name nor a file")
    speaker = said("speaker")
    if not speaker:
        raise RowError("has no speaker")
    votes = _votes(corpus, cells)
    start, end = _seconds(said("start"), "start", 0.0), _seconds(said("end"), "end", None)
    if end is not None and end <= start:
        raise RowError(f"the time range {start}-{end} s is empty")
    row = {
        "utterance": name,
        "speaker": speaker,
        "session": said("session") or speaker,
        "dialogue": said("dialogue") or name,
        "kind": said("kind"),
        "gender": said("gender"),
        "label": _majority(votes),
        "votes": votes,
        "start": start,
        "end": end,
        **files,
        "crop": _crop(said("crop")),
        "face": None,
    }
    if corpus.cut == "both" and (corpus.columns.start or corpus.columns.end):
        row["audio_from"] = start
    if corpus.columns.transcript:
        row["transcript"] = said("transcript")
    if corpus.columns.split or corpus.tables:
        row["split"] = side(said("split") or cells.get("part", ""))
    return row


def _filled(text: str, cells: dict[str, str]) -> str:
    """A column's cell, or a text with cells in its braces; empty where a cell is empty."""
    names = re.findall(r"{([^{}]*)}", text) if "{" in text else [text]
    if any(cells[name] in EMPTY for name in names):
        return ""
    return re.sub(r"{([^{}]*)}", lambda match: cells[match[1]], text) if "{" in text else cells[text]


def _file(root: Path, folder: str, name: str, key: str) -> str:
    """The file's place in the root; raises RowError for one that is not there, or outside."""
    if not name:
        return ""
    inside = ""
    for written in dict.fromkeys((name, name.replace("\\", "/"))):  # as Windows writes it
        inside = os.path.relpath(os.path.normpath(root / folder / written), root)
        try:
            if not inside.startswith("..") and (root / inside).is_file():
                return inside
            there = (root / inside).exists()
        except OSError as error:  # a name that is too long, a folder that may not be entered
            if of_the_machine(error):
                raise
            raise RowError(f"its {key} {short(name, LONGEST)!r} cannot be looked at ({error.strerror})") from None
    if inside.startswith(".."):
        raise RowError(f"its {key} {name!r} lies outside corpus.root")
    raise RowError(f"its {key} {name!r} {'is no file' if there else 'is missing'}")


def _votes(corpus: Table, cells: dict[str, str]) -> Counter[str]:
    """How many raters gave each label, or which share of them; a row with one label is one vote."""
    if corpus.columns.counts:
        given = {label: _number(_filled(label, cells), f"votes for {label}") for label in corpus.columns.counts}
        return Counter({label: count for label, count in given.items() if count})
    found = [_filled(text, cells) for text in corpus.columns.raters or [corpus.columns.label]]
    return Counter(
        v.strip() for cell in found for v in (cell.split(corpus.votes) if corpus.votes else [cell]) if v.strip()
    )


def _majority(votes: Counter[str]) -> str:
    """The label that most raters gave; raises RowError where there is none, or no single one."""
    if not votes:
        raise RowError("has no label")
    (first, most), *others = votes.most_common()
    if others and others[0][1] == most:
        told = ", ".join(f"{label} {count:g}" for label, count in sorted(votes.items()))
        raise RowError(f"its raters do not agree: {told}")
    return first


def _seconds(text: str, key: str, default: float | None) -> float | None:
    return _number(text, key, " of seconds") if text else default


def _number(text: str, what: str, unit: str = "") -> float:
    """A cell as a number from 0 to MOST, an empty one as 0; raises RowError for another."""
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise RowError(f"its {what} {text!r} is no number{unit}")
    if value > MOST:
        raise RowError(f"its {what} {text!r} is more than {MOST}")
    return value


def _crop(text: str) -> tuple[int, int, int, int] | None:
    if not text:
        return None
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    if len(numbers) != 4 or re.search(r"[^\d\s,;x()\[\]]", text) or not (numbers[2] and numbers[3]):
        raise RowError(f"its crop {text!r} is not `x y width height` in pixels")
    return tuple(numbers)
