"""WA and UA, confusion, speaker-clustered intervals and paired differences (protocol.md)."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd

BOOTSTRAPS = 99_999  # at 10 speakers an interval's end then moves by 0.07 points (sd) with the draws' seed, not by 0.4
INTERVAL_FROM = 4  # speakers: below, no interval is given; of two, half of the simulated ones miss the truth
FEW_SPEAKERS = 6  # below, their number stands beside the interval, which is too narrow
COVERAGE = {
    4: (88, 91),
    6: (92, 94),
    10: (91, 94),
    24: (93, 95),
}  # speakers: percent of simulated 95 % intervals that hold the truth
# the rule behind each protocol's main number
SELECTION = {"honest": "validation", "published": "test", "random-split": "validation"}
# the rule that the price of peeking is counted from
FAIR = {"honest": "validation", "published": "last", "random-split": "validation"}
MARKED = {"random-split": "random-split (speakers on both sides)"}  # how a demonstration is called beside results


def wa(true: np.ndarray, predicted: np.ndarray) -> float:
    """Weighted accuracy = accuracy, of class numbers `(N,)`, as a fraction."""
    return float(np.mean(np.asarray(true) == np.asarray(predicted)))


def ua(true: np.ndarray, predicted: np.ndarray) -> float:
    """Unweighted accuracy = mean recall over the classes that occur in `true` `(N,)`, as a fraction."""
    true, predicted = np.asarray(true), np.asarray(predicted)
    counts = np.bincount(true)
    hits = np.bincount(true[true == predicted], minlength=len(counts))
    return float(np.mean(hits[counts > 0] / counts[counts > 0]))


def confusion(true, predicted, classes: list[str]) -> pd.DataFrame:
    """Counts, true class in rows and predicted class in columns."""
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (np.asarray(true), np.asarray(predicted)), 1)
    return pd.DataFrame(counts, index=classes, columns=classes).rename_axis(index="true", columns="predicted")


def interval(true, predicted, speakers, metric=ua) -> tuple[float, float]:
    """95 % bootstrap interval of `ua` or `wa`, resampling speakers with all their utterances.

    The percentiles lie further out than 2.5 and 97.5, as a bootstrap of few is too narrow: the expanded percentile
    interval of Hesterberg, "What Teachers Should Know About the Bootstrap" (2015), with t of speakers − 1 degrees.
    Simulated coverage over five corpora whose speakers differ: `COVERAGE`; plain percentiles gave 85-90 % at 10
    speakers and 91-94 % at 24, utterances as if independent 23-90 %. Answers under several seeds are stacked: a
    speaker is drawn with all of them, so repeating them does not narrow the interval. Not a number (both ends) below
    `INTERVAL_FROM` speakers.
    """
    hits, counts = _by_speaker(true, predicted, speakers)
    return _expanded(len(counts), lambda drawn: RATES[metric](drawn @ hits, drawn @ counts))


def paired_interval(true, predicted, other, speakers, metric=ua) -> tuple[float, float]:
    """95 % interval, as `interval`, of metric(predicted) − metric(other) over the same utterances.

    Simulated coverage 93-95 % at 10 speakers and 94-96 % at 24.
    """
    hits, counts = _by_speaker(true, predicted, speakers)
    others, _ = _by_speaker(true, other, speakers)

    def difference(drawn):
        of_class = drawn @ counts
        return RATES[metric](drawn @ hits, of_class) - RATES[metric](drawn @ others, of_class)

    return _expanded(len(counts), difference)


def paired_p(true, predicted, other, speakers) -> float:
    """Two-sided p-value of ua(predicted) − ua(other): the two exchange their answers speaker by speaker, or not.

    All 2^speakers exchanges up to 13 speakers (so 2 / 2^speakers is the least), 9 999 random ones above. Simulated
    without a difference, p is at most 0.05 in 4-6 % at 10 speakers and 5 % at 24.
    Raises ValueError for a single speaker.
    """
    from scipy.stats import permutation_test

    hits, counts = _by_speaker(true, predicted, speakers)
    others, _ = _by_speaker(true, other, speakers)
    of_class = counts.sum(0)
    # the difference is a sum over speakers, whose signs the exchanges flip
    parts = ((hits - others)[:, of_class > 0] / of_class[of_class > 0]).mean(1)
    test = permutation_test((parts,), np.sum, permutation_type="samples", vectorized=True, rng=0)
    return float(test.pvalue)


def holm(p) -> np.ndarray:
    """Holm's step-down adjusted p-values `(N,)`: below 0.05, the family's chance of a false one is below 0.05."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def fold_interval(values) -> tuple[float, float]:
    """95 % interval of the mean of `values` `(F,)`, one per fold: Student's t of F − 1 degrees; NaN for one fold.

    For what a choice on the test fold adds: the choice ties a fold's speakers together, so folds are the units.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, float)
    half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean() - half), float(values.mean() + half)


def variance_split(scores: pd.DataFrame) -> pd.DataFrame:
    """What moves the mean of `scores` (columns fold, speaker, seed, score): how much a fold, a speaker, a seed does.

    Random-effects analysis of variance by mean squares: score = mean + fold + speaker in fold + seed in fold + rest,
    where a seed is one training, which its fold's speakers share, and the rest is speaker × seed. Columns: `sd` (of
    one level, in the scores' unit; a negative variance counts as 0), `levels`, and `share` of the variance of the
    mean. The luck of which utterances a speaker was recorded with is part of `speaker`, as seeds cannot tell it;
    with a single seed `fold` holds the seed's part and `speaker` the rest, and those two are NaN. With five folds the
    fold's sd may easily be wrong by half. Raises ValueError unless every fold has the same number of speakers (two
    or more), each under every seed once, and there are two folds or more.

    Searle, Casella, McCulloch, "Variance Components" (1992), chapter 4.
    """
    cube = scores.pivot(index=["fold", "speaker"], columns="seed", values="score")
    per_fold = cube.groupby("fold").size()
    folds, speakers, seeds = len(per_fold), per_fold.iloc[0], cube.shape[1]
    if folds < 2 or speakers < 2 or per_fold.nunique() > 1 or cube.isna().any(axis=None):
        raise ValueError("a variance split needs two folds or more, of the same number (two or more) of speakers")
    of_fold, of_speaker, of_seed, rest = mean_squares(cube.to_numpy().reshape(folds, speakers, seeds))
    if seeds == 1:
        variance = [(of_fold - of_speaker) / speakers, of_speaker, np.nan, np.nan]
    else:
        variance = [
            (of_fold - of_speaker - of_seed + rest) / (speakers * seeds),
            (of_speaker - rest) / seeds,
            (of_seed - rest) / speakers,
            rest,
        ]
    variance = np.maximum(variance, 0)
    levels = np.array([folds, folds * speakers, folds * seeds, folds * speakers * seeds])
    on_mean = variance / levels
    return pd.DataFrame(
        {"sd": np.sqrt(variance), "levels": levels, "share": on_mean / np.nansum(on_mean)},
        index=["fold", "speaker", "seed", "speaker × seed"],
    )


def mean_squares(y: np.ndarray) -> np.ndarray:
    """The mean squares of fold, speaker, seed and rest (`variance_split`), `(4, ...)`, of scores `(..., F, S, K)`.

    F folds, S speakers of each, K seeds; NaN where nothing is left to tell: of speaker and rest with one speaker a
    fold, of seed and rest with one seed.
    """
    folds, speakers, seeds = y.shape[-3:]
    fold, speaker, seed = y.mean((-2, -1), keepdims=True), y.mean(-1, keepdims=True), y.mean(-2, keepdims=True)

    def mean_square(part, degrees):
        return (np.broadcast_to(part, y.shape) ** 2).sum((-3, -2, -1)) / (degrees or np.nan)

    return np.stack(
        [
            mean_square(fold - fold.mean(-3, keepdims=True), folds - 1),
            mean_square(speaker - fold, folds * (speakers - 1)),
            mean_square(seed - fold, folds * (seeds - 1)),
            mean_square(y - speaker - seed + fold, folds * (speakers - 1) * (seeds - 1)),
        ]
    )


def calibration(confidence, right, bins: int = 10) -> tuple[pd.DataFrame, float]:
    """Reliability curve and expected calibration error of answers of `confidence` `(N,)`, `right` or not `(N,)`.

    The table has `confidence` and `accuracy` (means) and `answers` (count) of each of `bins` equal bins of [0, 1]
    that holds any; the error is mean |accuracy − confidence| over bins, weighted by answers (Guo et al., 2017). With
    few answers a bin the error is above 0 even where the confidence is right.
    """
    from sklearn.calibration import calibration_curve

    right, confidence = np.asarray(right, bool), np.asarray(confidence, float).clip(0, 1)
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins, pos_label=True)
    edges = np.linspace(0, 1, bins + 1)[1:-1]  # as calibration_curve: a bin holds its upper edge
    answers = np.bincount(np.searchsorted(edges, confidence))
    table = pd.DataFrame({"confidence": mean, "accuracy": accuracy, "answers": answers[answers > 0]})
    error = np.average((table["accuracy"] - table["confidence"]).abs(), weights=table["answers"])
    return table, float(error)


def _by_speaker(true, predicted, speakers) -> tuple[np.ndarray, np.ndarray]:
    """Right answers and utterances per speaker and class, both `(S, C)`: all that UA and WA depend on."""
    true = np.asarray(true)
    codes, names = pd.factorize(np.asarray(speakers))
    hits, counts = np.zeros((2, len(names), true.max() + 1))
    np.add.at(counts, (codes, true), 1)
    np.add.at(hits, (codes, true), true == np.asarray(predicted))
    return hits, counts


def _mean_recall(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return (hits / np.maximum(counts, 1)).sum(-1) / (counts > 0).sum(-1)


RATES = {ua: _mean_recall, wa: lambda hits, counts: hits.sum(-1) / counts.sum(-1)}  # from `(…, C)` counts


@cache
def _resampled(speakers: int) -> np.ndarray:
    """How often each of `speakers` is drawn in each resample, `(BOOTSTRAPS, speakers)`: always the same draws."""
    rng = np.random.default_rng(0)
    return rng.multinomial(speakers, np.full(speakers, 1 / speakers), BOOTSTRAPS).astype(np.float64)


def _expanded(speakers: int, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """The interval of a statistic of how often each speaker is drawn; not a number where they are too few."""
    from scipy.special import ndtr, stdtrit  # what scipy.stats calls, without its import of half a second

    if speakers < INTERVAL_FROM:
        return np.nan, np.nan
    tail = ndtr(np.sqrt(speakers / (speakers - 1)) * stdtrit(speakers - 1, 0.025))
    low, high = np.quantile(statistic(_resampled(speakers)), [tail, 1 - tail])
    return float(low), float(high)


def scores_by_epoch(predictions: pd.DataFrame) -> pd.DataFrame:
    """WA and UA per split and epoch, from a run's predictions: columns split, epoch, wa, ua, loss."""
    logits = predictions.filter(like="logit_").to_numpy()
    shifted = logits - logits.max(1, keepdims=True)
    true = predictions["true"].to_numpy()
    loss = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(true)), true]
    table = predictions[["split", "epoch", "true"]].assign(predicted=logits.argmax(1), loss=loss)
    rows = [
        {
            "split": split,
            "epoch": epoch,
            "wa": wa(part["true"], part["predicted"]),
            "ua": ua(part["true"], part["predicted"]),
            "loss": part["loss"].mean(),
        }
        for (split, epoch), part in table.groupby(["split", "epoch"], sort=True)
    ]
    return pd.DataFrame(rows)


def select_epochs(by_epoch: pd.DataFrame) -> dict[str, int]:
    """The epoch that each selection rule takes: validation (best UA there), last, test (best UA on the test fold).

    Ties go to the lower loss of that split. `test` peeks: it is how the published numbers were chosen.
    """
    chosen = {}
    for rule in ("validation", "test"):
        part = by_epoch[by_epoch["split"] == rule]
        if len(part):
            best = part.sort_values(["ua", "loss", "epoch"], ascending=[False, True, True])
            chosen[rule] = int(best["epoch"].iloc[0])
    return {**chosen, "last": int(by_epoch["epoch"].max())}


def selected_scores(by_epoch: pd.DataFrame) -> dict[str, dict]:
    """{rule: {wa, ua, epoch}} on the test fold, as fractions."""
    test = by_epoch[by_epoch["split"] == "test"].set_index("epoch")
    return {
        rule: {"wa": float(test.loc[epoch, "wa"]), "ua": float(test.loc[epoch, "ua"]), "epoch": epoch}
        for rule, epoch in select_epochs(by_epoch).items()
    }
