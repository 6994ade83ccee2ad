"""Runs from made-up records: what the tables, the report and its check are tested on."""

import functools
import json
import shutil
import wave
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from foalkit import params
from foalkit.report import figures
from foalkit.results import records, scoring
from foalkit.results import variants as report_results

CLASSES = ["happy", "neutral", "sad", "angry"]
EPOCHS = 3


def params_in(outputs: Path) -> params.Params:
    ablation = "ablation={honest: [audio, baseline, foal-net, ledger-cosine], published: [foal-net]}"
    return params.load("demo", [f"outputs={outputs}", ablation])


@pytest.fixture
def p(tmp_path):
    return params_in(tmp_path / "out")


provenance = functools.cache(records.provenance)  # every run is of one commit


def write_run(p, protocol, variant, fold, skill, seed=0, params_digest=None):
    """A run whose test predictions are right with probability `skill`, better in the middle epoch."""
    rng, truth = np.random.default_rng([fold, seed, int(100 * skill)]), np.random.default_rng([fold, 7])
    classes, sureness = p.corpus.classes, np.random.default_rng([fold, 9]).uniform(1, 5, (40, 1))
    speakers = p.folds.groups[fold - 1] if p.folds.by == "speaker" else [f"Ses0{fold}F", f"Ses0{fold}M"]
    splits = ["test"] + (["validation"] if protocol != "published" else [])
    rows = []
    for split in splits:
        true = truth.integers(0, len(classes), 40)
        for epoch in range(1, EPOCHS + 1):
            right = rng.random(40) < skill + 0.1 * (epoch == 2)
            predicted = np.where(right, true, (true + 1) % len(classes))
            logits = (sureness * np.eye(len(classes))[predicted]).astype(np.float32)
            rows.append(
                pd.DataFrame(
                    {
                        "utterance": [f"Ses0{fold}F_{split}_{i:03}" for i in range(40)],
                        "speaker": [speakers[i % len(speakers)] for i in range(40)],
                        "split": split,
                        "epoch": np.int16(epoch),
                        "true": true.astype(np.int8),
                        **{f"logit_{c}": logits[:, i] for i, c in enumerate(classes)},
                    }
                )
            )
    predictions = pd.concat(rows, ignore_index=True)
    by_epoch = scoring.scores_by_epoch(predictions)
    history = [
        {"epoch": e, "ce": 1.0 / e, **{f"{s}_{m}": 0.5 for s in splits for m in ("ua", "wa")}} for e in (1, 2, 3)
    ]
    record = {
        "run": f"x/{protocol}/{variant}/fold{fold}-seed{seed}",
        "variant": variant,
        "protocol": protocol,
        "fold": fold,
        "seed": seed,
        "selection": scoring.SELECTION[protocol],
        "scores": scoring.selected_scores(by_epoch),
        "params_digest": params_digest or p.digest(variant),
        "sizes": {"train": 9, "validation": 40, "test": 40},
        "classes": classes,
        "parameters": 10,
        "seconds": 1.0,
        "history": history,
        "provenance": provenance(),
    }
    records.write_run(records.run_folder(p, protocol, variant, fold, seed), record, predictions, {"w": torch.zeros(1)})
    return predictions


def manifest(kept) -> pd.DataFrame:
    """The manifest of the made-up test utterances: turns of 1 to 2.6 s; the first of each fold is acted."""
    rows = []
    for fold in range(1, 6):
        table = kept["honest", "audio", fold].query("split == 'test' and epoch == 1")
        for i, turn in enumerate(table.to_dict("records")):
            start, length = 3.5, 1 + 0.4 * (i % 5)
            kind = "acted" if i == 0 else "scripted" if i % 3 == 0 else "improvised"
            known = {"gender": "FM"[i % 2], "kind": kind, "start": start, "end": start + length}
            rows.append({k: turn[k] for k in ("utterance", "speaker")} | known)
            rows[-1]["emotion"] = CLASSES[turn["true"]]
    return pd.DataFrame(rows)


def write_grid(p) -> dict[tuple, pd.DataFrame]:
    """Write the made-up runs and what preprocessing leaves; returns each run's predictions."""
    kept = {}
    for (protocol, variant), skill in {
        ("honest", "audio"): 0.5,
        ("honest", "baseline"): 0.6,
        ("honest", "foal-net"): 0.7,
        ("honest", "ledger-cosine"): 0.4,
        ("published", "foal-net"): 0.7,
    }.items():
        for fold in range(1, 6):
            kept[protocol, variant, fold] = write_run(p, protocol, variant, fold, skill)
    records.write_parquet(p.folder / "manifest.parquet", manifest(kept))
    records.write_json(
        p.folder / "preprocess.json",
        {
            "utterances": 200,
            "left_out": 3,
            "longer_than_clip": 2,
            "counts": {c: 50 for c in CLASSES},
            "ceilings": {"audio": 0.7, "video": 0.7, "both": 0.92},
            "features": {"audio": {"encoder": {"encoder": "log-mel"}}},
        },
    )
    return kept


