"""Is a clip like those that a model was trained on? How far its statistics lie from the corpus's, as one number.

Of each stream of a clip the mean and the deviation over time are taken, number by number, then standardised by their
mean and deviation over the corpus's clips. The distance is the root of the mean square of these values, about 1 for a
clip of the corpus. `limit` is the distance that one in a hundred of the corpus's own clips exceeds, each measured with
the statistics of the other speakers alone: a new speaker is no reason to be called unlike. A clip beyond it is unlike
the training data. One within it need not be like them: two numbers a column say nothing of the order in time.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from foalkit.features.store import FULL_SCALE, FeatureStore

SHARE = 0.99  # of the corpus's clips that are called alike
LEAST = 0.1  # of the mean deviation: a number that never changes in the corpus must not decide alone


@dataclass(frozen=True)
class Familiar:
    """What is kept of a stream: mean and deviation of its clips' statistics `(S,)`, and the limit of the distance."""

    mean: np.ndarray
    deviation: np.ndarray
    limit: float

    def distance(self, features: np.ndarray) -> float:
        """How many times the limit the features `(T, D)` of a clip are away: above 1 they are unlike."""
        return float(_distance(statistics(features)[None], self.mean, self.deviation)[0] / self.limit)


def statistics(features: np.ndarray) -> np.ndarray:
    """Mean and deviation over time of a clip's stored features `(T, D)`: `(2 D,)` float64.

    Of samples (int16) the level alone; of pictures (uint8) those of their three colours.
    """
    if features.dtype == np.int16:
        return np.log10([np.sqrt(np.square(features / FULL_SCALE).mean()) + 1e-6])
    if features.dtype == np.uint8:
        features = features.reshape(-1, 3)
    x = features.astype(np.float64)
    return np.concatenate([x.mean(0), x.std(0)])


def familiar(store: FeatureStore, table: pd.DataFrame) -> Familiar:
    """The statistics of a stream's utterances in a manifest that have it, and the limit found speaker by speaker."""
    table = table[table["utterance"].isin(store.lengths)]
    x = np.stack([statistics(store[u]) for u in table["utterance"]])
    speakers, distances = table["speaker"].to_numpy(), np.zeros(len(x))
    for speaker in np.unique(speakers):
        own = speakers == speaker
        others = x[~own] if not own.all() else x
        distances[own] = _distance(x[own], others.mean(0), _deviation(others))
    return Familiar(x.mean(0), _deviation(x), float(np.quantile(distances, SHARE, method="higher")))


def _deviation(x: np.ndarray) -> np.ndarray:
    deviation = x.std(0)
    return np.hypot(deviation, LEAST * deviation.mean() + 1e-9)


def _distance(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square((x - mean) / deviation).mean(1))
