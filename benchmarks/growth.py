"""How seconds and memory grow with the utterances, their length, and the runs that a report reads.

Run as `python -m benchmarks.growth`. Stores are generated, of narrow features, so that 100 000 utterances fit.
`power` is the exponent between the two largest sizes: 1 is linear. What a fixed cost dominates shows less than 1.
"""

import argparse
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.feeding import gathered, lengths, write_store
from foalkit import ROOT, params
from foalkit.corpora.folds import split
from foalkit.features import leaks
from foalkit.features.store import FeatureStore
from foalkit.results import records, scoring
from foalkit.results.records import write_json

UTTERANCES = (1_000, 5_000, 20_000, 100_000)
SECONDS = (1.5, 3.0, 6.0, 12.0)
RUNS = (5, 10, 20, 40)
WIDTH = 8


def cost(action, repeats: int = 5) -> tuple[float, float]:
    """CPU seconds (the best of `repeats`, or of as many as one second holds) and peak megabytes of Python and NumPy."""
    taken = []
    while len(taken) < repeats and sum(taken) < 1:
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    tracemalloc.start()
    action()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(taken), peak / 1e6


def corpus(count: int) -> pd.DataFrame:
    """A manifest of five sessions, ten speakers and dialogues of forty turns."""
    n = np.arange(count)
    session = 1 + n * 5 // count
    table = pd.DataFrame({"utterance": [f"u{i}" for i in n], "session": [f"Ses0{s}" for s in session]})
    table["speaker"] = table["session"] + np.where(n % 2, "M", "F")
    table["dialogue"] = table["session"] + "_" + (n // 40).astype(str)
    table["emotion"] = np.array(["happy", "neutral", "sad", "angry"])[n % 4]
    return table


def predictions(table: pd.DataFrame, epochs: int) -> pd.DataFrame:
    """A run's predictions of noise."""
    rng, parts = np.random.default_rng(0), []
    true = np.arange(len(table)) % 4
    for epoch in range(1, epochs + 1):
        part = table[["utterance", "speaker"]].assign(split="test", epoch=np.int16(epoch), true=true.astype(np.int8))
        logits = rng.standard_normal((len(table), 4), np.float32)
        parts.append(part.assign(**{f"logit_{c}": logits[:, i] for i, c in enumerate("abcd")}))
    return pd.concat(parts, ignore_index=True)


def by_utterances(folder: Path, counts) -> list[tuple]:
    """(what, count, seconds, megabytes) of what is done to a corpus as a whole, and of one batch from it."""
    rows = []
    for count in counts:
        place = folder / str(count)
        rows += [(what, count, *cost(action)) for what, action in _whole(place, count).items()]
        for what, name in (("predictions on disk", "predictions.parquet"), ("features on disk", "features.f16")):
            rows.append((what, count, np.nan, (place / name).stat().st_size / 1e6))
    return rows


def _whole(place: Path, count: int) -> dict:
    p, table = params.load("demo", "training.reproducible=here"), corpus(count)
    frames = np.maximum(1, 4 * lengths(count, np.random.default_rng(0))).astype(int)
    write_store(place, frames, WIDTH)
    store, sides = FeatureStore(place), split(table, p, 1, "honest")
    some = [f"u{i}" for i in np.random.default_rng(1).permutation(count)[:64]]
    said = predictions(table, 5)
    true, heard = said["true"].to_numpy(), said.filter(like="logit_").to_numpy().argmax(1)
    return {
        "open a store": lambda: FeatureStore(place),
        "a batch of 64": lambda: store.batch(some),
        "split, checked": lambda: split(table, p, 1, "honest"),
        "look for copies": lambda: leaks.check_copies(store, sides),
        "look for labels": lambda: leaks.check_not_labels(store, "audio", table),
        "score 5 epochs": lambda: scoring.scores_by_epoch(said),
        "interval": lambda: scoring.interval(true, heard, said["speaker"].to_numpy()),
        "write predictions": lambda: records.write_parquet(place / "predictions.parquet", said),
    }


def by_length(folder: Path, seconds) -> list[tuple]:
    """(what, seconds, CPU seconds, megabytes) of a batch of 64 clips of one length, 1024 wide, 50 frames a second."""
    rows, rng = [], np.random.default_rng(0)

    def some():  # others each time: the same ones would be read from the processor's cache, where they fit
        return [f"u{n}" for n in rng.permutation(256)[:64]]

    for length in seconds:
        place = folder / f"length-{length}"
        write_store(place, np.full(256, int(50 * length)), 1024)
        store = FeatureStore(place)
        rows.append(("packed batch of 64", length, *cost(lambda s=store: gathered(s, some()))))
        rows.append(("padded batch of 64", length, *cost(lambda s=store: s.batch(some()))))
    return rows


def by_runs(folder: Path, counts) -> list[tuple]:
    """(what, runs, seconds, megabytes) of writing and reading the records of folds × seeds × variants."""
    rows, said = [], predictions(corpus(1_000), 5)
    score = {"wa": 0.5, "ua": 0.5, "epoch": 1}
    record = {"run": "", "variant": "baseline", "protocol": "honest", "fold": 1, "seed": 0, "selection": "validation"}
    record |= {"scores": {"validation": score}, "params_digest": "", "sizes": {}, "classes": []}

    def write(number: int) -> Path:
        return records.write_run(folder / f"run{number}", record, said, {})

    def read(count: int) -> None:
        for number in range(count):
            scoring.scores_by_epoch(records.read_predictions(folder / f"run{number}"))

    for count in counts:
        rows.append(("write runs", count, *cost(lambda n=count: [write(i) for i in range(n)], 1)))
        rows.append(("read and score runs", count, *cost(lambda n=count: read(n), 1)))
    return rows


def powers(table: pd.DataFrame) -> pd.DataFrame:
    """Per quantity and measure: the smallest and largest, and the exponent between the two largest sizes."""
    rows = []
    for (against, what), group in table.groupby(["against", "what"], sort=False):
        low, high = group.iloc[-2], group.iloc[-1]
        row = {"against": against, "what": what, "from": group.iloc[0]["size"], "to": high["size"]}
        for measure in ("seconds", "MB"):
            growth = np.log(high[measure] / low[measure]) / np.log(high["size"] / low["size"])
            row |= {f"{measure} at most": float(f"{high[measure]:.3g}"), f"{measure}, power": round(growth, 2)}
        rows.append(row)
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame, file: Path) -> None:
    """Seconds over megabytes, against utterances, length and runs, both axes logarithmic, with a linear guide."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(16, 7), layout="constrained")
    kinds = list(dict.fromkeys(table["against"]))
    for row, measure in zip(fig.subplots(2, len(kinds), squeeze=False), ("seconds", "MB"), strict=True):
        for ax, against in zip(row, kinds, strict=True):
            part = table[(table["against"] == against) & (table[measure] > 0)]
            for what, line in part.groupby("what", sort=False):
                ax.plot(line["size"], line[measure], "o-", ms=3, lw=1.2, label=what)
            ends = np.array([part["size"].min(), part["size"].max()])
            ax.plot(ends, part[measure].median() * ends / ends.mean(), ":", color="black", label="linear")
            ax.set(xscale="log", yscale="log", xlabel=against, ylabel=measure)
            sizes = sorted(set(part["size"]))
            ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
            ax.minorticks_off()
            ax.spines[["top", "right"]].set_visible(False)
            ax.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    fig.savefig(file, dpi=110)


def write(folder: Path, utterances=UTTERANCES, seconds=SECONDS, runs=RUNS) -> pd.DataFrame:
    """Measure, write growth.json and growth.png, and return the table of powers."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        measured = {
            "utterances": by_utterances(scratch, utterances),
            "seconds a clip": by_length(scratch, seconds),
            "runs": by_runs(scratch, runs),
        }
    rows = [(against, *row) for against, found in measured.items() for row in found]
    table = pd.DataFrame(rows, columns=["against", "what", "size", "seconds", "MB"])
    found = powers(table)
    figure(table, folder / "growth.png")
    plain = {"measured": table, "powers": found}
    write_json(
        folder / "growth.json",
        {
            name: [{k: None if pd.isna(v) else v for k, v in row.items()} for row in t.to_dict("records")]
            for name, t in plain.items()
        },
    )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "bench")
    print(write(parser.parse_args().folder).to_string(index=False))
