"""One plain loop: a variant's model on a fold's features, every epoch's logits kept, one record at the end."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foalkit import UserError, losses, records, scoring
from foalkit.data.encoders import device as pick_device
from foalkit.data.features import Data, FeatureStore, open_data
from foalkit.data.folds import Split, check_coverage, split
from foalkit.models import FoalNet, Unimodal
from foalkit.models.inputs import Standardise, build_input
from foalkit.params import Params
from foalkit.progress import progress

Streams = dict[str, tuple[Tensor, Tensor]]  # stream → features (B, T, D), mask (B, T)


class Net(nn.Module):
    """Input layers per stream, then Foal-Net for two streams (audio, a picture) or Unimodal for one."""

    def __init__(self, inputs: dict[str, nn.Module], scales: dict[str, nn.Module], core: nn.Module):
        super().__init__()
        self.inputs, self.scales, self.core = nn.ModuleDict(inputs), nn.ModuleDict(scales), core

    def enter(self, streams: Streams) -> list[tuple[Tensor, Tensor]]:
        """Each stream through its standardisation and input layer, in the variant's order."""
        return [
            layer(self.scales[s](streams[s][0]) if s in self.scales else streams[s][0], streams[s][1])
            for s, layer in self.inputs.items()
        ]

    def forward(self, streams: Streams) -> Tensor:
        """Class logits `(B, classes)`."""
        entered = self.enter(streams)
        return self.core(*(x for x, _ in entered), *(mask for _, mask in entered))


@dataclass
class Result:
    """What training leaves: one history row per epoch, all kept logits, the selected epoch's weights."""

    history: pd.DataFrame  # epoch, loss terms, temperature, wa/ua per split
    predictions: pd.DataFrame  # utterance, speaker, split, epoch, true, logit_<class>
    scores: dict[str, dict]  # selection → wa, ua, epoch on the test fold
    weights: dict[str, Tensor]
    selection: str
    parameters: int
    device: str
    seconds: float


def build_net(params: Params, variant: str, stores: dict[str, FeatureStore], train: list[str]) -> Net:
    """The variant's model for features of these widths; `train` utterances give the standardisation."""
    sizes, streams = params.model, params.variants[variant].streams
    scales, inputs = {}, {}
    for s in streams:
        if s in params.training.standardise:
            frames = np.concatenate([stores[s][u] for u in train]).astype(np.float64)
            mean, std = frames.mean(0), frames.std(0)
            scales[s] = Standardise(
                *(torch.tensor(v, dtype=torch.float32) for v in (mean, std + 1e-3 * std.mean()))
            )
        spec = params.model.inputs.get(s)
        options = (
            {k: getattr(spec, k) for k in ("layers", "stride", "kernel", "dropout")}
            if (spec and spec.kind == "conv")
            else {}
        )
        inputs[s] = build_input(
            spec.kind if spec else "none", stores[s].width, spec and spec.width, **options
        )
    classes = len(params.corpus.classes)
    widths = [inputs[s].width for s in streams]
    try:
        if len(streams) == 1:
            core = Unimodal(widths[0], classes, dropout=sizes.dropout)
        else:
            core = FoalNet(
                *widths,
                classes,
                layers=sizes.layers,
                heads=sizes.heads,
                dropout=sizes.dropout,
                projection_dim=sizes.projection_dim,
                projection_dropout=sizes.projection_dropout,
                temperature=params.loss.temperature,
                learn_temperature=params.loss.learn_temperature,
            )
    except ValueError as error:
        raise UserError(f"params {params.name}, variant {variant}: {error}") from None
    return Net(inputs, scales, core)


