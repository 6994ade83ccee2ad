"""The models against a naive numpy implementation: one clip, one head and one frame at a time, no masks."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from foalkit.losses import avel, hard_negatives, mem
from foalkit.models import FoalNet, Unimodal, foalnet
from foalkit.models.draws import Dropout
from foalkit.models.foalnet import CrossAttentionLayer, LayerNorm, Projection
from foalkit.models.frames import Padded, masked_mean
from foalkit.models.inputs import ConvInput, Identity, LinearInput, Standardise

AUDIO, VIDEO, HEADS = 8, 12, 4


@pytest.fixture(params=["padded", "packed"], autouse=True)
def layout(request, monkeypatch):
    """Every test with both layouts of the frames; by itself so small a model would only be padded."""
    monkeypatch.setattr(foalnet, "PACKED_FROM", 0 if request.param == "packed" else math.inf)
    return request.param


def tiny(**options):
    """A small Foal-Net in fp64 whose every parameter is random, biases and norms included."""
    torch.manual_seed(0)
    options = {"heads": HEADS, "projection_dim": 6, **options}
    model = FoalNet(options.pop("audio_dim", AUDIO), options.pop("video_dim", VIDEO), **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.normal_(0, 0.5)
    return model.eval()


def clips(lengths=((5, 7), (9, 2), (1, 4)), audio_dim=AUDIO, video_dim=VIDEO, extra=3):
    """Ragged streams, and the padded batch made of them; the padding is rubbish, not zeros."""
    g = torch.Generator().manual_seed(1)
    ragged = [
        (
            torch.randn(ta, audio_dim, generator=g, dtype=torch.float64),
            torch.randn(tv, video_dim, generator=g, dtype=torch.float64),
        )
        for ta, tv in lengths
    ]
    padded, masks = [], []
    for stream in range(2):
        longest = max(len(clip[stream]) for clip in ragged) + extra
        x = torch.full((len(ragged), longest, ragged[0][stream].shape[1]), 50.0, dtype=torch.float64)
        mask = torch.zeros(len(ragged), longest, dtype=torch.bool)
        for row, clip in enumerate(ragged):
            x[row, : len(clip[stream])] = clip[stream]
            mask[row, : len(clip[stream])] = True
        padded.append(x)
        masks.append(mask)
    return ragged, (*padded, *masks)


# --- the naive implementation


def linear(weights, name, x):
    y = weights[f"{name}.weight"] @ x
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def norm(weights, name, x):
    deviation = x - sum(x) / len(x)
    variance = sum(deviation**2) / len(x)
    return deviation / math.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def naive_stack(weights, name, query, context, heads=HEADS, layers=2):
    """Section 5 for one clip: `query` and `context` are lists of frames, empty where the stream is absent."""
    for layer in range(layers):
        prefix = f"{name}.layers.{layer}"
        keys = [linear(weights, f"{prefix}.key", frame) for frame in context]
        values = [linear(weights, f"{prefix}.value", frame) for frame in context]
        result = []
        for frame in query:
            if not context:
                result.append(norm(weights, f"{prefix}.norm", frame))
                continue
            asked = linear(weights, f"{prefix}.query", frame)
            width = len(asked) // heads
            answer = []
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = [float(asked[part] @ key[part]) / math.sqrt(width) for key in keys]
                total = sum(math.exp(score) for score in scores)
                answer.extend(sum(math.exp(s) / total * v[part] for s, v in zip(scores, values, strict=True)))
            result.append(norm(weights, f"{prefix}.norm", frame + linear(weights, f"{prefix}.out", answer)))
        query = result
    return sum(query) / len(query) if query else np.zeros(len(weights[f"{name}.layers.0.norm.bias"]))


def naive_projection(weights, name, frames):
    if not frames:
        return np.zeros(len(weights[f"{name}.norm.bias"]))
    h = linear(weights, f"{name}.enter", sum(frames) / len(frames))
    gelu = np.array([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in h])
    return norm(weights, f"{name}.norm", h + linear(weights, f"{name}.block", gelu))


def arrays(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


# --- Foal-Net


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return FoalNet()


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_section_6s(paper):
    assert count(paper) == 14_321_161
    assert [count(layer) for layer in paper.a2v.layers] == [3_676_160] * 2
    assert [count(layer) for layer in paper.v2a.layers] == [2_757_120] * 2
    assert count(paper.audio_projection) == 787_456
    assert count(paper.video_projection) == 656_384
    assert count(paper.match_a2v) == 2_050
    assert count(paper.match_v2a) == 1_538
    assert count(paper.classifier) == 7_172
    assert paper.temperature.numel() == 1
    assert paper.temperature.requires_grad
    assert paper.temperature.item() == pytest.approx(math.log(1 / 0.07), abs=5e-4)


def test_a_fixed_temperature_is_a_buffer():
    model = FoalNet(AUDIO, VIDEO, temperature=0.07, learn_temperature=False)
    assert count(model) == count(FoalNet(AUDIO, VIDEO)) - 1
    assert model.state_dict()["temperature"].item() == pytest.approx(0.07)


def test_linears_start_small(paper):
    linears = [m for m in paper.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 4 * 4 + 4 + 3
    for m in linears:
        assert m.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert abs(m.weight.mean().item()) < 5 * 0.02 / math.sqrt(m.weight.numel())
        assert m.bias is None or (m.bias == 0).all()


def test_dropout_stands_where_the_paper_has_it(paper):
    rates = {name: m.p for name, m in paper.named_modules() if isinstance(m, nn.Dropout)}
    assert sorted(rates.values()) == [0.1] * 4 + [0.5] * 2
    # With everything dropped only the residual is left, then the norm: section 5's and section 2's order.
    query, context = torch.randn(2, 3, 8), torch.randn(2, 5, 4)
    layer = CrossAttentionLayer(8, 4, heads=2, dropout=1.0)
    frames = Padded(torch.ones(2, 3).bool(), torch.ones(2, 5).bool(), torch.arange(2)[None])
    torch.testing.assert_close(layer.norm(layer(query[None], context, frames))[0], F.layer_norm(query, (8,)))
    projection = Projection(8, width=6, dropout=1.0)
    x = torch.randn(3, 8)
    torch.testing.assert_close(projection(x), F.layer_norm(x @ projection.enter.weight.T, (6,)))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("lengths", [((5, 7), (9, 2), (1, 4)), ((5, 7), (0, 4), (6, 0), (1, 3)), ((0, 2), (0, 5))])
@torch.no_grad()
def test_a_padded_batch_is_the_naive_implementation(lengths, layers):
    """Also where a clip's audio or video is absent, and where the whole batch's audio is."""
    model = tiny(layers=layers)
    weights = arrays(model)
    ragged, padded = clips(lengths)
    fused, logits = model.fuse(*padded), model(*padded)
    z_audio, z_video = model.project(*padded)
    for row, clip in enumerate(ragged):
        audio, video = (list(stream.numpy()) for stream in clip)
        a2v = naive_stack(weights, "a2v", audio, video, layers=layers)
        v2a = naive_stack(weights, "v2a", video, audio, layers=layers)
        np.testing.assert_allclose(fused.a2v[row], a2v, rtol=0, atol=1e-10)
        np.testing.assert_allclose(fused.v2a[row], v2a, rtol=0, atol=1e-10)
        want = linear(weights, "classifier", np.concatenate([a2v, v2a]))
        np.testing.assert_allclose(logits[row], want, rtol=0, atol=1e-10)
        for z, name, frames in ((z_audio, "audio", audio), (z_video, "video", video)):
            want = naive_projection(weights, f"{name}_projection", frames)
            np.testing.assert_allclose(z[row], want, rtol=0, atol=1e-10)
        for head, fused_row in (("match_a2v", a2v), ("match_v2a", v2a)):
            got = getattr(model, head)(getattr(fused, head[-3:])[row])
            np.testing.assert_allclose(got, linear(weights, head, fused_row), rtol=0, atol=1e-10)


@torch.no_grad()
def test_attentions_weights_times_the_values_are_what_the_model_fuses():
    model, (ragged, batch) = tiny(), clips(((5, 7), (9, 2), (1, 4), (3, 0)))
    weights, fused = arrays(model), model.fuse(*batch)
    for name, one, other, shown in zip(("a2v", "v2a"), (0, 1), (1, 0), model.attention(*batch), strict=True):
        assert shown.shape == (4, 2, HEADS, batch[one].shape[1], batch[other].shape[1])
        for row, clip in enumerate(ragged):
            query, context = ([frame.numpy() for frame in clip[stream]] for stream in (one, other))
            assert not shown[row, ..., len(context) :].any()  # padding, and all where nothing is there
            for layer, looks in enumerate(shown[row].numpy()):  # (heads, Tq, Tk)
                prefix, result = f"{name}.layers.{layer}", []
                keys, values = ([linear(weights, f"{prefix}.{n}", f) for f in context] for n in ("key", "value"))
                for t, frame in enumerate(query if context else []):
                    asked, answer = linear(weights, f"{prefix}.query", frame), []
                    for head, part in enumerate(np.split(np.arange(len(asked)), HEADS)):
                        scores = [math.exp(float(asked[part] @ key[part]) / math.sqrt(len(part))) for key in keys]
                        assert looks[head, t, : len(keys)] == pytest.approx(np.array(scores) / sum(scores))
                        answer.extend(sum(looks[head, t, i] * value[part] for i, value in enumerate(values)))
                    told = linear(weights, f"{prefix}.out", np.array(answer))
                    result.append(norm(weights, f"{prefix}.norm", frame + told))
                query = result
            if query:
                np.testing.assert_allclose(getattr(fused, name)[row], sum(query) / len(query), rtol=0, atol=1e-10)


@torch.no_grad()
def test_padding_and_its_content_change_nothing():
    model = tiny()
    _, (audio, video, audio_mask, video_mask) = clips()
    want = model(audio, video, audio_mask, video_mask)
    audio, video = audio.clone(), video.clone()
    audio[~audio_mask], video[~video_mask] = -7.0, 1e3
    torch.testing.assert_close(model(audio, video, audio_mask, video_mask), want, rtol=0, atol=1e-12)
    # A hole in the middle is masked like padding at the end.
    keep = torch.ones(audio.shape[1], dtype=torch.bool)
    keep[2] = False
    holed = audio_mask & keep
    want = model(audio[:, keep], video, audio_mask[:, keep], video_mask)
    torch.testing.assert_close(model(audio, video, holed, video_mask), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.no_grad()
def test_an_absent_stream_leaves_the_other_clips_as_they_are(dtype):
    model = tiny().to(dtype)
    _, (audio, video, audio_mask, video_mask) = clips(((5, 7), (9, 2), (1, 4), (6, 6)))
    audio, video = audio.to(dtype), video.to(dtype)
    deaf, blind = audio_mask.clone(), video_mask.clone()
    deaf[1], blind[3] = False, False

    def results(*masks):
        return [model(audio, video, *masks), *model.fuse(audio, video, *masks), *model.project(audio, video, *masks)]

    for before, after in zip(results(audio_mask, video_mask), results(deaf, blind), strict=True):
        # not bit for bit: the products of another number of packed frames may be another kernel's
        rounding = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 3e-2}[dtype]
        torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=rounding, atol=rounding)
        assert (after[[1, 3]] - before[[1, 3]]).abs().amax() > 3 * rounding


def test_no_softmax_is_over_no_frame(monkeypatch):
    """torch answers a row without frames with zeros or with NaN, by version and device; the textbook's is NaN."""

    def textbook(q, k, v, attn_mask):
        scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).exp() * attn_mask
        return scores / scores.sum(3, keepdim=True) @ v

    model, (_, batch) = tiny(), clips(((5, 7), (0, 4), (6, 0)))
    batch[0][~batch[2]], batch[1][~batch[3]] = 1.0, 1.0  # exp of the usual 50 would overflow

    def gradients():
        return torch.autograd.grad(model(*batch).square().sum(), list(model.a2v.parameters()))

    want = gradients()
    monkeypatch.setattr(F, "scaled_dot_product_attention", textbook)
    torch.testing.assert_close(gradients(), want)  # a NaN that is left out of the value is still in the gradient


