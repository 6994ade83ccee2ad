"""IEMOCAP's label files as people save them: read, or listed by name."""

import os

import pytest
from conftest import refused

from foalkit.corpora import iemocap
from foalkit.corpora.manifest import read_manifest
from foalkit.files import entries_below
from foalkit.params.corpora import Iemocap

HEAD = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"
TURNS = [f"Ses01F_impro01_F00{n}" for n in range(3)]
LINES = [f"[{n}.0000 - {n}.9000]\t{turn}\tneu\t[2.5000, 2.5000, 2.5000]" for n, turn in enumerate(TURNS)]
TEXT = "\n".join([HEAD, "", *LINES[:1], "C-E2:\tNeutral;\t()", *LINES[1:], ""])
LABELS = {"reader": "iemocap", "labels": {"neu": "neutral", "sad": "sad"}, "classes": ["neutral", "sad"]}


@pytest.fixture
def release(tmp_path):
    """A session of two dialogues, of which a test may write the second's label file; nothing is in its recordings."""
    for dialogue in ("Ses01F_impro01", "Ses01F_impro02"):
        write(tmp_path / "Session1/dialog/avi/DivX" / f"{dialogue}.avi", b"x")
        for turn in TURNS:
            turn = turn.replace("Ses01F_impro01", dialogue)
            write(tmp_path / "Session1/sentences/wav" / dialogue / f"{turn}.wav", b"x")
    write(label_file(tmp_path, "Ses01F_impro02"), TEXT.replace("impro01", "impro02").encode())
    return tmp_path


def label_file(root, dialogue="Ses01F_impro01", ending=".txt"):
    return root / "Session1/dialog/EmoEvaluation" / f"{dialogue}{ending}"


def write(file, data):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def turns_of(rows):
    return [row["utterance"] for row in rows if row["dialogue"] == "Ses01F_impro01"]


@pytest.mark.parametrize(
    "data",
    {
        "as released": TEXT.encode(),
        "UTF-8 with a mark": TEXT.encode("utf-8-sig"),
        "a mark before the first label": "\n".join(["\ufeff" + LINES[0], *LINES[1:]]).encode(),
        "UTF-16": TEXT.encode("utf-16"),
        "UTF-16 big-endian": b"\xfe\xff" + TEXT.encode("utf-16-be"),
        "UTF-16 without a mark": TEXT.encode("utf-16-le"),
        "Windows' line ends": TEXT.replace("\n", "\r\n").encode(),
        "old Macintosh's": TEXT.replace("\n", "\r").encode(),
        "on one line": " ".join(LINES).encode(),
        "on one line with its head": TEXT.replace("\n", " ").encode(),
        "indented": TEXT.replace("[0", "  [0").encode(),
        "Latin-1": TEXT.replace("Neutral", "Née").encode("latin-1"),
    }.items(),
    ids=lambda case: case[0],
)
def test_labels_are_read_however_the_file_was_saved(release, data):
    write(label_file(release), data[1])
    rows, left_out = iemocap.read(release)
    assert turns_of(rows) == TURNS and left_out == []
    assert [(row["start"], row["end"]) for row in rows[:3]] == [(n, n + 0.9) for n in range(3)]


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "empty (0 bytes)"),
        (b"\n\n", "no label line"),
        (HEAD.encode(), "no label line"),
        (bytes(range(256)) * 9, "no text"),
        (b"\x1f\x8b" + b"zip" * 99, "no label line"),
        (("# " + LINES[0]).encode(), "no label line"),
    ],
)
def test_a_label_file_that_says_nothing_is_listed(release, data, words):
    write(label_file(release), data)
    rows, left_out = iemocap.read(release)
    assert len(rows) == 3 and not turns_of(rows)
    assert [name for name, _ in left_out] == ["Ses01F_impro01.txt"] and words in left_out[0][1]


def test_a_label_file_that_is_none_is_listed(release):
    label_file(release).mkdir()
    label_file(release, "Ses01F_impro03").symlink_to("gone.txt")
    os.mkfifo(label_file(release, "Ses01F_impro04"))
    rows, left_out = iemocap.read(release)
    assert len(rows) == 3
    said = dict(left_out)
    assert "is a folder" in said["Ses01F_impro01.txt"] and "leads nowhere" in said["Ses01F_impro03.txt"]
    assert "no regular file" in said["Ses01F_impro04.txt"] and len(said) == 3


def test_labels_that_cannot_be_read_are_counted_line_by_line(release):
    spoilt = [LINES[0], LINES[1].replace("neu", ""), LINES[2]]
    write(label_file(release), "\n".join(["  > " + spoilt[1], *spoilt[:1], spoilt[2]]).encode())
    rows, left_out = iemocap.read(release)
    assert turns_of(rows) == [TURNS[0], TURNS[2]] and [name for name, _ in left_out] == ["Ses01F_impro01.txt:1"]
    write(label_file(release), " ".join(spoilt).encode())
    rows, left_out = iemocap.read(release)
    assert turns_of(rows) == [TURNS[0], TURNS[2]]
    assert left_out == [("Ses01F_impro01.txt:1", "Ses01F_impro01.txt line 1 holds 3 labels, 2 of them can be read")]


def test_recordings_of_another_ending_or_in_capitals_are_found(release):
    write(label_file(release, ending=".TXT"), TEXT.encode())
    folder = release / "Session1/sentences/wav/Ses01F_impro01"
    (folder / f"{TURNS[0]}.wav").rename(folder / f"{TURNS[0]}.WAV")
    (folder / f"{TURNS[1]}.wav").rename(folder / f"{TURNS[1]}.flac")
    film = release / "Session1/dialog/avi/DivX/Ses01F_impro01.avi"
    film.rename(film.with_suffix(".mp4"))
    rows, left_out = iemocap.read(release)
    assert left_out == [] and turns_of(rows) == TURNS
    assert [row["audio"][-4:] for row in rows[:3]] == [".WAV", "flac", ".wav"]
    assert {row["video"] for row in rows[:3]} == {"Session1/dialog/avi/DivX/Ses01F_impro01.mp4"}


def test_when_no_label_line_can_be_used_the_real_reasons_are_said(release):
    for file in (release / "Session1/dialog/EmoEvaluation").iterdir():
        file.write_text(file.read_text().replace("_impro02_", "_impro09_"))
    said = refused(lambda: read_manifest(Iemocap(root=str(release), **LABELS), release))
    assert "3 are left out" in said and "is not of dialogue Ses01F_impro02 (3 like it)" in said


def test_linked_folders_are_entered_once(tmp_path):
    for place in ("corpus/Actor_01/a.wav", "elsewhere/b.wav"):
        write(tmp_path / place, b"x")
    root = tmp_path / "corpus"
    (root / "Actor_02").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root / "Actor_01")
    (tmp_path / "elsewhere" / "loop").symlink_to(root)
    (root / "dead.wav").symlink_to("gone")
    found = [str(f.relative_to(root)) for f in entries_below(root) if not f.is_dir()]
    assert found == ["Actor_01/a.wav", "Actor_02/b.wav", "dead.wav"]