def loss_terms(
    net: Net, streams: Streams, labels: Tensor, params: Params, generator: torch.Generator | None = None
):
    """The loss terms of one batch by name (`ce`, and `avel`, `mem` where weighted), and the logits `(B, C)`.

    `params` are the variant's. MEM's negatives are chosen by AVEL's similarity, without gradient (section 4).
    """
    weights, core = params.loss, net.core
    if not isinstance(core, FoalNet):
        logits = net(streams)
        return {"ce": F.cross_entropy(logits, labels)}, logits
    (audio, audio_mask), (video, video_mask) = net.enter(streams)
    pair = (audio, video, audio_mask, video_mask)
    fused = core.fuse(*pair)
    logits = core.classify(fused)
    terms = {"ce": F.cross_entropy(logits, labels)}
    if weights.avel or weights.mem:
        align = losses.avel(
            *core.project(*pair), labels, core.temperature, normalise_targets=weights.normalise_targets
        )
        if weights.avel:
            terms["avel"] = align.loss
    if weights.mem:
        chosen = losses.hard_negatives(
            align.similarity, labels, how=weights.hard_negatives, generator=generator
        )
        positive = core.fuse(*pair) if params.training.positive_pass == "separate" else fused
        a2v = core.attend_a2v(audio, video[chosen.video], audio_mask, video_mask[chosen.video])
        v2a = core.attend_v2a(audio[chosen.audio], video, audio_mask[chosen.audio], video_mask)
        terms["mem"] = losses.mem(
            core.match_a2v(positive.a2v),
            core.match_a2v(a2v),
            core.match_v2a(positive.v2a),
            core.match_v2a(v2a),
            chosen.valid,
        ).loss
    return terms, logits


def train(
    params: Params,
    variant: str,
    data: Data,
    sides: Split,
    seed: int,
    protocol: str,
) -> Result:
    """Train one variant on one fold and score every epoch on validation and test.

    `params` are the file's; the variant's settings are applied here. The test fold's logits are only kept:
    nothing is chosen by them under the honest protocol. Raises UserError when the loss stops being finite.
    """
    started, p = time.monotonic(), params.for_variant(variant)
    t, streams = p.training, p.variants[variant].streams
    on, threads = pick_device(t.device), torch.get_num_threads()
    torch.set_num_threads(t.threads)  # CPU sums depend on how many threads share them
    try:
        torch.manual_seed(seed)
        rng = torch.Generator().manual_seed(seed)
        net = build_net(p, variant, data.stores, sides.train).to(on)
        optimiser = torch.optim.AdamW(net.parameters(), lr=t.lr, weight_decay=t.weight_decay, fused=True)
        steps = t.epochs * -(-len(sides.train) // t.batch)
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, _schedule(t.schedule, steps))
        labels = torch.tensor(data.labels(sides.train))
        kept, history, best, weights = [], [], None, {}
        held_out = {"validation": sides.validation, "test": sides.test}
        held_out = {s: (u, data.labels(u)) for s, u in held_out.items() if u}
        speakers = data.table.set_index("utterance")["speaker"]
        selection = scoring.SELECTION[protocol]
        for epoch in progress(range(1, t.epochs + 1), f"{variant}, seed {seed}", t.epochs):
            net.train()
            sums: dict[str, float] = {}
            order = _epoch_order(labels, t.sampler, rng)
            for step, rows in enumerate(order.split(t.batch)):
                batch = _batch(data.stores, streams, [sides.train[i] for i in rows], on)
                with torch.autocast(on, torch.bfloat16, enabled=t.precision == "bf16"):
                    terms, _ = loss_terms(net, batch, labels[rows].to(on), p)
                total = terms["ce"] + sum(getattr(p.loss, n) * terms[n] for n in terms if n != "ce")
                if not torch.isfinite(total):
                    raise UserError(
                        f"{variant}: the loss is {total.item()} at epoch {epoch}, step {step + 1}: lower training.lr"
                    )
                optimiser.zero_grad(set_to_none=True)
                total.backward()
                optimiser.step()
                rate.step()
                for name, value in {**terms, "total": total}.items():
                    sums[name] = sums.get(name, 0.0) + value.item() * len(rows)
            row = {"epoch": epoch, **{n: v / len(order) for n, v in sums.items()}}
            if isinstance(net.core, FoalNet):
                row["temperature"] = net.core.temperature.item()
            now = pd.concat(
                [
                    _kept(
                        utterances,
                        speakers,
                        side,
                        epoch,
                        true,
                        data.classes,
                        predict(net, data.stores, streams, utterances, on, t.precision),
                    )
                    for side, (utterances, true) in held_out.items()
                ]
            )
            kept.append(now)
            scored = scoring.scores_by_epoch(now).set_index("split")
            row |= {
                f"{side}_{m}": float(scored.loc[side, m])
                for side in scored.index
                for m in ("wa", "ua", "loss")
            }
            history.append(row)
            rank = (row[f"{selection}_ua"], -row[f"{selection}_loss"])  # as scoring.select_epochs ranks
            if best is None or rank > best:
                best, weights = rank, {n: v.detach().cpu().clone() for n, v in net.state_dict().items()}
    finally:
        torch.set_num_threads(threads)
    predictions = pd.concat(kept, ignore_index=True)
    return Result(
        history=pd.DataFrame(history),
        predictions=predictions,
        scores=scoring.selected_scores(scoring.scores_by_epoch(predictions)),
        weights=weights,
        selection=selection,
        parameters=sum(w.numel() for w in net.parameters()),
        device=on,
        seconds=time.monotonic() - started,
    )


