"""The table reader and the names reader: generated tables of every kind, and each user error in one line."""

import csv
import io
import signal

import numpy as np
import pandas as pd
import pytest
from conftest import refused

from foalkit.corpora import watched
from foalkit.corpora.manifest import read_manifest
from foalkit.params.corpora import Iemocap, Names, Table
from foalkit.params.errors import validate

LABELS = {"ang": "angry", "hap": "happy"}
COLUMNS = {"audio": "file", "label": "emo", "speaker": "who"}
HEAD = ["file", "emo", "who"]
ROWS = [["a.wav", "ang", "007"], ["b.wav", "hap", "008"], ["c.wav", "hap", "007"]]


def corpus(kind=Table, **changes):
    given = {"reader": kind.__name__.lower(), "labels": LABELS, "classes": ["angry", "happy"]}
    given |= {"table": "t.csv", "columns": COLUMNS} if kind is Table else {}
    return validate(kind, {**given, **changes}, "corpus")


@pytest.fixture
def root(tmp_path):
    for name in "abcdef":
        (tmp_path / f"{name}.wav").write_bytes(b"RIFF")
    return tmp_path


def write(root, rows, head=HEAD, separator=",", encoding="utf-8", name="t.csv", mark="", end="\n"):
    lines = io.StringIO(newline="")
    csv.writer(lines, delimiter=separator, lineterminator=end).writerows([head, *rows])
    (root / name).write_bytes((mark + lines.getvalue()).encode(encoding))


def read(root, kind=Table, **changes):
    table, left_out = read_manifest(corpus(kind, root=str(root), **changes), root)
    return table, dict(zip(left_out["utterance"], left_out["reason"], strict=True))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"separator": ";"},
        {"separator": "\t"},
        {"separator": "\t", "name": "t.tsv"},
        {"separator": "|"},
        {"mark": "\ufeff"},
        {"encoding": "utf-16"},
        {"encoding": "utf-16", "separator": "\t", "end": "\r\n"},
        {"end": "\r\n"},
        {"end": "\r"},
    ],
    ids=str,
)
def test_a_table_of_any_separator_and_mark_is_the_same_table(root, how):
    write(root, ROWS, **how)
    table, left_out = read(root, table=how.get("name", "t.csv"))
    assert not left_out
    found = table[["audio", "label", "speaker", "emotion"]].to_numpy().tolist()
    assert found == [[*row, LABELS[row[1]]] for row in ROWS]  # 007 is text
    assert list(table["utterance"]) == ["a", "b", "c"] and list(table["session"]) == ["007", "008", "007"]


def test_quoted_separators_and_line_ends_stay_in_their_cell(root):
    rows = [[*row, f'he said "no",\nthen; left{n}'] for n, row in enumerate(ROWS)]
    write(root, rows, [*HEAD, "a, long; column"])
    table, left_out = read(root, columns=COLUMNS | {"transcript": "a, long; column"})
    assert not left_out and list(table["transcript"]) == [f'he said "no",\\nthen; left{n}' for n in range(3)]


def test_parquet_is_the_same_table_with_numbers_as_text(root):
    frame = pd.DataFrame(ROWS, columns=HEAD).assign(who=[7.0, 8.0, float("nan")], from_=[0.0, 1.5, 2.0])
    frame.to_parquet(root / "t.parquet")
    table, left_out = read(root, table="t.parquet")
    assert list(table["speaker"]) == ["7", "8"] and left_out == {"t.parquet row 3": "t.parquet row 3: has no speaker"}


