"""foalkit installed from its wheel, away from the checkout; and what needs no PyTorch, without it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml

from foalkit import ROOT

HEAVY = (
    "torch torchvision torchaudio av librosa soundfile numba transformers open_clip timm dlib accelerate safetensors"
)
HEAVY += " huggingface_hub h5py snakemake papermill IPython ipywidgets jupyterlab seaborn psutil requests pooch tqdm"
WITHOUT = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY.split()}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
SCORES = "scoring comparison records variants tables claims published protocols terms encoders robustness posteriors"


def python(*words, env=None, cwd=ROOT, status=0):
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of this checkout in which work has been done."""
    source = tmp_path_factory.mktemp("source")
    for name in ("foalkit", "params", "notebooks", "profiles", "docs", "tests"):
        shutil.copytree(ROOT / name, source / name)
    for file in [f for f in ROOT.iterdir() if f.is_file()]:
        shutil.copy(file, source)
    left = ["outputs/demo/report.html", "build/lib/foalkit/old.py", "notebooks/.ipynb_checkpoints/02_train.ipynb"]
    for name in [*left, "foalkit/__pycache__/cli.pyc", "params/.demo.yaml.part"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("left over", encoding="utf-8")
    notebook = json.loads((source / "notebooks" / "00_doctor.ipynb").read_text(encoding="utf-8"))
    for cell in (c for c in notebook["cells"] if c["cell_type"] == "code"):
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "left over"}]
    (source / "notebooks" / "00_doctor.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    out = tmp_path_factory.mktemp("wheel")
    python("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """A folder that has nothing to do with the checkout, and an environment whose Python has the wheel installed."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("else where")
    python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    (folder / "yaml.py").write_text("raise SystemExit('not this one')")  # a file of the caller's is no module
    return folder, {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}


def test_the_wheel_holds_what_is_needed_and_nothing_that_was_left_over(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert not [name for name in names if b"left over" in archive.read(name)]
    shared = [*ROOT.glob("params/*.yaml"), *ROOT.glob("params/expected/*"), *ROOT.glob("notebooks/*.ipynb")]
    shared += [ROOT / "Snakefile", ROOT / "requirements.lock", ROOT / "profiles" / "slurm" / "config.yaml"]
    assert {f"foalkit/shared/{file.relative_to(ROOT)}" for file in shared} <= names
    code = {f.relative_to(ROOT).as_posix() for f in (ROOT / "foalkit").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == code


def test_a_grid_runs_elsewhere_and_is_checked_without_pytorch(elsewhere, corpus):
    folder, env = elsewhere
    mine = {"base": "demo", "about": "mine", "corpus": {"root": str(corpus), "generate": None}}
    mine |= {"features": {"video": None, "face": None}, "model": {"inputs": {"video": None, "face": None}}}
    mine |= {"training": {"epochs": 1}, "robustness": {"rows": []}}
    mine |= {"ablation": {"honest": ["audio"], "published": None, "random-split": None}}
    (folder / "params").mkdir()
    (folder / "params" / "mine.yaml").write_text(yaml.safe_dump(mine))
    before = set(ROOT.iterdir()), set((ROOT / "outputs").iterdir())
    said = python("-m", "foalkit", "grid", "mine", env=env, cwd=folder)
    assert str(folder / "outputs" / "mine" / "report.html") in said
    record = json.loads((folder / "outputs/mine/runs/honest/audio/fold1-seed0/record.json").read_text())
    assert record["provenance"]["commit"] is None and record["provenance"]["lock"]
    check = "from foalkit.cli import main; raise SystemExit(main(['check', 'mine']))"
    assert "numbers agree, 1 stores" in python("-c", WITHOUT + check, env=env, cwd=folder)
    assert (set(ROOT.iterdir()), set((ROOT / "outputs").iterdir())) == before


def test_the_packages_own_params_are_found_elsewhere(elsewhere, tmp_path):
    folder, env = elsewhere
    script = f"""
from foalkit.params import load
from foalkit.params.load import params_files, read_claims, read_ledger, read_published
from foalkit.report import expected
p = load("demo")
print("demo" in params_files(), len(read_claims()), len(read_published()), len(read_ledger()), p.file, p.folder)
print((expected.FOLDER / "demo.json").exists())
print(load("demo", "outputs={tmp_path}/x").folder)
"""
    first, second, third = python("-c", script, env=env, cwd=folder).splitlines()
    yes, *counts, file, place = first.split(" ", 5)
    assert yes == second == "True" and min(map(int, counts)) > 3
    assert file == "params/demo.yaml" and place == str(folder / "outputs" / "demo") and third == f"{tmp_path}/x"
    named = python("-c", script, env=env | {"FOALKIT_ROOT": str(tmp_path)}, cwd=folder)
    assert f"{tmp_path}/outputs/demo" in named
    assert "STOP" not in python("-m", "foalkit", "doctor", "demo", env=env, cwd=folder)


def test_scores_records_claims_and_report_need_no_pytorch():
    rooms = [f"foalkit.results.{name}" for name in SCORES.split()]
    rooms += ["foalkit.params.keys", "foalkit.report.page", "foalkit.report.check", "foalkit.report.expected"]
    python("-c", f"{WITHOUT}import {', '.join(rooms)}")


def test_a_verb_that_needs_more_says_what_to_install():
    said = python("-c", f"{WITHOUT}from foalkit.cli import main; sys.exit(main(['grid', 'demo']))", status=1)
    assert "error: " in said and "av is not installed" in said and "Traceback" not in said
