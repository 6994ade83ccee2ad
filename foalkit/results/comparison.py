"""Two rows on the same utterances: their difference, an interval over folds, and the smallest difference in reach."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from foalkit.results import scoring

STUDIES, POWER = 2000, 0.8


class Compared(NamedTuple):
    """A difference of UA or WA and what is known of it, as fractions."""

    effect: float
    low: float
    high: float
    p: float
    smallest: float
    speakers: int
    seeds: int


def compare(true, predicted, other, speakers, folds, seeds, metric=scoring.ua) -> Compared:
    """metric(predicted) − metric(other), all `(N,)`: 95 % interval, two-sided p, the smallest difference in reach.

    Interval and p are Student's t. The unit is the fold, as the same trainings answer for all its speakers: the
    variance is that of the folds' parts in the difference or, where that is larger, what the spread of speakers and of
    seeds lets expect for it (`_error`), so that a few folds that agree by chance do not pass for certainty. Simulated
    coverage at 5 to 12 folds, with standard deviations up to 5 points of a speaker, of a fold and of a training:
    95-99 % (the folds' variance alone 95 %; `scoring.paired_interval`, which resamples speakers, 84-95 %).

    `smallest` is the true difference, in either direction, that 80 % of studies like this one would show, their
    interval excluding 0. The studies are simulated without a difference (`_studies`), each with its own interval; a
    true difference moves all speakers alike, and both ends of the interval with them, so `smallest` is the 80 %
    quantile of how far the ends lie from 0. It is an estimate: at 10 speakers it may be wrong by a third, at 24 by a
    sixth.
    """
    from scipy.stats import t

    effect = metric(true, predicted) - metric(true, other)
    parts = _parts(true, predicted, other, speakers, folds, seeds, metric)
    error, degrees = _error(parts)
    half = t.ppf(0.975, degrees) * error
    studies = _studies(parts)
    errors, of_each = _error(studies)
    halves, means = t.ppf(0.975, of_each) * errors, studies.mean((1, 2, 3))
    return Compared(
        effect=effect,
        low=float(effect - half),
        high=float(effect + half),
        p=float(2 * t.sf(abs(effect) / error, degrees)) if error else float(effect == 0),
        smallest=float(np.quantile(np.concatenate([halves - means, halves + means]), POWER)),
        speakers=len(np.unique(speakers)),
        seeds=parts.shape[-1],
    )


def _parts(true, predicted, other, speakers, folds, seeds, metric) -> np.ndarray:
    """What each speaker adds to the difference under each seed, less its mean: `(F, S, K)`, S speakers of each fold.

    The mean over some of the speakers is the difference of their pooled answers, to first order. Where the folds hold
    unequal numbers of speakers, each fold is taken as one: `(F, 1, K)`.
    """
    true = np.asarray(true)
    group = true if metric is scoring.ua else np.zeros_like(true)  # in UA classes weigh the same, in WA answers
    more = (np.asarray(predicted) == true).astype(float) - (np.asarray(other) == true)
    counts = np.bincount(group)
    mean = np.bincount(group, more) / np.maximum(counts, 1)
    added = (more - mean[group]) / ((counts > 0).sum() * counts[group])
    table = pd.DataFrame({"fold": folds, "speaker": speakers, "seed": seeds, "added": added})
    several = table.groupby("fold")["speaker"].nunique().nunique() > 1
    units = table.pivot_table("added", "fold" if several else ["fold", "speaker"], "seed", "sum", fill_value=0.0)
    return units.to_numpy().reshape(table["fold"].nunique(), -1, units.shape[1]) * units.size


def _error(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The standard error of the mean of `parts` `(..., F, S, K)` and its degrees of freedom.

    From the mean square of the folds or, where they are larger, from those of speaker and seed less the rest, which
    have the same expectation where folds differ by their speakers and trainings alone (Satterthwaite's degrees).
    """
    folds, speakers, seeds = parts.shape[-3:]
    fold, speaker, seed, rest = np.nan_to_num(scoring.mean_squares(parts))
    expected = speaker + seed - rest
    degrees = [folds * (speakers - 1), folds * (seeds - 1), folds * (speakers - 1) * (seeds - 1)]
    noise = sum(m**2 / d for m, d in zip((speaker, seed, rest), degrees, strict=True) if d)
    larger = expected > fold
    with np.errstate(divide="ignore", invalid="ignore"):
        of_expected = np.maximum(np.divide(expected**2, noise), 1)
    variance = np.where(larger, expected, fold) / (folds * speakers * seeds)
    return np.sqrt(variance), np.where(larger, of_expected, folds - 1)


def _studies(parts: np.ndarray) -> np.ndarray:
    """`STUDIES` studies like the one of `parts` `(F, S, K)`, drawn from its own spread, without a difference.

    Speakers are drawn with replacement, each with its deviations from the mean of its fold under all seeds. To all
    speakers of a fold is added what they share: a normal part of the fold and one of each of its trainings, with the
    variances that `scoring.variance_split` finds (one seed cannot tell the two apart). Where a fold is one unit, the
    folds are drawn. Deviations from a mean that they are part of are too small, which is put right.
    """
    rng, (folds, speakers, seeds) = np.random.default_rng(0), parts.shape
    if speakers == 1:
        own = (parts - parts.mean(0)) * np.sqrt(folds / (folds - 1))
        return rng.choice(own.reshape(-1, seeds), (STUDIES, folds, 1))
    own = (parts - parts.mean(1, keepdims=True)) * np.sqrt(speakers / (speakers - 1))
    fold, speaker, seed, rest = np.nan_to_num(scoring.mean_squares(parts))
    of_fold, of_seed = (fold - speaker - seed + rest) / (speakers * seeds), (seed - rest) / speakers
    drawn = rng.choice(own.reshape(-1, seeds), (STUDIES, folds, speakers))
    for variance, levels in ((of_fold, 1), (of_seed, seeds)):
        drawn += np.sqrt(max(variance, 0)) * rng.standard_normal((STUDIES, folds, 1, levels))
    return drawn
