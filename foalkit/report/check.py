"""What a report prints against what its records and predictions give: every number computed again and compared."""

import csv
import json
import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from bs4 import BeautifulSoup, NavigableString
from pydantic import BaseModel, ConfigDict

from foalkit import UserError
from foalkit.features.store import FeatureStore
from foalkit.files import SEAL, read_mapping, read_sealed, scratch, seal_holds
from foalkit.params import Params
from foalkit.params.schema import Protocol
from foalkit.params.strict import Share
from foalkit.report.page import write_report
from foalkit.results import records, robustness, scoring
from foalkit.results.variants import VariantResult, variant_result, write_five_fold
from foalkit.results.whole import REPORT, robustness_is_whole


class _Prepared(BaseModel):
    """What a report reads of preprocess.json."""

    model_config = ConfigDict(strict=True)
    utterances: int
    left_out: int
    longer_than_clip: int
    counts: dict[str, int]
    ceilings: dict[Literal["audio", "video", "both"], Share] | None
    features: dict[str, dict[str, Any]]
    without: dict[str, str] = {}
    fewer: dict[str, str] = {}
    files: dict[str, str] = {}


def check(params: Params) -> tuple[list[str], int]:
    """Compare what stands in outputs/<params>/ with the same files computed again from records and predictions.

    Returns a line per difference (what, printed, recomputed) and the number of numbers compared: each run's files and
    scores, every text and table cell of report.html, tables/ and five_fold/, and the figures. Raises UserError where a
    run or the report is missing.
    """
    if not (params.folder / "report.html").exists():
        raise UserError(f"{params.name}: no report.html; run 04_ablation first")
    differences = [*_check_claim(params), *_check_prepared(params)]
    if differences:  # what is to be there stands in these
        return differences, 0
    params = records.runnable(params)
    wanted = [(protocol, variant) for protocol, variants in params.ablation.items() for variant in variants]
    files = sorted((params.folder / "five_fold").glob("*.json"))
    kept = [(p, f.stem.removeprefix(f"{p}-")) for f in files for p in get_args(Protocol) if f.stem.startswith(f"{p}-")]
    others = [(p, v) for p, v in kept if (p, v) not in wanted and v in params.variants]  # of 03_five_fold alone
    numbers, now = 0, records.prepared(params)
    for protocol, variant in wanted + others:
        for fold, seed in product(params.fold_numbers(protocol), params.seeds):
            lines, scores = _check_run(params, protocol, variant, fold, seed, now)
            differences, numbers = differences + lines, numbers + 2 * scores
    if differences:  # tables of such runs mean nothing
        return differences, numbers
    with scratch() as folder:
        try:
            results = [variant_result(params, *row) for row in wanted]
            for result in [*results, *(variant_result(params, *row) for row in others)]:
                write_five_fold(params, result, folder)
            write_report(params, results, folder)
        except UserError:
            raise
        except Exception as error:  # whatever a library makes of a file that was changed
            raise UserError(f"{params.name}: the report cannot be made again ({_first_line(error)})") from None
        again = sorted(f for f in folder.rglob("*") if f.suffix in _READERS and f.name != REPORT)
        for name in (f.relative_to(folder) for f in again):
            lines, compared = _compare_texts(name.as_posix(), folder / name, params.folder / name)
            differences, numbers = differences + lines, numbers + compared
    differences += _check_robustness(params, results)
    return differences + _check_bytes(params, {line.split(":")[0] for line in differences}), numbers


def _check_claim(params: Params) -> list[str]:
    file = params.folder / "params.json"
    try:
        name = read_mapping(file).get("name")
    except FileNotFoundError:  # the next grid writes it
        return []
    except (OSError, ValueError) as error:
        return [f"params.json: damaged ({_first_line(error)}); delete it if the folder is that of {params.name}"]
    return (
        [] if name == params.name else [f"params.json: the folder is that of {name!r}, these params are {params.name}"]
    )


