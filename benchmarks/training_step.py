"""A training step and an evaluation of Foal-Net on stored features, against `plain.py`.

Run as `python -m benchmarks.training_step`. Full size: audio up to 299 frames of 1024, video up to 180 of 768, clip
lengths drawn as IEMOCAP's, cut at 6 s. Both versions get the same clips and start from the same weights, and a step is
all of it: padding the batch, the losses, their gradients, AdamW. Equality is checked before anything is timed.
"""

import argparse
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks import method, plain
from foalkit import devices, losses
from foalkit import params as settings
from foalkit.models import FoalNet
from foalkit.models.inputs import Identity
from foalkit.training import gradients, networks

SIZES = {"audio": (299, 1024), "video": (180, 768)}  # longest, width
BOUNDS = {"fp64": 1e-12, "fp32": 3.0, "bf16": 1e-2}  # fp32: times the plain version's own distance to fp64
SEED = 27  # of a batch of 16 of which 61 % is real once it is padded; the mean over seeds is 64 %

# Quantiles (percent, seconds) of the lengths of IEMOCAP's 5 531 turns
QUANTILES = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)
SECONDS = (0.58, 1.09, 1.39, 1.68, 2.13, 2.55, 3.0, 3.58, 4.25, 5.18, 6.53, 8.69, 11.06, 15.54, 34.14)


