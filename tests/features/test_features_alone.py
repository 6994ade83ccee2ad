"""A corpus of which only features are there, and not all of them: what is run, on which takes, and what is said."""

import av
import numpy as np
import pandas as pd
import pytest
from conftest import refused

from foalkit import params
from foalkit.corpora import folds
from foalkit.features.data import open_data, prepare
from foalkit.features.presence import with_lengths
from foalkit.features.times import frame_times
from foalkit.report import explore
from foalkit.report.check import check
from foalkit.report.page import write_report
from foalkit.results import records
from foalkit.results.variants import variant_result, write_five_fold
from foalkit.training import runs

ROWS = ["audio", "video", "late-product", "baseline", "foal-net"]
GROUPS = [[f"Actor_{n:02}" for n in range(first, first + 4)] for first in (1, 5, 9)]
TAKES = [f"01-{e:02}-01-01-01-{a:02}" for a in range(1, 13) for e in range(1, 9)]
MUTE = set(TAKES[3::16])  # no sound
UNSEEN = set(TAKES[1::4]) | {TAKES[3]}  # no picture; one of them has neither
BROKEN = TAKES[4]


@pytest.fixture(scope="module")
def p(tmp_path_factory):
    """Params of a RAVDESS of which there are features of sounds and of pictures, a file each, and no media."""
    folder, rng = tmp_path_factory.mktemp("alone"), np.random.default_rng(0)
    corpus = folder / "corpus"
    (corpus / "faces").mkdir(parents=True)
    for take in TAKES:
        emotion = int(take[3:5])
        sound, face = (rng.normal(0, 1, (rng.integers(3, 7), 8)) for _ in "ab")
        sound[:, emotion - 1] += 3
        face[:, emotion % 8] += 2
        if take == BROKEN:
            sound[1, 1] = np.nan
        if take not in MUTE or take == TAKES[3]:
            np.save(corpus / f"03-{take}.npy", sound)
        if take not in UNSEEN:
            pd.DataFrame(face).to_csv(corpus / "faces" / f"01-{take}.csv", index=False)
    (corpus / f"03-{TAKES[3]}.npy").rename(corpus / f"03-{TAKES[3]}.csv")  # tells that there is such a take, no more
    features = {
        "audio": {
            "encoder": "imported",
            "folder": str(corpus),
            "pattern": "03-{utterance}.npy",
            "width": 8,
            "step": 0.5,
        },
        "video": {"encoder": "imported", "folder": str(corpus), "pattern": "faces/01-{utterance}.csv", "width": 8},
    }
    data = params.load("ravdess", f"outputs={folder}/out/p corpus.root={corpus}").model_dump()
    data |= {"features": features, "folds": {"by": "speaker", "groups": GROUPS}, "ablation": {"honest": ROWS}}
    data["training"] |= {"epochs": 2, "batch": 16, "standardise": ["audio", "video"]}
    data["model"] |= {"heads": 2, "projection_dim": 8, "inputs": {}}
    return params.Params.model_validate(data)


