"""What of a params file's outputs is whole: looked at before the grid runs, so that it makes the rest and no more."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from foalkit.files import (
    digest,
    file_digest,
    first_line,
    read_mapping,
    read_sealed,
    remove,
    stamp,
    write_json,
    write_sealed,
)
from foalkit.params import Params
from foalkit.results import records, robustness

REPORT = "report.json"  # written after the report: what it was made of, and its files
# what a report says of preprocess.json: not where the recordings lay, nor when they were written
SAID = ("utterances", "left_out", "counts", "longer_than_clip", "ceilings", "without", "fewer", "features")
REMEMBERED = 1 << 24  # bytes: a larger file is hashed again only when it changed; 1.3 GB of weights take seconds


@dataclass
class Plan:
    """What the grid has to make."""

    damaged: list[str] = field(default_factory=list)  # a line for each file
    trains: bool = False  # or tries runs on a damaged test side: features must be there
    stale: list[Path] = field(default_factory=list)  # records of runs with other params or features


def plan(params: Params) -> Plan:
    """Look at every run of the ablation and at what is made of them; what is damaged or out of date is taken away.

    A run that was made with other params or features stays until it is trained again: it is named in `stale`. Raises
    UserError for a file that the system does not give.
    """
    params, made = records.runnable(params), Plan()
    hashed, now = _remembering(params.folder / ".digests.json"), records.prepared(params)
    undone = set()
    for protocol, variants in params.ablation.items():
        for variant, fold, seed in product(variants, params.fold_numbers(protocol), params.seeds):
            file = records.run_folder(params, protocol, variant, fold, seed) / "record.json"
            seen = _seen(file)
            try:
                if run := records.run_record(params, protocol, variant, fold, seed, now):
                    records.verify(run, hashed)
                    continue
            except records.Damaged as error:
                made.damaged.append(str(error))
                if _seen(file) == seen:  # else another grid has just made it
                    for part in (file, *(file.with_name(p) for p in records.PARTS if file.with_name(p).is_dir())):
                        remove(part)
            undone.add((protocol, variant))
            if seen and file.exists():
                made.stale.append(file)
    for row in undone:
        remove(_five_fold(params, *row))
    made.trains = bool(undone)
    for protocol, variants in params.ablation.items():
        for variant in (v for v in variants if (protocol, v) not in undone):
            _keep(made, _five_fold(params, protocol, variant), _five_fold_is_whole, params, protocol, variant)
    if tried := robustness.tried_rows(params):
        runs = [r for v in tried if ("honest", v) not in undone for r in records.read_runs(params, "honest", v)]
        for run in runs:
            try:
                robustness.read(params, run)
            except records.Damaged as error:
                made.damaged.append(str(error))
                for part in (".json", ".parquet"):
                    remove(robustness.record_file(params, run).with_suffix(part))
        _keep(made, params.folder / "robustness.json", robustness_is_whole, params, runs)
        made.trains = made.trains or not (params.folder / "robustness.json").exists()
    _keep(made, params.folder / REPORT, _report_is_whole, params, hashed)
    return made


def _seen(file: Path) -> tuple | None:
    """By what another file of the same name is told."""
    try:
        stat = os.lstat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _keep(made: Plan, file: Path, is_whole: Callable[..., bool], *about) -> None:
    """Take a file that is made of records away where it is damaged, which is said, or where they are others now."""
    if not (seen := _seen(file)):
        return
    try:
        if is_whole(file, *about):
            return
        why = None
    except (ValueError, KeyError, TypeError, AttributeError, IsADirectoryError, FileNotFoundError) as error:
        why = first_line(error)
    if _seen(file) == seen:
        remove(file)
        made.damaged += [f"{records.short(file)}: not whole ({why}); {records.AGAIN}"] if why else []


def _five_fold(params: Params, protocol: str, variant: str) -> Path:
    return params.folder / "five_fold" / f"{protocol}-{variant}.json"


def _five_fold_is_whole(file: Path, params: Params, protocol: str, variant: str) -> bool:
    kept = read_sealed(file)
    every = product(params.fold_numbers(protocol), params.seeds)
    folders = [records.run_folder(params, protocol, variant, fold, seed) for fold, seed in every]
    return [r["digest"] for r in kept["runs"]] == [file_digest(folder / "record.json") for folder in folders]


def robustness_is_whole(file: Path, params: Params, runs: list[dict]) -> bool:
    """Whether robustness.json names the answers of these runs on the damaged test side, and all are there."""
    kept, wanted = read_mapping(file), [robustness.record_file(params, run) for run in runs]
    names = [f.relative_to(params.folder).as_posix() for f in wanted]
    return kept == {"conditions": params.robustness.digest, "records": names} and all(f.exists() for f in wanted)


def _report_is_whole(file: Path, params: Params, hashed: Callable[[Path], str]) -> bool:
    kept = read_sealed(file)
    if kept["made_of"] != made_of(params):
        return False
    for name, written in kept["files"].items():
        if not (params.folder / name).is_file():
            return False
        if hashed(params.folder / name) != written:
            raise ValueError(f"{name} is not the file that was written")
    return True


def made_of(params: Params) -> str:
    """A digest of all that a report prints: params, what preprocess.json says, each run's record, the robustness."""
    params, info = records.runnable(params), read_mapping(params.folder / "preprocess.json")
    said = params.model_dump(mode="json", exclude={"outputs"})
    rows = [(protocol, v) for protocol, variants in params.ablation.items() for v in variants]
    runs = [run["folder"] / "record.json" for row in rows for run in records.read_runs(params, *row)]
    tried = [r for row in robustness.tried_rows(params) for r in records.read_runs(params, "honest", row)]
    runs += [file for run in tried if (file := robustness.record_file(params, run)).exists()]
    files = {f.relative_to(params.folder).as_posix(): file_digest(f) for f in runs}
    return digest([said, {k: info.get(k) for k in SAID}, files])


def write_made_of(params: Params, into: Path, files: list[Path]) -> Path:
    """Write report.json in `into`: what the report there was made of, and the digests of its `files`."""
    written = {f.relative_to(into).as_posix(): file_digest(f) for f in sorted(files)}
    write_sealed(into / REPORT, {"made_of": made_of(params), "files": written})
    return into / REPORT


def _remembering(cache: Path) -> Callable[[Path], str]:
    """`file_digest`, which large files are not read for again until size, times or inode change."""
    try:
        known = read_mapping(cache)
    except (OSError, ValueError):
        known = {}

    def hashed(file: Path) -> str:
        if file.stat().st_size < REMEMBERED:
            return file_digest(file)
        key = f"{file}: {stamp(file)}"
        if key not in known:
            known[key] = file_digest(file)
            write_json(cache, known)
        return known[key]

    return hashed
