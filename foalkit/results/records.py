"""The run's record, predictions and weights: written atomically, the record last, read by everything downstream."""

import errno
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foalkit import CHECKOUT, ROOT, SHARED, UserError, __version__, arithmetic
from foalkit.files import (
    SEAL,
    file_digest,
    first_line,
    read_mapping,
    refusal,
    seal_holds,
    write_json,
    write_parquet,
    write_sealed,
    write_tensors,
)
from foalkit.params import Params
from foalkit.params.schema import Protocol
from foalkit.params.strict import Share
from foalkit.results.scoring import SELECTION

SCHEMA = 1
OURS = ("logs", "notebooks", "runs", "five_fold", "tables")
PARTS = ("predictions.parquet", "absent.parquet", "weights.safetensors")
AGAIN = "`foalkit grid` makes it again"
Number = Annotated[float, Field(allow_inf_nan=False)]


class Damaged(UserError):
    """A file of the outputs that is not as it was written: the grid makes it again."""


class _Score(BaseModel):
    model_config = ConfigDict(strict=True)
    wa: Share
    ua: Share
    epoch: Annotated[int, Field(ge=1)]


class _Record(BaseModel):
    """What reports, tables and the recognizer read of a record; a key without a default must be there."""

    model_config = ConfigDict(strict=True)
    schema_: Annotated[int, Field(alias="schema")]
    run: str
    variant: str
    protocol: Protocol
    fold: int
    seed: int
    selection: str
    scores: dict[str, _Score]
    params_digest: str
    predictions_digest: str
    sizes: dict[str, int]
    classes: list[str]
    absent_digest: str = ""
    weights_digest: str = ""
    manifest_digest: str = ""
    feature_digests: dict[str, str] = {}
    starts_from: dict[str, str] = {}
    streams: list[str] = []
    groups: dict[str, list[str]] = {}
    params: dict[str, Any] = {}
    params_name: str = ""
    target: str = ""
    parameters: int = 0
    seconds: Number = 0.0
    history: list[dict[str, Number | None]] = []
    terms: dict[str, dict[str, Number | str]] = {}
    reach: dict[str, dict[str, int]] = {}
    provenance: dict[str, Any] = {}


REQUIRED = {f.alias or name for name, f in _Record.model_fields.items() if f.is_required()}


def run_folder(params: Params, protocol: str, variant: str, fold: int, seed: int) -> Path:
    """outputs/<params name>/runs/<protocol>/<variant>/fold<k>-seed<s>, absolute; folds count from 1."""
    return params.folder / "runs" / protocol / variant / f"fold{fold}-seed{seed}"


def runnable(params: Params, without: Iterable[str] | None = None) -> Params:
    """The params less the ablation's rows that need a stream of `without`, no digest of which depends on it.

    By default those that the corpus lacks the files of, once that is known (`without` in preprocess.json).
    """
    if without is None:
        try:
            info = read_mapping(params.folder / "preprocess.json")
            without = dict(info.get("without", {})) if info["params_digest"] == params.data_digest else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            without = {}
    streams = {v: params.variants[v].streams for names in params.ablation.values() for v in names}
    kept = {p: [v for v in names if not set(streams[v]) & set(without)] for p, names in params.ablation.items()}
    return params.model_copy(update={"ablation": kept})


def claim(params: Params) -> None:
    """Make the outputs folder these params' own, before any work.

    Raises UserError where it holds the runs of other params or files of another kind, or cannot be written.
    """
    own = {"name": params.name, "file": params.file}
    file = params.folder / "params.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            if not (params.folder / "preprocess.json").exists():  # of a version that did not claim its folder
                _refuse_files_of_others(params.folder)
            for record in params.folder.glob("runs/*/*/*/record.json"):
                own["name"] = read_record(record).get("params_name", params.name)
                break
            write_json(file, own | {"differs": params.differs})
        found = read_mapping(file)
        if not os.access(params.folder, os.W_OK | os.X_OK):  # it may be a finished grid's
            raise PermissionError(errno.EACCES, "it cannot be written", str(params.folder))
    except ValueError:
        raise UserError(f"{short(file)}: damaged; delete it if the folder is that of {params.name}") from None
    except OSError as error:
        raise UserError(f"outputs: {refusal(error)}") from None
    if found.get("name") != params.name or (params.file and (found.get("file") or params.file) != params.file):
        raise UserError(
            f"outputs: {short(params.folder)} holds the runs of {found.get('name')} ({found.get('file')}), these are "
            f"{params.name} ({params.file}): choose another folder, or delete its params.json if the file only moved"
        )


def _refuse_files_of_others(folder: Path) -> None:
    """Raise UserError for a folder that was in use before; the grid makes the folders of OURS before all work."""
    others = sorted(f.name for f in folder.iterdir() if f.name not in OURS and not f.name.startswith("."))
    if others:
        raise UserError(f"outputs: {short(folder)} holds other files ({others[0]!r}): choose a new or an empty folder")


