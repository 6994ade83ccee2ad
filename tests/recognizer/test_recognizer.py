"""A recognizer against what the runs stored of the same utterances, against itself in parts, and on hostile files."""

import json
import os
import re
import shutil
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from conftest import refused
from huggingface_hub import ModelCard
from scipy.special import softmax

from foalkit import Recognizer, UserError, cli, files
from foalkit.features import clips, media
from foalkit.results import scoring
from foalkit.training import runs

FOLDS = (1, 2)


@pytest.fixture(scope="module")
def trained(tiny, data):
    """Two folds of the fused row, and one of each other kind, in a folder that no other test fills."""
    own = tiny.model_copy(update={"outputs": str(tiny.folder.parent / "recognizer")})
    own.folder.mkdir()
    shutil.copy(tiny.folder / "manifest.parquet", own.folder)
    for variant, folds in {"foal-net": FOLDS, "audio": (1,), "video-face": (1,), "late-product": (1,)}.items():
        for fold in folds:
            runs.run(own, variant, fold, 0, "honest", data)
    return own.folder / "runs" / "honest"


@pytest.fixture(scope="module")
def both(trained):
    return Recognizer.load(trained / "foal-net")


@pytest.fixture(scope="module")
def root(tiny, data):
    return Path(data.info["corpus"])


def part_of(turn, root) -> dict:
    """How a manifest's row is asked for: the dialogue's film, the turn's own sound."""
    boxes = {name: None if turn[name] is None else tuple(map(int, turn[name])) for name in ("crop", "face")}
    times = {"start": turn["start"], "end": turn["end"]}
    return {"file": root / turn["video"], "sound": root / turn["audio"], **times, **boxes}


def stored(folder, part="predictions", **chosen) -> pd.DataFrame:
    """A run's stored probabilities by utterance: of its selected epoch's test side, or with a stream hidden."""
    table = pd.read_parquet(folder / f"{part}.parquet")
    if part == "predictions":
        record = json.loads((folder / "record.json").read_text())
        chosen = {"split": "test", "epoch": record["scores"][record["selection"]]["epoch"]}
    for column, value in chosen.items():
        table = table[table[column] == value]
    table = table.set_index("utterance").filter(like="logit_")
    return pd.DataFrame(softmax(table.to_numpy(float), 1), table.index, [c[6:] for c in table])


