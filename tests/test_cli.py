"""The console command: what it prints, what it leaves alone, and its exit status."""

import shutil

import pytest
from conftest import refused

from foalkit import cli, params
from foalkit.features import data as prepared
from foalkit.features.data import prepare, unnamed, while_nobody_prepares
from foalkit.features.encoders.sound import LogMelEncoder
from foalkit.params.encoders import Features
from foalkit.params.keys import _models


def printed(capsys, *words) -> tuple[int, str]:
    status = cli.main(list(words))
    said = capsys.readouterr()
    return status, said.out + said.err


# ---- params -----------------------------------------------------------------------------------------


def test_every_key_is_listed_with_its_type_default_meaning_and_value(capsys):
    status, said = printed(capsys, "params", "demo", "training.lr=0.5")
    assert status == 0
    lines = said.splitlines()
    assert lines[lines.index("* training.epochs = 12") + 1] == "      int, default 40: passes over the training side"
    assert "* training.lr = 0.5" in lines and "  training.weight_decay = 0.01" in lines
    assert "* features.audio.bands = 40" in lines and "  model.heads = 4" in lines
    for model in _models(Features):  # also those that the file does not use
        for key in model.model_fields:
            assert any(line.split(" = ")[0].endswith(f".{key}") for line in lines), key


def test_every_key_says_what_it_means(capsys):
    _, said = printed(capsys, "params", "demo")
    meanings = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("      ")]
    assert len(meanings) > 100 and all(len(m) > 5 for m in meanings)


def test_two_files_are_compared_by_what_they_set_otherwise(capsys):
    _, said = printed(capsys, "params", "demo", "--diff", "demo-seeds")
    assert said == "seeds: [0] in demo, [0, 1, 2] in demo-seeds\n"


def test_what_is_wrong_is_one_line_and_a_status(capsys):
    status, said = printed(capsys, "params", "dmeo")
    assert status == 1 and said == "error: unknown params file 'dmeo'; did you mean 'demo'?\n"


# ---- features that nothing names ----------------------------------------------------------------------


@pytest.fixture
def outputs(tiny, tmp_path):
    """Two params files' outputs side by side, on the tiny corpus, with one stream."""
    made = {}
    for name, bands in {"one": 8, "two": 9}.items():
        made[name] = tiny.model_copy(
            update={
                "name": name,
                "outputs": str(tmp_path / name),
                "features": {"audio": tiny.features["audio"].model_copy(update={"bands": bands})},
            }
        )
        prepare(made[name])
    return made


def test_only_what_no_outputs_name_is_listed(outputs, tmp_path):
    assert unnamed(tmp_path) == {}
    (tmp_path / "features" / "log-mel-0123.partial").mkdir()
    (tmp_path / "features" / "log-mel-0123.partial" / "log.jsonl").write_text("12345")
    shutil.rmtree(outputs["two"].folder)
    store = tmp_path / "features" / outputs["two"].store_name("audio")
    found = unnamed(tmp_path)
    assert set(found) == {store, tmp_path / "features" / "log-mel-0123.partial"}
    assert found[tmp_path / "features" / "log-mel-0123.partial"] == 5
    assert found[store] == sum(f.stat().st_size for f in store.iterdir())


def test_the_command_removes_only_when_told(outputs, tmp_path, capsys, monkeypatch):
    shutil.rmtree(outputs["two"].folder)
    store = tmp_path / "features" / outputs["two"].store_name("audio")
    monkeypatch.setattr(cli, "ROOT", tmp_path.parent)
    tmp_path.rename(tmp_path.parent / "outputs")
    moved = tmp_path.parent / "outputs" / "features" / store.name
    try:
        assert "1 that no outputs name" in printed(capsys, "clean-features")[1] and moved.exists()
        assert "removed" in printed(capsys, "clean-features", "--remove")[1] and not moved.exists()
        assert (moved.parent / outputs["one"].store_name("audio")).exists()
    finally:
        (tmp_path.parent / "outputs").rename(tmp_path)


def test_nothing_is_cleaned_while_features_are_prepared(outputs, tmp_path, monkeypatch):
    encode, said = LogMelEncoder.__call__, []

    def meanwhile(self, samples):
        if not said:
            said.append(refused(lambda: while_nobody_prepares(tmp_path).__enter__()))
        return encode(self, samples)

    monkeypatch.setattr(LogMelEncoder, "__call__", meanwhile)
    shutil.rmtree(tmp_path / "features" / outputs["one"].store_name("audio"))
    prepare(outputs["one"])
    assert "features are being prepared" in said[0]


# ---- outputs belong to one ----------------------------------------------------------------------------


def test_outputs_of_other_params_are_not_written_into(outputs):
    thief = outputs["two"].model_copy(update={"outputs": outputs["one"].outputs})
    said = refused(lambda: prepared.open_data(thief))
    assert "holds the runs of one" in said and "two" in said
    assert params.load("demo").name == "demo"
