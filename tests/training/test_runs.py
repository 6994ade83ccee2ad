"""What is finished is not done again, and what it rests on goes with it."""

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import refused

from foalkit import params
from foalkit.report import explore
from foalkit.report.check import check_features
from foalkit.results import records, tables, variants
from foalkit.training import runs

WANTED = ("audio", 1, 0, "honest")


@pytest.fixture(scope="module")
def trained(tiny, data, tmp_path_factory):
    """Params with outputs of their own and one run, on the tiny corpus's features."""
    p = tiny.model_copy(update={"outputs": str(tmp_path_factory.mktemp("runs") / "out")})
    runs.run(p, *WANTED, data)
    return p


def test_a_finished_run_reads_back_as_it_was_trained(trained, data):
    folder = records.run_folder(trained, "honest", "audio", 1, 0)
    record = records.read_record(folder / "record.json")
    done = runs.finished(trained, *WANTED, data)
    assert done.scores == record["scores"] and done.selection == "validation"
    assert done.history["epoch"].tolist() == [1, 2] and len(done.weights)
    assert record["trained_on"] == {"audio": []} and record["may_have_seen"] == {}
    assert len(done.predictions) == 2 * (record["sizes"]["validation"] + record["sizes"]["test"])
    ua = record["scores"]["validation"]["ua"]
    assert runs.trained_before(trained, *WANTED) == f"trained {record['finished']}, UA {ua:.1%}"


def test_a_run_of_other_settings_or_features_is_not_finished(trained, data):
    assert runs.finished(trained, "video", 1, 0, "honest", data) is None
    longer = trained.model_copy(update={"training": trained.training.model_copy(update={"epochs": 3})})
    assert runs.finished(longer, *WANTED, data) is None
    changed = {**data.info["features"], "audio": {**data.info["features"]["audio"], "digest": "other"}}
    other = type(data)(data.table, data.left_out, data.stores, {**data.info, "features": changed}, data.classes)
    assert runs.finished(trained, *WANTED, other) is None


def test_a_finished_run_whose_predictions_changed_is_refused(trained, data):
    file = records.run_folder(trained, "honest", "audio", 1, 0) / "predictions.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole + b"x")
    try:
        assert "digest differs" in refused(lambda: runs.finished(trained, *WANTED, data))
    finally:
        file.write_bytes(whole)


def test_the_record_says_what_differs_from_the_file(trained, data):
    p = trained.model_copy(update={"differs": {"training.epochs": 2}, "name": "tiny,training.epochs=2"})
    p = p.model_copy(update={"outputs": trained.outputs + "-2"})
    record = records.read_record(runs.run(p, "audio", 1, 0, "honest", data))
    assert record["differs"] == {"training.epochs": 2} and record["run"].startswith("tiny,training.epochs=2/")


def test_the_check_compares_features_with_the_digests_and_with_the_records(trained, data):
    assert check_features(trained) == ([], 0)  # the features lie beside other outputs: nothing to compare
    place = trained.features_folder / trained.store_name("audio")
    shutil.copytree(data.stores["audio"].folder, place)
    assert check_features(trained) == ([], 1)
    record = records.run_folder(trained, "honest", "audio", 1, 0) / "record.json"
    kept = record.read_text()
    record.write_text(kept.replace(data.stores["audio"].digest, "0" * 16))
    (line,), _ = check_features(trained)
    assert "features.audio are not those it was trained on" in line
    record.write_text(kept)
    packed = place / "features.f16"
    packed.write_bytes(bytes(packed.stat().st_size))
    (line,), _ = check_features(trained)
    assert str(place) in line and "delete the folder to build it again" in line
    shutil.rmtree(place)


def test_streams_of_any_name_go_all_the_way(tiny, data, tmp_path):
    """The tiny corpus's features under names of our own: trained, looked into, tabled; the same numbers."""
    names = {"audio": "voice", "video": "look"}
    dumped = tiny.model_dump(exclude={"variants"})
    dumped |= {
        "outputs": str(Path(tiny.outputs).with_name("named")),
        "features": {names[s]: dumped["features"][s] for s in names},
        "variants": {
            "fused": {"question": "Does it go?", "label": "fused", "modality": "A+V", "streams": ["voice", "look"]},
            "heard": {"question": "Alone?", "label": "heard", "modality": "A", "streams": ["voice"]},
        },
        "ablation": {"honest": ["fused", "heard"]},
    }
    dumped["model"]["inputs"] = {names[s]: dumped["model"]["inputs"][s] for s in names}
    dumped["training"] |= {"standardise": ["voice"], "epochs": 1}
    (tmp_path / "named.yaml").write_text(yaml.safe_dump(dumped))
    p = params.load(tmp_path / "named.yaml")
    runs.run_all(p, records.missing_runs(p, [("honest", "fused"), ("honest", "heard")]))
    assert {s: p.store_name(n) for s, n in names.items()} == {s: tiny.store_name(s) for s in names}
    results = [variants.variant_result(p, "honest", v) for v in ("fused", "heard")]
    plain = tiny.model_copy(
        update={
            "outputs": str(tmp_path / "plain"),
            "training": tiny.training.model_copy(update={"standardise": ["audio"], "epochs": 1}),
        }
    )
    record = records.read_record(runs.run(plain, "foal-net", 1, 0, "honest", data))
    assert results[0].runs[0]["scores"] == record["scores"]
    table = tables.absent_table(p, results).set_index("variant")
    assert list(table) == ["both", "sound only", "picture only"]
    assert table.loc["heard", "both"] == table.loc["heard", "picture only"] == "–" != table.loc["heard", "sound only"]
    inside = explore.embeddings(p, results[0].runs[0])
    assert list(inside.before) == ["voice", "look"] and "voice to look" in explore.neighbours(inside).index
    assert explore.pictures(p, inside)["embeddings"].axes[0].get_title() == "voice features"
