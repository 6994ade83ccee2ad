"""Takes without pictures: the rows that need none still run, and what was not run is said."""

import numpy as np
import pandas as pd
import pytest
from conftest import refused
from test_media import write_wav

from foalkit import params
from foalkit.features.data import open_data, without_files
from foalkit.files import read_mapping
from foalkit.report.check import check
from foalkit.report.page import write_report
from foalkit.results import records
from foalkit.results.variants import variant_result, write_five_fold
from foalkit.training import runs

ACTORS = [f"Actor_{n:02}" for n in range(1, 13)]
CHANGES = (
    "features.audio={encoder: log-mel, bands: 8, hop_ms: 40} training.epochs=1 training.batch=8 "
    "folds.groups=[[Actor_01,Actor_02,Actor_03,Actor_04],[Actor_05,Actor_06,Actor_07,Actor_08],"
    "[Actor_09,Actor_10,Actor_11,Actor_12]]"
)


@pytest.fixture
def p(tmp_path):
    """Params of the rows of `ravdess` on wavs alone: twelve actors, each emotion once as a tone of its own."""
    rng = np.random.default_rng(0)
    for actor in range(1, 13):
        for emotion in range(1, 9):
            tone = 0.2 * np.sin(np.arange(8000) * emotion * (1 + 0.01 * actor) / 40)
            grain = rng.normal(0, 0.02, 8000) * np.sin(np.arange(8000) / 1000 / actor)
            file = tmp_path / "corpus" / f"03-01-{emotion:02}-01-01-01-{actor:02}.wav"
            file.parent.mkdir(exist_ok=True)
            write_wav(file, (tone + grain).astype(np.float32))
    return params.load("ravdess", f"outputs={tmp_path}/out/p corpus.root={tmp_path}/corpus {CHANGES}")


def test_rows_without_pictures_run_and_the_others_are_said_not_to(p, capsys):
    why = "96 of 96 utterances have no video file, among them all of Actor_01, Actor_02, Actor_03, Actor_04"
    assert (
        refused(lambda: open_data(p, ["audio", "video"])) == f"features.video: {why}; only rows without it can be run"
    )
    assert f"video: {why}; rows that need it are not run" in capsys.readouterr().out
    assert read_mapping(p.folder / "preprocess.json")["without"] == {"face": why, "video": why}
    assert refused(lambda: open_data(p, ["face"])).startswith("features.face: 96 of 96")  # known now
    data = open_data(p)
    assert list(data.stores) == ["audio"] and len(data.table) == 96 and data.left_out.empty
    assert capsys.readouterr().out == ""  # nothing was prepared again

    assert refused(lambda: runs.run(p, "video", 1, 0, "honest", data)).startswith("features.video: 96 of 96")
    rest = records.runnable(p)
    assert rest.ablation == {"honest": ["audio"], "published": ["audio"]}
    assert rest.digest("audio") == p.digest("audio") and rest.data_digest == p.data_digest
    wanted = [(protocol, "audio") for protocol in rest.ablation]
    runs.run_all(rest, records.missing_runs(rest, wanted))
    results = [variant_result(rest, *row) for row in wanted]
    for result in results:
        write_five_fold(rest, result)
    page = write_report(rest, results).read_text(encoding="utf-8")
    assert f"Rows that need the stream video were not run: {why}." in page
    differences, numbers = check(p)
    assert differences == [] and numbers > 50


def test_files_of_some_takes_are_enough_and_no_row_left_is_refused(p):
    known = {"utterance": [f"u{n}" for n in range(12)], "speaker": ACTORS, "audio": "a.wav"}
    table = pd.DataFrame({**known, "video": ["v.mp4", "", "", ""] * 3})
    assert without_files(p, table) == {}  # every fold tests an actor with pictures
    lacking = table.assign(video=["v.mp4"] * 8 + [""] * 4)
    words = "4 of 12 utterances have no video file, among them all of Actor_09, Actor_10, Actor_11, Actor_12"
    assert without_files(p, lacking) == {"face": words, "video": words}
    assert without_files(p, lacking[lacking["speaker"] < "Actor_09"]) == {}  # a fold without a take says nothing
    seen = p.model_copy(update={"ablation": {"honest": ["video"], "published": []}})
    assert refused(lambda: without_files(seen, lacking)).startswith("no row can be run: face: 4 of 12")