def write_run(
    folder: Path, record: dict, predictions: pd.DataFrame, weights: dict, absent: pd.DataFrame | None = None
) -> Path:
    """Write predictions.parquet, weights.safetensors and, last, record.json; returns the record's path.

    `predictions` holds one row per utterance, split and epoch with its logits, `absent` (absent.parquet, fused
    variants) one per test utterance and hidden stream; a run without a whole record does not exist for anything
    that reads runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "record.json"
    file.unlink(missing_ok=True)  # the old run ends where the new one begins
    (folder / "absent.parquet").unlink(missing_ok=True)
    write_parquet(folder / "predictions.parquet", predictions)
    if absent is not None and len(absent):
        write_parquet(folder / "absent.parquet", absent)
    write_tensors(folder / "weights.safetensors", weights)
    parts = [part for name in PARTS if (part := folder / name).exists()]
    digests = {f"{part.stem}_digest": file_digest(part) for part in parts}
    write_sealed(file, {"schema": SCHEMA, **record, **digests})
    return file


def read_record(file: Path) -> dict:
    """A run's record.

    Raises UserError when it is not there or cannot be read, and Damaged when it is not whole, was changed after it was
    written, is of another schema, says another selection than its protocol's, or its predictions are not there.
    """
    try:
        record = read_mapping(file)
    except FileNotFoundError:
        raise UserError(f"{short(file)}: no record; the run has not finished") from None
    except (ValueError, IsADirectoryError) as error:  # not JSON, or not even text
        raise Damaged(f"{short(file)}: not a whole record ({first_line(error)}); {AGAIN}") from None
    except OSError as error:
        raise UserError(f"a record cannot be read: {refusal(error)}") from None
    if why := fault(record):
        raise Damaged(f"{short(file)}: {why}; {AGAIN}")
    if not (file.parent / PARTS[0]).exists():
        raise Damaged(f"{short(file.parent)}: record without {PARTS[0]}; {AGAIN}")
    return record


def fault(record: dict) -> str | None:
    """Why a record cannot be believed, None where it can: its own keys and values alone are looked at."""
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        wrong = [(e["type"] == "missing", ".".join(map(str, e["loc"]))) for e in error.errors()]
        lacks = sorted(key for missing, key in wrong if missing)
        return f"lacks {lacks}" if lacks else f"{wrong[0][1]} has a value that it cannot have"
    rule = SELECTION[record["protocol"]]
    if record["schema"] != SCHEMA:
        return "another schema"
    if record["selection"] != rule:
        return f"selection is {record['selection']!r}, but under {record['protocol']} {rule!r} chooses the epoch"
    if record["scores"] and rule not in record["scores"]:
        return f"scores lacks {rule!r}, which chooses the epoch under {record['protocol']}"
    # a record of an earlier version has no digest of itself
    return "changed after it was written" if SEAL in record and not seal_holds(record) else None


def run_record(
    params: Params, protocol: str, variant: str, fold: int, seed: int, now: dict | None = None
) -> dict | None:
    """A run's record and its `folder`; None where it is not there, or was made with other params or features.

    `now` is what `prepared` gives. Raises what `read_record` does, and Damaged for the record of another run.
    """
    folder = run_folder(params, protocol, variant, fold, seed)
    if not (folder / "record.json").exists():
        return None
    record = read_record(folder / "record.json")
    said = [record[k] for k in ("protocol", "variant", "fold", "seed")]
    if said != [protocol, variant, fold, seed]:
        other = "{}/{}/fold{}-seed{}".format(*said)
        raise Damaged(f"{short(folder / 'record.json')}: the record of another run ({other}); {AGAIN}")
    now = prepared(params) if now is None else now
    made_from = {params.set_name(s, fold): d for s, d in record.get("feature_digests", {}).items()}
    made_from["manifest"] = record.get("manifest_digest", now.get("manifest"))
    if record["params_digest"] != params.digest(variant) or any(now.get(name, d) != d for name, d in made_from.items()):
        return None
    for start, digest in record.get("starts_from", {}).items():
        try:
            other = read_mapping(run_folder(params, protocol, start, fold, seed) / "record.json")
        except (OSError, ValueError):  # not there: it is trained again, to the same weights or to others
            continue
        if other.get("weights_digest") != digest:
            return None
    return record | {"folder": folder}


def prepared(params: Params) -> dict[str, str]:
    """The digests of the manifest and of every set of features, by name; empty where preprocess.json has none."""
    try:
        info = read_mapping(params.folder / "preprocess.json")
        if info["params_digest"] != params.data_digest:
            return {}
        known = {s: f["digest"] for s, f in info["features"].items()}
        return known | {"manifest": info["manifest_digest"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def verify(run: dict, hashed: Callable[[Path], str] = file_digest) -> None:
    """Compare a run's files with the digests in its record; raises Damaged for the first that is another."""
    for name in PARTS:
        if (key := f"{Path(name).stem}_digest") in run:
            compared(run["folder"] / name, run[key], hashed)