def write_film(file, pictures, sound, rate=16_000, fps=Fraction(30000, 1001), pixels="rgb24", codec="ffv1"):
    """Pictures and samples (S,) int16 as they are, none lost; without either where it is None."""
    with av.open(str(file), "w") as container:
        if pictures is not None:
            video = container.add_stream(codec, rate=fps, pix_fmt="yuv420p" if pixels == "yuv420p" else "bgr0")
            height, video.width = pictures[0].shape[:2]
            video.height = height * 2 // 3 if pixels == "yuv420p" else height
        if sound is not None:
            audio = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for n, picture in enumerate(pictures if pictures is not None else ()):
            frame = av.VideoFrame.from_ndarray(picture, format=pixels)
            frame.pts, frame.time_base = n, 1 / fps
            container.mux(video.encode(frame))
        if pictures is not None:
            container.mux(video.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
            frame.rate = rate
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return file


def cut_out(turn, root, file, *, sound=True, picture=True):
    """One turn as a file of its own, without loss: the planes of its pictures sliced, its wav's samples as they are."""
    x, y, width, height = map(int, turn["crop"])
    pictures, samples = [], None
    if picture:
        with av.open(str(root / turn["video"])) as film:
            rate = film.streams.video[0].average_rate
            for n, frame in enumerate(film.decode(video=0)):
                if turn["start"] - 1e-4 <= n / rate < turn["end"] - 1e-4:
                    whole = frame.to_ndarray(format="yuv420p")
                    luma, colours = whole[: frame.height], whole[frame.height :].reshape(2, frame.height // 2, -1)
                    small = colours[:, y // 2 : (y + height) // 2, x // 2 : (x + width) // 2]
                    planes = [luma[y : y + height, x : x + width].ravel(), small.ravel()]
                    pictures.append(np.concatenate(planes).reshape(height * 3 // 2, width))
    if sound:
        with wave.open(str(root / turn["audio"])) as heard:
            samples = np.frombuffer(heard.readframes(heard.getnframes()), "<i2")
    return write_film(file, pictures or None, samples, pixels="yuv420p")


@pytest.fixture(scope="module")
def turns(data):
    return data.table.set_index("utterance", drop=False)


@pytest.fixture(scope="module")
def turn(turns, trained):
    """A turn of fold 1's test side that is used whole."""
    tested = turns.loc[stored(trained / "foal-net" / "fold1-seed0").index]
    return tested[tested["end"] - tested["start"] < 1.9].iloc[0].to_dict()


# ---- the answers are the stored ones --------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["foal-net", "audio", "video-face", "late-product"])
def test_a_turn_of_the_corpus_gets_the_answer_that_its_run_stored(variant, trained, turns, root):
    folder = trained / variant / "fold1-seed0"
    r, wanted = Recognizer.load(folder), stored(folder)
    for utterance in wanted.index[:6]:
        answer = r(**part_of(turns.loc[utterance], root))
        assert list(answer.probabilities.values()) == pytest.approx(wanted.loc[utterance].tolist(), abs=1e-5)
        assert list(answer.probabilities) == wanted.columns.tolist()
        assert answer.label == wanted.loc[utterance].idxmax() and answer.votes == {
            "fold 1": (answer.label, answer.probability)
        }


def test_a_turn_cut_out_as_a_file_of_its_own_gets_the_same_answer(trained, turn, root, tmp_path):
    folder = trained / "foal-net" / "fold1-seed0"
    answer = Recognizer.load(folder)(cut_out(turn, root, tmp_path / "cut.avi"))
    wanted = stored(folder).loc[turn["utterance"]]
    assert list(answer.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-5)
    assert answer.file == "cut.avi" and answer.used == pytest.approx((0, answer.seconds))


def test_all_folds_together_are_the_mean_of_their_probabilities(both, trained, turn, root):
    alone = [Recognizer.load(trained / "foal-net" / f"fold{f}-seed0")(**part_of(turn, root)) for f in FOLDS]
    answer = both(**part_of(turn, root))
    for name, share in answer.probabilities.items():
        assert share == pytest.approx(np.mean([a.probabilities[name] for a in alone]), abs=1e-6)
    assert answer.votes == {
        f"fold {f}": (a.label, pytest.approx(a.probability, abs=1e-6)) for f, a in zip(FOLDS, alone, strict=True)
    }


@pytest.mark.parametrize("hidden", ["audio", "video"])
def test_a_hidden_stream_and_a_file_without_it_get_the_answer_stored_for_that(hidden, trained, turn, root, tmp_path):
    folder = trained / "foal-net" / "fold1-seed0"
    wanted = stored(folder, "absent", condition=f"no {hidden}").loc[turn["utterance"]].tolist()
    r = Recognizer.load(folder)
    told = r(**part_of(turn, root), without=hidden)
    assert list(told.probabilities.values()) == pytest.approx(wanted, abs=1e-5)
    one = {"sound": hidden != "audio", "picture": hidden != "video"}
    file = cut_out(turn, root, tmp_path / "one.avi", **one)
    lacking = r(file)
    assert list(lacking.probabilities.values()) == pytest.approx(wanted, abs=1e-5)
    assert any(note.startswith(f"answered without {hidden}: ") for note in lacking.notes)
    other = "audio" if hidden == "video" else "video"
    assert "hidden" in refused(lambda: r(file, without=other))  # nothing is left


# ---- over time ----------------------------------------------------------------------------------------


def test_each_window_is_answered_as_that_part_alone(both, turn, root, monkeypatch):
    monkeypatch.setattr(clips, "AHEAD", 3.0)  # several decodings of the film
    film, crop = root / turn["video"], tuple(map(int, turn["crop"]))
    table = both.over_time(film, window=1.5, hop=0.7, crop=crop, end=6.5)
    assert table["start"].tolist() == pytest.approx([0.7 * n for n in range(8)])  # the next would end at 7.1 s
    assert (table["end"] - table["start"]).tolist() == pytest.approx([1.5] * 8)
    for row in table.iloc[[0, 3, 5, 7]].to_dict("records"):
        answer = both(film, start=row["start"], end=row["end"], crop=crop)
        assert answer.label == row["label"] and answer.probability == pytest.approx(row["probability"], abs=1e-5)
        assert all(row[name] == pytest.approx(p, abs=1e-5) for name, p in answer.probabilities.items())
        looked = both.attention(film, start=row["start"], end=row["end"], crop=crop)
        for stream, of in looked.groupby("stream"):
            assert of["weight"].mean() == pytest.approx(1, abs=1e-4)  # an even look is 1
            assert row[f"{stream} at"] == pytest.approx(of.loc[of["weight"].idxmax(), "second"])
            assert row["start"] <= of["second"].min() and of["second"].max() <= row["end"]


def test_sound_is_decoded_a_stretch_at_a_time(both, turn, root, monkeypatch):
    asked, real = [], media.read_audio

    def counted(file, start, end, **how):
        asked.append((start, end))
        return real(file, start, end, **how)

    monkeypatch.setattr(clips, "AHEAD", 4.0)
    monkeypatch.setattr(media, "read_audio", counted)
    both.over_time(root / turn["video"], window=1.0, hop=0.5, end=5.0)
    assert len(asked) == 2 and max(end - start for start, end in asked) == 4.0  # 9 windows, 5 s


def test_a_window_that_the_model_never_reads_at_once_is_refused(both, turn, root):
    said = refused(lambda: both.over_time(root / turn["video"], window=9))
    assert "window=9" in said and "2.0 s" in said


# ---- like the training data, or not -----------------------------------------------------------------------


def test_noise_is_unlike_the_puppets_and_a_puppet_is_not(both, turn, root, tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (30, 96, 96, 3), np.uint8)
    noise = both(write_film(tmp_path / "noise.avi", pictures, rng.integers(-9000, 9000, 16_000, np.int16)))
    assert noise.is_unlike and noise.unlike["audio"] > 1  # what flickers about a mean moves nothing on average
    assert any("puppets" in note and "means nothing" in note for note in noise.notes)
    puppet = both(**part_of(turn, root))
    assert not puppet.is_unlike and 0 < puppet.unlike["audio"] < 1
    assert "this model was trained on generated puppets" in puppet.notes


def test_a_person_is_unlike_the_puppets(both, ravdess_root):
    answer = both(sorted(ravdess_root.rglob("01-01-*.mp4"))[0])
    assert answer.is_unlike and answer.faces == 1 and answer.notes[-1].endswith("means nothing")


# ---- saved and read back ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(both, tmp_path_factory):
    return both.save(tmp_path_factory.mktemp("saved") / "my-model")


def test_a_saved_model_answers_alike_and_holds_no_place_of_this_machine(both, saved, turn, root):
    assert {f.name for f in saved.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    again = Recognizer.load(saved)
    assert again(**part_of(turn, root)).as_dict() == both(**part_of(turn, root)).as_dict()
    assert again.scores == both.scores and again.variant == "foal-net"
    text = (saved / "config.json").read_text() + (saved / "README.md").read_text()
    assert str(both.params.folder.parent) not in text and "/tmp" not in text


def killed_at(number: int, action) -> bool:
    """Whether a process was killed, by nothing that it could notice, at its `number`-th change of the file system."""
    child = os.fork()
    if not child:
        left = [number]

        def kill(event, about):
            writes = event == "open" and (about[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"):
                left[0] -= 1
                if not left[0]:
                    os._exit(9)

        sys.addaudithook(kill)
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_a_save_that_is_killed_leaves_the_old_model_or_the_new_one(both, trained, tmp_path):
    other = Recognizer.load(trained / "audio")
    for over in (True, False):
        seen, number = [], 0
        while True:
            number, folder = number + 1, tmp_path / f"{over}{number}"
            if over:
                other.save(folder)
                (folder / "notes.txt").write_text("mine")
            killed = killed_at(number, lambda folder=folder: both.save(folder))
            if over or (folder / "config.json").exists():
                seen.append(Recognizer.load(folder).variant)
            both.save(folder)  # never refused, and nothing is left over
            kept = {"config.json", "model.safetensors", "README.md"} | ({"notes.txt"} if over else set())
            assert {f.name for f in folder.iterdir()} == kept
            assert Recognizer.load(folder).variant == "foal-net" and "foal-net" in (folder / "README.md").read_text()
            if not killed:
                break
        assert number > 8 and seen == sorted(seen), seen  # audio as long as it is the old one, then foal-net
        assert set(seen) == {"audio", "foal-net"} or not over


def test_weights_of_another_model_are_not_believed(both, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert "not the one that config.json was written with" in refused(lambda: Recognizer.load(tmp_path / "copy"))


def test_the_model_card_says_data_scores_limits_and_licence(saved, trained):
    card = ModelCard.load(saved / "README.md")
    assert (card.data.library_name, card.data.license) == ("foalkit", "mit")
    true, predicted, speaker = [], [], []
    for fold in FOLDS:
        table = pd.read_parquet(trained / "foal-net" / f"fold{fold}-seed0" / "predictions.parquet")
        record = json.loads((trained / "foal-net" / f"fold{fold}-seed0" / "record.json").read_text())
        table = table[(table["split"] == "test") & (table["epoch"] == record["scores"]["validation"]["epoch"])]
        true += table["true"].tolist()
        predicted += table.filter(like="logit_").to_numpy().argmax(1).tolist()
        speaker += table["speaker"].tolist()
    recalls = [np.mean([q == c for t, q in zip(true, predicted, strict=True) if t == c]) for c in set(true)]
    (result,) = [r for r in card.data.eval_results if r.metric_name == "UA, %"]
    assert result.metric_value == pytest.approx(100 * np.mean(recalls), abs=0.006)
    low, high = scoring.interval(true, predicted, speaker)
    assert f"| UA | {np.mean(recalls):.1%} | {low:.1%} to {high:.1%} (of 4 speakers) |" in card.text
    for words in ("generated puppets", "folds 1, 2 of 5", "## Limits", "## Licence", "hap as happy", "honest"):
        assert words in card.text, words


def test_a_model_on_the_hub_is_read_by_its_name(saved, both, turn, root, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **how: str(saved / how["filename"]))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: asked.append(name) or str(saved))
    r = Recognizer.load("someone/my-model")
    assert asked == ["someone/my-model"] and r(**part_of(turn, root)).label == both(**part_of(turn, root)).label


def test_what_cannot_be_loaded_is_one_line(saved, trained, tmp_path, monkeypatch):
    def offline(**how):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", offline)
    assert "someone/none: neither a folder here nor a model" in refused(lambda: Recognizer.load("someone/none"))
    assert "there is no such folder" in refused(lambda: Recognizer.load(tmp_path / "none"))
    assert "holds no run; name a variant's folder" in refused(lambda: Recognizer.load(trained.parent))
    (tmp_path / "config.json").write_text('{"library": "foalkit", "format": 99}')
    assert "not of a model that this version" in refused(lambda: Recognizer.load(tmp_path))
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    assert "not a whole saved model" in refused(lambda: Recognizer.load(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"half")
    assert "not a whole saved model" in refused(lambda: Recognizer.load(tmp_path))


def test_a_folder_with_other_files_is_not_written_to(both, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "thesis.txt" in refused(lambda: both.save(tmp_path))
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


# ---- hostile files --------------------------------------------------------------------------------------


def hostile_files(folder, turn, root) -> dict[str, str | None]:
    """Files that people may give, each with a word of its refusal, or None where an answer is due."""
    rng = np.random.default_rng(1)
    tone = (8000 * np.sin(np.arange(32_000) / 5)).astype(np.int16)
    grey = np.full((60, 64, 64, 3), 128, np.uint8)
    (folder / "empty.mp4").touch()
    (folder / "notes.txt").write_text("no media")
    (folder / "noise.mp4").write_bytes(rng.bytes(5000))
    write_film(folder / "sound.wav", None, tone)
    write_film(folder / "mute.avi", grey, None)
    write_film(folder / "silent.avi", grey, 0 * tone)
    write_film(folder / "short.avi", grey[:3], tone[:1600])
    write_film(folder / "tick.wav", None, tone[:40])
    write_film(folder / "long.avi", np.repeat(grey, 3, 0), np.tile(tone, 3))
    cut_out(turn, root, folder / "turn.avi")
    refusals = {"empty.mp4": "empty", "notes.txt": "media", "noise.mp4": "media"}
    answered = ("sound.wav", "mute.avi", "silent.avi", "short.avi", "tick.wav", "long.avi", "turn.avi")
    return refusals | dict.fromkeys(answered)


def test_any_file_gets_an_answer_or_one_line(both, turn, root, tmp_path):
    hostile = hostile_files(tmp_path, turn, root)
    table = both.folder(tmp_path).set_index("file")
    assert sorted(hostile) == table.index.tolist()
    for name, word in hostile.items():
        row = table.loc[name]
        if word:
            assert pd.isna(row["label"]) and word in row["note"] and "\n" not in row["note"], row["note"]
            assert name in refused(lambda name=name: both(tmp_path / name))
        else:
            assert row["label"] in both.classes and row[both.classes].sum() == pytest.approx(1), (name, row["note"])
    notes = table["note"]
    assert "without video: sound.wav: no video" in notes["sound.wav"]
    assert "without audio: mute.avi: no audio" in notes["mute.avi"]
    assert "silent" in notes["silent.avi"] and "without audio" in notes["silent.avi"]
    assert "no face was found" in notes["mute.avi"] and table.loc["mute.avi", "faces"] == 0
    assert "only 2.00 of 6.01 s" in notes["long.avi"] and pd.isna(table.loc["sound.wav", "faces"])


def test_what_is_no_file_of_ours_is_one_line(both, trained, turn, root, tmp_path):
    assert "no such file" in refused(lambda: both(tmp_path / "none.mp4"))
    assert "is a folder" in refused(lambda: both(tmp_path))
    assert "there is nothing from 99" in refused(lambda: both(root / turn["video"], start=99))
    assert "without='text'" in refused(lambda: both(root / turn["video"], without="text"))
    assert "holds no file" in refused(lambda: both.folder(tmp_path))
    assert "no such folder" in refused(lambda: both.folder(tmp_path / "none"))
    mute = write_film(tmp_path / "mute.avi", np.zeros((9, 64, 64, 3), np.uint8), None)
    said = refused(lambda: Recognizer.load(trained / "audio")(mute))
    assert said.startswith("mute.avi: audio needs audio") and "no audio" in said


def test_odd_entries_of_a_folder_are_listed_each_with_its_reason(both, turn, root, tmp_path, monkeypatch):
    cut_out(turn, root, tmp_path / "turn.avi")
    for name in ("a b", 'it\'s "q"', "fröhlich 喜", "new\nline", "-rf", "%03d", "lat\udce9n"):
        shutil.copy(tmp_path / "turn.avi", tmp_path / f"{name}.avi")
    os.mkfifo(tmp_path / "pipe.avi")
    (tmp_path / "dead.avi").symlink_to(tmp_path / "gone.avi")
    (tmp_path / "bad\nline.avi").write_text("no media")
    for name in (".hidden", "locked"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "turn.avi", tmp_path / name)
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, how: Path(path).name != "locked" and access(path, how)
    )  # as for others
    (tmp_path / "locked" / "turn.avi").unlink()  # root sees what is in it
    table = both.folder(tmp_path).set_index("file")
    answered = {"turn", "a b", 'it\'s "q"', "fröhlich 喜", "new\\nline", "-rf", "%03d", "lat\\udce9n"}
    notes = {"pipe.avi": "no regular file", "dead.avi": "link that leads nowhere", "bad\\nline.avi": "media"}
    notes["locked"] = "may not be entered"
    assert set(table.index) == {f"{name}.avi" for name in answered} | set(notes)
    assert table.loc[table.index.difference(list(notes)), "label"].notna().all()
    for name, words in notes.items():
        assert pd.isna(table.loc[name, "label"]) and words in table.loc[name, "note"], name
        assert "\n" not in table.loc[name, "note"]
    table.to_json(orient="records")
    said = str(both(tmp_path / "new\nline.avi"))
    assert said.startswith("new\\nline.avi\n  answer: ") and both(tmp_path / "new\nline.avi").file == "new\nline.avi"
    both(tmp_path / "lat\udce9n.avi")._repr_html_().encode()


def test_what_is_odd_about_a_file_is_in_its_answer_and_beside_its_first_window(both, tmp_path):
    tone = (8000 * np.sin(np.arange(16_000) / 5)).astype(np.int16)
    file = write_film(tmp_path / "short.mkv", np.full((90, 64, 64, 3), 128, np.uint8), tone)
    words = "its sound ends at 1.00 s, its picture at 3.00 s"
    assert words in both(file).notes
    notes = both.over_time(file, window=1.0, hop=1.0)["note"].tolist()
    assert len(notes) == 3 and notes[0] == words and all(words not in note for note in notes[1:])


@pytest.mark.parametrize("error", [UserError("x.avi: two\nlines"), ZeroDivisionError("by 0"), OSError(5, "I/O error")])
def test_what_is_wrong_with_one_stream_of_a_file_is_a_note_a_defect_stops(both, turn, root, monkeypatch, error):
    def fails(row):
        raise error

    monkeypatch.setattr(both, "readers", {**both.readers, "audio": fails})
    fails.kind, fails.notes = "sound", {}
    row = clips.clip_row(root / turn["video"], end=1.0)
    if not isinstance(error, UserError):
        with pytest.raises(type(error)):
            both._read(row)
        with pytest.raises(type(error)):
            both.folder((root / turn["video"]).parent)
        return
    read = both._read(row)
    assert list(read.features) == ["video"] and "lines" in read.absent["audio"]
    assert "\n" not in read.absent["audio"]


def test_the_answer_says_how_much_is_silent(both, tmp_path):
    tone = (8000 * np.sin(np.arange(16_000) / 5)).astype(np.int16)
    file = write_film(tmp_path / "half.wav", None, np.concatenate([tone, np.full(16_000, 5, np.int16)]))
    assert both(file).silence == pytest.approx(0.5, abs=0.02)


def test_features_made_elsewhere_cannot_be_made_of_a_clip(tiny, trained, tmp_path):
    record = json.loads((trained / "audio" / "fold1-seed0" / "record.json").read_text())
    record["params"]["features"]["audio"] = {"encoder": "imported", "folder": "x", "width": 4}
    copy = tmp_path / "fold1-seed0"
    copy.mkdir()
    for name in ("predictions.parquet", "weights.safetensors"):
        (copy / name).write_bytes((trained / "audio" / "fold1-seed0" / name).read_bytes())
    files.write_sealed(copy / "record.json", record)
    assert "made elsewhere" in refused(lambda: Recognizer.load(copy))


# ---- the command, and a light import -----------------------------------------------------------------------


def test_predict_prints_answers_and_a_status(both, saved, turn, root, tmp_path, capsys):
    file = cut_out(turn, root, tmp_path / "turn.avi")
    wanted = both(file)
    assert cli.main(["predict", str(file), "--run", str(saved)]) == 0
    said = capsys.readouterr().out
    assert f"answer: {wanted.label} ({wanted.probability:.0%})" in said and "fold 2: " in said
    (tmp_path / "notes.txt").write_text("no media")
    words = ["predict", str(file), str(tmp_path / "notes.txt"), str(tmp_path), "--run", str(saved), "--json"]
    assert cli.main(words) == 1
    out, error = capsys.readouterr()
    one, *table = map(json.loads, out.splitlines())
    assert one == json.loads(json.dumps(wanted.as_dict())) and [r["file"] for r in table] == ["notes.txt", "turn.avi"]
    assert error.startswith("error: notes.txt") and error.count("error") == 1
    assert cli.main(["predict", "", "--run", str(saved)]) == 1  # "$FILE", where nothing is in it
    assert capsys.readouterr().err.startswith("error: an empty name")


def test_importing_foalkit_stays_light_and_an_unknown_name_is_an_attribute_error():
    code = "import foalkit, sys; print(sorted({'torch', 'huggingface_hub', 'transformers', 'av'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    import foalkit

    with pytest.raises(AttributeError, match="Recogniser"):
        _ = foalkit.Recogniser


def test_an_answer_is_shown_as_text_and_as_html(both, turn, root, tmp_path):
    answer = both(cut_out(turn, root, tmp_path / "a<b.avi"))
    assert "a<b.avi" in str(answer) and "a&lt;b.avi" in answer._repr_html_() and "a<b" not in answer._repr_html_()
    assert re.search(r"used: 0\.00 to \d\.\d\d s", str(answer))