def _check_prepared(params: Params) -> list[str]:
    """preprocess.json and the tables that it names."""
    try:
        info = read_mapping(params.folder / "preprocess.json")
        if SEAL in info and not seal_holds(info):
            raise ValueError("changed after it was written")
        files = _Prepared.model_validate(info).files
    except (OSError, ValueError) as error:
        return [f"preprocess.json: damaged ({_first_line(error)}); {records.AGAIN}"]
    lines = []
    for name, written in files.items():
        try:
            records.compared(params.folder / f"{name}.parquet", written)
        except UserError as error:
            lines.append(str(error))
    return lines


def _check_run(params: Params, protocol: str, variant: str, fold: int, seed: int, now: dict) -> tuple[list[str], int]:
    """A run's record, files and answers on a damaged test side; its scores, counted anew; how many scores there are."""
    folder, lines, record = records.run_folder(params, protocol, variant, fold, seed), [], {}
    try:
        if run := records.run_record(params, protocol, variant, fold, seed, now):
            record = run
            records.verify(run)
            if protocol == "honest" and variant in params.robustness.rows:
                robustness.read(params, run)
    except UserError as error:
        lines.append(str(error))
    try:  # of a changed record, too, it is said which score is not that of its predictions
        record = record or read_mapping(folder / "record.json")
        records.compared(folder / "predictions.parquet", record["predictions_digest"])
        lines += _check_scores(params, folder, record)
    except FileNotFoundError:
        return lines, 0
    except Exception as error:  # whatever is made of a record or a table that was changed
        lines = lines or [f"{records.short(folder)}: its scores cannot be counted anew ({_first_line(error)})"]
    return lines, len(record.get("scores", {})) if not lines else 0


def _check_scores(params: Params, folder: Path, record: dict) -> list[str]:
    """UA, WA and epoch of a run under each rule, counted anew from its predictions; its classes, from the params."""
    name = folder.relative_to(params.folder).as_posix()
    predictions = pd.read_parquet(folder / "predictions.parquet")
    again = scoring.selected_scores(scoring.scores_by_epoch(predictions))
    lines = [
        f"{name}: {key}: recorded {record[key]}, in the params {value}"
        for key, value in {"classes": params.corpus.classes, "labels": params.corpus.labels}.items()
        if record.get(key, value) != value
    ]
    for rule in {**again, **record["scores"]}:
        printed, value = record["scores"].get(rule), again.get(rule)
        if not printed or not value or printed["epoch"] != value["epoch"]:
            epochs = [s["epoch"] if s else "nothing" for s in (printed, value)]
            lines.append(f"{name}: epoch by {rule}: printed {epochs[0]}, recomputed {epochs[1]}")
        for metric in ("ua", "wa") if printed and value else ():
            if not abs(value[metric] - printed[metric]) < 1e-9:
                said = f"printed {printed[metric]:.6f}, recomputed {value[metric]:.6f}"
                lines.append(f"{name}: {metric.upper()}, epoch by {rule}: {said}")
    return lines


