"""One plain loop: a variant's model on a fold's features, every epoch's logits kept."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from foalkit import UserError, losses
from foalkit.corpora.folds import Split
from foalkit.devices import device
from foalkit.features.data import Data
from foalkit.features.store import FeatureStore
from foalkit.models import FoalNet, Unimodal
from foalkit.params import Params
from foalkit.progress import progress
from foalkit.results import scoring
from foalkit.training import late, unfinished
from foalkit.training.adamw import AdamW
from foalkit.training.gradients import add_gradients, precision
from foalkit.training.networks import Net, Streams, build_net
from foalkit.training.predictions import looked_up, rows_of
from foalkit.training.terms import held_out_terms, reach

Start = dict[str, dict[str, Tensor]]  # variant → its network's weights


@dataclass
class Result:
    """What training leaves: one history row per epoch, all kept logits, the selected epoch's weights."""

    history: pd.DataFrame  # epoch, loss terms and L_AVEL's levels, temperature, held-out terms, wa, ua, loss per side
    predictions: pd.DataFrame  # utterance, speaker, split, epoch, true, logit_<class>
    scores: dict[str, dict]  # selection → wa, ua, epoch on the test fold
    absent: pd.DataFrame  # utterance, speaker, condition, true, logit_<class>: one stream hidden in the test
    weights: dict[str, Tensor]
    selection: str
    reach: dict[str, dict[str, int]]  # which weights AVEL and MEM can move (`terms.reach`)
    parameters: int
    device: str
    seconds: float
    cpu_seconds: float | None  # of this process; None in a record of before they were kept
    resumed: list[int]  # the epochs at which a killed run went on


def train(
    params: Params,
    variant: str,
    data: Data,
    sides: Split,
    seed: int,
    protocol: str,
    start: Start | None = None,
    keep: Path | None = None,
) -> Result:
    """Train one variant on one fold and score every epoch on validation and test.

    `params` are the file's; the variant's settings are applied here. The test fold's logits are only kept:
    nothing is chosen by them under the honest protocol. `start` is what `runs.first_weights` gives, `keep` the folder
    that `runs.unfinished` names: finished epochs are kept there, and a run that was killed goes on from the last of
    them. Raises UserError when the loss stops being finite.
    """
    if params.variants[variant].starts_from and not start:
        raise UserError(f"{variant} starts from other runs: give their weights (training.runs.first_weights)")
    p = params.for_variant(variant)
    if p.variants[variant].network == "late-product":
        return Result(**late.train(p, variant, data, sides, protocol))
    threads = torch.get_num_threads()
    torch.set_num_threads(p.training.threads)  # CPU sums depend on how many threads share them
    try:
        return _train(p, variant, data, sides, seed, protocol, start, keep)
    finally:
        torch.set_num_threads(threads)


