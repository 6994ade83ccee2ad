"""Runs that are trained at once give what each gives alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import refused, with_training
from torch import nn

from foalkit import networks, records, training
from foalkit.data.folds import split
from foalkit.models import draws, foalnet
from foalkit.models.draws import Dropout
from foalkit.stacked import Stack


@pytest.fixture(scope="module")
def stacked(p):
    """Batches of 7: the last one of an epoch is shorter and each run's own."""
    return with_training(p, job="stacked", batch=7)


@pytest.fixture(scope="module")
def uneven(easy):
    """Folds of unequal size: some train on more batches an epoch than others."""
    table = easy.table
    gone = (table["session"] == "Ses02") & table["utterance"].str[-1].astype(int).gt(1)
    return replace(easy, table=table[~gone])


@pytest.fixture
def wide(monkeypatch):
    """Everything in fp64, where the order of a sum decides nothing."""
    build, batch = networks.build_net, training._batch
    monkeypatch.setattr(training, "build_net", lambda *given: build(*given).double())
    monkeypatch.setattr(
        training, "_batch", lambda *given: {s: (x.double(), mask) for s, (x, mask) in batch(*given).items()}
    )


def runs_of(p, data, protocol):
    return [(split(data.table, p, fold, protocol), seed) for fold, seed in ((1, 0), (2, 0), (3, 0), (3, 1))]


@pytest.mark.parametrize(
    ("variant", "protocol", "overrides"),
    [
        ("foal-net", "honest", {}),
        ("foal-net", "published", {"hard_negatives": "multinomial"}),
        ("foal-net", "honest", {"temperature_range": (0.5, 2.659), "temperature": 0.5}),
        ("audio", "honest", {}),
    ],
)
def test_a_run_in_a_stack_is_the_lone_run(stacked, uneven, wide, variant, protocol, overrides):
    p = stacked.model_copy(update={"loss": stacked.loss.model_copy(update=overrides)})
    runs = runs_of(p, uneven, protocol)
    sizes = {-(-len(sides.train) // p.training.batch) for sides, _ in runs}
    assert len(sizes) > 1
    together = training.train_stacked(p, variant, uneven, runs, protocol)
    assert {r.together for r in together} == {4}
    for (sides, seed), ours in zip(runs, together, strict=True):
        lone = training.train(p, variant, uneven, sides, seed, protocol)
        assert ours.scores == lone.scores and lone.together == 1
        np.testing.assert_allclose(ours.history, lone.history, rtol=0, atol=1e-11)
        for name, weight in lone.weights.items():
            torch.testing.assert_close(ours.weights[name], weight, rtol=0, atol=1e-11)
        for part in ("predictions", "absent"):
            mine, theirs = (getattr(r, part).filter(like="logit_") for r in (ours, lone))
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)  # kept as fp32


def test_runs_of_a_stack_are_not_each_other(stacked, easy):
    results = training.train_stacked(stacked, "foal-net", easy, runs_of(stacked, easy, "honest"), "honest")
    firsts = [r.history["total"].iloc[0] for r in results]
    assert len(set(firsts)) == 4


def test_a_stack_writes_the_records_of_all_folds(stacked, easy, tmp_path):
    p = stacked.model_copy(update={"outputs": str(tmp_path), "ablation": {"honest": ["audio"]}})
    before = training.open_data
    try:
        training.open_data = lambda *_: easy
        files = training.run_all(p, [("honest", "audio", 4, 0)])
    finally:
        training.open_data = before
    assert len(files) == 5 and not records.missing_runs(p, [("honest", "audio")])
    assert {records.read_record(f)["together"] for f in files} == {5}
    again = records.read_predictions(files[3].parent)
    assert set(again["utterance"]) >= set(split(easy.table, p, 4, "honest").test)


def test_what_cannot_be_stacked_is_refused(p, stacked, easy, monkeypatch):
    runs = runs_of(p, easy, "honest")
    assert "training.job=stacked" in refused(lambda: training.train_stacked(p, "audio", easy, runs, "honest"))
    parts = with_training(stacked, micro_batch=2)
    line = refused(lambda: training.train_stacked(parts, "audio", easy, runs, "honest"))
    assert "audio: training.micro_batch cannot be trained in a stack" in line
    monkeypatch.setattr(foalnet, "PACKED_FROM", 1)
    line = refused(lambda: training.train_stacked(stacked, "foal-net", easy, runs, "honest"))
    assert "one run at a time on a CPU: set training.job=folds" in line


# ---- the parts -------------------------------------------------------------------------------------


def seeded(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def test_each_run_drops_what_it_drops_alone():
    x, dropout = torch.randn(3, 5, 7), Dropout(0.3)
    with draws.of_each_run(seeded(4, 5, 4)):
        ours = torch.vmap(dropout)(x)
    assert not draws.together()
    for row, dropped, seed in zip(x, ours, (4, 5, 4), strict=True):
        torch.manual_seed(seed)
        assert torch.equal(dropped, dropout(row))


def test_a_stacks_gradients_are_the_networks_own():
    """Of a linear layer by hand: the gradient of sum((W x)^2) is 2 W x x'."""
    nets = [nn.Linear(3, 2, bias=False) for _ in range(3)]
    before = [net.weight.detach().clone() for net in nets]
    stack = Stack(nets)
    x = torch.randn(2, 4, 3)
    batches = [{"audio": (rows, torch.ones(4, 1, dtype=torch.bool))} for rows in x]

    def terms_of(net, streams, labels):
        return {"total": net(streams["audio"][0]).square().sum() * labels}

    terms = stack.add_gradients([0, 2], terms_of, batches, list(torch.tensor([1.0, 10.0])), seeded(0, 1))
    for n, rows, scale, total in zip((0, 2), x, (1.0, 10.0), terms["total"], strict=True):
        assert torch.equal(nets[n].weight, before[n])
        torch.testing.assert_close(nets[n].weight.grad, 2 * scale * before[n] @ rows.T @ rows)
        assert total.item() == pytest.approx(scale * (rows @ before[n].T).square().sum().item(), rel=1e-5)
    assert nets[1].weight.grad is None
    nets[2].weight.data.zero_()  # as an optimiser does: the stack sees it
    again = stack.add_gradients([0, 2], terms_of, batches, list(torch.tensor([1.0, 10.0])), seeded(0, 1))
    assert again["total"][1] == 0 and again["total"][0] == terms["total"][0]