def test_each_bad_row_costs_itself_and_says_why(root):
    (root / "folder.wav").mkdir()
    bad = {
        3: (["gone.wav", "ang", "1"], "its audio 'gone.wav' is missing"),
        4: (["../t.csv", "ang", "1"], "its audio '../t.csv' lies outside corpus.root"),
        5: (["/etc/hostname", "ang", "1"], "its audio '/etc/hostname' lies outside corpus.root"),
        6: (["folder.wav", "ang", "1"], "its audio 'folder.wav' is no file"),
        7: (["b.wav", "", "1"], "has no label"),
        8: (["b.wav", "ang", "nan"], "has no speaker"),
        9: (["b.wav", "ang"], "has 2 cells, the first line has 3"),
        10: (["b.wav", "ang", "1", "2"], "has 4 cells, the first line has 3"),
        11: (["", "ang", "1"], "has neither a name nor a file"),
    }
    write(root, [ROWS[0], *(row for row, _ in bad.values()), [*ROWS[1], "", " "], ["c.wav", "fru", "1"], ROWS[0]])
    table, left_out = read(root)
    assert list(table["utterance"]) == ["a", "b"]
    for line, (_, why) in bad.items():
        assert left_out.pop(f"t.csv line {line}").endswith(why), line
    assert left_out.pop("c") == "label fru is not among the classes"
    assert left_out.pop("a") == "t.csv line 14: stands twice, in t.csv line 2 too, which is used"
    assert not left_out


def test_paths_of_windows_and_absolute_paths_in_the_root_are_found(root):
    (root / "wav").mkdir()
    (root / "wav" / "x.wav").write_bytes(b"RIFF")
    write(root, [["wav\\x.wav", "ang", "1"], [str(root / "b.wav"), "hap", "2"]])
    table, _ = read(root)
    assert list(table["audio"]) == ["b.wav", "wav/x.wav"] and list(table["utterance"]) == ["b", "wav_x"]


