"""When a stream's frames are: against a click at a known moment, numbers drawn into frames, and receptive fields."""

import numpy as np
import pytest
import torch
from conftest import refused
from pydantic import TypeAdapter
from test_media import FPS, numbers, write_avi, write_wav
from transformers import WavLMConfig

from foalkit.features import media
from foalkit.features.encoders import make_encoder
from foalkit.features.times import frame_times
from foalkit.models.inputs import ConvInput
from foalkit.params.encoders import Features
from foalkit.params.networks import InputLayer
from foalkit.params.schema import Clip


def with_stream(tiny, spec, layer=None, clip=None):
    """The tiny params whose stream `audio` has this encoder and input layer."""
    layers = {"audio": TypeAdapter(InputLayer).validate_python(layer)} if layer else {}
    return tiny.model_copy(
        update={
            "features": {"audio": TypeAdapter(Features).validate_python(spec)},
            "model": tiny.model.model_copy(update={"inputs": layers}),
            "clip": clip or Clip(seconds=6.0),
        }
    )


TURN = {"start": 3.0, "end": 5.0, "audio": "click.wav", "video": "coded.avi"}


@pytest.mark.parametrize("clip", [Clip(seconds=6.0), Clip(seconds=1.0, part="centre")])
@pytest.mark.parametrize(
    "spec",
    [
        {"encoder": "log-mel", "hop_ms": 20},
        {"encoder": "log-mel", "hop_ms": 10},
        {"encoder": "mfcc", "rate": 44_100, "window": 2048, "hop": 512, "start": 0.5, "seconds": 1.2},
        {"encoder": "waveform"},
    ],
)
def test_a_click_is_in_the_frame_of_its_moment(spec, clip, tiny, tmp_path):
    moment = 0.913  # seconds into the utterance
    p = with_stream(tiny, spec, clip=clip)
    sound = np.zeros(2 * 16_000, np.float32)
    sound[round(moment * 16_000)] = 1.0
    encoder = make_encoder(p.features["audio"], tmp_path)
    start, end = (0.5, 1.7) if "seconds" in spec else (0.5, 1.5) if clip.part == "centre" else (0.0, 2.0)
    file = write_wav(tmp_path / "click.wav", sound)
    features = encoder(media.read_audio(file, start, end, rate=spec.get("rate", 16_000)))
    times, step = frame_times(p, "audio", TURN, tmp_path, len(features))
    strength = features[:, 0] if spec["encoder"] == "mfcc" else features.sum(1)
    assert abs(times[strength.argmax()] - moment) <= step / 2 + 1e-4
    assert len(times) == len(features) and np.allclose(np.diff(times), step)


def test_an_input_layers_frames_are_at_the_middle_of_what_they_read(tiny, tmp_path):
    torch.manual_seed(0)
    layer = ConvInput(2, 8, layers=3, stride=4, kernel=5).double().eval()
    x = torch.randn(1, 100, 2, dtype=torch.double, requires_grad=True)
    out, mask = layer(x, torch.ones(1, 100, dtype=torch.bool))
    options = {"kind": "conv", "width": 8, "layers": 3, "stride": 4, "kernel": 5}
    p = with_stream(tiny, {"encoder": "log-mel", "hop_ms": 20}, options)
    times, step = frame_times(p, "audio", TURN, tmp_path, int(mask.sum()))
    assert len(times) == 25 and step == pytest.approx(0.08)
    for i in (8, 12, 16):  # whose field lies inside
        read = torch.autograd.grad(out[0, i].sum(), x, retain_graph=True)[0].abs().sum(2)[0].nonzero()
        assert times[i] == pytest.approx(0.02 * (read.min() + read.max()).item() / 2)


@pytest.mark.parametrize("trained", [False, True])
def test_wavlms_frames_are_at_the_middle_of_their_samples(trained, tiny, tmp_path):
    config = WavLMConfig()
    field, stride = 1, 1  # of one frame in samples, layer by layer
    for kernel, hop in zip(config.conv_kernel, config.conv_stride, strict=True):
        field, stride = field + (kernel - 1) * stride, stride * hop
    own = {"model": "small", "width": 64}
    spec = {"encoder": "waveform"} if trained else {"encoder": "wavlm", **own}
    times, step = frame_times(with_stream(tiny, spec, trained and {"kind": "wavlm", **own}), "audio", TURN, tmp_path, 9)
    assert times == pytest.approx((np.arange(9) * stride + field / 2) / 16_000)
    assert step == pytest.approx(stride / 16_000)


@pytest.mark.parametrize("every", [1, 5])
def test_pictures_are_at_the_moment_they_are_shown(every, tiny, tmp_path):
    file = write_avi(tmp_path / "coded.avi", sound=False)
    p = with_stream(tiny, {"encoder": "hog", "every": every}, clip=Clip(seconds=1.5))
    shown = numbers(media.read_frames(file, 3.0, 4.5, every=every))
    times, step = frame_times(p, "audio", TURN, tmp_path, len(shown))
    assert times == pytest.approx([float(n / FPS) - 3.0 for n in shown], abs=1e-9)
    assert step == pytest.approx(float(every / FPS)) and 0 <= times[0] < float(1 / FPS)
    assert "gone.avi" in refused(lambda: frame_times(p, "audio", TURN | {"video": "gone.avi"}, tmp_path, 3))


def test_features_made_elsewhere_are_spread_over_the_part_that_is_used(tiny, tmp_path):
    p = with_stream(tiny, {"encoder": "imported", "folder": "x", "width": 7}, clip=Clip(seconds=1.5))
    times, step = frame_times(p, "audio", TURN, tmp_path, 3)
    assert times.tolist() == [0.25, 0.75, 1.25] and step == 0.5
    assert frame_times(p, "audio", TURN | {"end": 3.6}, tmp_path, 3)[0] == pytest.approx([0.1, 0.3, 0.5])