def predict(net: Net, stores, streams, utterances, on="cpu", precision="fp32", batch=256) -> np.ndarray:
    """Logits `(N, C)` float32 of utterances, without dropout."""
    net.eval()
    parts = []
    with torch.inference_mode(), torch.autocast(on, torch.bfloat16, enabled=precision == "bf16"):
        for first in range(0, len(utterances), batch):
            part = _batch(stores, streams, utterances[first : first + batch], on)
            parts.append(net(part).float().cpu().numpy())
    return np.concatenate(parts)


def save(
    params: Params,
    variant: str,
    fold: int,
    seed: int,
    protocol: str,
    data: Data,
    sides: Split,
    result: Result,
) -> Path:
    """Write the run's predictions, weights and, last, its record.json; returns the record's path."""
    record = {
        "run": f"{params.name}/{protocol}/{variant}/fold{fold}-seed{seed}",
        "params_name": params.name,
        "variant": variant,
        "protocol": protocol,
        "fold": fold,
        "seed": seed,
        "selection": result.selection,
        "scores": result.scores,
        "classes": data.classes,
        "labels": params.corpus.labels,
        "sizes": {"train": len(sides.train), "validation": len(sides.validation), "test": len(sides.test)},
        "groups": sides.groups,
        "split_digest": sides.digest,
        "params_digest": params.digest(variant),
        "params": params.for_variant(variant).model_dump(mode="json", exclude={"variants"}),
        "streams": params.variants[variant].streams,
        "manifest_digest": data.info["manifest_digest"],
        "feature_digests": {s: data.info["features"][s]["digest"] for s in params.variants[variant].streams},
        "encoders": {s: data.info["features"][s]["encoder"] for s in params.variants[variant].streams},
        "parameters": result.parameters,
        "device": result.device,
        "history": result.history.astype(float).round(6).to_dict("records"),
        "seconds": round(result.seconds, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "provenance": records.provenance(),
    }
    folder = records.run_folder(params, protocol, variant, fold, seed)
    return records.write_run(folder, record, result.predictions, result.weights)


def run(params: Params, variant: str, fold: int, seed: int, protocol: str, data: Data | None = None) -> Path:
    """Prepare what is missing, train and save one run: what notebook 02 does step by step."""
    data = data or open_data(params, params.variants[variant].streams)
    check_coverage(data.table, params)
    sides = split(data.table, params, fold, protocol)
    return save(
        params,
        variant,
        fold,
        seed,
        protocol,
        data,
        sides,
        train(params, variant, data, sides, seed, protocol),
    )


def run_all(params: Params, runs: list[tuple[str, str, int, int]]) -> list[Path]:
    """Train and save each (protocol, variant, fold, seed), in this process, with progress."""
    data = open_data(params)
    return [
        run(params, variant, fold, seed, protocol, data)
        for protocol, variant, fold, seed in progress(runs, "runs")
    ]


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


def _batch(stores: dict[str, FeatureStore], streams: list[str], utterances: list[str], on: str) -> Streams:
    return {
        s: tuple(torch.from_numpy(v).to(on, non_blocking=True) for v in stores[s].batch(utterances))
        for s in streams
    }


def _kept(utterances, speakers, side, epoch, true, classes, logits) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "utterance": utterances,
            "speaker": speakers.loc[utterances].to_numpy(),
            "split": side,
            "epoch": np.int16(epoch),
            "true": true.astype(np.int8),
            **{f"logit_{c}": logits[:, i] for i, c in enumerate(classes)},
        }
    )
