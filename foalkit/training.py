"""One plain loop: a variant's model on a fold's features, every epoch's logits kept, one record at the end."""

import math
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from foalkit import UserError, records, scoring
from foalkit.data import leaks
from foalkit.data.features import Data, FeatureStore, open_data
from foalkit.data.folds import Split, check_coverage, split
from foalkit.devices import device
from foalkit.gradients import add_gradients, loss_terms, precision
from foalkit.models import FoalNet, Unimodal
from foalkit.networks import Net, Streams, build_net
from foalkit.params import Params
from foalkit.processes import Processes, launch
from foalkit.progress import progress
from foalkit.stacked import Stack

Start = dict[str, dict[str, Tensor]]  # variant → its network's weights


@dataclass
class Result:
    """What training leaves: one history row per epoch, all kept logits, the selected epoch's weights."""

    history: pd.DataFrame  # epoch, loss terms, temperature, wa/ua per split
    predictions: pd.DataFrame  # utterance, speaker, split, epoch, true, logit_<class>
    scores: dict[str, dict]  # selection → wa, ua, epoch on the test fold
    absent: (
        pd.DataFrame
    )  # utterance, speaker, condition, true, logit_<class>: the test side, one stream hidden
    weights: dict[str, Tensor]
    selection: str
    parameters: int
    device: str
    seconds: float  # of runs trained at once: the share of one
    together: int = 1  # so many runs were trained at once


