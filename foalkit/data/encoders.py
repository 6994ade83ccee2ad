"""Encoders: a clip of one modality in, features `(T, D)` out; small, pinned, and checked for their width.

An audio encoder takes mono samples `(S,)` at its `rate`, 16 kHz where it has none; a video encoder takes RGB frames
`(T, size, size, 3)`. Both are called with one clip and return `(T, D)`; `identity` names all that shapes the result.
Networks also take `many` clips and save what their clips share.
"""

import hashlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from foalkit import UserError
from foalkit.data.media import SAMPLE_RATE
from foalkit.devices import device
from foalkit.params import (
    ClipImages,
    Expression,
    Frames,
    Hog,
    Imported,
    LogMel,
    Mfcc,
    Waveform,
    WavLM,
    WavLMWeights,
    expand,
)
from foalkit.records import file_digest


class Encoder(Protocol):
    modality: str  # "audio", "video" or "imported"
    width: int
    identity: dict

    def __call__(self, clip: np.ndarray) -> np.ndarray: ...


def make_encoder(spec, weights_folder: Path) -> Encoder:
    """The encoder that a params entry names; `weights_folder` holds the seeded weights of `model: small`.

    Raises UserError for an unknown model, revision or file, and for a width that is not the params'.
    """
    kinds = {
        LogMel: LogMelEncoder,
        Mfcc: MfccEncoder,
        Waveform: WaveformEncoder,
        Hog: HogEncoder,
        Frames: FramesEncoder,
    }
    if type(spec) in kinds:
        return kinds[type(spec)](spec)
    loaded = {WavLM: WavLMEncoder, ClipImages: ClipEncoder, Expression: ExpressionEncoder}
    return loaded[type(spec)](spec, weights_folder)


class LogMelEncoder:
    """Log-mel energies `(T, bands)` in nepers, one frame every `hop_ms`, window 25 ms."""

    modality = "audio"

    def __init__(self, spec: LogMel):
        self.spec, self.width = spec, spec.bands
        self.identity = {**spec.model_dump(), "librosa": _version("librosa")}

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        hop = SAMPLE_RATE * self.spec.hop_ms // 1000
        return np.log(_mel_power(samples, self.spec.bands, hop) + 1e-6).T


