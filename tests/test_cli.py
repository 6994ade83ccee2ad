"""The console command: what it prints, what it leaves alone, and its exit status."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
from conftest import refused

from foalkit import ROOT, cli, files, grid, params
from foalkit.features import data as prepared
from foalkit.features.data import prepare, unnamed, while_nobody_prepares
from foalkit.features.encoders.sound import LogMelEncoder
from foalkit.params.encoders import Features
from foalkit.params.keys import _models
from foalkit.results import records


def printed(capsys, *words) -> tuple[int, str]:
    status = cli.main(list(words))
    said = capsys.readouterr()
    return status, said.out + said.err


# ---- params -----------------------------------------------------------------------------------------


def test_every_key_is_listed_with_its_type_default_meaning_and_value(capsys):
    status, said = printed(capsys, "params", "demo", "training.lr=0.5")
    assert status == 0
    lines = said.splitlines()
    assert lines[lines.index("* training.epochs = 25") + 1] == "      int, default 40: passes over the training side"
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
    rows = 'robustness.rows: ["video", "audio", "foal-net"] in demo, [] in demo-seeds\n'
    assert said == rows + "seeds: [0] in demo, [0, 1, 2] in demo-seeds\n"


def test_what_is_wrong_is_one_line_and_a_status(capsys):
    status, said = printed(capsys, "params", "dmeo")
    assert status == 1 and said == "error: unknown params file 'dmeo'; did you mean 'demo'?\n"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device", "/a/file"), OSError("odd\nthing")])
def test_what_the_system_refuses_is_one_line_with_what_to_do(capsys, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(params, "load", full)
    status, said = printed(capsys, "params", "demo")
    assert status == 1 and said.startswith("error: ") and said.count("\n") == 1
    assert ("/a/file" in said and "free some space" in said) if error.errno else "odd thing" in said


def test_an_interruption_is_no_traceback(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_params", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    assert printed(capsys, "params", "demo") == (130, "")


@pytest.mark.parametrize("cores", ["0", "-1", "two", "1.5", ""])
def test_no_number_of_cores_is_refused(capsys, cores):
    status, said = printed(capsys, "grid", f"--cores={cores}", "demo")
    assert status == 1 and f"--cores {cores}" in said and "or all" in said


def test_the_overrides_of_make_are_one_word_with_spaces(capsys, monkeypatch):
    from foalkit.report import expected

    monkeypatch.setattr(grid, "run", lambda params, overrides, cores, **how: 0)
    monkeypatch.setattr(expected, "compare", lambda p: f"{p.training.epochs} {p.loss.mem}")
    assert printed(capsys, "grid", "demo", "training.epochs=2 loss.mem=0.5") == (0, "2 0.5\n")


def test_any_letter_is_printed_in_any_locale():
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    for more in ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "latin-1"}):
        call = [sys.executable, "-m", "foalkit", "params", "demo"]
        done = subprocess.run(call, env=env | more, cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert rb"label \u2192 class" in done.stdout


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


def test_a_folder_is_claimed_by_file_and_name(tiny, tmp_path, monkeypatch):
    p = tiny.model_copy(update={"outputs": str(tmp_path / "out"), "name": "mine", "file": "/one/mine.yaml"})
    records.claim(p)
    records.claim(p)
    said = refused(lambda: records.claim(p.model_copy(update={"file": "/other/mine.yaml"})))
    assert "/one/mine.yaml" in said and "/other/mine.yaml" in said
    for damaged in (b"", b"[]", b"{", b"\xff"):
        (tmp_path / "out" / "params.json").write_bytes(damaged)
        assert "params.json: damaged" in refused(lambda: records.claim(p))
    monkeypatch.setattr(records.os, "access", lambda *_: False)
    assert "cannot be written; get the right to it" in refused(
        lambda: records.claim(params.load("demo", f"outputs={tmp_path}/o"))
    )
    (tmp_path / "file").write_text("")
    blocked = p.model_copy(update={"outputs": str(tmp_path / "file" / "out")})
    assert "a file stands where a folder should" in refused(lambda: records.claim(blocked))


@pytest.mark.parametrize("damage", [b"", b"null", b"[1]", b"{", b"\xff\xfe"])
def test_a_damaged_preparation_and_a_damaged_store_are_made_again(outputs, damage, capsys):
    p = outputs["one"]
    (p.folder / "preprocess.json").write_bytes(damage)
    assert len(prepared.open_data(p).table)
    for name in ("manifest.parquet", "left_out.parquet"):
        (p.folder / name).write_bytes(damage)
        assert len(prepared.open_data(p).table)
    for media in p.features_folder.glob("media-*.parquet"):
        media.write_bytes(damage)
    (p.folder / "preprocess.json").unlink()
    assert len(prepared.open_data(p).table)
    store = p.features_folder / p.store_name("audio")
    (store / "store.json").write_bytes(damage)
    assert len(prepared.open_data(p).table)
    said = capsys.readouterr().out
    assert f"{store}: damaged" in said and "it is built again" in said


def test_a_changed_manifest_is_not_believed(outputs):
    p = outputs["one"]
    table = prepared.open_data(p).table
    wrong = table.assign(emotion=table["emotion"].to_numpy()[::-1])
    wrong.to_parquet(p.folder / "manifest.parquet", index=False)
    assert prepared.open_data(p).table["emotion"].tolist() == table["emotion"].tolist()


def test_runs_of_other_features_do_not_count(outputs):
    p = outputs["one"].model_copy(update={"ablation": {"honest": ["audio"]}})
    digest = prepared.open_data(p).info["features"]["audio"]["digest"]
    folder = records.run_folder(p, "honest", "audio", 1, 0)
    record = dict.fromkeys(records.REQUIRED, "") | {"scores": {}, "sizes": {}, "classes": [], "schema": 1}
    record |= {"protocol": "honest", "variant": "audio", "fold": 1, "seed": 0, "selection": "validation"}
    record |= {"params_digest": p.digest("audio")}
    (folder).mkdir(parents=True)
    (folder / "predictions.parquet").write_bytes(b"")
    for written, count in ((digest, 1), ("0" * 16, 0)):
        files.write_sealed(folder / "record.json", record | {"feature_digests": {"audio": written}})
        assert len(records.read_runs(p, "honest", "audio")) == count


def test_a_moved_project_still_names_its_corpus(outputs, tmp_path):
    (tmp_path / "corpora" / "iemocap-12345678").mkdir(parents=True)
    (tmp_path / "corpora" / "iemocap-12345678" / "card.json").write_text("{}")
    info = files.read_mapping(outputs["one"].folder / "preprocess.json")
    files.write_json(
        outputs["one"].folder / "preprocess.json", info | {"corpus": "/elsewhere/corpora/iemocap-12345678"}
    )
    assert unnamed(tmp_path) == {}
    (outputs["one"].folder / "preprocess.json").write_text("[]")
    assert "preprocess.json: damaged" in refused(lambda: unnamed(tmp_path))
