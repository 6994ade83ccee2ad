"""Folds: every utterance tested once, nobody on two sides, and each planted leak caught by name."""

import pandas as pd
import pytest
from conftest import refused

from foalkit import ROOT, UserError, params
from foalkit.corpora.folds import Split, check_coverage, check_split, random_parts, split, summary, write_random_parts


@pytest.fixture(scope="module")
def p():
    return params.load("demo")


@pytest.fixture
def table():
    """Five sessions of two speakers, two dialogues each, three turns a speaker and dialogue."""
    rows = [
        (f"Ses0{s}{g}_d{d}_{k}", f"Ses0{s}{g}", f"Ses0{s}", f"Ses0{s}_d{d}")
        for s in range(1, 6)
        for g in "FM"
        for d in range(2)
        for k in range(3)
    ]
    return pd.DataFrame(rows, columns=["utterance", "speaker", "session", "dialogue"])


def grouped(p, groups, by="session"):
    return p.model_copy(update={"folds": p.folds.model_copy(update={"groups": groups, "by": by})})


def test_honest_folds_test_all_once_and_validate_on_the_next_session(table, p):
    tested = []
    for fold in range(1, 6):
        sides = split(table, p, fold, "honest")
        session = table.set_index("utterance")["session"]
        following = fold % 5 + 1
        assert {session[u] for u in sides.test} == {f"Ses0{fold}"}
        assert {session[u] for u in sides.validation} == {f"Ses0{following}"}
        assert {session[u] for u in sides.train} == {f"Ses0{k}" for k in range(1, 6)} - {
            f"Ses0{fold}",
            f"Ses0{following}",
        }
        assert sorted(sides.train + sides.validation + sides.test) == sorted(table["utterance"])
        tested += sides.test
    assert sorted(tested) == sorted(table["utterance"])


def test_published_folds_train_on_all_the_others(table, p):
    for fold in range(1, 6):
        sides = split(table, p, fold, "published")
        assert sides.validation == [] and sides.groups["validation"] == []
        assert set(sides.train) == set(table["utterance"]) - set(sides.test)
        assert set(sides.test) == set(table.loc[table["session"] == f"Ses0{fold}", "utterance"])


@pytest.mark.parametrize("protocol", ["honest", "published"])
def test_actor_folds_share_no_actor(protocol):
    ravdess = params.load(ROOT / "params" / "ravdess-speech.yaml")
    actors = [f"Actor_{k:02}" for k in range(1, 25)]
    table = pd.DataFrame(
        [(f"{a}-{k}", a, a, f"{a}-{k}") for a in actors for k in range(4)],
        columns=["utterance", "speaker", "session", "dialogue"],
    )
    check_coverage(table, ravdess)
    tested = []
    for fold in range(1, 7):
        sides = split(table, ravdess, fold, protocol)
        held = [{u.split("-")[0] for u in side} for side in (sides.train, sides.validation, sides.test)]
        assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]
        assert len(set.union(*held)) == 24 and len(held[2]) == 4
        tested += sides.test
    assert sorted(tested) == sorted(table["utterance"])


def test_cfn_srs_published_folds_never_test_four_actors():
    p = params.load("ravdess-cfnsr")
    actors = [f"Actor_{k:02}" for k in range(1, 25)]
    table = pd.DataFrame({c: actors for c in ("utterance", "speaker", "session", "dialogue")})
    check_coverage(table, p)  # the honest folds test all
    tested = [u for fold in range(1, 6) for u in split(table, p, fold, "published").test]
    assert tested == actors[:20] and p.never_tested("published") == actors[20:]
    assert set(actors[20:]) <= set(split(table, p, 5, "published").train)
    assert p.never_tested("honest") == []
    assert "folds are 1 to 5 (published)" in refused(lambda: split(table, p, 6, "published"))
    assert len(summary(table, p, "published")) == 5


def test_planted_leaks_are_named(table, p):
    moved = table["utterance"] == "Ses01F_d0_0"
    with pytest.raises(UserError, match=r"speaker Ses03F is on two sides of the split: (test|train)"):
        split(table.assign(speaker=table["speaker"].mask(moved, "Ses03F")), p, 1, "honest")
    with pytest.raises(UserError, match="dialogue Ses04_d1 is on two sides"):
        split(table.assign(dialogue=table["dialogue"].mask(moved, "Ses04_d1")), p, 1, "honest")
    # validation counts as a side
    with pytest.raises(UserError, match=r"speaker Ses02M .* test and validation"):
        split(table.assign(speaker=table["speaker"].mask(moved, "Ses02M")), p, 1, "honest")


def test_an_utterance_on_two_sides_is_named(table):
    first, second, third = table["utterance"].iloc[[0, 20, 40]]
    with pytest.raises(UserError, match=f"utterance {first} is on two sides"):
        check_split(table, Split([first, second], [third], [first], {}))


def test_a_group_held_out_twice_is_named(table, p):
    doubled = grouped(p, [["Ses01"], ["Ses01"], ["Ses02"], ["Ses03", "Ses04", "Ses05"]])
    with pytest.raises(UserError, match="Ses01 is tested twice"):
        check_coverage(table, doubled)
    with pytest.raises(UserError, match="utterance Ses01F_d0_0 is on two sides"):
        split(table, doubled, 1, "honest")


