"""CFN-SR against counts worked out by hand and naive implementations: one position, one step, one head at a time."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foalkit.models import CFNSR, AudioCNN, ResNeXt3D
from foalkit.models.cfnsr import (
    AudioBranch,
    Bottleneck,
    CrossModalBlock,
    Grouped,
    Pointwise,
    SelfAttentionEncoder,
    VideoBranch,
)

FRAMES, SIZE = 4, 64  # the smallest video whose last map, 1×2×2, has positions to choose from


def scatter(model):
    """Every parameter and statistic random, so that no term is hidden by a start at 0 or 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(0, 0.5)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
    return model


def clips(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, FRAMES, SIZE, SIZE, generator=g), torch.randn(n, 13, 212, generator=g)


@pytest.fixture(scope="module")
def small():
    """The whole network on small video, in evaluation; tests leave it as they found it."""
    torch.manual_seed(0)
    model = CFNSR(frames=FRAMES, size=SIZE)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    # Statistics of real clips: with those of a start the last map is almost 0 and all attention even.
    with torch.no_grad():
        model(*clips(4, seed=1))
    return model.eval()


# --- counts


@pytest.fixture(scope="module")
def paper():
    """The official size on the meta device: every shape, no arithmetic."""
    with torch.device("meta"):
        return CFNSR().eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_section_4s(paper):
    assert count(paper) == 26_301_417
    assert count(paper.video) == 25_865_664
    assert count(paper.video.stem) == 65_984
    assert [count(layer) for layer in paper.video.layers] == [233_472, 1_344_512, 7_907_328, 16_314_368]
    assert [len(layer) for layer in paper.video.layers] == [3, 4, 6, 3]
    assert count(paper.audio) == 20_704
    assert count(paper.block) == 385_345
    assert count(paper.block.video) == 131_136
    assert count(paper.block.audio) == 4_096
    assert count(paper.block.score) == 65
    assert count(paper.block.encoder) == 250_048
    assert count(paper.classifier) == 29_704


def test_parameters_of_the_ablations_and_the_unimodal_networks():
    with torch.device("meta"):
        assert count(CFNSR(block=False)) == 25_916_072
        assert count(CFNSR(residual=False)) == count(CFNSR(batch_summed_attention=True)) == 26_301_417
        assert count(ResNeXt3D()) == 25_882_056
        assert count(AudioCNN()) == 34_024


def test_shapes_and_cost_are_section_1s(paper):
    video, audio = torch.empty(1, 3, 30, 224, 224, device="meta"), torch.empty(1, 13, 212, device="meta")
    stages = [paper.video.stem, paper.video.pool, *paper.video.layers]
    shapes = []
    hooks = [s.register_forward_hook(lambda m, i, out: shapes.append(tuple(out.shape[1:]))) for s in stages]
    with FlopCounterMode(display=False) as counter:
        assert paper(video, audio).shape == (1, 8)
    for hook in hooks:
        hook.remove()
    assert shapes == [
        (64, 30, 112, 112),
        (64, 15, 56, 56),
        (256, 15, 56, 56),
        (512, 8, 28, 28),
        (1024, 4, 14, 14),
        (2048, 2, 7, 7),
    ]
    assert counter.get_total_flops() / 1e9 == pytest.approx(113.2, abs=0.05)


def test_sixteen_frames_of_112_pixels_fit():
    with torch.device("meta"):
        model = CFNSR(5, frames=16, size=112).eval()
        assert model.video(torch.empty(2, 3, 16, 112, 112)).shape == (2, 2048, 1, 4, 4)
        assert model(torch.empty(2, 3, 16, 112, 112), torch.empty(2, 13, 212)).shape == (2, 5)


# --- how training starts


