"""Input layers that may stand before a stream, so that features of any width fit the model's heads.

Each maps a stream `(B, T, dim)` and its bool mask `(B, T)` to a stream `(B, T', width)` and its mask, and
has `.width`. They are not in the paper and start as PyTorch starts its layers: N(0, 0.02²), Foal-Net's start
for widths near 1 000, would shrink a stream of 7 columns 20-fold.
"""

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foalkit.models.draws import Dropout
from foalkit.models.foalnet import LayerNorm


class Identity(nn.Module):
    """The stream as it is: `width` = `dim`."""

    def __init__(self, dim: int):
        super().__init__()
        self.width = dim

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return x, mask


class LinearInput(nn.Module):
    """A learned linear per frame: `(B, T, dim)` to `(B, T, width)`, the mask unchanged."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.width = width
        self.linear = nn.Linear(dim, width)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), mask


class ConvInput(nn.Module):
    """A small trainable encoder over time for weight-free features such as log-mels: T' = ceil(T / stride).

    Each layer: convolution, LayerNorm over the channels of a frame, GELU, dropout; the first ones halve the
    rate until `stride` is reached (4 over three layers: 2, 2, 1). A clip's result does not depend on its
    padding, and a clip with a real frame keeps one. Raises ValueError for an even or too small kernel and for
    a stride that is not a power of two of at most `layers` halvings.
    """

    def __init__(
        self, dim: int, width: int, *, layers: int = 3, stride: int = 4, kernel: int = 5, dropout: float = 0.1
    ):
        super().__init__()
        # Odd, so that frame t of the output is centred on a frame of the input; at least 3, so that halving
        # the rate skips none.
        if kernel < 3 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 3, not {kernel}")
        halvings = stride.bit_length() - 1
        if stride < 1 or stride != 2**halvings or halvings > layers:
            raise ValueError(f"stride must be a power of two up to 2^layers = {2**layers}, not {stride}")
        self.width = width
        self.dropout = Dropout(dropout)
        self.convs = nn.ModuleList(
            nn.Conv1d(width if i else dim, width, kernel, stride=2 if i < halvings else 1, padding=kernel // 2)
            for i in range(layers)
        )
        # Over one frame's channels only: a norm over time would read the padding.
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = x.masked_fill(~mask[..., None], 0)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x.transpose(1, 2)).transpose(1, 2))  # (B, T, D) -> (B, ceil(T / stride), width)
            mask = _halved(mask) if conv.stride == (2,) else mask
            # Biases fill the padding again; the next convolution would carry it into the last real frames.
            x = self.dropout(F.gelu(x)).masked_fill(~mask[..., None], 0)
        return x, mask


class PicturesInput(nn.Module):
    """Stored pictures `(B, T, size² · 3)` uint8 to CFN-SR's video `(B, 3, T, size, size)` (section 5).

    ImageNet's mean and deviation are taken out. In training a clip is cropped to a share `crop` of its area (above
    1: the whole picture) and mirrored with probability `flip`: one draw for all of its frames. Raises
    ValueError where `dim` is no square picture.
    """

    def __init__(self, dim: int, *, crop: tuple[float, float] = (0.8, 1.4), flip: float = 0.5):
        from torchvision.transforms import v2  # 2 s that only pictures need

        super().__init__()
        self.width, self.size = dim, math.isqrt(dim // 3)
        if 3 * self.size**2 != dim:
            raise ValueError(f"{dim} numbers a frame are no square picture of three colours")
        self.draw = v2.Compose(
            [v2.RandomResizedCrop(self.size, scale=crop, antialias=True), v2.RandomHorizontalFlip(flip)]
        )
        self.register_buffer("mean", 255 * torch.tensor([0.485, 0.456, 0.406])[:, None, None, None])
        self.register_buffer("std", 255 * torch.tensor([0.229, 0.224, 0.225])[:, None, None, None])

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = x.unflatten(2, (self.size, self.size, 3)).permute(0, 1, 4, 2, 3)  # (B, T, 3, S, S)
        if self.training:
            x = torch.stack([self.draw(clip) for clip in x])
        x = (x.transpose(1, 2) - self.mean) / self.std
        # the layout in which 3-D convolutions on a CPU are fastest
        return x.contiguous(memory_format=torch.channels_last_3d), mask


class ChannelsFirst(nn.Module):
    """A stream `(B, T, dim)` as convolutions over time read it: `(B, dim, T)`."""

    def __init__(self, dim: int):
        super().__init__()
        self.width = dim

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return x.transpose(1, 2), mask


class WavLMInput(nn.Module):
    """A WavLM trained with the rest, its CNN front end frozen: samples `(B, S, 1)` to `(B, T, width)` (section 1).

    `model` is a loaded transformers WavLMModel; S samples give T = (S - 400) // 320 + 1 frames of 20 ms.
    `normalise` brings each clip's real samples to zero mean and unit deviation (the released code does not).
    """

    def __init__(self, model: nn.Module, *, normalise: bool = False, checkpointing: bool = False):
        super().__init__()
        self.model, self.normalise, self.width = model, normalise, model.config.hidden_size
        model.freeze_feature_encoder()
        # torch's word on the masks that transformers hands to its attention, said again in every first backward
        warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
        if checkpointing:
            # the old name warns in newer transformers, the new one is missing in 5.17
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable({"use_reentrant": False})

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        present = mask.any(1, keepdim=True)
        # shorter than the front end's receptive field of 400 samples would give no frame at all
        short = max(0, 400 - x.shape[1])
        samples, mask = F.pad(x.squeeze(2), (0, short)), F.pad(mask, (0, short))
        mask = mask | (torch.arange(mask.shape[1], device=mask.device) < 400)
        if self.normalise:  # as transformers' Wav2Vec2FeatureExtractor does
            count = mask.sum(1, keepdim=True)
            samples = (samples - (samples * mask).sum(1, keepdim=True) / count) * mask
            samples = samples / (samples.square().sum(1, keepdim=True) / count + 1e-7).sqrt()
        states = self.model(samples, attention_mask=mask.long()).last_hidden_state
        frames = self.model._get_feat_extract_output_lengths(mask.sum(1))
        return states, (torch.arange(states.shape[1], device=mask.device) < frames[:, None]) & present


def _halved(mask: Tensor) -> Tensor:
    """`(B, T)` to `(B, ceil(T / 2))`: real where either frame was."""
    return F.pad(mask, (0, mask.shape[1] % 2)).unflatten(1, (-1, 2)).any(2)


class Standardise(nn.Module):
    """Zero mean and unit deviation per feature, by fixed statistics `(dim,)` of the training side."""

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("scale", 1 / std)
        self.register_buffer("shift", -mean / std)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)  # one pass: on two cores this was a third of an epoch
