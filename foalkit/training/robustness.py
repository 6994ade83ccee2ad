"""Trained rows answer a damaged test side: its features made on the fly, once for all rows of a fold."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from foalkit import UserError
from foalkit.corpora.folds import split
from foalkit.corpora.manifest import corpus_root
from foalkit.features.corrupted import CorruptedReader, threads
from foalkit.features.data import Data, open_data
from foalkit.features.reasons import Reason
from foalkit.features.store import InMemory
from foalkit.files import write_json
from foalkit.params import Params
from foalkit.params.load import corpus_place
from foalkit.progress import progress
from foalkit.results import records
from foalkit.results import robustness as results
from foalkit.training.loop import predict
from foalkit.training.networks import Net, trained_net
from foalkit.training.predictions import looked_up, rows_of

AT_ONCE = 32  # utterances whose damaged features are in memory


def measure(params: Params) -> list[Path]:
    """Answers of all runs of `robustness.rows` on their damaged test sides, as far as they are not there yet.

    Returns the records' paths; robustness.json names them too and says to the grid that all is done. A clip that cannot
    be read is left out with its reason, and is tried again by the next call; streams of features made elsewhere stay as
    they are. Raises UserError for a run that is missing.
    """
    rows = results.tried_rows(records.runnable(params))
    wanted = [("honest", variant) for variant in rows]
    if missing := records.missing_runs(params, wanted):
        protocol, variant, fold, seed = missing[0]
        raise UserError(f"robustness: {protocol}/{variant} has no run for fold {fold} seed {seed}; train it first")
    runs = [run for row in wanted for run in records.read_runs(params, *row)]
    todo = [run for run in runs if not results.finished(params, run)]
    if todo:
        streams = list(dict.fromkeys(s for run in todo for s in params.variants[run["variant"]].streams))
        data = open_data(params, streams)
        threads_before = torch.get_num_threads()
        torch.set_num_threads(params.training.threads)  # CPU sums depend on how many threads share them
        try:
            with threadpool_limits(1, user_api="blas"):
                for fold in progress(sorted({run["fold"] for run in todo}), "robustness, folds"):
                    own = data.of_fold(params, fold, streams)
                    _fold(params, own, streams, [run for run in todo if run["fold"] == fold])
        finally:
            torch.set_num_threads(threads_before)
    files = [results.record_file(params, run) for run in runs]
    names = [file.relative_to(params.folder).as_posix() for file in files]
    write_json(params.folder / "robustness.json", {"conditions": params.robustness.digest, "records": names})
    return files


def _fold(params: Params, data: Data, streams: list[str], runs: list[dict]) -> None:
    """Measure and write the runs of one fold: each clip is decoded once a stream, damaged and encoded once a level."""
    began, worked = time.monotonic(), time.process_time()
    root = corpus_root(params) if params.corpus.generate else corpus_place(params)
    sides = split(data.table, params, runs[0]["fold"], "honest")
    readers = {s: CorruptedReader(params, s, root) for s in streams if params.kinds[s] != "numbers"}
    nets = [trained_net(params, run, data.stores) for run in runs]
    tested = data.table.set_index("utterance", drop=False).loc[sides.test].to_dict("records")
    parts: list[list[pd.DataFrame]] = [[] for _ in runs]
    left_out: list[dict[str, str]] = [{} for _ in runs]
    with threads(readers.values()) as pool:
        for start in range(0, len(tested), AT_ONCE):
            some = tested[start : start + AT_ONCE]
            made = {s: reader.all_of(some, pool) for s, reader in readers.items()}
            for i, (run, net) in enumerate(zip(runs, nets, strict=True)):
                answered, missing = _answers(params, data, run, net, [row["utterance"] for row in some], made)
                parts[i] += answered
                left_out[i] |= missing
    spent, worked = time.monotonic() - began, time.process_time() - worked
    shared = {"seconds_of_the_fold": round(spent, 2), "cpu_seconds_of_the_fold": round(worked, 2), "rows": len(runs)}
    for run, answered, missing in zip(runs, parts, left_out, strict=True):
        own = params.variants[run["variant"]].streams
        elsewhere = [s for s in own if s not in readers]
        nobody = rows_of(data, looked_up(data, []), np.zeros((0, len(data.classes)), "f4"), condition="")
        table = pd.concat(answered, ignore_index=True) if answered else nobody
        results.write(params, run, table, left_out=missing, undamaged_streams=elsewhere, **shared)


def _answers(params: Params, data: Data, run: dict, net: Net, utterances: list[str], made: dict):
    """A run's answers to some utterances under each condition that reaches one of its streams, and what has none."""
    p, streams = params.for_variant(run["variant"]), params.variants[run["variant"]].streams
    tables, left_out = [], {}
    for condition in params.robustness.conditions:
        damaged = [s for s in streams if s in made and params.kinds[s] == condition.of]
        if not damaged:
            continue
        # of a stream that a take lacks there is nothing to damage
        here = {u: {s: made[s][u][condition] for s in damaged if u in data.stores[s].lengths} for u in utterances}
        reasons = {u: why for u, found in here.items() for why in found.values() if isinstance(why, Reason)}
        left_out |= {f"{condition.name}: {u}": why for u, why in reasons.items()}
        there = [u for u, found in here.items() if found and u not in reasons]
        if there:
            stores = {
                s: InMemory({u: here[u][s] for u in there if s in here[u]}, data.stores[s].width, data.stores[s].dtype)
                for s in damaged
            }
            logits = predict(net, {**data.stores, **stores}, streams, there, p)
            tables.append(rows_of(data, looked_up(data, there), logits, condition=condition.name))
    return tables, left_out
