"""Every key of the schema, tried with values of the wrong kind: one line with the key, and nothing is converted."""

import copy
import json
import typing
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from conftest import refused
from pydantic import BaseModel

from foalkit import ROOT, params
from foalkit.params.errors import validate
from foalkit.params.reading import read_file
from foalkit.params.schema import Params

NO_KEYS = ("differs", "file")
# what each kind of a key must not take
WRONG: dict[Any, list] = {
    int: ["12", "many", 12.5, 12.0, True, [1], {"a": 1}, float("inf"), 1e30],
    float: ["0.5", "x", True, [0.5], {"a": 1}, float("inf"), float("-inf"), float("nan")],
    bool: ["yes", "true", 1, 0, 0.5, [True], {}],
    str: [3, 0.5, True, ["x"], {"a": "b"}],
    list: ["x", 3, {"a": 1}, True],
    tuple: ["x", 3, {"a": 1}, [0.1], [0.1, 0.2, 0.3], [True, 1.0], ["0.1", 1.0], [0.1, float("inf")]],
    dict: ["x", 3, [1], True],
}


def models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [m for inner in typing.get_args(kind) for m in models(inner)]


def parts(kind: Any) -> tuple[list, list]:
    """The plain kinds that a key may take, and the limits of its numbers; null and limits are taken off."""
    if typing.get_origin(kind) is Annotated:
        inner, limits = parts(typing.get_args(kind)[0])
        more = [x for a in kind.__metadata__ for x in getattr(a, "metadata", [a])]
        return inner, limits + [x for x in more if isinstance(x, Ge | Gt | Le | Lt)]
    if typing.get_origin(kind) in (typing.Union, type(int | None)):
        found = [parts(a) for a in typing.get_args(kind) if a is not type(None)]
        return [k for kinds, _ in found for k in kinds], [x for _, limits in found for x in limits]
    return [kind], []


# a mapping with every required key, for each kind of a place that holds several
PLACES = {
    "features.x": [
        {"encoder": "log-mel"},
        {"encoder": "mfcc"},
        {"encoder": "waveform"},
        {"encoder": "wavlm", "model": "small"},
        {"encoder": "clip", "model": "small"},
        {"encoder": "expression", "model": "small"},
        {"encoder": "hog"},
        {"encoder": "frames"},
        {"encoder": "resemblyzer"},
        {"encoder": "fer"},
        {"encoder": "efficientnet-lite0"},
        {"encoder": "imported", "folder": "f", "width": 3},
    ],
    "model.inputs.x": [
        {"kind": "none"},
        {"kind": "linear", "width": 3},
        {"kind": "conv", "width": 3},
        {"kind": "wavlm", "model": "small"},
    ],
    "corpus": [
        {"reader": "iemocap", "labels": {"a": "A", "b": "B"}, "classes": ["A", "B"], "generate": {"seed": 1}},
        {"reader": "ravdess", "labels": {"a": "A", "b": "B"}, "classes": ["A", "B"], "generate": {"seed": 1}},
        {
            "reader": "table",
            "labels": {"a": "A", "b": "B"},
            "classes": ["A", "B"],
            "table": "t.csv",
            "columns": {"audio": "a", "utterance": "u", "speaker": "s", "label": "l"},
        },
        {
            "reader": "names",
            "labels": {"a": "A", "b": "B"},
            "classes": ["A", "B"],
            "root": "r",
            "pattern": "(?P<speaker>..)_(?P<label>.)",
        },
    ],
    "variants.x": [{"question": "q?", "label": "x", "modality": "A", "streams": ["audio"]}],
}


DEMO = read_file(ROOT / "params" / "demo.yaml")
ROWS = {name: PLACES["variants.x"][0] | {"label": name} for names in DEMO["ablation"].values() for name in names}


