"""A training step of five runs of Foal-Net with stacked weights, against the five steps one after the other.

Run as `python -m benchmarks.stacked`. Plain is `foalkit`'s own lone step here: the question is what stacking adds to
it. On a GPU (`make bench BENCH=--gpu`) the same at the paper's size.
"""

import argparse

import torch

from benchmarks import method
from foalkit import gradients, networks, params
from foalkit.models import FoalNet
from foalkit.stacked import Stack

RUNS = 5


class Case:
    """Five networks of one width, each with its batch; the lone ones have weights of their own."""

    def __init__(
        self, width: tuple[int, int], frames: tuple[int, int], batch: int, dtype=torch.float32, device="cpu"
    ):
        torch.manual_seed(0)
        self.params, self.device = params.load("demo").for_variant("foal-net"), device
        nets = [FoalNet(*width, projection_dim=min(512, width[0])).to(device, dtype) for _ in range(RUNS)]
        self.lone = [networks.Net({}, {}, net) for net in nets]
        self.nets = [networks.Net({}, {}, FoalNet(*width, projection_dim=min(512, width[0]))) for _ in nets]
        for ours, theirs in zip(self.nets, self.lone, strict=True):
            ours.to(device, dtype).load_state_dict(theirs.state_dict())
        self.stack = Stack(self.nets)
        self.batches, self.labels = [], []
        for _ in range(RUNS):
            streams = {}
            for stream, dim, longest in zip(("audio", "video"), width, frames, strict=True):
                lengths = torch.randint(longest // 3, longest + 1, (batch,)).clamp(min=1)
                mask = torch.arange(longest) < lengths[:, None]
                streams[stream] = torch.randn(batch, longest, dim).to(device, dtype), mask.to(device)
            self.batches.append(streams)
            self.labels.append(torch.randint(4, (batch,)).to(device))
        self.generators = [torch.Generator(device).manual_seed(run) for run in range(RUNS)]

    def terms(self, net, streams, labels):
        return gradients.loss_terms(net.core, list(streams.values()), labels, self.params)

    def plain(self) -> list:
        totals = []
        for net, streams, labels in zip(self.lone, self.batches, self.labels, strict=True):
            net.zero_grad(set_to_none=True)
            total = self.terms(net, streams, labels)["total"]
            total.backward()
            totals.append(total.item())
        return totals

    def ours(self) -> list:
        everyone = list(range(RUNS))
        terms = self.stack.add_gradients(everyone, self.terms, self.batches, self.labels, self.generators)
        return terms["total"].tolist()


def distance(case: Case) -> float:
    """The largest difference of a gradient, without dropout, over the largest gradient."""
    for net in case.lone + case.nets:
        net.eval()
    case.plain(), case.ours()
    gradients = [
        [w.grad for net in nets for w in net.parameters() if w.grad is not None]
        for nets in (case.lone, case.nets)
    ]
    largest = max(g.abs().max() for g in gradients[0])
    off = max((a - b).abs().max() for a, b in zip(*gradients, strict=True)) / largest
    for net in case.lone + case.nets:
        net.train()
    return off.item()


def measure(
    rounds: int = 7, *, widths=(16, 64), batch: int = 32, frames: tuple[int, int] = (13, 12)
) -> list[dict]:
    """The benchmark's rows; raises AssertionError where a gradient is not the lone run's."""
    rows = []
    for width in widths:
        exact = distance(Case((width, width), frames, batch, torch.float64))
        assert exact < 1e-12, f"width {width}: {exact:.1e} from the lone runs' gradients in fp64"
        case = Case((width, width), frames, batch)
        seconds, _ = method.side_by_side({"plain": case.plain, "ours": case.ours}, rounds)
        rows.append(
            method.row(
                f"five runs' steps, stacked, width {width}",
                seconds["plain"],
                seconds["ours"],
                equality=f"fp64 {exact:.0e}",
            )
        )
    return rows


def measure_gpu(rounds: int = 7) -> list[dict]:
    """The same at the paper's size, by the GPU's clock, padded to 6 s as there."""
    sizes = ((1024, 768), (299, 180), 64)
    exact = distance(Case(*sizes, torch.float64, "cuda"))
    assert exact < 1e-12, f"{exact:.1e} from the lone runs' gradients in fp64"
    case = Case(*sizes, torch.float32, "cuda")
    with torch.autocast("cuda", torch.bfloat16):
        seconds = method.by_the_clock({"plain": case.plain, "ours": case.ours}, rounds)
    what = "five runs' steps, stacked, the paper's size, bf16 on the GPU by the clock"
    return [method.row(what, seconds["plain"], seconds["ours"], equality=f"fp64 {exact:.0e}")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    for row in measure(parser.parse_args().rounds):
        print(row)
