"""How the grid is started: locks of the dead go, those of the living stay, values arrive as they were written."""

import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import pytest
import yaml
from conftest import refused

from foalkit import ROOT, cli, files, grid, params
from foalkit.features import data


@pytest.fixture
def called(monkeypatch, tmp_path):
    """What would be called, and the folder it is called in; a small program stands in for Snakemake."""
    seen = []
    popen = subprocess.Popen

    def instead(call, **how):
        seen.append((call, how))
        said = "Select jobs to execute...\nJob 1: train\n[Thu Nov 26 01:00:00 2026]\nerror: wrong\n"
        return popen([sys.executable, "-c", f"print({said!r}, end='')"], **how)

    monkeypatch.setattr(grid.subprocess, "Popen", instead)
    load = grid.load

    def elsewhere(*given):
        """Params whose outputs are not this project's own: a grid takes away what is damaged there."""
        p = load(*given)
        own = p.folder.is_relative_to(ROOT)
        return p.model_copy(update={"outputs": str(tmp_path / "outputs" / p.name)}) if own else p

    monkeypatch.setattr(grid, "load", elsewhere)
    monkeypatch.setattr(grid, "_queued", lambda folder: [])
    return seen, tmp_path


def test_values_arrive_as_they_were_written_and_noise_is_left_out(called, capsys):
    seen, folder = called
    overrides = f"seeds=[0, 1] about='it''s $(x)' outputs={folder}/out"
    assert grid.run("demo", overrides, "2", folder) == 0
    (features, _), (call, how) = seen
    assert features == [*call, "--until", "preprocess"]
    assert call[call.index("--cores") + 1] == "2" and ROOT / "Snakefile" in call
    config = dict(word.split("=", 1) for word in call[call.index("--config") + 1 :])
    sent = {name: [unquote(text) for text in json.loads(value)] for name, value in config.items()}
    assert sent == {"params": ["demo"], "overrides": [overrides]}
    assert not set("'\\") & set("".join(config.values()))  # a cluster's shell reads them within single quotes
    assert how["env"]["OMP_NUM_THREADS"] == "1"
    assert capsys.readouterr().out.startswith(2 * "Job 1: train\nerror: wrong\n" + "\nThe report is at ")


def test_params_that_cannot_be_loaded_start_nothing(called):
    assert "did you mean 'demo'" in refused(lambda: grid.run("dmeo", folder=called[1]))
    assert called[0] == []


