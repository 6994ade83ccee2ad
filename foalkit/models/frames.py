"""How a batch's frames lie in memory while two streams attend to each other: padded, or packed end to end.

Shapes: B clips, T frames (padded), N real frames of all clips, D features, heads H of D / H columns. P passes share
one batch: in pass p, clip i asks the context of clip `partner[p, i]`, with `partner` `(P, B)`.
"""

from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Padded:
    """Query `(1 or P, B, Tq, D)` and context `(B, Tk, C)` as they are, masks beside them."""

    def __init__(self, query_mask: Tensor, context_mask: Tensor, partner: Tensor):
        self.query_mask, self.partner = query_mask, partner
        # A softmax over no frame is 0 / 0: an absent context is attended to, padding as it is, and left out after.
        present = context_mask.any(1)  # (B,)
        self.looked_at = context_mask | ~present[:, None]
        # (P, B, 1, 1); None where a CPU has seen that there is none to zero: a GPU would have to be waited for
        every = present.device.type == "cpu" and bool(present.all())
        self.absent = None if every else ~present[partner][..., None, None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Every pass's answers `(P, B, Tq, D)`."""
        passes = len(self.partner)
        asked = self.partner.flatten()
        q = q.expand(passes, -1, -1, -1).flatten(0, 1)
        q, k, v = (
            x.unflatten(2, (heads, -1)).transpose(1, 2)  # (P B, T, D) -> (P B, H, T, D / H)
            for x in (q, k.index_select(0, asked), v.index_select(0, asked))
        )
        # (P B, 1, 1, Tk): every head and every query frame looks at the same real frames.
        seen = self.looked_at[asked][:, None, None]
        attended = F.scaled_dot_product_attention(q, k, v, seen)
        return attended.transpose(1, 2).flatten(2).unflatten(0, (passes, -1))

    def recomputed(self, function: Callable, x: Tensor):
        """`function(x)`."""
        return function(x)

    def zero_absent(self, x: Tensor) -> Tensor:
        """`x` `(P, B, Tq, D)` with zeros where the asked context is absent."""
        return x if self.absent is None else x.masked_fill(self.absent, 0)

    def mean(self, x: Tensor) -> Tensor:
        """`(P, B, Tq, D)` averaged over real frames: `(P, B, D)`, zeros where there is none."""
        return masked_mean(x, self.query_mask)


class Packed:
    """Query `(1 or P, N, D)` and context `(N, C)`: real frames only, clip after clip."""

    def __init__(self, query_mask: Tensor, context_mask: Tensor, partner: Tensor):
        self.asking, self.asked = query_mask.sum(1).tolist(), context_mask.sum(1).tolist()
        self.partner = partner.tolist()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Every pass's answers `(P, N, D)`."""
        q = q.expand(len(self.partner), -1, -1)
        return _PackedAttention.apply(q, k, v, self, heads)

    def pairs(self, heads: int, contexts: tuple[Tensor, ...], queries: tuple[Tensor, ...]):
        """A tuple per clip that is asked: its parts of `contexts` `(M, D)`, then a list of who asks it, where each is
        the list of its parts of `queries` `(P, N, D)`. All parts are views `(H, T, D / H)`.
        """
        contexts = [x.unflatten(1, (heads, -1)).transpose(0, 1).split(self.asked, 1) for x in contexts]
        queries = [x.unflatten(2, (heads, -1)).transpose(1, 2).split(self.asking, 2) for x in queries]
        for j, length in enumerate(self.asked):
            asking = [
                [x[i][p] for x in queries]
                for p, row in enumerate(self.partner)
                for i, asked in enumerate(row)
                if asked == j and self.asking[i]
            ]
            if length and asking:
                yield *(x[j] for x in contexts), asking

    def empty_like(self, x: Tensor) -> Tensor:
        """For `pairs` to fill: unset, or zeros where some context is absent."""
        make = torch.empty if all(self.asked) else torch.zeros
        return make(x.shape, dtype=x.dtype, device=x.device)

    def recomputed(self, function: Callable, x: Tensor):
        """`function(x)`, whose results are made again for the gradient, not kept."""
        return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)

    def zero_absent(self, x: Tensor) -> Tensor:
        """`x` `(P, N, D)` with zeros where the asked context is absent."""
        if all(self.asked):
            return x
        there = torch.tensor(self.asked, device=x.device)[torch.tensor(self.partner, device=x.device)] > 0
        rows = there.repeat_interleave(torch.tensor(self.asking, device=x.device), 1)
        return x.masked_fill(~rows[..., None], 0)

    def mean(self, x: Tensor) -> Tensor:
        """`(P, N, D)` averaged over each clip's frames: `(P, B, D)`, zeros where there is none."""
        wide = torch.promote_types(x.dtype, torch.float32)
        sums = [clip.sum(1, dtype=wide) / max(clip.shape[1], 1) for clip in x.split(self.asking, 1)]
        return torch.stack(sums, 1).to(x.dtype)


