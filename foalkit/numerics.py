"""Does this build of PyTorch sum a bf16 LayerNorm's gradients right? `python -m foalkit.numerics` says so."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def bias_gradient_error(
    norm: Callable[..., Tensor] = F.layer_norm, *, frames: int = 4096, width: int = 256, device: str = "cpu"
) -> float:
    """The relative error of a bf16 LayerNorm's bias gradient, which is the plain sum over `frames`.

    torch 2.15 sums it in bf16 on the CPU, where every sum stops growing once it is 256 times what is added: half of
    it is lost at 1 000 frames, nearly all at 19 000. The kit's own norms are computed in fp32.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(frames, width, generator=generator).bfloat16().to(device)
    gradient = torch.rand(frames, width, generator=generator).bfloat16().to(device)
    weight, bias = torch.ones_like(x[0]), torch.zeros_like(x[0]).requires_grad_()
    norm(x, (width,), weight, bias).backward(gradient)
    exact = gradient.double().sum(0)
    return ((bias.grad.double() - exact).norm() / exact.norm()).item()


def report(device: str = "cpu", norm: Callable[..., Tensor] = F.layer_norm) -> str:
    """One line on this build: affected or not, and by how much."""
    error = bias_gradient_error(norm, device=device)
    build = f"torch {torch.__version__} on {device}: a bf16 LayerNorm's bias gradient is {error:.1%} off"
    if error < 1e-2:
        return build
    return f"{build}: this build is affected; keep LayerNorm in fp32, as foalkit's models do, in code of your own too"


if __name__ == "__main__":
    print(report())
    if torch.cuda.is_available():
        print(report("cuda"))
