"""Foal-Net: audio and video features, fused by two stacks of cross-attention, to four emotions.

Li, Gao, Wen, Wang, Li, "Enhancing Modal Fusion by Alignment and Label Matching for Multimodal Emotion
Recognition", Interspeech 2024, doi 10.21437/Interspeech.2024-1462. Sections are the specification's.
Shapes: B clips, T frames (Ta audio, Tv video, padded), D features; masks `(B, T)` are bool, True = real.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Fused(NamedTuple):
    """The fusion's two vectors: `a2v` `(B, audio_dim)` and `v2a` `(B, video_dim)`."""

    a2v: Tensor
    v2a: Tensor


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis, computed in at least fp32 and returned in the input's type."""

    # torch 2.15 accumulates the bias gradient of a bf16 LayerNorm on the CPU in bf16: 30 % off at 4k frames.
    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(x.to(wide), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Projection(nn.Module):
    """`(B, dim)` to `(B, width)` for AVEL: a linear and a residual GELU block without biases (section 2)."""

    def __init__(self, dim: int, *, width: int, dropout: float):
        super().__init__()
        self.enter = nn.Linear(dim, width, bias=False)
        self.block = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.norm(h + self.dropout(self.block(F.gelu(h))))


class CrossAttentionLayer(nn.Module):
    """One layer of section 5: multi-head attention to a context, query residual, LayerNorm; nothing else."""

    def __init__(self, query_dim: int, context_dim: int, *, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query_dim, query_dim)
        self.key = nn.Linear(context_dim, query_dim)
        self.value = nn.Linear(context_dim, query_dim)
        self.out = nn.Linear(query_dim, query_dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = LayerNorm(query_dim)

    def forward(self, query: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """`query` `(B, Tq, query_dim)`, `context` `(B, Tk, context_dim)`, its mask: shaped like `query`.

        A clip without a real context frame has nothing to attend to: only its residual passes, to the norm.
        """
        q, k, v = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, T, D) -> (B, heads, T, D / heads)
            for x in (self.query(query), self.key(context), self.value(context))
        )
        present = context_mask.any(1)[:, None, None]  # (B, 1, 1)
        # A softmax over no frame is 0 / 0: an absent context is attended to, padding as it is, and left out after.
        # (B, 1, 1, Tk): every head and every query frame looks at the same real frames.
        looked_at = (context_mask[:, None] | ~present)[:, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=looked_at)
        answer = self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return self.norm(query + answer.masked_fill(~present, 0))


class CrossAttention(nn.Module):
    """Layers whose keys and values all come from the *original* context: only the query changes."""

    def __init__(self, query_dim: int, context_dim: int, *, layers: int, heads: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(
            CrossAttentionLayer(query_dim, context_dim, heads=heads, dropout=dropout) for _ in range(layers)
        )

    def forward(self, query: Tensor, context: Tensor, query_mask: Tensor, context_mask: Tensor) -> Tensor:
        """The fused query, averaged over its real frames: `(B, query_dim)`; zeros for a clip without any."""
        for layer in self.layers:
            query = layer(query, context, context_mask)
        return masked_mean(query, query_mask)


class FoalNet(nn.Module):
    """Audio `(B, Ta, audio_dim)` and video `(B, Tv, video_dim)` to class logits, with 14 321 161 parameters.

    `temperature` is AVEL's divisor, kept here so that it can be learned with the rest (ledger row 2), inside
    `temperature_range` where one is given; with `learn_temperature=False` it is a buffer. Raises ValueError where a
    width does not divide into the heads.
    A stream whose mask is all False for a clip is absent there: the other stream attends to nothing, and the
    absent one's fused vector and projection are zeros. Every method raises ValueError for a stream of the wrong
    shape and, with its row, for a clip without a real frame of either.
    """

    def __init__(
        self,
        audio_dim: int = 1024,
        video_dim: int = 768,
        classes: int = 4,
        *,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        projection_dim: int = 512,
        projection_dropout: float = 0.5,
        temperature: float = 2.659,  # ln(1 / 0.07), the released code's start
        learn_temperature: bool = True,
        temperature_range: tuple[float, float] | None = None,
    ):
        super().__init__()
        for name, dim in (("audio", audio_dim), ("video", video_dim)):
            if dim % heads:
                raise ValueError(
                    f"{name}_dim {dim} is not divisible by {heads} heads: give the {name} stream a linear "
                    f"input layer of a width that is (params: model.{name}_input)"
                )
        self.audio_dim, self.video_dim = audio_dim, video_dim
        self.a2v = CrossAttention(audio_dim, video_dim, layers=layers, heads=heads, dropout=dropout)
        self.v2a = CrossAttention(video_dim, audio_dim, layers=layers, heads=heads, dropout=dropout)
        self.audio_projection = Projection(audio_dim, width=projection_dim, dropout=projection_dropout)
        self.video_projection = Projection(video_dim, width=projection_dim, dropout=projection_dropout)
        self.match_a2v = nn.Linear(audio_dim, 2)  # MEM's logits (B, 2), class 1 = match, of a fused vector
        self.match_v2a = nn.Linear(video_dim, 2)
        self.classifier = nn.Linear(audio_dim + video_dim, classes)
        self.temperature_range = temperature_range
        start = torch.tensor(float(temperature))
        if learn_temperature:
            self.temperature = nn.Parameter(start)
        else:
            self.register_buffer("temperature", start)
        self.apply(start_small)

    def forward(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor) -> Tensor:
        """Class logits `(B, classes)` (section 6)."""
        return self.classify(self.fuse(audio, video, audio_mask, video_mask))

    def project(
        self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """AVEL's two projections `(B, projection_dim)` of the streams' masked means (section 2).

        AVEL follows, so here a learned `temperature` that its last step took out of `temperature_range` is put back.
        """
        self._check(audio, video, audio_mask, video_mask)
        if self.temperature_range:
            # The value itself, as ALBEF does: a clamp in the graph has no gradient outside, so no way back in.
            self.temperature.data.clamp_(*self.temperature_range)
        return (
            self.audio_projection(masked_mean(audio, audio_mask)) * audio_mask.any(1, keepdim=True),
            self.video_projection(masked_mean(video, video_mask)) * video_mask.any(1, keepdim=True),
        )

    def fuse(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor) -> Fused:
        """Both stacks' vectors (section 5)."""
        return Fused(
            self.attend_a2v(audio, video, audio_mask, video_mask),
            self.attend_v2a(audio, video, audio_mask, video_mask),
        )

    def attend_a2v(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor) -> Tensor:
        """Audio frames asking the video: `(B, audio_dim)`."""
        self._check(audio, video, audio_mask, video_mask)
        return self.a2v(audio, video, audio_mask, video_mask)

    def attend_v2a(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor) -> Tensor:
        """Video frames asking the audio: `(B, video_dim)`; the arguments keep their order."""
        self._check(audio, video, audio_mask, video_mask)
        return self.v2a(video, audio, video_mask, audio_mask)

    def classify(self, fused: Fused) -> Tensor:
        """Class logits `(B, classes)` of the two fused vectors (section 6)."""
        return self.classifier(torch.cat(fused, 1))

    def _check(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor) -> None:
        if len(audio) != len(video):
            raise ValueError(f"audio holds {len(audio)} clips and video {len(video)}")
        check_stream("audio", audio, audio_mask, self.audio_dim)
        check_stream("video", video, video_mask, self.video_dim)
        check_frames("audio and video have", audio_mask.any(1) | video_mask.any(1))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real frames: `x` `(B, T, D)`, `mask` `(B, T)`, result `(B, D)`, zeros where there is none."""
    total = (x * mask[..., None]).sum(1, dtype=torch.promote_types(x.dtype, torch.float32))  # fp16 overflows
    return (total / mask.sum(1, keepdim=True).clamp(min=1)).to(x.dtype)


def start_small(module: nn.Module) -> None:
    """Start a new linear at N(0, 0.02²) with a zero bias (section 6); for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_stream(name: str, x: Tensor, mask: Tensor, width: int) -> None:
    """Raise ValueError unless `x` is `(B, T, width)` and `mask` bool `(B, T)`."""
    if x.ndim != 3 or x.shape[2] != width:
        raise ValueError(f"{name} must be (B, T, {width}), not {tuple(x.shape)}")
    # An integer or float mask would be added to the attention scores instead of hiding frames.
    if mask.dtype != torch.bool or mask.shape != x.shape[:2]:
        raise ValueError(
            f"{name}_mask must be bool {tuple(x.shape[:2])}, not {mask.dtype} {tuple(mask.shape)}"
        )


def check_frames(who: str, real: Tensor) -> None:
    """Raise ValueError, naming the rows, unless every row of `real` `(B,)` is True; `who` as "audio has"."""
    if not real.all():
        rows = (~real).nonzero().flatten().tolist()
        raise ValueError(f"{who} no real frame in row{'s' if len(rows) > 1 else ''} {rows}")