class _Loop:
    """One run while it trains: its network, its optimiser, its draws, and all that is kept of its epochs."""

    def __init__(self, params, variant, data, sides, seed, protocol, on, processes=None, start=None):
        torch.manual_seed(seed)
        np.random.seed(seed)  # transformers draws WavLM's time masks from NumPy
        self.rng = torch.Generator().manual_seed(seed)
        t, self.params, self.variant, self.data = params.training, params, variant, data
        self.streams, self.on, self.processes = params.variants[variant].streams, on, processes
        self.sides, self.selection = sides, scoring.SELECTION[protocol]
        self.net = build_net(params, variant, data.stores, sides.train).to(on)
        if start:
            self.net.core.start_from(*start.values())
        if processes is not None:
            torch.manual_seed(seed + processes.rank)  # the same start everywhere, then draws of their own
            np.random.seed(seed + processes.rank)
        # where runs alternate, each goes on in its own draws
        self.generator = _default_generator(on).clone_state()
        learned = [w for w in self.net.parameters() if w.requires_grad]
        self.optimiser = torch.optim.AdamW(learned, lr=t.lr, weight_decay=t.weight_decay, fused=True)
        steps = t.epochs * -(-len(sides.train) // t.batch)
        self.rate = torch.optim.lr_scheduler.LambdaLR(self.optimiser, _schedule(t.schedule, steps))
        self.labels = torch.tensor(data.labels(sides.train))
        held_out = {"validation": sides.validation, "test": sides.test}
        self.held_out = {s: (u, data.labels(u)) for s, u in held_out.items() if u}
        self.speakers = data.table.set_index("utterance")["speaker"]
        self.kept, self.history, self.best, self.weights = [], [], None, {}
        # One length for all runs of a stack, and for a lone one to draw the same masks.
        stacked = self.streams if t.job == "stacked" else []
        self.longest = {s: max(data.stores[s].lengths.values()) for s in stacked}

    def batches(self) -> list[Tensor]:
        """The rows of each of an epoch's batches."""
        self.net.train()
        self.sums, self.steps = {}, 0  # of the epoch: loss terms over clips, and steps taken
        t = self.params.training
        return list(_epoch_order(self.labels, t.sampler, self.rng).split(t.batch))

    def batch(self, rows: Tensor) -> tuple[Streams, Tensor]:
        """Streams and labels of these rows of the training side."""
        streams = _batch(self.data.stores, self.streams, [self.sides.train[i] for i in rows], self.on)
        streams |= {s: _filled(*streams[s], frames) for s, frames in self.longest.items()}
        return streams, self.labels[rows].to(self.on)

    def learn(self, terms: dict[str, float], rows: Tensor) -> None:
        """Step along the gradients that are there; raises UserError for a loss that is not finite."""
        if not math.isfinite(terms["total"]):
            raise UserError(
                f"{self.variant}: the loss is {terms['total']} at epoch {len(self.history) + 1}, "
                f"step {self.steps + 1}: lower training.lr"
            )
        self.optimiser.step()
        self.rate.step()
        self.steps += 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * len(rows)

    def score(self) -> None:
        """Predict what is held out, and keep the weights if no epoch's were better."""
        row = {"epoch": len(self.history) + 1, **{n: v / len(self.labels) for n, v in self.sums.items()}}
        if isinstance(self.net.core, FoalNet):
            row["temperature"] = self.net.core.temperature.item()
        tables = []
        for side, (utterances, true) in self.held_out.items():
            logits = predict(
                self.net, self.data.stores, self.streams, utterances, self.params, self.processes
            )
            tables.append(
                _kept(utterances, self.speakers, side, row["epoch"], true, self.data.classes, logits)
            )
        now = pd.concat(tables)
        self.kept.append(now)
        scored = scoring.scores_by_epoch(now).set_index("split")
        row |= {
            f"{side}_{m}": float(scored.loc[side, m]) for side in scored.index for m in ("wa", "ua", "loss")
        }
        self.history.append(row)
        # as scoring.select_epochs ranks
        rank = (row[f"{self.selection}_ua"], -row[f"{self.selection}_loss"])
        if self.best is None or rank > self.best:
            self.best = rank
            self.weights = {n: v.detach().cpu().clone() for n, v in self.net.state_dict().items()}

    def result(self, seconds: float, together: int) -> Result:
        """The selected epoch's weights are loaded for the test side's logits with one stream hidden."""
        self.net.load_state_dict(self.weights)
        fused = self.streams if isinstance(self.net.core, FoalNet) else []
        absent = _absent(
            self.net, self.data, self.sides.test, self.speakers, self.params, fused, self.processes
        )
        predictions = pd.concat(self.kept, ignore_index=True)
        return Result(
            history=pd.DataFrame(self.history),
            predictions=predictions,
            absent=absent,
            scores=scoring.selected_scores(scoring.scores_by_epoch(predictions)),
            weights=self.weights,
            selection=self.selection,
            parameters=sum(w.numel() for w in self.net.parameters()),
            device=self.on,
            seconds=seconds,
            together=together,
        )


def train(
    params: Params,
    variant: str,
    data: Data,
    sides: Split,
    seed: int,
    protocol: str,
    processes: Processes | None = None,
    start: Start | None = None,
) -> Result:
    """Train one variant on one fold and score every epoch on validation and test.

    `params` are the file's; the variant's settings are applied here. The test fold's logits are only kept:
    nothing is chosen by them under the honest protocol. `start` is what `first_weights` gives. With
    `training.processes` above 1 the work is done by that many processes (`foalkit.processes`). Raises UserError
    when the loss stops being finite.
    """
    if params.variants[variant].starts_from and not start:
        raise UserError(f"{variant} starts from other runs: give their weights (training.first_weights)")
    if params.for_variant(variant).training.processes > 1 and processes is None:
        return launch(params, variant, sides, seed, protocol)
    return _train(params, variant, data, [(sides, seed)], protocol, processes, start)[0]


def train_stacked(
    params: Params, variant: str, data: Data, runs: list[tuple[Split, int]], protocol: str
) -> list[Result]:
    """`train` for runs (sides, seed) of one variant at once, their weights stacked (`foalkit.stacked`).

    A run's numbers are its lone run's up to the order of sums; its last batch of an epoch, being shorter, is its own.
    Raises UserError for CFN-SR, a fine-tuned WavLM and a batch in parts, and without `training.job` "stacked", which
    makes a lone run draw the same masks.
    """
    p = params.for_variant(variant)
    if p.training.job != "stacked":
        raise UserError(f"{variant}: to train runs in a stack, set training.job=stacked")
    for what, is_so in {
        "network cfn-sr": p.variants[variant].network == "cfn-sr",
        "a fine-tuned WavLM": any(i.kind == "wavlm" for i in p.model.inputs.values()),
        "training.micro_batch": p.training.micro_batch is not None,
        "training.processes above 1": p.training.processes > 1,
    }.items():
        if is_so:
            raise UserError(f"{variant}: {what} cannot be trained in a stack: set training.job to folds")
    return _train(params, variant, data, runs, protocol)


def _train(params, variant, data, runs, protocol, processes=None, start=None) -> list[Result]:
    started, p = time.monotonic(), params.for_variant(variant)
    t = p.training
    on, threads = processes.device if processes else device(t.device), torch.get_num_threads()
    torch.set_num_threads(t.threads)  # CPU sums depend on how many threads share them
    try:
        loops = [_Loop(p, variant, data, s, seed, protocol, on, processes, start) for s, seed in runs]
        stack = Stack([loop.net for loop in loops]) if len(loops) > 1 else None
        label = f"{variant}, seed {runs[0][1]}" if stack is None else f"{variant}, {len(runs)} runs"
        for _ in progress(range(t.epochs), label, t.epochs):
            for taken in zip_longest(*(loop.batches() for loop in loops)):
                at_once = [n for n, rows in enumerate(taken) if rows is not None and len(rows) == t.batch]
                if stack is None or len(at_once) < 2:
                    at_once = []
                else:
                    _learn_stacked(stack, loops, at_once, taken, p)
                for n, (loop, rows) in enumerate(zip(loops, taken, strict=True)):
                    if rows is not None and n not in at_once:
                        with _draws_of(loop) if stack else nullcontext():
                            _learn_alone(loop, rows, p)
            for loop in loops:
                loop.score()
        spent = (time.monotonic() - started) / len(loops)
        return [loop.result(spent, len(loops)) for loop in loops]
    finally:
        torch.set_num_threads(threads)


def _learn_alone(loop: _Loop, rows: Tensor, p: Params) -> None:
    loop.optimiser.zero_grad(set_to_none=True)
    terms = add_gradients(loop.net, *loop.batch(rows), p, loop.processes)
    loop.learn({name: value.item() for name, value in terms.items()}, rows)


def _learn_stacked(stack: Stack, loops: list[_Loop], at_once: list[int], taken: tuple, p: Params) -> None:
    def terms_of(net: Net, streams: Streams, labels: Tensor) -> dict[str, Tensor]:
        with precision(p, labels.device.type):
            return loss_terms(net.core, net.enter(streams), labels, p)

    for n in at_once:
        if isinstance(loops[n].net.core, FoalNet):
            loops[n].net.core.put_temperature_back()
    streams, labels = zip(*(loops[n].batch(taken[n]) for n in at_once), strict=True)
    terms = stack.add_gradients(at_once, terms_of, streams, labels, [loops[n].generator for n in at_once])
    for n, values in zip(at_once, torch.stack(list(terms.values()), 1).tolist(), strict=True):
        loops[n].learn(dict(zip(terms, values, strict=True)), taken[n])


@contextmanager
def _draws_of(loop: _Loop):
    """Inside, what draws from torch's default generator draws the run's own numbers."""
    default = _default_generator(loop.on)
    default.set_state(loop.generator.get_state())
    yield
    loop.generator.set_state(default.get_state())


def _default_generator(on: str | torch.device) -> torch.Generator:
    on = torch.device(on)
    return torch.default_generator if on.type == "cpu" else torch.cuda.default_generators[on.index or 0]


def predict(
    net: Net,
    stores: dict[str, FeatureStore],
    streams: list[str],
    utterances: list[str],
    params: Params,
    processes: Processes | None = None,
    without: str | None = None,
) -> np.ndarray:
    """Logits `(N, C)` float32 of utterances, without dropout; the stream `without` is hidden by its mask.

    Raises UserError naming the first utterance that has no frame left.
    """
    net.eval()
    t, on = params.training, next(net.parameters()).device
    logits = torch.zeros(len(utterances), len(params.corpus.classes), device=on)
    rows = torch.arange(len(utterances))
    mine = rows[processes.rank :: processes.count] if processes else rows
    with torch.inference_mode(), precision(params, on.type):
        for some in mine.split(
            t.micro_batch or (256 if isinstance(net.core, FoalNet | Unimodal) else t.batch)
        ):
            part = _batch(stores, streams, [utterances[i] for i in some], on)
            if without is not None:
                part[without] = (part[without][0], torch.zeros_like(part[without][1]))
            heard = torch.stack([mask.any(1) for _, mask in part.values()]).any(0)
            if not heard.all():
                silent = utterances[some[int(heard.int().argmin())]]
                raise UserError(
                    f"utterance {silent}: every stream is masked, nothing is left to predict from"
                )
            logits[some] = net(part).float()
    return (processes.reduce(logits) if processes else logits).cpu().numpy()


def _absent(net, data: Data, utterances, speakers, params: Params, streams, processes) -> pd.DataFrame:
    """The selected epoch's logits of Foal-Net with each of its streams hidden in turn."""
    true, parts = data.labels(utterances), []
    for hidden in streams if len(streams) > 1 else []:
        logits = predict(net, data.stores, streams, utterances, params, processes, without=hidden)
        table = _kept(utterances, speakers, "test", 0, true, data.classes, logits).drop(
            columns=["split", "epoch"]
        )
        table.insert(2, "condition", f"no {hidden}")
        parts.append(table)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"utterance": []})


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
        "starts_from": {
            v: records.read_record(records.run_folder(params, protocol, v, fold, seed) / "record.json")[
                "weights_digest"
            ]
            for v in params.variants[variant].starts_from
        },
        "manifest_digest": data.info["manifest_digest"],
        "feature_digests": {s: data.info["features"][s]["digest"] for s in params.variants[variant].streams},
        "encoders": {s: data.info["features"][s]["encoder"] for s in params.variants[variant].streams},
        "parameters": result.parameters,
        "device": result.device,
        "history": result.history.astype(float).round(6).to_dict("records"),
        "seconds": round(result.seconds, 2),
        "together": result.together,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "provenance": records.provenance(),
    }
    folder = records.run_folder(params, protocol, variant, fold, seed)
    return records.write_run(folder, record, result.predictions, result.weights, result.absent)


