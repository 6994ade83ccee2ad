"""Notebook 07 headless on a file and a model of one's own, its widget moved, and its parts by hand."""

import re

import made_up
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

from foalkit import ROOT, Recognizer
from foalkit.features import media
from foalkit.report import browse, your_clip
from foalkit.training import runs

FILE = ROOT / "notebooks" / "07_your_clip.ipynb"


@pytest.fixture(scope="module")
def run(tiny, data):
    return runs.run(tiny, "foal-net", 1, 0, "honest", data).parent


@pytest.fixture(scope="module")
def recognizer(run):
    return Recognizer.load(run)


@pytest.fixture(scope="module")
def film(run, tmp_path_factory):
    file = tmp_path_factory.mktemp("film") / "puppet.mp4"
    return file, your_clip.film(run, file)


def test_the_film_is_three_turns_of_a_speaker_who_was_not_trained_on(film, data):
    file, emotions = film
    assert len(set(emotions)) == 3
    tested = data.table[data.table["session"] == "Ses01"]  # fold 1's
    tested = tested[tested["speaker"] == tested["speaker"].iloc[0]]
    longest = (tested["end"] - tested["start"]).groupby(tested["emotion"]).max()[emotions]
    assert media.seconds(file) == pytest.approx(longest.sum(), abs=0.15)
    assert len(media.read_audio(file)) / 16_000 == pytest.approx(media.seconds(file), abs=0.15)


def test_it_runs_headless_on_a_file_and_a_model(recognizer, film, tmp_path):
    saved, out = recognizer.save(tmp_path / "my-model"), str(tmp_path / "out.ipynb")
    parameters = {"file": str(film[0]), "model": str(saved)}
    papermill.execute_notebook(FILE, out, parameters, progress_bar=False, start_timeout=180)
    outputs = [o for cell in nbformat.read(out, as_version=4).cells for o in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert [o.metadata["image/png"]["alt"].split(":")[0] for o in pictures] == [
        "Probabilities over time",
        "How much each moment of sound and picture is looked at by the other, with the frames looked at most",
        "The label of each window",
    ]
    answer = recognizer(film[0])
    said = "".join(o.get("text", "") + o.get("data", {}).get("text/html", "") for o in outputs)
    assert f"{answer.label} ({answer.probability:.0%})" in said and "without video" in said
    assert any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in outputs)


def test_another_file_can_be_chosen_and_a_bad_one_is_said(recognizer, film, tmp_path):
    box = browse.YourClip(recognizer, film[0], 1.0, 0.5)
    before = box.played.value
    assert before.count("<video") == 1 and "puppet.mp4" in before and "ontimeupdate" in before
    tone = made_up.tone(tmp_path / "tone.wav")
    box._chosen({"new": [{"name": "../tone.wav", "content": memoryview(tone.read_bytes())}]})
    assert "<audio" in box.played.value and recognizer(tone).label in box.answer.value
    box._chosen({"new": [{"name": "a<b.mp4", "content": b"no media"}]})
    assert box.played.value == "" and "a&lt;b.mp4" in box.answer.value


def test_the_line_moves_where_the_figure_has_its_time(recognizer, film):
    table = recognizer.over_time(film[0], 1.0, 0.5)
    figure = your_clip.over_time(table, recognizer.classes, 4.0)
    ax = figure.axes[0]
    left, right = (ax.transData.transform((x, 0))[0] / figure.bbox.width for x in (0, 4.0))
    page = your_clip.player(film[0], figure, your_clip.describe(table), 4.0)
    start, step, seconds = map(
        float, re.search(r"\(([\d.]+) \+ ([\d.]+) \* this.currentTime / ([\d.]+)\)", page).groups()
    )
    assert (start, start + step, seconds) == pytest.approx((left, right, 4.0))


def test_the_largest_moments_lie_apart_and_hiding_is_counted():
    of = pd.DataFrame({"second": np.arange(20) / 10, "weight": np.r_[np.arange(10), np.arange(10)[::-1]]})
    chosen = your_clip.largest(of)["second"].tolist()
    assert chosen == sorted(chosen) and np.diff(chosen).min() >= 0.25 and 0.9 in chosen
    tables = {n: pd.DataFrame({"label": list(x), "a": 0.25, "b": 0.75}) for n, x in {"all": "aab", "no": "abb"}.items()}
    shown = your_clip.hidden_table(tables, ["a", "b"])
    assert shown.loc["no"].tolist() == [25.0, 75.0, "1 of 3"] and shown.loc["all"].tolist()[2] == "0 of 3"


def test_a_model_without_a_file_is_refused(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(FILE, str(tmp_path / "o.ipynb"), {"model": "x"}, progress_bar=False)
    assert "name your file as well" in str(caught.value)