def test_starts_are_kaiming_xavier_and_zero(small):
    convs = [m for m in small.video.modules() if isinstance(m, nn.Conv3d)]
    assert len(convs) == 1 + 16 * 3 + 4
    for m in convs:
        assert m.bias is None
        want = math.sqrt(2 / (m.out_channels * math.prod(m.kernel_size)))
        assert m.weight.std().item() == pytest.approx(want, rel=0.05)
    for layer in small.block.encoder.encoder.layers:
        attention = layer.self_attn
        for weight in (attention.in_proj_weight, attention.out_proj.weight, layer.linear1.weight, layer.linear2.weight):
            bound = math.sqrt(6 / sum(weight.shape))
            assert 0.98 * bound < weight.abs().max() <= bound
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                assert (parameter == 0).all(), name
    first, second = small.block.encoder.encoder.layers[:2]
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


# --- the pieces against naive implementations


def naive_conv3d(x, weight, stride, groups):
    """A 3³ convolution, padding 1, of `x` `(C, t, h, w)`: one output position of one group at a time."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1)))
    out = np.zeros((len(weight), *(-(-n // stride) for n in x.shape[1:])))
    inside, outside = len(x) // groups, len(weight) // groups
    for g in range(groups):
        for t, h, w in np.ndindex(out.shape[1:]):
            corner = [slice(stride * i, stride * i + 3) for i in (t, h, w)]
            window = padded[(slice(g * inside, (g + 1) * inside), *corner)]
            for o in range(g * outside, (g + 1) * outside):
                out[o, t, h, w] = (window * weight[o]).sum()
    return out


def batch_norm(state, name, x):
    """In evaluation: `x` `(C, ...)` or, with torch tensors, `(B, C, ...)` by the stored statistics."""
    shape = (-1,) + (1,) * (x.ndim - 1 if isinstance(x, np.ndarray) else x.ndim - 2)
    mean, var, weight, bias = (
        state[f"{name}.{k}"].reshape(shape) for k in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5) ** 0.5 * weight + bias


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("ours", "stock"),
    [
        (Pointwise(8, 12, stride=2), torch.nn.Conv3d(8, 12, 1, stride=2, bias=False)),
        (Pointwise(8, 12), torch.nn.Conv3d(8, 12, 1, bias=False)),
        (Grouped(128), torch.nn.Conv3d(128, 128, 3, padding=1, groups=32, bias=False)),
        (Grouped(128, stride=2), torch.nn.Conv3d(128, 128, 3, stride=2, padding=1, groups=32, bias=False)),
        (Grouped(64), torch.nn.Conv3d(64, 64, 3, padding=1, groups=32, bias=False)),
    ],
)
def test_convolutions_are_the_stock_ones(ours, stock, layout):
    ours, stock = (c.double().to(memory_format=layout) for c in (ours, stock))
    stock.load_state_dict(ours.state_dict())
    x = torch.randn(2, stock.in_channels, 3, 5, 4, dtype=torch.double).contiguous(memory_format=layout)
    results = []
    for conv in (ours, stock):
        conv.zero_grad()
        own = x.clone().requires_grad_()
        y = conv(own)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
        results.append((y.detach(), own.grad, conv.weight.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("width", "stride"), [(5, 1), (5, 2), (128, 1), (128, 2)])
@torch.no_grad()
def test_bottleneck_is_the_naive_one(width, stride):
    torch.manual_seed(0)
    block = scatter(Bottleneck(width, 64, stride=stride).double()).eval()
    state = {name: value.numpy() for name, value in block.state_dict().items()}
    x = torch.randn(2, width, 3, 2, 3, dtype=torch.float64)
    for clip, got in zip(x.numpy(), block(x), strict=True):
        y = np.einsum("oc,cthw->othw", state["body.0.weight"][:, :, 0, 0, 0], clip)
        y = np.maximum(batch_norm(state, "body.1", y), 0)
        y = naive_conv3d(y, state["body.3.weight"], stride, groups=32)
        y = np.maximum(batch_norm(state, "body.4", y), 0)
        y = batch_norm(state, "body.7", np.einsum("oc,cthw->othw", state["body.6.weight"][:, :, 0, 0, 0], y))
        if (width, stride) != (128, 1):
            clip = clip[:, ::stride, ::stride, ::stride]
            clip = np.einsum("oc,cthw->othw", state["shortcut.0.weight"][:, :, 0, 0, 0], clip)
            clip = batch_norm(state, "shortcut.1", clip)
        np.testing.assert_allclose(got, np.maximum(y + clip, 0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("stem_relu", [False, True])
@torch.no_grad()
def test_the_stems_relu_is_the_unimodal_networks_only(stem_relu):
    torch.manual_seed(0)
    model = ResNeXt3D(frames=2, size=32) if stem_relu else CFNSR(frames=2, size=32)
    branch = scatter(model.branch if stem_relu else model.video).eval()
    video = torch.randn(1, 3, 2, 32, 32)
    y = F.conv3d(video, branch.stem[0].weight, stride=(1, 2, 2), padding=3)
    y = batch_norm(branch.state_dict(), "stem.1", y)
    y = F.pad(y.relu() if stem_relu else y, (1,) * 6, value=-math.inf)
    y = y.unfold(2, 3, 2).unfold(3, 3, 2).unfold(4, 3, 2).amax((5, 6, 7))
    assert stem_relu == bool((y >= 0).all())
    torch.testing.assert_close(branch(video), branch.layers(y), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_resnext_averages_its_map_before_the_classifier():
    torch.manual_seed(0)
    model = ResNeXt3D(5, frames=FRAMES, size=SIZE).eval()
    video, _ = clips(1)
    features = model.branch(video)
    assert features.shape == (1, 2048, 1, 2, 2)
    want = F.avg_pool3d(features, (1, 2, 2)).flatten(1) @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(video), want)


@torch.no_grad()
def test_audio_cnn_is_convolution_relu_batch_norm():
    torch.manual_seed(0)
    model = scatter(AudioCNN().double()).eval()
    state = {name.removeprefix("branch."): value.numpy() for name, value in model.state_dict().items()}

    def conv(name, x):
        kernel = state[f"{name}.weight"].shape[2]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (2, 2))), kernel, axis=1)
        return np.einsum("ock,ctk->ot", state[f"{name}.weight"], windows) + state[f"{name}.bias"][:, None]

    x = torch.randn(2, 13, 212, dtype=torch.float64)
    for clip, sequence, logits in zip(x.numpy(), model.branch(x), model(x), strict=True):
        y = batch_norm(state, "2", np.maximum(conv("0", clip), 0))
        assert y.shape == (32, 210)
        y = np.maximum(conv("3", y), 0)
        y = np.stack([y[:, 8 * t : 8 * t + 8].max(1) for t in range(26)], 1)
        y = batch_norm(state, "10", np.maximum(conv("8", batch_norm(state, "6", y)), 0))
        np.testing.assert_allclose(sequence, y, rtol=0, atol=1e-10)
        want = state["classifier.weight"] @ y.reshape(-1) + state["classifier.bias"]
        np.testing.assert_allclose(logits, want, rtol=0, atol=1e-10)


def position(step, width):
    """Row `step` (from 1) of the table: the sines of all frequencies, then their cosines."""
    frequencies = [10_000 ** (-i / (width // 2 - 1)) for i in range(width // 2)]
    return np.array([math.sin(step * f) for f in frequencies] + [math.cos(step * f) for f in frequencies])


def layer_norm(state, name, x):
    variance = ((x - x.mean()) ** 2).mean()
    return (x - x.mean()) / math.sqrt(variance + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state, name, x):
    return state[f"{name}.weight"] @ x + state.get(f"{name}.bias", 0)


def naive_encoder(state, steps, *, heads=8, layers=5):
    """Section 3's encoder for one clip: `steps` is a list of vectors, each looks at itself and those before."""
    width = len(steps[0])
    part = width // heads
    x = [math.sqrt(width) * step + position(t + 1, width) for t, step in enumerate(steps)]
    for n in range(layers):
        prefix = f"encoder.layers.{n}"
        projected = [
            state[f"{prefix}.self_attn.in_proj_weight"] @ layer_norm(state, f"{prefix}.norm1", v)
            + state[f"{prefix}.self_attn.in_proj_bias"]
            for v in x
        ]
        attended = []
        for t in range(len(x)):
            answer = []
            for head in range(heads):
                q, k, v = (slice(i * width + head * part, i * width + (head + 1) * part) for i in range(3))
                scores = [projected[t][q] @ projected[u][k] / math.sqrt(part) for u in range(t + 1)]
                total = sum(math.exp(s) for s in scores)
                answer.extend(sum(math.exp(s) / total * projected[u][v] for u, s in enumerate(scores)))
            attended.append(x[t] + linear(state, f"{prefix}.self_attn.out_proj", np.array(answer)))
        x = []
        for v in attended:
            h = np.maximum(linear(state, f"{prefix}.linear1", layer_norm(state, f"{prefix}.norm2", v)), 0)
            x.append(v + linear(state, f"{prefix}.linear2", h))
    return [layer_norm(state, "encoder.norm", v) for v in x]


