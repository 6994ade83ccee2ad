"""The notebooks: committed form, headless runs from two directories, determinism by nbval, and the grid."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml

from foalkit import ROOT, params
from foalkit.results import records

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BIN = Path(sys.executable).parent
ENV = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def papermill(name, out, cwd, **parameters):
    """Run notebooks/<name> as a person would in a shell; returns the finished process."""
    call = [BIN / "papermill", ROOT / "notebooks" / f"{name}.ipynb", out, "--no-progress-bar"]
    call += [word for k, v in parameters.items() for word in ("-p", k, str(v))]
    return subprocess.run(call, cwd=cwd, env=ENV, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def executed(tiny_file, tmp_path_factory):
    """All five notebooks run in order on the tiny corpus from a directory that is not the project's."""
    folder = tmp_path_factory.mktemp("executed")
    chosen = {
        "01_preprocess": {},
        "02_train": {"variant": "foal-net", "fold": 2, "retrain": True},
        "03_five_fold": {},
        "04_ablation": {},
        "05_explore": {"variant": "foal-net", "fold": 2},
    }
    for name, more in chosen.items():
        done = papermill(name, folder / f"{name}.ipynb", folder, params=tiny_file, **more)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


# ---- as committed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_committed_notebooks_are_stripped_short_and_in_prose(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert "papermill" in notebook.cells[0].source
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(not c.outputs and c.execution_count is None for c in code)
    assert max(len(c.source.splitlines()) for c in code) <= 14
    assert sum(c.cell_type == "markdown" for c in notebook.cells) >= 0.7 * len(code)
    for cell in code:
        assert not re.search(r"""["'](\.\.?/|outputs/|params/|notebooks/)""", cell.source), "a relative path"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_parameters_cells_hold_literals_that_papermill_can_see(file):
    from papermill import inspect_notebook

    notebook = nbformat.read(file, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    names = {}
    for node in ast.parse(cell.source).body:
        names[node.targets[0].id] = ast.literal_eval(node.value)
    assert set(inspect_notebook(str(file))) == set(names)
    assert names["params"] == "demo" and names["overrides"] == ""


# ---- as run ---------------------------------------------------------------------------------------


def test_run_headless_and_leave_records_and_the_report(executed, tiny):
    record = records.read_record(records.run_folder(tiny, "honest", "foal-net", 2, 0) / "record.json")
    assert record["fold"] == 2 and set(record["scores"]) == {"validation", "last", "test"}
    assert not records.missing_runs(tiny, [(p, v) for p, vs in tiny.ablation.items() for v in vs])
    for name in ("report.html", "tables/ablation.csv", "tables/ablation.tex", "figures/ablation.png"):
        assert (tiny.folder / name).stat().st_size > 500, name


def test_every_picture_has_an_alternative_text(executed):
    pictures = 0
    for file in executed.glob("*.ipynb"):
        for cell in nbformat.read(file, as_version=4).cells:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    pictures += 1
                    assert output.metadata["image/png"]["alt"]
    assert pictures >= 10


def test_nbval_finds_the_same_outputs_again(executed):
    call = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-cell-timeout=300", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*call, str(executed)], cwd=executed, env=ENV, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    checked = sum(
        "nbval-check-output" in c.metadata.get("tags", [])
        for f in executed.glob("*.ipynb")
        for c in nbformat.read(f, as_version=4).cells
    )
    assert checked >= 12 and " passed" in done.stdout


def test_the_same_run_from_two_directories_gives_the_same_bytes(executed, tiny_file, tiny, tmp_path):
    folder = records.run_folder(tiny, "honest", "audio", 3, 0)
    seen = []
    for cwd in (tmp_path, ROOT / "notebooks"):
        done = papermill("02_train", tmp_path / "out.ipynb", cwd, params=tiny_file, variant="audio", fold=3)
        assert done.returncode == 0, done.stderr[-2000:]
        seen.append([(folder / f).read_bytes() for f in ("predictions.parquet", "weights.safetensors")])
    assert seen[0] == seen[1]
    assert not list((ROOT / "notebooks").glob("out*"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"flod": 3}, ["'flod'", "'fold'"]),
        ({"variant": "foalnet"}, ["'foalnet'", "'foal-net'"]),
        ({"overrides": "training.epoch=1"}, ["training.epoch", "'epochs'"]),
    ],
)
def test_a_misspelling_stops_before_any_work_and_names_the_nearest(wrong, words, tiny_file, tmp_path):
    data = yaml.safe_load(tiny_file.read_text()) | {"outputs": str(tmp_path / "none")}
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(data))
    done = papermill("02_train", tmp_path / "out.ipynb", tmp_path, params=file, **wrong)
    assert done.returncode != 0
    line = next(line for line in done.stderr.splitlines() if "UserError" in line)
    assert all(word in line for word in words)
    assert not (tmp_path / "none").exists()


# ---- planted leaks ---------------------------------------------------------------------------------


def same_session_on_two_sides(data, manifest, folder):
    speakers = sorted(manifest["speaker"].unique())
    data["folds"] = {"by": "speaker", "groups": [[s] for s in speakers]}
    return ["dialogue Ses01", "on two sides"]


