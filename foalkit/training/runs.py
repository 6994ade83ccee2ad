"""Runs: trained, saved, read back."""

import shutil
import time
from pathlib import Path

import pandas as pd

from foalkit import devices
from foalkit.corpora.folds import Split, check_coverage, split, write_random_parts
from foalkit.features import leaks
from foalkit.features.data import Data, open_data
from foalkit.files import digest
from foalkit.params import Params
from foalkit.params.trained_on import may_have_seen, trained_on
from foalkit.progress import progress
from foalkit.results import records, terms
from foalkit.training.loop import Result, Start, train


def save(
    params: Params, variant: str, fold: int, seed: int, protocol: str, data: Data, sides: Split, result: Result
) -> Path:
    """Write the run's predictions, weights and, last, its record.json; returns the record's path."""
    streams, p = params.variants[variant].streams, params.for_variant(variant)
    history = result.history.astype(float).round(6).to_dict("records")
    record = {
        "run": f"{params.name}/{protocol}/{variant}/fold{fold}-seed{seed}",
        "params_name": params.name,
        "differs": params.differs,
        "variant": variant,
        "protocol": protocol,
        "fold": fold,
        "seed": seed,
        "selection": result.selection,
        "scores": result.scores,
        "classes": data.classes,
        "labels": params.corpus.labels,
        **({"target": p.taught(variant)} if p.training.target == "soft" else {}),  # else there are labels alone
        "sizes": {"train": len(sides.train), "validation": len(sides.validation), "test": len(sides.test)},
        "groups": sides.groups,
        **lacking(data, sides, streams),
        "split_digest": sides.digest,
        "params_digest": params.digest(variant),
        "params": p.model_dump(mode="json", exclude={"variants"}),
        "network": params.variants[variant].network,
        "streams": streams,
        "starts_from": {
            v: records.read_record(records.run_folder(params, protocol, v, fold, seed) / "record.json")[
                "weights_digest"
            ]
            for v in params.variants[variant].starts_from
        },
        "manifest_digest": data.info["manifest_digest"],
        "feature_digests": {s: data.info["features"][s]["digest"] for s in streams},
        "encoders": {s: data.info["features"][s]["encoder"] for s in streams},
        "trained_on": {s: names for s, names in trained_on(params).items() if s in streams},
        "may_have_seen": {s: why for s, why in may_have_seen(params).items() if s in streams},
        "terms": terms.judged(history, result.scores[result.selection]["epoch"], len(data.classes), result.selection),
        "reach": result.reach,
        "parameters": result.parameters,
        "device": result.device,
        "precision": devices.precision(p.training.precision, result.device),
        "history": history,
        "seconds": round(result.seconds, 2),
        "resumed": result.resumed,
        "cpu_seconds": round(result.cpu_seconds, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "provenance": records.provenance(),
    }
    if protocol == "random-split":
        write_random_parts(data.table, params)
    folder = records.run_folder(params, protocol, variant, fold, seed)
    file = records.write_run(folder, record, result.predictions, result.weights, result.absent)
    for kept in folder.glob("unfinished-*"):
        shutil.rmtree(kept)
    return file


def lacking(data: Data, sides: Split, streams: list[str]) -> dict:
    """How many utterances of each side lack a stream, under `lacking`; nothing where none does."""
    counts = {
        s: {side: sum(u not in data.stores[s].lengths for u in getattr(sides, side)) for side in sides.groups}
        for s in streams
    }
    counts = {s: by_side for s, by_side in counts.items() if any(by_side.values())}
    return {"lacking": counts} if counts else {}


def unfinished(params: Params, variant: str, fold: int, seed: int, protocol: str, data: Data) -> Path:
    """Where this run keeps its finished epochs until it has a record; another name for other params or features."""
    made_of = [params.digest(variant), *_features(params, variant, data)]
    return records.run_folder(params, protocol, variant, fold, seed) / f"unfinished-{digest(made_of)}"


def run(params: Params, variant: str, fold: int, seed: int, protocol: str, data: Data | None = None) -> Path:
    """Prepare what is missing, train and save one run: what notebook 02 does step by step."""
    streams = params.variants[variant].streams
    data = (data or open_data(params, streams)).having(streams).of_fold(params, fold, streams)
    check_coverage(data.table, params)
    sides = split(data.table, params, fold, protocol, variant)
    leaks.check(data, sides, params.kinds)
    start = first_weights(params, variant, fold, seed, protocol)
    keep = unfinished(params, variant, fold, seed, protocol, data)
    result = train(params, variant, data, sides, seed, protocol, start=start, keep=keep)
    leaks.check_statistics(result.weights, data.stores, sides)
    return save(params, variant, fold, seed, protocol, data, sides, result)


def finished(params: Params, variant: str, fold: int, seed: int, protocol: str, data: Data) -> Result | None:
    """The run as it was saved, or None where it is not there, or was made with other params or other features.

    Raises UserError for a record or files of it that are not whole.
    """
    folder = records.run_folder(params, protocol, variant, fold, seed)
    if not (folder / "record.json").exists():
        return None
    record = records.read_record(folder / "record.json")
    now = (params.digest(variant), *_features(params, variant, data))
    if tuple(record.get(k) for k in ("params_digest", "manifest_digest", "feature_digests")) != now:
        return None
    absent = "absent_digest" in record
    return Result(
        history=pd.DataFrame(record["history"]),
        predictions=records.read_predictions(folder),
        absent=records.read_predictions(folder, "absent") if absent else pd.DataFrame({"utterance": []}),
        weights=records.read_weights(folder),
        cpu_seconds=record.get("cpu_seconds"),
        resumed=record.get("resumed", []),
        reach=record.get("reach", {}),
        **{name: record[name] for name in ("scores", "selection", "parameters", "device", "seconds")},
    )


def _features(params: Params, variant: str, data: Data) -> tuple[str, dict[str, str]]:
    """The digests of the manifest and of the features that a variant is trained on."""
    streams = params.variants[variant].streams
    return data.info["manifest_digest"], {s: data.info["features"][s]["digest"] for s in streams}


def trained_before(params: Params, variant: str, fold: int, seed: int, protocol: str) -> str:
    """When a finished run was trained, and the UA that it reached, in words."""
    record = records.read_record(records.run_folder(params, protocol, variant, fold, seed) / "record.json")
    return f"trained {record['finished']}, UA {record['scores'][record['selection']]['ua']:.1%}"


def first_weights(params: Params, variant: str, fold: int, seed: int, protocol: str) -> Start:
    """The weights that a variant starts from, by variant: the selected epoch's of the same fold, seed and protocol.

    A run that is not there is trained first. Raises UserError for weights that are not the ones of their record.
    """
    states = {}
    for name in params.variants[variant].starts_from:
        if any(f == fold and s == seed for _, _, f, s in records.missing_runs(params, [(protocol, name)])):
            run(params, name, fold, seed, protocol)
        state = records.read_weights(records.run_folder(params, protocol, name, fold, seed))
        states[name] = {k.removeprefix("core."): v for k, v in state.items() if k.startswith("core.")}
    return states


def run_all(params: Params, runs: list[tuple[str, str, int, int]]) -> list[Path]:
    """Train and save each (protocol, variant, fold, seed), in this process, with progress."""
    data = open_data(params)
    return [
        run(params, variant, fold, seed, protocol, data) for protocol, variant, fold, seed in progress(runs, "runs")
    ]