def run(params: Params, variant: str, fold: int, seed: int, protocol: str, data: Data | None = None) -> Path:
    """Prepare what is missing, train and save one run: what notebook 02 does step by step."""
    data = data or open_data(params, params.variants[variant].streams)
    check_coverage(data.table, params)
    sides = split(data.table, params, fold, protocol)
    leaks.check(data, sides)
    start = first_weights(params, variant, fold, seed, protocol)
    result = train(params, variant, data, sides, seed, protocol, start=start)
    leaks.check_statistics(result.weights, data.stores, sides)
    return save(params, variant, fold, seed, protocol, data, sides, result)


def first_weights(params: Params, variant: str, fold: int, seed: int, protocol: str) -> Start:
    """The weights that a variant starts from, by variant: the selected epoch's of the same fold, seed and protocol.

    A run that is not there is trained first. Raises UserError for weights that are not the ones of their record.
    """
    states = {}
    for name in params.variants[variant].starts_from:
        if any(f == fold and s == seed for _, _, f, s in records.missing_runs(params, [(protocol, name)])):
            run(params, name, fold, seed, protocol)
        state = records.read_weights(records.run_folder(params, protocol, name, fold, seed))
        states[name] = {k.removeprefix("core."): v for k, v in state.items() if k.startswith("core.")}
    return states