def arrays(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def test_encoder_is_the_naive_one():
    torch.manual_seed(0)
    encoder = scatter(SelfAttentionEncoder().double()).eval()
    want = np.stack([position(t + 1, 64) for t in range(26)])
    np.testing.assert_allclose(encoder.positions, want, rtol=0, atol=1e-5)  # the table is fp32
    encoder.positions.copy_(torch.tensor(want))
    x = torch.randn(2, 26, 64, dtype=torch.float64)
    want = np.stack([naive_encoder(arrays(encoder), clip) for clip in x.numpy()])
    np.testing.assert_allclose(encoder(x).detach(), want, rtol=0, atol=1e-9)
    with torch.no_grad():  # PyTorch has another way, a fused one, to the same number
        np.testing.assert_allclose(encoder(x), want, rtol=0, atol=1e-9)


@torch.no_grad()
def test_encoder_is_causal():
    torch.manual_seed(0)
    encoder = scatter(SelfAttentionEncoder().double()).eval()
    x = torch.randn(1, 26, 64, dtype=torch.float64)
    want = encoder(x)
    for t in (0, 1, 12, 25):
        changed = x.clone()
        changed[:, t:] += torch.randn(64, dtype=torch.float64)
        got = encoder(changed)
        torch.testing.assert_close(got[:, :t], want[:, :t], rtol=0, atol=1e-12)
        assert (got[:, t:] != want[:, t:]).any(2).all()


def test_dropouts_are_section_2s_and_3s(small):
    encoder = small.block.encoder
    assert encoder.dropout.p == 0.3
    for layer in encoder.encoder.layers:
        # attention, its residual, ReLU, its residual
        assert [layer.self_attn.dropout, layer.dropout1.p, layer.dropout.p, layer.dropout2.p] == [0.1] * 4
    assert [m.p for m in small.audio if isinstance(m, nn.Dropout)] == [0.2]
    assert small.dropout.p == AudioCNN().dropout.p == 0.4


def test_dropout_takes_the_input_and_each_residual_branch_but_never_the_residual():
    torch.manual_seed(0)
    x = torch.randn(2, 26, 64)
    encoder = SelfAttentionEncoder()
    encoder.dropout.p = 0.0
    for layer in encoder.encoder.layers:
        layer.dropout1.p = layer.dropout2.p = 1.0
    torch.testing.assert_close(encoder(x), F.layer_norm(8 * x + encoder.positions, (64,)))
    encoder.dropout.p = 1.0
    assert (encoder(x) == 0).all()


def tiny_block(**options):
    torch.manual_seed(0)
    return scatter(CrossModalBlock(5, 4, heads=2, **options).double()).eval()


def naive_maps(block, x, audio):
    """Section 3 for one clip, position by position: the map `(t, h, w)`."""
    state = arrays(block)
    a = naive_encoder(arrays(block.encoder), list(audio.T), heads=2)[-1]
    m = np.zeros(x.shape[1:])
    for t, h, w in np.ndindex(m.shape):
        q = [math.tanh(v) for v in linear(state, "video", x[:, t, h, w]) + linear(state, "audio", a)]
        m[t, h, w] = math.exp(linear(state, "score", np.array(q))[0])
    for t in range(len(m)):
        m[t] /= m[t].sum()
    return m


@pytest.mark.parametrize("batch_summed", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@torch.no_grad()
def test_cross_modal_block_is_the_naive_one(residual, batch_summed):
    block = tiny_block(residual=residual, batch_summed=batch_summed)
    block.encoder.positions.copy_(torch.tensor(np.stack([position(t + 1, 4) for t in range(26)])))
    x, audio = torch.randn(3, 5, 2, 3, 4).double(), torch.randn(3, 4, 26).double()
    maps = [naive_maps(block, *clip) for clip in zip(x.numpy(), audio.numpy(), strict=True)]
    np.testing.assert_allclose(block.attention_map(x, audio), np.stack(maps), rtol=0, atol=1e-12)
    for row, got in enumerate(block(x, audio)):
        m = sum(maps) if batch_summed else maps[row]
        want = x[row].numpy() * m + (x[row].numpy() if residual else 0)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)


def test_gradcheck_of_the_block_and_its_encoder():
    block = tiny_block()
    x, audio = torch.randn(2, 5, 2, 1, 2).double(), torch.randn(2, 4, 6).double()
    names = ["video.weight", "audio.weight", "score.weight", "encoder.encoder.layers.0.self_attn.in_proj_weight"]
    values = [block.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def call(x, audio, *values):
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x, audio))

    inputs = (x.requires_grad_(), audio.requires_grad_(), *values)
    # The fast mode scales its tolerance with the number of entries: at its 1e-5 a missing gradient passes.
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True, atol=1e-8)


