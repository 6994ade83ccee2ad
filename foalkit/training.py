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
from torch import Tensor, nn

from foalkit import UserError, losses, records, scoring
from foalkit.data import leaks
from foalkit.data.encoders import load_wavlm
from foalkit.data.features import Data, FeatureStore, open_data
from foalkit.data.folds import Split, check_coverage, split
from foalkit.devices import device
from foalkit.models import CFNSR, AudioCNN, FoalNet, ResNeXt3D, Unimodal
from foalkit.models.inputs import ChannelsFirst, PicturesInput, Standardise, WavLMInput, build_input
from foalkit.params import Params
from foalkit.processes import Processes, launch
from foalkit.progress import progress
from foalkit.stacked import Stack, Streams

Start = dict[str, dict[str, Tensor]]  # variant → its network's weights
Entered = list[tuple[Tensor, Tensor]]  # the same after the input layers, in the variant's order


class Net(nn.Module):
    """Input layers per stream, then the network: Foal-Net's or CFN-SR's, for both streams or for one."""

    def __init__(self, inputs: dict[str, nn.Module], scales: dict[str, nn.Module], core: nn.Module):
        super().__init__()
        self.inputs, self.scales, self.core = nn.ModuleDict(inputs), nn.ModuleDict(scales), core

    def enter(self, streams: Streams) -> Entered:
        """Each stream through its standardisation and input layer, in the variant's order."""
        return [
            layer(self.scales[s](streams[s][0]) if s in self.scales else streams[s][0], streams[s][1])
            for s, layer in self.inputs.items()
        ]

    def forward(self, streams: Streams) -> Tensor:
        """Class logits `(B, classes)`."""
        return classify(self.core, self.enter(streams))


def classify(core: nn.Module, entered: Entered) -> Tensor:
    """Class logits `(B, classes)` of a network without its input layers; CFN-SR's clips are whole, without masks."""
    masks = [mask for _, mask in entered] if isinstance(core, FoalNet | Unimodal) else []
    return core(*(x for x, _ in entered), *masks)


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


def build_net(params: Params, variant: str, stores: dict[str, FeatureStore], train: list[str]) -> Net:
    """The variant's model for features of these widths; `train` utterances give the standardisation.

    Raises UserError for sizes that do not fit, and for features that CFN-SR cannot read.
    """
    sizes, streams = params.model, params.variants[variant].streams
    scales, inputs = {}, {}
    for s in streams:
        if s in params.training.standardise:
            frames = np.concatenate([stores[s][u] for u in train]).astype(np.float64)
            mean, std = frames.mean(0), frames.std(0)
            scales[s] = Standardise(
                *(torch.tensor(v, dtype=torch.float32) for v in (mean, std + 1e-3 * std.mean()))
            )
        if params.variants[variant].network == "cfn-sr":
            continue
        spec = params.model.inputs.get(s)
        if spec and spec.kind == "wavlm":
            inputs[s] = _fine_tuned(params, s)
            continue
        options = (
            {k: getattr(spec, k) for k in ("layers", "stride", "kernel", "dropout")}
            if (spec and spec.kind == "conv")
            else {}
        )
        inputs[s] = build_input(
            spec.kind if spec else "none", stores[s].width, spec and spec.width, **options
        )
    if params.variants[variant].network == "cfn-sr":
        return _cfn_sr(params, variant, stores, scales)
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
                temperature_range=params.loss.temperature_range,
            )
    except ValueError as error:
        raise UserError(f"params {params.name}, variant {variant}: {error}") from None
    return Net(inputs, scales, core)


def _cfn_sr(params: Params, variant: str, stores: dict[str, FeatureStore], scales: dict) -> Net:
    """CFN-SR, or its one-modality network, for stored frames and MFCCs."""
    own, streams, classes = params.cfn_sr, params.variants[variant].streams, len(params.corpus.classes)
    where = f"params {params.name}, variant {variant}"
    if params.training.processes > 1:
        raise UserError(f"{where}: batch normalisation needs the whole batch: set training.processes=1")
    if "face-frames" in streams and params.features["face-frames"].encoder != "frames":
        raise UserError(f"{where}: CFN-SR sees pictures: set features.face-frames to {{encoder: frames}}")
    for stream in streams:
        lengths = stores[stream].lengths
        short = min(lengths, key=lengths.get)
        if stream == "mfcc" and not 212 <= lengths[short] <= max(lengths.values()) <= 219:
            raise UserError(
                f"{where}: {short} has {lengths[short]} MFCC frames, CFN-SR reads 212 to 219 of every clip: "
                "set features.mfcc.seconds"
            )
    inputs = {
        s: PicturesInput(stores[s].width, crop=own.crop, flip=own.flip)
        if s == "face-frames"
        else ChannelsFirst(stores[s].width)
        for s in streams
    }
    size = {}
    if "face-frames" in streams:
        frames = params.features["face-frames"]
        size = {"frames": frames.frames, "size": frames.size}
    try:
        match streams:
            case ["face-frames"]:
                core = ResNeXt3D(classes, **size)
            case ["mfcc"]:
                core = AudioCNN(classes)
            case ["face-frames", "mfcc"]:
                switches = own.model_dump(include={"block", "residual", "batch_summed_attention"})
                core = CFNSR(classes, **size, **switches)
            case _:
                raise UserError(f"{where}: CFN-SR's streams are face-frames, mfcc, or both in this order")
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return Net(inputs, scales, core.to(memory_format=torch.channels_last_3d))


