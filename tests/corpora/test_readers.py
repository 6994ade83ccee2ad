"""The readers: IEMOCAP's layout on the tiny corpus and on broken copies, RAVDESS's names, the manifest."""

import errno
import json
import os
import re
import shutil
import wave

import av
import pandas as pd
import pytest
from conftest import refused

from foalkit import UserError, params
from foalkit.corpora import iemocap, ravdess
from foalkit.corpora.manifest import COLUMNS, corpus_root, counts, read_manifest
from foalkit.features.data import with_lengths
from foalkit.params.corpora import Iemocap, Ravdess

FOUR = {"hap": "happy", "exc": "happy", "neu": "neutral", "sad": "sad", "ang": "angry"}
CLASSES = ["happy", "neutral", "sad", "angry"]


def read_at(root, **changes):
    """The manifest of IEMOCAP's four classes at a folder, and what is left out."""
    corpus = {"reader": "iemocap", "root": str(root), "labels": FOUR, "classes": CLASSES} | changes
    return read_manifest(Iemocap(**corpus), root)


def label_lines(corpus) -> list[list[str]]:
    """Every label line of the corpus, split at its tabs, by a rule of this test's own."""
    files = sorted(corpus.glob("Session*/dialog/EmoEvaluation/*.txt"))
    return [ln.split("\t") for f in files for ln in f.read_text().splitlines() if ln.startswith("[")]


# ---- IEMOCAP -------------------------------------------------------------------------------------


def test_every_label_line_becomes_a_row(corpus):
    rows, left_out = iemocap.read(corpus)
    lines = label_lines(corpus)
    assert left_out == []
    assert [(r["utterance"], r["label"]) for r in rows] == [(ln[1], ln[2]) for ln in lines]
    assert [f"[{r['start']:.4f} - {r['end']:.4f}]" for r in rows] == [ln[0] for ln in lines]


def test_the_speaker_is_found_on_their_own_side(corpus):
    rows, _ = iemocap.read(corpus)
    for row in rows:
        named, speaks = row["dialogue"][5], row["utterance"].split("_")[-1][0]
        assert row["speaker"] == row["session"] + speaks == row["dialogue"][:5] + speaks
        assert row["gender"] == speaks
        assert row["crop"] == ((52 if speaks == named else 412), 112, 256, 256)
        x, _, width, _ = row["face"]
        assert (x + width <= 360) == (speaks == named)
    assert {row["crop"][0] for row in rows} == {52, 412}


def test_irregular_dialogues_and_overlapping_turns_are_read(corpus):
    rows, _ = iemocap.read(corpus)
    assert {"Ses03M_impro05a", "Ses05M_script01_1b"} <= {r["dialogue"] for r in rows}
    assert all(r["kind"] == ("scripted" if "script" in r["dialogue"] else "improvised") for r in rows)
    pairs = [(a, b) for a in rows for b in rows if a is not b and a["dialogue"] == b["dialogue"]]
    assert any(a["start"] < b["start"] < a["end"] for a, b in pairs)


def test_the_manifest_maps_merges_and_lists(corpus):
    table, left_out = read_at(corpus)
    card = json.loads((corpus / "card.json").read_text())
    assert list(table.columns) == list(COLUMNS)
    assert (len(table), len(table) + len(left_out)) == (card["usable"], card["utterances"])
    named = card["labels"]
    expected = {
        "happy": named["hap"] + named["exc"],
        "neutral": named["neu"],
        "sad": named["sad"],
        "angry": named["ang"],
    }
    assert table["emotion"].value_counts().to_dict() == expected
    assert set(table.loc[table["label"] == "exc", "emotion"]) == {"happy"}
    assert left_out["reason"].str.fullmatch(r"label (fru|sur|xxx) is not among the classes").all()
    assert table["utterance"].is_monotonic_increasing and table["utterance"].is_unique
    shown = counts(table, CLASSES)
    assert shown.loc["all", "all"] == len(table) and shown.loc["all"].iloc[:4].to_dict() == expected
    by_session = {f"Ses0{k}": sum(n for x, n in v.items() if x in FOUR) for k, v in card["labels_by_session"].items()}
    assert shown["all"].drop("all").to_dict() == by_session


@pytest.fixture
def broken(corpus, tmp_path):
    """A copy of the first session, in which a test may break something."""
    shutil.copytree(corpus / "Session1", tmp_path / "Session1")
    return tmp_path