def run_all(params: Params, runs: list[tuple[str, str, int, int]]) -> list[Path]:
    """Train and save each (protocol, variant, fold, seed), in this process, with progress.

    With `training.job` "stacked" all folds and seeds of a variant are trained at once, also where one is asked for.
    """
    data = open_data(params)
    if params.training.job != "stacked":
        return [
            run(params, variant, fold, seed, protocol, data)
            for protocol, variant, fold, seed in progress(runs, "runs")
        ]
    stacks = list(dict.fromkeys(run[:2] for run in runs))
    return [record for some in progress(stacks, "stacks") for record in _run_stacked(params, *some, data)]


def _run_stacked(params: Params, protocol: str, variant: str, data: Data) -> list[Path]:
    check_coverage(data.table, params)
    runs = [(fold, seed) for fold in params.fold_numbers(protocol) for seed in params.seeds]
    sides = {fold: split(data.table, params, fold, protocol) for fold, _ in runs}
    for some in sides.values():
        leaks.check(data, some)
    results = train_stacked(params, variant, data, [(sides[fold], seed) for fold, seed in runs], protocol)
    for (fold, _), result in zip(runs, results, strict=True):
        leaks.check_statistics(result.weights, data.stores, sides[fold])
    return [
        save(params, variant, fold, seed, protocol, data, sides[fold], result)
        for (fold, seed), result in zip(runs, results, strict=True)
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


def _batch(
    stores: dict[str, FeatureStore], streams: list[str], utterances: list[str], on: str | torch.device
) -> Streams:
    return {s: stores[s].tensors(utterances, on) for s in streams}


def _filled(x: Tensor, mask: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """`(B, T, D)` and `(B, T)` padded to T = `frames`."""
    more = frames - x.shape[1]
    return F.pad(x, (0, 0, 0, more)), F.pad(mask, (0, more))


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
