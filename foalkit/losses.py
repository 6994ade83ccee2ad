"""Foal-Net's two auxiliary losses: emotion alignment (AVEL) and label matching (MEM) with hard negatives.

Li, Gao, Wen, Wang, Li, "Enhancing Modal Fusion by Alignment and Label Matching for Multimodal Emotion
Recognition", Interspeech 2024, doi 10.21437/Interspeech.2024-1462. Where paper and released code part
(the ledger's rows 1-3) an argument chooses; the loss weights (row 4) are the training loop's, which adds the
terms. Everything is computed in at least fp32, under autocast too: at τ = 0.07 bf16 moves a logit by 0.06.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Avel(NamedTuple):
    """Scalars `loss`, `a2v`, `v2a`, and `similarity` `(N, N)`: row i is audio i with every video, over τ."""

    loss: Tensor
    a2v: Tensor
    v2a: Tensor
    similarity: Tensor


class Negatives(NamedTuple):
    """Batch indices `(N,)`: `video` for audio queries, `audio` for video queries; `valid` `(N,)` is bool."""

    video: Tensor
    audio: Tensor
    valid: Tensor


class Mem(NamedTuple):
    """Scalars `loss`, `a2v`, `v2a`."""

    loss: Tensor
    a2v: Tensor
    v2a: Tensor


def avel(
    audio: Tensor,
    video: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    *,
    normalise_targets: bool | str = False,
    detach_keys: bool = False,
    present: Tensor | None = None,
) -> Avel:
    """Audio-video emotion alignment of two projections `(N, D)` with labels `(N,)` (section 3; rows 2 and 3).

    Cosine similarities are *divided* by `temperature`, a float or a 0-d tensor, which may be learnable. The
    target of a pair is 1 where the emotions are equal; `normalise_targets` divides it by the row's number of
    positives, which weakens the loss about 16-fold at 64 samples of four classes. "matched" multiplies it again
    by the batch's mean number of positives (batch / classes in a balanced one): the targets' sum is then the
    undivided one's, and only the rows' shares in it differ, every row weighing the same.
    With `detach_keys` a clip carries a gradient only as a query, audio in `a2v` and video in `v2a`: what it is
    compared with, itself included, has none, as after a gather between processes (ledger row 5).
    Clips whose `present` `(N,)` is False lack a stream: they are in no pair, and a batch of such clips alone gives 0
    with a zero gradient. `similarity` has them all the same.
    Raises ValueError for shapes that do not fit, for a float temperature that is not positive, and for another
    word than "matched".
    """
    if audio.ndim != 2 or audio.shape != video.shape or labels.shape != audio.shape[:1]:
        raise ValueError(
            "avel needs audio and video (N, D) and labels (N,), "
            f"not {tuple(audio.shape)}, {tuple(video.shape)} and {tuple(labels.shape)}"
        )
    if normalise_targets not in (False, True, "matched"):
        raise ValueError(f'normalise_targets is a bool or "matched", not {normalise_targets!r}')
    # A learnable temperature is not checked: the released code leaves it unclamped, and looking would stall
    # the GPU in every step.
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise ValueError(f"temperature divides the similarities and must be positive, not {temperature}")
    with torch.autocast(audio.device.type, enabled=False):
        audio, video = (F.normalize(_wide(x), dim=1) for x in (audio, video))
        similarity = audio @ (video.detach() if detach_keys else video).T / temperature
        kept = labels if present is None else labels[present]
        target = _targets(kept[:, None] == kept, normalise_targets, similarity.dtype)  # symmetric: it serves both
        a2v = _aligning(similarity, target, present)
        # transposed only here: earlier, gradients would be added in another order, with other last bits
        from_video = video @ audio.detach().T / temperature if detach_keys else similarity.T
        v2a = _aligning(from_video, target, present)
    return Avel((a2v + v2a) / 2, a2v, v2a, similarity)


@torch.no_grad()
def hard_negatives(
    similarity: Tensor,
    labels: Tensor,
    *,
    how: str = "argmax",
    generator: torch.Generator | None = None,
    present: Tensor | None = None,
) -> Negatives:
    """One in-batch partner of another emotion per sample and direction, without gradient (section 4; row 1).

    `similarity` `(N, N)` is AVEL's; audio query i reads its row i, video query i its column i. `how` is
    "argmax", the most similar one [paper], or "multinomial", one draw from the softmax over the other
    emotions [released code], with `generator` (on the device of `similarity`) where given. Where the batch
    holds no other emotion, the index is the sample's own and `valid` False. So it is for clips whose `present` `(N,)`
    is False, which lack a stream and are no other sample's partner. Raises ValueError for another
    `how` and for shapes that do not fit.
    """
    if labels.ndim != 1 or similarity.shape != (len(labels), len(labels)):
        raise ValueError(
            "hard_negatives needs similarity (N, N) and labels (N,), "
            f"not {tuple(similarity.shape)} and {tuple(labels.shape)}"
        )
    other = labels[:, None] != labels  # (N, N), symmetric
    if present is not None:
        other = other & present & present[:, None]
    valid = other.any(1)
    # A row without another emotion may choose itself, so that no row is empty and the softmax never 0 / 0.
    allowed = other | torch.diag(~valid)
    both = torch.stack([similarity, similarity.T])  # (2, N, N): audio queries, video queries
    both = both.masked_fill(~allowed, -torch.inf)
    if how == "argmax":
        chosen = both.argmax(2)
    elif how == "multinomial":
        # a draw from the softmax: the largest of its quotients by exponential noise, as torch.multinomial draws one
        noise = torch.empty_like(both).exponential_(generator=generator)
        chosen = (both.softmax(2) / noise).argmax(2)
    else:
        raise ValueError(f'how must be "argmax" or "multinomial", not {how!r}')
    return Negatives(chosen[0], chosen[1], valid)


def mem(a2v_positive: Tensor, a2v_negative: Tensor, v2a_positive: Tensor, v2a_negative: Tensor, valid: Tensor) -> Mem:
    """Emotion label matching: cross-entropy over 2N pairs per direction, logits `(N, 2)`, class 1 = match.

    Samples with `valid` `(N,)` False had no negative; both of their pairs are left out, and a batch of such
    samples alone gives 0 with a zero gradient (section 4). Raises ValueError for shapes that do not fit.
    """
    for logits in (a2v_positive, a2v_negative, v2a_positive, v2a_negative):
        if valid.ndim != 1 or logits.shape != (len(valid), 2):
            raise ValueError(
                f"mem needs logits (N, 2) and valid (N,), not {tuple(logits.shape)} and {tuple(valid.shape)}"
            )
    a2v = _matching(a2v_positive, a2v_negative, valid)
    v2a = _matching(v2a_positive, v2a_negative, valid)
    return Mem((a2v + v2a) / 2, a2v, v2a)


def avel_levels(
    labels: Tensor, temperature: float | Tensor, classes: int, *, normalise_targets: bool | str = False
) -> tuple[Tensor, Tensor]:
    """What L_AVEL is for these labels `(N,)` when nothing is aligned, and when everything is: two scalars.

    Not aligned: all similarities are equal. Aligned: sounds and pictures of an emotion lie on one corner of a regular
    simplex of `classes` corners, cosine 1 to their own and −1 / (classes − 1) to the others (section 3's check values).
    """
    if not len(labels):  # no pair
        return labels.new_zeros((), dtype=torch.float32), labels.new_zeros((), dtype=torch.float32)
    same = labels[:, None] == labels  # (N, N)
    temperature = torch.as_tensor(temperature, dtype=torch.float32, device=labels.device).detach()
    levels = []
    for cosine in (torch.zeros(same.shape, device=labels.device), torch.where(same, 1.0, -1 / (classes - 1))):
        target = _targets(same, normalise_targets, cosine.dtype)
        levels.append(F.cross_entropy(cosine / temperature, target))
    return tuple(levels)


def _aligning(similarity: Tensor, target: Tensor, present: Tensor | None) -> Tensor:
    """The mean cross-entropy of the rows that are present, over the columns that are; 0 where none is."""
    if present is not None:
        similarity = similarity[present][:, present]
    return F.cross_entropy(similarity, target) if len(target) else similarity.sum()


def _matching(positive: Tensor, negative: Tensor, valid: Tensor) -> Tensor:
    skip = -100
    target = torch.cat([torch.where(valid, match, skip) for match in (1, 0)])  # (2N,)
    total = F.cross_entropy(_wide(torch.cat([positive, negative])), target, ignore_index=skip, reduction="sum")
    return total / (2 * valid.sum()).clamp(min=1)  # the mean, but 0 rather than 0 / 0 where nothing counts


def _targets(same: Tensor, normalise: bool | str, dtype: torch.dtype) -> Tensor:
    """AVEL's targets of the pairs that are of one emotion, `same` `(N, N)`, which is symmetric."""
    target = same.to(dtype)
    if normalise:
        positives = target.sum(1, keepdim=True)  # the own pair counts, so never 0
        target = target * (positives.mean() if normalise == "matched" else 1) / positives
    return target


def _wide(x: Tensor) -> Tensor:
    """`x` in fp32, or in fp64 where it is already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
