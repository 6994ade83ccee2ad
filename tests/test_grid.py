"""How the grid is started: locks of the dead go, locks of the living stay, and values arrive as they were written."""

import fcntl
import json
import subprocess
import sys

import pytest
from conftest import refused

from foalkit import ROOT, grid


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
    assert grid.run("demo", "seeds=[0, 1] about='it''s $(x)'", "2", folder) == 0
    ((call, how),) = seen
    assert call[call.index("--cores") + 1] == "2" and ROOT / "Snakefile" in call
    config = dict(word.split("=", 1) for word in call[call.index("--config") + 1 :])
    assert {k: json.loads(v) for k, v in config.items()} == {
        "params": "demo",
        "overrides": "seeds=[0, 1] about='it''s $(x)'",
    }
    assert how["env"]["OMP_NUM_THREADS"] == "1"
    assert capsys.readouterr().out == "Job 1: train\nerror: wrong\n"


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
