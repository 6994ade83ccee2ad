"""The late product: a logistic regression on each stream's clip statistics, their probabilities multiplied.

The baseline without a fusion to be learned. It has no epochs: what is chosen is C, the inverse strength of its
regularisation. An epoch of its record is a value of C, from strong to weak, so C is chosen by the rules, and on the
sides, that choose the others' epochs. It knows labels only: with `training.target: soft` too it is fitted to the
majority's. scikit-learn fits it in double precision, without draws: all seeds give the same.
Its bytes are the same again on one machine; `training.reproducible: everywhere` does not reach them.
"""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from foalkit import UserError
from foalkit.corpora.folds import Split
from foalkit.features.data import Data
from foalkit.features.store import FeatureStore
from foalkit.params import Params
from foalkit.results import scoring
from foalkit.training.predictions import looked_up, rows_of

STRENGTHS = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]  # C; the last is scikit-learn's own
LEAST = 1e-12  # probability: of an emotion that the training side lacks, too


def train(params: Params, variant: str, data: Data, sides: Split, protocol: str) -> dict:
    """Fit one fold at every C of `STRENGTHS` and score it on validation and test; returns what `loop.Result` holds.

    `params` are the variant's. A stream is fitted on the clips that have it, and says nothing about others: they are
    answered by the other one alone. Raises UserError for a stream of samples or pictures, whose mean says nothing.
    """
    from threadpoolctl import threadpool_limits

    began, worked = time.monotonic(), time.process_time()
    streams, selection = params.variants[variant].streams, scoring.SELECTION[protocol]
    used = {side: u for side in ("train", "validation", "test") if (u := getattr(sides, side))}
    has = {s: {side: np.array([v in data.stores[s].lengths for v in u]) for side, u in used.items()} for s in streams}
    inputs = {
        s: {side: statistics(data.stores[s], s, np.array(u)[has[s][side]]) for side, u in used.items()} for s in streams
    }
    labels = {s: data.labels(sides.train)[has[s]["train"]] for s in streams}
    known = {side: looked_up(data, u) for side, u in used.items()}
    balanced = "balanced" if params.training.sampler == "balanced" else None
    kept, history, fitted, alone = [], [], [], []
    with threadpool_limits(params.training.threads):
        for epoch, strength in enumerate(STRENGTHS, 1):
            models = {s: _fit(x["train"], labels[s], strength, balanced) for s, x in inputs.items()}
            logs = {
                s: {side: _log(models[s], x, len(data.classes), has[s][side]) for side, x in inputs[s].items()}
                for s in streams
            }
            product = {side: sum(logs[s][side] for s in streams) for side in used}
            tables = {
                side: rows_of(data, known[side], logits.astype("f4"), split=side, epoch=np.int16(epoch))
                for side, logits in product.items()
            }
            loss = scoring.scores_by_epoch(tables.pop("train"))
            now = pd.concat(tables.values())
            row = {"epoch": epoch, "C": strength, "ce": float(loss["loss"].iloc[0])}
            for side, scores in scoring.scores_by_epoch(now).set_index("split").iterrows():
                row |= {f"{side}_{m}": float(scores[m]) for m in ("wa", "ua", "loss")}
            kept.append(now)
            history.append(row)
            fitted.append(models)
            alone.append({s: logs[s]["test"] for s in streams})
    predictions = pd.concat(kept, ignore_index=True)
    scores = scoring.selected_scores(scoring.scores_by_epoch(predictions))
    chosen = scores[selection]["epoch"] - 1
    both = np.all([has[s]["test"] for s in streams], axis=0)
    hidden = zip(streams, reversed(streams), strict=True) if len(streams) == 2 and both.any() else ()
    test = [u for u, complete in zip(sides.test, both, strict=True) if complete]
    absent = [
        rows_of(data, looked_up(data, test), alone[chosen][left][both].astype("f4"), condition=f"no {other}")
        for left, other in hidden
    ]
    weights = {f"{s}.{name}": torch.tensor(v) for s in streams for name, v in _weights(fitted[chosen][s]).items()}
    return {
        "history": pd.DataFrame(history),
        "predictions": predictions,
        "scores": scores,
        "absent": pd.concat(absent, ignore_index=True) if absent else pd.DataFrame({"utterance": []}),
        "weights": weights,
        "selection": selection,
        "reach": {},
        "parameters": sum(w.numel() for name, w in weights.items() if name.endswith((".coef", ".intercept"))),
        "device": "cpu",
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - worked,
        "resumed": [],
    }


def statistics(store: FeatureStore, stream: str, utterances: Sequence[str]) -> np.ndarray:
    """Mean and standard deviation over time of the features of each utterance: `(N, 2 D)` float64."""
    if store.dtype != "float16":
        raise UserError(f"features.{stream}: the mean of samples or pictures says nothing; late-product needs features")
    clips = (store[u].astype(np.float64) for u in utterances)
    return np.array([np.concatenate([x.mean(0), x.std(0)]) for x in clips]).reshape(-1, 2 * store.width)


def _fit(x: np.ndarray, labels: np.ndarray, strength: float, balanced: str | None):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=strength, class_weight=balanced, max_iter=2000)
    return make_pipeline(StandardScaler(), model).fit(x, labels)


def _log(model, x: np.ndarray, classes: int, has: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities `(N, classes)`; zeros, which change no product, of clips that lack the stream."""
    probabilities = np.full((len(x), classes), LEAST)
    if len(x):
        probabilities[:, model.classes_] = model.predict_proba(x)
    logs = np.zeros((len(has), classes))
    logs[has] = np.log(np.maximum(probabilities, LEAST))
    return logs


def _weights(model) -> dict[str, np.ndarray]:
    scaler, regression = model[0], model[-1]
    return {"mean": scaler.mean_, "scale": scaler.scale_, "coef": regression.coef_, "intercept": regression.intercept_}


def predict(
    weights: dict, stores: dict[str, FeatureStore], streams: list[str], utterances: list[str], classes: int
) -> np.ndarray:
    """Logarithms of the products `(N, classes)` float32 that a run's weights give; of fewer streams, of theirs alone.

    Raises UserError for a run whose training side lacked an emotion: its weights do not say which.
    """
    from scipy.special import expit, softmax

    total = np.zeros((len(utterances), classes))
    for stream in streams:
        mean, scale, coef, bias = (weights[f"{stream}.{n}"].numpy() for n in ("mean", "scale", "coef", "intercept"))
        z = (statistics(stores[stream], stream, utterances) - mean) / scale @ coef.T + bias
        shares = np.column_stack([1 - expit(z), expit(z)]) if z.shape[1] == 1 else softmax(z, 1)
        if shares.shape[1] != classes:
            raise UserError(f"{stream}: this run was trained without one of the {classes} emotions")
        total += np.log(np.maximum(shares, LEAST))
    return total.astype("f4")
