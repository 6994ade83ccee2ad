"""The losses against naive double loops, hand-computed values and finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from foalkit.losses import avel, avel_levels, hard_negatives, mem

PER_CLASS = 16
LABELS_64 = torch.arange(64) % 4


def batch(n=9, dim=5, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    audio, video = torch.randn(2, n, dim, generator=g, dtype=torch.float64)
    return audio, video, torch.randint(classes, (n,), generator=g)


def simplex(labels, classes=4):
    """Unit vectors with cosine +1 within a class and -1/3 between two of four."""
    return torch.nn.functional.normalize(torch.eye(classes, dtype=torch.float64)[labels] - 1 / classes)


def naive_avel(audio, video, labels, tau, normalise):
    """Section 3, one number at a time."""
    audio, video, labels = (x.detach().numpy() for x in (audio, video, labels))
    n = len(labels)

    def score(a, v):
        return sum(p * q for p, q in zip(a, v, strict=True)) / math.hypot(*a) / math.hypot(*v) / tau

    def direction(logit):
        total = 0.0
        for i in range(n):
            denominator = sum(math.exp(logit(i, k)) for k in range(n))
            positives = [j for j in range(n) if labels[j] == labels[i]]
            row = sum(-math.log(math.exp(logit(i, j)) / denominator) for j in positives)
            weight = sum(labels[k] == labels[j] for k in range(n) for j in range(n)) / n  # mean of positives
            total += {False: row, True: row / len(positives), "matched": weight * row / len(positives)}[normalise]
        return total / n

    return (direction(lambda i, j: score(audio[i], video[j])), direction(lambda i, j: score(audio[j], video[i])))


# --- AVEL


@pytest.mark.parametrize("normalise", [False, True, "matched"])
@pytest.mark.parametrize("tau", [2.659, 0.3])
def test_avel_is_the_naive_double_loop(tau, normalise):
    audio, video, labels = batch()
    got = avel(audio, video, labels, tau, normalise_targets=normalise)
    a2v, v2a = naive_avel(audio, video, labels, tau, normalise)
    assert abs(a2v - v2a) > 1e-4  # the two directions differ, so exchanging them would show
    assert got.a2v.item() == pytest.approx(a2v, rel=1e-12)
    assert got.v2a.item() == pytest.approx(v2a, rel=1e-12)
    assert got.loss.item() == pytest.approx((a2v + v2a) / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("perfect", "tau", "summed", "per_positive"),
    [(False, 2.659, 66.54, 4.159), (True, 2.659, 60.93, 3.808), (True, 0.07, 44.36, 2.773)],
)
def test_avel_gives_the_specifications_check_values(perfect, tau, summed, per_positive):
    z = simplex(LABELS_64) if perfect else torch.ones(64, 4, dtype=torch.float64)
    assert avel(z, 3 * z, LABELS_64, tau).loss.item() == pytest.approx(summed, abs=0.005)
    got = avel(z, 3 * z, LABELS_64, tau, normalise_targets=True).loss.item()
    assert got == pytest.approx(per_positive, abs=0.0005)
    assert got * PER_CLASS == pytest.approx(avel(z, z, LABELS_64, tau).loss.item(), rel=1e-12)


def test_matched_targets_give_the_undivided_losss_weight_back():
    z = torch.ones(4, 3, dtype=torch.float64)  # every similarity equal: ln 4 per positive
    uneven = torch.tensor([0, 0, 0, 1])  # 3, 3, 3 and 1 positives: 2.5 on average
    values = {n: avel(z, z, uneven, 1.0, normalise_targets=n).loss.item() for n in (False, True, "matched")}
    assert values[True] == pytest.approx(math.log(4), rel=1e-12)
    assert values[False] == pytest.approx(2.5 * math.log(4), rel=1e-12)
    assert values["matched"] == pytest.approx(2.5 * math.log(4), rel=1e-12)
    # in a balanced batch, 16 of each of 4 emotions, the factor is batch / classes = 16 and nothing is left to differ
    balanced = simplex(LABELS_64)
    matched = avel(balanced, balanced, LABELS_64, 0.07, normalise_targets="matched").loss.item()
    assert matched == pytest.approx(44.36, abs=0.005)


def test_similarity_has_audio_in_rows_and_keeps_its_gradient():
    audio, video, labels = batch()
    audio.requires_grad_()
    similarity = avel(audio, video, labels, 0.5).similarity
    i, j = 2, 7
    cosine = torch.cosine_similarity(audio[i], video[j], dim=0)
    assert similarity[i, j].item() == pytest.approx(2 * cosine.item(), rel=1e-12)
    assert similarity.requires_grad


def test_temperature_divides_and_learns():
    audio, video, labels = batch()
    tau = torch.tensor(2.659, dtype=torch.float64, requires_grad=True)
    one, two = avel(audio, video, labels, tau), avel(audio, video, labels, 2 * 2.659)
    torch.testing.assert_close(one.similarity, 2 * two.similarity)
    one.loss.backward()
    step = 1e-5
    up, down = (avel(audio, video, labels, 2.659 + s).loss.item() for s in (step, -step))
    assert tau.grad.item() == pytest.approx((up - down) / (2 * step), rel=1e-6)
    assert tau.grad.item() != 0


@pytest.mark.parametrize("normalise", [False, True])
def test_avel_gradcheck(normalise):
    audio, video, labels = batch(n=5, dim=3)
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, v, t: avel(a, v, labels, t, normalise_targets=normalise)[:3],
        (audio.requires_grad_(), video.requires_grad_(), tau),
    )


def test_detached_keys_leave_the_gradient_to_the_queries():
    audio, video, labels = batch()
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    whole = avel(audio.requires_grad_(), video.requires_grad_(), labels, tau)
    cut = avel(audio, video, labels, tau, detach_keys=True)
    torch.testing.assert_close(cut, whole)
    # audio asks in a2v alone, video in v2a alone, and each is half of the loss
    a2v, v2a = (
        torch.autograd.grad(part, asking, retain_graph=True)[0] / 2
        for part, asking in ((whole.a2v, audio), (whole.v2a, video))
    )
    got = torch.autograd.grad(cut.loss, (audio, video, tau))
    torch.testing.assert_close(got, (a2v, v2a, torch.autograd.grad(whole.loss, tau)[0]))


def test_avel_is_fp32_under_autocast_and_for_bf16_projections():
    audio, video, labels = (x.float() if x.is_floating_point() else x for x in batch())
    exact = avel(audio, video, labels, 0.07).similarity
    with torch.autocast("cpu", torch.bfloat16):
        inside = avel(audio, video, labels, 0.07)
    torch.testing.assert_close(inside.similarity, exact)
    low = avel(audio.bfloat16(), video.bfloat16(), labels, 0.07)
    widened = avel(audio.bfloat16().float(), video.bfloat16().float(), labels, 0.07)
    torch.testing.assert_close(low.similarity, widened.similarity)
    assert low.loss.dtype == torch.float32


def test_avel_refuses_what_does_not_fit():
    audio, video, labels = batch()
    with pytest.raises(ValueError, match=r"\(9, 5\), \(8, 5\)"):
        avel(audio, video[:8], labels, 1.0)
    with pytest.raises(ValueError, match="labels"):
        avel(audio, video, labels[:8], 1.0)
    with pytest.raises(ValueError, match="N, D"):
        avel(audio[0], video[0], labels, 1.0)
    with pytest.raises(ValueError, match="'match'"):
        avel(audio, video, labels, 1.0, normalise_targets="match")
    for tau in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            avel(audio, video, labels, tau)


# --- hard negatives


def naive_hardest(similarity, labels):
    """For every query the most similar candidate of another emotion; None where there is none."""
    n = len(labels)

    def hardest(i, score):
        others = [j for j in range(n) if labels[j] != labels[i]]
        return max(others, key=score) if others else None

    return (
        [hardest(i, lambda j, i=i: similarity[i, j].item()) for i in range(n)],
        [hardest(i, lambda j, i=i: similarity[j, i].item()) for i in range(n)],
    )


@pytest.mark.parametrize("seed", range(5))
def test_argmax_is_the_naive_loop(seed):
    audio, video, labels = batch(n=12, seed=seed)
    similarity = avel(audio, video, labels, 2.659).similarity
    got = hard_negatives(similarity, labels)
    want_video, want_audio = naive_hardest(similarity, labels)
    assert got.video.tolist() == want_video
    assert got.audio.tolist() == want_audio
    assert got.video.tolist() != got.audio.tolist()
    assert got.valid.dtype == torch.bool
    assert got.valid.all()


def test_negatives_carry_no_gradient():
    similarity = torch.randn(4, 4, requires_grad=True)
    got = hard_negatives(similarity, torch.tensor([0, 1, 2, 3]), how="multinomial")
    assert not any(x.requires_grad for x in got)


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),  # 0: every similarity ties; 1e4: the softmax underflows
    how=st.sampled_from(["argmax", "multinomial"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_a_negative_never_shares_the_emotion(labels, scale, how, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    n = len(labels)
    similarity = (scale * torch.randn(n, n, generator=g)).to(dtype)
    got = hard_negatives(similarity, torch.tensor(labels), how=how, generator=g)
    for i in range(n):
        assert got.valid[i].item() == (len(set(labels)) > 1)
        for chosen in (got.video[i].item(), got.audio[i].item()):
            assert labels[chosen] != labels[i] if got.valid[i] else chosen == i


def test_multinomial_draws_with_the_masked_softmaxs_frequencies():
    labels = torch.tensor([0, 0, 1, 2, 1, 2])
    g = torch.Generator().manual_seed(1)
    similarity = 1.5 * torch.randn(6, 6, generator=g, dtype=torch.float64)
    draws = 4000
    counts = np.zeros((2, 6, 6))
    for _ in range(draws):
        got = hard_negatives(similarity, labels, how="multinomial", generator=g)
        counts[0, range(6), got.video] += 1
        counts[1, range(6), got.audio] += 1
    for direction in range(2):
        for i in range(6):
            row = similarity[i] if direction == 0 else similarity[:, i]
            others = [j for j in range(6) if labels[j] != labels[i]]
            weight = np.exp(row[others].numpy())
            expected = draws * weight / weight.sum()
            assert chisquare(counts[direction, i, others], expected).pvalue > 1e-4


def test_multinomial_repeats_with_its_generator():
    audio, video, labels = batch(n=40)
    similarity = avel(audio, video, labels, 2.659).similarity
    one, two, other = (
        hard_negatives(
            similarity, labels, how="multinomial", generator=torch.Generator().manual_seed(seed)
        ).video.tolist()
        for seed in (3, 3, 4)
    )
    assert one == two != other


def test_hard_negatives_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="multinomial"):
        hard_negatives(torch.zeros(2, 2), torch.tensor([0, 1]), how="hardest")
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        hard_negatives(torch.zeros(2, 3), torch.tensor([0, 1]))


# --- MEM


def logits(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(4, n, 2, generator=g, dtype=torch.float64))


def naive_mem(positive, negative, valid):
    losses = []
    for pairs, target in ((positive, 1), (negative, 0)):
        for row, counts in zip(pairs.tolist(), valid.tolist(), strict=True):
            if counts:
                losses.append(-math.log(math.exp(row[target]) / sum(math.exp(x) for x in row)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("valid", [[True] * 5, [True, False, True, True, False]])
def test_mem_is_the_naive_loop(valid):
    valid = torch.tensor(valid)
    a, b, c, d = logits(5)
    got = mem(a, b, c, d, valid)
    a2v, v2a = naive_mem(a, b, valid), naive_mem(c, d, valid)
    assert got.a2v.item() == pytest.approx(a2v, rel=1e-12)
    assert got.v2a.item() == pytest.approx(v2a, rel=1e-12)
    assert got.loss.item() == pytest.approx((a2v + v2a) / 2, rel=1e-12)


def test_mem_knows_its_value_without_knowledge_and_with():
    valid = torch.ones(3, dtype=torch.bool)
    assert mem(*[torch.zeros(3, 2)] * 4, valid).loss.item() == pytest.approx(math.log(2))
    match, none = torch.tensor([[0.0, 20.0]] * 3), torch.tensor([[20.0, 0.0]] * 3)
    assert mem(match, none, match, none, valid).loss.item() < 1e-8
    assert mem(none, match, none, match, valid).loss.item() == pytest.approx(20)


def test_mem_gradcheck_and_rows_left_out_have_no_gradient():
    valid = torch.tensor([True, False, True])
    inputs = [x.requires_grad_() for x in logits(3)]
    assert torch.autograd.gradcheck(lambda *x: mem(*x, valid), inputs)
    mem(*inputs, valid).loss.backward()
    for x in inputs:
        assert (x.grad[1] == 0).all()
        assert (x.grad[[0, 2]] != 0).all()


@pytest.mark.parametrize("n", [1, 4])
def test_a_single_emotion_batch_trains_without_negatives(n):
    audio, video, _ = batch(n=n)
    audio.requires_grad_(), video.requires_grad_()
    labels = torch.full((n,), 2)
    aligned = avel(audio, video, labels, 2.659)
    for how in ("argmax", "multinomial"):
        negatives = hard_negatives(aligned.similarity, labels, how=how)
        assert negatives.video.tolist() == negatives.audio.tolist() == list(range(n))
        assert not negatives.valid.any()
    matching = [x.requires_grad_() for x in logits(n)]
    result = mem(*matching, negatives.valid)
    assert result.loss.item() == result.a2v.item() == result.v2a.item() == 0
    (aligned.loss + result.loss).backward()
    assert all((x.grad == 0).all() for x in matching)
    assert audio.grad.isfinite().all()
    assert video.grad.isfinite().all()


def test_mem_refuses_what_does_not_fit():
    a, b, c, d = logits(3)
    valid = torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        mem(a, b[:2], c, d, valid)
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        mem(a, b, c, d[:, :1], valid)


# --- what L_AVEL can reach


@pytest.mark.parametrize("normalise", [False, True, "matched"])
def test_avels_levels_are_the_loss_of_equal_and_of_perfect_projections(normalise):
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3])
    same, perfect = torch.ones(9, 4, dtype=torch.float64), simplex(labels)
    want = [avel(z, z, labels, 0.5, normalise_targets=normalise).loss.item() for z in (same, perfect)]
    got = avel_levels(labels, torch.tensor(0.5), 4, normalise_targets=normalise)
    assert [x.item() for x in got] == pytest.approx(want, rel=1e-6)


def test_avels_levels_are_the_specifications():
    chance, floor = avel_levels(LABELS_64, 2.659, 4)
    assert (chance.item(), floor.item()) == (pytest.approx(66.54, abs=0.005), pytest.approx(60.93, abs=0.005))
