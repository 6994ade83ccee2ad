"""What a report prints against what its records and predictions give: every number computed again and compared."""

import csv
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from bs4 import BeautifulSoup, NavigableString

from foalkit import UserError
from foalkit.features.store import FeatureStore
from foalkit.params import Params
from foalkit.params.schema import Protocol
from foalkit.report.page import write_report
from foalkit.results import records
from foalkit.results.variants import variant_result, write_five_fold


def check(params: Params) -> tuple[list[str], int]:
    """Compare what stands in outputs/<params>/ with the same files computed again from records and predictions.

    Returns a line per difference (what, printed, recomputed) and the number of numbers compared: each run's scores,
    every text and table cell of report.html, tables/ and five_fold/. Raises UserError where a run or the report is
    missing.
    """
    if not (params.folder / "report.html").exists():
        raise UserError(f"{params.name}: no report.html; run 04_ablation first")
    params = records.runnable(params)
    wanted = [(protocol, variant) for protocol, variants in params.ablation.items() for variant in variants]
    files = sorted((params.folder / "five_fold").glob("*.json"))
    kept = [(p, f.stem.removeprefix(f"{p}-")) for f in files for p in get_args(Protocol) if f.stem.startswith(f"{p}-")]
    others = [(p, v) for p, v in kept if (p, v) not in wanted]  # 03_five_fold serves other variants too
    runs = [r for row in wanted + others for r in records.read_runs(params, *row)]
    differences = [line for run in runs for line in _check_scores(params, run)]
    numbers = sum(2 * len(run["scores"]) for run in runs)
    if differences:  # tables of such runs mean nothing
        return differences, numbers
    results = [variant_result(params, *row) for row in wanted]
    with tempfile.TemporaryDirectory() as folder:
        for result in [*results, *(variant_result(params, *row) for row in others)]:
            write_five_fold(params, result, Path(folder))
        write_report(params, results, Path(folder))
        for file in sorted(f for f in Path(folder).rglob("*") if f.suffix in _READERS):
            name = file.relative_to(folder)
            if not (params.folder / name).exists():
                differences.append(f"{name}: not there")
                continue
            again, printed = _texts(file), _texts(params.folder / name)
            numbers += sum(len(re.findall(r"(?<![\w.])\d+(\.\d+)?(?![\w.])", t)) for t in again.values())
            differences += [
                f"{name}: {where}: printed {_around(a, b)}, recomputed {_around(b, a)}"
                for where in {**again, **printed}
                if (a := printed.get(where, "")) != (b := again.get(where, ""))
            ]
    return differences, numbers


def check_features(params: Params) -> tuple[list[str], int]:
    """Compare every stored utterance with the digest it was written with, and each run's features with what is there.

    Returns a line per difference and the number of stores compared; features that are gone are not compared.
    """
    differences, stores = [], {}
    sets = [(stream, fold, own) for stream in params.features for fold, own in params.sets(stream).items()]
    for stream, fold, own in sets:
        folder, name = own.store_folder(stream), params.set_name(stream, fold)
        if (folder / "store.json").exists():
            try:
                stores[name] = FeatureStore(folder)
                stores[name].verify()
            except UserError as error:
                differences.append(str(error))
    for protocol, variants in params.ablation.items():
        for run in (r for v in variants for r in records.read_runs(params, protocol, v)):
            differences += [
                f"{run['run']}: features.{s} are not those it was trained on; train it again"
                for s, digest in run.get("feature_digests", {}).items()
                if (name := params.set_name(s, run["fold"])) in stores and stores[name].digest != digest
            ]
    return differences, len(stores)


def _check_scores(params: Params, run: dict) -> list[str]:
    """UA and WA of a run counted anew from its predictions, against its record."""
    name = run["folder"].relative_to(params.folder).as_posix()
    try:
        predictions = records.read_predictions(run["folder"])
    except UserError as error:
        return [str(error)]
    lines = []
    for rule, scores in run["scores"].items():
        part = predictions.query("split == 'test' and epoch == @scores['epoch']")
        right = part["true"] == part.filter(like="logit_").to_numpy().argmax(1)
        again = {"ua": right.groupby(part["true"]).mean().mean(), "wa": right.mean()}
        lines += [
            f"{name}: {metric.upper()}, epoch by {rule}: printed {scores[metric]:.6f}, recomputed {value:.6f}"
            for metric, value in again.items()
            if not abs(value - scores[metric]) < 1e-9  # a missing epoch gives NaN, which is a difference
        ]
    return lines


def _texts(file: Path) -> dict[str, str]:
    """{place: text} of a printed file."""
    return _READERS[file.suffix](file.read_text(encoding="utf-8"))


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
    try:
        return dict(_leaves(json.loads(text)))
    except ValueError:
        return {"the whole file": text}


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