def test_outputs_or_recordings_that_are_not_there_start_nothing(called, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(lambda: grid.run("demo", f"outputs={tmp_path}/file", folder=called[1]))
    assert str(tmp_path / "file") in said and "name another folder" in said
    recordings = f"outputs={tmp_path}/out corpus.root={tmp_path}/file"
    assert "corpus.root: there is no folder" in refused(
        lambda: grid.run("iemocap-frozen", recordings, folder=called[1])
    )
    assert called[0] == []


def test_locks_of_a_killed_grid_are_removed_with_a_word(called, capsys):
    _, folder = called
    locks = folder / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("a")
    grid.run("demo", folder=folder)
    assert not list(locks.iterdir()) and "left its locks: removed" in capsys.readouterr().out
    grid.run("demo", folder=folder)
    assert "removed" not in capsys.readouterr().out


def test_locks_of_a_living_grid_stay(called, capsys):
    _, folder = called
    locks = folder / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("a")
    with (folder / ".snakemake" / "foalkit.lock").open("w") as living:
        fcntl.flock(living, fcntl.LOCK_SH)
        grid.run("demo", folder=folder)
    assert list(locks.iterdir()) and "removed" not in capsys.readouterr().out


def test_features_are_made_first_where_they_are_not_of_the_files_that_lie_there(called, monkeypatch, capsys):
    seen, folder = called
    outputs = f"outputs={folder}/out"
    prepared = folder / "out" / "preprocess.json"
    monkeypatch.setattr(data, "up_to_date", lambda p, **how: False)
    grid.run("demo", outputs, folder=folder)
    assert ["--until" in call for call, _ in seen] == [True, False]
    assert "have changed" not in capsys.readouterr().out  # nothing was there
    prepared.write_text("{}")
    grid.run("demo", outputs, folder=folder)
    assert ["--until" in call for call, _ in seen[2:]] == [True, False]
    assert "have changed: preprocessing again" in capsys.readouterr().out and not prepared.exists()
    prepared.write_text("{}")
    monkeypatch.setattr(data, "up_to_date", lambda p, **how: True)
    monkeypatch.setattr(data, "stores_are_whole", lambda p: True)
    grid.run("demo", outputs, folder=folder)
    assert ["--until" in call for call, _ in seen[4:]] == [False] and prepared.exists()


# ---- names that would run ------------------------------------------------------------------------------

JOB = """
import json, pathlib, sys
notebook = pathlib.Path(sys.argv[2])
with open(sys.argv[0] + ".calls", "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
if "01_preprocess" in notebook.name:
    notebook.write_text("{}")
    (notebook.parent.parent / "preprocess.json").write_text("{}")
else:
    sys.exit("error: as far as this test goes")
"""
STRANGE = "-x $(touch pwned) `touch pwned` 'q' \"d\" ; & | < > * ? # %s é😀"


@pytest.mark.parametrize("job", ["fold", "folds"])
def test_names_reach_a_job_as_they_are_written(tmp_path, capfd, job):
    """The real Snakefile, and in the jobs' place a program that writes down what it was called with."""
    here = tmp_path / "here"
    (here / "foalkit").mkdir(parents=True)
    (here / "foalkit" / "__init__.py").write_text("")
    (here / "foalkit" / "job.py").write_text(JOB)
    file = tmp_path / f"{STRANGE}.yaml"
    outputs = tmp_path / "out" / STRANGE
    settings = {
        "base": "demo",
        "outputs": str(outputs),
        "training": {"job": job},
        "seeds": [7],
        "robustness": {"rows": []},
    }
    file.write_text(json.dumps(settings | {"ablation": {"honest": ["video"], "published": None, "random-split": None}}))
    overrides = f"about={json.dumps(STRANGE + ' {x} {wildcards.fold}', ensure_ascii=False)}"
    assert grid.run(str(file), overrides, "1", here) == 1
    said = capfd.readouterr().out
    print(said)
    calls = [json.loads(line) for line in (here / "foalkit" / "job.py.calls").read_text().splitlines()]
    assert "as far as this test goes" in said and len(calls) >= 2, said
    folder = params.load(file, overrides).folder
    for notebook, written, *words in calls:
        assert notebook in (str(f) for f in (ROOT / "notebooks").glob("*.ipynb"))
        assert written.startswith(f"{folder}/notebooks/") and words[words.index("params") + 1] == str(file)
        assert words[words.index("overrides") + 1] == overrides
    given = calls[-1]
    assert given[given.index("variant") + 1] == "video" and given[given.index("protocol") + 1] == "honest"
    assert not list(tmp_path.rglob("pwned*")) and not list(ROOT.glob("pwned*"))
    assert {f.name for f in tmp_path.iterdir()} == {"here", "out", file.name}


@pytest.fixture
def made(tmp_path):
    """`make` on this Makefile in a folder of its own, where foalkit prints the words that it is called with."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in (
        "requirements.lock",
        "requirements-weights.lock",
        "pyproject.toml",
        "requirements-uv.lock",
        "install.py",
    ):
        (tmp_path / name).write_text("")
    for name in ("foalkit", "python"):
        (tmp_path / ".venv" / "bin" / name).write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    (tmp_path / ".venv" / "bin" / ".installed").write_text("")

    def make(target, env=(), **values):
        words = [f"{name}={value}" for name, value in values.items()]
        call = ["make", "-s", "--no-print-directory", target, *words]
        return subprocess.run(call, cwd=tmp_path, env=os.environ | dict(env), capture_output=True, text=True)

    return make, tmp_path


NAMES = [
    "-x.yaml",
    "a b.yaml",
    "x$(touch pwned).yaml",
    "$(shell touch pwned)",
    "${PATH}$$PATH$PATH",
    "a\nb; touch pwned\n",
    'it\'s "q" \\ `touch pwned`',
    "a,b#c%d=e:=f",
    "é😀*?[a]~",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_make_hands_on_what_it_is_given(made, name):
    make, folder = made
    done = make("grid", PARAMS=name, OVERRIDES=name, CORES=name)
    words = done.stdout.split("\0")[:-1]
    assert words[words.index("--cores") + 1 :] == [name, "--", name, name], done.stderr
    by_environment = make("grid", {"PARAMS": name, "OVERRIDES": name}).stdout.split("\0")[:-1]
    assert by_environment[-2:] == [name, name]
    assert not list(folder.glob("pwned*"))


def test_make_clean_removes_one_folder_of_outputs_and_no_other(made):
    make, folder = made
    for name in ("demo", "a b", "it's", "features", "corpora", "weights", "-x"):
        (folder / "outputs" / name).mkdir(parents=True)
    outside = folder / "params"
    outside.mkdir()
    kept = {f.name for f in (folder / "outputs").iterdir()}
    for name in ["", ".", "..", "../params", "../..", str(outside), "demo/", "features", "corpora", "weights"]:
        done = make("clean", PARAMS=name)
        assert done.returncode and "which params?" in done.stdout + done.stderr, name
    for name in ["*", "de*", '"; touch pwned; "', "$(touch pwned)", "x\ntouch pwned", "{demo,a b}"]:
        make("clean", PARAMS=name)
    assert outside.exists() and {f.name for f in (folder / "outputs").iterdir()} == kept
    assert not list(folder.rglob("pwned*"))
    for name in ("demo", "a b", "it's", "-x"):
        assert make("clean", PARAMS=name).returncode == 0
    assert {f.name for f in (folder / "outputs").iterdir()} == {"features", "corpora", "weights"}


def test_a_params_file_whose_name_begins_with_a_hyphen_is_a_file(called, capsys):
    assert cli.main(["grid", "--", "-x.yaml"]) == 1
    assert "-x.yaml: no such params file" in capsys.readouterr().err and called[0] == []


def test_a_folder_with_other_files_is_not_taken_for_outputs(called):
    _, folder = called
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("")
    said = refused(lambda: grid.run("demo", f"outputs={folder}/thesis", folder=folder))
    assert "thesis holds other files ('chapter.tex')" in said and called[0] == []
    assert [f.name for f in (folder / "thesis").iterdir()] == ["chapter.tex"]
    for name in ("new", "logs-only"):
        (folder / "logs-only" / "logs").mkdir(parents=True, exist_ok=True)
        assert grid.run("demo", f"outputs={folder}/{name}", folder=folder) == 0
        (folder / name / "report.html").write_text("")
        assert grid.run("demo", f"outputs={folder}/{name}", folder=folder) == 0
    said = refused(lambda: grid.run("demo", f"outputs={folder}/new training.epochs=3", folder=folder))
    assert "holds the runs of demo" in said


# ---- on a cluster ------------------------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A profile whose executor is installed, and a cluster's command."""
    folder = tmp_path / "profile"
    folder.mkdir()
    (folder / "config.yaml").write_text("executor: slurm\n")
    monkeypatch.setattr(grid.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(grid.shutil, "which", lambda name: name)
    return folder


def test_a_clusters_grid_builds_shards_first_and_takes_no_number_of_local_cores(called, profile):
    seen, folder = called
    grid.run("demo", f"outputs={folder}/out", "2", folder, str(profile), 7)
    calls = [call for call, _ in seen]
    assert [call[call.index("--until") + 1] if "--until" in call else "" for call in calls] == [
        "shards",
        "preprocess",
        "",
    ]
    assert "--cores" not in calls[0] and "--resources" not in calls[0]
    assert calls[0][calls[0].index("--profile") + 1] == profile and calls[0][calls[0].index("--jobs") + 1] == "7"


def test_an_executor_that_is_not_there_costs_one_line(called, profile, monkeypatch):
    seen, folder = called
    run = lambda executor: refused(lambda: grid.run("demo", folder=folder, executor=str(executor)))  # noqa: E731
    assert "nowhere/config.yaml is no profile that names an executor" in run("nowhere")
    for text in ("jobs: 1\n", "- a\n", "a: [\n"):
        (profile / "config.yaml").write_text(text)
        assert "is no profile that names an executor" in run(profile)
    (profile / "config.yaml").write_text("executor: slurm\n")
    monkeypatch.setattr(grid.shutil, "which", lambda name: None)
    assert "sbatch is not here" in run(profile)
    monkeypatch.setattr(grid.importlib.util, "find_spec", lambda name: None)
    assert run(profile).endswith("-m pip install snakemake-executor-plugin-slurm")
    (profile / "requirements.lock").write_text("")
    assert f"--require-hashes -r {profile}/requirements.lock" in run(profile)
    assert seen == []


@pytest.mark.parametrize("odd", ["it's", "back\\slash"])
def test_a_path_that_no_cluster_gets_to_read_is_refused(called, profile, odd):
    seen, folder = called
    run = lambda: grid.run("demo", f"outputs={folder}/{odd}/out", folder=folder, executor=str(profile))  # noqa: E731
    assert "a quote or a backslash in a path" in refused(run)
    assert seen == []


def test_the_slurm_profile_names_rules_that_there_are_and_a_lock_without_addresses():
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
    rules = set(re.findall(r"^ *rule (\w+):", (ROOT / "Snakefile").read_text(), re.M))
    assert {*profile["set-resources"], *profile["set-threads"]} <= rules and "train" in rules
    lock = (ROOT / "profiles" / "slurm" / "requirements.lock").read_text()
    for name in (ROOT / "profiles" / "slurm" / "requirements.in").read_text().split():
        assert re.search(rf"^{name.split('>=')[0]}==.*\n    --hash=sha256:", lock, re.M)
    assert not re.search(r"https?://|--index|--find-links|file:", lock)


def lock_left_by(folder, machine):
    locks = folder / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.input.lock").write_text("a")
    (folder / ".snakemake" / "foalkit.lock").write_text(f"{machine}\n")
    return locks


def test_locks_of_a_grid_started_on_another_machine_are_not_taken_for_dead(called, capsys):
    seen, folder = called
    locks = lock_left_by(folder, "login2")
    assert "a grid that was started on login2" in refused(lambda: grid.run("demo", folder=folder))
    assert list(locks.iterdir()) and seen == []
    (locks / "0.input.lock").unlink()  # it ended
    grid.run("demo", folder=folder)
    lock_left_by(folder, grid.platform.node())
    grid.run("demo", folder=folder)
    assert not list(locks.iterdir())


def test_jobs_of_a_killed_grid_that_are_still_queued_are_named(called, monkeypatch):
    seen, folder = called
    locks = lock_left_by(folder, grid.platform.node())
    monkeypatch.setattr(grid, "_queued", lambda folder: ["12", "13"])
    assert "scancel 12 13" in refused(lambda: grid.run("demo", folder=folder))
    assert list(locks.iterdir()) and seen == []


def test_where_a_file_system_has_no_locks_a_dead_lock_is_not_guessed_at(called, monkeypatch, capsys):
    seen, folder = called

    def none(handle, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", none)
    grid.run("demo", f"outputs={folder}/out", folder=folder)
    assert "this file system has no locks" in capsys.readouterr().out and len(seen) == 2
    lock_left_by(folder, grid.platform.node())
    assert "started on this machine" in refused(lambda: grid.run("demo", folder=folder))


def test_locks_are_taken_on_files_that_can_be_read_and_written(tmp_path, monkeypatch):
    """A file system over the network asks for both; a read-only or write-only one is refused there."""
    flock, modes = fcntl.flock, []
    monkeypatch.setattr(
        files.fcntl,
        "flock",
        lambda handle, how: modes.append(handle.readable() and handle.writable()) or flock(handle, how),
    )
    with files.locked(tmp_path / "a", shared=True), files.locked(tmp_path / "b"):
        assert modes == [True, True]


def test_what_a_clusters_job_said_is_told(tmp_path, capsys):
    own, clusters = tmp_path / "a, b.log", tmp_path / "7.log"
    own.write_text("one\ntwo\nthree\nUserError: wrong\n")
    clusters.write_text("Building DAG\nslurmstepd: error: *** DUE TO TIME LIMIT ***\nExiting\n")
    grid._tell(f"{own.name}, {clusters}", tmp_path)  # by its name in the grid's folder, wherever this runs
    assert capsys.readouterr().out == "two\nthree\nUserError: wrong\nslurmstepd: error: *** DUE TO TIME LIMIT ***\n"
    grid._tell(str(own), tmp_path)  # a local job's words are in the terminal already
    assert capsys.readouterr().out == ""


def test_what_the_cluster_says_of_a_job_is_no_noise():
    for word in (
        "SLURM-job '23' failed, SLURM status is: 'TIMEOUT'.",
        "SLURM sbatch failed. The error message was 'x'.",
    ):
        assert not grid.NOISE.match(f"    message: {word}\n")
    assert grid.NOISE.match("    message: None\n") and grid.NOISE.match("    jobid: 3\n")


def test_a_killed_kernel_is_one_line(tmp_path):
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "python3", "display_name": ""}}}
    source = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
    (tmp_path / "a.ipynb").write_text(json.dumps(notebook | {"cells": [cell]}))
    call = [sys.executable, "-m", "foalkit.job", str(tmp_path / "a.ipynb"), str(tmp_path / "b.ipynb")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and done.stderr.splitlines()[-1].startswith("error: the notebook's kernel was killed")


def test_a_second_grid_on_the_same_outputs_is_one_line(monkeypatch, tmp_path):
    said = "LockException:\nError: Directory cannot be locked.\nIf you are sure\n"
    program = [sys.executable, "-c", f"print({said!r}); raise SystemExit(1)"]
    popen = subprocess.Popen
    monkeypatch.setattr(grid.subprocess, "Popen", lambda call, **how: popen(program, **how))
    message = refused(lambda: grid.run("demo", f"outputs={tmp_path}/out", folder=tmp_path))
    assert "another grid is writing the same outputs" in message