def read_predictions(folder: Path, part: str = "predictions") -> pd.DataFrame:
    """A run's predictions: utterance, speaker, split, epoch, true (class number) and one logit column per class.

    `part="absent"` gives absent.parquet (condition instead of split and epoch). Raises UserError when the file is
    not the one the record was written with.
    """
    return pd.read_parquet(_of_record(folder, f"{part}.parquet"))


def read_weights(folder: Path) -> dict:
    """The weights of a run's selected epoch, by name.

    Raises UserError when the file is not the one the record was written with.
    """
    from safetensors.torch import load_file

    return load_file(_of_record(folder, "weights.safetensors"))


def read_runs(params: Params, protocol: str, variant: str) -> list[dict]:
    """The whole records of a variant's runs over the params' folds and seeds, each with its folder.

    Records made with other params or, where the features are known, with others than those are left out: they answer
    another question.
    """
    now = prepared(params)
    every = [(fold, seed) for fold in params.fold_numbers(protocol) for seed in params.seeds]
    runs = (run_record(params, protocol, variant, fold, seed, now) for fold, seed in every)
    return [run for run in runs if run]


def missing_runs(params: Params, wanted: list[tuple[str, str]]) -> list[tuple[str, str, int, int]]:
    """(protocol, variant, fold, seed) of every run of the wanted (protocol, variant) that has no record yet."""
    missing = []
    for protocol, variant in wanted:
        have = {(r["fold"], r["seed"]) for r in read_runs(params, protocol, variant)}
        runs = [(f, s) for f in params.fold_numbers(protocol) for s in params.seeds]
        missing += [(protocol, variant, f, s) for f, s in runs if (f, s) not in have]
    return missing


def provenance() -> dict[str, Any]:
    """Versions, git commit and dirtiness, the lock, and the machine (no names): what a number rests on."""
    from importlib.metadata import version

    return {
        "foalkit": __version__,
        "commit": (_git("rev-parse", "HEAD") or "").strip() or None,
        "dirty": _dirty(),
        "python": platform.python_version(),
        "machine": {"system": f"{platform.system()} {platform.machine()}", **arithmetic.machine()},
        "lock": file_digest(lock)[:16] if (lock := SHARED / "requirements.lock").exists() else None,
        "packages": {p: version(p) for p in ("torch", "transformers", "open_clip_torch", "numpy", "librosa", "av")},
    }


def _git(*args: str) -> str | None:
    if not CHECKOUT:  # the caller's folder may be of another project's repository
        return None
    try:
        call = ["git", "-c", "safe.directory=*", *args]
        done = subprocess.run(
            call, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _dirty() -> bool | None:
    """Whether a tracked file differs from the commit; a notebook that was only run and saved does not."""
    changed = _git("diff", "--name-only", "-z", "HEAD")
    if changed is None:
        return None
    for name in filter(None, changed.split("\0")):
        file = ROOT / name
        if not name.endswith(".ipynb") or not file.exists():
            return True
        if written_cells(file.read_text(encoding="utf-8", errors="replace")) != written_cells(
            _git("show", f"HEAD:{name}")
        ):
            return True
    return False


def written_cells(notebook: str | None) -> list | None:
    """What a person wrote in a notebook (its JSON): kinds, sources and tags of the cells; None of what is none."""
    try:
        cells = json.loads(notebook)["cells"]
        every = [(c["cell_type"], "".join(c["source"]), c["metadata"].get("tags") or None) for c in cells]
        return [cell for cell in every if cell[1].strip()]
    except (ValueError, KeyError, TypeError):
        return None


def _of_record(folder: Path, name: str) -> Path:
    """A run's file; raises Damaged when it is not the one the record was written with."""
    record, file = read_record(folder / "record.json"), folder / name
    return compared(file, record.get(f"{file.stem}_digest"))


def compared(file: Path, written: str | None, hashed: Callable[[Path], str] = file_digest) -> Path:
    """The file, whose digest must be the one that was `written` with it; raises Damaged for another."""
    try:
        same = hashed(file) == written
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        same = False
    except OSError as error:
        raise UserError(f"a run's file cannot be read: {refusal(error)}") from None
    if not same:
        raise Damaged(f"{short(file)}: not the file its record was written with (digest differs); {AGAIN}")
    return file


def short(path: Path) -> str:
    """A path as a message gives it: within the project, or absolute."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
