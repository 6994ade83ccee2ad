"""Random draws of a training step: dropout's masks and what the negatives are drawn by.

Runs that are trained together (`foalkit.stacked`) keep a generator each, so that a run draws what it draws alone.
"""

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

# one of each run, where several are computed at once under vmap
_generators: list[torch.Generator] = []


@contextmanager
def of_each_run(generators: list[torch.Generator]):
    """Inside, `vmap` goes over runs, and run r draws from `generators[r]`."""
    _generators[:] = generators
    try:
        yield
    finally:
        _generators.clear()


def together() -> bool:
    """Whether several runs are computed at once: then no value may decide what is done."""
    return bool(_generators)


def drawn(like: Tensor, draw: Callable, generator: torch.Generator | None = None) -> Tensor:
    """`draw(shape of like, generator)`, for each run its own; without a generator torch's default one."""
    if not _generators:
        return draw(like.shape, generator)
    return of_all_runs(lambda x: torch.stack([draw(x.shape[1:], g) for g in _generators]), like)


def of_all_runs(function: Callable, *tensors: Tensor) -> Tensor:
    """`function` of tensors under vmap, called once with the runs as their first axis, which it keeps."""
    return _OfAllRuns.apply(function, *tensors)


class _OfAllRuns(torch.autograd.Function):
    @staticmethod
    def forward(function: Callable, *tensors: Tensor) -> Tensor:
        raise RuntimeError("of_all_runs is for tensors that vmap goes over")

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, function: Callable, *tensors: Tensor):
        # vmap has done its part here: what follows is recorded for the gradient as anywhere else
        return function(*(x.movedim(run, 0) for x, run in zip(tensors, in_dims[1:], strict=True))), 0


class Dropout(nn.Dropout):
    """nn.Dropout with masks from 16 random bits a value, on the CPU 7 times cheaper than torch's draws."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p in (0, 1):
            return super().forward(x)
        keep = drawn(x, lambda shape, generator: _keep(shape, self.p, x.device, generator))
        return of_all_runs(self._drop, x, keep) if together() else self._drop(x, keep)

    def _drop(self, x: Tensor, keep: Tensor) -> Tensor:
        return _Dropped.apply(x, keep, self.p)


def _keep(shape: torch.Size, p: float, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """1 where a value stays, else 0: uint8."""
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=device)
    draws = bits.random_(-(2**63), None, generator=generator).view(torch.int16)
    # so many of the 2^16 draws stay: the rate is off by less than 1e-5
    return (draws[:count] >= round(p * 2**16) - 2**15).view(torch.uint8).view(shape)


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor, p: float) -> Tensor:
        ctx.scale, ctx.packed = 1 / (1 - p), x.device.type == "cpu"
        # on the CPU an eighth of torch's masks
        ctx.save_for_backward(torch.from_numpy(np.packbits(keep.numpy())) if ctx.packed else keep)
        return keep.to(x.dtype).mul_(x).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (keep,) = ctx.saved_tensors
        if ctx.packed:
            keep = torch.from_numpy(np.unpackbits(keep.numpy(), count=gradient.numel()))
        return keep.to(gradient.dtype).view(gradient.shape).mul_(gradient).mul_(ctx.scale), None, None
