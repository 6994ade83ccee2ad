"""YAML is read plainly: what each writing means, and one line with file and place for what is not read."""

import re
import shutil
import sys

import pytest
import yaml
from conftest import refused

from foalkit import ROOT, params
from foalkit.params import reading
from foalkit.params.load import read_ledger, read_published

BASE = "base: demo\n"


def line_of(tmp_path, text: str | bytes) -> str:
    """What a params file with this text is refused with."""
    file = tmp_path / "x.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(lambda: params.load(file))
    assert "x.yaml" in said and len(said) < 600
    return said


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("", None),
        ("~", None),
        ("null", None),
        ("12", 12),
        ("+12", 12),
        ("-3", -3),
        ("0", 0),
        ("010", "010"),
        ("0x10", "0x10"),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1.5e+3", 1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1.0", 1.0),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        (".", "."),
        ("-", None),
        ("e5", "e5"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01 10:00:00", "2024-01-01 10:00:00"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("=", "="),
        (r'"\ud83d\ude00 \u00e9"', "😀 é"),
        ("[01, 1]", ["01", 1]),
        ("{on: off}", {"on": "off"}),
    ],
)
def test_a_word_means_what_it_looks_like(written, meant):
    value = reading.read_value(written, "here")
    if written == "-":  # a list of nothing
        meant = [None]
    assert (value, type(value)) == (meant, type(meant))


def test_the_kits_own_files_mean_the_same_by_the_older_rules():
    for file in (ROOT / "params").glob("*.yaml"):
        older = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert reading.read_file(file) == older or "lr" in file.read_text(), file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {epochs: 3}\ntraining: {batch: 8}\n", ["line 3", "'training' stands twice"]),
        ("training:\n  epochs: 3\n  'epochs': 4\n", ["line 4", "'epochs' stands twice"]),
        ("features: {audio: {encoder: hog, encoder: mfcc}}\n", ["line 2", "'encoder' stands twice"]),
        ("variants: {mem: {set: {loss.mem: 1, loss.mem: 2}}}\n", ["'loss.mem' stands twice"]),
        ("seeds: &s [1]\n", ["line 2", "anchors"]),
        ("about: x\nseeds: *s\n", ["line 3", "aliases"]),
        ("training: &t {epochs: *t}\n", ["line 2", "anchors"]),
        ("training: {<<: {epochs: 3}}\n", ["line 2", "<<", "base:"]),
        ("about: !!python/object/apply:os.system ['touch pwned']\n", ["line 2", "tags are not read"]),
        ("about: !!python/name:os.system\n", ["tags"]),
        ("about: !!binary aGk=\n", ["tags"]),
        ("seeds: !!set {1, 2}\n", ["tags"]),
        ("training: !!omap [epochs: 3]\n", ["tags"]),
        ("about: !x y\n", ["'!x'"]),
        ("about: ! y\n", ["tags"]),
        ("---\nabout: x\n", ["line 2", "one document"]),
        ("training:\n\tepochs: 3\n", ["line 3", "indent with spaces"]),
        ("about: [1,\nb: 2\n", ["not valid YAML", "line "]),
        ("about: 'x\n", ["not valid YAML"]),
        ("about: @x\n", ["line 2"]),
        ("%YAML 3.0\n---\n", ["line "]),
        ("[a]: 3\n", ["line 2", "cannot be a key"]),
        ("? {a: b}\n: 3\n", ["line 2", "cannot be a key"]),
        ("about: a\0b\n", ["line 2", r"\x00"]),
        ('about: "a\\0b"\n', ["line 2", r"\x00"]),
        ('about: "a\\e[2Jb"\n', ["line 2", r"\x1b"]),
        ('about: "\\ud800"\n', ["line 2", "cannot be shown"]),
        ("seeds: " + "[" * 5000 + "]" * 5000, ["line 2", "20 values within each other"]),
        ("about:\n" + "".join(" " * n + f"a{n}:\n" for n in range(1, 200)), ["20 values within each other"]),
        ("about: " + "x" * 1_000_000, ["longer than"]),
        ("3: x\n", ["3", "key must be text"]),
        ("null: x\n", ["key must be text"]),
        ("true: x\n", ["key must be text"]),
        ("2024-01-01: x\n", ["unknown key '2024-01-01'"]),
    ],
)
def test_what_is_not_plain_is_refused_with_its_line(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    said = line_of(tmp_path, BASE + text)
    assert all(word in said for word in words), said
    assert not (tmp_path / "pwned").exists()


def test_ten_aliases_of_ten_aliases_are_refused_at_the_first(tmp_path):
    laughs = "a: &a {x: 1}\n" + "".join(
        f"{new}: &{new} {{{', '.join(f'{k}: *{old}' for k in 'abcdefghij')}}}\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "line 1" in line_of(tmp_path, laughs)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BASE.encode() + b"about: \xfc\n", ["UTF-8", "line 2"]),
        ((BASE + "about: x\n").encode("utf-16"), ["UTF-8"]),
        ((BASE + "about: x\n").encode("utf-16-le"), [""]),
        (b"\x00" * 100, [r"\x00"]),
        (b"", ["key: value"]),
        (b"# nothing\n", ["key: value"]),
        (b"demo\n", ["key: value"]),
        (b"- 1\n", ["key: value"]),
    ],
)
def test_other_bytes_are_refused(tmp_path, content, words):
    said = line_of(tmp_path, content)
    assert all(word in said for word in words), said


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + (BASE + "training:\n  epochs: 3\n").replace("\n", "\r\n").encode())
    assert params.load(file).training.epochs == 3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{epochs: 3, epochs: 4}", ["'epochs' stands twice"]),
        ("&a 3", ["anchors"]),
        ("!!int 3", ["tags"]),
        ("[" * 100, ["within each other"]),
        ("[1", ["not valid YAML"]),
        (b"'\\udcff'".decode("unicode_escape"), ["cannot be read"]),
        ("x" * 300_000, ["longer than"]),
    ],
)
def test_an_overrides_value_is_read_as_plainly(value, words):
    said = refused(lambda: params.load("demo", [f"training={value}"]))
    assert all(word in said for word in ["training", *words]) and len(said) < 600, said