def label_file(root):
    return sorted(root.glob("Session1/dialog/EmoEvaluation/*.txt"))[0]


def replace_line(file, find, change):
    lines = file.read_text().splitlines()
    file.write_text("\n".join(change(ln) if find(ln) else ln for ln in lines) + "\n")


def test_bad_label_lines_are_listed_and_left_out(broken):
    whole, _ = iemocap.read(broken)
    file = label_file(broken)
    first, second, third = (r for r in whole[:3])
    a, b, c = (r["utterance"] for r in (first, second, third))
    replace_line(file, lambda ln: f"\t{a}\t" in ln, lambda ln: ln.replace(" - ", " to "))
    replace_line(file, lambda ln: f"\t{b}\t" in ln, lambda ln: f"[9.0000 - 9.0000]\t{b}\tneu\t[2.5, 2.5, 2.5]")
    replace_line(file, lambda ln: f"\t{c}\t" in ln, lambda ln: ln.replace(c, f"Ses01F_other_{c[-4:]}"))
    rows, left_out = iemocap.read(broken)
    assert {r["utterance"] for r in rows} == {r["utterance"] for r in whole} - {a, b, c}
    reasons = dict(left_out)
    assert len(reasons) == 3
    assert "not a label line" in next(v for k, v in reasons.items() if k.startswith(file.name))
    assert "empty" in reasons[b]
    assert f"not of dialogue {file.stem}" in reasons[f"Ses01F_other_{c[-4:]}"]


def test_a_turn_without_its_media_stays_and_counts_are_of_whole_ones(broken):
    whole, _ = iemocap.read(broken)
    lost, dialogue = whole[0]["utterance"], whole[-1]["dialogue"]
    next(broken.rglob(f"{lost}.wav")).unlink()
    next(broken.rglob(f"{dialogue}.avi")).unlink()
    rows, left_out = iemocap.read(broken)
    assert left_out == [] and [r["utterance"] for r in rows] == [r["utterance"] for r in whole]
    assert {r["utterance"] for r in rows if not r["audio"]} == {lost}
    assert {r["utterance"] for r in rows if not r["video"]} == {
        r["utterance"] for r in whole if r["dialogue"] == dialogue
    }
    assert all(
        r["audio"] in ("", w["audio"]) and r["video"] in ("", w["video"]) for r, w in zip(rows, whole, strict=True)
    )
    labels = dict.fromkeys({r["label"] for r in whole}, "happy") | {whole[0]["label"]: "sad"}
    counted = {"labels": labels, "classes": ["happy", "sad"], "assert_counts": True}
    corpus = Iemocap(reader="iemocap", root=str(broken), **counted)

    def found(used):  # the first class of the literature has 1636
        return int(re.search(r"happy has (\d+)", refused(lambda: read_manifest(corpus, broken, used=used)))[1])

    happy = [r for r in rows if labels[r["label"]] == "happy"]
    assert found([]) == len(happy) and found(["audio"]) == sum(r["audio"] != "" for r in happy)
    assert found(["audio", "video"]) == sum(r["audio"] != "" and r["video"] != "" for r in happy) < len(happy)


HOSTILE = [
    "<script>alert(1)</script>",
    "$(touch_pwned)",
    "../../../../../../etc/passwd_F000",
    "Ses01F_impro01_",
    "Ses01F_impro01_F000/../../x",
    "Ses01F_impro01_F0\\u202e",
    "Ses01F_impro01_\u0661",
    "F000",
    "-rf_F000",
    "\x1b[2J",
    "{x}_F000",
    "Ses01F_impro01_F" + "0" * 300,
]


def test_an_id_that_is_none_is_left_out_wherever_its_file_lies(broken):
    whole, _ = iemocap.read(broken)
    file = label_file(broken)
    line = next(ln for ln in file.read_text().splitlines() if ln.startswith("["))
    wav = next(broken.rglob(f"{line.split(chr(9))[1]}.wav"))
    for name in HOSTILE:
        place = wav.parent / f"{name}.wav"
        if len(name) < 200 and place.parent.is_dir():
            shutil.copy(wav, place)
        text = file.read_text()
        file.write_text(text + "\n" + line.replace(line.split("\t")[1], name) + "\n")
        table, left_out = read_at(broken, labels={**FOUR, "fru": "sad", "sur": "sad", "xxx": "sad"})
        assert len(table) == len(whole) and len(left_out) == 1, name
        assert left_out["utterance"].map(str.isprintable).all() and left_out["reason"].map(str.isprintable).all()
        left_out.to_parquet(broken / "left_out.parquet")
        file.write_text(text)