@pytest.mark.parametrize(
    ("data", "changes", "words"),
    [
        (None, {}, ["t.csv", "no such table"]),
        (b"", {}, ["t.csv", "empty"]),
        (b"\n \n", {}, ["t.csv", "empty"]),
        (b"file,emo,who\na.wav,\xe4ng,1\n", {}, ["line 2", "UTF-8", "corpus.encoding=cp1252"]),
        ("file,emo,who".encode("utf-16-le"), {}, ["utf-16-le"]),
        (b'file,emo,who\na.wav,"ang,1\nb.wav,hap,2\n', {}, ["quotation mark"]),
        (b"file,emotion,who\na.wav,ang,1\n", {}, ["corpus.columns.label", "'emo'", "'emotion'"]),
        (b"file,emo,emo,who\na.wav,ang,ang,1\n", {}, ["2 columns", "'emo'"]),
        (b"file,emo,who\na.wav,ang,1\n", {"columns": COLUMNS | {"video": "{file}{x}"}}, ["columns.video", "'x'"]),
        (b"file,emo,who\na.wav,fru,1\nb.wav,fru,2", {}, ["labels found: fru 2"]),
        (b"file,emo,who\nz.wav,ang,1\n", {}, ["'z.wav' is missing"]),
        (b"PK\x03\x04", {"table": "t.xlsx"}, ["export it as CSV"]),
        (b"no parquet", {"table": "t.parquet"}, ["t.parquet", "Parquet"]),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(root, data, changes, words):
    if data is not None:
        (root / changes.get("table", "t.csv")).write_bytes(data)
    said = refused(lambda: read(root, **changes))
    assert all(word in said for word in words), said


def test_a_table_in_cp1252_is_read_when_it_is_said(root):
    (root / "t.csv").write_bytes("file;emo;who\na.wav;ang;Jürgen\n".encode("cp1252"))
    assert list(read(root, encoding="cp1252")[0]["speaker"]) == ["Jürgen"]


def test_segments_of_long_recordings(root):
    columns = COLUMNS | {"utterance": "id", "start": "from", "end": "to", "crop": "box"}
    head = [*HEAD, "id", "from", "to", "box"]
    times = [("0", "2.5", ""), ("2.5", "4", "10 20 30 40"), ("4", "", "(1, 2, 3, 4)")]
    bad = [
        ("-1", "2", ""),
        ("1,5", "2", ""),
        ("2", "2", ""),
        ("inf", "", ""),
        ("0", "1", "1 2 3"),
        ("0", "1", "1 2 -3 4"),
    ]
    rows = [["a.wav", "ang", "1", f"u{n}", *time] for n, time in enumerate([*times, *bad])]
    write(root, rows, head)
    table, left_out = read(root, columns=columns)
    assert table[["start", "audio_from"]].to_numpy().tolist() == [[0, 0], [2.5, 2.5], [4, 4]]
    assert list(table["end"])[:2] == [2.5, 4] and pd.isna(table["end"].iloc[2])
    assert list(table["crop"]) == [None, (10, 20, 30, 40), (1, 2, 3, 4)]
    assert sorted(left_out) == [f"u{n}" for n in range(3, 9)]
    assert "audio_from" not in read(root, columns=columns, cut="video")[0]


def test_the_label_that_most_raters_gave_wins_and_a_tie_is_left_out(root):
    write(
        root, [["a.wav", "ang;hap; ang", "1"], ["b.wav", "hap;ang", "1"], ["c.wav", ";hap;", "1"], ["d.wav", ";", "1"]]
    )
    table, left_out = read(root, votes=";")
    assert dict(zip(table["utterance"], table["label"], strict=True)) == {"a": "ang", "c": "hap"}
    assert left_out == {
        "t.csv line 3": "t.csv line 3: its raters do not agree: ang 1, hap 1",
        "t.csv line 5": "t.csv line 5: has no label",
    }
    write(root, [["a.wav", "ang", "hap", "hap", "1"]], ["file", "r1", "r2", "r3", "who"])
    columns = {"audio": "file", "raters": ["r1", "r2", "r3"], "speaker": "who"}
    assert list(read(root, columns=columns)[0]["emotion"]) == ["happy"]
    pd.DataFrame({"file": ["a.wav"], "emo": [["hap", "ang", "hap"]], "who": [3]}).to_parquet(root / "t.parquet")
    assert list(read(root, table="t.parquet", votes=":")[0]["label"]) == ["hap"]


def test_votes_may_stand_as_counts_or_shares_in_a_column_for_each_label(root):
    head = ["file", "ang", "hap", "exc", "who"]
    rows = [
        ["a.wav", "3", "1", "", "1"],
        ["b.wav", "0.2", "0.5", "0.3", "1"],
        ["c.wav", "0", "2", "2", "1"],
        ["d.wav", "", "0", "", "1"],
        ["e.wav", "1", "two", "0", "1"],
        ["f.wav", "-1", "2", "0", "1"],
        ["f.wav", "1e308", "1e308", "0", "1"],
        ["f.wav", "2", "inf", "0", "1"],
    ]
    write(root, rows, head)
    columns = {"audio": "file", "counts": ["ang", "hap", "exc"], "speaker": "who"}
    given = corpus(root=str(root), columns=columns, labels={**LABELS, "exc": "happy"})
    table, left_out = read_manifest(given, root, shares=True)
    assert dict(zip(table["utterance"], table["label"], strict=True)) == {"a": "ang", "b": "hap"}
    np.testing.assert_allclose(table[["share_angry", "share_happy"]], [[0.75, 0.25], [0.2, 0.8]])
    assert dict(zip(left_out["utterance"], left_out["reason"], strict=True)) == {
        "t.csv line 4": "t.csv line 4: its raters do not agree: exc 2, hap 2",
        "t.csv line 5": "t.csv line 5: has no label",
        "t.csv line 6": "t.csv line 6: its votes for hap 'two' is no number",
        "t.csv line 7": "t.csv line 7: its votes for ang '-1' is no number",
        "t.csv line 8": "t.csv line 8: its votes for ang '1e308' is more than 1000000",
        "t.csv line 9": "t.csv line 9: its votes for hap 'inf' is no number",
    }
    said = refused(lambda: read(root, columns={**columns, "counts": ["ang", "happ"]}))
    assert "corpus.columns.counts" in said and "'happ'" in said and "'hap'" in said


def test_a_film_gives_the_sound_only_where_no_column_does(root):
    (root / "a.mp4").write_bytes(b"")
    write(root, [["a.wav", "a.mp4", "ang", "1"], ["", "a.mp4", "hap", "2"]], ["file", "film", "emo", "who"])
    columns = COLUMNS | {"video": "film", "utterance": "{who}-{emo}"}
    assert read(root, columns=columns)[0][["audio", "video"]].to_numpy().tolist() == [["a.wav", "a.mp4"], ["", "a.mp4"]]
    only = {k: v for k, v in columns.items() if k != "audio"}
    assert set(read(root, columns=only)[0]["audio"]) == {"a.mp4"}
    neither = {k: v for k, v in only.items() if k != "video"}  # features made elsewhere need no media
    assert read(root, columns=neither)[0][["audio", "video"]].to_numpy().tolist() == [["", ""], ["", ""]]


def test_a_label_file_that_is_no_table_is_read_by_its_lines(root):
    (root / "labels").write_text("Evaluation of Jan\na.wav; A; 3.5\n  rater 1: H\nb.wav; H; 2.1\n")
    rows = r"(?P<file>\w+\.wav); (?P<emo>[AH]);.*"
    columns = COLUMNS | {"speaker": "{file}"}
    table, left_out = read(root, table="labels", rows=rows, columns=columns, labels={"A": "angry", "H": "happy"})
    assert list(table["emotion"]) == ["angry", "happy"] and not left_out
    assert "matches none" in refused(lambda: read(root, table="labels", rows="(?P<file>x)", columns=columns))


def test_cells_and_columns_without_an_end_are_short_lines(root):
    long = "x" * 100_000
    odd = [[long, "ang", "1"], ["d.wav", long, "1"], ["e.wav", "ang", long], ["d/" * 150 + "x", "ang", "1"]]
    write(root, [[*row, "0"] for row in [*ROWS, *odd]] + [["f.wav", "ang", "1", "1e300"]], [*HEAD, "from"])
    table, left_out = read(root, columns=COLUMNS | {"utterance": "file", "start": "from"})
    assert len(table) == 3 and len(left_out) == 5
    assert max(map(len, [*left_out, *left_out.values()])) < 400
    write(root, [["x"] * 50_000], [f"column {n}" for n in range(50_000)])
    assert len(refused(lambda: read(root))) < 1500


HANGING = [r"(\w+)+", r"(a|aa)*", r"(\w*)*", r"(?:\w?\w?){40}", r"(\w+\w*)*", r"(?=(aa?)+-)x"]


@pytest.mark.parametrize("part", HANGING)
def test_an_expression_that_runs_for_ever_is_stopped_and_named(root, monkeypatch, part):
    monkeypatch.setattr(watched, "TICK", 0.05)
    before = signal.getsignal(signal.SIGVTALRM)
    name = "a" * 60 + "!"
    touch(root, f"{name}.wav")
    said = refused(lambda: read(root, Names, pattern=f"(?P<speaker>.)(?P<label>.){part}"))
    assert said.startswith("corpus.pattern: ") and name in said and part in said.replace("\\\\", "\\")
    (root / "labels").write_text(f"x\n{name}\n")
    rows = f"(?P<file>.)(?P<emo>.){part}"
    said = refused(lambda: read(root, table="labels", rows=rows, columns=COLUMNS | {"speaker": "{file}"}))
    assert said.startswith("corpus.rows: ") and name in said
    assert signal.getsignal(signal.SIGVTALRM) == before and signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


# ---- names -----------------------------------------------------------------------------------------------


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


PATTERN = r"(?P<speaker>\d+)_(?P<sentence>[A-Z]+)_(?P<label>ang|hap|fru)_.*"


def test_names_say_speaker_and_label_and_pair_sound_with_film(tmp_path):
    touch(tmp_path, "wav/0001_IEO_ang_XX.wav", "mp3/0001_IEO_ang_XX.mp3", "film/0001_IEO_ang_XX.FLV")
    touch(tmp_path, "film/0002_DFA_hap_LO.mp4", "wav/0003_TIE_fru_X.WAV", "notes.txt", ".trash/0001_IEO_ang_YY.wav")
    touch(tmp_path, "wav/odd.wav")
    table, left_out = read(tmp_path, Names, pattern=PATTERN)
    assert table[["utterance", "speaker", "emotion", "audio", "video"]].to_numpy().tolist() == [
        ["0001_IEO_ang_XX", "0001", "angry", "wav/0001_IEO_ang_XX.wav", "film/0001_IEO_ang_XX.FLV"],
        ["0002_DFA_hap_LO", "0002", "happy", "film/0002_DFA_hap_LO.mp4", "film/0002_DFA_hap_LO.mp4"],
    ]
    assert left_out == {
        "0003_TIE_fru_X": "label fru is not among the classes",
        "mp3/0001_IEO_ang_XX.mp3": "a second copy; wav/0001_IEO_ang_XX.wav is used",
        "wav/odd.wav": "its name does not match corpus.pattern",
    }
    table, left_out = read(tmp_path, Names, pattern=PATTERN, audio="mp3/*.mp3", video="nothing/*")
    assert list(table["audio"]) == ["mp3/0001_IEO_ang_XX.mp3"] and list(table["video"]) == [""] and not left_out


def test_a_pattern_with_slashes_reads_folders_too(tmp_path):
    touch(tmp_path, "AudioData/DC/ang01.wav", "AudioData/JE/ang01.wav", "AudioData/JE/hap02.wav", "Films/JE/hap02.avi")
    (tmp_path / "AudioData" / "loop").symlink_to(tmp_path)
    table, _ = read(tmp_path, Names, pattern=r"(?P<speaker>[A-Z]+)/(?P<label>[a-z]+)\d+")
    assert list(table["utterance"]) == ["DC_ang01", "JE_ang01", "JE_hap02"]
    assert list(table["video"]) == ["", "", "Films/JE/hap02.avi"] and list(table["speaker"]) == ["DC", "JE", "JE"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"(?P<speaker>\d+)_(?P<lable>\w+)", ["pattern: ", "(?P<label>", "only speaker, lable"]),
        (r"(?P<label>\w+)", ["(?P<speaker>", "5 to 17 points"]),
        (r"(?P<speaker>\d+", ["pattern: ", "no regular expression"]),
        (r"(?P<speaker>x)(?P<label>y)", ["matches none of 1 names", "'0001_IEO_ang_XX.wav'"]),
    ],
)
def test_a_pattern_that_says_too_little_is_one_line(tmp_path, pattern, words):
    touch(tmp_path, "0001_IEO_ang_XX.wav")
    said = refused(lambda: read(tmp_path, Names, pattern=pattern))
    assert all(word in said for word in words), said
    assert "no file of sound or film" in refused(
        lambda: read(tmp_path, Names, pattern=PATTERN, audio="x/*", video="x/*")
    )