# ---- the other files -----------------------------------------------------------------------------------


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """A copy of params/ that is read in place of the kit's."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.setattr(sys.modules["foalkit.params.load"], "ROOT", tmp_path)
    return tmp_path / "params"


@pytest.mark.parametrize("name", ["demo", "variants", "ledger"])
def test_every_file_that_params_stand_on_is_read_as_plainly(kit, name):
    file = kit / f"{name}.yaml"
    text = file.read_text()
    first = re.search(r"^(\w[\w-]*):", text, re.M)[1]
    for added, words in {
        f"{first}: {{}}\n": ["stands twice"],
        "more: &a x\n": ["anchors"],
        "more: !!str x\n": ["tags"],
    }.items():
        file.write_text(text + added)
        (kit / "on-it.yaml").write_text("base: demo\n")
        said = refused(lambda: params.load("on-it"))
        assert all(word in said for word in [f"{name}.yaml", "line ", *words]), said


@pytest.mark.parametrize(
    ("name", "find", "change", "words"),
    [
        ("variants", "label: audio\n", "label: audio\n  quesion: x\n", ["variants.yaml: audio", "'question'"]),
        ("variants", "streams: [audio]\n", "streams: audio\n", ["variants.yaml: audio", "streams", "list"]),
        ("ledger", "topic: hard negative\n", "topic: 3\n", ["ledger.yaml: 1", "topic", "text"]),
    ],
)
def test_a_wrong_key_is_named_with_the_file_it_stands_in(kit, name, find, change, words):
    file = kit / f"{name}.yaml"
    assert find in file.read_text()
    file.write_text(file.read_text().replace(find, change, 1))
    said = refused(lambda: params.load("demo"))
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    "text",
    [
        "IEMOCAP: 3\n",
        "IEMOCAP: [3]\n",
        "IEMOCAP: {a: b}\n",
        "IEMOCAP: [{rows: 3}]\n",
        "IEMOCAP: [{rows: [3]}]\n",
        "IEMOCAP: [{rows: [{system: x, ua: '80'}]}]\n",
        "IEMOCAP: [{rows: [{system: x, ua: 180}]}]\n",
        "IEMOCAP: []\nIEMOCAP: []\n",
    ],
)
def test_a_registry_that_is_not_whole_is_one_line(tmp_path, text):
    file = tmp_path / "published.yaml"
    file.write_text(text)
    assert "published.yaml: " in refused(lambda: read_published(file))


def test_the_ledgers_rows_are_whole():
    assert list(read_ledger()) == list(range(1, 13))
