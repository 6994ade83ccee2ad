"""What `foalkit doctor` finds: each thing that can be wrong is said, with what to do, and stops where it must."""

import importlib.metadata
import os

import pytest
import torch

from foalkit import cli, doctor, params


@pytest.fixture
def p(tmp_path):
    return params.load("demo", [f"outputs={tmp_path / 'out'}"])


@pytest.fixture
def proved(monkeypatch):
    """What tests/test_proof.py and the first test here try for real, with nothing wrong: it takes eight seconds."""
    monkeypatch.setattr(doctor.proof, "faults", lambda: [])


def found(look, *args) -> dict[str, doctor.Finding]:
    return {f.what: f for f in look(*args)}


def test_a_fit_machine_is_told_so(capsys, tmp_path):
    assert cli.main(["doctor", "demo", f"outputs={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "STOP" not in said
    for what in ("Python", "packages", "GPU", "processor", "memory", "outputs", "corpus", "features", "git"):
        assert any(line[5:].startswith(what) for line in said.splitlines()), what


def test_it_needs_no_params(proved):
    assert cli.main(["doctor"]) == 0


def test_what_stops_the_work_is_a_status(proved, capsys, monkeypatch):
    monkeypatch.delenv("IEMOCAP_ROOT", raising=False)
    assert cli.main(["doctor", "iemocap-frozen"]) == 1
    said = capsys.readouterr().out
    assert any(line.startswith("STOP corpus") and "export IEMOCAP_ROOT" in line for line in said.splitlines())
    assert cli.main(["doctor", "dmeo"]) == 1
    assert "did you mean 'demo'" in capsys.readouterr().out


def test_the_lock_is_compared_with_what_is_installed(monkeypatch):
    class Fake:
        def __init__(self, name, version):
            self.metadata, self.version = {"Name": name}, version

    every = [Fake(d.metadata["Name"], d.version) for d in importlib.metadata.distributions() if d.metadata["Name"]]
    other = [d for d in every if d.metadata["Name"].lower() not in ("numpy", "pandas")] + [Fake("numpy", "1.0")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: other)
    _, missing, version = doctor._packages(None)
    assert missing.stops and missing.found == "missing: pandas" and "make" in missing.to_do
    assert not version.stops and version.found.startswith("another version: numpy 1.0 (locked: ") and version.to_do


def test_a_gpu_that_is_asked_for_and_not_there_stops(p, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not found(doctor._gpu, p)["GPU"].stops
    asking = p.model_copy(update={"training": p.training.model_copy(update={"device": "cuda"})})
    said = found(doctor._gpu, asking)["GPU"]
    assert said.stops and "auto or cpu" in said.to_do
    assert "days" in found(doctor._gpu, params.load("iemocap-frozen"))["GPU"].to_do


def test_more_threads_than_cores_are_noted(p, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    busy = p.model_copy(update={"training": p.training.model_copy(update={"threads": 8})})
    assert "training.threads=8" in found(doctor._processor, busy)["processor"].to_do
    assert not found(doctor._processor, p)["processor"].to_do


def test_outputs_that_cannot_be_written_or_do_not_fit_are_said(p, tmp_path, monkeypatch):
    assert not found(doctor._folders, p)["outputs"].to_do
    (tmp_path / "out").write_text("a file")
    said = found(doctor._folders, p)["outputs"]
    assert said.stops and str(tmp_path / "out") in said.found and "outputs:" in said.to_do
    (tmp_path / "out").unlink()
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Free)
    assert "another disk" in found(doctor._folders, p)["outputs"].to_do
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "file" / "x"))
    (tmp_path / "file").write_text("")
    assert found(doctor._folders, p)["home"].stops


class Free:
    free = 1e6


def test_what_the_params_will_write_is_estimated():
    large = params.load("iemocap-frozen").model_copy(update={"ablation": {}, "outputs": "outputs/nowhere/x"})
    # docs/foal-net.md: 2.1 GB of WavLM, 1.0 GB of CLIP twice, and a ViT's as much
    assert doctor._needs(large) == pytest.approx(5e9, rel=0.15)
    tuned = params.load("iemocap").model_copy(update={"outputs": "outputs/nowhere/x"})
    rows = [v for names in tuned.ablation.values() for v in names if "audio" in tuned.variants[v].streams]
    assert doctor._needs(tuned) == pytest.approx(1.3e9 * 5 * len(rows) + 3.7e9, rel=0.05)


def test_corpora_and_imported_features_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("IEMOCAP_ROOT", str(tmp_path / "no"))
    p = params.load("iemocap-frozen")
    assert "README" in found(doctor._corpus, p)["corpus"].to_do
    (tmp_path / "no").write_text("")
    assert "folder of the recordings" in found(doctor._corpus, p)["corpus"].to_do
    monkeypatch.setenv("IEMOCAP_ROOT", str(tmp_path))
    assert not found(doctor._corpus, p)["corpus"].to_do
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert found(doctor._corpus, p)["corpus"].stops
    imported = params.load("demo", f"features.own={{encoder: imported, folder: {tmp_path}/none, width: 2}}")
    assert any("features.own.folder" in f.found and f.stops for f in doctor._corpus(imported))


def test_weights_are_looked_for_in_the_hubs_cache(tmp_path, monkeypatch):
    import huggingface_hub

    p = params.load("iemocap-frozen")
    assert [key for key, _, _ in doctor._networks(p)] == [f"features.{s}" for s in p.features]
    assert not list(doctor._networks(params.load("demo")))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    assert all("first use" in f.to_do and not f.stops for f in doctor._weights(p))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert all(f.stops for f in doctor._weights(p))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: "/a/file")
    assert not any(f.to_do for f in doctor._weights(p))


def test_a_look_that_fails_is_a_finding(proved, monkeypatch):
    def broken(_):
        raise ImportError("libsomething.so")

    broken.__name__ = "_gpu"
    monkeypatch.setattr(doctor, "_gpu", broken)
    (said,) = [f for f in doctor.examine() if f.what == "gpu"]
    assert said.stops and "libsomething" in said.found


def test_caches_are_measured(p, tmp_path):
    (tmp_path / "features" / "log-mel-0123.partial").mkdir(parents=True)
    (tmp_path / "features" / "log-mel-0123.partial" / "log.jsonl").write_bytes(bytes(200_000_000))
    said = found(doctor._caches, p)
    assert said["features"].found.startswith("200.0 MB") and "clean-features" in said["unnamed"].to_do
