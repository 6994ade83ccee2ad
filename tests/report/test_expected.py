"""What is known of the demo: told apart from what came out, and from why."""

import importlib.util
import io
import json

import made_up
import numpy as np
import pytest
from PIL import Image

from foalkit import ROOT, arithmetic
from foalkit.files import read_mapping, write_json
from foalkit.report import expected

p, grid, grid_once = made_up.p, made_up.grid, made_up.grid_once


@pytest.fixture
def outputs(p, grid, tmp_path, monkeypatch):
    """A whole grid of made-up runs that counts as the demo's, and what is known of it."""
    corpus = tmp_path / "corpus"
    (corpus / "Session1").mkdir(parents=True)
    (corpus / "Session1" / "a.wav").write_bytes(b"a")
    (corpus / "card.json").write_text("{}")
    info = read_mapping(p.folder / "preprocess.json") if (p.folder / "preprocess.json").exists() else {}
    stores = {s: {"digest": f"store {s}"} for s in ("audio", "video")}
    write_json(p.folder / "preprocess.json", {"ceilings": None, **info, "corpus": str(corpus), "features": stores})
    p = p.model_copy(update={"name": "demo", "differs": {}, "file": "params/demo.yaml"})
    folder = tmp_path / "expected"
    monkeypatch.setattr(expected, "FOLDER", folder)
    known = {**expected.digests(p), "rows": expected.scores(p)}
    known["spread"] = {name: [row["ua_pooled"], row["ua_pooled"]] for name, row in known["rows"].items()}
    write_json(folder / "demo.json", known)
    return p, corpus, folder / "demo.json"


def change(file, **values):
    write_json(file, read_mapping(file) | values)


def test_all_that_is_expected_is_counted(outputs):
    p, *_ = outputs
    runs = len(p.ablation["honest"]) * 5 + len(p.ablation["published"]) * 5
    assert expected.compare(p) == f"2 of 2 files, 2 of 2 stores, {runs} of {runs} runs have the expected bytes"


def test_what_differs_is_named_with_the_scores_and_the_cause(outputs, monkeypatch):
    p, corpus, file = outputs
    (corpus / "Session1" / "a.wav").write_bytes(b"b")
    monkeypatch.setattr(arithmetic, "everywhere", lambda: True)
    said = expected.compare(p)
    assert said.startswith("1 of 2 files, 2 of 2 stores") and "the first that differs is files: Session1/a.wav" in said
    assert "all UA lie within the known spread" in said and "the code has changed" in said
    monkeypatch.setattr(arithmetic, "everywhere", lambda: False)
    assert "another processor" in expected.compare(p)
    change(file, lock="other")
    assert "requirements.lock is another one" in expected.compare(p)
    change(file, settings="other")
    assert "The params are others" in expected.compare(p)


def test_what_is_there_too_much_or_not_at_all_differs(outputs):
    p, corpus, file = outputs
    (corpus / "more.wav").write_bytes(b"c")
    assert "2 of 2 files" in expected.compare(p) and "files: more.wav" in expected.compare(p)
    (corpus / "more.wav").unlink()
    known = json.loads(file.read_text())
    change(file, runs=known["runs"] | {"honest/audio/fold9-seed0": "0"})
    assert "the first that differs is runs: honest/audio/fold9-seed0" in expected.compare(p)


def test_a_score_outside_of_the_known_spread_is_named(outputs):
    p, corpus, file = outputs
    (corpus / "Session1" / "a.wav").write_bytes(b"b")
    known = json.loads(file.read_text())
    low, high = known["spread"]["honest/audio"]
    change(file, spread=known["spread"] | {"honest/audio": [low + 0.01, high + 0.02]})
    assert f"outside of the known spread: honest/audio {low:.1%} (known: {low + 0.01:.1%} to" in expected.compare(p)


def test_nothing_is_expected_of_others(outputs):
    p, *_ = outputs
    assert expected.compare(p.model_copy(update={"name": "demo-seeds", "file": "params/demo-seeds.yaml"})) is None
    assert expected.compare(p.model_copy(update={"differs": {"training.epochs": 1}})) is None
    assert expected.compare(p.model_copy(update={"file": "/elsewhere/demo.yaml"})) is None


def test_a_missing_run_is_said(outputs):
    p, *_ = outputs
    (p.folder / "runs" / "honest" / "audio" / "fold1-seed0" / "record.json").unlink()
    assert "cannot be compared" in expected.compare(p) and "fold 1 seed 0" in expected.compare(p)


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make", ROOT / "docs" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_says_what_is_known(make):
    known = read_mapping(ROOT / "params" / "expected" / "demo.json")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert make.in_readme(readme, make.table(known)) == readme
    drawn, kept = (
        np.asarray(Image.open(source).convert("RGB"), float)
        for source in (io.BytesIO(make.picture(known)), ROOT / "docs" / "demo.png")
    )
    assert drawn.shape == kept.shape and abs(drawn - kept).mean() < 1  # another processor may shade an edge otherwise
