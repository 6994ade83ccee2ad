"""A corpus that holds one of every bad file: each costs its utterance and is listed, the others are used."""

import itertools
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import refused
from odd_media import float_wav, wav, with_offsets, write_film
from test_media import RATE

from foalkit import params
from foalkit.features import reader
from foalkit.features.build import try_encoders
from foalkit.features.data import extract, prepare, sources, up_to_date
from foalkit.params.encoders import Hog, LogMel
from foalkit.report import figures, recordings

TAKES = [
    f"01-{e}-{i}-{s}-{r}-{actor}"
    for e, i, s, r, actor in itertools.product(
        ("03", "04", "05"), ("01", "02"), ("01", "02"), ("01", "02"), ("01", "02")
    )
]
TONE = (np.sin(np.arange(RATE // 2) / 9) * 9000).astype("<i2")


def film(path, seconds=0.5):
    times = [n / 30 for n in range(int(30 * seconds))]
    return write_film(path, times, seconds=seconds, sound="aac" if path.suffix.lower() == ".mp4" else "pcm_s16le")


def nan(path):
    float_wav(path, np.where(np.arange(len(TONE)) == 77, np.nan, TONE / 32768))


def infinite(path):
    float_wav(path, np.where(np.arange(len(TONE)) == 77, np.inf, TONE / 32768))


def cut(path):
    wav(path, TONE.tobytes(), riff=90_000, size=90_000)


def half(path):
    data = film(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])


# what is written in the place of a take's wav, beside a good film, and what must be said of it
BAD_WAVS = {
    "NaN or infinite": nan,
    "1 samples are NaN or infinite": infinite,
    "times full scale": lambda path: float_wav(path, TONE.astype("<f4")),
    "a link that leads nowhere": lambda path: path.symlink_to("gone.wav"),
    "is a folder": lambda path: path.mkdir(),
    "is no regular file": os.mkfifo,
    "is empty (0 bytes)": lambda path: path.write_bytes(b""),
    "cannot be opened as media": lambda path: path.write_text("not a sound"),
    "2147483647 samples per second": lambda path: wav(path, TONE.tobytes(), rate=2**31 - 1),
    "truncated": cut,
    "silent": lambda path: wav(path, bytes(9000)),
    "no sound between": lambda path: wav(path, b""),
    "cannot decode": lambda path: wav(path, TONE.tobytes(), form=0x1234),
}
# the same for a film beside a good wav
BAD_FILMS = {
    "damaged or truncated": lambda path: with_offsets(film(path), 1000),
    "truncated?": lambda path: with_offsets(film(path), 10**9),
    "cannot be opened as media": half,
    "no video stream": lambda path: write_film(path, seconds=0.5, sound="aac"),
    "a link that leads nowhere": lambda path: path.symlink_to("gone.mp4"),
    "is a folder": lambda path: path.mkdir(),
    "is empty (0 bytes)": lambda path: path.write_bytes(b""),
    "cannot be opened": lambda path: path.write_text("ffconcat version 1.0\nfile other.mp4\n"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The corpus, its good takes, and of each bad one the name of its bad file and what must be said of it."""
    root = tmp_path_factory.mktemp("tree") / "corpus"
    (root / "sub").mkdir(parents=True)
    takes, bad = iter(TAKES), {}
    for words, write in BAD_WAVS.items():
        take = next(takes)
        film(root / f"01-{take}.mp4")
        write(root / f"03-{take}.wav")
        bad[take] = f"03-{take}.wav", words
    for words, write in BAD_FILMS.items():
        take = next(takes)
        wav(root / f"03-{take}.wav", TONE.tobytes())
        write(root / f"01-{take}.mp4")
        bad[take] = f"01-{take}.mp4", words
    good = [next(takes) for _ in range(8)]
    for take, ending in zip(good, ("mp4", "MP4", "mov", "MKV", "avi", "mp4", "mp4", "mp4"), strict=True):
        film(root / "sub" / f"01-{take}.{ending}")
    shutil.move(root / "sub" / f"01-{good[5]}.mp4", root.parent)  # below a linked folder
    (root / "linked").symlink_to(root.parent)
    (root.parent / "back").symlink_to(root)  # and a way back
    wav(root / f"03-{good[6]}.WAV", TONE.tobytes())
    write_film(root / f"03-{good[7]}.m4a", seconds=0.5, sound="aac")
    return root, good, bad


@pytest.fixture
def world(tree, tmp_path):
    def load(audio='{"encoder": "log-mel"}', root=tree[0], **more):
        given = {
            "outputs": tmp_path / "outputs",
            "corpus.root": root,
            "features.audio": audio,
            "features.video": '{"encoder": "hog", "size": 16}',
            "ablation": "{honest: [baseline], published: []}",
            **more,
        }
        return params.load("ravdess-speech", [f"{key}={value}" for key, value in given.items()])

    return load


def listed(data) -> dict[str, str]:
    return dict(zip(data.left_out["utterance"], data.left_out["reason"], strict=True))


@pytest.mark.parametrize("encoder", ["log-mel", "waveform"])
def test_each_bad_file_costs_its_utterance_and_is_listed_with_its_reason(tree, world, encoder):
    _, good, bad = tree
    data = prepare(world(f'{{"encoder": "{encoder}"}}'))
    assert data.table["utterance"].tolist() == sorted(good)  # all less the bad ones
    reasons = listed(data)
    assert reasons.keys() == bad.keys()
    for take, (name, words) in bad.items():
        assert name in reasons[take] and words in reasons[take], take
    for store in data.stores.values():
        assert set(store.lengths) >= set(good)
        assert all(np.isfinite(np.asarray(store[take], float)).all() for take in good)
    assert up_to_date(world(f'{{"encoder": "{encoder}"}}'))


def test_a_second_look_gives_the_same_list_and_a_mended_file_is_used(tree, world, tmp_path):
    root = tmp_path / "copy"
    pipes = [name for name, words in tree[2].values() if "regular" in words]
    shutil.copytree(tree[0], root, symlinks=True, ignore=lambda *_: ["linked", *pipes])
    p = world(root=root)
    first = prepare(p)
    shutil.rmtree(p.folder)  # the stores stay
    again = prepare(p)
    assert listed(first) == listed(again)
    take = next(take for take, (_, words) in tree[2].items() if words == "is a folder")
    (root / f"03-{take}.wav").rmdir()
    wav(root / f"03-{take}.wav", TONE.tobytes())
    mended = prepare(p)
    assert set(listed(first)) - set(listed(mended)) == {take}
    assert set(mended.table["utterance"]) - set(first.table["utterance"]) == {take}


def test_shards_leave_out_what_is_bad(tree, world):
    p = world()
    extract(p, "audio", "Actor_01")
    extract(p, "video", "Actor_01")
    data = prepare(p)
    assert listed(data).keys() == tree[2].keys()


def test_what_is_not_read_is_listed(tmp_path, world):
    root = tmp_path / "corpus"
    root.mkdir()
    film(root / f"01-{TAKES[0]}.mp4")
    for name in ("my take.WEBM", "speech.Mp3", "b\nc.ogg", os.fsdecode(b"\xff.mov"), f"03-{TAKES[1]}.mid"):
        (root / name).write_bytes(b"x")
    (root / f"._01-{TAKES[0]}.mp4").write_bytes(b"macOS")
    (root / "notes.txt").write_bytes(b"")
    data = prepare(world(root=root))
    assert set(listed(data)) == {"my take.WEBM", "speech.Mp3", "b\\nc.ogg", "\\udcff.mov", f"03-{TAKES[1]}.mid"}
    assert "is not among those that are read" in listed(data)[f"03-{TAKES[1]}.mid"]
    assert data.table["utterance"].tolist() == [TAKES[0]]
    assert sources(world(root=root))


@pytest.mark.parametrize("write", [BAD_WAVS["is a folder"], BAD_WAVS["a link that leads nowhere"], nan])
def test_when_all_are_bad_the_reason_is_said(tmp_path, world, write):
    (tmp_path / "corpus").mkdir()
    for take in TAKES[:3]:
        write(tmp_path / "corpus" / f"03-{take}.wav")
    p = world(root=tmp_path / "corpus", **{"features.video": "null", "ablation": "{honest: [audio], published: []}"})
    said = refused(lambda: prepare(p))
    assert f"03-{TAKES[0]}.wav" in said and any(w in said for w in ("folder", "leads nowhere", "NaN"))


def test_a_waveform_beyond_full_scale_is_cut_with_a_word(tmp_path, world):
    (tmp_path / "corpus").mkdir()
    film(tmp_path / "corpus" / f"01-{TAKES[0]}.mp4")
    float_wav(tmp_path / "corpus" / f"03-{TAKES[0]}.wav", np.where(np.arange(8000) % 1000, 0.25, 1.5))
    store = prepare(world('{"encoder": "waveform"}', root=tmp_path / "corpus")).stores["audio"]
    assert "8 samples are beyond full scale" in store.notes[TAKES[0]]
    assert (store[TAKES[0]] == 32767).sum() == 8


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_waveform_is_never_stored_from_what_is_no_number(tmp_path, world, value):
    (tmp_path / "corpus").mkdir()
    made = reader.Reader(world('{"encoder": "waveform"}', root=tmp_path / "corpus"), "audio", tmp_path, {})
    row = {"utterance": "u", "audio": "a/b.wav", "video": ""}
    assert "b.wav: its features hold NaN" in refused(lambda: made.encode(row, np.array([0.5, value], np.float32)))


@pytest.mark.parametrize("seconds, noted", [(0.5, False), (0.6, False), (1.0, True), (0.2, True)])
def test_a_sound_that_is_not_as_long_as_its_film_is_noted(tmp_path, world, seconds, noted):
    (tmp_path / "corpus").mkdir()
    film(tmp_path / "corpus" / f"01-{TAKES[0]}.mp4")
    wav(tmp_path / "corpus" / f"03-{TAKES[0]}.wav", TONE[np.arange(int(seconds * RATE)) % len(TONE)].tobytes())
    store = prepare(world(root=tmp_path / "corpus")).stores["audio"]
    assert (f"lasts {seconds:.2f} s, its label or film 0.50 s" in str(store.notes.get(TAKES[0]))) == noted


def test_the_pictures_of_notebook_1_stand_without_a_class_and_without_a_film(tree, world, tmp_path):
    root, _, bad = tree
    p = world()
    table = prepare(p).table
    first = table.assign(video=table["video"].where(table.index > 0, ""))
    damaged = next(name for name, words in bad.values() if words == "truncated?")
    broken = first.assign(video=first["video"].where(first.index != 1, damaged))
    for classes in (["neutral", "calm", "happy", "sad"], ["calm"]):
        for column in ("crop", "face"):
            assert figures.png(recordings.contact_sheet(broken, root, classes, column))
        assert figures.png(recordings.waveforms(broken, root, classes, p.clip))
        assert figures.png(recordings.lengths(broken, classes, p.clip))
    specs = {"a": LogMel(encoder="log-mel"), "b": Hog(encoder="hog", size=16)}
    tried = try_encoders(p, specs, broken.iloc[1].to_dict(), root)
    assert tried.loc["a", "width"] == specs["a"].bands and "truncated?" in tried.loc["b", "width"]
    assert isinstance(tried, pd.DataFrame)