def whole() -> dict:
    data = {"about": "x", "name": "x", "outputs": "outputs/x"} | copy.deepcopy(DEMO)
    data["features"]["x"], data["model"]["inputs"]["x"] = PLACES["features.x"][0], PLACES["model.inputs.x"][0]
    data["variants"] = copy.deepcopy(ROWS) | {"x": copy.deepcopy(PLACES["variants.x"][0])}
    return data


def at(data: dict, place: str) -> dict:
    for part in filter(None, place.split(".")):
        data = data.setdefault(part, {})
    return data


def keys() -> list[tuple[str, dict | None, str, Any]]:
    """Every key: its place, what stands there, its name and its field, those of all kinds of encoders included."""
    found = []

    def walk(model, place, standing):
        for name, field in model.model_fields.items():
            if not place and name in NO_KEYS:
                continue
            found.append((place, standing, name, field))
            inner, path = models(field.annotation), f"{place}.{name}".strip(".")
            if path in ("features", "model.inputs", "variants"):
                path += ".x"
            for kind in inner:
                choices = [c for c in PLACES.get(path, [None]) if c is None or _chooses(kind, c)]
                walk(kind, path, choices[0] if choices[0] is not None else standing)

    walk(Params, "", None)
    return found


def _chooses(kind, choice) -> bool:
    tags = [t for t in ("encoder", "kind", "reader") if t in choice]
    return all(choice[t] in typing.get_args(kind.model_fields[t].annotation) for t in tags if t in kind.model_fields)


def settings(place: str, standing: dict | None, name: str, value: Any) -> dict:
    """A whole file with one key set."""
    data = whole()
    for where, choices in PLACES.items():
        if standing in choices:
            at(data, where.rpartition(".")[0])[where.rpartition(".")[2]] = copy.deepcopy(standing)
    at(data, place)[name] = value
    return data


KEYS = keys()
NAMES = [
    f"{place}.{name}" + (f" of {next(iter(s.values()))}" if s and len(s) else "") for place, s, name, field in KEYS
]


def test_the_file_that_the_keys_are_tried_in_is_right(tmp_path):
    (tmp_path / "x.yaml").write_text(json.dumps(whole()))
    assert params.load(tmp_path / "x.yaml").features["x"].encoder == "log-mel"
    for place, standing, name, field in KEYS:
        right = at(settings(place, standing, name, None), place) | {name: field.default}
        alone = name in ("generate", "table", "label", "speaker") or (name == "root" and "pattern" in standing)
        if not field.is_required() and not alone:  # the place is right but for the value that is tried
            validate(Params, settings(place, standing, name, copy.deepcopy(right[name])), "x.yaml")
    assert len(KEYS) > 130


