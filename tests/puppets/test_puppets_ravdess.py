"""The demo corpus in RAVDESS's layout: its names, its files, what they show, its determinism."""

import csv
import json
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from scipy.signal import correlate

from foalkit import UserError
from foalkit.corpora import ravdess
from foalkit.features import faces, media
from foalkit.puppets import displays
from foalkit.puppets import iemocap as puppets
from foalkit.puppets import ravdess as puppets_ravdess

FPS = Fraction(30000, 1001)
ACTORS = TAKES = 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("puppets-ravdess") / "corpus"
    puppets_ravdess.write_corpus(root, takes_per_actor=TAKES, actors=ACTORS, workers=2)
    return root


@pytest.fixture(scope="module")
def truth(corpus):
    return {row["utterance"]: row for row in csv.DictReader((corpus / "displays.csv").open())}


def _decoded(path, kind):
    with av.open(str(path)) as container:
        form = {"format": "rgb24"} if kind == "video" else {}
        return [frame.to_ndarray(**form) for frame in container.decode(**{kind: 0})]


def _wav(path):
    with wave.open(str(path)) as file:
        assert (file.getsampwidth(), file.getframerate()) == (2, 48_000)
        channels = file.getnchannels()
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, channels).astype(float)


# ---- names ---------------------------------------------------------------------------------------


def test_the_reader_reads_every_take_once_and_leaves_nothing_out(corpus, truth):
    rows, left_out = ravdess.read(corpus)
    assert left_out == []
    assert {r["utterance"]: r["label"] for r in rows} == {u: t["emotion"] for u, t in truth.items()}
    assert len(rows) == ACTORS * TAKES
    assert sorted({(r["speaker"], r["gender"]) for r in rows}) == [
        ("Actor_01", "M"), ("Actor_02", "F"), ("Actor_03", "M"), ("Actor_04", "F")
    ]  # fmt: skip
    for row in rows:
        assert row["audio"].startswith(f"{row['speaker']}/03-01-")
        assert row["video"].startswith(f"{row['speaker']}/01-01-")
        assert 3.1 < media.seconds(corpus / row["video"]) < 3.4
        assert (corpus / row["speaker"] / f"02-{row['utterance']}.mp4").exists()
    assert len(list(corpus.glob("Actor_*/*"))) == 3 * len(rows)


@pytest.mark.parametrize(
    ("takes", "neutral", "other"), [(4, {1}, {1}), (12, {3}, {3}), (18, {4}, {4, 5}), (28, {4}, {8})]
)
def test_names_are_valid_unique_and_dealt_evenly(takes, neutral, other):
    fields = [tuple(map(int, turn.utterance.split("-"))) for turn in puppets_ravdess.plan(1, takes, 24)]
    assert len(set(fields)) == len(fields) == 24 * takes
    for channel, emotion, intensity, statement, repetition, actor in fields:
        assert channel == 1 and emotion in (1, 3, 4, 5) and 1 <= actor <= 24
        assert {intensity, statement, repetition} <= {1, 2} and (emotion, intensity) != (1, 2)
    for emotion, allowed in {1: neutral, 3: other, 4: other, 5: other}.items():
        assert {sum(f[1] == emotion and f[5] == a for f in fields) for a in range(1, 25)} <= allowed


# ---- files ---------------------------------------------------------------------------------------


