"""AdamW as PyTorch computes it, from its functional form: the class brings PyTorch's compiler along, 3 s a process."""

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class AdamW:
    """The steps of `torch.optim.AdamW(weights, lr, weight_decay, fused=True)`, to the bit; `lr` may be set anew.

    Weights without a gradient stay as they are.
    """

    def __init__(self, weights: list[Tensor], *, lr: float, weight_decay: float):
        self.weights, self.lr, self.weight_decay = weights, lr, weight_decay
        self.moments = {  # by name, one tensor a weight
            "exp_avg": [torch.zeros_like(w, memory_format=torch.preserve_format) for w in weights],
            "exp_avg_sq": [torch.zeros_like(w, memory_format=torch.preserve_format) for w in weights],
            "step": [torch.zeros((), device=w.device) for w in weights],
        }

    def zero_grad(self) -> None:
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        moved = [i for i, weight in enumerate(self.weights) if weight.grad is not None]
        means, squares, steps = ([tensors[i] for i in moved] for tensors in self.moments.values())
        weights = [self.weights[i] for i in moved]
        how = {"lr": self.lr, "beta1": 0.9, "beta2": 0.999, "weight_decay": self.weight_decay, "eps": 1e-8}
        how |= {"amsgrad": False, "maximize": False, "fused": True}
        adamw(weights, [w.grad for w in weights], means, squares, [], steps, **how)
