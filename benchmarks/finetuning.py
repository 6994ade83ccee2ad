"""A training step of Foal-Net with WavLM trained end to end, in parts of a batch, against the whole batch at once.

On a GPU (`make bench BENCH=--gpu`): WavLM-Large's size with random weights, 64 clips of 6 s of raw sound, bf16, by the
clock, and the peak of memory. On a CPU a small one: what the second pass through the encoder costs.
"""

import torch
from transformers import WavLMConfig, WavLMModel

from benchmarks import method
from foalkit import params as settings
from foalkit.models import FoalNet
from foalkit.models.inputs import Identity, WavLMInput
from foalkit.training import gradients, networks

SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": False,
}  # fmt: skip


class Case:
    """A batch of raw sound and of video features, and what trains on it; no dropout, so that parts equal the whole."""

    def __init__(self, size: dict, *, batch: int, seconds: float, device: str, precision: str):
        torch.manual_seed(0)
        still = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0}
        model = WavLMModel(WavLMConfig(**size, **still, apply_spec_augment=False))
        sound = WavLMInput(model)
        core = FoalNet(sound.width, 768, dropout=0.0, projection_dropout=0.0)
        self.net = networks.Net({"audio": sound, "video": Identity(768)}, {}, core).to(device).train()
        samples, frames = int(16_000 * seconds), int(30 * seconds)
        real = torch.randint(samples // 3, samples + 1, (batch,))
        self.streams = {
            "audio": (0.1 * torch.randn(batch, samples, 1), torch.arange(samples) < real[:, None]),
            "video": (torch.randn(batch, frames, 768), torch.arange(frames) < (real * 30 // 16_000)[:, None]),
        }
        self.streams = {s: (x.to(device), mask.to(device)) for s, (x, mask) in self.streams.items()}
        self.labels = (torch.arange(batch) % 4).to(device)
        self.params = settings.load("demo", method.FAST).for_variant("foal-net")
        self.precision = precision
        self.optimiser = torch.optim.AdamW([w for w in self.net.parameters() if w.requires_grad], fused=True)

    def gradients(self, micro_batch: int | None) -> dict[str, torch.Tensor]:
        """The loss's terms, its gradients in the parameters."""
        changes = {"micro_batch": micro_batch, "precision": self.precision}
        p = self.params.model_copy(update={"training": self.params.training.model_copy(update=changes)})
        self.optimiser.zero_grad()
        return gradients.add_gradients(self.net, self.streams, self.labels, p)

    def step(self, micro_batch: int | None) -> float:
        total = self.gradients(micro_batch)["total"]
        self.optimiser.step()
        return total.item()  # waits for a GPU


def distance(case: Case, parts: int) -> float:
    """How far the gradient of parts lies from the whole batch's, relative."""
    flat = []
    for micro_batch in (None, parts):
        case.gradients(micro_batch)
        flat.append(torch.cat([w.grad.flatten().double() for w in case.net.parameters() if w.grad is not None]))
    return ((flat[1] - flat[0]).norm() / flat[0].norm()).item()


def measure(rounds: int = 7, *, batch: int = 8, seconds: float = 1.0) -> list[dict]:
    """The benchmark's row; raises AssertionError where parts give another gradient than the whole."""
    case, parts = Case(SMALL, batch=batch, seconds=seconds, device="cpu", precision="fp32"), batch // 4
    off = distance(case, parts)
    assert off < 1e-4, f"{off:.1e} from the whole batch's gradient"
    size = f"{SMALL['num_hidden_layers']} layers of {SMALL['hidden_size']}"
    what = f"fine-tuning step, WavLM, {size}, batch {batch} in four parts"
    taken, _ = method.side_by_side(what, {"plain": lambda: case.step(None), "ours": lambda: case.step(parts)}, rounds)
    return [method.row(what, taken["plain"], taken["ours"], equality=f"fp32 {off:.0e}")]


def measure_gpu(rounds: int = 7) -> list[dict]:
    """WavLM-Large at batch 64, whole and in parts of 16, with each one's peak of memory."""
    case, peaks, taken = Case(LARGE, batch=64, seconds=6.0, device="cuda", precision="bf16"), {}, {}
    off = distance(case, 16)
    assert off < 3e-2, f"{off:.1e} from the whole batch's gradient"
    for name, micro_batch in (("plain", None), ("ours", 16)):
        torch.cuda.reset_peak_memory_stats()
        taken |= method.by_the_clock({name: lambda: case.step(micro_batch)}, rounds)  # noqa: B023
        peaks[name] = torch.cuda.max_memory_allocated() / 1e9
    memory = f"{peaks['plain']:.0f} GB whole, {peaks['ours']:.0f} GB in parts of 16"
    what = f"fine-tuning step, WavLM-Large, batch 64, bf16 on the GPU by the clock; {memory}"
    return [method.row(what, taken["plain"], taken["ours"], equality=f"bf16 {off:.0e}")]


if __name__ == "__main__":
    for each in measure():
        print(each)