def test_an_absent_streams_padding_is_not_read_and_a_stream_of_no_frames_is_absent():
    model = tiny()
    _, (audio, video, audio_mask, _) = clips()
    absent = torch.zeros(3, video.shape[1], dtype=torch.bool)
    want = model(audio, video, audio_mask, absent)
    assert torch.equal(model(audio, video * 1e6, audio_mask, absent), want)
    assert torch.equal(model(audio, video[:, :0], audio_mask, absent[:, :0]), want)


def test_gradcheck_with_absent_streams():
    model = tiny(audio_dim=4, video_dim=2, heads=2, projection_dim=3)
    _, (audio, video, audio_mask, video_mask) = clips(((2, 3), (0, 1), (1, 0), (2, 2)), 4, 2, extra=1)
    labels = torch.tensor([0, 1, 1, 0])

    def losses(audio, video):
        aligned = avel(*model.project(audio, video, audio_mask, video_mask), labels, model.temperature)
        return aligned.loss, F.cross_entropy(model(audio, video, audio_mask, video_mask), labels)

    inputs = (audio.requires_grad_(), video.requires_grad_())
    assert torch.autograd.gradcheck(losses, inputs)
    sum(losses(*inputs)).backward()
    for x, mask in ((audio, audio_mask), (video, video_mask)):
        assert (x.grad[~mask] == 0).all()
        assert (x.grad[mask] != 0).any(-1).all()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(g.isfinite().all() and g.abs().max() < 1e3 for g in gradients)  # not 1 / eps of a zero vector's cosine