@pytest.mark.parametrize(("place", "standing", "name", "field"), KEYS, ids=NAMES)
def test_a_value_of_the_wrong_kind_is_one_line_with_its_key(place, standing, name, field):
    kinds, limits = parts(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)
    origins = [typing.get_origin(k) or k for k in kinds]
    wrong = []
    for kind, origin in zip(kinds, origins, strict=True):
        if origin is Literal:
            wrong += ["nope", 3, 0.5, ["x"], {"a": 1}] + ([] if bool in origins else [True])
        elif models(kind) and origin is not dict:
            wrong += ["x", 3, True, [1]]
        else:
            wrong += WRONG[origin]
    if bool in origins:  # true, false or a word
        wrong = [w for w in wrong if not isinstance(w, bool)]
    if int in origins or float in origins:
        assert {type(x) for x in limits} & {Ge, Gt} and {type(x) for x in limits} & {Le, Lt}, "a number without limits"
        wrong += [10**12, -(10**12), 10**30]
    assert len(wrong) >= 4
    for value in wrong:
        said = refused(lambda value=value: validate(Params, settings(place, standing, name, value), "x.yaml"))
        assert f"{place}.{name}".strip(".") in said, (value, said)
        assert "Input" not in said and "pydantic" not in said, said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds: []", ["seeds", "at least 1"]),
        ("seeds: [0, 0]", ["seeds", "0 stands twice"]),
        ("seeds: [-1]", ["seeds.0", "greater than or equal to 0"]),
        ("seeds: [4294967296]", ["seeds.0", "less than"]),
        ("seeds: [true]", ["seeds.0", "whole number"]),
        ("seeds: [1.0]", ["seeds.0", "whole number"]),
        ("training: {epochs: yes}", ["training.epochs", "whole number", "'yes'"]),
        ("training: {epochs: 010}", ["training.epochs", "'010'"]),
        ("training: {lr: .inf}", ["training.lr", "finite"]),
        ("training: {lr: 0}", ["training.lr", "greater than 0"]),
        ("training: {batch: 1}", ["training.batch", "2"]),
        ("training: {standardise: [vidoe]}", ["training.standardise", "'vidoe'", "'video'"]),
        ("training: {schedule: cosin}", ["training.schedule", "'cosin'", "'cosine'"]),
        ("training: {precision: fp64}", ["training.precision", "'fp64'"]),
        ("model: {heads: 0}", ["model.heads", "1"]),
        ("model: {dropout: 2}", ["model.dropout", "1"]),
        ("model: {inputs: {audio: {kind: conf, width: 3}}}", ["model.inputs.audio.kind", "'conf'", "'conv'"]),
        ("model: {inputs: {audoi: {kind: none}}}", ["model.inputs", "'audoi'", "'audio'"]),
        ("loss: {avel: -1}", ["loss.avel", "0"]),
        ("loss: {temperature_range: [3, 4]}", ["loss.temperature", "[3.0, 4.0]"]),
        ("loss: {normalise_targets: yes}", ["loss.normalise_targets", "true, false or 'matched'"]),
        ("cfn_sr: {crop: [2, 1]}", ["cfn_sr.crop", "range"]),
        ("cfn_sr: {crop: [-1, 1]}", ["cfn_sr.crop", "range"]),
        ("clip: {part: center}", ["clip.part", "'center'", "'centre'"]),
        ("corpus: {reader: iemocp}", ["corpus.reader", "'iemocp'", "'iemocap'"]),
        ("corpus: {classes: [happy, happy, neutral, sad, angry]}", ["corpus.classes", "'happy' stands twice"]),
        ("corpus: {classes: [happy, neutral, sad, angry, calm]}", ["corpus.classes", "'calm'"]),
        ("corpus: {classes: ['', neutral, sad, angry]}", ["corpus.classes.0", "empty"]),
        ("corpus: {classes: [happy]}", ["corpus.classes", "at least 2"]),
        ("corpus: {classes: [' happy', neutral, sad, angry]}", ["corpus.classes.0", "visible"]),
        ('corpus: {classes: ["ha\\nppy", neutral, sad, angry]}', ["corpus.classes.0", "one line"]),
        ('corpus: {classes: ["ha\\u202eppy", neutral, sad, angry]}', ["corpus.classes.0", "visible"]),
        ("corpus: {labels: {hap: hapy}}", ["corpus.labels.hap", "'hapy'", "'happy'"]),
        ("corpus: {labels: {'': happy}}", ["corpus.labels", "empty"]),
        ("folds: {groups: [[Ses01]]}", ["folds.groups", "at least 2"]),
        ("folds: {groups: [[Ses01], []]}", ["folds.groups.1", "at least 1"]),
        ("folds: {groups: [[Ses01], [Ses01]]}", ["folds.groups", "'Ses01' is held out twice"]),
        ("folds: {groups: [[1], [2]]}", ["folds.groups.0.0", "quotes"]),
        ("features: {voice: {bands: 3}}", ["'features.voice.encoder' is missing"]),
        ("features: {audio: {encoder: logmel}}", ["features.audio.encoder", "'logmel'", "'log-mel'"]),
        ("features: {a: {encoder: imported, folder: f, width: 3, pattern: '{a.b}'}}", ["features.a.pattern"]),
        ("features: {a: {encoder: imported, folder: f, width: 3, pattern: '{a!r:>99999999}'}}", ["features.a.pattern"]),
        ("ablation: {honst: [video]}", ["ablation.honst", "'honest'"]),
        ("ablation: {honest: [vidoe]}", ["ablation.honest", "'vidoe'", "'video'"]),
        ("ablation: {honest: video}", ["ablation.honest", "list"]),
        ("variants: {mem: {set: {outputs: x}}}", ["variants.mem.set.outputs", "loss"]),
        ("variants: {mem: {set: {features.audio.bands: 9}}}", ["variants.mem.set.features.audio.bands"]),
        ("variants: {mem: {set: {loss.mme: 9}}}", ["mem", "'loss.mme'", "'mem'"]),
        ("variants: {mem: {label: + AVEL}}", ["labels", "avel", "mem"]),
        ("variants: {mem: {published: {x: [180, 3]}}}", ["variants.mem.published.x.0", "100"]),
        ("base: [demo]", ["x.yaml", "base"]),
        ("name: ''", ["name", "empty"]),
        ("differs: {a: b}", ["differs"]),
    ],
)
def test_slips_are_named_with_their_key_and_the_nearest(tmp_path, text, words):
    (tmp_path / "x.yaml").write_text(text if text.startswith("base") else f"base: demo\n{text}\n")
    said = refused(lambda: params.load(tmp_path / "x.yaml"))
    assert all(word in said for word in words), said