def write_named_grid(tmp_path: Path, names: list[str]) -> params.Params:
    """Made-up runs whose classes, labels, printed methods and first speakers are called so."""
    a, b, c, d = names
    whole = params.load("demo").model_dump()
    whole |= {
        "name": a,
        "about": b,
        "outputs": str(tmp_path / "out" / "p"),
        "ablation": {"honest": ["audio", "baseline", "foal-net", "ledger-cosine"], "published": ["foal-net"]},
        "folds": {"by": "speaker", "groups": [[f"Ses0{n}F", f"Ses0{n}M"] for n in range(1, 6)]},
    }
    whole["folds"]["groups"][0] = [c, d]
    whole["corpus"] |= {"classes": names, "labels": dict(zip(names, names, strict=True))}
    for variant, label in zip(("audio", "baseline", "foal-net"), names, strict=False):
        whole["variants"][variant] |= {"label": label, "question": label, "note": label, "published": {label: (50, 60)}}
    p = params.Params.model_validate(whole)
    kept = write_grid(p)
    info = json.loads((p.folder / "preprocess.json").read_text())
    records.write_json(p.folder / "preprocess.json", info | {"counts": dict.fromkeys(names, 50)})
    rows = dict(zip(CLASSES, names, strict=True))
    turns = manifest(kept)
    records.write_parquet(p.folder / "manifest.parquet", turns.assign(emotion=turns["emotion"].map(rows)))
    return p


def write_cfn_grid(outputs: Path, seeds=(0,)) -> params.Params:
    """CFN-SR's rows on RAVDESS's folds, made up: six honest folds, five published ones."""
    rows = "[cfn-video, cfn-audio, concat, no-residual, cfn-sr]"
    ablation = f"ablation={{honest: {rows}, published: [cfn-video, cfn-audio, concat, cfn-sr]}}"
    p = params.load("ravdess-cfnsr", [f"outputs={outputs}", f"seeds={list(seeds)}", "corpus.root=nowhere", ablation])
    turns = []
    for protocol, variants in p.ablation.items():
        for i, variant in enumerate(variants):
            for fold, seed in product(p.fold_numbers(protocol), seeds):
                kept = write_run(p, protocol, variant, fold, 0.3 + 0.1 * i, seed)
                if protocol == "honest" and not i and not seed:
                    turns.append(kept.query("split == 'test' and epoch == 1")[["utterance", "speaker", "true"]])
    table = pd.concat(turns)
    table["emotion"] = [p.corpus.classes[t] for t in table.pop("true")]
    table = table.assign(gender="F", kind="acted", start=0.0, end=3.5, audio="", video="")
    records.write_parquet(p.folder / "manifest.parquet", table)
    info = {"utterances": 240, "left_out": 0, "longer_than_clip": 0, "counts": {}, "ceilings": None, "features": {}}
    records.write_json(p.folder / "preprocess.json", info)
    return p


@pytest.fixture(scope="module")
def grid_once(tmp_path_factory):
    """The folder of the made-up runs, and each run's predictions."""
    p = params_in(tmp_path_factory.mktemp("made-up") / "out")
    return p.folder, write_grid(p)


@pytest.fixture
def grid(p, grid_once):
    """The made-up runs, a copy of this test's own: what the records hold does not depend on where they lie."""
    folder, kept = grid_once
    shutil.copytree(folder, p.folder, dirs_exist_ok=True)
    return {run: table.copy() for run, table in kept.items()}


@pytest.fixture
def undrawn(monkeypatch):
    """Reports whose figures are made and described but not drawn, for tests that read words and numbers."""
    monkeypatch.setattr(figures, "png", lambda figure, dpi=110: b"")


def results(p):
    return [report_results.variant_result(p, protocol, v) for protocol, vs in p.ablation.items() for v in vs]


def naive_recall(true, predicted):
    return sum(
        sum(t == c and q == c for t, q in zip(true, predicted, strict=True)) / sum(t == c for t in true)
        for c in set(true)
    ) / len(set(true))


def answers(p, grid, variant):
    """(truth, answers, speakers) by utterance at the epoch that validation chose, over all folds."""
    found = {}
    for fold in range(1, 6):
        record = records.read_record(records.run_folder(p, "honest", variant, fold, 0) / "record.json")
        table = grid["honest", variant, fold]
        at = record["scores"]["validation"]["epoch"]
        for row in table[(table["split"] == "test") & (table["epoch"] == at)].to_dict("records"):
            logits = [row[f"logit_{c}"] for c in CLASSES]
            found[row["utterance"]] = (row["true"], logits.index(max(logits)), row["speaker"])
    return found


def tone(file: Path, seconds: float = 1.5) -> Path:
    """A wav of a steady tone, 16 kHz."""
    samples = (8000 * np.sin(np.arange(int(16_000 * seconds)) / 5)).astype("<i2")
    with wave.open(str(file), "wb") as written:
        written.setparams((1, 2, 16_000, 0, "NONE", ""))
        written.writeframes(samples.tobytes())
    return file
