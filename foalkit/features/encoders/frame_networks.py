"""Networks that see one frame at a time: CLIP (open_clip) and image classifiers (transformers)."""

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np

from foalkit import UserError
from foalkit.devices import device
from foalkit.features.encoders.weights import (
    check_width,
    download,
    dtype,
    first_line,
    identity,
    pinned,
    save_once,
)
from foalkit.files import file_digest
from foalkit.params.encoders import ClipImages, Expression
from foalkit.params.load import expand


class _FrameNetwork:
    """A network that sees one frame at a time: `_embed` gives the features `(N, D)` of normalised pixels."""

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

    def __init__(self, spec: ClipImages, weights_folder: Path, where: str = "features"):
        import open_clip
        import torch

        name, pretrained, revision = spec.model, spec.pretrained, spec.revision
        if spec.model == "small":
            name, pretrained = _small_clip(weights_folder / f"clip-small-{spec.width}", spec.width)
        elif pretrained is None:
            raise UserError(f"{where}: CLIP {spec.model} needs `pretrained`: a hub repository or a file")
        if (file := expand(pretrained, f"{where}.pretrained")).is_file():
            pretrained, revision = str(file), file_digest(file)[:16]
        else:
            if revision is None:
                raise UserError(f"{where}: {pretrained} is a hub name: pin its `revision` (a commit)")
            pretrained = download(pretrained, "open_clip_model.safetensors", revision)
        try:
            self.model, _, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"CLIP {name} cannot be loaded from {pretrained}: {first_line(error)}") from None
        self.device = device(spec.device)
        self.dtype = dtype(spec.precision)
        self.model.eval().requires_grad_(False).to(self.device, self.dtype)
        visual = self.model.visual
        _lean_layers(visual)
        self.size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
        self.mean = torch.tensor(visual.image_mean, device=self.device)[:, None, None]
        self.std = torch.tensor(visual.image_std, device=self.device)[:, None, None]
        self.width, self.batch = visual.output_dim, spec.batch
        self.identity = identity(spec, revision)
        check_width(where, spec.model, self.width, spec.width)

    def _embed(self, pixels):
        return self.model.encode_image(pixels)


class ExpressionEncoder(_FrameNetwork):
    """The pooled hidden features `(T, D)` that an image-classification network hands its classifier, per frame."""

    def __init__(self, spec: Expression, weights_folder: Path, where: str = "features"):
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        small = spec.model == "small"
        source = (
            str(_small_vit(weights_folder / f"vit-small-{spec.width}", spec.width)) if small else spec.model
        )
        source, revision, commit = pinned(source, spec.revision, where)
        try:
            self.model, report = AutoModelForImageClassification.from_pretrained(
                source, revision=commit, dtype=torch.float32, output_loading_info=True
            )
            config = AutoImageProcessor.from_pretrained(source, revision=commit)
        except (OSError, ValueError) as error:
            raise UserError(f"{spec.model} at {revision} cannot be loaded: {first_line(error)}") from None
        if not hasattr(self.model, "classifier"):
            raise UserError(f"{where}: {spec.model} has no `classifier` whose input could be taken")
        if at_random := sorted(report["missing_keys"]):
            raise UserError(
                f"{where}: {spec.model} lacks {len(at_random)} of its network's weights, first {at_random[0]}"
            )
        self.device = device(spec.device)
        self.dtype = dtype(spec.precision)
        self.model.classifier = torch.nn.Identity()  # what it is handed comes out
        self.model.eval().requires_grad_(False).to(self.device, self.dtype)
        size = config.crop_size if getattr(config, "do_center_crop", False) else config.size
        self.size = size["height"] if "height" in size else size["shortest_edge"]
        self.scale = config.rescale_factor
        mean, std = (config.image_mean, config.image_std) if config.do_normalize else ([0.0] * 3, [1.0] * 3)
        self.mean = torch.tensor(mean, device=self.device)[:, None, None]
        self.std = torch.tensor(std, device=self.device)[:, None, None]
        self.batch, self.width = spec.batch, spec.width
        self.identity = identity(spec, revision)
        blank = np.zeros((1, self.size, self.size, 3), np.uint8)
        check_width(where, spec.model, self(blank).shape[1], spec.width)

    def _embed(self, pixels):
        return self.model(pixels).logits.flatten(1)


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

    save_once(folder, write)
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

    save_once(folder, write)
    open_clip.add_model_config(folder / f"{name}.json")
    return name, str(folder / "weights.safetensors")


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