def test_videos_have_the_releases_form(corpus):
    for path in sorted(corpus.glob("Actor_*/01-*.mp4"))[::3]:
        with av.open(str(path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert video.average_rate == FPS and video.start_time == 0 and video.width == 480
            assert (audio.rate, audio.channels) == (48_000, 2)
            frames = list(container.decode(video))
        assert [round(f.pts * f.time_base * FPS) for f in frames] == list(range(len(frames)))
        assert {int(f.pict_type) for f in frames} == {1, 2, 3}  # I, P and B, as in the release
        wav = _wav(path.with_name(f"03{path.stem[2:]}.wav")).mean(1)
        assert len(wav) == round(len(frames) / FPS * 48_000)
        heard = np.concatenate(_decoded(path, "audio"), 1).mean(0)[: len(wav)] * 32767
        assert len(heard) > len(wav) - 1024  # the container counts in milliseconds: a block may fall off
        wav = wav[: len(heard)]
        assert np.argmax(correlate(heard, wav)) == len(wav) - 1  # in step to the sample
        assert np.corrcoef(heard, wav)[0, 1] > 0.98


def test_the_twin_is_silent_and_its_pictures_are_the_very_same(corpus):
    for path in sorted(corpus.glob("Actor_*/01-*.mp4"))[::5]:
        twin = path.with_name(f"02{path.stem[2:]}.mp4")
        packets = []
        for file in (path, twin):
            with av.open(str(file)) as container:
                packets.append([(bytes(p), p.pts, p.dts) for p in container.demux(video=0)])
        assert packets[0] == packets[1] and len(packets[0]) > 90
        assert np.array_equal(_decoded(path, "video"), _decoded(twin, "video"))
        sound = np.concatenate(_decoded(twin, "audio"), 1)
        assert sound.shape[1] > 3 * 48_000 and not sound.any()
        with pytest.raises(media.MediaError, match="silent"):
            media.read_audio(twin)
        assert media.read_audio(path).any()


def test_a_few_wavs_are_stereo_and_their_mean_is_the_take(corpus):
    sounds = {path: _wav(path) for path in corpus.glob("Actor_*/03-*.wav")}
    stereo = [path for path, sound in sounds.items() if sound.shape[1] == 2]
    assert len(stereo) == 5 and all(sound.shape[1] in (1, 2) for sound in sounds.values())
    for path in stereo:
        left, right = sounds[path].T
        assert left.std() / right.std() == pytest.approx(1.1 / 0.9, rel=0.01)
        # the mp4 carries the mono sound: the mean is as loud, neither channel is
        mono = np.concatenate(_decoded(path.with_name(f"01{path.stem[2:]}.mp4"), "audio"), 1)[0] * 32767
        assert ((left + right) / 2).std() == pytest.approx(mono[: len(left)].std(), rel=0.03)


def test_speech_fills_the_seconds_that_are_listened_to(corpus):
    for path in corpus.glob("Actor_*/03-*.wav"):
        sound = _wav(path).mean(1) / 32767

        def loudest(start, end, sound=sound):
            return np.abs(sound[round(start * 48_000) : round(end * 48_000)]).max()

        assert loudest(0, 0.29) < 0.005 and 0.03 < loudest(0, 3.4) < 0.6
        assert min(loudest(0.5, 0.75), loudest(2.65, 2.95)) > 0.01
        assert loudest(len(sound) / 48_000 - 0.07, 3.4) < 0.005


# ---- what is shown -------------------------------------------------------------------------------


def test_the_face_is_found_in_nearly_every_picture(corpus):
    looked = found = 0
    for path in sorted(corpus.glob("Actor_*/01-*.mp4")):
        boxes, hits = faces.track(media.read_frames(path)[::12], every=1)
        looked, found = looked + len(hits), found + hits.sum()
        assert boxes[:, 2].min() > 120  # with its margin: more than 85 pixels from brows to chin
    assert looked > 100 and found >= 0.98 * looked


def test_displays_follow_the_table():
    plan = puppets_ravdess.plan(3, 28, 24)
    sign = {"happy": (1, 1), "angry": (1, -1), "sad": (-1, -1), "neutral": (-1, 1)}
    # P(right) on each axis = (1 - masked - contradicts) x the axis's own chance, by hand
    for modality, right in {"audio": (0.94 * 0.96, 0.94 * 0.60), "video": (0.94 * 0.64, 0.94 * 0.96)}.items():
        for axis in (0, 1):
            for emotion, corner in sign.items():
                shown = [getattr(t, modality)[axis] for t in plan if t.label == emotion]
                share, p = np.mean(np.equal(shown, corner[axis])), right[axis]
                assert share == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / len(shown)))


