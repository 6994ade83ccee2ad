"""Scores against counting by hand, scikit-learn and simulation."""

from itertools import product
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from foalkit.results import scoring
from foalkit.results.tables import with_interval


def naive_wa(true, predicted):
    return sum(t == p for t, p in zip(true, predicted, strict=True)) / len(true)


def naive_ua(true, predicted):
    recalls = []
    for c in set(true):
        of_class = [p for t, p in zip(true, predicted, strict=True) if t == c]
        recalls.append(sum(p == c for p in of_class) / len(of_class))
    return sum(recalls) / len(recalls)


PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
@settings(max_examples=200, deadline=None)
def test_both_accuracies_are_what_counting_gives(pairs):
    true, predicted = (np.array(x) for x in zip(*pairs, strict=True))
    assert scoring.wa(true, predicted) == pytest.approx(naive_wa(true.tolist(), predicted.tolist()))
    assert scoring.ua(true, predicted) == pytest.approx(naive_ua(true.tolist(), predicted.tolist()))


def test_scikit_learn_agrees_on_many_classes():
    rng = np.random.default_rng(0)
    true = rng.choice(4, 500, p=[0.6, 0.2, 0.15, 0.05])
    predicted = np.where(rng.random(500) < 0.6, true, rng.integers(0, 4, 500))
    assert scoring.wa(true, predicted) == accuracy_score(true, predicted)
    assert scoring.ua(true, predicted) == pytest.approx(balanced_accuracy_score(true, predicted))


def test_wa_and_ua_are_not_exchanged():
    true, predicted = np.array([0] * 90 + [1] * 10), np.zeros(100, int)  # the majority class, always
    assert (scoring.wa(true, predicted), scoring.ua(true, predicted)) == (0.9, 0.5)


def test_a_class_that_never_occurs_is_no_part_of_ua():
    assert scoring.ua(np.array([0, 0, 2, 2]), np.array([0, 1, 2, 3])) == 0.5


def test_confusion_has_the_truth_in_rows():
    table = scoring.confusion(np.array([0, 0, 0, 2]), np.array([0, 1, 1, 2]), ["a", "b", "c"])
    assert table.to_numpy().tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    assert table.index.name == "true" and table.loc["a", "b"] == 2


# ---- intervals -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speakers_differ():
    """Ten speakers whose recall runs from 30 % to 98 %: (true, predicted, speakers)."""
    rng = np.random.default_rng(1)
    speakers = np.repeat([f"s{k}" for k in range(10)], 60)
    skill = np.repeat(np.linspace(0.3, 0.98, 10), 60)
    true = rng.integers(0, 4, 600)
    return true, np.where(rng.random(600) < skill, true, (true + 1) % 4), speakers


@pytest.mark.parametrize("metric", [scoring.wa, scoring.ua])
def test_the_interval_holds_the_value_and_is_always_the_same(speakers_differ, metric):
    low, high = scoring.interval(*speakers_differ, metric)
    assert low < metric(*speakers_differ[:2]) < high
    assert scoring.interval(*speakers_differ, metric) == (low, high)


def test_clustering_by_speaker_widens_the_interval(speakers_differ):
    true, predicted, speakers = speakers_differ
    low, high = scoring.interval(true, predicted, speakers)
    rng = np.random.default_rng(0)
    alone = []  # a plain bootstrap of utterances, as if they were independent
    for _ in range(500):
        rows = rng.integers(0, len(true), len(true))
        alone.append(balanced_accuracy_score(true[rows], predicted[rows]))
    assert high - low > 2 * np.ptp(np.percentile(alone, [2.5, 97.5]))


def test_speakers_of_one_utterance_each_give_the_textbooks_width():
    predicted = (np.random.default_rng(2).random(60) < 0.3).astype(int)
    low, high = scoring.interval(np.zeros(60, int), predicted, np.arange(60), scoring.wa)
    share = np.mean(predicted == 0)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 60), rel=0.12)


def by_hand(true, answers, speakers, draws=4000):
    """Expanded percentiles of the UA of `answers[0]`, or of its difference to `answers[1]`: ten speakers, a loop."""
    rng, names, values = np.random.default_rng(9), np.unique(speakers), []
    assert len(names) == 10
    rows = {s: np.flatnonzero(speakers == s) for s in names}
    for _ in range(draws):
        drawn = np.concatenate([rows[s] for s in rng.choice(names, 10)])
        recalls = [
            [(a[drawn] == true[drawn])[true[drawn] == c].mean() for c in np.unique(true[drawn])] for a in answers
        ]
        values.append(np.mean(recalls[0]) - (np.mean(recalls[1]) if len(recalls) == 2 else 0))
    tail = NormalDist().cdf(-2.2622 * (10 / 9) ** 0.5)  # the t table's 97.5 % at 9 degrees of freedom
    return np.quantile(values, [tail, 1 - tail])


