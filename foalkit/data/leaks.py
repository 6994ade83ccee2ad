"""Leaks that a list of speakers does not show: copied recordings, the test side's statistics, labels as features."""

import numpy as np
import pandas as pd

from foalkit import UserError
from foalkit.data.features import Data, FeatureStore
from foalkit.data.folds import Split

MOMENTS = 24  # a fingerprint looks at a clip at so many times
# measured: two takes by one RAVDESS actor reach 0.963 (log-mel) and 0.984 (MFCC), copies at 60 % of the loudness 0.998
ALIKE = 0.995


def check(data: Data, split: Split) -> None:
    """All that can be checked before training: `check_copies` of the sound, `check_not_labels` of every stream.

    Not of pictures: they come from the recordings alone.
    """
    for stream, store in data.stores.items():
        if stream in ("audio", "mfcc"):
            check_copies(store, split)
        if data.info["features"][stream]["encoder"].get("encoder") != "frames":
            check_not_labels(store, stream, data.table)


def check_copies(store: FeatureStore, split: Split) -> None:
    """Raise UserError naming a test or validation utterance whose sound is also on another side of the split.

    Compares fingerprints of the stored audio features: alike means the same course over time, at any loudness. A
    copy that begins elsewhere (by 10 ms or more) is not found; clips that do not change over time are passed over.
    """
    sides = {s: u for s in ("train", "validation", "test") if (u := getattr(split, s))}
    prints = {s: np.stack([_fingerprint(store[u]) for u in utterances]) for s, utterances in sides.items()}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if one not in sides or other not in sides:
            continue
        alike = prints[one] @ prints[other].T
        i, j = np.unravel_index(alike.argmax(), alike.shape)
        if alike[i, j] > ALIKE:
            raise UserError(
                f"the same sound is on two sides of the split: {sides[one][i]} ({one}) and {sides[other][j]} "
                f"({other}), {int((alike > ALIKE).sum())} such pairs; remove the copies or put them on one side"
            )


def check_statistics(weights: dict, stores: dict[str, FeatureStore], split: Split) -> None:
    """Raise UserError unless every standardisation in `weights` rests on the training side alone.

    `weights` are a run's (`scales.<stream>.scale` and `.shift`, as `training.build_net` makes them).
    """
    for name in (n for n in weights if n.startswith("scales.") and n.endswith(".scale")):
        stream = name.split(".")[1]
        frames = np.concatenate([stores[stream][u] for u in split.train]).astype(np.float64)
        scale = weights[name].double().cpu().numpy()
        mean = -weights[f"scales.{stream}.shift"].double().cpu().numpy() / scale
        spread = frames.std(0).mean()
        if np.abs(mean - frames.mean(0)).max() > 1e-3 * spread:
            raise UserError(
                f"{stream}: standardised by statistics that are not the training side's; "
                "use the split's training utterances alone"
            )


def check_not_labels(store: FeatureStore, stream: str, table: pd.DataFrame) -> None:
    """Raise UserError when single columns of the features tell every emotion without an error.

    No recording does that; features made from the label files do. Needs ten utterances of each emotion.
    """
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


def _fingerprint(features: np.ndarray) -> np.ndarray:
    """A unit vector `(MOMENTS · D,)` of the course over time, free of level; zeros where nothing changes."""
    at = np.linspace(0, len(features) - 1, MOMENTS).round().astype(int)
    course = np.asarray(features[at], np.float64)
    course -= course.mean(0)
    return (course / (np.linalg.norm(course) or 1.0)).ravel()
