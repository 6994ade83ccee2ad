"""Where the speed comes from, without a clock: work done, memory kept, and equality with the plain version."""

import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import with_training
from torch.utils.flop_counter import FlopCounterMode

from foalkit import ROOT
from foalkit.models.foalnet import CrossAttentionLayer, LayerNorm
from foalkit.models.frames import Packed, Padded
from foalkit.training import gradients

sys.path.insert(0, str(ROOT))  # for `pytest` called without `python -m`
from benchmarks import method, plain, training_step


@pytest.fixture
def case():
    """Full size by four, lengths and widths alike, so that all ratios of work are full size's."""
    return training_step.Case(16, scale=4)


def flops(action) -> int:
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def kept_bytes(action, net: torch.nn.Module) -> int:
    """The memory of all tensors that wait for the backward pass, other than weights."""
    weights, kept = {w.untyped_storage().data_ptr() for w in net.parameters()}, {}

    def keep(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        action()
    return sum(storage.nbytes() for storage in kept.values())


def batch_bytes(case) -> int:
    return sum(x.nbytes for clips in case.clips.values() for x in clips)


def test_a_step_does_a_third_of_the_work(case):
    ours, theirs = flops(case.our_gradients), flops(case.plain_gradients)
    assert ours <= 0.31 * theirs
    # what the benchmark calls necessary is all but what the backward pass of attention computes again
    assert 0.97 * ours < training_step.necessary_flops(case)["step"] < ours


def test_a_step_keeps_a_sixth_of_the_memory(case):
    ours, theirs = kept_bytes(case.our_gradients, case.net), kept_bytes(case.plain_gradients, case.plain)
    padded = sum(x.nbytes for x, _ in case.streams().values())
    assert ours - batch_bytes(case) <= 0.16 * (theirs - padded)


def test_nothing_is_projected_twice_and_no_padding(case):
    rows = {}

    def count(name):
        return lambda module, inputs, output: rows.setdefault(name, []).append(output.shape[:-1].numel())

    for name, module in case.net.core.named_modules():
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            module.register_forward_hook(count(name))
    case.our_gradients()
    frames = {s: int(x.sum()) for s, x in case.frames().items()}
    for stack, query, context in (("a2v", "audio", "video"), ("v2a", "video", "audio")):
        for layer in (0, 1):
            seen = {part: rows.pop(f"{stack}.layers.{layer}.{part}") for part in ("key", "value", "query", "out")}
            assert seen["key"] == seen["value"] == [frames[context]]
            assert seen["out"] == [2 * frames[query]]  # the own pair and the negative
            asked = seen["query"]
            # the backward pass enters the second layer's query once more and leaves before the product
            assert asked[0] == (2 if layer else 1) * frames[query]
    assert not rows


def test_a_separate_positive_pass_shares_keys_and_draws_its_own_dropout(case):
    p = with_training(case.params, positive_pass="separate")
    calls, passes, matched = [], [], []
    case.net.core.match_a2v.register_forward_hook(lambda module, inputs, output: matched.append(inputs[0]))
    case.net.core.a2v.layers[1].key.register_forward_hook(lambda *_: calls.append(1))
    case.net.core.a2v.register_forward_hook(lambda module, inputs, output: passes.append(output.detach()))
    gradients.add_gradients(case.net, case.streams(), case.labels, p)
    (three,) = passes
    assert len(calls) == 1 and len(three) == 3
    assert torch.equal(matched[0], three[1]) and torch.equal(matched[1], three[2])
    assert not torch.allclose(three[0], three[1]) and not torch.allclose(three[0], three[2])
    case.net.eval()
    gradients.add_gradients(case.net, case.streams(), case.labels, p)
    torch.testing.assert_close(passes[1][0], passes[1][1])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_plain_version_is_equalled(seed):
    found = training_step.distances(8, seed=seed, scale=4)
    assert found["fp64"] <= training_step.BOUNDS["fp64"]
    assert found["fp32"] <= training_step.BOUNDS["fp32"] * found["plain fp32"]
    assert found["bf16"] <= training_step.BOUNDS["bf16"]


def test_evaluation_is_the_plain_versions(case):
    torch.testing.assert_close(case.evaluate("fp32"), case.plain_evaluate(losses=True))
    torch.testing.assert_close(case.plain_evaluate(losses=True), case.plain_evaluate(losses=False))


def test_every_plain_weight_is_the_librarys(case):
    ours = sum(w.numel() for w in case.net.core.parameters())
    assert ours == sum(w.numel() for w in case.plain.parameters())
    assert plain.renamed(case.net.core.state_dict()).keys() == case.plain.state_dict().keys()


def test_the_same_seed_gives_the_same_packed_step(case):
    seen = []
    for seed in (3, 3, 4):
        case.net.zero_grad()
        torch.manual_seed(seed)
        case.our_gradients()
        seen.append(torch.cat([w.grad.flatten() for w in case.net.parameters()]))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_may_ask_one_clip(dtype):
    """Both layouts against each other: hubs, clips that nobody asks, absent streams, three passes."""
    torch.manual_seed(0)
    layer = CrossAttentionLayer(16, 12, heads=2, dropout=0.0)
    for w in layer.parameters():
        torch.nn.init.normal_(w, std=0.3)
    query_mask = torch.arange(6) < torch.tensor([6, 3, 0, 1, 5])[:, None]
    context_mask = torch.arange(7) < torch.tensor([4, 7, 2, 0, 1])[:, None]
    partner = torch.tensor([[0, 1, 2, 3, 4], [1, 1, 1, 1, 1], [3, 4, 0, 0, 0]])
    query, context = torch.randn(5, 6, 16), torch.randn(5, 7, 12)
    seen = []
    for layout in (Padded, Packed):
        layer.zero_grad()
        q, c = query.clone().requires_grad_(), context.clone().requires_grad_()
        xs = (q, c) if layout is Padded else (q[query_mask], c[context_mask])
        frames = layout(query_mask, context_mask, partner)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            result = frames.mean(layer.norm(layer(xs[0][None], xs[1], frames)))
        result.square().sum().backward()
        found = [result, q.grad[query_mask], c.grad[context_mask], *(w.grad for w in layer.parameters())]
        seen.append(torch.cat([x.flatten() for x in found]))
    assert (seen[1] - seen[0]).norm() <= (1e-6 if dtype == torch.float32 else 1e-2) * seen[0].norm()


# ---- the trap -------------------------------------------------------------------------------------------


def test_the_kits_norm_sums_a_bf16_bias_gradient_right():
    # torch 2.15 sums it in bf16 on the CPU, where a sum stops growing once it is 256 times what is added
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64 * 299, 256, generator=generator).bfloat16()
    gradient = torch.rand(64 * 299, 256, generator=generator).bfloat16()
    norm = LayerNorm(256).bfloat16()
    norm(x).backward(gradient)
    exact = gradient.double().sum(0)
    assert (norm.bias.grad.double() - exact).norm() < 5e-3 * exact.norm()