def test_the_intervals_are_what_a_loop_over_resampled_speakers_gives(speakers_differ):
    true, predicted, speakers = speakers_differ
    true = np.where((speakers == "s9") & (true < 3), 4, true)  # a class that only one speaker has
    other = np.where(np.random.default_rng(6).random(600) < 0.2, (predicted + 1) % 4, predicted)
    single = scoring.interval(true, predicted, speakers)
    assert single == pytest.approx(by_hand(true, [predicted], speakers), abs=0.012)
    pair = scoring.paired_interval(true, predicted, other, speakers)
    assert pair == pytest.approx(by_hand(true, [predicted, other], speakers), abs=0.012)


def test_the_same_answers_under_more_seeds_are_no_more_evidence(speakers_differ):
    stacked = [np.tile(column, 3) for column in speakers_differ]
    assert scoring.interval(*stacked) == pytest.approx(scoring.interval(*speakers_differ), abs=1e-12)
    speakers = [f"{s}, seed {i // 600}" for i, s in enumerate(stacked[2])]  # as if they were other people
    low, high = scoring.interval(*stacked[:2], speakers)
    whole = scoring.interval(*speakers_differ)
    assert high - low < 0.7 * (whole[1] - whole[0])


def test_ua_pooled_over_seeds_is_the_mean_over_seeds():
    rng = np.random.default_rng(3)
    true = rng.choice(4, 300, p=[0.6, 0.2, 0.15, 0.05])
    seeds = [np.where(rng.random(300) < skill, true, rng.integers(0, 4, 300)) for skill in (0.4, 0.6, 0.9)]
    want = np.mean([naive_ua(true.tolist(), answers.tolist()) for answers in seeds])
    assert scoring.ua(np.tile(true, 3), np.concatenate(seeds)) == pytest.approx(want)


