"""`make bench`: one table, what it rests on as JSON, and a figure, under outputs/bench/.

`--only feeding,extraction` runs some; `--gpu` adds the rows by the clock of a GPU.
"""

import argparse
import importlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from foalkit import ROOT, UserError, devices
from foalkit.params.errors import nearest
from foalkit.results.records import provenance, write_json

KINDS = ("training_step", "cfn_sr", "finetuning", "extraction", "feeding", "growth")
LIMIT = 200  # seconds after which no other kind begins, so that a slow machine takes five minutes too
COLUMNS = {
    "what": "",
    "plain": "plain, s",
    "ours": "ours, s",
    "ratio": "ratio",
    "low": "at least (95 %)",
    "rounds": "rounds",
    "share": "of the limit",
    "equality": "equal to",
}


def machine() -> str:
    """The processor, as the system names it, with its cores; no host name."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    units = "amx_bf16" if any("amx_bf16" in line for line in lines) else "avx512_bf16" if devices.has_bf16() else "no"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores, {units} units for bf16{gpu}; torch {torch.__version__}"


def table(rows: list[dict]) -> pd.DataFrame:
    """The rows as they are printed: three digits, an en dash where there is nothing to say."""
    shown = pd.DataFrame(rows).reindex(columns=COLUMNS)
    for column in ("plain", "ours"):
        shown[column] = [f"{x:.3g}" for x in shown[column]]
    for column in ("ratio", "low"):
        shown[column] = [f"{x:.2f}×" for x in shown[column]]
    shown.loc[shown["rounds"] == 1, "low"] = "–"  # one round says nothing of the spread
    shown["share"] = ["–" if pd.isna(x) else f"{x:.0%}" for x in shown["share"]]
    return shown.rename(columns=COLUMNS)


def figure(rows: list[dict], about: str, file: Path) -> None:
    """One bar a row: how many times faster, the 95 % lower bound as a tick."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9, 0.8 + 0.36 * len(rows)), layout="constrained")
    ax = fig.subplots()
    places = range(len(rows))
    bars = ax.barh(places, [row["ratio"] for row in rows], color="#4c78a8", height=0.6)
    ax.bar_label(bars, [f"{row['ratio']:.1f}×" for row in rows], padding=4)
    ax.plot([row["low"] for row in rows], places, "|", color="black", ms=12, label="95 % lower bound")
    ax.axvline(1, color="grey", lw=0.8)
    ax.set(yticks=places, yticklabels=[row["what"] for row in rows], xscale="log", xlabel="times faster than plain")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.2)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    fig.supxlabel(about, fontsize=8)
    fig.savefig(file, dpi=110)


def run(folder: Path, kinds=KINDS, *, rounds: int = 7, gpu: bool = False) -> list[dict]:
    """Measure, print, and write bench.json, bench.png (and growth's own files); returns the rows.

    Raises UserError, once all is written, for a benchmark whose two versions are not equal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    threads, rows, seconds, unequal, growth = torch.get_num_threads(), [], {}, {}, None
    begun = time.monotonic()
    if "growth" in kinds:  # by the side of the others: all of it is CPU time
        print("growth: by the side of the others", flush=True)
        command = [sys.executable, "-m", "benchmarks.growth", "--folder", str(folder)]
        env = os.environ | {"PYTHONIOENCODING": "utf-8"}
        growth = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, encoding="utf-8")
    if not devices.has_bf16():
        print("this processor has no units for bf16: the rows in bf16 are left out", flush=True)
    for kind in (k for k in kinds if k != "growth"):
        start = time.monotonic()
        if start - begun > LIMIT:
            print(f"{kind}: left out, the others took {start - begun:.0f} s; --only {kind} measures it", flush=True)
            continue
        print(f"{kind}:", flush=True)
        module = importlib.import_module(f"benchmarks.{kind}")
        try:
            rows += [{"kind": kind, **row} for row in module.measure(rounds)]
            if gpu and hasattr(module, "measure_gpu"):
                rows += [{"kind": kind, **row} for row in module.measure_gpu(rounds)]
        except AssertionError as error:
            unequal[kind] = str(error)
        seconds[kind] = round(time.monotonic() - start, 1)
        print(f"  done in {seconds[kind]:.0f} s", flush=True)
    torch.set_num_threads(threads)
    about = machine()
    if rows:
        with pd.option_context("display.width", 250, "display.max_colwidth", None, "display.max_columns", None):
            print("\n" + table(rows).to_string(index=False))
        figure(rows, about, folder / "bench.png")
    if growth is not None:
        print("\n" + growth.communicate()[0])
        if growth.returncode:
            raise UserError("growth ended with an error (above)")
    print(f"\n{about}\nplain and ours: CPU time of one thread, medians over the rounds; ratios: within a round")
    made = {"machine": about, "rounds": rounds, "seconds": seconds, "rows": rows, "unequal": unequal}
    write_json(folder / "bench.json", provenance() | made)
    for kind, reason in unequal.items():
        raise UserError(f"{kind}: not equal: {reason}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default=",".join(KINDS), help="a comma-separated choice")
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")
    kinds = given.only.split(",")
    try:
        for kind in kinds:
            if kind not in KINDS:
                raise UserError(f"unknown benchmark {kind!r}; {nearest(kind, KINDS)}")
        if given.gpu and not torch.cuda.is_available():
            raise UserError("--gpu: torch sees no GPU here")
        run(ROOT / "outputs" / "bench", kinds, rounds=given.rounds, gpu=given.gpu)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