def test_sound_and_picture_show_each_their_own_display(corpus, truth):
    loud, broad, told = [], [], []
    for utterance, row in truth.items():
        folder = corpus / f"Actor_{utterance[-2:]}"
        sound = _wav(folder / f"03-{utterance}.wav").mean(1)[24_000:141_600]
        loud.append(20 * np.log10(sound.std()))
        picture = np.array(_decoded(folder / f"01-{utterance}.mp4", "video")[10::10])[:, 170:]
        broad.append((picture.max(-1) < 90).mean())  # dark cloth: aroused puppets raise their shoulders
        told.append((float(row["audio_arousal"]), float(row["video_arousal"])))
    loud, broad, told = (np.asarray(x).reshape(ACTORS, TAKES, -1) for x in (loud, broad, told))
    loud, broad, told = ((x - x.mean(1, keepdims=True)).reshape(ACTORS * TAKES, -1).T for x in (loud, broad, told))
    by_ear, by_eye = (np.corrcoef([x[0], *told])[0, 1:] for x in (loud, broad))
    assert by_ear[0] > 0.9 > by_ear[1] and by_eye[1] > 0.9 > by_eye[0]


def test_no_two_actors_look_or_sound_the_same():
    looks, voices = zip(*(puppets_ravdess.cast(1, actor) for actor in range(1, 25)), strict=True)
    assert len({(look.iris, look.style) for look in looks}) == 24  # speaker they derive from, hair
    men, women = voices[::2], voices[1::2]
    assert max(v.f0 for v in men) < 160 < min(v.f0 for v in women)
    assert len({(round(v.f0), round(v.tract, 2)) for v in voices}) == 24


# ---- one writing, whole or not at all ------------------------------------------------------------


def test_same_bytes_whatever_the_number_of_workers(corpus, tmp_path, monkeypatch):
    """Two processes wrote all takes; one alone writes the first five, and the tables of all."""
    again, whole = tmp_path / "again", puppets_ravdess.in_processes
    monkeypatch.setattr(
        puppets_ravdess, "in_processes", lambda f, part, jobs, workers: whole(f, part, jobs[:5], workers)
    )
    puppets_ravdess.write_corpus(again, takes_per_actor=TAKES, actors=ACTORS, workers=1)
    files = sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert len([f for f in files if f.parts[0].startswith("Actor_")]) == 3 * 5
    tables = {f.name for f in corpus.iterdir() if f.is_file()}
    assert {f.name for f in files if len(f.parts) == 1} == tables
    assert [str(f) for f in files if (corpus / f).read_bytes() != (again / f).read_bytes()] == []


def test_the_card_tells_what_was_written(corpus, truth, monkeypatch):
    card = json.loads((corpus / "card.json").read_text())
    assert card["parameters"] == {"seed": 1, "takes_per_actor": TAKES, "actors": ACTORS}
    assert card["utterances"] == len(truth)
    assert card["labels"] == dict.fromkeys(("angry", "happy", "neutral", "sad"), 4)
    assert card["ceilings"] == pytest.approx(
        displays.ceilings(displays.WRONG, dict.fromkeys(puppets.CORNERS, 0.25)), abs=1e-6
    )
    assert card["ceilings"]["both"] == pytest.approx(0.92, abs=0.01)
    monkeypatch.setattr(puppets_ravdess, "_write_take", lambda job: pytest.fail("written again"))
    assert card == puppets_ravdess.write_corpus(corpus, takes_per_actor=TAKES, actors=ACTORS, workers=1)


def test_refuses_other_corpora_and_impossible_sizes(tmp_path, monkeypatch):
    (tmp_path / "card.json").write_text('{"name": "puppets"}')
    with pytest.raises(FileExistsError):
        puppets_ravdess.write_corpus(tmp_path, takes_per_actor=4, actors=1)
    for wrong, word in (({"takes_per_actor": 29}, "4 to 28"), ({"actors": 25}, "1 to 24")):
        with pytest.raises(ValueError, match=word):
            puppets_ravdess.write_corpus(tmp_path / "corpus", **wrong)
    monkeypatch.setattr(av, "codecs_available", {"aac"})
    with pytest.raises(UserError, match="libx264"):
        puppets_ravdess.write_corpus(tmp_path / "corpus")
    assert [p.name for p in tmp_path.iterdir()] == ["card.json"]