@pytest.mark.parametrize("names", ["ssss", "stst", "stus"])
def test_fewer_than_four_speakers_have_no_interval(names):
    assert np.isnan(scoring.interval([0, 1, 1, 0], [0, 1, 0, 0], [*names])).all()
    assert np.isnan(scoring.paired_interval([0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [*names])).all()
    assert with_interval(0.5, np.nan, np.nan) == "50.00" and with_interval(0.5, 0.4, 0.6) == "50.00 [40.0, 60.0]"


def test_the_ends_hardly_move_with_the_draws(monkeypatch):
    true, predicted, who = next(corpora(10, 1))
    ends = []
    for seed in range(8):
        drawn = np.random.default_rng(seed).multinomial(10, np.full(10, 0.1), scoring.BOOTSTRAPS).astype(float)
        monkeypatch.setattr(scoring, "_resampled", lambda speakers, drawn=drawn: drawn)
        ends.append(scoring.interval(true, predicted, who))
    assert 0 < np.std(ends, axis=0).max() < 0.0015


def corpora(speakers: int, number: int):
    """Corpora of 60 utterances a speaker on average and four classes, whose true UA is 0.75 · 0.85 exactly.

    A speaker's skill is Beta(4.5, 1.5) (mean 0.75, standard deviation 0.16) times 1, 0.9, 0.8, 0.7 by class.
    """
    rng = np.random.default_rng([speakers, 3])
    for _ in range(number):
        skill = rng.beta(4.5, 1.5, speakers)
        who = np.repeat(np.arange(speakers), rng.integers(30, 91, speakers))
        true = rng.integers(0, 4, len(who))
        right = rng.random(len(who)) < skill[who] * (1 - 0.1 * true)
        yield true, np.where(right, true, (true + 1) % 4), who


def of_utterances(true, predicted, rng) -> np.ndarray:
    """The 95 % percentile interval of UA that takes utterances for independent."""
    rows = rng.integers(0, len(true), (300, len(true)))
    t, right = true[rows], predicted[rows] == true[rows]
    ua = np.mean([(right & (t == c)).sum(1) / (t == c).sum(1) for c in range(4)], axis=0)
    return np.quantile(ua, [0.025, 0.975])


@pytest.mark.parametrize(
    ("speakers", "least", "most"), [(24, 0.92, 0.97), (10, 0.90, 0.96), (6, 0.90, 0.96), (4, 0.85, 0.93)]
)
def test_the_interval_covers_the_truth_as_often_as_the_report_says(speakers, least, most):
    """500 simulated corpora: a coverage of 95 % comes out with a standard deviation of 1 %.

    The one that takes utterances for independent misses so often that a fifth of the corpora shows it.
    """
    truth, clustered, independent, rng = 0.75 * 0.85, [], [], np.random.default_rng(0)
    for n, (true, predicted, who) in enumerate(corpora(speakers, 500)):
        low, high = scoring.interval(true, predicted, who)
        clustered.append(low <= truth <= high)
        if n % 5 == 0:
            low, high = of_utterances(true, predicted, rng)
            independent.append(low <= truth <= high)
    assert least <= np.mean(clustered) <= most
    assert np.mean(independent) < 0.7  # not what it says
    low, high = scoring.COVERAGE[speakers]
    assert low / 100 - 0.02 <= np.mean(clustered) <= high / 100 + 0.02


def test_a_variant_does_not_differ_from_itself(speakers_differ):
    true, predicted, speakers = speakers_differ
    assert scoring.paired_interval(true, predicted, predicted, speakers) == (0.0, 0.0)


def test_a_paired_difference_has_its_sign_and_is_narrower(speakers_differ):
    true, predicted, speakers = speakers_differ
    rng = np.random.default_rng(4)
    worse = np.where(rng.random(600) < 0.1, (predicted + 1) % 4, predicted)
    low, high = scoring.paired_interval(true, predicted, worse, speakers)
    difference = scoring.ua(true, predicted) - scoring.ua(true, worse)
    assert 0 < low < difference < high
    swapped = scoring.paired_interval(true, worse, predicted, speakers)
    assert swapped == pytest.approx((-high, -low))
    single = scoring.interval(true, predicted, speakers)
    assert high - low < (single[1] - single[0]) / 2


# ---- p-values ------------------------------------------------------------------------------------


def exchanged(true, a, b, speakers) -> float:
    """The share of all exchanges of the two variants, speaker by speaker, with a UA difference as large."""
    names, found = sorted(set(speakers)), []
    for swap in product([False, True], repeat=len(names)):
        swapped = np.isin(speakers, [s for s, yes in zip(names, swap, strict=True) if yes])
        x, y = np.where(swapped, b, a).tolist(), np.where(swapped, a, b).tolist()
        found.append(abs(naive_ua(true.tolist(), x) - naive_ua(true.tolist(), y)))
    return np.mean(np.array(found) >= found[0] - 1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_p_is_the_share_of_exchanges_with_as_large_a_difference(seed):
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(6), rng.integers(5, 30, 6))
    true = rng.choice([0, 1, 3], len(speakers))  # class 2 does not occur
    a = np.where(rng.random(len(true)) < 0.7, true, 2)
    b = np.where(rng.random(len(true)) < 0.5 + 0.1 * (speakers % 3), true, 2)
    assert scoring.paired_p(true, a, b, speakers) == pytest.approx(exchanged(true, a, b, speakers))
    assert scoring.paired_p(true, b, a, speakers) == scoring.paired_p(true, a, b, speakers)


def test_ten_speakers_allow_no_less_than_two_in_1024():
    true, speakers = np.zeros(200, int), np.repeat(np.arange(10), 20)
    worse = (np.arange(200) % 2 == 0).astype(int)  # half wrong, for every speaker
    assert scoring.paired_p(true, true, worse, speakers) == 2 / 1024
    assert scoring.paired_p(true, worse, worse, speakers) == 1


def test_p_is_small_as_often_as_it_says_where_nothing_differs():
    rng, small = np.random.default_rng(8), []
    for true, predicted, who in corpora(10, 400):
        effect = rng.normal(0, 0.15, 10)[who]  # by speaker, and none on the whole
        wrong = rng.random((2, len(who))) < np.clip([effect, -effect], 0, 1)
        a, b = np.where(wrong, 4, predicted)
        small.append(scoring.paired_p(true, a, b, who) <= 0.05)
    assert 0.02 <= np.mean(small) <= 0.08  # binomial(400, 0.05) leaves this in 1 of 100


def test_holm_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04: none below the one before
    assert scoring.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert scoring.holm([0.7, 0.6]).tolist() == [1.0, 1.0]
    assert scoring.holm([0.2]).tolist() == [0.2]


# ---- folds, and what moves a number -----------------------------------------------------------------


def test_the_interval_over_folds_by_hand():
    # mean 3, deviations -2, -1, 0, 1, 2: variance 10 / 4, so 2.7764 (t table, 4 degrees) * sqrt(2.5 / 5)
    half = 2.7764 * 0.5**0.5
    assert scoring.fold_interval([1, 2, 3, 4, 5]) == pytest.approx((3 - half, 3 + half), abs=1e-3)
    assert scoring.fold_interval([2, 2, 2]) == (2, 2)
    assert np.isnan(scoring.fold_interval([1.0])).all()


def simulated(folds, speakers, seeds, *, fold=2.0, speaker=5.0, seed=1.5, rest=1.0, rng=0) -> pd.DataFrame:
    """Scores whose parts are normal with these standard deviations, in a shuffled table."""
    rng, rows = np.random.default_rng(rng), []
    for f in range(folds):
        of_fold, of_seed = rng.normal(70, fold), rng.normal(0, seed, seeds)
        for s in range(speakers):
            of_speaker = rng.normal(0, speaker)
            for k in range(seeds):
                score = of_fold + of_speaker + of_seed[k] + rng.normal(0, rest)
                rows.append({"fold": f, "speaker": f"{f}-{s}", "seed": k, "score": score})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


@pytest.mark.parametrize("shape", [(4000, 2, 3), (4000, 4, 2)])
def test_the_variance_split_finds_the_parts_it_was_made_of(shape):
    found = scoring.variance_split(simulated(*shape))
    assert found["sd"].tolist() == pytest.approx([2, 5, 1.5, 1], rel=0.1)  # fold, speaker, seed, rest
    folds, speakers, seeds = shape
    assert found["levels"].tolist() == [folds, folds * speakers, folds * seeds, folds * speakers * seeds]
    parts = np.array([4 / folds, 25 / (folds * speakers), 2.25 / (folds * seeds), 1 / np.prod(shape)])
    assert found["share"].tolist() == pytest.approx(parts / parts.sum(), abs=0.05)


def test_the_shares_are_of_the_means_own_variance():
    """Over 600 corpora of five folds, the mean varies as the true parts over their levels add up to."""
    means = [simulated(5, 2, 3, rng=i)["score"].mean() for i in range(600)]
    assert np.var(means) == pytest.approx(4 / 5 + 25 / 10 + 2.25 / 15 + 1 / 30, rel=0.15)


def test_with_one_seed_the_fold_holds_its_training():
    found = scoring.variance_split(simulated(4000, 2, 1, speaker=3.0))["sd"]
    assert found["fold"] == pytest.approx((4 + 2.25) ** 0.5, rel=0.1)
    assert found["speaker"] == pytest.approx((9 + 1) ** 0.5, rel=0.1)
    assert found[["seed", "speaker × seed"]].isna().all()


def test_a_small_variance_split_by_hand():
    # fold means 3 and 7; in both, speakers -1 and +1, seeds -2 and +2 (deviations), nothing else
    table = pd.DataFrame(
        [
            {"fold": f, "speaker": f"{f}{s}", "seed": k, "score": 3 + 4 * f + (2 * s - 1) + 2 * (2 * k - 1)}
            for f in range(2)
            for s in range(2)
            for k in range(2)
        ]
    )
    # squares: folds 4 · (4 + 4) over 1, speakers 8 · 1 over 2, seeds 8 · 4 over 2, rest 0
    fold, speaker, seed = 32, 4, 16
    want = [(fold - speaker - seed) / 4, speaker / 2, seed / 2, 0]
    assert (scoring.variance_split(table)["sd"] ** 2).tolist() == pytest.approx(want)


@pytest.mark.parametrize("lose", ["speaker == '0-0'", "speaker == '0-0' and seed == 1"])
def test_uneven_folds_have_no_variance_split(lose):
    table = simulated(3, 3, 2)
    with pytest.raises(ValueError, match="the same number"):
        scoring.variance_split(table.drop(table.query(lose).index))


# ---- calibration ---------------------------------------------------------------------------------


def test_the_calibration_error_by_hand():
    confidence = [0.95, 1.0, 0.85, 0.81, 0.85, 0.55, 0.3]
    right = [1, 1, 1, 0, 0, 0, 1]
    table, error = scoring.calibration(confidence, right)
    # (0.2, 0.3], (0.5, 0.6], (0.8, 0.9], (0.9, 1]: one, one, three and two answers
    assert table["answers"].tolist() == [1, 1, 3, 2]
    assert table["confidence"].tolist() == pytest.approx([0.3, 0.55, 2.51 / 3, 0.975])
    assert table["accuracy"].tolist() == pytest.approx([1, 0, 1 / 3, 1])
    assert error == pytest.approx((0.7 + 0.55 + 3 * abs(1 / 3 - 2.51 / 3) + 2 * 0.025) / 7)


@pytest.mark.parametrize("bins", [5, 10, 15])
def test_calibration_is_what_a_loop_over_bins_gives(bins):
    rng = np.random.default_rng(bins)
    confidence = rng.beta(3, 1, 400)
    right = rng.random(400) < confidence**2
    error = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if b / bins < c <= (b + 1) / bins]
        if inside:
            error += abs(sum(right[i] - confidence[i] for i in inside)) / 400
    table, found = scoring.calibration(confidence, right, bins)
    assert found == pytest.approx(error) and table["answers"].sum() == 400