@pytest.mark.parametrize(
    "text", [b"", b"dialogue,side,x\n1,2\n", b"\xff\xfe", b"dialogue,side,x,y,width,height\na,b,c,d,e,f\n"]
)
def test_face_boxes_that_are_none_are_named(broken, text):
    (broken / "face_boxes.csv").write_bytes(text)
    if text:
        with pytest.raises(UserError, match=r"face_boxes\.csv: not a table"):
            iemocap.read(broken)
    else:
        assert all(r["face"] is None for r in iemocap.read(broken)[0])


def test_an_utterance_labelled_twice_counts_once(broken):
    whole, _ = iemocap.read(broken)
    file = label_file(broken)
    line = next(ln for ln in file.read_text().splitlines() if ln.startswith("["))
    file.write_text(file.read_text() + "\n" + line.replace("\tneu\t", "\tsad\t") + "\n")
    table, left_out = read_at(broken, labels={**FOUR, "fru": "sad", "sur": "sad", "xxx": "sad"})
    assert len(table) == len(whole)
    assert left_out["reason"].str.contains("stands twice").tolist() == [True]


def test_files_that_are_no_label_files_do_no_harm(broken):
    whole, _ = iemocap.read(broken)
    folder = label_file(broken).parent
    (folder / "._Ses01F_impro01.txt").write_bytes(bytes(range(256)))  # as unpacked on macOS
    (folder / "notes.txt").write_bytes(b"\xff\xfe not UTF-8\n[1.0 - 2.0] neither\n")
    (folder / "empty.txt").write_text("")
    rows, left_out = iemocap.read(broken)
    assert rows == whole
    assert dict(left_out).keys() == {"notes.txt:2", "empty.txt"}
    assert dict(left_out)["empty.txt"] == "empty.txt: is empty (0 bytes)"


def test_a_folder_without_the_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"EmoEvaluation.*corpus\.root"):
        iemocap.read(tmp_path)
    gone = params.load("demo", [f"corpus.root={tmp_path / 'gone'}", "corpus.generate=null"])
    with pytest.raises(UserError, match="no folder"):
        corpus_root(gone)


def test_no_usable_label_is_refused(corpus):
    with pytest.raises(UserError, match="no utterance with a label"):
        read_at(corpus, labels={"dis": "happy", "fea": "sad"}, classes=["happy", "sad"])


def literature() -> pd.DataFrame:
    """A table with the published margins: 5 531 turns, by class and by session."""
    classes = {"happy": 1636, "neutral": 1708, "sad": 1084, "angry": 1103}
    sessions = {"Ses01": 1085, "Ses02": 1023, "Ses03": 1151, "Ses04": 1031, "Ses05": 1241}
    return pd.DataFrame(
        {
            "emotion": [c for c, n in classes.items() for _ in range(n)],
            "session": [s for s, n in sessions.items() for _ in range(n)],
        }
    )


def test_the_literatures_counts_pass_and_others_do_not():
    table = literature()
    assert len(table) == 5531
    iemocap.assert_counts(table)
    lost = table.drop(table.index[table["session"] == "Ses04"][7])
    happy_for_sad = table.assign(emotion=table["emotion"].mask(table.index == 0, "sad"))
    with pytest.raises(UserError, match="IEMOCAP"):
        iemocap.assert_counts(lost)
    with pytest.raises(UserError, match="happy has 1635 utterances, the release has 1636"):
        iemocap.assert_counts(happy_for_sad)
    moved = table.assign(session=table["session"].mask(table.index == 0, "Ses04"))
    with pytest.raises(UserError, match="session Ses01 has 1084 utterances, the release has 1085"):
        iemocap.assert_counts(moved)


def test_asserted_counts_stop_a_small_copy(corpus):
    with pytest.raises(UserError, match="the release has"):
        read_at(corpus, assert_counts=True)


# ---- RAVDESS -------------------------------------------------------------------------------------


