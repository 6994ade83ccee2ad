"""What a params file gives wherever it runs (params/expected/<name>.json), and what it gave here."""

from pathlib import Path
from typing import Any

from foalkit import ROOT, UserError, arithmetic
from foalkit.files import digest, file_digest, read_mapping
from foalkit.params import Params
from foalkit.results import scoring
from foalkit.results.variants import variant_result

FOLDER = ROOT / "params" / "expected"


def gather(params: Params) -> dict[str, Any]:
    """Digests of the corpus's files, of the stores and of every run's predictions, and the rows' UA.

    Raises UserError where something of it is missing.
    """
    rows = [(protocol, variant) for protocol, variants in params.ablation.items() for variant in variants]
    results = {f"{protocol}/{variant}": variant_result(params, protocol, variant) for protocol, variant in rows}
    info = read_mapping(params.folder / "preprocess.json")
    root = Path(info["corpus"])
    return {
        "settings": digest([params.data_digest, {variant: params.digest(variant) for _, variant in rows}]),
        "lock": file_digest(ROOT / "requirements.lock")[:16],
        "files": {
            file.relative_to(root).as_posix(): file_digest(file)[:16]
            for file in sorted(root.rglob("*"))
            if file.is_file()
        },
        "stores": {stream: store["digest"] for stream, store in info["features"].items()},
        "runs": {
            f"{name}/fold{run['fold']}-seed{run['seed']}": run["predictions_digest"][:16]
            for name, result in results.items()
            for run in result.runs
        },
        "ceilings": info["ceilings"],
        "rows": {name: _row(result) for name, result in results.items()},
    }


def _row(result) -> dict[str, Any]:
    row, chosen = result.row, result.folds[result.folds["selection"] == result.row["selection"]]
    kept = {name: round(row[name], 4) for name in ("ua_pooled", "ua_low", "ua_high")}
    return {"label": row["label"], "modality": row["modality"], **kept, "folds": chosen["ua"].round(4).tolist()}


def by_seed(params: Params) -> dict[str, list[float]]:
    """The UA of each row, one number a seed."""
    return {
        f"{protocol}/{variant}": [
            round(scoring.ua(part["true"].to_numpy(), part["predicted"].to_numpy()), 4)
            for _, part in variant_result(params, protocol, variant).pooled.groupby("seed")
        ]
        for protocol, variants in params.ablation.items()
        for variant in variants
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
        found = gather(params)
    except (OSError, KeyError, UserError) as error:
        return f"params/expected/{params.name}.json cannot be compared: {error}"
    counts, different = [], []
    for what in ("files", "stores", "runs"):
        same = sum(found[what].get(name) == value for name, value in known[what].items())
        counts.append(f"{same} of {len(known[what])} {what}")
        more = sorted(set(known[what].items()) ^ set(found[what].items()))
        different += [f"{what}: {name}" for name in dict.fromkeys(name for name, _ in more)]
    line = f"{', '.join(counts)} have the expected bytes"
    if not different:
        return line
    outside = [
        f"{name} {found['rows'][name]['ua_pooled']:.1%} (known: {low:.1%} to {high:.1%})"
        for name, (low, high) in known["spread"].items()
        if not low - 5e-5 <= found["rows"].get(name, {}).get("ua_pooled", -1) <= high + 5e-5
    ]
    scores = f"outside of the known spread: {', '.join(outside)}" if outside else "all UA lie within the known spread"
    return f"{line}; the first that differs is {different[0]}; {scores}. {_why(known, found)}"


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
