"""WA and UA, confusion, speaker-clustered intervals and paired differences (protocol.md)."""

from functools import lru_cache

import numpy as np
import pandas as pd

BOOTSTRAPS = 1000
SELECTION = {"honest": "validation", "published": "test"}  # the rule behind each protocol's main number


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
    """95 % bootstrap interval of a metric, resampling speakers first, then their utterances.

    Utterances of one speaker are alike, so treating them as independent gives intervals that are too narrow.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    return _percentiles([metric(true[i], predicted[i]) for i in _resamples(speakers)])


def paired_interval(true, predicted, other, speakers, metric=ua) -> tuple[float, float]:
    """95 % bootstrap interval of metric(predicted) − metric(other) over the same utterances, by speaker."""
    true, a, b = np.asarray(true), np.asarray(predicted), np.asarray(other)
    return _percentiles([metric(true[i], a[i]) - metric(true[i], b[i]) for i in _resamples(speakers)])


def _resamples(speakers) -> list[np.ndarray]:
    return _draw(pd.factorize(np.asarray(speakers))[0].astype(np.int64).tobytes())


@lru_cache(maxsize=4)  # a table's rows share their utterances: draw once, not once per row and metric
def _draw(codes: bytes) -> list[np.ndarray]:
    from confidence_intervals.confidence_intervals import get_bootstrap_indices
    from sklearn import config_context

    speakers = np.frombuffer(codes, np.int64)
    with config_context(skip_parameter_validation=True):
        # a generator, not a number: with a number every speaker would draw the same positions
        rng = np.random.RandomState(0)
        return [get_bootstrap_indices(len(speakers), speakers, random_state=rng) for _ in range(BOOTSTRAPS)]


def _percentiles(values: list[float]) -> tuple[float, float]:
    from confidence_intervals.confidence_intervals import get_conf_int

    low, high = get_conf_int(values, alpha=5)
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