class Case:
    """One batch, the library's net and the plain one with the same weights, and what is to be timed.

    `scale` divides lengths and widths alike, for tests.
    """

    def __init__(self, batch: int, *, seed: int = SEED, scale: int = 1, device: str = "cpu", **options: float):
        rng = np.random.default_rng(seed)
        seconds = np.minimum(np.interp(100 * rng.random(batch), QUANTILES, SECONDS), 6.0)
        share = seconds / 6
        self.clips = {
            s: [rng.normal(size=(max(1, int(x * longest / scale)), width // scale)).astype("f4") for x in share]
            for s, (longest, width) in SIZES.items()
        }
        self.labels = torch.tensor(rng.permutation(np.arange(batch) % 4))
        self.params = settings.load("demo", method.FAST).for_variant("foal-net")
        dims = [width // scale for _, width in SIZES.values()]
        options["projection_dim"] = 512 // scale
        torch.manual_seed(seed)
        self.net = networks.Net(
            {s: Identity(d) for s, d in zip(SIZES, dims, strict=True)}, {}, FoalNet(*dims, **options)
        )
        self.plain = plain.PlainFoalNet(*dims, **options)
        self.plain.load_state_dict(plain.renamed(self.net.core.state_dict()))
        self.device, self.labels = device, self.labels.to(device)
        self.net.to(device), self.plain.to(device)
        self.optimisers = {
            self.net: torch.optim.AdamW(self.net.parameters(), lr=1e-4, weight_decay=0.01, fused=True),
            self.plain: torch.optim.AdamW(self.plain.parameters(), lr=1e-4, weight_decay=0.01),
        }

    def frames(self) -> dict[str, np.ndarray]:
        """Every clip's number of frames, by stream."""
        return {s: np.array([len(clip) for clip in clips]) for s, clips in self.clips.items()}

    def settings(self, precision: str):
        return self.params.model_copy(
            update={"training": self.params.training.model_copy(update={"precision": precision})}
        )

    def streams(self, dtype: torch.dtype = torch.float32) -> networks.Streams:
        return {
            s: tuple(x.to(self.device) for x in plain.collate([torch.from_numpy(clip).to(dtype) for clip in clips]))
            for s, clips in self.clips.items()
        }

    def our_gradients(self, precision: str = "fp32", dtype: torch.dtype = torch.float32) -> Tensor:
        """The library's loss, its gradients added to the parameters'."""
        streams = self.streams(dtype)
        return gradients.add_gradients(self.net, streams, self.labels, self.settings(precision))["total"]

    def plain_gradients(self, precision: str = "fp32", dtype: torch.dtype = torch.float32, negatives=None) -> Tensor:
        """The plain version's loss, its gradients added to the parameters'."""
        (audio, audio_mask), (video, video_mask) = self.streams(dtype).values()
        with torch.autocast(self.device, torch.bfloat16, enabled=precision == "bf16"):
            _, loss = self.plain(audio, video, audio_mask, video_mask, self.labels, negatives)
        loss.backward()
        return loss

    def step(self, net: torch.nn.Module, precision: str) -> None:
        net.train()
        self.optimisers[net].zero_grad()
        (self.our_gradients if net is self.net else self.plain_gradients)(precision)
        self.optimisers[net].step()

    @torch.inference_mode()
    def evaluate(self, precision: str) -> Tensor:
        self.net.eval()
        with torch.autocast(self.device, torch.bfloat16, enabled=precision == "bf16"):
            return self.net(self.streams())

    @torch.no_grad()
    def plain_evaluate(self, *, losses: bool) -> Tensor:
        self.plain.eval()
        (audio, audio_mask), (video, video_mask) = self.streams().values()
        clips = (audio, video, audio_mask, video_mask)
        return self.plain(*clips, self.labels)[0] if losses else self.plain.logits(*clips)


def distances(batch: int = 4, *, seed: int = SEED, scale: int = 1, bf16: bool = True) -> dict[str, float]:
    """How far the gradient, or the loss if that is further, lies from the plain version's in fp64, relative.

    One batch, no dropout, the same negatives in both.
    `fp64`, `fp32` and, where asked for, `bf16` are the library's; `plain fp32` is the plain version's own.
    """
    case = Case(batch, seed=seed, scale=scale, dropout=0.0, projection_dropout=0.0)
    other = case.labels[:, None] != case.labels
    chosen = losses.Negatives(other.int().argmax(1), other.flip(1).int().argmax(1), other.any(1))
    chosen = chosen._replace(audio=batch - 1 - chosen.audio)

    def flat(gradients: dict[str, Tensor], loss: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([gradients[n].flatten().double() for n in sorted(gradients)]), loss.detach().double()

    def ours(precision: str = "fp32", dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        case.net.to(dtype).zero_grad()
        with mock.patch.object(losses, "hard_negatives", lambda *_, **__: chosen):
            loss = case.our_gradients(precision, dtype)
        return flat(plain.renamed({n: w.grad for n, w in case.net.core.named_parameters()}), loss)

    def theirs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        case.plain.to(dtype).zero_grad()
        loss = case.plain_gradients("fp32", dtype, (chosen.video, chosen.audio))
        return flat({n: w.grad for n, w in case.plain.named_parameters()}, loss)

    found = {"fp32": ours(), "plain fp32": theirs(torch.float32)}
    if bf16:
        found["bf16"] = ours("bf16")
    found["fp64"], exact = ours("fp32", torch.float64), theirs(torch.float64)
    return {
        name: max(((x - y).norm() / y.norm()).item() for x, y in zip(pair, exact, strict=True))
        for name, pair in found.items()
    }


def necessary_flops(case: Case) -> dict[str, float]:
    """FLOPs that a training step and an evaluation cannot do without: the fusion's products over real frames.

    Positives once, keys, values and first queries once for both passes, no gradient of the features; what the
    backward pass computes again is not counted, nor are heads and projections (a thousandth).
    """
    frames, step, evaluation = case.frames(), 0.0, 0.0
    mean_pairs = {}
    for query, context in (("audio", "video"), ("video", "audio")):
        q, k = frames[query], frames[context]
        width, other = case.clips[query][0].shape[1], case.clips[context][0].shape[1]
        once = q.sum() * width**2 + 4 * k.sum() * other * width  # first queries; keys and values of two layers
        linears = 3 * q.sum() * width**2  # a pass: second queries, two outputs
        mean_pairs[query] = 2 * 2 * (q * k).sum() * width  # scores and answers, two layers
        negatives = 2 * 2 * q.sum() * k.mean() * width  # a partner of another emotion is of any length
        step += 2 * (2 * once + 3 * (2 * linears + mean_pairs[query] + negatives))
        evaluation += 2 * (once + linears + mean_pairs[query])
    return {"step": step, "evaluation": evaluation}


def measure(rounds: int = 7, batch: int = 16, seed: int = SEED) -> list[dict]:
    """The benchmark's rows, of bf16 where there are units for it; raises AssertionError where the two are not equal."""
    found = distances(seed=seed, bf16=devices.has_bf16())
    assert found["fp64"] <= BOUNDS["fp64"], found
    assert found["fp32"] <= BOUNDS["fp32"] * found["plain fp32"], found
    equal = {"fp32": f"fp64 {found['fp64']:.0e} (1e-12), fp32 {found['fp32']:.1e} (3 x {found['plain fp32']:.1e})"}
    dtypes = {"fp32": torch.float32}
    if "bf16" in found:
        assert found["bf16"] <= BOUNDS["bf16"], found
        equal["bf16"], dtypes["bf16"] = f"{found['bf16']:.1e} (1e-2)", torch.bfloat16
    case = Case(batch, seed=seed)
    actions = {
        "plain": lambda: case.step(case.plain, "fp32"),
        "plain bf16": lambda: case.step(case.plain, "bf16"),
        "fp32": lambda: case.step(case.net, "fp32"),
        "bf16": lambda: case.step(case.net, "bf16"),
        "evaluate plain": lambda: case.plain_evaluate(losses=True),
        "evaluate plain, one pass": lambda: case.plain_evaluate(losses=False),
        "evaluate fp32": lambda: case.evaluate("fp32"),
        "evaluate bf16": lambda: case.evaluate("bf16"),
    }
    actions = {name: action for name, action in actions.items() if "bf16" in found or "bf16" not in name}
    what = f"training step and evaluation, {' and '.join(dtypes)}, batch {batch}"
    seconds, rates = method.side_by_side(what, actions, rounds, dtypes=tuple(dtypes.values()))
    flops, rows = necessary_flops(case), []
    for precision, dtype in dtypes.items():
        for what, against, name, work in (
            (f"training step, {precision}", "plain", precision, "step"),
            (f"evaluation, {precision}", "evaluate plain", f"evaluate {precision}", "evaluation"),
        ):
            share = flops[work] / seconds[name] / rates[dtype]
            what = f"{what}, batch {batch}, against fp32"
            rows.append(method.row(what, seconds[against], seconds[name], equality=equal[precision], share=share))
    if "bf16" in found:
        what = f"training step, bf16, batch {batch}, against bf16"
        rows.append(method.row(what, seconds["plain bf16"], seconds["bf16"], equality=equal["bf16"]))
    rows.append(
        method.row(
            f"evaluation, fp32, batch {batch}, against one pass without losses",
            seconds["evaluate plain, one pass"], seconds["evaluate fp32"], equality=equal["fp32"],
        )
    )  # fmt: skip
    return rows


def measure_gpu(rounds: int = 7, batch: int = 64) -> list[dict]:
    """The steps on a GPU, padded there too, by the clock."""
    case, rows = Case(batch, device="cuda"), []

    def stepped(net: torch.nn.Module, precision: str) -> None:
        case.step(net, precision)
        torch.cuda.synchronize()

    for precision in ("fp32", "bf16"):
        actions = {
            "plain": lambda: stepped(case.plain, precision),  # noqa: B023
            "ours": lambda: stepped(case.net, precision),  # noqa: B023
        }
        seconds = method.by_the_clock(actions, rounds)
        what = f"training step, {precision}, batch {batch}, on the GPU by the clock"
        rows.append(method.row(what, seconds["plain"], seconds["ours"], equality="as on the CPU"))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16, help="64 is the paper's and takes four times as long")
    for found in measure(**vars(parser.parse_args())):
        print(found)