def test_a_forgotten_group_is_named(table, p):
    check_coverage(table, p)
    with pytest.raises(UserError, match=r"Ses04, Ses05 would never be tested"):
        check_coverage(table, grouped(p, [["Ses01"], ["Ses02"], ["Ses03"]]))


def test_a_group_that_is_not_in_the_corpus_is_named(table, p):
    with pytest.raises(UserError, match=r"test side of the fold is empty .*Ses09"):
        split(table, grouped(p, [["Ses09"], ["Ses01"], ["Ses02"]]), 1, "honest")
    with pytest.raises(UserError, match=r"validation side of the fold is empty .*Ses09"):
        split(table, grouped(p, [["Ses01"], ["Ses09"], ["Ses02"]]), 1, "honest")
    with pytest.raises(UserError, match="training side of the fold is empty"):
        split(table, grouped(p, [["Ses01"], ["Ses02"]]), 1, "honest")


@pytest.mark.parametrize("fold", [0, 6, -1])
def test_folds_that_do_not_exist_are_refused(table, p, fold):
    with pytest.raises(UserError, match=f"fold {fold} does not exist; folds are 1 to 5"):
        split(table, p, fold, "honest")


def test_the_digest_says_which_split_it_is(table, p):
    digests = {(fold, how): split(table, p, fold, how).digest for fold in (1, 2) for how in ("honest", "published")}
    assert len(set(digests.values())) == 4
    assert split(table.copy(), p, 1, "honest").digest == digests[1, "honest"]
    smaller = table.drop(index=30)
    assert split(smaller, p, 1, "honest").digest != digests[1, "honest"]


# ---- random-split: speakers on both sides, on purpose ------------------------------------------------


@pytest.fixture
def uneven(table):
    """60 turns, in a scattered order, of four emotions: 31, 17, 7 and 5."""
    emotion = ["happy"] * 31 + ["neutral"] * 17 + ["sad"] * 7 + ["angry"] * 5
    return table.assign(emotion=emotion).sample(frac=1, random_state=3).reset_index(drop=True)


def of_sides(table, p, fold):
    sides = split(table, p, fold, "random-split")
    return sides, {side: set(getattr(sides, side)) for side in ("train", "validation", "test")}


def test_random_split_tests_all_once_and_validates_on_the_next_part(uneven, p):
    found = [of_sides(uneven, p, fold) for fold in p.fold_numbers("random-split")]
    assert len(found) == len(p.folds.groups) == 5
    tested = [u for _, sides in found for u in sides["test"]]
    assert sorted(tested) == sorted(uneven["utterance"])
    for k, (split_, sides) in enumerate(found):
        assert sum(map(len, sides.values())) == len(set.union(*sides.values())) == 60
        assert sides["validation"] == found[(k + 1) % 5][1]["test"]
        assert split_.groups["test"] == [f"part {k + 1}"] and len(split_.groups["train"]) == 3


def test_random_split_puts_every_speaker_and_emotion_on_all_sides(uneven, p):
    known = uneven.set_index("utterance")
    for fold in range(1, 6):
        _, sides = of_sides(uneven, p, fold)
        for emotion, count in {"happy": 31, "neutral": 17, "sad": 7, "angry": 5}.items():
            of_test = sum(known.loc[u, "emotion"] == emotion for u in sides["test"])
            assert count // 5 <= of_test <= -(-count // 5)
        assert len(sides["test"]) == 12
        seen = {known.loc[u, "speaker"] for u in sides["train"]}
        assert {known.loc[u, "speaker"] for u in sides["test"]} <= seen
        assert len(seen) == 10  # 36 of 60 turns train: each speaker's six are hardly ever all held out


def test_random_split_is_random_but_the_same_everywhere(uneven, p):
    digests = [split(uneven, p, fold, "random-split").digest for fold in range(1, 6)]
    assert len(set(digests)) == 5
    again = uneven.sort_values("utterance").reset_index(drop=True)
    for fold in range(1, 6):
        assert of_sides(again, p, fold)[1] == of_sides(uneven, p, fold)[1]
    # dealt by chance: in their order, each part would hold two or three of a session's twelve
    of_session = pd.crosstab(uneven["session"], random_parts(uneven, 5)).to_numpy()
    assert of_session.max() >= 4 and of_session.min() <= 1


def test_random_split_written_out_is_the_split(uneven, p, tmp_path):
    moved = p.model_copy(update={"outputs": str(tmp_path)})
    written = pd.read_csv(write_random_parts(uneven, moved))
    assert list(written) == ["utterance", "speaker", "emotion", "part"]
    for fold in range(1, 6):
        assert set(written.loc[written["part"] == f"part {fold}", "utterance"]) == of_sides(uneven, p, fold)[1]["test"]


def test_an_utterance_on_two_sides_is_a_leak_under_random_split_too(uneven, p):
    doubled = pd.concat([uneven, uneven.head(7)], ignore_index=True)
    said = refused(lambda: [split(doubled, p, fold, "random-split") for fold in range(1, 6)])
    assert "is on two sides of the split" in said and said.split()[1] in set(uneven["utterance"].head(7))
    sides = split(uneven, p, 1, "random-split")
    assert "speaker Ses01F is on two sides" in refused(lambda: check_split(uneven, sides))  # as the others see it