def test_a_value_of_any_length_is_quoted_in_part(tmp_path):
    for text in (f"training: {{epochs: {'x' * 100_000}}}", f"{'x' * 1000}: 3", f"corpus: {{reader: {'y' * 100_000}}}"):
        (tmp_path / "x.yaml").write_text(f"base: demo\n{text}\n")
        assert len(refused(lambda: params.load(tmp_path / "x.yaml"))) < 600


# ---- outputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("/", ["project itself"]),
        ("..", ["project itself"]),
        (".", ["project itself"]),
        (str(ROOT), ["project itself"]),
        (str(ROOT.parent), ["project itself"]),
        ("../x", ["leaves the project"]),
        ("outputs/../../x", ["leaves the project"]),
        ("foalkit", ["below outputs/"]),
        ("notebooks/x", ["below outputs/"]),
        ("outputs", ["below outputs/"]),
        ("outputs/x/../../params", ["below outputs/"]),
        ("outputs/features", ["share"]),
        ("/data/corpora", ["share"]),
        ("/x", ["choose a folder in it"]),
        ("$NOT_SET_HERE/x", ["$NOT_SET_HERE is not set"]),
        ("outputs/{x}", ["{ or }"]),
        ("/data/{variant}/x", ["{ or }"]),
        ("outputs/" + "x" * 200, ["150 bytes"]),
        ("outputs/" + "ü" * 80, ["150 bytes"]),
        (" outputs/x", ["spaces"]),
    ],
)
def test_outputs_that_are_no_folder_of_their_own_are_refused(tmp_path, given, words):
    (tmp_path / "x.yaml").write_text(f"base: demo\noutputs: {json.dumps(given)}\n")
    said = refused(lambda: params.load(tmp_path / "x.yaml"))
    assert "outputs" in said and all(word in said for word in words), said


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ("outputs/a/../b/", "outputs/b"),
        ("outputs/$(touch pwned)", "outputs/$(touch pwned)"),
        (str(ROOT / "outputs" / "b"), "outputs/b"),
        ("/data/a b/x", "/data/a b/x"),
        ("~/results/x", "/users/me/results/x"),
        ("$DATA/x", "/data/x"),
        (None, "outputs/x"),
    ],
)
def test_outputs_are_where_they_are_said_to_be(tmp_path, monkeypatch, given, folder):
    monkeypatch.setenv("HOME", "/users/me")
    monkeypatch.setenv("DATA", "/data")
    (tmp_path / "x.yaml").write_text(f"base: demo\noutputs: {json.dumps(given)}\n")
    assert params.load(tmp_path / "x.yaml").outputs == folder