# ---- params ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": {"audio": "a", "label": "l"}}, ["columns.speaker", "5 to 17 points"]),
        ({"columns": {"speaker": "s"}}, ["columns.label", "raters"]),
        ({"columns": COLUMNS | {"counts": ["s"]}}, ["columns.label", "counts"]),
        ({"columns": COLUMNS | {"start": "s"}}, ["columns.utterance", "start"]),
        ({"columns": COLUMNS | {"vidoe": "s"}}, ["columns.vidoe", "'video'"]),
        ({"table": None}, ["table", "tables"]),
        ({"tables": {"train": "x.csv"}}, ["table", "tables"]),
        ({"table": None, "tables": {"train": "x.csv"}, "folders": {"trian": "x"}}, ["folders.trian", "'train'"]),
        ({"encoding": "utf-9"}, ["encoding", "'utf-9'"]),
        ({"rows": "("}, ["rows", "regular expression"]),
    ],
)
def test_what_is_wrong_in_the_params_is_one_line(tmp_path, changes, words):
    said = refused(lambda: corpus(root=str(tmp_path), **changes))
    assert all(word in said for word in words), said


def test_the_root_is_the_tables_folder_unless_it_is_said():
    assert corpus(table="$DATA/x/t.csv").root == "$DATA/x" and corpus(root="r").root == "r"
    assert not Iemocap.has_split and corpus(columns=COLUMNS | {"split": "s"}).has_split
