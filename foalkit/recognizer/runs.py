"""The runs of a variant read back: the settings they were made with, and each one's network with its weights."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from foalkit import UserError, arithmetic, devices
from foalkit.features.clips import ClipReader
from foalkit.features.familiar import Familiar, familiar
from foalkit.features.store import FeatureStore
from foalkit.params import Params
from foalkit.params.errors import validate
from foalkit.results import records, scoring
from foalkit.results.variants import run_answers
from foalkit.training import late, loop
from foalkit.training.networks import Net, build_net

FOLDER = re.compile(r"fold(\d+)-seed(\d+)")
# what a saved model keeps of a run's record
KEPT = (
    "run",
    "protocol",
    "fold",
    "seed",
    "selection",
    "scores",
    "sizes",
    "groups",
    "parameters",
    "finished",
    "provenance",
)


@dataclass(frozen=True)
class Member:
    """One run: its name ("fold 1"), facts of its record, its weights, and its network (a late product has none)."""

    name: str
    facts: dict
    weights: dict[str, Tensor]
    net: Net | None


class _Widths:
    """In place of a store, where a network is built for its width; standardisation comes with the weights."""

    def __init__(self, width: int):
        self.width, self.lengths = width, {"": 215}  # MFCC frames of CFN-SR's clips

    def __getitem__(self, _) -> np.ndarray:
        return np.eye(2, 1) * np.ones(self.width)


def run_folders(folder: Path) -> list[Path]:
    """The folders of finished runs: this one, or all folds and seeds of the variant that lie in it."""
    if (folder / "record.json").exists():
        return [folder]
    found = [f.parent for f in folder.glob("*/record.json") if FOLDER.fullmatch(f.parent.name)]
    return sorted(found, key=lambda f: [int(n) for n in FOLDER.fullmatch(f.name).groups()])


def settings_of(record: dict, outputs: Path) -> tuple[Params, str]:
    """The params and the variant of a run's record, whose outputs lie in that folder now."""
    variant, streams = record["variant"], record["streams"]
    row = {"question": "", "label": variant, "modality": " and ".join(streams), "streams": streams}
    row["network"] = record.get("network") or _network(records.read_weights(record["folder"]))
    return params_of(record["params"], {variant: row}, outputs), variant


def params_of(settings: dict, rows: dict[str, dict], outputs: Path) -> Params:
    """Params for some rows from settings as a record keeps them; raises UserError for those of another version."""
    whole = {**settings, "ablation": {}, "variants": rows, "outputs": "outputs/recognizer", "robustness": {}}
    p = validate(Params, whole, "the model's settings")
    if p.training.reproducible == "everywhere":
        arithmetic.limit_torch()
    return p.model_copy(update={"outputs": str(outputs)})


def readers_of(params: Params, variant: str) -> dict[str, ClipReader]:
    """By stream what reads clips as its features were made; raises UserError for features that were made elsewhere."""
    for stream in params.variants[variant].streams:
        if params.features[stream].kind == "numbers":
            raise UserError(f"features.{stream} of {variant} were made elsewhere: no clip can be turned into them here")
    return {s: ClipReader(params, s) for s in params.variants[variant].streams}


def widths(readers: dict[str, ClipReader]) -> dict[str, int]:
    """Numbers per frame by stream."""
    return {stream: reader.width for stream, reader in readers.items()}


def _network(names) -> str:
    """Whose network the weights are: older records do not say it."""
    if not any(name.startswith("core.") for name in names):
        return "late-product"
    cfn = ("core.branch.", "core.video.", "core.audio.")
    return "cfn-sr" if any(name.startswith(cfn) for name in names) else "foal-net"


def member(params: Params, variant: str, name: str, facts: dict, weights: dict[str, Tensor], widths: dict) -> Member:
    """A run with its network ready to answer; raises UserError for weights that do not fit its settings."""
    if params.variants[variant].network == "late-product":
        return Member(name, facts, weights, None)
    net = build_net(params, variant, {s: _Widths(width) for s, width in widths.items()}, [""])
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{name}: its weights do not fit its settings ({str(error).splitlines()[-1].strip()})"
        ) from None
    return Member(name, facts, weights, net.eval().to(devices.device(params.training.device)))


def logits(params: Params, variant: str, one: Member, stores: dict, names: list[str], absent: list[str]) -> np.ndarray:
    """A run's logits `(N, classes)` of clips that all lack the streams `absent`."""
    streams = params.variants[variant].streams
    if one.net is None:
        present = [s for s in streams if s not in absent]
        return late.predict(one.weights, stores, present, names, len(params.corpus.classes))
    return loop.predict(one.net, stores, streams, names, params, without=absent[0] if absent else None)


def known_data(params: Params, found: list[dict], streams: list[str]) -> dict[str, Familiar]:
    """By stream what `features.familiar` keeps of the utterances that the runs were made from, where they still are."""
    known, manifest = {}, params.folder / "manifest.parquet"
    for stream in streams if manifest.exists() else ():
        folder = params.store_folder(stream)
        if (folder / "store.json").exists():
            store = FeatureStore(folder)
            if store.digest == found[0]["feature_digests"][stream]:
                known[stream] = familiar(store, pd.read_parquet(manifest, columns=["utterance", "speaker"]))
    return known


def scores_of(found: list[dict]) -> dict[str, Any]:
    """UA and WA of the runs' test sides with their intervals by speaker, and what they are of.

    Of each run the epoch counts that its protocol chooses. Answers of several seeds to one utterance count as several.
    """
    pooled = pd.concat([run_answers(r) for r in found], ignore_index=True)
    true, predicted, speaker = (pooled[c].to_numpy() for c in ("true", "predicted", "speaker"))
    scores = {"protocol": found[0]["protocol"], "selection": found[0]["selection"]}
    scores |= {"folds": sorted({r["fold"] for r in found}), "seeds": sorted({r["seed"] for r in found})}
    scores |= {name + "s": int(pooled[name].nunique()) for name in ("utterance", "speaker")}
    for name, metric in {"ua": scoring.ua, "wa": scoring.wa}.items():
        low, high = scoring.interval(true, predicted, speaker, metric)
        low, high = (None, None) if np.isnan(low) else (float(low), float(high))  # of too few speakers there is none
        scores[name] = {"value": float(metric(true, predicted)), "low": low, "high": high}
    return scores