class _PackedAttention(torch.autograd.Function):
    """Softmax attention of packed q `(P, N, D)` to k and v `(M, D)`, a pair of clips at a time, H heads at once.

    The weights are not kept but made again in the backward pass: they would be a seventh of all that is.
    """

    @staticmethod
    def forward(ctx, q, k, v, frames, heads):
        ctx.save_for_backward(q, k, v)
        ctx.frames, ctx.heads = frames, heads
        out = frames.empty_like(q)
        for k_clip, v_clip, asking in frames.pairs(heads, (k, v), (q, out)):
            keys = _turned(k_clip)
            for query, answer in asking:
                torch.bmm(_weights(query, keys).to(q.dtype), v_clip, out=answer)
        return out

    @staticmethod
    def backward(ctx, gradient):
        q, k, v = ctx.saved_tensors
        wide = torch.promote_types(q.dtype, torch.float32)
        dq, dk, dv = ctx.frames.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for k_clip, v_clip, dk_clip, dv_clip, asking in ctx.frames.pairs(ctx.heads, (k, v, dk, dv), (q, gradient, dq)):
            keys, values, to_k, to_v = _turned(k_clip), _turned(v_clip), [], []
            for query, g, d_query in asking:
                weights = _weights(query, keys)
                to_v.append(torch.bmm(weights.to(q.dtype).transpose(1, 2), g).to(wide))
                slope = torch.bmm(g, values).to(wide).mul_(weights)
                slope.addcmul_(weights, slope.sum(2, keepdim=True), value=-1)
                slope = slope.mul_(query.shape[2] ** -0.5).to(q.dtype)
                torch.bmm(slope, k_clip, out=d_query)
                to_k.append(torch.bmm(slope.transpose(1, 2), query).to(wide))
            dk_clip.copy_(reduce(Tensor.add_, to_k))
            dv_clip.copy_(reduce(Tensor.add_, to_v))
        return dq, dk, dv, None, None


def _weights(query: Tensor, keys: Tensor) -> Tensor:
    """Softmax weights `(H, Tq, Tk)` in at least fp32 of `(H, Tq, D / H)` and `(H, D / H, Tk)`."""
    wide = torch.promote_types(query.dtype, torch.float32)
    return torch.softmax(torch.bmm(query, keys).to(wide).mul_(query.shape[2] ** -0.5), 2)


def _turned(x: Tensor) -> Tensor:
    # bf16 products of a transposed matrix take three times as long as of its copy
    return x.transpose(1, 2).contiguous() if x.dtype == torch.bfloat16 else x.transpose(1, 2)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real frames: `x` `(…, B, T, D)`, `mask` `(B, T)`, result `(…, B, D)`, zeros where there is none."""
    total = (x * mask[..., None]).sum(-2, dtype=torch.promote_types(x.dtype, torch.float32))  # fp16 overflows
    return (total / mask.sum(1, keepdim=True).clamp(min=1)).to(x.dtype)
