"""How the grid is started: locks of the dead go, locks of the living stay, and values arrive as they were written."""

import fcntl
import json
import subprocess
import sys

import pytest
from conftest import refused

from foalkit import ROOT, grid
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
    return seen, tmp_path


def test_values_arrive_as_they_were_written_and_noise_is_left_out(called, capsys):
    seen, folder = called
    overrides = f"seeds=[0, 1] about='it''s $(x)' outputs={folder}/out"
    assert grid.run("demo", overrides, "2", folder) == 0
    (features, _), (call, how) = seen
    assert features == [*call, "--until", "preprocess"]
    assert call[call.index("--cores") + 1] == "2" and ROOT / "Snakefile" in call
    config = dict(word.split("=", 1) for word in call[call.index("--config") + 1 :])
    assert {k: json.loads(v) for k, v in config.items()} == {"params": "demo", "overrides": overrides}
    assert how["env"]["OMP_NUM_THREADS"] == "1"
    assert capsys.readouterr().out.startswith(2 * "Job 1: train\nerror: wrong\n" + "\nThe report is at ")


def test_params_that_cannot_be_loaded_start_nothing(called):
    assert "did you mean 'demo'" in refused(lambda: grid.run("dmeo", folder=called[1]))
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
    monkeypatch.setattr(data, "up_to_date", lambda p: False)
    grid.run("demo", outputs, folder=folder)
    assert ["--until" in call for call, _ in seen] == [True, False]
    assert "have changed" not in capsys.readouterr().out  # nothing was there
    prepared.parent.mkdir()
    prepared.write_text("{}")
    grid.run("demo", outputs, folder=folder)
    assert ["--until" in call for call, _ in seen[2:]] == [True, False]
    assert "have changed: preprocessing again" in capsys.readouterr().out and not prepared.exists()
    prepared.write_text("{}")
    monkeypatch.setattr(data, "up_to_date", lambda p: True)
    grid.run("demo", outputs, folder=folder)
    assert ["--until" in call for call, _ in seen[4:]] == [False] and prepared.exists()
