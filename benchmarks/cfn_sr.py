"""CFN-SR's training step: the kit's loop against a plain fp32 eager one, same weights, clips and labels.

Plain is how a research script writes it: contiguous fp32 video, forward, cross-entropy, backward. Ours is
`gradients.add_gradients` on stored 8-bit frames, scaling included: channels-last-3d, and in bf16 where the params say
so. Neither crops: augmentation costs both the same.
"""

import sys

import torch
import torch.nn.functional as F

from benchmarks import method
from foalkit import devices, params
from foalkit.models import CFNSR
from foalkit.models.cfnsr import Grouped, Pointwise
from foalkit.models.inputs import ChannelsFirst, PicturesInput
from foalkit.training import gradients, networks

# The loss may differ from the plain one's by these shares: channels-last sums in another order, bf16 keeps 8 bits. At
# its random start the network is chaotic: a rounding grows a million times on its way to the first layers' gradients,
# so those are held to be equal in fp64, and what is left of them in fp32 and bf16 is said in the row.
LOSS = {"fp32": 1e-4, "bf16": 3e-2}


class Draw(torch.nn.Module):
    """No crop and no mirror."""

    def forward(self, x):
        return x


def _without_dropout(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
    if isinstance(module, torch.nn.MultiheadAttention):
        module.dropout = 0.0


def _as_stock(net: torch.nn.Module) -> None:
    """Every convolution as it would be written."""
    for module in net.modules():
        if isinstance(module, Pointwise | Grouped):
            module.__class__ = torch.nn.Conv3d


def _apart(net: torch.nn.Module, other: torch.nn.Module) -> float:
    """How far all gradients together are from the other's, as a share of their norm."""
    pairs = [(a.grad, b.grad) for a, b in zip(net.parameters(), other.parameters(), strict=True)]
    return (sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)).sqrt().item()


def _in_double() -> float:
    """How far our gradients are from the stock network's in double precision, of four small clips."""
    torch.manual_seed(0)
    stock, ours = (CFNSR(8, frames=4, size=64).double() for _ in range(2))
    ours.load_state_dict(stock.state_dict())
    _as_stock(stock)
    ours = ours.to(memory_format=torch.channels_last_3d)
    video, sound = torch.randn(4, 3, 4, 64, 64).double(), torch.randn(4, 13, 212).double()
    for net in (stock, ours):
        for module in net.modules():
            _without_dropout(module)
        F.cross_entropy(net(video, sound), torch.arange(4)).backward()
    return _apart(ours, stock)


def measure(rounds: int = 7, *, frames: int = 16, size: int = 112, batch: int = 4) -> list[dict]:
    """Rows of `method.row` for the step in fp32 and, where the processor has it, bf16; seconds are of one batch."""
    torch.manual_seed(0)
    plain = CFNSR(8, frames=frames, size=size)
    picture = torch.randint(0, 256, (batch, frames, size, size, 3), dtype=torch.uint8)
    picture = picture // 4 + torch.arange(batch).view(-1, 1, 1, 1, 1) * 40  # clips that differ as real ones do
    picture = picture.to(torch.uint8)
    sound, labels = 30 * torch.randn(batch, 212, 13), torch.arange(batch) % 8
    masks = torch.ones(batch, frames, dtype=torch.bool), torch.ones(batch, 212, dtype=torch.bool)
    streams = {"face-frames": (picture.flatten(2), masks[0]), "mfcc": (sound, masks[1])}
    bounds = {q: bound for q, bound in LOSS.items() if q == "fp32" or devices.has_bf16()}
    p = {q: params.load("ravdess-cfnsr-small", f"training.precision={q}") for q in bounds}

    ours = CFNSR(8, frames=frames, size=size).to(memory_format=torch.channels_last_3d)
    ours.load_state_dict(plain.state_dict())
    pictures = PicturesInput(3 * size * size)
    pictures.draw = Draw()
    net = networks.Net({"face-frames": pictures, "mfcc": ChannelsFirst(13)}, {}, ours)
    for module in (*plain.modules(), *net.modules()):
        _without_dropout(module)
    _as_stock(plain)
    video = pictures.eval()(*streams["face-frames"])[0].contiguous()  # (B, 3, T, S, S)
    pictures.train()

    def plain_step():
        plain.zero_grad(set_to_none=True)
        loss = F.cross_entropy(plain(video, sound.transpose(1, 2)), labels)
        loss.backward()
        return loss.item()

    def our_step(precision):
        net.zero_grad(set_to_none=True)
        return gradients.add_gradients(net, streams, labels, p[precision])["total"].item()

    same = _in_double()
    loss, said = plain_step(), {}
    for precision, bound in bounds.items():
        far = abs(our_step(precision) - loss) / loss
        apart = _apart(ours, plain)
        said[precision] = f"fp64 gradients {same:.0e} (≤ 1e-06); loss {far:.1e} (≤ {bound:.0e}), gradients {apart:.1e}"
        if same > 1e-6 or far > bound:
            raise AssertionError(f"CFN-SR in {precision} is not the plain one: {said[precision]}")
    actions = {"plain": plain_step, **{q: (lambda q=q: our_step(q)) for q in bounds}}
    name = f"CFN-SR step, {frames} × {size}², batch {batch}"
    seconds, _ = method.side_by_side(f"{name}, {' and '.join(bounds)}", actions, rounds)
    return [method.row(f"{name}, {q}", seconds["plain"], seconds[q], equality=said[q]) for q in bounds]


if __name__ == "__main__":  # python -m benchmarks.cfn_sr [frames size batch rounds]
    frames, size, batch, rounds = map(int, sys.argv[1:] or (16, 112, 4, 7))
    for line in measure(rounds, frames=frames, size=size, batch=batch):
        print(line)