def _fine_tuned(params: Params, stream: str) -> WavLMInput:
    spec, where = params.model.inputs[stream], f"model.inputs.{stream}"
    if params.features[stream].encoder != "waveform":
        raise UserError(
            f"{where}: a fine-tuned WavLM reads samples: set features.{stream} to {{encoder: waveform}}"
        )
    model, _ = load_wavlm(spec, params.folder / "weights", where)
    return WavLMInput(model, normalise=spec.normalise, checkpointing=spec.checkpointing)


def loss_terms(
    core: nn.Module,
    entered: Entered,
    labels: Tensor,
    params: Params,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The loss terms of one batch by name: `ce`, `avel` and `mem` where weighted, and their weighted `total`.

    `params` are the variant's, `entered` the streams that `core` reads. MEM's negatives are chosen by AVEL's
    similarity, without gradient (section 4). With `training.local_batch` the terms are the mean over such shares
    of the batch: cross-entropy and MEM see a share alone, AVEL compares it with the whole batch, whose other
    clips carry no gradient (ledger row 5: what the released code's processes do).
    """
    everyone, local = torch.arange(len(labels), device=labels.device), params.training.local_batch
    shares = everyone.split(local or len(labels))
    projected = None
    if isinstance(core, FoalNet) and (params.loss.avel or params.loss.mem):
        (audio, audio_mask), (video, video_mask) = entered
        projected = core.project(audio, video, audio_mask, video_mask)
    parts = [
        _share_terms(core, entered, labels, params, projected, None if len(shares) == 1 else rows, generator)
        for rows in shares
    ]
    terms = parts[0]
    if len(parts) > 1:
        share = [len(rows) / len(labels) for rows in shares]
        terms = {n: sum(w * part[n] for w, part in zip(share, parts, strict=True)) for n in terms}
    total = terms["ce"] + sum(getattr(params.loss, n) * terms[n] for n in terms if n != "ce")
    return {**terms, "total": total}


def _share_terms(core, entered, labels, params, projected, rows, generator) -> dict[str, Tensor]:
    """The unweighted terms of the batch's clips `rows`, or of all of them."""
    weights, every_label = params.loss, labels
    if rows is not None:
        entered, labels = [(x[rows], mask[rows]) for x, mask in entered], labels[rows]
    if not isinstance(core, FoalNet):
        return {"ce": F.cross_entropy(classify(core, entered), labels)}
    (audio, audio_mask), (video, video_mask) = entered
    own = torch.arange(len(labels), device=labels.device)
    asked, align = [(own, own)], None  # the passes: who asks whose video, whose audio
    if projected is not None:
        align = losses.avel(
            *projected, every_label, core.temperature, normalise_targets=weights.normalise_targets, rows=rows
        )
    if weights.mem:
        similarity = align.similarity if rows is None else align.similarity[rows][:, rows]
        chosen = losses.hard_negatives(similarity, labels, how=weights.hard_negatives, generator=generator)
        if params.training.positive_pass == "separate":
            asked.append((own, own))
        asked.append((chosen.video, chosen.audio))
    videos, audios = (torch.stack(clips) for clips in zip(*asked, strict=True))
    fused = core.fuse_with(audio, video, audio_mask, video_mask, videos, audios)
    terms = {"ce": F.cross_entropy(core.classify(fused[0]), labels)}
    if weights.avel:
        terms["avel"] = align.loss
    if weights.mem:
        *_, match, clash = fused
        terms["mem"] = losses.mem(
            core.match_a2v(match.a2v),
            core.match_a2v(clash.a2v),
            core.match_v2a(match.v2a),
            core.match_v2a(clash.v2a),
            chosen.valid,
        ).loss
    return terms


def add_gradients(
    net: Net, streams: Streams, labels: Tensor, params: Params, processes: Processes | None = None
) -> dict[str, Tensor]:
    """Add the gradients of one batch's loss to the parameters'; returns `loss_terms`.

    With `training.micro_batch` that many clips at a time pass the input layers, and several processes share them
    out; AVEL's similarities and MEM's negatives are still those of the whole batch. The batch is entered once
    without gradients, the loss differentiated with respect to what entered, and each part entered again, with
    the same random draws, to carry its rows of that gradient on (cached gradients: Gao et al., 2021).
    """
    precision = _precision(params, labels.device.type)
    at_once = params.training.micro_batch or len(labels)
    if processes is None and at_once >= len(labels):
        with precision:
            terms = loss_terms(net.core, net.enter(streams), labels, params)
        terms["total"].backward()
        return terms

    mine = torch.arange(len(labels)) if processes is None else processes.rows(len(labels))
    parts = [
        (rows, {s: (x[rows % len(labels)], mask[rows % len(labels)]) for s, (x, mask) in streams.items()})
        for rows in mine.split(at_once)
    ]
    draws, entered = [], []
    with torch.no_grad(), precision:
        for _, part in parts:
            draws.append(_random_state())
            entered.append(net.enter(part))
    whole = [
        tuple(torch.cat(pieces) for pieces in zip(*stream, strict=True))
        for stream in zip(*entered, strict=True)
    ]
    if processes is not None:
        whole = [tuple(processes.gather(v, len(labels)) for v in stream) for stream in whole]
    leaves = [(x.detach().requires_grad_(), mask) for x, mask in whole]
    with precision:
        terms = loss_terms(net.core, leaves, labels, params)
    terms["total"].backward()
    now = _random_state()
    for (rows, part), drawn in zip(parts, draws, strict=True):
        _set_random_state(drawn)
        with precision:
            again = [x for x, _ in net.enter(part)]
        # beyond the batch stand rows of another process's, entered only to fill a share
        own = rows < len(labels)
        learned = [
            (x[own], leaf.grad[rows[own]])
            for x, (leaf, _) in zip(again, leaves, strict=True)
            if x.requires_grad
        ]
        if learned:
            torch.autograd.backward(*zip(*learned, strict=True))
    _set_random_state(now)
    if processes is not None:
        processes.share_gradients(net)
    return terms


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
        self.generator = _default_generator(
            on
        ).clone_state()  # where runs alternate, each goes on in its own draws
        learned = [w for w in self.net.parameters() if w.requires_grad]
        self.optimiser = torch.optim.AdamW(learned, lr=t.lr, weight_decay=t.weight_decay, fused=True)
        steps = t.epochs * -(-len(sides.train) // t.batch)
        self.rate = torch.optim.lr_scheduler.LambdaLR(self.optimiser, _schedule(t.schedule, steps))
        self.labels = torch.tensor(data.labels(sides.train))
        held_out = {"validation": sides.validation, "test": sides.test}
        self.held_out = {s: (u, data.labels(u)) for s, u in held_out.items() if u}
        self.speakers = data.table.set_index("utterance")["speaker"]
        self.kept, self.history, self.best, self.weights = [], [], None, {}
        self.sums: dict[str, float] = {}  # of the epoch's loss terms, over clips
        self.steps = 0

    def batches(self) -> list[Tensor]:
        """The rows of each of an epoch's batches."""
        self.net.train()
        self.sums, self.steps = {}, 0
        return list(
            _epoch_order(self.labels, self.params.training.sampler, self.rng).split(
                self.params.training.batch
            )
        )

    def batch(self, rows: Tensor) -> tuple[Streams, Tensor]:
        """Streams and labels of these rows of the training side."""
        streams = _batch(self.data.stores, self.streams, [self.sides.train[i] for i in rows], self.on)
        if self.params.training.job == "stacked":
            # One length for all runs, and for a lone one to draw the same masks.
            streams = {
                s: _filled(*stream, max(self.data.stores[s].lengths.values()))
                for s, stream in streams.items()
            }
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
        with _precision(p, labels.device.type):
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
    with torch.inference_mode(), _precision(params, on.type):
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


def _precision(params: Params, kind: str) -> torch.autocast:
    return torch.autocast(kind, torch.bfloat16, enabled=params.training.precision == "bf16")


def _random_state() -> tuple:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), devices, np.random.get_state()


def _set_random_state(state: tuple) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
    np.random.set_state(state[2])


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