def copied_sound(data, manifest, folder):
    root = shutil.copytree(data["corpus"]["root"], folder / "corpus")
    data["corpus"] |= {"root": str(root), "generate": None}
    taken, copied = (manifest[manifest["session"] == s].iloc[2] for s in ("Ses03", "Ses01"))
    shutil.copy(root / taken["audio"], root / copied["audio"])
    return ["the same sound is on two sides", taken["utterance"], copied["utterance"]]


def features_from_labels(data, manifest, folder):
    classes = data["corpus"]["classes"]
    for row in manifest.itertuples():
        np.save(folder / f"{row.utterance}.npy", np.eye(4, dtype=np.float32)[[classes.index(row.emotion)] * 3])
    data["features"]["video"] = {"encoder": "imported", "folder": str(folder), "width": 4}
    return ["features.video tell every emotion exactly", "labels"]


@pytest.mark.parametrize("plant", [same_session_on_two_sides, copied_sound, features_from_labels])
def test_a_planted_leak_stops_the_notebook_and_names_the_culprits(plant, tiny_file, data, tmp_path):
    changed = yaml.safe_load(tiny_file.read_text()) | {"outputs": str(tmp_path / "outputs")}
    words = plant(changed, data.table, tmp_path)
    (tmp_path / "leaky.yaml").write_text(yaml.safe_dump(changed))
    done = papermill("02_train", tmp_path / "out.ipynb", tmp_path, params=tmp_path / "leaky.yaml")
    assert done.returncode != 0
    line = next(line for line in done.stderr.splitlines() if "UserError" in line)
    assert all(word in line for word in words), line
    assert not list((tmp_path / "outputs").rglob("record.json"))


# ---- the grid -------------------------------------------------------------------------------------


def snakemake(file, cwd, *flags, overrides=""):
    call = [BIN / "snakemake", "-s", ROOT / "Snakefile", "-d", cwd, "--cores", "2", *flags]
    call += ["--rerun-triggers", "params", "input", "--config", f"params={file}", f"overrides={overrides}"]
    return subprocess.run(call, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=500)


def jobs(done) -> dict[str, int]:
    return {n: int(c) for n, c in re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M) if n != "total"}


@pytest.mark.parametrize(
    ("job", "protocols", "train"),
    [
        ("fold", ["honest"], {"train": 5, "five_fold": 1}),
        ("folds", ["honest", "published"], {"train_honest_video": 1, "train_published_video": 1}),
    ],
)
def test_the_grid_runs_skips_what_is_done_and_resumes(executed, tiny_file, tmp_path, job, protocols, train):
    """On features that are there already: five folds of one variant, then nothing, then what was deleted."""
    data = yaml.safe_load(tiny_file.read_text())
    data["outputs"] = str(tmp_path / "outputs")
    data["ablation"] = {protocol: ["video"] for protocol in protocols}
    data["training"]["job"] = job
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(data))
    first = snakemake(file, tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    assert jobs(first) == {"preprocess": 1, **train, "ablation": 1, "all": 1}
    assert not records.missing_runs(params.load(file), [(protocol, "video") for protocol in protocols])
    assert str(tmp_path / "outputs" / "report.html") in first.stdout + first.stderr
    again = snakemake(file, tmp_path)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr
    record = tmp_path / "outputs" / "runs" / "honest" / "video" / "fold4-seed0" / "record.json"
    record.unlink()
    rule = next(iter(train))
    resumed = jobs(snakemake(file, tmp_path, "--dry-run"))
    assert resumed[rule] == 1 and "preprocess" not in resumed
    changed = jobs(snakemake(file, tmp_path, "--dry-run", overrides="training.epochs=3"))
    assert changed[rule] == train[rule] and "preprocess" not in changed


def test_the_grid_refuses_a_misspelt_params_file(tmp_path):
    done = snakemake("dmeo", tmp_path, "--dry-run")
    assert done.returncode != 0
    assert "did you mean 'demo'?" in done.stdout + done.stderr


def test_the_demo_grid_is_the_seven_rows_and_two_published(tmp_path):
    p = params.load("demo")
    assert p.ablation["honest"] == ["video-face", "video", "audio", "baseline", "avel", "mem", "foal-net"]
    assert {"baseline", "foal-net"} <= set(p.ablation["published"])
    found = jobs(snakemake("demo", ROOT, "--dry-run", overrides=f"outputs={tmp_path / 'out'}"))
    trained = [f"train_honest_{v}" for v in p.ablation["honest"]] + [
        "train_published_baseline",
        "train_published_foal-net",
    ]
    assert {n: c for n, c in found.items() if n.startswith("train")} == {n.replace("-", "_"): 1 for n in trained}
    alone = jobs(snakemake("demo", ROOT, "--dry-run", overrides=f"outputs={tmp_path / 'out'} training.job=fold"))
    assert alone["train"] == 45 and alone["five_fold"] == 9


def test_the_saved_record_is_json_with_the_promised_fields(executed, tiny):
    record = json.loads((records.run_folder(tiny, "honest", "foal-net", 2, 0) / "record.json").read_text())
    for key in (
        "variant",
        "protocol",
        "fold",
        "seed",
        "sizes",
        "params_digest",
        "split_digest",
        "feature_digests",
        "manifest_digest",
        "encoders",
        "provenance",
        "seconds",
        "device",
    ):
        assert key in record, key
    assert {"commit", "dirty", "packages"} <= set(record["provenance"])
    for score in record["scores"].values():
        assert 0 <= score["wa"] <= 1 and 0 <= score["ua"] <= 1 and 1 <= score["epoch"] <= 2
