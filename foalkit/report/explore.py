"""A look inside one run: its weights on its own test side, before and after AVEL's projection."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from foalkit import UserError, losses
from foalkit.params import Params
from foalkit.report import figures

if TYPE_CHECKING:
    from foalkit.features.store import FeatureStore
    from foalkit.training.networks import Net


@dataclass(frozen=True)
class Embedded:
    """A run's N test utterances as Foal-Net sees them, audio and video by stream."""

    utterances: list[str]
    labels: np.ndarray  # class numbers (N,)
    before: dict[str, np.ndarray]  # the features' means over time (N, D); D differs between streams
    after: dict[str, np.ndarray]  # AVEL's projections (N, P), of one space
    similarity: np.ndarray  # AVEL's (N, N): cosine of audio i and video j over the temperature


@dataclass(frozen=True)
class Opened:
    """A run's network with its weights, and what it was tested on."""

    params: Params  # with the variant's own settings
    run: dict  # the record, with its folder
    streams: list[str]
    stores: dict[str, "FeatureStore"]
    turns: pd.DataFrame  # the manifest by utterance
    test: list[str]  # the utterances of its test side that have both streams
    labels: np.ndarray  # their class numbers (N,)
    net: "Net"

    def batches(self, utterances: list[str], size: int = 64):
        """Yield some utterances at a time: their features and, after the input layers, their streams, each with its
        mask; both by stream.
        """
        import torch

        device = next(self.net.parameters()).device
        for start in range(0, len(utterances), size):
            some = utterances[start : start + size]
            part = {s: tuple(torch.from_numpy(x).to(device) for x in self.stores[s].batch(some)) for s in self.streams}
            with torch.inference_mode():
                entered = self.net.enter(part)
            yield part, dict(zip(self.streams, entered, strict=True))


def opened(params: Params, run: dict) -> Opened | None:
    """The network of a run (a record with its folder), its weights and its test side.

    None unless it is a two-stream Foal-Net's, the features are still there, and some utterances have both. Raises
    UserError for weights or features that are not the record's.
    """
    from foalkit.corpora.folds import split
    from foalkit.features.data import Data
    from foalkit.features.store import FeatureStore
    from foalkit.training import networks

    variant = run["variant"]
    p, streams = params.for_variant(variant), params.variants[variant].streams
    if len(streams) < 2 or params.variants[variant].network != "foal-net":
        return None
    folders = {s: params.for_fold(run["fold"]).store_folder(s) for s in streams}
    if not all((folder / "store.json").exists() for folder in folders.values()):
        return None  # training is done with them: they may be gone
    stores = {s: FeatureStore(folder) for s, folder in folders.items()}
    for s in streams:
        if stores[s].digest != run["feature_digests"][s]:
            raise UserError(f"{run['run']}: features.{s} are not those it was trained on; train it again")
    table = pd.read_parquet(params.folder / "manifest.parquet")
    sides = split(table, params, run["fold"], run["protocol"], variant)
    data = Data(table, table[:0], stores, {}, params.corpus.classes)
    test = [u for u in sides.test if data.complete(u, streams)]
    if not test:
        return None
    labels = data.labels(test)
    net = networks.trained_net(params, run, stores)
    turns = table.set_index("utterance", drop=False)
    return Opened(p, run, streams, stores, turns, test, labels, net)


def embeddings(params: Params, run: dict | Opened) -> Embedded | None:
    """The test utterances of a run (a record with its folder, or what `opened` gave) through its weights.

    None where `opened` gives none. A stream that enters as a waveform has no mean to show: there `before` is what its
    encoder gives.
    """
    import torch

    from foalkit.models.foalnet import masked_mean

    inside = run if isinstance(run, Opened) else opened(params, run)
    if inside is None:
        return None
    core, features = inside.net.core, inside.params.features
    before: dict[str, list] = {s: [] for s in inside.streams}
    after: dict[str, list] = {s: [] for s in inside.streams}
    for part, entered in inside.batches(inside.test):
        with torch.inference_mode():
            projected = core.project(*(x for x, _ in entered.values()), *(mask for _, mask in entered.values()))
        for s, vectors in zip(inside.streams, projected, strict=True):
            shown = entered[s] if features[s].encoder == "waveform" else part[s]
            before[s].append(masked_mean(*shown).float().cpu())
            after[s].append(vectors.float().cpu())
    joined = {s: torch.cat(parts) for s, parts in after.items()}
    with torch.inference_mode():
        similarity = losses.avel(*joined.values(), torch.tensor(inside.labels), core.temperature.cpu()).similarity
    return Embedded(
        utterances=inside.test,
        labels=inside.labels,
        before={s: torch.cat(parts).numpy() for s, parts in before.items()},
        after={s: vectors.numpy() for s, vectors in joined.items()},
        similarity=similarity.numpy(),
    )


def neighbours(seen: Embedded) -> pd.DataFrame:
    """How often an utterance's nearest other one (cosine) has its emotion, in percent, before and after the projection.

    One row a stream, its features standardised before; the last row looks from each sound for the nearest picture of
    another utterance, which only the projections allow. `chance` is what a random other utterance gives.
    """
    from sklearn.metrics.pairwise import cosine_similarity
    from sklearn.preprocessing import StandardScaler

    def share(similarity: np.ndarray) -> float:
        nearest = np.where(np.eye(len(similarity), dtype=bool), -np.inf, similarity).argmax(1)
        return round(100 * float(np.mean(seen.labels[nearest] == seen.labels)), 1)

    rows = {
        s: {
            "before": share(cosine_similarity(StandardScaler().fit_transform(x))),
            "after": share(cosine_similarity(seen.after[s])),
        }
        for s, x in seen.before.items()
    }
    rows[" to ".join(seen.before)] = {"before": None, "after": share(seen.similarity)}
    counts = np.bincount(seen.labels)
    chance = 100 * (counts * (counts - 1)).sum() / (len(seen.labels) * (len(seen.labels) - 1))
    return pd.DataFrame(rows).T.assign(chance=round(float(chance), 1))


def pictures(params: Params, seen: Embedded | None) -> dict:
    """The figures `embeddings` (t-SNE) and `similarity` of what was seen; none of None."""
    if seen is None:
        return {}
    return {
        "embeddings": figures.embeddings(seen.before, seen.after, seen.labels, params.corpus.classes),
        "similarity": figures.similarity(seen.similarity, seen.labels, params.corpus.classes),
    }


def keep_pictures(params: Params, drawn: dict) -> None:
    """Write the figures to outputs/<params>/figures/ for the report; a picture of an earlier run goes."""
    folder = params.folder / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("embeddings", "similarity"):
        file = folder / f"{name}.png"
        file.unlink(missing_ok=True)
        if name in drawn:
            file.write_bytes(figures.png(drawn[name], dpi=130))
