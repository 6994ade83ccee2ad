"""Features made elsewhere for each fold: a run reads its own fold's set and no other, and its record says which."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import refused

from foalkit import doctor, notebook, params
from foalkit.corpora.overview import check as check_corpus
from foalkit.features.data import extract, open_data, prepare, sources, unnamed, up_to_date
from foalkit.files import read_mapping
from foalkit.params.robustness import Robustness
from foalkit.params.trained_on import may_have_seen
from foalkit.report import explore
from foalkit.report.check import check, check_features
from foalkit.report.page import write_report
from foalkit.results import records
from foalkit.results.encoders import encoders_table
from foalkit.results.variants import variant_result, write_five_fold
from foalkit.training import runs
from foalkit.training.robustness import measure

FOLDS = range(1, 6)
ROWS = ["audio", "video", "foal-net"]
LACKING, BROKEN = 3, 7  # utterances by number: one that a single set lacks, one that a single set holds NaN for


@pytest.fixture(scope="module")
def made(tiny, data, tmp_path_factory):
    """A folder for each fold, in which every utterance of the tiny corpus has other numbers."""
    folder = tmp_path_factory.mktemp("by-fold") / "features"
    number = {c: i for i, c in enumerate(data.classes)}
    for fold in FOLDS:
        (folder / f"fold{fold}").mkdir(parents=True)
        rng = np.random.default_rng(fold)
        for turn in data.table.to_dict("records"):
            x = rng.normal(fold, 1, (rng.integers(3, 7), 8))
            x[:, number[turn["emotion"]]] += 1
            np.save(folder / f"fold{fold}" / f"{turn['utterance']}.npy", x)
    return folder


def asking(tiny, made, outputs, folder="fold{fold}", **more):
    """The tiny params whose video is read from there."""
    spec = {"encoder": "imported", "folder": f"{made}/{folder}", "width": 8}
    whole = tiny.model_dump() | {"outputs": str(outputs), "ablation": {"honest": ROWS}}
    whole["features"] = {"audio": whole["features"]["audio"], "video": spec}
    whole["model"]["inputs"] = {s: {"kind": "linear", "width": 32} for s in ("audio", "video")}
    return params.Params.model_validate(whole | more)


@pytest.fixture(scope="module")
def p(tiny, made, tmp_path_factory):
    return asking(tiny, made, tmp_path_factory.mktemp("outputs") / "p")


@pytest.fixture(scope="module")
def trained(p):
    """All folds of all rows."""
    runs.run_all(p, records.missing_runs(p, [("honest", row) for row in ROWS]))
    return p


def of_file(made, fold, utterance):
    return np.load(made / f"fold{fold}" / f"{utterance}.npy").astype(np.float16)


def record_of(p, row, fold):
    return records.read_record(records.run_folder(p, "honest", row, fold, 0) / "record.json")


def test_each_fold_has_a_store_of_its_own_files(p, made):
    every = open_data(p)
    assert "video" not in every.stores  # nobody has said yet whose
    assert [n for n in every.info["features"] if n != "audio"] == [f"video, fold {fold}" for fold in FOLDS]
    for fold in FOLDS:
        own = every.of_fold(p, fold, ["video"])
        assert set(own.stores["video"].lengths) == set(every.table["utterance"])
        for utterance in every.table["utterance"]:
            np.testing.assert_array_equal(own.stores["video"][utterance], of_file(made, fold, utterance))
        assert own.info["features"]["video"]["digest"] == own.stores["video"].digest
    assert "video" not in every.of_fold(p, 1, ["audio"]).stores
    plain = p.model_copy(update={"features": {"audio": p.features["audio"]}})
    assert plain.by_fold == [] and every.of_fold(plain, 1, ["audio"]) is every


def test_a_run_is_the_one_of_its_folds_folder_alone(trained, tiny, made, tmp_path):
    digests = {fold: record_of(trained, "foal-net", fold)["feature_digests"] for fold in FOLDS}
    assert len({d["video"] for d in digests.values()}) == 5 and len({d["audio"] for d in digests.values()}) == 1
    for fold in (2, 5):  # who names one fold's folder as that of all folds has the same run of that fold
        alone = asking(tiny, made, tmp_path / f"alone{fold}", folder=f"fold{fold}")
        for row in ("video", "foal-net"):
            runs.run(alone, row, fold, 0, "honest")
            one, other = record_of(trained, row, fold), record_of(alone, row, fold)
            same = ("predictions_digest", "weights_digest", "feature_digests", "manifest_digest", "split_digest")
            assert {k: one[k] for k in same} == {k: other[k] for k in same}
            assert one["params_digest"] != other["params_digest"]
            assert one["params"]["features"]["video"]["folder"].endswith("fold{fold}")
        runs.run(alone, "video", 1, 0, "honest")
        others = [record_of(of, "video", 1)["predictions_digest"] for of in (alone, trained)]
        assert others[0] != others[1]


def test_a_run_opens_no_other_folds_store(trained, tmp_path):
    p = trained.model_copy(update={"outputs": str(tmp_path / "out" / "p")})
    shutil.copytree(trained.features_folder, p.features_folder)
    shutil.copytree(trained.folder, p.folder, ignore=shutil.ignore_patterns("runs", "params.json"))
    data = open_data(p, ["video"])
    for fold in (1, 3, 4, 5):
        shutil.rmtree(p.for_fold(fold).store_folder("video"))
    runs.run(p, "video", 2, 0, "honest", data)
    assert record_of(p, "video", 2)["predictions_digest"] == record_of(trained, "video", 2)["predictions_digest"]


def test_what_changes_in_one_folds_files_is_trained_anew_and_nothing_else(trained, made, tiny, tmp_path):
    own = tmp_path / "features"
    shutil.copytree(made, own)
    p = asking(tiny, own, tmp_path / "out" / "p")
    rows = [("honest", "video"), ("honest", "audio")]
    runs.run_all(p, records.missing_runs(p, rows))
    assert up_to_date(p) and records.missing_runs(p, rows) == []
    before, file = sources(p), next((own / "fold3").iterdir())
    np.save(file, np.load(file) + 1)
    assert sources(p) != before and not up_to_date(p)
    prepare(p)
    assert records.missing_runs(p, rows) == [("honest", "video", 3, 0)]


def test_an_utterance_that_one_set_lacks_or_spoils_counts_as_such_in_all(tiny, made, data, tmp_path):
    own, names = tmp_path / "features", data.table["utterance"].tolist()
    shutil.copytree(made, own)
    (own / "fold2" / f"{names[LACKING]}.npy").unlink()
    np.save(own / "fold4" / f"{names[BROKEN]}.npy", np.full((2, 8), np.nan))
    found = prepare(asking(tiny, own, tmp_path / "out" / "p"))
    assert dict(zip(found.left_out["utterance"], found.left_out["reason"], strict=True))[names[BROKEN]] == (
        f"video, fold 4: {names[BROKEN]}.npy: holds NaN or infinity"
    )
    assert found.table.set_index("utterance")["lacks"][names[LACKING]] == "video"
    kept = [set(found.stores[f"video, fold {fold}"].lengths) for fold in FOLDS]
    assert all(names[LACKING] not in lengths for lengths in kept)


def test_the_extraction_by_session_gives_the_same_stores(p, made, tiny, tmp_path):
    other = asking(tiny, made, tmp_path / "out" / "p")
    for groups in other.folds.groups:
        for group in groups:
            extract(other, "video", group)
    assert len([*other.features_folder.glob("*.shard-*/store.json")]) == 25
    joined, whole = prepare(other), open_data(p)
    assert not [*other.features_folder.glob("*.shard-*/store.json")]
    assert joined.info["manifest_digest"] == whole.info["manifest_digest"]
    videos = [n for n in whole.info["features"] if n != "audio"]
    digests = [[data.info["features"][n]["digest"] for n in videos] for data in (joined, whole)]
    assert digests[0] == digests[1]


def test_what_reads_runs_reads_their_folds_features(trained, made):
    p = trained
    run = record_of(p, "foal-net", 3) | {"folder": records.run_folder(p, "honest", "foal-net", 3, 0)}
    inside = explore.opened(p, run)
    np.testing.assert_array_equal(inside.stores["video"][inside.test[0]], of_file(made, 3, inside.test[0]))
    assert np.isfinite(explore.embeddings(p, inside).similarity).all()
    assert check_features(p) == ([], 6)
    wrong = run | {"feature_digests": record_of(p, "foal-net", 2)["feature_digests"]}
    assert "features.video are not those it was trained on" in refused(lambda: explore.opened(p, wrong))
    results = [variant_result(p, "honest", row) for row in ROWS]
    for result in results:
        write_five_fold(p, result)
    write_report(p, results)
    assert check(p)[0] == []
    told = encoders_table(p, read_mapping(p.folder / "preprocess.json")).set_index("stream")
    assert told["numbers per frame"]["video"] == 8
    assert not {f.name for f in unnamed(p.folder.parent)} & {p.for_fold(f).store_name("video") for f in FOLDS}
    assert any(line.startswith("used: ") for line in check_corpus(p))


def test_robustness_damages_the_sound_beside_the_folds_pictures(trained, monkeypatch):
    settings = {"gaps": [], "late": [], "blur": [], "darkness": [], "mouth": False, "dropped": []}
    robust = Robustness(rows=["foal-net"], noise_db=[10.0], **settings)
    p = trained.model_copy(update={"robustness": robust})
    monkeypatch.setattr("foalkit.features.corrupted.CorruptedReader.damaged", lambda self, row, clip, _: clip)
    for file, fold in zip(measure(p), FOLDS, strict=True):  # without damage the answers are the run's own
        answered = pd.read_parquet(file.with_suffix(".parquet")).set_index("utterance")
        test = records.read_predictions(records.run_folder(p, "honest", "foal-net", fold, 0)).query("split == 'test'")
        own = test[test["epoch"] == record_of(p, "foal-net", fold)["scores"]["validation"]["epoch"]]
        logits = [c for c in own if c.startswith("logit_")]
        expected = own.set_index("utterance").loc[answered.index, logits]
        np.testing.assert_allclose(answered[logits], expected, atol=1e-5)


def test_a_missing_folder_is_one_line_with_fold_and_folder(tiny, made, tmp_path, monkeypatch):
    own = tmp_path / "features"
    shutil.copytree(made, own)
    shutil.rmtree(own / "fold3")
    p = asking(tiny, own, tmp_path / "out" / "p")
    assert refused(lambda: prepare(p)) == f"fold 3: features.video.folder: there is no folder {own}/fold3"
    found = [f for f in doctor._corpus(p) if f.stops]
    assert [f.found for f in found] == [f"fold 3: features.video.folder: there is no folder {own}/fold3"]
    monkeypatch.delenv("FOALKIT_NOWHERE", raising=False)
    unset = asking(tiny, "$FOALKIT_NOWHERE", tmp_path / "out" / "q")
    assert refused(lambda: prepare(unset)).startswith("fold 1: features.video.folder is $FOALKIT_NOWHERE/fold1, but")


def test_random_split_is_refused_wherever_it_is_asked_for(tiny_file, made, p, tmp_path):
    file, asked = tmp_path / "mine.yaml", yaml.safe_load(tiny_file.read_text())
    asked["features"]["video"] = {"encoder": "imported", "folder": f"{made}/fold{{fold}}", "width": 8}
    asked["model"]["inputs"]["video"] = {"kind": "linear", "width": 32}
    asked |= {"outputs": str(tmp_path / "out" / "p"), "ablation": {"honest": ["audio"], "random-split": ["video"]}}
    file.write_text(yaml.safe_dump(asked))
    said = refused(lambda: params.load(file))
    assert "ablation.random-split: video reads features.video, which are made for each fold" in said
    assert "has learned from utterances that are tested there" in said
    params.load(file, "ablation.random-split=[audio]")  # a row without them may
    honest = "ablation={honest: [audio, video]}"
    chosen = {"variant": "video", "fold": 1, "seed": 0, "protocol": "random-split"}
    assert "the folds of random-split are others" in refused(
        lambda: notebook.start(params=str(file), overrides=honest, **chosen)
    )
    assert "the folds of random-split are others" in refused(lambda: runs.run(p, "video", 1, 0, "random-split"))


def test_settings(p, tiny, made, tmp_path):
    assert [own.features["video"].folder for own in p.sets("video").values()] == [f"{made}/fold{k}" for k in FOLDS]
    assert p.sets("audio") == {None: p} and p.set_name("audio", 2) == "audio"
    alone = asking(tiny, made, tmp_path / "alone", folder="fold2")
    assert p.for_fold(2).store_name("video") == alone.store_name("video")  # an ordinary store
    assert p.digest("audio") == alone.digest("audio") and p.digest("video") != alone.digest("video")
    # other groups are other folds: features are prepared anew, where they are made for each
    other = {"groups": p.folds.groups[::-1], "by": p.folds.by}
    for before, same in ((p, False), (alone, True)):
        after = params.Params.model_validate(before.model_dump() | {"folds": other})
        assert (after.data_digest == before.data_digest) == same
    spec = "features.video={encoder: imported, folder: f, width: 8, pattern: 'x/{fold}/{utterance}.npy'}"
    assert "features.video.folder: {fold} belongs there" in refused(lambda: params.load("demo", [spec]))


def test_who_trained_on_the_corpus_by_fold_is_told_what_to_make_sure(tmp_path):
    root, made = f"corpus.root={tmp_path}", "encoder: imported, width: 8, trained_on: [RAVDESS]"
    said = {
        folder: may_have_seen(params.load("ravdess", [root, f"features.video={{{made}, folder: '{folder}'}}"]))["video"]
        for folder in ("one", "fold{fold}")
    }
    assert "no speaker of it is new" in said["one"]
    assert "make sure that none saw its fold's test and validation sides" in said["fold{fold}"]