def _train(p, variant, data, sides, seed, protocol, start, keep) -> Result:
    began, worked, t = time.monotonic(), time.process_time(), p.training
    on = device(t.device)
    torch.manual_seed(seed)
    np.random.seed(seed)  # transformers draws WavLM's time masks from NumPy
    rng = torch.Generator().manual_seed(seed)
    streams, selection = p.variants[variant].streams, scoring.SELECTION[protocol]
    net = build_net(p, variant, data.stores, sides.train).to(on)
    if start:
        net.core.start_from(*start.values())
    learned = [w for w in net.parameters() if w.requires_grad]
    optimiser = AdamW(learned, lr=t.lr, weight_decay=t.weight_decay)
    steps = -(-len(sides.train) // t.batch)  # of an epoch
    share = _schedule(t.schedule, t.epochs * steps)
    labels = torch.tensor(data.labels(sides.train))
    shares = torch.tensor(data.shares(sides.train)) if t.target == "soft" else None
    entropies = None if shares is None else torch.special.entr(shares).sum(1)  # what L_CE keeps of each clip at best
    held_out = {side: looked_up(data, u) for side in ("validation", "test") if (u := getattr(sides, side))}
    reached = _reach(net, data, sides.train, labels, p, streams, on)
    kept, history, best, weights, resumed = [], [], None, {}, []
    if keep and (before := unfinished.last(keep, net, optimiser, rng)):
        facts, weights, predictions = before
        kept, history, best = [predictions], facts["history"], tuple(facts["best"])
        resumed = [*facts["resumed"], facts["epoch"] + 1]
        began, worked = began - facts["seconds"], worked - facts["cpu_seconds"]
    written = time.monotonic()
    for epoch in progress(range(len(history) + 1, t.epochs + 1), f"{variant}, seed {seed}"):
        net.train()
        sums: dict[str, float] = {}  # loss terms over clips
        for step, rows in enumerate(_epoch_order(labels, t.sampler, rng).split(t.batch), 1):
            optimiser.zero_grad()
            batch = _batch(data.stores, streams, [sides.train[i] for i in rows], on)
            targets = None if shares is None else shares[rows].to(on)
            terms = add_gradients(net, batch, labels[rows].to(on), p, targets)
            if shares is not None:
                terms["votes_entropy"] = entropies[rows].mean()
            if "avel" in terms:
                whole = torch.stack([mask.any(1) for _, mask in batch.values()]).all(0).cpu()
                terms |= _levels(net.core, labels[rows][whole], p)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item() * len(rows)
            if not math.isfinite(sums["total"]):
                raise UserError(
                    f"{variant}: the loss is {terms['total'].item()} at epoch {epoch}, step {step}: lower training.lr"
                )
            optimiser.lr = t.lr * share((epoch - 1) * steps + step - 1)
            optimiser.step()
        row = {"epoch": epoch, **{n: v / len(labels) for n, v in sums.items()}}
        if isinstance(net.core, FoalNet):
            row["temperature"] = net.core.temperature.item()
        row |= _held_out_terms(net, data, held_out[selection], p, streams, on)
        now = _held_out(net, data, held_out, epoch, p, streams)
        kept.append(now)
        for side, scores in scoring.scores_by_epoch(now).set_index("split").iterrows():
            row |= {f"{side}_{m}": float(scores[m]) for m in ("wa", "ua", "loss")}
        history.append(row)
        rank = (row[f"{selection}_ua"], -row[f"{selection}_loss"])  # as scoring.select_epochs ranks
        if best is None or rank > best:
            best = rank
            weights = {n: v.detach().cpu().clone() for n, v in net.state_dict().items()}
        if keep and epoch < t.epochs and time.monotonic() - written > unfinished.EVERY:
            facts = {"epoch": epoch, "history": history, "best": best, "resumed": resumed}
            facts |= {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - worked}
            unfinished.keep(keep, net, optimiser, rng, weights, kept, facts)
            written = time.monotonic()
    predictions = pd.concat(kept, ignore_index=True)
    spent, worked = time.monotonic() - began, time.process_time() - worked
    net.load_state_dict(weights)
    return Result(
        history=pd.DataFrame(history),
        predictions=predictions,
        scores=scoring.selected_scores(scoring.scores_by_epoch(predictions)),
        absent=_absent(net, data, held_out["test"], p, streams),
        weights=weights,
        selection=selection,
        reach=reached,
        parameters=sum(w.numel() for w in net.parameters()),
        device=on,
        seconds=spent,
        cpu_seconds=worked,
        resumed=resumed,
    )


def predict(
    net: Net,
    stores: dict[str, FeatureStore],
    streams: list[str],
    utterances: list[str],
    params: Params,
    without: str | None = None,
) -> np.ndarray:
    """Logits `(N, C)` float32 of utterances, without dropout; the stream `without` is hidden by its mask.

    Raises UserError naming the first utterance that has no frame left.
    """
    net.eval()
    t, on = params.training, next(net.parameters()).device
    logits = torch.zeros(len(utterances), len(params.corpus.classes), device=on)
    at_once = t.micro_batch or (256 if isinstance(net.core, FoalNet | Unimodal) else t.batch)
    with torch.inference_mode(), precision(params, on.type):
        for some in torch.arange(len(utterances)).split(at_once):
            part = _batch(stores, streams, [utterances[i] for i in some], on)
            if without is not None:
                part[without] = (part[without][0], torch.zeros_like(part[without][1]))
            heard = torch.stack([mask.any(1) for _, mask in part.values()]).any(0)
            if not heard.all():
                silent = utterances[some[int(heard.int().argmin())]]
                raise UserError(f"utterance {silent}: every stream is masked, nothing is left to predict from")
            logits[some] = net(part).float()
    return logits.cpu().numpy()


def _reach(net: Net, data: Data, train: list[str], labels: Tensor, params: Params, streams, on: str) -> dict:
    """`terms.reach` on one training clip of each emotion, with all its streams where there is one."""
    if not isinstance(net.core, FoalNet):
        return {}
    rows = []
    for c in labels.unique():
        of_class = (labels == c).nonzero().flatten().tolist()
        rows.append(next((i for i in of_class if data.complete(train[i], streams)), of_class[0]))
    return reach(net, _batch(data.stores, streams, [train[i] for i in rows], on), labels[rows].to(on), params)


def _levels(core: FoalNet, labels: Tensor, params: Params) -> dict[str, Tensor]:
    how = {"normalise_targets": params.loss.normalise_targets}
    levels = losses.avel_levels(labels, core.temperature.detach().cpu(), len(params.corpus.classes), **how)
    return dict(zip(("avel_chance", "avel_floor"), levels, strict=True))


def _held_out_terms(net: Net, data: Data, known: dict, params: Params, streams, on) -> dict[str, float]:
    """`terms.held_out_terms` of a side, its clips passing the input layers in parts where training does that, too."""

    def enter(rows: Tensor):
        whole = _batch(data.stores, streams, [known["utterance"][i] for i in rows], on)
        with precision(params, torch.device(on).type):
            parts = [
                net.enter({s: (x[some], mask[some]) for s, (x, mask) in whole.items()})
                for some in torch.arange(len(rows)).split(params.training.micro_batch or len(rows))
            ]
        return [tuple(torch.cat(pieces) for pieces in zip(*stream, strict=True)) for stream in zip(*parts, strict=True)]

    return held_out_terms(net, enter, torch.tensor(known["true"]).long(), params)


def _held_out(net, data: Data, held_out: dict, epoch: int, params: Params, streams) -> pd.DataFrame:
    """The logits of validation and test."""
    tables = []
    for side, known in held_out.items():
        logits = predict(net, data.stores, streams, known["utterance"], params)
        tables.append(rows_of(data, known, logits, split=side, epoch=np.int16(epoch)))
    return pd.concat(tables)


def _absent(net, data: Data, known: dict, params: Params, streams) -> pd.DataFrame:
    """The selected epoch's logits of Foal-Net, with each of its streams hidden in turn, of clips that have both."""
    parts = []
    if not isinstance(net.core, FoalNet):
        return pd.DataFrame({"utterance": []})
    whole = [data.complete(u, streams) for u in known["utterance"]]
    if not all(whole):
        known = looked_up(data, [u for u, complete in zip(known["utterance"], whole, strict=True) if complete])
    for hidden in streams if any(whole) else []:
        logits = predict(net, data.stores, streams, known["utterance"], params, without=hidden)
        parts.append(rows_of(data, known, logits, condition=f"no {hidden}"))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"utterance": []})


def _schedule(name: str, steps: int) -> Callable[[int], float]:
    """The share of the learning rate at each step: 1, or a warm-up over 5 % of the steps and a half cosine to 0."""
    if name == "constant":
        return lambda step: 1.0
    warm = max(1, steps // 20)
    return lambda step: (
        (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (steps - warm))
    )


def _epoch_order(labels: Tensor, sampler: str, rng: torch.Generator) -> Tensor:
    """Row numbers `(N,)` of one epoch: drawn by inverse class frequency with replacement, or a permutation."""
    if sampler == "shuffle":
        return torch.randperm(len(labels), generator=rng)
    weight = 1.0 / torch.bincount(labels)[labels].double()
    return torch.multinomial(weight, len(labels), replacement=True, generator=rng)


def _batch(
    stores: dict[str, FeatureStore], streams: list[str], utterances: list[str], on: str | torch.device
) -> Streams:
    return {s: stores[s].tensors(utterances, on) for s in streams}
