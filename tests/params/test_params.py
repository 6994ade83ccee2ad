"""Params files, overrides and the messages for what is wrong in them."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from conftest import refused

from foalkit import ROOT, UserError, notebook, params
from foalkit.params.corpora import Puppets, PuppetTakes
from foalkit.params.load import corpus_place, expand, params_files, read_ledger

FILES = params_files()
LEDGER = read_ledger()


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
    weights = {v: (p.for_variant(v).loss.avel > 0, p.for_variant(v).loss.mem > 0) for v in p.ablation["honest"][3:]}
    assert weights == {
        "baseline": (False, False),
        "avel": (True, False),
        "mem": (False, True),
        "foal-net": (True, True),
        "ledger-mem-weight": (True, True),
    }
    assert p.for_variant("ledger-mem-weight").loss.mem == 1.0


def test_published_numbers_are_the_papers():
    variants = params.load("demo").variants
    assert variants["foal-net"].published == {"Foal-Net": (80.10, 79.45)}
    assert variants["audio"].published == {"WavLM": (77.68, 77.25)}
    printed = ["video-face", "video-face-clip", "video", "audio", "late-product", "baseline", "avel", "mem", "foal-net"]
    cfn_sr = ["cfn-video", "cfn-audio", "concat", "no-residual", "batch-summed", "cfn-sr"]
    assert [v for v in variants if not v.startswith("ledger-")] == printed + cfn_sr
    accuracy = {v: list(variants[v].published.values()) for v in cfn_sr}
    assert [accuracy[v] for v in ("cfn-video", "cfn-audio", "concat", "cfn-sr")] == [
        [(None, 62.99)],
        [(None, 56.53)],
        [(None, 71.04)],
        [(None, 75.76)],
    ]
    assert all(not variants[v].published for v in variants if v not in printed + cfn_sr)


def test_cfn_srs_runs_depend_on_the_runs_they_start_from():
    p = params.load("ravdess-cfnsr")
    longer = params.load("ravdess-cfnsr", "variants.cfn-video.set.training.epochs=71")
    assert longer.digest("cfn-audio") == p.digest("cfn-audio")
    assert all(longer.digest(v) != p.digest(v) for v in ("cfn-video", "concat", "cfn-sr"))
    # nor on Foal-Net's switches, and Foal-Net's not on theirs
    assert params.load("ravdess-cfnsr", "loss.mem=0.5").digest("cfn-sr") == p.digest("cfn-sr")
    assert params.load("demo", "cfn_sr.flip=0").digest("foal-net") == params.load("demo").digest("foal-net")
    line = refused(lambda: params.load("ravdess-cfnsr", "ablation.honest=[cfn-video,cfn-sr]"))
    assert "cfn-sr starts from cfn-audio, so add that" in line


def test_the_published_protocol_may_test_fewer_folds():
    p = params.load("ravdess-cfnsr")
    assert list(p.fold_numbers("honest")) == [1, 2, 3, 4, 5, 6]
    assert list(p.fold_numbers("published")) == [1, 2, 3, 4, 5]
    assert "published: 7 of 6 groups" in refused(lambda: params.load("ravdess-cfnsr", "folds.published=7"))
    assert list(params.load("demo").fold_numbers("published")) == [1, 2, 3, 4, 5]


def test_yaml_11_floats_without_a_point_are_numbers(tmp_path):
    data = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text())
    text = yaml.safe_dump(data).replace("lr: 0.003", "lr: 1e-4")
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
        ("ledger=released", ["ledger", "'paper'", "'code'", "released"]),
        ("loss.normalise_targets=match", ["normalise_targets", "match"]),
        ("loss.temperature_range=[0.001,0.5]", ["2.659", "[0.001, 0.5]"]),
        ("ablation.honest=[audio,ledger-cosine]", ["ledger-cosine", "foal-net"]),
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
        expand("$IEMOCAP_ROOT/x", "corpus.root")


def test_the_digest_changes_with_what_shapes_a_run_and_with_nothing_else():
    base = params.load("demo")
    assert base.digest("audio") == params.load("demo", "seeds=[0,1] about=other").digest("audio")
    assert base.digest("audio") == params.load("demo", "features.face.cell=16").digest("audio")
    for change in ("training.epochs=3", "features.audio.bands=41", "clip.seconds=3", "corpus.generate.seed=2"):
        assert base.digest("audio") != params.load("demo", change).digest("audio"), change
    assert base.digest("avel") != base.digest("mem")


def test_params_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        params.load("demo").training.epochs = 3


def test_importing_the_library_is_light():
    heavy = "('torch', 'transformers', 'librosa')"
    code = f"import sys, foalkit.params, foalkit.results.records; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---- the ledger -----------------------------------------------------------------------------------

# ledger row → the settings of spec section 9, spelt out: ours, paper (ours where unknown), code
COLUMNS = {
    "loss.hard_negatives": ("argmax", "argmax", "multinomial"),
    "loss.temperature": (2.659, 2.659, 2.659),
    "loss.temperature_range": (None, None, None),
    "loss.normalise_targets": (False, False, False),
    "loss.avel": (1.0, 1.0, 1.0),
    "loss.mem": (0.1, 0.1, 0.1),
    "training.batch": (64, 64, 64),
    "training.local_batch": (None, None, 16),
    "training.epochs": (40, 40, 40),
    "training.schedule": ("constant", "constant", "constant"),
    "training.positive_pass": ("shared", "shared", "separate"),
    "training.sampler": ("balanced", "balanced", "balanced"),
}


def value(p, key):
    p = p.model_dump()
    for part in key.split("."):
        p = p[part]
    return p


@pytest.mark.parametrize("column", ["ours", "paper", "code"])
def test_a_preset_gives_every_setting_of_its_column(column):
    p = params.load("iemocap-frozen", f"ledger={column}")  # a file that sets none of them
    at = ["ours", "paper", "code"].index(column)
    assert {key: value(p, key) for key in COLUMNS} == {key: v[at] for key, v in COLUMNS.items()}
    assert p.ledger == column and p.model_dump()["ledger"] == column
    assert {key for row in LEDGER.values() for settings in row.set.values() for key in settings} == set(COLUMNS)


def test_no_preset_is_ours_and_ours_are_the_defaults():
    plain, ours = (params.load("iemocap-frozen", o) for o in ("", "ledger=ours"))
    assert plain == ours
    for part in ("loss", "training"):
        defaults = type(getattr(plain, part))()
        keys = [k.partition(".")[2] for k in COLUMNS if k.startswith(part)]
        assert {k: getattr(plain, part).model_dump()[k] for k in keys} == {k: getattr(defaults, k) for k in keys}


def test_a_preset_stands_under_the_file_the_overrides_and_the_variant():
    p = params.load("demo", "ledger=code loss.hard_negatives=argmax")
    assert p.loss.hard_negatives == "argmax"  # the override
    assert (p.training.epochs, p.training.batch) == (25, 16)  # the file
    assert p.training.positive_pass == "separate"  # the preset
    assert p.for_variant("ledger-drawn-negatives").loss.hard_negatives == "multinomial"
    assert p.digest("foal-net") != params.load("demo").digest("foal-net")


def test_every_row_says_all_three_and_every_switch_has_a_variant_with_a_question():
    assert list(LEDGER) == list(range(1, 13))
    variants = params.load("demo").variants
    for number, row in LEDGER.items():
        assert row.topic and row.paper and row.code and row.ours
        assert bool(row.variants) != bool(row.see), "measured by a variant, or answered elsewhere"
        assert set(row.set) in (set(), {"ours", "code"}, {"ours", "paper", "code"})
        assert "paper" in row.set or row.paper == "unknown" or not row.set
        for name in row.variants:
            assert name.startswith("ledger-") and variants[name].question.endswith("?")
            assert variants[name].ledger == number and variants[name].streams == ["audio", "video"]


def test_every_variant_of_the_ledger_is_another_run_than_foal_net():
    tuned = ["model.inputs.audio={kind: wavlm, model: small, width: 64}", "features.audio={encoder: waveform}"]
    p = params.load("demo-ledger")
    for name in (n for row in LEDGER.values() for n in row.variants):
        of = params.load("demo-ledger", tuned) if name == "ledger-waveform" else p
        changed = of.for_variant(name)
        assert of.digest(name) != of.digest("foal-net"), name
        assert all(value(changed, k) != value(of, k) for k in changed.variants[name].set), name
    with pytest.raises(UserError, match=r"variant ledger-waveform: .*normalise"):
        p.for_variant("ledger-waveform")


def test_the_demos_ledger_runs_every_variant_but_the_fine_tuned_on_the_demos_corpus():
    demo, p = params.load("demo"), params.load("demo-ledger")
    variants = [n for row in LEDGER.values() for n in row.variants if n != "ledger-waveform"]
    assert p.ablation == {"honest": ["foal-net", *variants], "published": [], "random-split": []}
    assert p.folder != demo.folder and p.corpus == demo.corpus
    assert p.digest("foal-net") == demo.digest("foal-net")
    assert (p.for_variant("ledger-batch").training.batch, p.for_variant("ledger-epochs").training.epochs) == (4, 19)
    assert p.variants["ledger-batch"].question == demo.variants["ledger-batch"].question


# ---- a file on another ----------------------------------------------------------------------------


def test_a_file_with_a_base_stands_over_it_key_by_key(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(
        "base: demo-encoders\nabout: less\ntraining: {epochs: 3}\nseeds: [5]\nfeatures: {face: {every: 9}}\n"
    )
    p, base = params.load(file), params.load("demo-encoders")
    assert (p.name, p.about, p.outputs, p.seeds) == ("small", "less", "outputs/small", [5])
    assert p.training == base.training.model_copy(update={"epochs": 3})
    assert p.features["face"] == base.features["face"].model_copy(update={"every": 9})
    assert (p.features["audio"], p.folds, p.ablation) == (base.features["audio"], base.folds, base.ablation)
    file.write_text("base: demo\nledger: code\ntraining: {sampler: shuffle}\n")
    p = params.load(file)
    assert (p.training.positive_pass, p.training.sampler, p.training.epochs) == ("separate", "shuffle", 25)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("dmeo", ["x.yaml", "'dmeo'", "'demo'"]),
        ("demo-ledger", ["x.yaml", "'demo-ledger'", "one level"]),
        ("ledger", ["'ledger'"]),
    ],
)
def test_a_base_that_is_none_or_has_one_itself_is_refused(tmp_path, base, words):
    (tmp_path / "x.yaml").write_text(f"base: {base}\n")
    with pytest.raises(UserError) as error:
        params.load(tmp_path / "x.yaml")
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


def test_a_file_that_is_its_own_base_is_refused(tmp_path, monkeypatch):
    for f in (ROOT / "params").glob("*.yaml"):
        (tmp_path / "params").mkdir(exist_ok=True)
        (tmp_path / "params" / f.name).write_text(f.read_text())
    (tmp_path / "params" / "loop.yaml").write_text("base: loop\n")
    monkeypatch.setattr(sys.modules["foalkit.params.load"], "ROOT", tmp_path)
    with pytest.raises(UserError, match="one level is enough"):
        params.load("loop")


def test_the_generated_corpus_has_the_readers_layout():
    assert params.load("demo").corpus.generate == Puppets(seed=1, turns_per_session=85)
    assert params.load("demo-cfnsr").corpus.generate == PuppetTakes(seed=1, takes_per_actor=12)
    line = refused(lambda: params.load("demo-cfnsr", "corpus.generate.turns_per_session=9"))
    assert "unknown key 'corpus.generate.turns_per_session'; did you mean 'takes_per_actor'?" in line


# ---- overrides never overwrite ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("training.epochs=5", "demo,training.epochs=5"),
        ("training.lr=1e-3 training.epochs=5", "demo,training.epochs=5,training.lr=0.001"),
        ("seeds=[0,1,2]", "demo,seeds=0+1+2"),
        ("features.face=null ablation.honest=[video]", "demo,ablation.honest=video,features.face=null"),
        ("ledger=code", "demo,ledger=code"),
        ("training.epochs=25", "demo"),  # the file's own value
        ("training.epochs=25 training.batch=8", "demo,training.batch=8"),
    ],
)
def test_settings_that_differ_have_a_folder_of_their_own(overrides, name):
    p = params.load("demo", overrides)
    assert p.name == name and p.outputs == f"outputs/{name}"
    assert bool(p.differs) == (name != "demo")
    assert p.features_folder == params.load("demo").features_folder


@pytest.mark.parametrize("value", ["$(touch x)", "../up", "a/b", "x" * 90, "a b"])
def test_a_value_that_is_no_name_of_a_folder_is_given_by_a_digest(value):
    p, q = (params.load("demo", [f"corpus.root={value}", f"training.epochs={n}"]) for n in (5, 6))
    for r in (p, q):
        assert r.outputs == f"outputs/{r.name}" and re.fullmatch("demo,[0-9a-f]{8}", r.name)
    assert p.name != q.name


def test_different_settings_never_share_a_folder():
    changes = [
        "training.epochs=5",
        "training.epochs=6",
        "training.epochs=5 training.batch=8",
        "seeds=[5]",
        "seeds=[5,6]",
    ]
    names = [params.load("demo", change).outputs for change in changes]
    assert len(set(names)) == len(names)


def test_an_outputs_folder_that_is_given_is_taken():
    p = params.load("demo", "outputs=outputs/mine training.epochs=5")
    assert (p.name, p.outputs) == ("demo,training.epochs=5", "outputs/mine")
    plain = params.load("demo", "outputs=outputs/mine")
    assert (plain.name, plain.outputs, plain.differs) == ("demo", "outputs/mine", {})


def test_what_differs_goes_with_the_variant_and_stays_out_of_the_digest():
    p = params.load("demo", "training.epochs=5")
    assert p.differs == {"training.epochs": 5} == p.for_variant("avel").differs
    assert "differs" not in p.model_dump()
    assert "differs cannot be overridden" in refused(lambda: params.load("demo", "differs={x: 1}".replace(" ", "")))


# ---- null drops ---------------------------------------------------------------------------------------


def test_null_drops_a_stream_and_resets_a_setting(tmp_path):
    file = tmp_path / "less.yaml"
    file.write_text(
        "base: demo\nfeatures: {face: null, audio: {hop_ms: null}}\nmodel: {inputs: {face: null}}\n"
        "training: {lr: null}\nablation: {honest: [video, audio], published: null, random-split: null}\nseeds: null\n"
    )
    p = params.load(file)
    assert set(p.features) == {"audio", "video"} and set(p.model.inputs) == {"audio", "video"}
    assert (p.features["audio"].hop_ms, p.features["audio"].bands) == (10, 40)
    assert (p.training.lr, p.seeds, p.ablation) == (1e-4, [0], {"honest": ["video", "audio"]})


def test_null_resets_a_pattern(tmp_path):
    base = yaml.safe_load((ROOT / "params" / "ravdess-speech.yaml").read_text())
    assert base["features"]["video"]["pattern"] != "{utterance}.npy"
    (tmp_path / "x.yaml").write_text("base: ravdess-speech\nfeatures: {video: {pattern: null}}\n")
    assert params.load(tmp_path / "x.yaml").features["video"].pattern == "{utterance}.npy"


def test_a_variant_may_set_null():
    p = params.load("demo", ["training.local_batch=8", "variants.avel.set.training.local_batch=null"])
    assert p.for_variant("foal-net").training.local_batch == 8
    assert p.for_variant("avel").training.local_batch is None


def test_a_required_key_that_is_dropped_is_missed():
    assert "the key 'corpus' is missing" in refused(lambda: params.load("demo", "corpus=null"))


# ---- streams by name ------------------------------------------------------------------------------------


def test_a_stream_may_have_any_name_and_its_kind_comes_from_its_encoder(tmp_path):
    file = tmp_path / "named.yaml"
    file.write_text(
        "base: demo\nfeatures: {audio: null, video: null, face: null, voice: {encoder: log-mel}, "
        "hands-2: {encoder: hog}, au: {encoder: imported, folder: x, width: 3}}\n"
        "variants: {both: {question: 'What?', label: b, modality: A+V, streams: [voice, hands-2]}}\n"
        "model: {inputs: null}\ntraining: {standardise: [voice]}\n"
        "ablation: {honest: [both], published: null, random-split: null}\n"
    )
    p = params.load(file)
    assert p.kinds == {"voice": "sound", "hands-2": "picture", "au": "numbers"}
    for bad in ("../x", "a b", "$(x)", "x'y", ".hidden", ""):
        line = refused(lambda bad=bad: params.load(file, [f"features={{{bad!r}: {{encoder: log-mel}}}}"]))
        assert "features" in line and "letters, digits" in line


def test_files_that_ask_for_the_same_features_name_one_store():
    demo, seeds, ledger = (params.load(n) for n in ("demo", "demo-seeds", "demo-ledger"))
    names = {s: demo.store_name(s) for s in demo.features}
    assert len(set(names.values())) == 3
    for other in (seeds, ledger, params.load("demo", "training.epochs=5 seeds=[7]")):
        assert {s: other.store_name(s) for s in other.features} == names
        assert other.corpus_folder == demo.corpus_folder
    for change in ("clip.seconds=1", "features.audio.bands=9", "corpus.generate.seed=2"):
        assert params.load("demo", change).store_name("audio") != names["audio"], change
    assert params.load("demo", "corpus.generate.sessions=5").store_name("audio") == names["audio"]
    assert params.load("demo", "corpus.generate.sessions=6").store_name("audio") != names["audio"]
    frozen, tuned = params.load("iemocap-frozen"), params.load("iemocap")
    assert frozen.store_name("video") == tuned.store_name("video")
    assert frozen.store_name("audio") != tuned.store_name("audio")
    assert frozen.store_name("video") == params.load("iemocap-frozen", "features.video.batch=3").store_name("video")


def test_a_variants_settings_are_laid_over_its_sections_not_put_in_their_place():
    p = params.load("demo", "variants.avel.set.training.epochs=2 variants.mem.set.training={epochs: 3}")
    assert p.variants["avel"].set["training.epochs"] == 2 and "loss.mem" in p.variants["avel"].set
    kept = p.training.model_dump() | {"epochs": 2}
    assert p.for_variant("avel").training.model_dump() == kept
    assert p.for_variant("mem").training.model_dump() == kept | {"epochs": 3}
    assert (p.for_variant("mem").loss.avel, p.for_variant("mem").loss.mem) == (0.0, 0.1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("folds.groups=[[Ses01,Ses02],[Ses03]]", "folds.groups=[[Ses01],[Ses02,Ses03]]"),
        ("about=a,seeds=0", "about=a seeds=[1]"),
        ("about=a+b", "about=[a,b]"),
        ("variants.avel.set.loss.mem=null", "variants.avel.label=x"),
    ],
)
def test_values_that_read_alike_have_folders_of_their_own(one, other):
    def outputs(overrides):
        try:
            return params.load("demo", overrides).outputs
        except UserError:
            return overrides  # refused: no folder

    assert len({outputs(one), outputs(other), "outputs/demo"}) == 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("training.epochs=", ["training.epochs=", "null"]),
        ("training.lr=.inf", ["training.lr", "finite"]),
        ("seeds=[0,0]", ["seeds", "0 stands twice"]),
        ("seeds=[-1]", ["seeds", "greater than or equal to 0"]),
        ("ablation.honest=[video,video]", ["ablation.honest", "video stands twice"]),
        ("outputs=outputs/features", ["outputs", "shared|share"]),
        ("corpus.generate.seed=-3", ["corpus.generate.seed"]),
        ("variants.avel.set.loss.nope=1", ["avel", "'loss.nope'"]),
        ("features.look.1={encoder:hog}", ["features.look"]),
    ],
)
def test_odd_values_are_refused_in_one_line(overrides, words):
    line = refused(lambda: params.load("demo", overrides))
    assert all(re.search(word if "|" in word else re.escape(word), line) for word in words), line


def test_a_value_may_hold_spaces():
    p = params.load("demo", "seeds=[0, 1] training.epochs=2")
    assert (p.seeds, p.training.epochs) == ([0, 1], 2)


def test_files_that_are_no_text_are_named(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00a")
    (tmp_path / "y.yaml").mkdir()
    for name in ("x.yaml", "y.yaml"):
        assert name in refused(lambda name=name: params.load(tmp_path / name))


def test_a_key_below_a_single_value_is_refused():
    said = refused(lambda: params.load("demo", "training.epochs.more=1"))
    assert said == "overrides: training.epochs.more: epochs is a single value, it holds no keys"


def test_outputs_that_the_grid_cannot_name_are_refused():
    assert "outputs: must not have { or } in it" in refused(lambda: params.load("demo", "outputs=/a/b/{c}"))


def test_a_dollar_in_the_projects_own_path_is_no_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("NAME", "other")
    (tmp_path / "$NAME").mkdir()
    assert expand(str(tmp_path / "$NAME"), "corpus.root") == tmp_path / "$NAME"
    assert expand(f"{tmp_path}/$NAME/x", "corpus.root") == tmp_path / "other" / "x"
    p = params.load("demo").model_copy(update={"outputs": f"{tmp_path}/$GONE/out"})
    assert corpus_place(p).parent == tmp_path / "$GONE" / "corpora"


@pytest.mark.parametrize("starts", [{"a": "a"}, {"a": "b", "b": "a"}, {"c": "a", "a": "b", "b": "d", "d": "a"}])
def test_rows_that_start_from_each_other_in_a_circle_are_one_line(starts):
    row = {"question": "x", "modality": "A", "streams": ["audio"]}
    rows = {name: {**row, "label": name, "starts_from": [start]} for name, start in starts.items()}
    said = refused(lambda: params.load("demo", [f"variants={json.dumps(rows)}"]))
    assert "starts_from" in said and "a circle" in said
    for name in {"a"} | {start for start in starts.values()}:
        assert f"{name} starts from {starts[name]}" in said


def test_a_long_way_of_starts_is_one_line_and_a_short_one_is_read():
    row = {"question": "x", "modality": "A", "streams": ["audio"]}
    rows = {f"r{n}": {**row, "label": f"r{n}", "starts_from": [f"r{n + 1}"] if n < 1000 else []} for n in range(1001)}
    assert "in a row" in refused(lambda: params.load("demo", [f"variants={json.dumps(rows)}"]))
    two = ["ablation={honest: [audio, baseline, foal-net]}", "variants.foal-net.starts_from=[baseline]"]
    p = params.load("demo", [*two, "variants.baseline.starts_from=[audio]"])
    assert p.variants["foal-net"].starts_from == ["baseline"]
