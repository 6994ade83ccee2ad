"""Records: whole or not there, refused in one line when damaged, and only those that answer the question."""

import json
import os
import subprocess

import nbformat
import pandas as pd
import pytest
import torch
from conftest import git, refused

from foalkit.results import records

PREDICTIONS = pd.DataFrame(
    {"utterance": ["a", "b"], "speaker": ["s", "t"], "split": "test", "epoch": 1, "true": [0, 1], "logit_x": [0.5, 1]}
)


def record_of(params, variant="foal-net", fold=1, seed=0, protocol="honest", **changes) -> dict:
    return {
        "run": "x", "variant": variant, "protocol": protocol, "fold": fold, "seed": seed, "scores": {},
        "selection": "validation", "params_digest": params.digest(variant), "sizes": {}, "classes": ["x"],
    } | changes  # fmt: skip


def write(folder, record, weight=1.0):
    return records.write_run(folder, record, PREDICTIONS, {"w": torch.tensor([weight])})


@pytest.fixture
def p(tiny, tmp_path):
    """The tiny params with an outputs folder of this test's own."""
    return tiny.model_copy(update={"outputs": str(tmp_path / "outputs")})


@pytest.fixture
def run(p):
    folder = records.run_folder(p, "honest", "foal-net", 1, 0)
    write(folder, record_of(p))
    return folder


def test_what_was_written_is_read(p, run):
    assert run == p.folder / "runs" / "honest" / "foal-net" / "fold1-seed0"
    record = records.read_record(run / "record.json")
    assert record_of(p).items() <= record.items() and record["schema"] == records.SCHEMA
    pd.testing.assert_frame_equal(records.read_predictions(run), PREDICTIONS)
    assert sorted(f.name for f in run.iterdir()) == ["predictions.parquet", "record.json", "weights.safetensors"]


def test_the_same_run_gives_the_same_bytes(p, run, tmp_path):
    write(tmp_path / "again", record_of(p))
    for name in ("predictions.parquet", "weights.safetensors", "record.json"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize("step", ["write_parquet", "write_sealed", "safetensors.torch.save_file"])
def test_a_crash_on_the_way_leaves_no_record(p, run, monkeypatch, step):
    def crash(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(step if "." in step else f"foalkit.results.records.{step}", crash)
    with pytest.raises(KeyboardInterrupt):
        write(run, record_of(p), weight=2.0)
    monkeypatch.undo()
    assert "no record" in refused(lambda: records.read_record(run / "record.json"))
    assert ("honest", "foal-net", 1, 0) in records.missing_runs(p, [("honest", "foal-net")])


@pytest.mark.parametrize("write_file", ["json", "parquet"])
def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch, write_file):
    file = tmp_path / f"file.{write_file}"
    write_it, values = (
        (records.write_json, [{"a": 1}, {"a": 2}])
        if write_file == "json"
        else (records.write_parquet, [PREDICTIONS, PREDICTIONS.head(1)])
    )
    write_it(file, values[0])
    before = file.read_bytes()

    def crash(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="no space"):
        write_it(file, values[1])
    assert file.read_bytes() == before


def test_a_number_that_is_none_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write_json(tmp_path / "x.json", {"ua": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_half_a_record_is_refused(run):
    file = run / "record.json"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"[]", b"3", b"\xff\xfe\x00", b"null"):
        file.write_bytes(content)
        assert "fold1-seed0/record.json: not a whole record" in refused(lambda: records.read_record(file))


@pytest.mark.parametrize("key", sorted(records.REQUIRED))
def test_a_record_without_a_key_is_refused(run, key):
    file = run / "record.json"
    record = json.loads(file.read_text())
    del record[key]
    file.write_text(json.dumps(record))
    assert f"lacks ['{key}']" in refused(lambda: records.read_record(file))


def test_another_schema_is_refused(run):
    file = run / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": records.SCHEMA + 1}))
    assert "another schema" in refused(lambda: records.read_record(file))


def test_predictions_that_are_not_the_records_are_refused(run):
    file = run / "predictions.parquet"
    records.write_parquet(file, PREDICTIONS.assign(logit_x=[1.0, 0.0]))
    assert "digest differs" in refused(lambda: records.read_predictions(run))
    file.unlink()
    assert "without predictions" in refused(lambda: records.read_predictions(run))


def test_runs_of_other_params_are_not_read(p, run):
    (read,) = records.read_runs(p, "honest", "foal-net")
    assert read["folder"] == run and read["fold"] == 1
    other = p.model_copy(update={"clip": p.clip.model_copy(update={"seconds": 1.0})})
    assert records.read_runs(other, "honest", "foal-net") == []
    assert records.read_runs(p, "published", "foal-net") == []
    assert records.read_runs(p, "honest", "baseline") == []


def test_missing_runs_are_listed(p, run):
    p = p.model_copy(update={"seeds": [0, 7]})
    write(records.run_folder(p, "honest", "audio", 3, 7), record_of(p, "audio", 3, 7))
    stale = record_of(p, "audio", 4, 7, params_digest="0" * 16)
    write(records.run_folder(p, "honest", "audio", 4, 7), stale)
    missing = records.missing_runs(p, [("honest", "foal-net"), ("honest", "audio"), ("published", "audio")])
    grid = {(pr, v, f, s) for pr, v in [("honest", "foal-net"), ("honest", "audio"), ("published", "audio")]
            for f in range(1, 6) for s in (0, 7)}  # fmt: skip
    assert set(missing) == grid - {("honest", "foal-net", 1, 0), ("honest", "audio", 3, 7)}
    assert len(missing) == len(set(missing))


def test_provenance_says_what_the_number_rests_on():
    found = records.provenance()
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert found["commit"] == git("rev-parse", "HEAD").strip() and isinstance(found["dirty"], bool)


def test_the_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert records.file_digest(tmp_path / "abc").startswith("ba7816bf8f01cfea")  # FIPS 180-2's example


# ---- is the checkout the commit? -----------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a notebook and a file, in place of the project's."""
    monkeypatch.setattr(records, "ROOT", tmp_path)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    nbformat.write(notebook, tmp_path / "one.ipynb")
    (tmp_path / "code.py").write_text("x = 1\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_a_notebook_that_was_run_and_saved_makes_nothing_dirty(checkout):
    assert records.provenance()["dirty"] is False
    notebook = nbformat.read(checkout / "one.ipynb", 4)
    notebook.cells[0].execution_count = 7
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="hello")]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, checkout / "one.ipynb")
    (checkout / "untracked.py").write_text("")
    assert records.provenance()["dirty"] is False
    notebook.cells[0].source = "x = 2"
    nbformat.write(notebook, checkout / "one.ipynb")
    assert records.provenance()["dirty"] is True


@pytest.mark.parametrize("how", ["changed", "staged", "gone", "notebook gone", "no notebook any more"])
def test_a_changed_file_makes_the_run_dirty(checkout, how):
    file = checkout / ("one.ipynb" if "notebook" in how else "code.py")
    file.unlink() if "gone" in how else file.write_text("{}")
    if how == "staged":
        subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    assert records.provenance()["dirty"] is True


def test_without_git_nobody_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROOT", tmp_path)
    assert records.provenance()["dirty"] is None and records.provenance()["commit"] is None