def test_a_temperature_in_a_range_is_put_back_and_keeps_its_gradient():
    batch, labels = clips()[1], torch.tensor([0, 1, 1])
    free, kept = tiny(), tiny(temperature=0.07, temperature_range=(0.001, 0.5))
    for start, want in ((0.3, 0.3), (0.9, 0.5), (-1.0, 0.001)):
        for model in (free, kept):
            model.temperature.data.fill_(start)
        kept.zero_grad()
        kept.project(*batch)  # twice before the gradient, as a batch in parts does
        aligned = avel(*kept.project(*batch), labels, kept.temperature)
        free.project(*batch)
        assert kept.temperature.item() == pytest.approx(want, rel=1e-6)
        assert free.temperature.item() == pytest.approx(start)
        kept.project(*batch)
        aligned.loss.backward()
        assert kept.temperature.grad.isfinite() and kept.temperature.grad != 0


@torch.no_grad()
def test_a_negative_swaps_only_the_context():
    model = tiny()
    ragged, (audio, video, audio_mask, video_mask) = clips()
    weights, other = arrays(model), [2, 0, 1]
    a2v = model.fuse(audio, video[other], audio_mask, video_mask[other]).a2v
    v2a = model.fuse(audio[other], video, audio_mask[other], video_mask).v2a
    assert a2v.shape == (3, AUDIO)
    assert v2a.shape == (3, VIDEO)
    for row, partner in enumerate(other):
        want = naive_stack(weights, "a2v", list(ragged[row][0].numpy()), list(ragged[partner][1].numpy()))
        np.testing.assert_allclose(a2v[row], want, rtol=0, atol=1e-10)
        want = naive_stack(weights, "v2a", list(ragged[row][1].numpy()), list(ragged[partner][0].numpy()))
        np.testing.assert_allclose(v2a[row], want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_detached_context_leaves_the_gradient_to_query_and_weights(monkeypatch, layout):
    monkeypatch.setattr("foalkit.models.foalnet.PACKED_FROM", {"padded": 2**40, "packed": 0}[layout])
    model = tiny()
    _, (audio, video, *masks) = clips()
    streams, asked = (audio.requires_grad_(), video.requires_grad_()), torch.tensor([[2, 0, 1]])

    def gradients(side, **kwargs):
        (fused,) = model.fuse_with(*streams, *masks, asked, asked, **kwargs)
        weights = getattr(model, side).parameters()
        return torch.autograd.grad(fused[side == "v2a"].square().sum(), (*streams, *weights), allow_unused=True)

    for side, query in (("a2v", 0), ("v2a", 1)):
        whole, cut = gradients(side), gradients(side, detach_context=True)
        assert cut[1 - query] is None and whole[1 - query].abs().sum() > 0
        torch.testing.assert_close([cut[query], *cut[2:]], [whole[query], *whole[2:]])


def test_gradcheck_of_all_three_losses_through_the_model():
    model = tiny(audio_dim=4, video_dim=2, heads=2, projection_dim=3)
    _, (audio, video, audio_mask, video_mask) = clips(((2, 3), (3, 1), (1, 2)), 4, 2, extra=1)
    labels, partner = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0])
    valid = torch.tensor([True, True, False])
    checked = ["temperature", "a2v.layers.0.key.weight", "v2a.layers.1.norm.bias", "match_a2v.weight"]
    parameters = [model.get_parameter(name).detach().clone().requires_grad_() for name in checked]

    def losses(audio, video, *values):
        def call(method, *args):
            return torch.func.functional_call(
                Caller(model, method), {f"model.{n}": v for n, v in zip(checked, values, strict=True)}, args
            )

        aligned = avel(*call("project", audio, video, audio_mask, video_mask), labels, values[0])
        a2v, v2a = call("fuse", audio, video, audio_mask, video_mask)
        other_a2v = call("fuse", audio, video[partner], audio_mask, video_mask[partner]).a2v
        other_v2a = call("fuse", audio[partner], video, audio_mask[partner], video_mask).v2a
        matched = mem(
            call("match_a2v", a2v),
            call("match_a2v", other_a2v),
            call("match_v2a", v2a),
            call("match_v2a", other_v2a),
            valid,
        )
        crossed = F.cross_entropy(call("classify", (a2v, v2a)), labels)
        return aligned.loss, matched.loss, crossed

    inputs = (audio.requires_grad_(), video.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(losses, inputs)
    # and no gradient reaches the padding
    for x, mask in ((audio, audio_mask), (video, video_mask)):
        (gradient,) = torch.autograd.grad(sum(losses(*inputs)), x)
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask] != 0).any(-1).all()


