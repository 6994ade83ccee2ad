"""Leaks that a list of speakers does not show: copied recordings, the test side's statistics, labels as features."""

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from foalkit import UserError
from foalkit.corpora.folds import Split
from foalkit.features.data import Data
from foalkit.features.store import FeatureStore

MOMENTS = 24  # a fingerprint looks at a clip at so many times
# measured: two takes by one RAVDESS actor reach 0.963 (log-mel) and 0.984 (MFCC), copies at 60 % of the loudness 0.998
ALIKE = 0.995
# Unit vectors that alike are no further apart than this, nor are their projections: looking only at such pairs of
# projections misses none, and a tree finds them without comparing all with all
NEAR, AXES = np.sqrt(2 * (1 - ALIKE)) + 1e-9, 16


def check(data: Data, split: Split, kinds: dict[str, str]) -> None:
    """All that can be checked before training: `check_copies` of every sound, `check_not_labels` of every stream.

    `kinds` says what each stream is made of (`Params.kinds`). Stored pictures are not compared with labels: they come
    from the recordings alone.
    """
    for stream, store in data.stores.items():
        if kinds[stream] == "sound":
            check_copies(store, split)
        if store.dtype != "uint8":
            check_not_labels(store, stream, data.table)


def check_copies(store: FeatureStore, split: Split) -> None:
    """Raise UserError naming a test or validation utterance whose sound is also on another side of the split.

    Compares fingerprints of the stored audio features: alike means the same course over time, at any loudness. A
    copy that begins elsewhere (by 10 ms or more) is not found; clips that do not change over time are passed over.
    """
    every = {s: [u for u in getattr(split, s) if u in store.lengths] for s in ("train", "validation", "test")}
    sides = {s: u for s, u in every.items() if u}
    axes = _axes([_fingerprint(store[u]) for side in sides.values() for u in side[:: len(side) // 200 + 1]])
    places = {}
    for side, utterances in sides.items():
        seen = ((u, _fingerprint(store[u])) for u in utterances)
        # nothing can be said of clips that do not change
        places[side] = {u: axes @ fingerprint for u, fingerprint in seen if fingerprint.any()}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if not places.get(one) or not places.get(other):
            continue
        tree, others, found = KDTree(list(places[other].values())), list(places[other]), []
        for some in _blocks(list(places[one])):
            near = tree.query_ball_point([places[one][u] for u in some], NEAR)
            for candidates in _blocks([others[j] for j in sorted(set().union(*near))]):
                alike = _fingerprints(store, some) @ _fingerprints(store, candidates).T
                pairs = zip(*np.nonzero(alike > ALIKE), strict=True)
                found += [(alike[i, j], some[i], candidates[j]) for i, j in pairs]
        if found:
            _, first, second = max(found)
            raise UserError(
                f"the same sound is on two sides of the split: {first} ({one}) and {second} ({other}), "
                f"{len(found)} such pairs; remove the copies or put them on one side"
            )


def check_statistics(weights: dict, stores: dict[str, FeatureStore], split: Split) -> None:
    """Raise UserError unless every standardisation in `weights` rests on the training side alone.

    `weights` are a run's (`scales.<stream>.scale` and `.shift`, as `training.build_net` makes them).
    """
    for name in (n for n in weights if n.startswith("scales.") and n.endswith(".scale")):
        stream = name.split(".")[1]
        store = stores[stream]
        train = [u for u in split.train if u in store.lengths]
        count = sum(len(store[u]) for u in train)
        # one utterance at a time: the training side in float64 would be gigabytes
        true = sum(store[u].sum(0, dtype=np.float64) for u in train) / count
        squares = sum(np.square(store[u] - true).sum(0) for u in train)
        scale = weights[name].double().cpu().numpy()
        mean = -weights[f"scales.{stream}.shift"].double().cpu().numpy() / scale
        spread = np.sqrt(squares / count).mean()
        if np.abs(mean - true).max() > 1e-3 * spread:
            raise UserError(
                f"{stream}: standardised by statistics that are not the training side's; "
                "use the split's training utterances alone"
            )


def check_not_labels(store: FeatureStore, stream: str, table: pd.DataFrame) -> None:
    """Raise UserError when single columns of the features tell every emotion without an error.

    No recording does that; features made from the label files do. Needs ten utterances of each emotion.
    """
    table = table[table["utterance"].isin(store.lengths)]
    means = np.stack([np.asarray(store[u], np.float32).mean(0) for u in table["utterance"]])
    emotion = table["emotion"].to_numpy()
    if pd.Series(emotion).value_counts().min() < 10:
        return
    told = []
    for name in sorted(set(emotion)):
        own, others = means[emotion == name], means[emotion != name]
        apart = (own.min(0) > others.max(0)) | (own.max(0) < others.min(0))
        if not apart.any():
            return
        told.append(f"{name} by column {int(apart.argmax())}")
    raise UserError(
        f"features.{stream} tell every emotion exactly ({', '.join(told)}): were they made from the labels?"
    )


def _blocks(names: list[str], size: int = 256):
    return (names[first : first + size] for first in range(0, len(names), size))


def _fingerprints(store: FeatureStore, utterances: list[str]) -> np.ndarray:
    return np.stack([_fingerprint(store[u]) for u in utterances])


def _axes(prints: list[np.ndarray]) -> np.ndarray:
    """Orthonormal directions `(≤ AXES, MOMENTS · D)` along which fingerprints differ most."""
    return np.linalg.svd(np.stack(prints), full_matrices=False)[2][:AXES]


def _fingerprint(features: np.ndarray) -> np.ndarray:
    """A unit vector `(MOMENTS · D,)` of the course over time, free of level; zeros where nothing changes."""
    at = np.linspace(0, len(features) - 1, MOMENTS).round().astype(int)
    course = np.asarray(features[at], np.float64)
    course -= course.mean(0)
    return (course / (np.linalg.norm(course) or 1.0)).ravel()