def test_answers_as_sure_as_right_have_no_calibration_error():
    assert scoring.calibration([1.0] * 5, [True] * 5)[1] == 0
    assert scoring.calibration([0.75] * 4, [True, True, False, True])[1] == 0
    assert scoring.calibration([1.0] * 5, [False] * 5)[1] == 1


# ---- epochs --------------------------------------------------------------------------------------


def by_epoch(**ua_and_loss) -> pd.DataFrame:
    """validation=[(ua, loss), …] per epoch."""
    return pd.DataFrame(
        [
            {"split": split, "epoch": e, "ua": ua, "wa": ua + 1, "loss": loss}
            for split, values in ua_and_loss.items()
            for e, (ua, loss) in enumerate(values, 1)
        ]
    )


def test_each_rule_takes_its_own_epoch():
    table = by_epoch(
        validation=[(0.5, 1.0), (0.7, 0.9), (0.6, 0.8), (0.1, 0.1)],
        test=[(0.3, 1.0), (0.4, 1.0), (0.8, 1.0), (0.2, 1.0)],
    )
    assert scoring.select_epochs(table) == {"validation": 2, "test": 3, "last": 4}
    scores = scoring.selected_scores(table)
    assert scores["validation"] == {"ua": 0.4, "wa": 1.4, "epoch": 2}  # the test fold's scores
    assert scores["test"] == {"ua": 0.8, "wa": 1.8, "epoch": 3}


