"""Folds that are dealt, and a corpus's own split: shares of classes, nobody on two sides, one line for a slip."""

import numpy as np
import pandas as pd
import pytest
from conftest import refused

from foalkit import params
from foalkit.corpora.folds import check_coverage, deal, split, summary, write_folds
from foalkit.params.errors import validate
from foalkit.params.folds import Folds


def folds(**given):
    return validate(Folds, given, "folds")


def with_folds(**given):
    return params.load("demo").model_copy(update={"folds": folds(**given)})


@pytest.fixture
def table():
    """30 speakers of 20 utterances; every third one hardly speaks angrily, the others a third of the time."""
    draw, rows = np.random.default_rng(0), []
    for s in range(30):
        often = [0.05, 0.95] if s % 3 == 0 else [0.35, 0.65]
        rows += [(f"u{s:02}-{k}", f"s{s:02}", draw.choice(["angry", "happy"], p=often)) for k in range(20)]
    table = pd.DataFrame(rows, columns=["utterance", "speaker", "emotion"])
    return table.assign(session=table["speaker"], dialogue=table["utterance"])


def test_dealt_folds_keep_speakers_whole_and_share_out_the_classes(table):
    dealt = deal(table, folds(by="speaker", count=5))
    assert (dealt.groupby("speaker")["fold"].nunique() == 1).all()
    assert sorted(dealt["fold"].unique()) == [f"fold {n}" for n in range(1, 6)]
    share = dealt["emotion"].eq("angry").groupby(dealt["fold"]).mean()
    assert (share - table["emotion"].eq("angry").mean()).abs().max() < 0.05
    # speakers in their order, six to a fold, share them out less evenly than that
    p = with_folds(by="speaker", count=5)
    check_coverage(dealt, p)
    tested = [u for fold in p.fold_numbers("honest") for u in split(dealt, p, fold, "honest").test]
    assert sorted(tested) == sorted(table["utterance"])
    assert list(summary(dealt, p, "honest")["tested"]) == [f"fold {n}" for n in range(1, 6)]


def test_the_seed_decides_and_the_digest_knows_it(table):
    one, same, other = (deal(table, folds(by="speaker", count=5, seed=s))["fold"].tolist() for s in (0, 0, 1))
    assert one == same != other
    digests = {
        params.load("demo", f"folds.groups=null folds.by=speaker {more}").digest("foal-net")
        for more in ("folds.count=5", "folds.count=4", "folds.count=5 folds.seed=1")
    }
    assert len(digests) == 3
    p, q = (params.load("demo", f"folds.groups=null folds.count=5 folds.seed={s}") for s in (0, 1))
    assert p.data_digest != q.data_digest  # the manifest holds the folds
    assert params.load("demo", "folds.seed=3").digest("foal-net") == params.load("demo").digest("foal-net")


def test_those_who_meet_in_a_dialogue_are_in_one_fold(table):
    pairs = table.assign(dialogue=(table["speaker"].str[1:].astype(int) // 2).astype(str) + table["utterance"].str[-1])
    dealt = deal(pairs, folds(by="speaker", count=5))
    assert (dealt.groupby("dialogue")["fold"].nunique() == 1).all()
    assert dealt["fold"].nunique() == 5
    chained = table.assign(dialogue="one")
    said = refused(lambda: deal(chained, folds(by="speaker", count=5)))
    assert "5 folds cannot be dealt from 1 groups" in said and "share a speaker or a dialogue" in said
    few = table[table["speaker"].isin(["s01", "s02", "s03"])].reset_index(drop=True)
    assert "from 3 groups by speaker" in refused(lambda: deal(few, folds(by="speaker", count=5)))


def test_a_class_that_is_rarer_than_the_folds_is_dealt_all_the_same(table):
    rare = table.assign(emotion=["sad", "sad", *table["emotion"][2:]])
    assert deal(rare, folds(by="speaker", count=5))["fold"].nunique() == 5


def test_dealt_folds_are_written_out(table, tmp_path):
    p = with_folds(by="speaker", count=3).model_copy(update={"outputs": str(tmp_path)})
    dealt = deal(table, p.folds)
    write_folds(dealt, p)
    written = pd.read_csv(tmp_path / "folds.csv")
    assert list(written) == ["utterance", "speaker", "emotion", "fold"]
    assert written["fold"].tolist() == dealt["fold"].tolist()
    names = ["=1+1", "+x", "-x", "@x", "-5", "plain"]
    write_folds(dealt.head(6).assign(speaker=names, emotion=["＝1"] * 6), p)
    written = pd.read_csv(tmp_path / "folds.csv")
    assert written["speaker"].tolist() == ["'=1+1", "'+x", "'-x", "'@x", "-5", "plain"]
    assert set(written["emotion"]) == {"'＝1"}
    write_folds(table, params.load("demo").model_copy(update={"outputs": str(tmp_path / "none")}))
    assert not (tmp_path / "none").exists()


@pytest.fixture
def own(table):
    sides = {s: "test" if s < 6 else "validation" if s < 10 else "train" for s in range(30)}
    return table.assign(split=table["speaker"].str[1:].astype(int).map(sides))


def test_a_corpus_s_own_split_is_one_fold(own):
    p = with_folds(by="split")
    check_coverage(own, p)
    assert list(p.fold_numbers("honest")) == [1] and p.never_tested("honest") == []
    sides = split(own, p, 1, "honest")
    for side in ("train", "validation", "test"):
        assert getattr(sides, side) == own.loc[own["split"] == side, "utterance"].tolist()
    published = split(own, p, 1, "published")
    assert published.test == sides.test and sorted(published.train) == sorted(sides.train + sides.validation)
    assert "folds are 1 to 1" in refused(lambda: split(own, p, 2, "honest"))


def test_a_leak_of_the_corpus_s_own_split_is_named_unless_it_is_said(own):
    leaky = own.assign(split=own["split"].mask(own["utterance"] == "u07-3", "test"))
    assert "speaker s07 is on two sides" in refused(lambda: split(leaky, with_folds(by="split"), 1, "honest"))
    said = with_folds(by="split", shared=["speaker"])
    assert "u07-3" in split(leaky, said, 1, "honest").test
    both = leaky.assign(dialogue=leaky["speaker"])
    assert "dialogue s07 is on two sides" in refused(lambda: split(both, said, 1, "honest"))
    none = own[own["split"] != "validation"]
    assert "validation side of the fold is empty" in refused(lambda: split(none, with_folds(by="split"), 1, "honest"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 5, "groups": [["a"], ["b"]]}, ["groups", "`count`", "null"]),
        ({"by": "split", "count": 5}, ["count", "one fold"]),
        ({"by": "session", "groups": [["a"], ["b"]], "shared": ["speaker"]}, ["shared", "by: split"]),
        ({"by": "split", "published": 2}, ["published", "2 of 1"]),
        ({"count": 1}, ["count"]),
        ({"count": 101}, ["count"]),
        *[({"count": odd}, ["folds: count: must be", str(odd)]) for odd in (2.5, True, "x", -1, 0, [2], 1e3)],
        ({"by": "split", "shared": ["dialogue"]}, ["shared.0", "'speaker'"]),
        ({}, ["groups", "missing"]),
    ],
)
def test_folds_that_cannot_be_are_one_line(given, words):
    said = refused(lambda: folds(**given))
    assert all(word in said for word in words), said


def test_a_corpus_without_a_split_cannot_be_split_by_it():
    said = refused(lambda: params.load("demo", "folds.groups=null folds.by=split"))
    assert "folds.by" in said and "corpus.columns.split" in said