def test_no_bf16_layernorm_in_a_bf16_step(case, monkeypatch):
    seen, original = [], F.layer_norm
    monkeypatch.setattr(F, "layer_norm", lambda x, *args: seen.append(x.dtype) or original(x, *args))
    case.our_gradients("bf16")
    assert set(seen) == {torch.float32} and len(seen) >= 6


# ---- the method -----------------------------------------------------------------------------------------


def test_a_row_is_the_median_of_paired_rounds():
    import numpy as np

    drift = np.array([1.0, 3.0, 2.0, 1.5, 5.0])  # a machine that changes its speed changes both
    row = method.row("x", 6 * drift, 2 * drift, equality="", share=np.array([0.5, 0.7, 0.9, 0.1, 0.8]))
    assert (row["plain"], row["ours"], row["ratio"], row["low"], row["share"]) == (12.0, 4.0, 3.0, 3.0, 0.7)
    noisy = method.row("x", np.array([1.0, 9, 2, 8, 3, 7, 4]), np.ones(7), equality="")
    assert noisy["low"] < noisy["ratio"] == 4


def test_slow_rounds_are_left_out(monkeypatch):
    rates = iter([50.0, 100.0, 74.0, 90.0])
    monkeypatch.setattr(method, "calibrate", lambda dtype: next(rates))
    monkeypatch.setattr(method, "cpu_seconds", lambda action: action())
    times = iter([9, 1, 2, 3])  # the first call of each is not counted
    seconds, kept = method.side_by_side("it", {"it": lambda: next(times)}, 3)
    assert seconds["it"].tolist() == [1, 3] and kept[torch.float32].tolist() == [100.0, 90.0]


@pytest.mark.parametrize(("limit", "kept"), [(100, [1, 2, 3]), (20, [1]), (5, [9])])
def test_a_slow_machine_gets_fewer_rounds_and_the_first_run_counts_where_it_is_the_only_one(
    monkeypatch, capsys, limit, kept
):
    clock = iter(range(0, 1000, 5))  # of every two looks at it, one round of 5 s
    monkeypatch.setattr(method.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(method, "calibrate", lambda dtype: 1.0)
    monkeypatch.setattr(method, "cpu_seconds", lambda action: action())
    times = iter([9, 1, 2, 3])
    seconds, _ = method.side_by_side("the row", {"it": lambda: next(times)}, 3, limit=limit)
    assert seconds["it"].tolist() == kept
    assert "the row" in capsys.readouterr().out
