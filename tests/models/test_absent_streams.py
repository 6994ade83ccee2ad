"""Clips that lack a stream: AVEL and MEM are as if only the clips with both were there."""

import math

import numpy as np
import pytest
import torch
from conftest import batch_of, quiet

from foalkit import losses
from foalkit.training import gradients, networks


def batch(seed=0, n=9, d=5):
    g = torch.Generator().manual_seed(seed)
    audio, video = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0])
    return audio.requires_grad_(), video.requires_grad_(), labels


PRESENT = torch.tensor([True, False, True, True, True, False, True, False, True])


def naive_avel(audio, video, labels, temperature, normalise):
    """L_AVEL by loops over the clips that are given."""
    total = 0.0
    for queries, keys in ((audio, video), (video, audio)):
        of_queries = 0.0
        for i, query in enumerate(queries):
            scores = [sum(a * b for a, b in zip(query, key, strict=True)) for key in keys]
            scores = [s / math.hypot(*query) / math.hypot(*k) / temperature for s, k in zip(scores, keys, strict=True)]
            log_sum = math.log(sum(math.exp(s) for s in scores))
            same = [j for j in range(len(keys)) if labels[i] == labels[j]]
            of_queries += sum(log_sum - scores[j] for j in same) / (len(same) if normalise else 1)
        total += of_queries / len(queries) / 2
    return total


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_avel_is_that_of_the_clips_with_both_streams(normalise, detach):
    audio, video, labels = batch()
    how = {"normalise_targets": normalise, "detach_keys": detach}
    whole = losses.avel(audio, video, labels, 0.5, present=PRESENT, **how)
    rows = [i for i in range(9) if PRESENT[i]]
    expected = naive_avel(audio[rows].tolist(), video[rows].tolist(), labels[rows].tolist(), 0.5, normalise)
    assert whole.loss.item() == pytest.approx(expected, abs=1e-12)
    whole.loss.backward()
    for x in (audio, video):
        assert not x.grad[~PRESENT].any() and x.grad[PRESENT].abs().sum(1).min() > 0
    assert whole.similarity.shape == (9, 9)


def test_nobody_present_costs_nothing():
    audio, video, labels = batch()
    nobody = torch.zeros(9, dtype=torch.bool)
    align = losses.avel(audio, video, labels, 0.5, present=nobody)
    align.loss.backward()
    assert align.loss.item() == 0
    assert not audio.grad.any() and not video.grad.any()
    chosen = losses.hard_negatives(align.similarity, labels, present=nobody)
    assert not chosen.valid.any() and chosen.video.tolist() == chosen.audio.tolist() == [*range(9)]
    assert [x.item() for x in losses.avel_levels(labels[nobody], 0.5, 3)] == [0, 0]


@pytest.mark.parametrize("how", ["argmax", "multinomial"])
def test_negatives_are_sought_among_clips_with_both_streams(how):
    for seed in range(20):
        audio, video, labels = batch(seed)
        similarity = losses.avel(audio, video, labels, 0.5).similarity
        g = torch.Generator().manual_seed(seed)
        chosen = losses.hard_negatives(similarity, labels, how=how, generator=g, present=PRESENT)
        for i in range(9):
            others = [j for j in range(9) if PRESENT[i] and PRESENT[j] and labels[i] != labels[j]]
            assert chosen.valid[i] == bool(others)
            for partner, scores in ((chosen.video[i], similarity[i]), (chosen.audio[i], similarity[:, i])):
                assert int(partner) in (others or [i])
                if others and how == "argmax":
                    assert int(partner) == max(others, key=lambda j: scores[j])


@pytest.fixture
def lacking(p, easy):
    """A batch of which some clips lack the sound, some the picture, and two of the four emotions have no other."""
    streams, labels = batch_of(easy, list(range(12)))
    for stream, rows in (("audio", [1, 6]), ("video", [0, 9, 11])):
        streams[stream][1][rows] = False
    net = networks.build_net(quiet(p), "foal-net", easy.stores, easy.table["utterance"].tolist()).double()
    return net, {s: (x.double(), mask) for s, (x, mask) in streams.items()}, labels


def test_the_terms_are_those_of_the_clips_with_both(p, lacking):
    p, (net, streams, labels) = quiet(p), lacking
    net.eval()
    mixed = gradients.loss_terms(net.core, net.enter(streams), labels, p)
    both = [2, 3, 4, 5, 7, 8, 10]
    alone = {s: (x[both], mask[both]) for s, (x, mask) in streams.items()}
    expected = gradients.loss_terms(net.core, net.enter(alone), labels[both], p)
    for name in ("avel", "mem"):
        assert mixed[name].item() == pytest.approx(expected[name].item(), abs=1e-12)
    # every clip is classified, those with one stream too
    logits = net(streams).log_softmax(1)
    assert mixed["ce"].item() == pytest.approx(-np.mean([logits[i, labels[i]].item() for i in range(12)]), abs=1e-12)


def test_what_stands_in_an_absent_stream_changes_nothing(p, lacking):
    p, (net, streams, labels) = quiet(p), lacking
    net.eval()
    changed = {
        s: (torch.where(mask.any(1)[:, None, None], x, torch.full_like(x, 7)), mask) for s, (x, mask) in streams.items()
    }
    first, second = (gradients.loss_terms(net.core, net.enter(b), labels, p) for b in (streams, changed))
    assert {n: v.item() for n, v in first.items()} == {n: v.item() for n, v in second.items()}


def test_parts_of_a_batch_that_lack_a_stream_give_the_same_gradients(p, lacking):
    p, (net, streams, labels) = quiet(p), lacking
    found = []
    for micro_batch in (None, 4):
        net.zero_grad()
        training = p.training.model_copy(update={"micro_batch": micro_batch})
        gradients.add_gradients(net, streams, labels, p.model_copy(update={"training": training}))
        found.append(torch.cat([w.grad.flatten() for w in net.parameters() if w.grad is not None]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
