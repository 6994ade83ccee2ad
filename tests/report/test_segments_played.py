"""Utterances cut from one long recording: what is played, drawn and linked is their own segment alone."""

import io
import json
import wave
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from foalkit import ROOT
from foalkit.params.schema import Clip
from foalkit.report import browse, recordings
from foalkit.results import tables

RATE = 16_000
SPANS = {"a": (0.0, 1.0), "b": (1.0, 2.5), "c": (4.0, 4.5)}


def samples_of(data: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    return np.random.default_rng(0).integers(-9000, 9000, 6 * RATE).astype("<i2")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, sound):
    """Three utterances in one recording of 6 s, and the same recording as one utterance's own file."""
    root = tmp_path_factory.mktemp("long")
    with wave.open(str(root / "all.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(sound.tobytes())
    rows = [
        {
            "utterance": u,
            "speaker": "s",
            "emotion": u,
            "start": a,
            "end": b,
            "audio": "all.wav",
            "video": "",
            "crop": None,
        }
        for u, (a, b) in SPANS.items()
    ]
    return root, pd.DataFrame(rows).assign(audio_from=[a for a, _ in SPANS.values()])


@pytest.mark.parametrize("utterance", SPANS)
def test_only_the_segment_is_heard_and_played(corpus, sound, utterance):
    root, table = corpus
    begin, end = SPANS[utterance]
    own = sound[int(begin * RATE) : int(end * RATE)]
    turn = table.set_index("utterance", drop=False).loc[utterance].to_dict()
    assert np.array_equal(recordings.heard(turn, root) * 32768, own)
    assert np.array_equal(recordings.heard(turn, root, 0.25, 99) * 32768, own[RATE // 4 :])  # never the next one's
    chosen = browse.Utterances(table, root)
    chosen.choice.value = utterance
    played = samples_of(chosen.recording.sound.value)
    assert chosen.recording.sound.format == "wav" and len(played) == len(own)
    assert np.abs(played.astype(int) - own).max() <= 1 and chosen.recording.frames.value == "no video file"


def test_a_file_of_its_own_is_played_as_it_is(corpus, sound):
    root, table = corpus
    turn = table.drop(columns="audio_from").iloc[1].to_dict()
    assert recordings.playable(turn, root) == ("wav", (root / "all.wav").read_bytes())
    assert np.array_equal(recordings.heard(turn, root) * 32768, sound)
    assert recordings.playable(turn | {"audio": ""}, root) == ("wav", b"")


def test_a_segment_that_cannot_be_read_is_said_in_place_of_the_frames(corpus):
    root, table = corpus
    late = table.iloc[:1].assign(start=50.0, end=51.0, audio_from=50.0)
    shown = browse.Utterances(late, root).recording
    assert shown.sound.value == b"" and shown.frames.value.startswith("no video file<br>all.wav: ")


@pytest.mark.parametrize("clip", [Clip(seconds=6, part="all"), Clip(seconds=0.5, part="centre")])
def test_waveforms_end_with_their_segment(corpus, sound, clip):
    root, table = corpus
    figure = recordings.waveforms(table, root, ["a", "b", "c"], clip)
    for ax, (begin, end) in zip(figure.axes, SPANS.values(), strict=False):
        (line,) = ax.get_lines()
        half = 0 if clip.part == "all" else (end - begin - 0.5) / 2
        wanted = sound[int((begin + half) * RATE) : int((end - half) * RATE)]
        assert np.array_equal(line.get_ydata() * 32768, wanted)


def test_the_reports_link_plays_the_segment(corpus, tmp_path, monkeypatch):
    root, table = corpus
    table.assign(start=0.0, end=table["end"] - table["start"], video="all.wav").to_parquet(
        tmp_path / "manifest.parquet"
    )
    monkeypatch.setattr(tables, "corpus_place", lambda _: root)
    found = tables._media(SimpleNamespace(folder=tmp_path))
    assert {u: (s.split("#")[1], v.split("#")[1]) for u, (s, v) in found.items()} == {
        "a": ("t=0.00,1.00", "t=0.00,1.00"),
        "b": ("t=1.00,2.50", "t=0.00,1.50"),
        "c": ("t=4.00,4.50", "t=0.00,0.50"),
    }
    table.drop(columns="audio_from").to_parquet(tmp_path / "manifest.parquet")
    assert all(sound.endswith("all.wav") for sound, _ in tables._media(SimpleNamespace(folder=tmp_path)).values())


def test_notebook_5_plays_what_recordings_says():
    cells = json.loads((ROOT / "notebooks" / "05_explore.ipynb").read_text(encoding="utf-8"))["cells"]
    (playing,) = ("".join(c["source"]) for c in cells if "display(Audio(" in "".join(c["source"]))
    assert "Audio(recordings.heard(turn, root)," in playing