def _compare_texts(name: str, again: Path, printed: Path) -> tuple[list[str], int]:
    """A line per text of a printed file that is another when it is made again; how many numbers it has."""
    new = _READERS[again.suffix](again.read_text(encoding="utf-8"))
    numbers = sum(len(re.findall(r"(?<![\w.])\d+(\.\d+)?(?![\w.])", text)) for text in new.values())
    try:
        old = _READERS[again.suffix](printed.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [f"{name}: not there"], numbers
    except Exception as error:  # whatever a parser makes of a file that was changed
        return [f"{name}: cannot be read ({_first_line(error)})"], numbers
    return [
        f"{name}: {where}: printed {_around(a, b)}, recomputed {_around(b, a)}"
        for where in {**new, **old}
        if (a := old.get(where, "")) != (b := new.get(where, ""))
    ], numbers


def _check_robustness(params: Params, results: list[VariantResult]) -> list[str]:
    file, tried = params.folder / "robustness.json", robustness.tried_rows(params)
    runs = [run for r in results if r.row["protocol"] == "honest" and r.row["variant"] in tried for run in r.runs]
    try:
        if not os.path.lexists(file) or robustness_is_whole(file, params, runs):
            return []
        return [f"robustness.json: does not name the answers that are there; {records.AGAIN}"]
    except (OSError, ValueError) as error:
        return [f"robustness.json: damaged ({_first_line(error)}); {records.AGAIN}"]


def _check_bytes(params: Params, named: set[str]) -> list[str]:
    """The files of the report by their digests in report.json: figures, and what of a page is not read as text."""
    if not os.path.lexists(params.folder / REPORT):
        return []
    try:
        files, lines = read_sealed(params.folder / REPORT)["files"], []
    except (OSError, ValueError, KeyError) as error:
        return [f"{REPORT}: damaged ({_first_line(error)}); {records.AGAIN}"]
    for name, written in files.items():
        try:
            if name not in named:
                records.compared(params.folder / name, written)
        except UserError as error:
            lines.append(str(error))
    return lines


def check_features(params: Params) -> tuple[list[str], int]:
    """Compare every stored utterance with the digest it was written with, and each run's features with what is there.

    Returns a line per difference and the number of stores compared; features that are gone are not compared.
    """
    differences, stores = [], {}
    sets = [(stream, fold, own) for stream in params.features for fold, own in params.sets(stream).items()]
    for stream, fold, own in sets:
        folder, name = own.store_folder(stream), params.set_name(stream, fold)
        if os.path.lexists(folder / "store.json"):
            try:
                stores[name] = FeatureStore(folder)
                stores[name].verify()
            except UserError as error:
                differences.append(str(error))
            except Exception as error:  # whatever is made of a store's file that was changed
                differences.append(f"{folder}: damaged ({_first_line(error)}); delete the folder to build it again")
    for protocol, variants in params.ablation.items():
        for variant, fold, seed in product(variants, params.fold_numbers(protocol), params.seeds):
            folder = records.run_folder(params, protocol, variant, fold, seed)
            try:  # a damaged record is what `check` names
                trained = read_mapping(folder / "record.json").get("feature_digests", {}).items()
                others = [s for s, d in trained if (n := params.set_name(s, fold)) in stores and stores[n].digest != d]
            except (OSError, ValueError, AttributeError, TypeError):
                continue
            said = "are not those it was trained on; train it again"
            differences += [f"{records.short(folder)}: features.{stream} {said}" for stream in others]
    return differences, len(stores)


def _first_line(error: Exception) -> str:
    said = str(error).splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def _html_texts(text: str) -> dict[str, str]:
    """The report's texts by place: cells by section, table, row and column, all others by section and order."""
    section, found, number = "top", {}, {}

    def count(what: str) -> int:
        number[section, what] = number.get((section, what), 0) + 1
        return number[section, what]

    for part in BeautifulSoup(text, "html.parser").descendants:
        name = getattr(part, "name", None)
        if name == "h2":
            section = f"#{part.get('id')}"
        elif name == "table":
            head, *rows = [[c.get_text() for c in row.find_all(["td", "th"])] for row in part.find_all("tr")]
            place = f"{section}, table {count('table')}"
            found |= {
                f"{place}, row {n}, {c}": t for n, row in enumerate(rows, 1) for c, t in zip(head, row, strict=False)
            }
        elif name == "img":  # its alternative text has the figure's numbers
            found[f"{section}, text {count('text')}"] = part.get("alt", "")
        elif isinstance(part, NavigableString) and part.strip() and not part.find_parent(["table", "style"]):
            found[f"{section}, text {count('text')}"] = part.strip()
    return found


def _csv_texts(text: str) -> dict[str, str]:
    header, *rows = [*csv.reader(text.splitlines())] or [[]]
    return {
        f"row {n}, {column}": cell for n, row in enumerate(rows, 1) for column, cell in zip(header, row, strict=False)
    }


def _json_texts(text: str) -> dict[str, str]:
    return dict(_leaves(json.loads(text)))


def _tex_texts(text: str) -> dict[str, str]:
    return {f"line {n}": line for n, line in enumerate(text.splitlines(), 1)}


_READERS = {".html": _html_texts, ".csv": _csv_texts, ".json": _json_texts, ".tex": _tex_texts}


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict | list):
        yield place, str(value)
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value, 1):
        yield from _leaves(inner, f"{place} {key}".strip())


def _around(text: str, other: str) -> str:
    """The part of a text where it leaves the other."""
    same = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), len(other))
    start = max(0, same - 20)
    return repr(text[start : start + 60]) if text else "nothing"