def test_ties_go_to_the_lower_loss_then_to_the_earlier_epoch():
    assert scoring.select_epochs(by_epoch(validation=[(0.7, 0.9), (0.7, 0.5), (0.7, 0.6)]))["validation"] == 2
    assert scoring.select_epochs(by_epoch(validation=[(0.6, 0.1), (0.7, 0.5), (0.7, 0.5)]))["validation"] == 2


def test_without_validation_there_is_no_such_rule():
    assert scoring.select_epochs(by_epoch(test=[(0.1, 1), (0.2, 1)])) == {"test": 2, "last": 2}


def test_the_test_fold_does_not_move_the_validation_rule():
    validation = [(0.5, 1.0), (0.7, 0.9)]
    a = by_epoch(validation=validation, test=[(0.9, 0.1), (0.1, 9.0)])
    b = by_epoch(validation=validation, test=[(0.1, 9.0), (0.9, 0.1)])
    assert scoring.select_epochs(a)["validation"] == scoring.select_epochs(b)["validation"] == 2


def test_scores_by_epoch_from_logits():
    rng = np.random.default_rng(5)
    table = pd.DataFrame(
        {
            "split": ["test", "validation"] * 60,
            "epoch": np.repeat([1, 2, 3], 40),
            "true": rng.integers(0, 3, 120),
            **{f"logit_{c}": rng.normal(0, 3, 120) for c in "abc"},
        }
    )
    scores = scoring.scores_by_epoch(table)
    assert len(scores) == 6
    for row in scores.itertuples():
        part = table[(table["split"] == row.split) & (table["epoch"] == row.epoch)]
        logits = part[["logit_a", "logit_b", "logit_c"]].to_numpy()
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert row.wa == naive_wa(part["true"].tolist(), logits.argmax(1).tolist())
        assert row.ua == pytest.approx(naive_ua(part["true"].tolist(), logits.argmax(1).tolist()))
        assert row.loss == pytest.approx(log_loss(part["true"], chances, labels=[0, 1, 2]))
