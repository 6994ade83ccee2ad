"""What a params file gives wherever it runs (params/expected/<name>.json), and what it gave here."""

from pathlib import Path
from typing import Any

from foalkit import SHARED, UserError, arithmetic
from foalkit.files import digest, file_digest, read_mapping
from foalkit.params import Params
from foalkit.results import records, scoring
from foalkit.results.variants import VariantResult, variant_result

FOLDER = SHARED / "params" / "expected"


def digests(params: Params) -> dict[str, Any]:
    """Digests of the settings, the lock, the corpus's files, the stores and every run's predictions."""
    info = read_mapping(params.folder / "preprocess.json")
    root, rows = Path(info["corpus"]), _rows(params)
    return {
        "settings": digest([params.data_digest, {variant: params.digest(variant) for _, variant in rows}]),
        "lock": file_digest(SHARED / "requirements.lock")[:16],
        "files": {
            file.relative_to(root).as_posix(): file_digest(file)[:16]
            for file in sorted(root.rglob("*"))
            if file.is_file()
        },
        "stores": {stream: store["digest"] for stream, store in info["features"].items()},
        "runs": {
            f"{protocol}/{variant}/fold{run['fold']}-seed{run['seed']}": run["predictions_digest"][:16]
            for protocol, variant in rows
            for run in records.read_runs(params, protocol, variant)
        },
    }


def scores(params: Params) -> dict[str, dict[str, Any]]:
    """Each row's UA, interval and folds; raises UserError where a run is missing."""
    return {
        f"{protocol}/{variant}": _row(variant_result(params, protocol, variant)) for protocol, variant in _rows(params)
    }


def by_seed(params: Params) -> dict[str, list[float]]:
    """The UA of each row, one number a seed; raises UserError where a run is missing."""
    return {
        f"{protocol}/{variant}": [
            round(scoring.ua(part["true"].to_numpy(), part["predicted"].to_numpy()), 4)
            for _, part in variant_result(params, protocol, variant).pooled.groupby("seed")
        ]
        for protocol, variant in _rows(params)
    }


def compare(params: Params) -> str | None:
    """In words: how much has the expected bytes, and if not all has, whether the scores are as known, and why.

    None for params of which nothing is expected: another file's, or with overrides.
    """
    file = FOLDER / f"{params.name}.json"
    if not file.exists() or params.differs or params.file != f"params/{params.name}.yaml":
        return None
    known = read_mapping(file)
    try:
        found, counts, different = digests(params), [], []
        for what in ("files", "stores", "runs"):
            same = sum(found[what].get(name) == value for name, value in known[what].items())
            counts.append(f"{same} of {len(known[what])} {what}")
            more = sorted(set(known[what].items()) ^ set(found[what].items()))
            different += [f"{what}: {name}" for name in dict.fromkeys(name for name, _ in more)]
        line = f"{', '.join(counts)} have the expected bytes"
        if not different:
            return line
        rows = scores(params)
    except (OSError, KeyError, UserError) as error:
        return f"params/expected/{params.name}.json cannot be compared: {error}"
    outside = [
        f"{name} {rows[name]['ua_pooled']:.1%} (known: {low:.1%} to {high:.1%})"
        for name, (low, high) in known["spread"].items()
        if name in rows and not low - 5e-5 <= rows[name]["ua_pooled"] <= high + 5e-5
    ]
    said = f"outside of the known spread: {', '.join(outside)}" if outside else "all UA lie within the known spread"
    return f"{line}; the first that differs is {different[0]}; {said}. {_why(known, found)}"


def _rows(params: Params) -> list[tuple[str, str]]:
    """(protocol, variant) of every row."""
    return [(protocol, variant) for protocol, variants in params.ablation.items() for variant in variants]


def _row(result: VariantResult) -> dict[str, Any]:
    row, chosen = result.row, result.folds[result.folds["selection"] == result.row["selection"]]
    kept = {name: round(row[name], 4) for name in ("ua_pooled", "ua_low", "ua_high")}
    return {"label": row["label"], "modality": row["modality"], **kept, "folds": chosen["ua"].round(4).tolist()}


def _why(known: dict, found: dict) -> str:
    if known["settings"] != found["settings"]:
        return "The params are others than those of which the bytes are known."
    if known["lock"] != found["lock"]:
        return "requirements.lock is another one: other versions compute other bytes."
    if not arithmetic.everywhere():
        return (
            "This process computes other bytes than x86-64 processors with AVX2 do under the lock's versions: another "
            "processor, other versions, or what the environment sets (OPENBLAS_CORETYPE, MKL_CBWR …)."
        )
    return (
        "Neither params, nor lock, nor processor explain it: the code has changed (then `make expected` writes what is "
        "known anew), or files have (`foalkit check` compares them)."
    )