class Caller(nn.Module):
    """One method of a model as a forward, which is what functional_call needs."""

    def __init__(self, model, method):
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *args):
        return getattr(self.model, self.method)(*args)


def test_one_step_of_training_moves_every_parameter():
    torch.manual_seed(0)
    model = FoalNet(AUDIO, VIDEO, projection_dim=6)
    _, (audio, video, audio_mask, video_mask) = clips()
    audio, video, labels = audio.float(), video.float(), torch.tensor([0, 1, 1])
    aligned = avel(*model.project(audio, video, audio_mask, video_mask), labels, model.temperature)
    negatives = hard_negatives(aligned.similarity, labels, how="multinomial")
    a2v, v2a = fused = model.fuse(audio, video, audio_mask, video_mask)
    matched = mem(
        model.match_a2v(a2v),
        model.match_a2v(model.fuse(audio, video[negatives.video], audio_mask, video_mask[negatives.video]).a2v),
        model.match_v2a(v2a),
        model.match_v2a(model.fuse(audio[negatives.audio], video, audio_mask[negatives.audio], video_mask).v2a),
        negatives.valid,
    )
    (F.cross_entropy(model.classify(fused), labels) + aligned.loss + 0.1 * matched.loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A key's bias adds the same to every score of a query: softmax takes it out again.
        assert name.endswith("key.bias") or (parameter.grad != 0).any(), name


# --- low precision


@pytest.mark.parametrize("as_module", [True, False])
def test_every_layernorm_is_fp32_in_bf16(monkeypatch, as_module):
    seen = []
    original = F.layer_norm

    def spy(x, shape, weight, bias, eps):
        seen.append((x.dtype, weight.dtype, bias.dtype))
        return original(x, shape, weight, bias, eps)

    monkeypatch.setattr(F, "layer_norm", spy)
    torch.manual_seed(0)
    model = FoalNet(AUDIO, VIDEO, projection_dim=6)
    _, (audio, video, *masks) = clips()
    if as_module:
        model, audio, video = model.bfloat16(), audio.bfloat16(), video.bfloat16()
        logits, z = model(audio, video, *masks), model.project(audio, video, *masks)
        assert z[0].dtype == logits.dtype == torch.bfloat16
    else:
        audio, video = audio.float(), video.float()
        with torch.autocast("cpu", torch.bfloat16):
            logits, z = model(audio, video, *masks), model.project(audio, video, *masks)
    assert seen == [(torch.float32,) * 3] * 6
    (logits.float().sum() + z[0].float().sum() + z[1].float().sum()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_layernorms_bf16_gradient_is_summed_in_fp32():
    torch.manual_seed(0)
    norm_bf16, x = LayerNorm(16).bfloat16(), torch.randn(4096, 16, dtype=torch.bfloat16)
    gradient = torch.rand(4096, 16, dtype=torch.bfloat16)
    norm_bf16(x).backward(gradient)
    want = gradient.double().sum(0)  # the bias's gradient is the plain sum over frames
    torch.testing.assert_close(norm_bf16.bias.grad.double(), want, rtol=1e-2, atol=0)


def test_a_mean_of_large_fp16_frames_does_not_overflow():
    x, mask = torch.full((1, 300, 2), 1000.0, dtype=torch.float16), torch.ones(1, 300, dtype=torch.bool)
    assert (masked_mean(x, mask) == 1000).all()


# --- refusals


def test_widths_must_divide_into_heads():
    with pytest.raises(ValueError, match=r"audio_dim 7 .* 4 heads: .*audio"):
        FoalNet(7, 8)
    with pytest.raises(ValueError, match=r"video_dim 9 .* 2 heads: .*video"):
        FoalNet(8, 9, heads=2)


@pytest.mark.parametrize("method", ["forward", "project", "fuse"])
def test_bad_streams_are_refused(method):
    call = getattr(tiny(), method)
    _, (audio, video, audio_mask, video_mask) = clips()
    deaf, blind = audio_mask.clone(), video_mask.clone()
    deaf[:], blind[[0, 2]] = False, False
    with pytest.raises(ValueError, match=r"audio and video have no real frame in rows \[0, 2\]"):
        call(audio, video, deaf, blind)
    blind[0] = True
    with pytest.raises(ValueError, match=r"audio and video have no real frame in row \[2\]"):
        call(audio, video, deaf, blind)
    with pytest.raises(ValueError, match="audio_mask must be bool"):
        call(audio, video, audio_mask.float(), video_mask)
    with pytest.raises(ValueError, match="video_mask must be bool"):
        call(audio, video, audio_mask, video_mask[:, 1:])
    with pytest.raises(ValueError, match=r"video must be \(B, T, 12\)"):
        call(audio, video[..., 1:], audio_mask, video_mask)
    with pytest.raises(ValueError, match="3 clips and video 2"):
        call(audio, video[:2], audio_mask, video_mask[:2])


# --- unimodal


@torch.no_grad()
def test_unimodal_is_a_linear_on_the_mean_of_real_frames():
    torch.manual_seed(0)
    model = Unimodal(AUDIO, 3).double()
    assert count(model) == 3 * AUDIO + 3
    ragged, (audio, _, mask, _) = clips()
    for row, (frames, _) in enumerate(ragged):
        want = linear(arrays(model), "classifier", sum(frames.numpy()) / len(frames))
        np.testing.assert_allclose(model(audio, mask)[row], want, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"no real frame in rows \[0, 1, 2\]"):
        model(audio, torch.zeros_like(mask))


def test_unimodal_dropout_acts_in_training_only():
    model, (audio, mask) = Unimodal(AUDIO, dropout=1.0).double(), (clips()[1][0], clips()[1][2])
    assert (model(audio, mask) == 0).all()
    assert (model.eval()(audio, mask) != 0).all()


# --- input layers


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@torch.no_grad()
def test_conv_input_gives_every_clip_its_result_alone(stride, kernel):
    torch.manual_seed(0)
    layer = ConvInput(AUDIO, 6, stride=stride, kernel=kernel).double().eval()
    for norm_layer in layer.norms:
        norm_layer.bias.normal_()  # at its start of zero a leak would hide
    ragged, (audio, _, mask, _) = clips(tuple((n, 1) for n in (1, 2, 3, 4, 5, 8, 13, 16, 21)))
    got, got_mask = layer(audio, mask)
    assert got.shape == (9, -(-audio.shape[1] // stride), 6)
    for row, (frames, _) in enumerate(ragged):
        alone, alone_mask = layer(frames[None], torch.ones(1, len(frames), dtype=torch.bool))
        length = -(-len(frames) // stride)
        assert alone.shape[1] == length
        assert alone_mask.all()
        assert got_mask[row].nonzero().flatten().tolist() == list(range(length))
        torch.testing.assert_close(got[row, :length], alone[0], rtol=0, atol=1e-12)
        assert (got[row, length:] == 0).all()


@torch.no_grad()
def test_conv_input_keeps_a_frame_of_every_clip_and_reads_all_of_them():
    layer = ConvInput(3, 6).eval()
    for position in range(11):
        mask = torch.zeros(1, 11, dtype=torch.bool)
        mask[0, position] = True
        _, kept = layer(torch.randn(1, 11, 3), mask)
        assert kept.sum() == 1
        assert kept[0, position // 4]
    x, mask = torch.randn(1, 11, 3), torch.ones(1, 11, dtype=torch.bool)
    for position in range(11):
        changed = x.clone()
        changed[0, position] += 1
        assert not torch.equal(layer(changed, mask)[0], layer(x, mask)[0])


def test_input_layers_feed_foalnet_and_learn():
    torch.manual_seed(0)
    audio_input, video_input = ConvInput(80, 16, layers=2, stride=2), LinearInput(7, 8)
    model = FoalNet(audio_input.width, video_input.width, projection_dim=6)
    audio, audio_mask = audio_input(torch.randn(2, 21, 80), torch.ones(2, 21, dtype=torch.bool))
    video, video_mask = video_input(torch.randn(2, 5, 7), torch.ones(2, 5, dtype=torch.bool))
    model(audio, video, audio_mask, video_mask).square().sum().backward()
    for layer in (audio_input, video_input):
        assert all((p.grad != 0).any() for p in layer.parameters())


def test_input_layers_map_a_stream_and_its_mask():
    x, mask = torch.randn(2, 3, 5), torch.ones(2, 3, dtype=torch.bool)
    none = Identity(5)
    assert none.width == 5 and none(x, mask) == (x, mask)
    linear = LinearInput(5, 8)
    y, same = linear(x, mask)
    torch.testing.assert_close(y, x @ linear.linear.weight.T + linear.linear.bias)
    assert same is mask and linear.width == 8
    conv = ConvInput(5, 8)
    assert conv.width == 8 and [c.stride[0] for c in conv.convs] == [2, 2, 1]
    for options in ({"kernel": 4}, {"kernel": 1}, {"stride": 3}, {"stride": 0}, {"stride": 16}):
        with pytest.raises(ValueError, match=r"kernel|stride"):
            ConvInput(5, 8, **options)


def test_standardise_uses_the_statistics_it_was_given_and_saves_them():
    x = torch.randn(50, 3, dtype=torch.float64) * torch.tensor([0.1, 1.0, 9.0]) + 4
    layer = Standardise(x.mean(0), x.std(0))
    torch.testing.assert_close(layer(x).mean(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(layer(x).std(0), torch.ones(3, dtype=torch.float64))
    assert set(layer.state_dict()) == {"scale", "shift"}
    assert not list(layer.parameters())


# --- dropout


def test_dropout_is_torchs_by_rate_scale_and_gradient():
    torch.manual_seed(0)
    x = (torch.rand(1001, 1003) + 1).requires_grad_()  # a number of values that 4 does not divide
    dropped = Dropout(0.1)(x)
    kept = dropped != 0
    torch.testing.assert_close(dropped, torch.where(kept, x / 0.9, 0))
    dropped.sum().backward()
    torch.testing.assert_close(x.grad, kept / 0.9)
    # binomial: five standard deviations, also of every fourth value, which share one random draw, and of neighbours
    off = 5 * math.sqrt(0.1 * 0.9 / (kept.numel() / 4))
    for lane in range(4):
        assert kept.flatten()[lane::4].float().mean().item() == pytest.approx(0.9, abs=off)
    both = (~kept.flatten()[1:] & ~kept.flatten()[:-1]).float().mean().item()
    assert both == pytest.approx(0.01, abs=5 * math.sqrt(0.01 / kept.numel()))
    assert not torch.equal(kept, Dropout(0.1)(x) != 0)


def test_dropout_leaves_evaluation_alone_and_repeats_with_the_seed():
    x, dropout = torch.randn(50, 7, dtype=torch.bfloat16), Dropout(0.5)
    assert dropout.eval()(x) is x
    dropout.train()
    torch.manual_seed(3)
    first = dropout(x)
    torch.manual_seed(3)
    assert first.dtype == x.dtype and torch.equal(first, dropout(x))
    assert (Dropout(1.0)(x) == 0).all() and torch.equal(Dropout(0.0)(x), x)
    y = x.double().requires_grad_()
    torch.manual_seed(4)

    def seeded(y):
        torch.manual_seed(4)
        return dropout(y)

    assert torch.autograd.gradcheck(seeded, y)
