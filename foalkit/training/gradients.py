"""The loss of one batch and its gradients, the batch whole or in parts."""

from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foalkit import devices, losses
from foalkit.models import FoalNet
from foalkit.params import Params
from foalkit.training.networks import Entered, Net, Streams, classify


def loss_terms(
    core: nn.Module,
    entered: Entered,
    labels: Tensor,
    params: Params,
    generator: torch.Generator | None = None,
    targets: Tensor | None = None,
) -> dict[str, Tensor]:
    """The loss terms of one batch by name: `ce`, `avel` and `mem` where weighted, and their weighted `total`.

    `params` are the variant's, `entered` the streams that `core` reads. MEM's negatives are chosen by AVEL's
    similarity, without gradient (section 4). A batch that `training.local_batch` divides among processes has the
    same terms with fewer gradients, as what the released code gathers carries none (ledger row 5): AVEL's keys, the
    own clip's too, and the frames of MEM's negatives. Clips
    that lack a stream have a `ce`, and no part in AVEL's pairs and MEM's. With `targets` `(B, classes)`, shares of
    votes, `ce` is of them; AVEL and MEM ask which clips are of one emotion, so theirs are the labels' all the same.
    """
    taught = labels if targets is None else targets
    if not isinstance(core, FoalNet):
        ce = F.cross_entropy(classify(core, entered), taught)
        return {"ce": ce, "total": ce}
    weights, training = params.loss, params.training
    gathered = training.local_batch is not None and training.local_batch < training.batch
    (audio, audio_mask), (video, video_mask) = entered
    batch = audio, video, audio_mask, video_mask
    own = torch.arange(len(labels), device=labels.device)
    present = both_present(entered)
    asked = [(own, own)]  # the passes: who asks whose video, whose audio
    if weights.avel or weights.mem:
        align = losses.avel(
            *core.project(*batch),
            labels,
            core.temperature,
            normalise_targets=weights.normalise_targets,
            detach_keys=gathered,
            present=present,
        )
    if weights.mem:
        how = {"how": weights.hard_negatives, "generator": generator}
        chosen = losses.hard_negatives(align.similarity, labels, present=present, **how)
        if training.positive_pass == "separate":
            asked.append((own, own))
        if not gathered:
            asked.append((chosen.video, chosen.audio))
    videos, audios = (torch.stack(clips) for clips in zip(*asked, strict=True))
    fused = core.fuse_with(*batch, videos, audios)
    if weights.mem and gathered:
        fused += core.fuse_with(*batch, chosen.video[None], chosen.audio[None], detach_context=True)
    terms = {"ce": F.cross_entropy(core.classify(fused[0]), taught)}
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
    total = terms["ce"] + sum(getattr(weights, n) * terms[n] for n in terms if n != "ce")
    return {**terms, "total": total}


def both_present(entered: Entered) -> Tensor | None:
    """Which clips `(B,)` have a real frame of every stream; None where all do."""
    present = torch.stack([mask.any(1) for _, mask in entered]).all(0)
    return None if present.all() else present


def add_gradients(
    net: Net, streams: Streams, labels: Tensor, params: Params, targets: Tensor | None = None
) -> dict[str, Tensor]:
    """Add the gradients of one batch's loss to the parameters'; returns `loss_terms`, of `targets` where given.

    With `training.micro_batch` that many clips at a time pass the input layers; AVEL's similarities and MEM's
    negatives are still those of the whole batch. The batch is entered once
    without gradients, the loss differentiated with respect to what entered, and each part entered again, with
    the same random draws, to carry its rows of that gradient on (cached gradients: Gao et al., 2021).
    """
    wide = precision(params, labels.device.type)
    at_once = params.training.micro_batch or len(labels)
    if at_once >= len(labels):
        with wide:
            terms = loss_terms(net.core, net.enter(streams), labels, params, targets=targets)
        terms["total"].backward()
        return terms

    parts = [
        (rows, {s: (x[rows], mask[rows]) for s, (x, mask) in streams.items()})
        for rows in torch.arange(len(labels)).split(at_once)
    ]
    draws, entered = [], []
    with torch.no_grad(), wide:
        for _, part in parts:
            draws.append(_random_state())
            entered.append(net.enter(part))
    whole = [tuple(torch.cat(pieces) for pieces in zip(*stream, strict=True)) for stream in zip(*entered, strict=True)]
    leaves = [(x.detach().requires_grad_(), mask) for x, mask in whole]
    with wide:
        terms = loss_terms(net.core, leaves, labels, params, targets=targets)
    terms["total"].backward()
    now = _random_state()
    for (rows, part), drawn in zip(parts, draws, strict=True):
        _set_random_state(drawn)
        with wide:
            again = [x for x, _ in net.enter(part)]
        learned = [(x, leaf.grad[rows]) for x, (leaf, _) in zip(again, leaves, strict=True) if x.requires_grad]
        if learned:
            torch.autograd.backward(*zip(*learned, strict=True))
    _set_random_state(now)
    return terms


def precision(params: Params, kind: str) -> torch.autocast:
    """The context of `training.precision` on a kind of device, as far as it has units for it."""
    return torch.autocast(kind, torch.bfloat16, enabled=devices.precision(params.training.precision, kind) == "bf16")


@contextmanager
def same_draws():
    """What is drawn inside is drawn again after it."""
    before = _random_state()
    try:
        yield
    finally:
        _set_random_state(before)


def _random_state() -> tuple:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), devices, np.random.get_state()


def _set_random_state(state: tuple) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
    np.random.set_state(state[2])
