"""Foal-Net: audio and video features, fused by two stacks of cross-attention, to four emotions.

Li, Gao, Wen, Wang, Li, "Enhancing Modal Fusion by Alignment and Label Matching for Multimodal Emotion
Recognition", Interspeech 2024, doi 10.21437/Interspeech.2024-1462. Sections are the specification's.
Shapes: B clips, T frames (Ta audio, Tv video, padded), D features; masks `(B, T)` are bool, True = real.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foalkit.models.draws import Dropout
from foalkit.models.frames import Packed, Padded, masked_mean

# Numbers in a clip's two padded streams from which packing is faster on the CPU. A step of the demo (25 frames of 64
# numbers) takes half as long padded, one with 160 such frames a third longer, the paper's more than twice as long.
PACKED_FROM = 2**13


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
        self.dropout = Dropout(dropout)
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
        self.dropout = Dropout(dropout)
        self.norm = LayerNorm(query_dim)

    def forward(
        self, query: Tensor, context: Tensor, frames: Padded | Packed, before: LayerNorm | None = None
    ) -> Tensor:
        """`query` `(1 or P, …, query_dim)` and `context` as `frames` lays them out, to `(P, …, query_dim)`.

        The result is what the layer's norm is still to be taken of; `before` is the norm that `query` still lacks.
        A clip without a real context frame has nothing to attend to: only its residual passes.
        """

        def asking(x):
            x = before(x) if before else x
            return x, self.query(x)

        query, q = frames.recomputed(asking, query) if before else asking(query)
        answer = self.out(frames.attend(q, self.key(context), self.value(context), self.heads))
        # a sum of two types would take six times as long
        return query + self.dropout(frames.zero_absent(answer)).to(query.dtype)

    def weights(self, query: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """How much each query frame looks at each context frame `(B, heads, Tq, Tk)`, to be shown: plain, for padded B.

        A row sums to 1 over the clip's real context frames; it is zero where there is none.
        """
        q, k = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (self.query(query), self.key(context)))
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        hidden = ~context_mask[:, None, None]  # (B, 1, 1, Tk)
        return scores.masked_fill(hidden, -torch.inf).softmax(3).masked_fill(hidden, 0)


class CrossAttention(nn.Module):
    """Layers whose keys and values all come from the *original* context: only the query changes."""

    def __init__(self, query_dim: int, context_dim: int, *, layers: int, heads: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(
            CrossAttentionLayer(query_dim, context_dim, heads=heads, dropout=dropout) for _ in range(layers)
        )

    def forward(self, query: Tensor, context: Tensor, frames: Padded | Packed) -> Tensor:
        """The fused query of each pass, averaged over its real frames: `(P, B, query_dim)`; zeros without any.

        The context's keys and values and the first layer's queries are computed once for all passes.
        """
        device = context.device.type
        if torch.is_autocast_enabled(device):  # once, not before every layer's key and value
            context = context.to(torch.get_autocast_dtype(device))
        query, norm = query[None], None
        for layer in self.layers:
            query, norm = layer(query, context, frames, norm), layer.norm
        return frames.mean(norm(query))

    def weights(self, query: Tensor, context: Tensor, query_mask: Tensor, context_mask: Tensor) -> Tensor:
        """Each layer's attention weights `(B, layers, heads, Tq, Tk)` for padded clips (`CrossAttentionLayer`)."""
        frames = Padded(query_mask, context_mask, torch.arange(len(query), device=query.device)[None])
        found = []
        for layer in self.layers:
            found.append(layer.weights(query, context, context_mask))
            query = layer.norm(layer(query[None], context, frames)[0])
        return torch.stack(found, 1)


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
                    f"{name}_dim {dim} is not divisible by {heads} heads: give the {name} stream a linear input layer"
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

    def project(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor) -> tuple[Tensor, Tensor]:
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
        own = torch.arange(len(audio), device=audio.device)[None]
        return self.fuse_with(audio, video, audio_mask, video_mask, own, own)[0]

    def fuse_with(
        self,
        audio: Tensor,
        video: Tensor,
        audio_mask: Tensor,
        video_mask: Tensor,
        videos: Tensor,
        audios: Tensor,
        *,
        detach_context: bool = False,
    ) -> list[Fused]:
        """Both stacks' vectors of each of P passes; `videos` and `audios` `(P, B)`.

        In pass p audio i asks video `videos[p, i]`, and video i asks audio `audios[p, i]`. What the passes share, the
        keys, the values and the first layer's queries, is computed once; each pass has its own dropout. With
        `detach_context` the frames that are asked carry no gradient (ledger row 5).
        """
        audio, video, layout = self._lay_out(audio, video, audio_mask, video_mask)
        asked_audio, asked_video = (audio.detach(), video.detach()) if detach_context else (audio, video)
        a2v = self.a2v(audio, asked_video, layout(audio_mask, video_mask, videos))
        v2a = self.v2a(video, asked_audio, layout(video_mask, audio_mask, audios))
        return [Fused(*both) for both in zip(a2v, v2a, strict=True)]

    def classify(self, fused: Fused) -> Tensor:
        """Class logits `(B, classes)` of the two fused vectors (section 6)."""
        return self.classifier(torch.cat(fused, 1))

    def attention(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor) -> tuple[Tensor, Tensor]:
        """How much each frame looks at the other stream's: `(B, layers, heads, Ta, Tv)` and with Ta and Tv swapped."""
        self._check(audio, video, audio_mask, video_mask)
        return (
            self.a2v.weights(audio, video, audio_mask, video_mask),
            self.v2a.weights(video, audio, video_mask, audio_mask),
        )

    def _lay_out(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor):
        self._check(audio, video, audio_mask, video_mask)
        if audio.device.type == "cpu" and audio.shape[1:].numel() + video.shape[1:].numel() >= PACKED_FROM:
            return audio[audio_mask], video[video_mask], Packed
        return audio, video, Padded

    def _check(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor) -> None:
        if len(audio) != len(video):
            raise ValueError(f"audio holds {len(audio)} clips and video {len(video)}")
        check_stream("audio", audio, audio_mask, self.audio_dim)
        check_stream("video", video, video_mask, self.video_dim)
        check_frames("audio and video have", audio_mask.any(1) | video_mask.any(1))


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
        raise ValueError(f"{name}_mask must be bool {tuple(x.shape[:2])}, not {mask.dtype} {tuple(mask.shape)}")


def check_frames(who: str, real: Tensor) -> None:
    """Raise ValueError, naming the rows, unless every row of `real` `(B,)` is True; `who` as "audio has"."""
    if not real.all():
        rows = (~real).nonzero().flatten().tolist()
        raise ValueError(f"{who} no real frame in row{'s' if len(rows) > 1 else ''} {rows}")