def takes(root, *names):
    """Files of 0.1 s of sound under these names; FFmpeg looks inside, so that an .mp4 may hold it too."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(root / name), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(bytes(3_200))
    return root


def test_copies_of_a_take_are_one_utterance(tmp_path):
    take = "01-05-02-01-02-12"
    root = takes(tmp_path, f"v/Actor_12/01-{take}.mp4", f"v/Actor_12/02-{take}.mp4", f"a/Actor_12/03-{take}.wav")
    rows, left_out = ravdess.read(root)
    assert left_out == []
    (row,) = rows
    assert row["utterance"] == row["dialogue"] == take
    assert (row["label"], row["speaker"], row["gender"]) == ("angry", "Actor_12", "F")
    assert (row["audio"], row["video"]) == (f"a/Actor_12/03-{take}.wav", f"v/Actor_12/01-{take}.mp4")


def test_one_copy_is_enough(tmp_path):
    root = takes(
        tmp_path,
        "01-01-03-01-01-01-01.mp4",  # audio and video
        "03-01-04-01-01-01-02.wav",  # sound alone
        "02-01-06-01-01-01-03.mp4",  # picture alone
        "02-01-08-01-01-01-04.mp4",
        "03-01-08-01-01-01-04.wav",  # picture and sound apart
    )
    rows, left_out = ravdess.read(root)
    found = {r["utterance"]: (r["audio"], r["video"], r["gender"]) for r in rows}
    assert found == {
        "01-03-01-01-01-01": ("01-01-03-01-01-01-01.mp4", "01-01-03-01-01-01-01.mp4", "M"),
        "01-04-01-01-01-02": ("03-01-04-01-01-01-02.wav", "", "F"),
        "01-06-01-01-01-03": ("", "02-01-06-01-01-01-03.mp4", "M"),
        "01-08-01-01-01-04": ("03-01-08-01-01-01-04.wav", "02-01-08-01-01-01-04.mp4", "F"),
    }
    assert left_out == []


def test_takes_are_known_by_files_of_features_too(tmp_path):
    takes(tmp_path, "03-01-04-01-01-01-02.wav")
    for name in (
        "01-01-03-01-01-01-01.npy",  # named as the film was
        "01-05-01-01-01-01.parquet",  # named by the take
        "01-01-04-01-01-01-02.npy",  # of the take that has sound
        "03-02-04-01-01-01-02.npy",  # a song
        "mean.npy",
    ):
        (tmp_path / name).write_bytes(b"")
    rows, left_out = ravdess.read(tmp_path)
    assert left_out == [] and {r["utterance"]: (r["label"], r["audio"], r["video"]) for r in rows} == {
        "01-04-01-01-01-02": ("sad", "03-01-04-01-01-01-02.wav", ""),
        "01-03-01-01-01-01": ("happy", "", ""),
        "01-05-01-01-01-01": ("angry", "", ""),
    }


def test_songs_strangers_and_second_copies(tmp_path):
    good = "03-01-02-01-01-01-01.wav"
    root = takes(
        tmp_path, good, f"copy/{good}", "03-02-02-01-01-01-01.wav", "03-01-09-01-01-01-01.wav", "take one.wav",
        "._03-01-02-01-01-01-01.wav", "readme.txt",
    )  # fmt: skip
    rows, left_out = ravdess.read(root)
    assert [(r["audio"], r["label"]) for r in rows] == [(good, "calm")]
    reasons = dict(left_out)
    assert set(reasons) == {good, "03-01-09-01-01-01-01.wav", "take one.wav"}
    assert "second copy" in reasons[good] and good in reasons[good]
    with pytest.raises(UserError, match="no RAVDESS file"):
        ravdess.read(takes(tmp_path / "songs", "03-02-02-01-01-01-01.wav"))


def test_a_take_lasts_as_long_as_its_picture_or_else_its_sound(tmp_path, corpus):
    root = takes(tmp_path, "03-01-03-01-01-01-01.wav", "03-01-04-01-01-01-01.wav")
    video = next(corpus.rglob("*.avi"))
    shutil.copy(video, root / "02-01-03-01-01-01-01.mp4")
    (root / "03-01-05-01-01-01-01.wav").write_bytes(b"RIFF")
    rows, left_out = ravdess.read(root)
    assert left_out == [] and [row["end"] for row in rows] == [None] * 3  # no file is opened to list it
    table, left_out = with_lengths(pd.DataFrame(rows), root)
    seen, heard = table.to_dict("records")
    with av.open(str(video)) as container:
        frames = sum(packet.size > 0 for packet in container.demux(video=0))
    assert seen["end"] == pytest.approx(frames * 1001 / 30000)
    assert heard["end"] == pytest.approx(0.1)
    assert list(left_out) == ["01-05-01-01-01-01"] and ".wav" in left_out["01-05-01-01-01-01"]


def test_the_real_recordings_are_all_read(ravdess_root):
    rows, left_out = ravdess.read(ravdess_root)
    table = pd.DataFrame(rows)
    assert len(table) == 24 * (4 + 7 * 8) == 1440 and table["utterance"].is_unique
    assert table["label"].value_counts().to_dict() == {e: 192 for e in ravdess.EMOTIONS} | {"neutral": 96}
    assert (table.groupby("speaker").size() == 60).all()
    odd = table["speaker"].str[-2:].astype(int) % 2 == 1
    assert (table.loc[odd, "gender"] == "M").all() and (table.loc[~odd, "gender"] == "F").all()
    assert (table["video"] != "").sum() == 5  # six clips, two of them of one take
    assert table["audio"].str.startswith("speech16k").all()
    assert left_out == []


@pytest.mark.parametrize(
    "name",
    [
        b"<img src=x onerror=alert(1)>.wav",
        b"$(touch pwned).wav",
        b"-rf.wav",
        b"{x} %s _&%$#~^.wav",
        b"a\nb.wav",
        b"\x1b[2J.wav",
        b"\xff\xfe.wav",
        "a\u202eb.wav".encode(),
        b"x" * 200 + b".wav",
        b"03-01-05-01-01-01-01\n.wav",
        "03-01-05-01-01-01-\u0661\u0662.wav".encode(),
    ],
)
def test_a_file_of_any_name_is_left_out_and_listed(tmp_path, name):
    takes(tmp_path, "03-01-05-01-01-01-01.wav")
    (tmp_path / "03-01-05-01-01-01-01.wav").rename(tmp_path / "03-01-05-01-01-01-02.wav")
    (tmp_path / os.fsdecode(name)).write_bytes(b"")
    corpus = {"reader": "ravdess", "root": str(tmp_path), "labels": {"angry": "a", "sad": "s"}, "classes": ["a", "s"]}
    table, left_out = read_manifest(Ravdess(**corpus), tmp_path)
    assert table["utterance"].tolist() == ["01-05-01-01-01-02"] and len(left_out) == 1
    assert left_out["utterance"].map(str.isprintable).all()
    left_out.to_parquet(tmp_path / "left_out.parquet")


@pytest.mark.parametrize("folder", [b"\xff", b"a\nb", "<b> $(touch pwned) é".encode()])
def test_a_folder_of_other_signs_keeps_its_takes_out_of_the_tables(tmp_path, folder):
    inside = tmp_path / os.fsdecode(folder)
    inside.mkdir()
    takes(inside, "03-01-05-01-01-01-01.wav")
    takes(tmp_path, "03-01-04-01-01-01-02.wav")
    corpus = {"reader": "ravdess", "root": str(tmp_path), "labels": {"angry": "a", "sad": "s"}, "classes": ["a", "s"]}
    table, left_out = read_manifest(Ravdess(**corpus), tmp_path)
    shown = inside.name.isprintable()
    assert (len(table), len(left_out)) == ((2, 0) if shown else (1, 1))
    for rows in (table, left_out):
        rows.to_parquet(tmp_path / "x.parquet")


def test_a_corpus_that_cannot_be_read_or_written_is_one_line(tmp_path, monkeypatch):
    generated = params.load("demo", f"corpus.root={tmp_path}")
    (tmp_path / "something.txt").write_text("")
    assert "holds no demo corpus: choose another folder" in refused(lambda: corpus_root(generated))
    (tmp_path / "file").write_text("")
    real = params.load("iemocap-frozen", f"corpus.root={tmp_path}/file")
    assert f"there is no folder {tmp_path}/file" in refused(lambda: corpus_root(real))

    def locked(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "iterdir", locked)
    real = params.load("iemocap-frozen", f"corpus.root={tmp_path}")
    said = refused(lambda: corpus_root(real))
    assert said.startswith("corpus.root: ") and str(tmp_path) in said and "chmod" in said