@pytest.fixture(scope="module")
def prepared(p):
    """What is prepared without opening a single medium."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(av, "open", lambda *_, **__: pytest.fail("a medium was opened"))
        return prepare(p)


def test_features_alone_are_a_corpus(prepared):
    data = prepared
    reasons = dict(zip(data.left_out["utterance"], data.left_out["reason"], strict=True))
    assert set(reasons) == {TAKES[3], BROKEN}
    assert reasons[BROKEN] == f"audio: 03-{BROKEN}.npy: holds NaN or infinity"
    assert reasons[TAKES[3]].startswith("has no features of audio (") and "no features of video" in reasons[TAKES[3]]
    lacks = dict(zip(data.table["utterance"], data.table["lacks"], strict=True))
    usable = [t for t in TAKES if t not in reasons]
    assert lacks == {t: " ".join(["audio"] * (t in MUTE) + ["video"] * (t in UNSEEN)) for t in usable}
    assert set(data.table["audio"]) == set(data.table["video"]) == {""}
    # the length is that of the features that say their step; what has only the others' has none
    ends = dict(zip(data.table["utterance"], data.table["end"], strict=True))
    for take in usable:
        if take in MUTE:
            assert np.isnan(ends[take])
        else:
            assert ends[take] == 0.5 * data.stores["audio"].lengths[take]
    assert {s: set(f.lengths) & set(usable) for s, f in data.stores.items()} == {
        "audio": {t for t in usable if t not in MUTE},
        "video": {t for t in usable if t not in UNSEEN},
    }


def test_each_row_is_run_on_the_takes_that_it_can_use(p, prepared):
    data = open_data(p)
    whole = folds.split(data.table, p, 1, "honest")
    for row, can in {
        "audio": lambda t: t not in MUTE,
        "video": lambda t: t not in UNSEEN,
        "foal-net": lambda t: True,
        "late-product": lambda t: True,
    }.items():
        sides = folds.split(data.table, p, 1, "honest", row)
        for side in ("train", "validation", "test"):
            assert getattr(sides, side) == [t for t in getattr(whole, side) if can(t)]
    clips = p.model_copy(
        update={"variants": p.variants | {"x": p.variants["baseline"].model_copy(update={"network": "cfn-sr"})}}
    )
    both = folds.split(data.table, clips, 1, "honest", "x")
    assert both.test == [t for t in whole.test if t not in MUTE | UNSEEN]


def test_an_absent_take_is_masked_in_a_batch(p, prepared):
    store = prepared.stores["video"]
    unseen, seen = sorted(UNSEEN - {TAKES[3]})[0], next(t for t in TAKES if t not in UNSEEN)
    x, mask = store.batch([unseen, seen])
    assert not mask[0].any() and not x[0].any() and mask[1].sum() == store.lengths[seen]
    x, mask = store.batch([unseen])
    assert x.shape == (1, 1, 8) and not mask.any()


def test_runs_records_and_report_say_how_many(p, prepared):
    wanted = [("honest", row) for row in ROWS]
    runs.run_all(p, records.missing_runs(p, wanted))
    usable = [t for t in TAKES if t not in (TAKES[3], BROKEN)]
    record = records.read_record(records.run_folder(p, "honest", "foal-net", 1, 0) / "record.json")
    tested = [t for t in usable if f"Actor_{t[-2:]}" in GROUPS[0]]
    assert record["sizes"]["test"] == len(tested)
    assert {s: n["test"] for s, n in record["lacking"].items()} == {
        "audio": sum(t in MUTE for t in tested),
        "video": sum(t in UNSEEN for t in tested),
    }
    seen = records.read_record(records.run_folder(p, "honest", "video", 1, 0) / "record.json")
    assert seen["sizes"]["test"] == sum(t not in UNSEEN for t in tested) and "lacking" not in seen
    for row in ("foal-net", "late-product"):
        absent = records.read_predictions(records.run_folder(p, "honest", row, 1, 0), "absent")
        both = {t for t in tested if t not in MUTE | UNSEEN}
        assert {c: set(part["utterance"]) for c, part in absent.groupby("condition")} == {
            "no audio": both,
            "no video": both,
        }

    results = [variant_result(p, *row) for row in wanted]
    counts = {r.row["variant"]: r.row["utterances"] for r in results}
    assert counts["audio"] == sum(t not in MUTE for t in usable)
    assert counts["video"] == sum(t not in UNSEEN for t in usable)
    assert counts["foal-net"] == counts["baseline"] == counts["late-product"] == len(usable)
    for result in results:
        write_five_fold(p, result)
    page = write_report(p, results).read_text(encoding="utf-8")
    assert f"{len(UNSEEN) - 1} of {len(TAKES) - 1} utterances have no features of video" in page
    table = pd.read_csv(p.folder / "tables" / "ablation.csv")
    assert dict(zip(table["variant"], table["utterances"], strict=True)) == counts
    assert f">{counts['video']}<" in page
    differences, _ = check(p)
    assert differences == []
    inside = explore.opened(p, {**record, "folder": records.run_folder(p, "honest", "foal-net", 1, 0)})
    assert set(inside.test) == {t for t in tested if t not in MUTE | UNSEEN}
    assert np.isfinite(explore.embeddings(p, inside).similarity).all()


def test_media_are_opened_only_where_a_stream_is_made_of_them(tmp_path):
    turn = {"utterance": "u", "start": 0.0, "end": None, "audio": "a.wav", "video": "no film.mp4"}
    table, bad = with_lengths(pd.DataFrame([turn]), tmp_path, ("numbers",))
    assert bad == {} and table["end"].isna().all()
    assert list(with_lengths(pd.DataFrame([turn]), tmp_path, ("numbers", "sound"))[1].values()) == [
        "a.wav: no such file"
    ]
    _, bad = with_lengths(pd.DataFrame([turn]), tmp_path)
    assert list(bad.values()) == ["no film.mp4: no such file"]


def test_times_of_imported_features_that_say_their_step(p):
    turn = {"start": 1.0, "end": 3.0}
    times, step = frame_times(p, "audio", turn, None, 4)
    assert times.tolist() == [0.25, 0.75, 1.25, 1.75] and step == 0.5


def test_a_wrong_place_is_said_before_all_work(p, tmp_path):
    video = p.features["video"].model_copy(update={"pattern": "face/{utterance}.npy"})
    wrong = p.model_copy(update={"features": {**p.features, "video": video}, "outputs": str(tmp_path / "out" / "p")})
    assert refused(lambda: open_data(wrong, ["video"])).startswith("features.video: 96 of 96 utterances have no feat")


def test_frames_are_counted_where_no_length_is_known(p, prepared):
    turn = {"start": 0.0, "end": float("nan")}
    times, step = frame_times(p, "video", turn, None, 4)
    assert times.tolist() == [0.5, 1.5, 2.5, 3.5] and step == 1
