"""Params files, overrides and the messages for what is wrong in them."""

import subprocess
import sys

import pytest
import yaml

from foalkit import ROOT, UserError, notebook, params

FILES = sorted(f.stem for f in (ROOT / "params").glob("*.yaml") if f.stem != "variants")


@pytest.mark.parametrize("name", FILES)
def test_every_params_file_loads_with_numbers_as_numbers(name):
    p = params.load(name)
    assert p.name == name and p.about
    assert isinstance(p.training.lr, float) and 0 < p.training.lr < 1
    for variants in p.ablation.values():
        for variant in variants:
            assert p.for_variant(variant).variants[variant].question.endswith("?")


def test_variants_set_the_losses_they_are_named_for():
    p = params.load("demo")
    weights = {
        v: (p.for_variant(v).loss.avel > 0, p.for_variant(v).loss.mem > 0) for v in p.ablation["honest"][3:]
    }
    assert weights == {
        "baseline": (False, False),
        "avel": (True, False),
        "mem": (False, True),
        "foal-net": (True, True),
    }


def test_published_numbers_are_the_papers():
    variants = params.load("demo").variants
    assert variants["foal-net"].published == {"Foal-Net": (80.10, 79.45)}
    assert variants["audio"].published == {"WavLM": (77.68, 77.25)}
    assert list(variants) == ["video-face", "video", "audio", "baseline", "avel", "mem", "foal-net"]


def test_yaml_11_floats_without_a_point_are_numbers(tmp_path):
    data = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text())
    text = yaml.safe_dump(data).replace("lr: 0.0015", "lr: 1e-4")
    assert "lr: 1e-4" in text
    (tmp_path / "x.yaml").write_text(text)
    assert params.load(tmp_path / "x.yaml").training.lr == 1e-4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("training.epoch=3", ["training.epoch", "'epochs'"]),
        ("trainin.epochs=3", ["trainin", "'training'"]),
        ("features.audio.band=3", ["band", "'bands'"]),
        ("training.epochs=many", ["training.epochs", "many"]),
        ("training.epochs=0", ["training.epochs", "1"]),
        ("training.epochs", ["training.epochs", "key=value"]),
        ("loss.hard_negatives=argmin", ["hard_negatives", "argmax"]),
        ("ablation.honest=[foalnet]", ["foalnet", "'foal-net'"]),
        ("name.x=1", ["name"]),
    ],
)
def test_a_wrong_override_gives_one_line_that_names_the_key_and_what_to_do(overrides, words):
    with pytest.raises(UserError) as error:
        params.load("demo", overrides)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"params": "dmeo"}, ["'dmeo'", "'demo'"]),
        ({"params": "demo", "variant": "foalnet"}, ["'foalnet'", "'foal-net'"]),
        ({"params": "demo", "variant": "avel", "protocol": "honset"}, ["'honset'", "'honest'"]),
        ({"params": "demo", "fold": 6}, ["fold 6", "1 to 5"]),
        ({"params": "demo", "fold": "3"}, ["fold", "'3'"]),
        ({"params": "demo", "seed": True}, ["seed", "True"]),
    ],
)
def test_wrong_notebook_parameters_stop_before_any_work(call, words):
    with pytest.raises(UserError) as error:
        notebook.start(**call)
    for word in words:
        assert word in str(error.value)


def test_missing_file_bad_yaml_and_an_unset_variable_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such params file"):
        params.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(UserError, match="not valid YAML"):
        params.load(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="key: value"):
        params.load(tmp_path / "list.yaml")
    monkeypatch.delenv("IEMOCAP_ROOT", raising=False)
    with pytest.raises(UserError, match=r"\$IEMOCAP_ROOT is not set"):
        params.expand("$IEMOCAP_ROOT/x", "corpus.root")


def test_the_digest_changes_with_what_shapes_a_run_and_with_nothing_else():
    base = params.load("demo")
    assert base.digest("audio") == params.load("demo", "seeds=[0,1] about=other").digest("audio")
    assert base.digest("audio") == params.load("demo", "features.face.cell=16").digest("audio")
    for change in (
        "training.epochs=3",
        "features.audio.bands=41",
        "clip.seconds=3",
        "corpus.generate.seed=2",
    ):
        assert base.digest("audio") != params.load("demo", change).digest("audio"), change
    assert base.digest("avel") != base.digest("mem")


def test_params_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        params.load("demo").training.epochs = 3


def test_importing_the_library_is_light():
    heavy = "('torch', 'transformers', 'librosa')"
    code = f"import sys, foalkit.params, foalkit.records; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