class MfccEncoder:
    """Mel-frequency cepstral coefficients `(T, coefficients)`, every `hop` samples, as many as `seconds` has."""

    modality = "audio"

    def __init__(self, spec: Mfcc):
        self.spec, self.width, self.rate = spec, spec.coefficients, spec.rate
        self.identity = {**spec.model_dump(), "librosa": _version("librosa")}

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        import librosa

        s = self.spec
        if s.seconds is not None:
            samples = librosa.util.fix_length(samples, size=round(s.seconds * s.rate))
        power = _mel_power(samples, s.bands, s.hop, rate=s.rate, window=s.window)
        return librosa.feature.mfcc(S=librosa.power_to_db(power), n_mfcc=s.coefficients).T.astype(np.float32)

    def note(self, samples: np.ndarray) -> str | None:
        """What a reader must know of a sound that is shorter than the spec's `seconds`."""
        wanted = 0 if self.spec.seconds is None else round(self.spec.seconds * self.rate)
        if len(samples) >= wanted:
            return None
        have, all_of_it = (1 + n // self.spec.hop for n in (len(samples), wanted))
        return f"{have} of {all_of_it} MFCC frames, the rest is silence"


class WaveformEncoder:
    """The samples themselves `(S, 1)`, in [-1, 1]."""

    modality, width = "audio", 1

    def __init__(self, spec: Waveform):
        self.identity = spec.model_dump()

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        return samples[:, None]


class HogEncoder:
    """Histograms of oriented gradients `(T, cells² · orientations)` per frame, cell energies square-rooted.

    A picture's histograms are divided by the root mean square of their norms: contrast does not matter.
    """

    modality = "video"

    def __init__(self, spec: Hog):
        self.size, self.cell, self.bins = spec.size, spec.cell, spec.orientations
        if spec.size % spec.cell:
            raise UserError(f"features: hog size {spec.size} is not a multiple of its cell {spec.cell}")
        self.width = (spec.size // spec.cell) ** 2 * spec.orientations
        self.identity = spec.model_dump(exclude={"region", "every"})

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        grey = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255  # (T, H, W)
        dy, dx = np.gradient(grey, axis=(1, 2))
        position = (np.arctan2(dy, dx) % np.pi) / np.pi * self.bins
        low = np.floor(position)
        share, strength = position - low, np.hypot(dx, dy)
        cells = self.size // self.cell
        result = np.empty((len(grey), cells, cells, self.bins), np.float32)
        for b in range(self.bins):  # linear vote into the two nearest orientations
            vote = strength * ((low % self.bins == b) * (1 - share) + ((low + 1) % self.bins == b) * share)
            result[..., b] = vote.reshape(-1, cells, self.cell, cells, self.cell).mean((2, 4))
        result = np.sqrt(result)
        result /= np.sqrt((result**2).sum(-1).mean((1, 2)))[:, None, None, None] + 1e-6
        return result.reshape(len(grey), -1)


class FramesEncoder:
    """The pictures themselves, uint8 `(frames, size² · 3)`: those in the middle of as many equal parts of a clip."""

    modality = "video"

    def __init__(self, spec: Frames):
        self.frames, self.size, self.width = spec.frames, spec.size, spec.size**2 * 3
        self.identity = spec.model_dump(exclude={"region"})

    def pick(self, count: int) -> np.ndarray:
        """Which of a clip's `count` frames are kept, `(frames,)`; a clip of fewer shows some of them again."""
        return (2 * np.arange(self.frames) + 1) * count // (2 * self.frames)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return frames.reshape(len(frames), -1)


class WavLMEncoder:
    """Hidden states `(T, 1024)` of a WavLM, 20 ms a frame, the waveform not normalised (spec section 1)."""

    modality = "audio"

    def __init__(self, spec: WavLM, weights_folder: Path):
        self.model, revision = load_wavlm(spec, weights_folder, "features.audio")
        self.device = device(spec.device)
        self.dtype = _dtype(spec.precision)
        self.model.eval().requires_grad_(False).to(self.device, self.dtype)
        self.width, self.layer = spec.width, spec.layer
        # group norm's statistics run over the whole clip: padding would change them
        self.may_pad = self.model.config.feat_extract_norm == "layer"
        # measured: on a CPU a padded batch of four takes twice as long as its clips one by one
        self.together = 16 if self.may_pad and self.device != "cpu" else 1
        states = self.model.config.num_hidden_layers + 1
        if not -states <= spec.layer < states:
            raise UserError(f"features.audio: {spec.model} has no layer {spec.layer}; -1 to {states - 1}")
        self.identity = _identity(spec, revision)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        return self._padded([samples])[0]

    def many(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        """The features of each clip: on a GPU in padded, masked batches of clips of about one length."""
        by_length = sorted(range(len(clips)), key=lambda i: len(clips[i]))
        made = {}
        for first in range(0, len(clips), self.together):
            some = by_length[first : first + self.together]
            made |= dict(zip(some, self._padded([clips[i] for i in some]), strict=True))
        return [made[i] for i in range(len(clips))]

    def _padded(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        import torch

        # shorter than the front end's receptive field of 400 samples gives no frame at all
        lengths = torch.tensor([max(400, len(samples)) for samples in clips])
        waves = torch.zeros(len(clips), int(lengths.max()))
        for wave, samples in zip(waves, clips, strict=True):
            wave[: len(samples)] = torch.from_numpy(samples)
        mask = (torch.arange(waves.shape[1]) < lengths[:, None]).to(self.device) if len(clips) > 1 else None
        with torch.inference_mode():
            states = self.model(
                waves.to(self.device, self.dtype), attention_mask=mask, output_hidden_states=self.layer != -1
            )
            chosen = states.last_hidden_state if self.layer == -1 else states.hidden_states[self.layer]
        frames = self.model._get_feat_extract_output_lengths(lengths).tolist()
        return [c[:t] for c, t in zip(chosen.float().cpu().numpy(), frames, strict=True)]


class _FrameNetwork:
    """A network that sees one frame at a time: `_embed` gives the features `(N, D)` of normalised pixels."""

    modality = "video"

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return self.many([frames])[0]

    def many(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        """The features of each clip; a picture that they show more than once goes through the network once."""
        import torch

        first, shown = {}, []  # picture → its number, per clip the numbers of its pictures
        for clip in clips:
            keys = [hashlib.blake2b(frame).digest() for frame in np.ascontiguousarray(clip)]
            shown.append([first.setdefault(key, len(first)) for key in keys])
        pictures = np.empty((len(first), *clips[0].shape[1:]), np.uint8)
        for clip, numbers in zip(clips, shown, strict=True):
            pictures[numbers] = clip
        parts = []
        with torch.inference_mode():
            for part in torch.from_numpy(pictures).split(self.batch):
                pixels = part.to(self.device).permute(0, 3, 1, 2).float() * self.scale  # (N, 3, size, size)
                parts.append(self._embed(((pixels - self.mean) / self.std).to(self.dtype)))
        features = torch.cat(parts).float().cpu().numpy()
        return [features[numbers] for numbers in shown]


class ClipEncoder(_FrameNetwork):
    """CLIP's projected image embedding per frame `(T, 768)` (not the unprojected 1024-wide hidden state)."""

    scale = 1 / 255

    def __init__(self, spec: ClipImages, weights_folder: Path):
        import open_clip
        import torch

        name, pretrained, revision = spec.model, spec.pretrained, spec.revision
        if spec.model == "small":
            name, pretrained = _small_clip(weights_folder / f"clip-small-{spec.width}", spec.width)
        elif pretrained is None:
            raise UserError(f"features: CLIP {spec.model} needs `pretrained`: a hub repository or a file")
        if (file := expand(pretrained, "features.pretrained")).is_file():
            pretrained, revision = str(file), file_digest(file)[:16]
        else:
            if revision is None:
                raise UserError(f"features: {pretrained} is a hub name: pin its `revision` (a commit)")
            pretrained = _download(pretrained, "open_clip_model.safetensors", revision)
        try:
            self.model, _, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"CLIP {name} cannot be loaded from {pretrained}: {_first_line(error)}") from None
        self.device = device(spec.device)
        self.dtype = _dtype(spec.precision)
        self.model.eval().requires_grad_(False).to(self.device, self.dtype)
        visual = self.model.visual
        _lean_layers(visual)
        self.size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
        self.mean = torch.tensor(visual.image_mean, device=self.device)[:, None, None]
        self.std = torch.tensor(visual.image_std, device=self.device)[:, None, None]
        self.width, self.batch = visual.output_dim, spec.batch
        self.identity = _identity(spec, revision)
        _check_width(spec.model, self.width, spec.width)

    def _embed(self, pixels):
        return self.model.encode_image(pixels)


class ExpressionEncoder(_FrameNetwork):
    """The pooled hidden features `(T, D)` that an image-classification network hands its classifier, per frame."""

    def __init__(self, spec: Expression, weights_folder: Path):
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        small = spec.model == "small"
        source = (
            str(_small_vit(weights_folder / f"vit-small-{spec.width}", spec.width)) if small else spec.model
        )
        source, revision, commit = _pinned(source, spec.revision, "features")
        try:
            self.model, report = AutoModelForImageClassification.from_pretrained(
                source, revision=commit, dtype=torch.float32, output_loading_info=True
            )
            config = AutoImageProcessor.from_pretrained(source, revision=commit)
        except (OSError, ValueError) as error:
            raise UserError(f"{spec.model} at {revision} cannot be loaded: {_first_line(error)}") from None
        if not hasattr(self.model, "classifier"):
            raise UserError(f"features: {spec.model} has no `classifier` whose input could be taken")
        if at_random := sorted(report["missing_keys"]):
            raise UserError(
                f"features: {spec.model} lacks {len(at_random)} of its network's weights, first {at_random[0]}"
            )
        self.device = device(spec.device)
        self.dtype = _dtype(spec.precision)
        self.model.classifier = torch.nn.Identity()  # what it is handed comes out
        self.model.eval().requires_grad_(False).to(self.device, self.dtype)
        size = config.crop_size if getattr(config, "do_center_crop", False) else config.size
        self.size = size["height"] if "height" in size else size["shortest_edge"]
        self.scale = config.rescale_factor
        mean, std = (config.image_mean, config.image_std) if config.do_normalize else ([0.0] * 3, [1.0] * 3)
        self.mean = torch.tensor(mean, device=self.device)[:, None, None]
        self.std = torch.tensor(std, device=self.device)[:, None, None]
        self.batch, self.width = spec.batch, spec.width
        self.identity = _identity(spec, revision)
        blank = np.zeros((1, self.size, self.size, 3), np.uint8)
        _check_width(spec.model, self(blank).shape[1], spec.width)

    def _embed(self, pixels):
        return self.model(pixels).logits.flatten(1)


class ImportedFeatures:
    """Features made elsewhere: `(T, width)` per utterance from .npy files found by the params' pattern."""

    modality = "imported"

    def __init__(self, spec: Imported):
        self.folder, self.pattern, self.width = (
            expand(spec.folder, "features.folder"),
            spec.pattern,
            spec.width,
        )
        if not self.folder.is_dir():
            raise UserError(f"features.folder: there is no folder {self.folder}")
        self.identity = {"encoder": "imported", "width": spec.width}

    def file(self, row) -> Path:
        """The .npy file of a manifest row."""
        try:
            return self.folder / self.pattern.format_map(row)
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(f"features.pattern: {self.pattern!r} cannot be filled in ({error!r})") from None

    def read(self, row) -> np.ndarray:
        """The row's features as float32 `(T, width)`.

        Raises UserError when the file is missing, not an array of that width, or holds NaN.
        """
        file = self.file(row)
        try:
            array = np.load(file, allow_pickle=False)
        except FileNotFoundError:
            raise UserError(f"{file.name}: no imported features for utterance {row['utterance']}") from None
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{file.name}: not a NumPy array ({_first_line(error)})") from None
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise UserError(f"{file.name}: not an array of numbers")
        if array.ndim != 2 or array.shape[1] != self.width or not len(array):
            raise UserError(f"{file.name}: shape {array.shape}, expected (T, {self.width})")
        if not np.isfinite(array).all():
            raise UserError(f"{file.name}: holds NaN or infinity")
        return array.astype(np.float32)


def load_wavlm(spec: WavLMWeights, weights_folder: Path, where: str):
    """The WavLM (transformers, fp32) of a spec, by hub name, local folder or `small`, and the revision that was loaded.

    Raises UserError, beginning with the params key `where`, for a hub name without a revision, for weights that
    cannot be loaded or leave a part of the network at random, for another width, and where the spec's `summary` is
    not what the network makes of the check tone.
    """
    import torch
    from transformers import WavLMModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bars for a second's work fill a saved notebook
    model, width, source = spec.model, spec.width, spec.model
    if model == "small":
        source = str(_small_wavlm(weights_folder / f"wavlm-small-{width}", width))
    source, revision, commit = _pinned(source, spec.revision, where)
    try:
        loaded, report = WavLMModel.from_pretrained(
            source, revision=commit, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"WavLM {model} at {revision} cannot be loaded: {_first_line(error)}") from None
    # the positional convolution is stored under its weight norm's old names: reported missing, yet loaded
    at_random = sorted(k for k in report["missing_keys"] if "pos_conv_embed" not in k)
    if at_random:
        raise UserError(f"{where}: {model} lacks {len(at_random)} of WavLM's weights, first {at_random[0]}")
    _check_width(model, loaded.config.hidden_size, width)
    if spec.summary is not None:
        found = wavlm_summary(loaded)
        if not np.allclose(found, spec.summary, rtol=1e-2, atol=1e-3):
            raise UserError(
                f"{where}: {model} makes {found} of the check tone, not {spec.summary}: loaded wrongly?"
            )
    return loaded, revision


def wavlm_summary(model) -> list[float]:
    """The first four numbers of the last hidden state, averaged over a fixed tone of 1 s rising from 100 to 2000 Hz.

    Two machines that loaded the same weights agree within 1 %; a layer at random does not. Put it as `summary` in the
    params once it is known for a revision.
    """
    import torch

    seconds = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = 0.3 * torch.sin(2 * torch.pi * (100 * seconds + 950 * seconds**2))
    training = model.training
    with torch.inference_mode():
        state = model.eval()(tone[None].to(model.device)).last_hidden_state.float()
    model.train(training)
    return [round(v, 4) for v in state[0].mean(0)[:4].tolist()]


def _pinned(model: str, revision: str | None, where: str) -> tuple[str, str, str | None]:
    """What transformers loads, what names its weights, and the hub commit (None for a local folder)."""
    if (folder := expand(model, f"{where}.model")).is_dir():
        weights = folder / "model.safetensors"
        if not weights.exists():
            raise UserError(f"{where}: {folder} holds no model.safetensors")
        return str(folder), file_digest(weights)[:16], None
    if revision is None:
        raise UserError(f"{where}: {model} is a hub name: pin its `revision` (a commit)")
    return model, revision, revision


def _mel_power(
    samples: np.ndarray, bands: int, hop: int, *, rate: int = SAMPLE_RATE, window: int = 400
) -> np.ndarray:
    import librosa

    return librosa.feature.melspectrogram(
        y=samples,
        sr=rate,
        n_fft=1 << (window - 1).bit_length(),  # the next power of two: 512 for 25 ms at 16 kHz
        win_length=window,
        hop_length=hop,
        n_mels=bands,
    )


def _small_wavlm(folder: Path, width: int) -> Path:
    """A WavLM of 2 layers with seeded random weights, saved once, with the real one's frame rate (20 ms)."""
    from transformers import WavLMConfig, WavLMModel

    config = WavLMConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        layerdrop=0.0,
    )
    _save_once(folder, lambda target: WavLMModel(config).save_pretrained(target))
    return folder


def _small_vit(folder: Path, width: int) -> Path:
    """A ViT of 2 layers with seeded random weights for 7 expressions, 64² pixels, saved once."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        image_size=64,
        patch_size=8,
        num_labels=7,
    )

    def write(target: Path) -> None:
        ViTForImageClassification(config).save_pretrained(target)
        ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(target)

    _save_once(folder, write)
    return folder


def _small_clip(folder: Path, width: int) -> tuple[str, str]:
    """A CLIP of 2 layers with seeded random weights: its registered name and its weights file, saved once."""
    import open_clip
    from safetensors.torch import save_file

    name = f"small-{width}"
    config = {
        "embed_dim": width,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }

    def write(target: Path) -> None:
        (target / f"{name}.json").write_text(json.dumps(config))
        save_file(open_clip.CLIP(**config).state_dict(), target / "weights.safetensors")

    _save_once(folder, write)
    open_clip.add_model_config(folder / f"{name}.json")
    return name, str(folder / "weights.safetensors")


def _save_once(folder: Path, write) -> None:
    """`write` a network with seeded random weights into `folder`, which is there when it is whole."""
    import torch

    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        write(partial)
    partial.rename(folder)


def _lean_layers(visual) -> None:
    """Let a vision transformer attend by one fused kernel, and its last layer compute the class token alone.

    Only where nothing else is read of it; the result is the same but for rounding. PyTorch's own layer copies
    transposed keys before each product: in bf16 on a CPU that is a third of its time.
    """
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if not isinstance(visual, VisionTransformer) or visual.pool_type != "tok" or visual.attn_pool is not None:
        return
    blocks = visual.transformer.resblocks
    if any(type(block) is not ResidualAttentionBlock for block in blocks):
        return
    for block in blocks:
        block.forward = partial(_lean_layer, block, tokens=1 if block is blocks[-1] else None)


def _lean_layer(block, x, attn_mask=None, *, tokens: int | None):
    """What `block` makes of `x` `(B, T, D)`, for its first `tokens` (None: all)."""
    from torch.nn.functional import linear, scaled_dot_product_attention

    attn, d = block.attn, x.shape[2]
    normed = block.ln_1(x)
    query = normed[:, :tokens].contiguous()  # a strided one would be multiplied clip by clip
    q = linear(query, attn.in_proj_weight[:d], attn.in_proj_bias[:d])
    k, v = linear(normed, attn.in_proj_weight[d:], attn.in_proj_bias[d:]).chunk(2, -1)
    q, k, v = (y.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for y in (q, k, v))  # (B, heads, T, D')
    attended = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x = x[:, :tokens] + block.ls_1(attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _dtype(precision: str):
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def _identity(spec, revision: str) -> dict:
    """All of a network's spec that shapes its features; fp32, once the only precision, goes without saying."""
    identity = spec.model_dump(exclude={"device", "batch", "region", "every", "summary"})
    if identity["precision"] == "fp32":
        del identity["precision"]
    return identity | {"revision": revision}


def _download(repository: str, file: str, revision: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(repository, file, revision=revision)
    except Exception as error:  # the hub client raises many unrelated kinds: absent, offline, forbidden
        raise UserError(f"{repository} at {revision} cannot be loaded: {_first_line(error)}") from None


def _check_width(name: str, width: int, expected: int) -> None:
    if width != expected:
        raise UserError(f"features: {name} gives {width} numbers a frame, the params say width {expected}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
