"""What AVEL and MEM are worth on clips that were not trained on, and which weights they can move at all."""

from collections.abc import Callable

import torch
from torch import Tensor

from foalkit import losses
from foalkit.models import FoalNet
from foalkit.params import Params
from foalkit.training.gradients import both_present, loss_terms, precision, same_draws
from foalkit.training.networks import Entered, Net, Streams, classify


def reach(net: Net, streams: Streams, labels: Tensor, params: Params) -> dict[str, dict[str, int]]:
    """By term ("avel", "mem"), how many weights its gradient reaches, and how many of them the class logits read.

    Found on the graph of one batch (`streams`, labels `(B,)` of at least two emotions), before any step: a term that
    shares no weight with the classifier cannot change an answer through its gradient.
    """
    weights = {n: w for n, w in net.named_parameters() if w.requires_grad}
    net.eval()
    with same_draws(), precision(params, labels.device.type):
        entered = net.enter(streams)
        terms = loss_terms(net.core, entered, labels, params)
        read = _reached(classify(net.core, entered).sum(), weights)
        found = {}
        for name in ("avel", "mem"):
            if name in terms:
                moved = _reached(terms[name], weights)
                shared = sum(weights[n].numel() for n in moved & read)
                found[name] = {"weights": sum(weights[n].numel() for n in moved), "of_classifier": shared}
    return found


def _reached(value: Tensor, weights: dict[str, Tensor]) -> set[str]:
    gradients = torch.autograd.grad(value, [*weights.values()], retain_graph=True, allow_unused=True)
    return {name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None}


@torch.inference_mode()
def held_out_terms(net: Net, enter: Callable[[Tensor], Entered], labels: Tensor, params: Params) -> dict[str, float]:
    """The weighted terms on clips that were not trained on, `labels` `(N,)`, without dropout, in batches as trained.

    `enter(rows)` gives these clips' streams after the input layers; the batches are equal parts of one fixed order.
    `held_avel` stands beside its levels at the present temperature, `held_avel_chance` and `held_avel_floor`
    (`losses.avel_levels`); `held_retrieval` is how often the most similar *other* clip's picture has a sound's emotion,
    beside `held_retrieval_chance`, both means over emotions; `held_mem` and `held_mem_accuracy` are of pairs as
    training makes them, `held_mem_accuracy_drawn` of pairs whose negative is any clip of another emotion.
    """
    if not isinstance(net.core, FoalNet) or not (params.loss.avel or params.loss.mem):
        return {}
    net.eval()
    rng = torch.Generator().manual_seed(0)  # the same batches and the same drawn negatives in every epoch
    order = torch.randperm(len(labels), generator=rng)
    parts = order.tensor_split(-(-len(labels) // params.training.batch))
    classes = len(params.corpus.classes)
    sums = {  # of each measure the sum and the number of what is summed, per emotion where that is averaged over
        **({"avel": 1, "avel_chance": 1, "avel_floor": 1} if params.loss.avel else {}),
        **({"retrieval": classes, "retrieval_chance": classes} if params.loss.avel else {}),
        **({"mem": 1, "mem_accuracy": 1, "mem_accuracy_drawn": 1} if params.loss.mem else {}),
    }
    sums = {name: torch.zeros(2, size, dtype=torch.float64) for name, size in sums.items()}
    for rows in parts:
        with precision(params, next(net.parameters()).device.type):
            measured = _measures(net.core, enter(rows), labels[rows], params, rng)
        for name, (value, count) in measured.items():
            sums[name] += torch.stack([value * count, count]).double().view(2, -1)
    return {f"held_{n}": float((s / c)[c > 0].mean()) for n, (s, c) in sums.items() if (c > 0).any()}


def _measures(core: FoalNet, entered: Entered, labels: Tensor, params: Params, rng: torch.Generator) -> dict:
    """Of one batch, by name: the mean value and of how many, `(1,)` or `(C,)` where it is counted per emotion.

    Clips that lack a stream are left out, as in training.
    """
    if (present := both_present(entered)) is not None:
        entered, labels = [(x[present], mask[present]) for x, mask in entered], labels[present.cpu()]
    if not len(labels):
        return {}
    (audio, audio_mask), (video, video_mask) = entered
    n, own, loss = len(labels), torch.arange(len(labels)), params.loss
    projected = core.project(audio, video, audio_mask, video_mask)
    how = {"normalise_targets": loss.normalise_targets}
    align = losses.avel(*projected, labels.to(audio.device), core.temperature, **how)
    similarity, found = align.similarity.cpu(), {}
    if loss.avel:
        levels = losses.avel_levels(labels, core.temperature.cpu(), len(params.corpus.classes), **how)
        for name, value in zip(("avel", "avel_chance", "avel_floor"), (align.loss, *levels), strict=True):
            found[name] = value.cpu(), torch.tensor(n)
        if n > 1:  # there are other clips
            nearest = similarity.masked_fill(torch.eye(n, dtype=torch.bool), -torch.inf).argmax(1)
            counts = torch.bincount(labels, minlength=len(params.corpus.classes))
            hits = torch.bincount(labels[labels[nearest] == labels], minlength=len(counts))
            found["retrieval"] = hits / counts.clamp(min=1), counts
            found["retrieval_chance"] = (counts - 1).clamp(min=0) / (n - 1), counts
    if loss.mem:
        drawn = losses.hard_negatives(torch.zeros(n, n), labels, how="multinomial", generator=rng)
        hard = losses.hard_negatives(similarity, labels, how=loss.hard_negatives, generator=rng)
        videos, audios = (
            torch.stack([own, *other]).to(audio.device) for other in zip(hard[:2], drawn[:2], strict=True)
        )
        fused = core.fuse_with(audio, video, audio_mask, video_mask, videos, audios)
        match, clash, any_clash = ((core.match_a2v(f.a2v).cpu(), core.match_v2a(f.v2a).cpu()) for f in fused)
        value = losses.mem(match[0], clash[0], match[1], clash[1], hard.valid).loss
        count = hard.valid.sum()
        found["mem"] = value, count
        for name, other in (("mem_accuracy", clash), ("mem_accuracy_drawn", any_clash)):
            right = [x.argmax(1) == 1 for x in match] + [x.argmax(1) == 0 for x in other]
            found[name] = torch.stack(right)[:, hard.valid].double().sum() / (4 * count).clamp(min=1), count
    return found
