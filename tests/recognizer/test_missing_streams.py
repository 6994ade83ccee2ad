"""A corpus in which some takes have no sound and some no picture: what its runs answer, and their damaged test side."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from foalkit import ROOT, Recognizer, params

sys.path.append(str(ROOT / "tests" / "features"))

from odd_media import write_film
from test_media import write_wav

from foalkit.features.corrupted import CorruptedReader
from foalkit.features.data import open_data
from foalkit.results import records, robustness, variants
from foalkit.training import runs
from foalkit.training.robustness import measure

CHANGES = (
    "features.audio={encoder: log-mel, bands: 8, hop_ms: 40} features.face=null "
    "features.video={encoder: hog, size: 32, cell: 8, region: picture, every: 3} "
    "model.layers=1 model.heads=2 model.projection_dim=8 "
    "model.inputs={audio: {kind: linear, width: 8}, video: {kind: linear, width: 8}} "
    "training.epochs=2 training.batch=8 training.standardise=[audio,video] training.device=cpu "
    "ablation={honest: [foal-net], published: []} robustness={rows: [foal-net], mouth: false} "
    "folds.groups=[[Actor_01],[Actor_02],[Actor_03]]"
)
DEAF, BLIND = "01-03-01-01-01-01", "01-05-01-01-01-01"  # takes of the first fold's test side


@pytest.fixture(scope="module")
def p(tmp_path_factory):
    """Three actors, each emotion once; a tone and a film each, but for two takes of each actor."""
    folder = tmp_path_factory.mktemp("missing")
    (folder / "corpus").mkdir()
    rng = np.random.default_rng(0)
    for actor in (1, 2, 3):
        for emotion in range(1, 9):
            take = f"01-{emotion:02}-01-01-01-{actor:02}"
            tone = 0.2 * np.sin(np.arange(16_000) * emotion * (1 + 0.01 * actor) / 40) + rng.normal(0, 0.01, 16_000)
            if emotion != 3:
                write_wav(folder / "corpus" / f"03-{take}.wav", tone)
            if emotion != 5:
                write_film(folder / "corpus" / f"02-{take}.mp4", [n / 30 for n in range(30)])
    return params.load("ravdess", f"outputs={folder}/out/p corpus.root={folder}/corpus {CHANGES}")


@pytest.fixture(scope="module")
def run(p):
    data = open_data(p)
    lacks = data.table.set_index("utterance")["lacks"]
    assert len(lacks) == 24 and lacks[[DEAF, BLIND]].tolist() == ["audio", "video"]
    runs.run(p, "foal-net", 1, 0, "honest", data)
    return records.run_folder(p, "honest", "foal-net", 1, 0)


@pytest.fixture(scope="module")
def stored(run):
    record = records.read_record(run / "record.json")
    table = pd.read_parquet(run / "predictions.parquet")
    table = table[(table["split"] == "test") & (table["epoch"] == record["scores"]["validation"]["epoch"])]
    return table.set_index("utterance").filter(like="logit_")


def test_a_clip_with_and_without_a_stream_gets_the_answer_that_the_run_stored(p, run, stored):
    r, root = Recognizer.load(run), Path(p.corpus.root)
    whole = "01-04-01-01-01-01"
    asked = {
        whole: {"file": root / f"02-{whole}.mp4", "sound": root / f"03-{whole}.wav"},
        DEAF: {"file": root / f"02-{DEAF}.mp4"},
        BLIND: {"file": root / f"03-{BLIND}.wav"},
    }
    for take, how in asked.items():
        answer = r(**how)
        wanted = softmax(stored.loc[take].to_numpy(float))
        assert list(answer.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-5), take
        said = [note.split(":")[0] for note in answer.notes if note.startswith("answered without")]
        assert said == {whole: [], DEAF: ["answered without audio"], BLIND: ["answered without video"]}[take]


def test_the_damaged_test_side_has_each_take_where_it_has_something_to_damage(p, run, stored):
    for fold in (2, 3):
        runs.run(p, "foal-net", fold, 0, "honest")
    measure(p)
    results = [variants.variant_result(p, "honest", "foal-net")]
    table, words = robustness.measured(p, results)
    assert words == [] and all(robustness.finished(p, one) for one in results[0].runs)  # nothing is tried again
    (one,) = (one for one in results[0].runs if one["fold"] == 1)
    answered, _ = robustness.read(p, one)
    takes = answered.groupby("condition")["utterance"].agg(set)
    kinds = {c.name: c.of for c in p.robustness.conditions}
    assert set(takes.index) <= set(kinds) and {"sound", "picture"} == {kinds[name] for name in takes.index}
    everyone = set(stored.index)
    for name, found in takes.items():
        assert found == everyone - {DEAF if kinds[name] == "sound" else BLIND}, name
    counts = table.set_index("condition")["utterances"]
    assert counts["undamaged"] == 24 and (counts.drop("undamaged") == 21).all()


def test_a_deaf_take_under_damaged_pictures_is_answered_from_those_alone(p, run, stored, monkeypatch):
    monkeypatch.setattr(CorruptedReader, "damaged", lambda self, row, clip, condition: clip)
    again = p.model_copy(update={"robustness": p.robustness.model_copy(update={"seed": 5})})
    measure(again)
    answered, _ = robustness.read(again, records.read_runs(p, "honest", "foal-net")[0])
    for take in (DEAF, BLIND, "01-04-01-01-01-01"):
        rows = answered[answered["utterance"] == take].filter(like="logit_")
        assert len(rows) and np.allclose(rows, stored.loc[take], atol=1e-5)
