"""check-corpus: its counts against counts of the test's own, what it puts first, and its exit status."""

import csv
from collections import Counter

import pytest
import yaml

from foalkit import ROOT, cli


@pytest.fixture
def corpus(tmp_path):
    """A table of six speakers and 20 utterances each, a third of them angry; sad is rare; some rows are bad."""
    (tmp_path / "wav").mkdir()
    rows = []
    for speaker in range(6):
        for k in range(20):
            label = "sad" if (speaker, k) in {(0, 0), (3, 0), (3, 1)} else ["ang", "hap", "hap"][k % 3]
            rows.append([f"wav/{speaker}-{k}.wav", label, f"s{speaker}"])
            (tmp_path / rows[-1][0]).write_bytes(b"")
    for row in rows[5:8]:
        row[1] = "fru"
    (tmp_path / rows[30][0]).unlink()
    (tmp_path / rows[31][0]).unlink()
    rows[40][2] = ""
    with (tmp_path / "t.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["file", "emo", "who"], *rows])
    given = {
        "base": "ravdess",
        "about": "a test",
        "outputs": str(tmp_path / "out" / "p"),
        "corpus": {
            "reader": "table",
            "table": str(tmp_path / "t.csv"),
            "columns": {"audio": "file", "label": "emo", "speaker": "who"},
            "labels": {"ang": "angry", "hap": "happy", "sad": "sad"},
            "classes": ["angry", "happy", "sad"],
        },
        "folds": {"by": "speaker", "count": 3, "groups": None},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given))
    return tmp_path / "mine.yaml", rows


def lines_of(capsys, *words):
    assert cli.main(["check-corpus", *map(str, words)]) == 0
    return capsys.readouterr().out.splitlines()


def below(lines, heading):
    start = next(n for n, line in enumerate(lines) if line.startswith(heading)) + 1
    return [line.split() for line in lines[start : lines.index("", start) if "" in lines[start:] else None]]


def test_the_counts_are_those_of_the_table(corpus, capsys):
    file, rows = corpus
    lines = lines_of(capsys, file)
    used = [r for n, r in enumerate(rows) if r[1] != "fru" and n not in (30, 31, 40)]
    assert f"used: {len(used)} utterances of 6 speakers; left out: 6" in lines
    assert f"with a sound file: {len(used)}; with a film: 0" in lines
    by_speaker = {row[0]: row[1:] for row in below(lines, "utterances by speaker")[1:]}
    for speaker in {r[2] for r in used}:
        n = Counter(r[1] for r in used if r[2] == speaker)
        assert by_speaker[speaker] == [str(x) for x in (n["ang"], n["hap"], n["sad"], n.total())]
    by_fold = {" ".join(row[:-4]): [int(x) for x in row[-4:]] for row in below(lines, "utterances by fold")[1:]}
    n = Counter(r[1] for r in used)
    assert by_fold["all"] == [n["ang"], n["hap"], n["sad"], n.total()]
    assert [sum(x) for x in zip(*(by_fold[f"fold {k}"] for k in (1, 2, 3)), strict=True)] == by_fold["all"]
    sides = [line for line in lines if line.startswith("  fold 1: train ")]
    assert len(sides) == 2 and sides[0].split()[3] != "0"


def test_what_is_left_out_has_its_reason_count_and_examples(corpus, capsys):
    left_out = "\n".join(lines_of(capsys, corpus[0])).split("left out\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in left_out] == ["3", "2", "1"]
    assert "label fru is not among the classes: wav_0-5, wav_0-6, wav_0-7" in left_out[0]
    assert "its audio … is missing: t.csv line 32, t.csv line 33" in left_out[1]
    assert "has no speaker: t.csv line 42" in left_out[2]


def test_three_things_the_gravest_first(corpus, capsys):
    file, _ = corpus
    things = below(lines_of(capsys, file), "three things to look at")
    assert [t[0] for t in things] == ["1.", "2.", "3."]
    assert "features.face needs video files, and 114 of 114" in " ".join(things[0])
    sound = ["features.face=null", "features.video=null", "ablation.honest=[audio]", "ablation.published=null"]
    things = [" ".join(t) for t in below(lines_of(capsys, file, *sound), "three things to look at")]
    assert "utterances of sad" in things[0] and "fewer than 10" in things[0]
    assert "labels that corpus.labels does not map: fru 3" in things[1]
    assert "3 left out for another reason" in things[2]


def test_a_corpus_without_flaws_still_names_three_utterances(tmp_path, capsys):
    (tmp_path / "x").mkdir()
    for speaker in range(10):
        for k in range(40):
            (tmp_path / "x" / f"{speaker}_{'ab'[k % 2]}_{k}.wav").write_bytes(b"")
    given = ["corpus.root=" + str(tmp_path / "x"), r"corpus.pattern='(?P<speaker>\d)_(?P<label>[ab])_\d+'"]
    given += ["corpus.labels=null", "corpus.labels.a=A", "corpus.labels.b=B", "corpus.classes=[A,B]", "folds.count=5"]
    things = below(lines_of(capsys, "emo-db", *given), "three things to look at")
    assert len(things) == 3 and all(t[1] == "play" and t[-1].endswith(".wav") for t in things)


def test_what_cannot_be_read_is_one_line_and_status_1(corpus, capsys):
    assert cli.main(["check-corpus", str(corpus[0]), "corpus.table=gone.csv"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert cli.main(["check-corpus", str(corpus[0]), "folds.count=7"]) == 1
    assert "7 folds cannot be dealt from 6 groups by speaker" in capsys.readouterr().err


def test_the_docs_params_are_params(tmp_path):
    text = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")
    blocks = text.split("```yaml\n")[1:]
    assert len(blocks) == 3
    table, row, names = (yaml.safe_load(block.split("```")[0]) for block in blocks)
    votes = table["corpus"] | {"votes": ";"}  # the row trains on their shares
    for n, given in enumerate([table, names, row | {"corpus": votes, "ablation": {"honest": ["foal-net-soft"]}}]):
        given |= {"base": "ravdess", "about": "x"}
        given["folds"] = {"by": "speaker", "count": 5, "groups": None}
        given["corpus"] = {"labels": {"a": "A", "b": "B"}, "classes": ["A", "B"]} | given["corpus"]
        (tmp_path / f"{n}.yaml").write_text(yaml.safe_dump(given))
        from foalkit import params

        loaded = params.load(tmp_path / f"{n}.yaml")
        assert loaded.corpus.root == "$MY_DATA" and loaded.soft == (n == 2)