@pytest.mark.parametrize("training", [False, True])
def test_gradcheck_of_the_bottleneck_and_the_audio_branch(training):
    torch.manual_seed(0)
    block = scatter(Bottleneck(3, 32, stride=2).double()).train(training)
    x = torch.randn(2, 3, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,), fast_mode=True, atol=1e-8)
    branch = scatter(AudioBranch().double()).train(training)
    branch[7].p = 0.0
    x = torch.randn(2, 13, 212, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(branch, (x,), fast_mode=True, atol=1e-8)


# --- the whole


@torch.no_grad()
def test_the_parts_are_spliced_in_order(small):
    video, audio = clips(2)
    x, a = small.video(video), small.audio(audio)
    spliced = torch.cat([small.block(x, a).mean((2, 3, 4)), a.flatten(1)], 1)
    assert spliced.shape == (2, 3712)
    weight, bias = small.classifier.weight, small.classifier.bias
    torch.testing.assert_close(small(video, audio), spliced @ weight.T + bias, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_without_the_block_the_branches_are_only_spliced(small):
    plain = CFNSR(frames=FRAMES, size=SIZE, block=False).eval()
    plain.load_state_dict({k: v for k, v in small.state_dict().items() if not k.startswith("block.")})
    video, audio = clips(1)
    spliced = torch.cat([small.video(video).mean((2, 3, 4)), small.audio(audio).flatten(1)], 1)
    torch.testing.assert_close(plain(video, audio), small.classifier(spliced), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_batch_mates_matter_only_with_the_published_defect(small):
    video, audio = clips(3)

    def first(*batch):
        """The first clip's logits in a batch of these clips."""
        return small(video[list(batch)], audio[list(batch)])[0]

    torch.testing.assert_close(first(0), first(0, 1), rtol=0, atol=1e-3)
    small.block.batch_summed = True
    try:
        assert (first(0, 1) - first(0, 2)).abs().max() > 0.01
    finally:
        small.block.batch_summed = False


def test_the_options_reach_the_block():
    with torch.device("meta"):
        for residual in (True, False):
            for summed in (True, False):
                block = CFNSR(residual=residual, batch_summed_attention=summed).block
                assert (block.residual, block.batch_summed) == (residual, summed)
        for wrong in ({"residual": False}, {"batch_summed_attention": True}):
            with pytest.raises(ValueError, match="need block=True"):
                CFNSR(block=False, **wrong)


@torch.no_grad()
def test_a_fused_network_starts_from_unimodal_ones():
    torch.manual_seed(0)
    face, voice = scatter(ResNeXt3D(frames=2, size=32)).eval(), scatter(AudioCNN()).eval()
    fused = CFNSR(frames=2, size=32).eval()
    kept = {k: v.clone() for k, v in fused.state_dict().items() if k.startswith(("block.", "classifier."))}
    fused.start_from(face.state_dict(), voice.state_dict())
    video, audio = torch.randn(1, 3, 2, 32, 32), torch.randn(1, 13, 212)
    torch.testing.assert_close(fused.audio(audio), voice.branch(audio))
    fused.video.stem_relu = True
    torch.testing.assert_close(fused.video(video), face.branch(video))
    for name, value in kept.items():
        assert torch.equal(fused.state_dict()[name], value), name
    # a copy: training the fused network leaves the unimodal one alone
    fused.video.stem[0].weight.zero_()
    assert (face.branch.stem[0].weight != 0).any()


@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # the meta device's word on copying nothing
def test_a_state_of_another_network_is_refused():
    with torch.device("meta"):
        fused, face, voice = CFNSR(), ResNeXt3D().state_dict(), AudioCNN().state_dict()
    with pytest.raises(ValueError, match="not the state of a ResNeXt3D"):
        fused.start_from(voice, face)
    with pytest.raises(ValueError, match="not the state of an AudioCNN"):
        fused.start_from(face, {})


def test_it_learns_four_clips_by_heart_and_every_parameter_takes_part():
    torch.manual_seed(0)
    model = CFNSR(4, frames=FRAMES, size=SIZE)
    (video, audio), labels = clips(4), torch.tensor([2, 0, 3, 1])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(model(video, audio), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if len(losses) == 1:
            for name, parameter in model.named_parameters():
                assert parameter.grad.isfinite().all(), name
                # what moves every score alike, the softmax takes out
                assert name == "block.score.bias" or (parameter.grad != 0).any(), name
    assert losses[0] > 1
    assert losses[-1] < 0.3, losses


# --- refusals


@pytest.mark.parametrize("frames", range(212, 220))
@torch.no_grad()
def test_212_to_219_mfcc_frames_give_26_steps(frames):
    assert AudioBranch().eval()(torch.randn(1, 13, frames)).shape == (1, 64, 26)


@pytest.mark.parametrize("shape", [(2, 13, 211), (2, 13, 220), (2, 13, 0), (2, 12, 212), (13, 212), (2, 212, 13)])
def test_other_audio_is_refused(shape):
    for model in (AudioBranch(), AudioCNN()):
        with pytest.raises(ValueError, match=r"\(B, 13, 212\): 212 MFCC frames are needed .* 219 taken, not \("):
            model(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 3, 29, 224, 224), (2, 3, 30, 224, 112), (2, 30, 3, 224, 224), (3, 30, 224, 224)])
def test_other_video_is_refused(paper, shape):
    video = torch.empty(shape, device="meta")
    with torch.device("meta"):
        models = paper.video, ResNeXt3D(), VideoBranch(frames=30, size=224, stem_relu=False)
    for model in models:
        with pytest.raises(ValueError, match=r"video must be \(B, 3, 30, 224, 224\), not \("):
            model(video)


def test_unequal_clips_and_misfits_are_refused_by_the_whole(small):
    video, audio = clips(2)
    with pytest.raises(ValueError, match="video holds 2 clips and audio 1"):
        small(video, audio[:1])
    with pytest.raises(ValueError, match="212 MFCC frames are needed"):
        small(video, audio[:, :, 1:])
    with pytest.raises(ValueError, match=r"video must be \(B, 3, 4, 64, 64\)"):
        small(video[:, :, 1:], audio)
