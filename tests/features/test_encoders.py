"""Encoders against librosa, plain loops and the libraries' own calls; every refusal is one line."""

import shutil
import warnings

import librosa
import numpy as np
import open_clip
import pytest
import torch
from conftest import refused
from pydantic import TypeAdapter
from scipy.fft import dct

from foalkit.features.encoders import make_encoder
from foalkit.features.encoders.imported import ImportedFeatures
from foalkit.features.encoders.wavlm import wavlm_summary
from foalkit.params.encoders import Features, Imported

RNG = np.random.default_rng(0)
SOUND = (0.3 * np.sin(np.arange(16_000) / 7) + 0.05 * RNG.normal(size=16_000)).astype(np.float32)
FRAMES = RNG.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def encoder(folder, **spec):
    return make_encoder(TypeAdapter(Features).validate_python(spec), folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# ---- sound without weights -------------------------------------------------------------------------


def naive_mel_power(samples, bands, hop):
    """Hann windows of 400 samples in the middle of 512, power spectrum, mel filters: frame by frame."""
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    padded = np.pad(samples.astype(float), 256)
    frames = [padded[t : t + 512] * window for t in range(0, len(samples) + 1, hop)]
    power = np.abs(np.array([np.fft.rfft(f) for f in frames])) ** 2
    return power @ librosa.filters.mel(sr=16_000, n_fft=512, n_mels=bands).T  # (T, bands)


def test_log_mel_is_computed_as_said(tmp_path):
    got = encoder(tmp_path, encoder="log-mel", bands=40, hop_ms=20)(SOUND)
    assert got.shape == (51, 40) and got.dtype == np.float32
    np.testing.assert_allclose(got, np.log(naive_mel_power(SOUND, 40, 320) + 1e-6), atol=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("length", [1, 40, 320, 511, 512])
def test_a_sound_shorter_than_a_window_is_as_librosa_has_it_without_its_warning(tmp_path, length):
    got = encoder(tmp_path, encoder="log-mel", bands=40, hop_ms=20)(SOUND[:length])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        power = librosa.feature.melspectrogram(
            y=SOUND[:length], sr=16_000, n_fft=512, win_length=400, hop_length=320, n_mels=40
        )
    np.testing.assert_array_equal(got, np.log(power + 1e-6).T)


def test_mfcc_is_computed_as_said(tmp_path):
    got = encoder(tmp_path, encoder="mfcc", coefficients=13)(SOUND)
    decibels = 10 * np.log10(np.maximum(naive_mel_power(SOUND, 40, 160), 1e-10))
    decibels = np.maximum(decibels, decibels.max() - 80)
    assert got.shape == (101, 13) and got.dtype == np.float32
    np.testing.assert_allclose(got, dct(decibels, norm="ortho")[:, :13], atol=2e-2)


def test_cfn_srs_mfccs_are_librosas_own(tmp_path):
    spec = {"rate": 44_100, "window": 2048, "hop": 512, "bands": 128, "start": 0.5, "seconds": 2.45}
    mfcc = encoder(tmp_path, encoder="mfcc", coefficients=13, **spec)
    sound = (0.2 * np.sin(np.arange(108_045) ** 1.2 / 90)).astype(np.float32)
    assert mfcc.rate == 44_100 and mfcc(sound).shape == (212, 13) and mfcc.note(sound) is None
    np.testing.assert_allclose(mfcc(sound), librosa.feature.mfcc(y=sound, sr=44_100, n_mfcc=13).T, rtol=1e-4, atol=1e-3)
    half = sound[:54_000]
    assert mfcc.note(half) == "106 of 212 MFCC frames, the rest is silence"
    np.testing.assert_array_equal(mfcc(half), mfcc(np.append(half, np.zeros(54_045, np.float32))))


@pytest.mark.parametrize(("frames", "count", "kept"), [(3, 9, [1, 4, 7]), (4, 6, [0, 2, 3, 5]), (3, 2, [0, 1, 1])])
def test_frames_are_spread_evenly(tmp_path, frames, count, kept):
    pictures = encoder(tmp_path, encoder="frames", frames=frames, size=64)
    middles = [(k + 0.5) * count / frames for k in range(frames)]
    assert pictures.pick(count).tolist() == [int(m) for m in middles] == kept
    assert pictures.width == 64 * 64 * 3
    np.testing.assert_array_equal(pictures(FRAMES).reshape(FRAMES.shape), FRAMES)


def test_very_short_sound_gives_a_frame(tmp_path, weights):
    for spec in ({"encoder": "log-mel"}, {"encoder": "mfcc"}, {"encoder": "wavlm", "model": "small", "width": 32}):
        got = encoder(weights, **spec)(SOUND[:5])
        assert len(got) >= 1 and np.isfinite(got).all()


def test_a_waveform_is_its_samples(tmp_path):
    raw = encoder(tmp_path, encoder="waveform")
    assert raw.width == 1
    np.testing.assert_array_equal(raw(SOUND), SOUND.reshape(-1, 1))


# ---- gradients -------------------------------------------------------------------------------------


def naive_hog(picture, cell, bins):
    """One picture (H, W, 3), pixel by pixel."""
    grey = (picture.astype(float) * [0.299, 0.587, 0.114]).sum(-1) / 255
    size = len(grey)
    histogram = np.zeros((size // cell, size // cell, bins))
    for y in range(size):
        for x in range(size):
            up, down, left, right = max(y - 1, 0), min(y + 1, size - 1), max(x - 1, 0), min(x + 1, size - 1)
            dy = (grey[down, x] - grey[up, x]) / (down - up)
            dx = (grey[y, right] - grey[y, left]) / (right - left)
            angle = (np.arctan2(dy, dx) % np.pi) / np.pi * bins
            low = int(angle)
            for b, share in ((low, 1 - (angle - low)), (low + 1, angle - low)):
                histogram[y // cell, x // cell, b % bins] += share * np.hypot(dy, dx) / cell**2
    histogram = np.sqrt(histogram)
    return (histogram / np.sqrt((histogram**2).sum(-1).mean())).ravel()


def test_hog_is_a_loop_over_pixels(tmp_path):
    hog = encoder(tmp_path, encoder="hog", size=32, cell=8, orientations=6)
    frames = FRAMES[:2, :32, :32]
    got = hog(frames)
    assert hog.width == 4 * 4 * 6 and got.shape == (2, 96) and got.dtype == np.float32
    np.testing.assert_allclose(got, [naive_hog(f, 8, 6) for f in frames], atol=1e-3)


def test_hog_forgives_contrast_and_survives_flat_pictures(tmp_path):
    hog = encoder(tmp_path, encoder="hog", size=64, cell=8)
    pale = (FRAMES // 2 * 2).astype(np.uint8)
    np.testing.assert_allclose(hog(pale // 2), hog(pale), atol=2e-3)
    assert np.isfinite(hog(np.full((1, 64, 64, 3), 77, np.uint8))).all()
    assert "not a multiple" in refused(lambda: encoder(tmp_path, encoder="hog", size=64, cell=10))


def test_hog_since_the_start_is_each_frame_less_the_first(tmp_path):
    spec = {"encoder": "hog", "size": 64, "cell": 16}
    whole, moved = encoder(tmp_path, **spec)(FRAMES), encoder(tmp_path, **spec, since_start=True)(FRAMES)
    np.testing.assert_array_equal(moved[0], 0)
    for t in (1, 2):
        np.testing.assert_allclose(moved[t] + whole[0], whole[t], atol=1e-6)
    assert np.abs(moved[1]).max() > 0.1


# ---- WavLM -----------------------------------------------------------------------------------------


def test_wavlm_has_a_frame_every_20_ms_and_its_width(weights):
    wavlm = encoder(weights, encoder="wavlm", model="small", width=32)
    assert wavlm.width == 32
    for seconds in (0.1, 0.5, 1.0):
        got = wavlm(SOUND[: int(seconds * 16_000)])
        assert got.shape == (int(seconds * 50) - 1, 32) and got.dtype == np.float32


def test_wavlm_is_transformers_own_output(weights):
    from transformers import WavLMModel

    wavlm = encoder(weights, encoder="wavlm", model="small", width=32)
    folder = next(weights.glob("wavlm-small*"))
    own = WavLMModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = own(torch.tensor(SOUND)[None], output_hidden_states=True).hidden_states
        last = own(torch.tensor(SOUND)[None]).last_hidden_state
    np.testing.assert_allclose(wavlm(SOUND), last[0], atol=1e-6)
    first = encoder(weights, encoder="wavlm", model=str(folder), width=32, layer=1)
    np.testing.assert_allclose(first(SOUND), states[1][0], atol=1e-6)
    assert not np.allclose(first(SOUND), last[0], atol=1e-2)


def test_small_weights_are_the_same_wherever_they_are_made(weights, tmp_path):
    for kind, clip in (("wavlm", SOUND), ("clip", FRAMES), ("expression", FRAMES)):
        spec = {"encoder": kind, "model": "small", "width": 32}
        made, again, elsewhere = encoder(weights, **spec), encoder(weights, **spec), encoder(tmp_path, **spec)
        np.testing.assert_array_equal(made(clip), again(clip))
        np.testing.assert_array_equal(made(clip), elsewhere(clip))
        assert made.identity == again.identity == elsewhere.identity


def test_other_weights_are_another_identity(weights, tmp_path):
    from safetensors.torch import load_file, save_file

    encoder(weights, encoder="wavlm", model="small", width=32)
    shutil.copytree(weights / "wavlm-small-32", tmp_path / "w")
    spec = {"encoder": "wavlm", "model": str(tmp_path / "w"), "width": 32}
    before = encoder(tmp_path, **spec)
    state = load_file(tmp_path / "w" / "model.safetensors")
    state["encoder.layers.1.final_layer_norm.bias"] += 1
    save_file(state, tmp_path / "w" / "model.safetensors", metadata={"format": "pt"})
    after = encoder(tmp_path, **spec)
    assert before.identity != after.identity
    np.testing.assert_allclose(after(SOUND), before(SOUND) + 1, atol=1e-5)


def test_two_widths_of_small_models_live_together(weights):
    for kind in ("wavlm", "clip", "expression"):
        assert [encoder(weights, encoder=kind, model="small", width=w).width for w in (32, 16, 32)] == [32, 16, 32]


def test_a_summary_tells_whether_wavlm_was_loaded_right(weights, tmp_path):
    from safetensors.torch import load_file, save_file

    wavlm = encoder(weights, encoder="wavlm", model="small", width=32)
    known = wavlm_summary(wavlm.model)
    tone = 0.3 * np.sin(2 * np.pi * (100 * np.arange(16_000) / 16_000 + 950 * (np.arange(16_000) / 16_000) ** 2))
    state = wavlm(tone.astype(np.float32))
    np.testing.assert_allclose(known, state.mean(0)[:4], atol=2e-4)
    again = encoder(weights, encoder="wavlm", model="small", width=32, summary=known)
    assert again.identity == wavlm.identity
    shutil.copytree(weights / "wavlm-small-32", tmp_path / "w")
    file = tmp_path / "w" / "model.safetensors"
    changed = load_file(file)
    changed["encoder.layers.0.attention.q_proj.weight"].normal_()
    changed["encoder.layers.1.feed_forward.output_dense.weight"].normal_()
    save_file(changed, file, metadata={"format": "pt"})
    said = refused(lambda: encoder(weights, encoder="wavlm", model=str(tmp_path / "w"), width=32, summary=known))
    assert "check tone" in said and str(known) in said


def test_wavlm_refusals(weights, tmp_path):
    encoder(weights, encoder="wavlm", model="small", width=32)
    folder = str(weights / "wavlm-small-32")
    said = refused(lambda: encoder(tmp_path, encoder="wavlm", model=folder, width=1024))
    assert "gives 32" in said and "width 1024" in said
    assert "no layer 7" in refused(lambda: encoder(tmp_path, encoder="wavlm", model=folder, width=32, layer=7))
    named = {"encoder": "wavlm", "model": "nobody/no-such-wavlm"}
    assert "pin its `revision`" in refused(lambda: encoder(tmp_path, **named))
    assert "cannot be loaded" in refused(lambda: encoder(tmp_path, **named, revision="abc"))
    (tmp_path / "hollow").mkdir()
    hollow = {"encoder": "wavlm", "model": str(tmp_path / "hollow")}
    assert "no model.safetensors" in refused(lambda: encoder(tmp_path, **hollow))


@pytest.mark.parametrize(
    ("spec", "clip"),
    [
        ({"encoder": "wavlm", "model": "small", "width": 32}, SOUND),
        ({"encoder": "clip", "model": "small", "width": 32}, FRAMES),
        ({"encoder": "expression", "model": "small", "width": 32}, FRAMES),
    ],
)
def test_bf16_keeps_the_direction_and_is_another_identity(weights, spec, clip, bf16_units):
    fp32, bf16 = encoder(weights, **spec), encoder(weights, **spec, precision="bf16")
    assert next(bf16.model.parameters()).dtype == torch.bfloat16
    one, other = fp32(clip), bf16(clip)
    assert other.dtype == np.float32 and not np.array_equal(one, other)
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() >= 0.999
    assert bf16.identity == fp32.identity | {"precision": "bf16"}
    assert "precision" not in fp32.identity  # stores made before there was a choice keep their keys


# ---- CLIP ------------------------------------------------------------------------------------------


def test_clip_is_open_clips_projected_embedding(weights):
    from PIL import Image

    clip = encoder(weights, encoder="clip", model="small", width=32, batch=2)
    assert (clip.width, clip.size) == (32, 64)
    folder = weights / "clip-small-32"
    open_clip.add_model_config(folder / "small-32.json")
    own, _, preprocess = open_clip.create_model_and_transforms(
        "small-32", pretrained=str(folder / "weights.safetensors")
    )
    own.eval()
    pictures = torch.stack([preprocess(Image.fromarray(f)) for f in FRAMES])
    with torch.no_grad():
        expected = own.encode_image(pictures)
    got = clip(FRAMES)  # three frames in batches of two
    assert got.shape == (3, 32) != (3, own.visual.transformer.width)  # projected, not the hidden state
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_clip_that_averages_its_patches_is_left_as_it_is(tmp_path):
    import json

    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 64,
            "layers": 2,
            "width": 64,
            "patch_size": 16,
            "head_width": 32,
            "pool_type": "avg",
        },
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "averaging.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    own = open_clip.CLIP(**config).eval()
    save_file(own.state_dict(), tmp_path / "weights.safetensors")
    open_clip.add_model_config(tmp_path / "averaging.json")
    file = str(tmp_path / "weights.safetensors")
    clip = encoder(tmp_path, encoder="clip", model="averaging", pretrained=file, width=16)
    pixels = torch.from_numpy(FRAMES).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = own.encode_image((pixels - clip.mean) / clip.std)
    np.testing.assert_allclose(clip(FRAMES), expected, atol=1e-5)


def test_threads_may_share_an_encoder(weights):
    from concurrent.futures import ThreadPoolExecutor

    vit = encoder(weights, encoder="expression", model="small", width=32, batch=2)
    clips = [RNG.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8) for _ in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for threaded, clip in zip(pool.map(vit, clips), clips, strict=True):
            np.testing.assert_allclose(threaded, vit(clip), atol=1e-5)


def test_clip_refusals(weights, tmp_path):
    encoder(weights, encoder="clip", model="small", width=32)
    file = str(weights / "clip-small-32" / "weights.safetensors")
    said = refused(lambda: encoder(tmp_path, encoder="clip", model="small-32", pretrained=file, width=768))
    assert "gives 32" in said and "width 768" in said
    assert "needs `pretrained`" in refused(lambda: encoder(tmp_path, encoder="clip", model="ViT-L-14"))
    hub = {"encoder": "clip", "model": "ViT-L-14", "pretrained": "nobody/no-such-clip"}
    assert "pin its `revision`" in refused(lambda: encoder(tmp_path, **hub))
    assert "cannot be loaded" in refused(lambda: encoder(tmp_path, **hub, revision="abc"))
    assert "cannot be loaded" in refused(
        lambda: encoder(tmp_path, encoder="clip", model="no-such-architecture", pretrained=file)
    )


# ---- expressions -----------------------------------------------------------------------------------


def classifier_inputs(folder, kind):
    """What transformers itself computes for FRAMES: its processor, its network, the features before the classifier."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    own = AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(list(FRAMES), return_tensors="pt")
    with torch.no_grad():
        if kind == "vit":
            return own.vit(**pixels).last_hidden_state[:, 0]
        return own.resnet(**pixels).pooler_output.flatten(1)


def test_expression_features_are_what_transformers_hands_its_classifier(weights):
    vit = encoder(weights, encoder="expression", model="small", width=32, batch=2)
    assert (vit.width, vit.size) == (32, 64)
    got = vit(FRAMES)  # three frames in batches of two
    assert got.shape == (3, 32) and got.dtype == np.float32
    np.testing.assert_allclose(got, classifier_inputs(weights / "vit-small-32", "vit"), atol=1e-5)


def test_another_network_with_its_own_size_and_statistics(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 24], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(**sizes)).save_pretrained(tmp_path)
    statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.1]}
    ViTImageProcessor(size={"height": 48, "width": 48}, **statistics).save_pretrained(tmp_path)
    resnet = encoder(tmp_path, encoder="expression", model=str(tmp_path), width=24)
    assert resnet.size == 48
    ViTImageProcessor(size={"height": 64, "width": 64}, **statistics).save_pretrained(tmp_path)
    np.testing.assert_allclose(resnet(FRAMES), classifier_inputs(tmp_path, "resnet"), atol=1e-4)


def test_expression_refusals(weights, tmp_path):
    encoder(weights, encoder="expression", model="small", width=32)
    folder = weights / "vit-small-32"
    said = refused(lambda: encoder(tmp_path, encoder="expression", model=str(folder), width=768))
    assert "gives 32" in said and "width 768" in said
    hub = {"encoder": "expression", "model": "nobody/no-such-network"}
    assert "pin its `revision`" in refused(lambda: encoder(tmp_path, **hub))
    assert "cannot be loaded" in refused(lambda: encoder(tmp_path, **hub, revision="abc"))
    shutil.copytree(folder, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    bare = {"encoder": "expression", "model": str(tmp_path / "bare"), "width": 32}
    assert "cannot be loaded" in refused(lambda: encoder(tmp_path, **bare))


def test_a_network_without_one_classifier_is_refused(tmp_path):
    from transformers import SwiftFormerConfig, SwiftFormerForImageClassification, ViTImageProcessor

    config = SwiftFormerConfig(image_size=64, depths=[1] * 4, embed_dims=[8] * 4, mlp_ratio=1)
    SwiftFormerForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    said = refused(lambda: encoder(tmp_path, encoder="expression", model=str(tmp_path), width=8))
    assert "no `classifier`" in said


def test_a_network_with_weights_missing_is_refused(weights, tmp_path):
    from safetensors.torch import load_file, save_file

    encoder(weights, encoder="expression", model="small", width=32)
    shutil.copytree(weights / "vit-small-32", tmp_path / "vit")
    state = load_file(tmp_path / "vit" / "model.safetensors")
    gone = next(name for name in state if "layer" in name)
    del state[gone]
    save_file(state, tmp_path / "vit" / "model.safetensors", metadata={"format": "pt"})
    said = refused(lambda: encoder(tmp_path, encoder="expression", model=str(tmp_path / "vit"), width=32))
    assert "lacks 1" in said and "at random" not in said


# ---- imported features -----------------------------------------------------------------------------

ROW = {"utterance": "u1", "speaker": "s"}


@pytest.fixture
def imported(tmp_path):
    return ImportedFeatures(
        Imported(encoder="imported", folder=str(tmp_path), pattern="{speaker}-{utterance}.npy", width=3)
    )


def test_imported_features_are_read_by_their_pattern(imported, tmp_path):
    x = RNG.normal(size=(4, 3)).astype(np.float16)
    np.save(tmp_path / "s-u1.npy", x)
    got = imported.read(ROW)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((4, 2)), "shape (4, 2), expected (T, 3)"),
        (np.zeros(4), "shape (4,)"),
        (np.zeros((0, 3)), "shape (0, 3)"),
        (np.array([[1.0, np.nan, 0.0]]), "NaN"),
        (np.array([[1.0, np.inf, 0.0]]), "infinity"),
        (np.array([["a", "b", "c"]]), "not an array of numbers"),
        (np.array([[1, None, "x"]], object), "not a NumPy array"),
        (b"no array at all", "not a NumPy array"),
        (b"", "not a NumPy array"),
    ],
)
def test_imported_features_that_cannot_be_used(imported, tmp_path, content, said):
    file = tmp_path / "s-u1.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content, allow_pickle=True)
    message = refused(lambda: imported.read(ROW))
    assert message.startswith("s-u1.npy: ") and said in message


def test_imported_features_that_are_not_there(imported, tmp_path):
    assert "no imported features for utterance u1" in refused(lambda: imported.read(ROW))
    with (tmp_path / "s-u1.npy").open("wb") as file:
        np.savez(file, a=np.zeros((2, 3)))
    assert "not an array of numbers" in refused(lambda: imported.read(ROW))
    spec = Imported(encoder="imported", folder=str(tmp_path), pattern="{speeker}.npy", width=3)
    assert "speeker" in refused(lambda: ImportedFeatures(spec).read(ROW))
    gone = Imported(encoder="imported", folder=str(tmp_path / "gone"), width=3)
    assert "no folder" in refused(lambda: ImportedFeatures(gone))
