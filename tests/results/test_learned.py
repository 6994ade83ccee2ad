"""Learned, partly or not, from numbers worked out by hand."""

import math

import pytest

from foalkit.results import terms

ROW = {
    "epoch": 2,
    "validation_loss": 0.4,
    "held_avel": 26.0,
    "held_avel_chance": 28.0,
    "held_avel_floor": 25.0,
    "held_retrieval": 0.7,
    "held_retrieval_chance": 0.25,
    "held_mem": 0.9,
    "held_mem_accuracy": 0.6,
    "held_mem_accuracy_drawn": 0.8,
}


def test_a_term_is_judged_at_the_chosen_epoch_by_its_way_from_chance_to_the_floor():
    history = [ROW | {"epoch": 1, "held_avel": 28.0}, ROW]
    found = terms.judged(history, 2, 4, "validation")
    assert found["ce"]["share"] == pytest.approx((math.log(4) - 0.4) / math.log(4))
    assert found["avel"]["share"] == pytest.approx(2 / 3) and found["avel"]["verdict"] == "learned"
    # its loss of 0.9 is above ln 2, but of ten pairs six are told apart
    assert found["mem"]["share"] == pytest.approx(0.2) and found["mem"]["verdict"] == "partly"
    assert terms.judged(history, 1, 4, "validation")["avel"]["verdict"] == "not"
    # the hardest negatives are told, others are not: it knows which clips are often chosen, and no emotion
    known = terms.judged([ROW | {"held_mem_accuracy": 0.8, "held_mem_accuracy_drawn": 0.5}], 2, 4, "validation")["mem"]
    assert known["share"] == 0 and known["verdict"] == "not"


def test_the_mean_over_runs_is_judged_anew():
    runs = [terms.judged([ROW | {"held_avel": v}], 2, 4, "validation") for v in (25.0, 28.5)]
    assert [r["avel"]["verdict"] for r in runs] == ["learned", "not"]
    mean = terms.pooled(runs)
    assert mean["avel"]["value"] == 26.75 and mean["avel"]["share"] == pytest.approx(1.25 / 3)
    assert mean["avel"]["verdict"] == "partly"
    assert terms.pooled([]) == {}
    assert "mem" not in terms.pooled([runs[0], {"ce": runs[1]["ce"]}])


def test_the_sentence_has_the_numbers():
    found = terms.judged([ROW], 2, 4, "validation")
    said = terms.sentence("avel", found["avel"])
    assert said == (
        "L_AVEL is learned: on held-out clips it is 26, where chance gives 28 and everything learned 25 (67% of the "
        "way); the most similar other picture has the emotion of the sound in 70% (chance 25%)."
    )
    assert "60% of the pairs" in terms.sentence("mem", found["mem"]) and "%" in terms.sentence("ce", found["ce"])


def test_a_record_of_before_has_cross_entropy_alone():
    assert terms.judged([{"epoch": 1, "test_loss": 1.0}], 1, 2, "test").keys() == {"ce"}
    assert not terms.cannot_act({}, "avel")
    assert terms.cannot_act({"avel": {"weights": 5, "of_classifier": 0}}, "avel")
