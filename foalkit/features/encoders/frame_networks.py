"""Networks that see one frame at a time: CLIP (open_clip) and image classifiers (transformers)."""

from pathlib import Path

import numpy as np

from foalkit import UserError
from foalkit.devices import device, precision
from foalkit.features.encoders.weights import check_width, download, dtype, identity, pinned
from foalkit.files import file_digest, first_line
from foalkit.params.encoders import ClipImages, Expression
from foalkit.params.load import expand
from foalkit.puppets.networks import small_clip, small_vit


class FrameByFrame:
    """A network that sees one frame at a time: `_embed` gives the features `(N, D)` of normalised pixels."""

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        import torch

        parts = []
        with torch.inference_mode():
            for part in torch.from_numpy(np.ascontiguousarray(frames)).split(self.batch):
                pixels = part.to(self.device).permute(0, 3, 1, 2).float() * self.scale  # (N, 3, size, size)
                parts.append(self._embed(((pixels - self.mean) / self.std).to(self.dtype)))
        return torch.cat(parts).float().cpu().numpy()


class ClipEncoder(FrameByFrame):
    """CLIP's projected image embedding per frame `(T, 768)` (not the unprojected 1024-wide hidden state)."""

    scale = 1 / 255

    def __init__(self, spec: ClipImages, weights_folder: Path, where: str = "features"):
        import open_clip
        import torch

        name, pretrained, revision = spec.model, spec.pretrained, spec.revision
        if spec.model == "small":
            name, pretrained = small_clip(weights_folder / f"clip-small-{spec.width}", spec.width)
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
        used = precision(spec.precision, self.device)
        self.dtype = dtype(used)
        self.model.eval().requires_grad_(False).to(self.device, self.dtype)
        visual = self.model.visual
        self.size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
        self.mean = torch.tensor(visual.image_mean, device=self.device)[:, None, None]
        self.std = torch.tensor(visual.image_std, device=self.device)[:, None, None]
        self.width, self.batch = visual.output_dim, spec.batch
        self.identity = identity(spec, revision, used)
        check_width(where, spec.model, self.width, spec.width)

    def _embed(self, pixels):
        return self.model.encode_image(pixels)


class ExpressionEncoder(FrameByFrame):
    """The pooled hidden features `(T, D)` that an image-classification network hands its classifier, per frame."""

    def __init__(self, spec: Expression, weights_folder: Path, where: str = "features"):
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        small = spec.model == "small"
        source = str(small_vit(weights_folder / f"vit-small-{spec.width}", spec.width)) if small else spec.model
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
        used = precision(spec.precision, self.device)
        self.dtype = dtype(used)
        self.model.classifier = torch.nn.Identity()  # what it is handed comes out
        self.model.eval().requires_grad_(False).to(self.device, self.dtype)
        size = config.crop_size if getattr(config, "do_center_crop", False) else config.size
        self.size = size["height"] if "height" in size else size["shortest_edge"]
        self.scale = config.rescale_factor
        mean, std = (config.image_mean, config.image_std) if config.do_normalize else ([0.0] * 3, [1.0] * 3)
        self.mean = torch.tensor(mean, device=self.device)[:, None, None]
        self.std = torch.tensor(std, device=self.device)[:, None, None]
        self.batch, self.width = spec.batch, spec.width
        self.identity = identity(spec, revision, used)
        blank = np.zeros((1, self.size, self.size, 3), np.uint8)
        check_width(where, spec.model, self(blank).shape[1], spec.width)

    def _embed(self, pixels):
        return self.model(pixels).logits.flatten(1)
