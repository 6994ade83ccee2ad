"""CFN-SR: face frames and MFCCs, fused by one cross-modal block with a residual, to eight emotions.

Fu, Liu, Wang, Qi, Fu, Zhou, Li, "A cross-modal fusion network based on self-attention and residual structure for
multimodal emotion recognition", arXiv 2111.02172 (2021). Sections are the specification's (cfn-sr.md).
Shapes: B clips; video `(B, 3, T, S, S)`, its feature map `(B, 2048, t, h, w)` with t = ceil(T / 16) and
h = w = ceil(S / 32); audio `(B, 13, F)` of 212 to 219 MFCC frames F, its sequence `(B, 64, 26)`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VIDEO_WIDTH, MFCCS, AUDIO_WIDTH, AUDIO_STEPS = 2048, 13, 64, 26


class Pointwise(nn.Conv3d):
    """A 1 × 1 × 1 convolution without bias, as the matrix product it is: `(B, C, t, h, w)` to its channels.

    PyTorch's own on a CPU in fp32 is a slow path that leaves channels-last, and costs every layer after it a copy.
    """

    def __init__(self, width: int, out: int, *, stride: int = 1):
        super().__init__(width, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        t, h, w = self.stride
        x = x[:, :, ::t, ::h, ::w].movedim(1, 4)  # (B, t, h, w, C): contiguous where x is channels-last
        return F.linear(x, self.weight.flatten(1)).movedim(4, 1)


class Grouped(nn.Conv3d):
    """A 3 × 3 × 3 convolution in 32 groups without bias: `(B, C, t, h, w)` to the same width.

    On a CPU four groups of four channels are computed as one of sixteen, with zeros between them: oneDNN has no fast
    kernel for so few channels (its backward pass in bf16 takes nine times as long).
    """

    def __init__(self, width: int, *, stride: int = 1):
        super().__init__(width, width, 3, stride=stride, padding=1, groups=32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        width = self.weight.shape[1]  # of a group, in and out
        if x.device.type != "cpu" or width != 4:
            return super().forward(x)
        apart = self.weight.reshape(8, 4, width, 1, width, 27) * torch.eye(4, dtype=self.weight.dtype).view(
            1, 4, 1, 4, 1, 1
        )
        joined = apart.reshape(len(self.weight), 4 * width, 3, 3, 3)
        return F.conv3d(x, joined, None, self.stride, self.padding, groups=8)


class Bottleneck(nn.Module):
    """One block of section 1: `(B, width, t, h, w)` to `(B, 2 planes, t / stride, h / stride, w / stride)`."""

    def __init__(self, width: int, planes: int, *, stride: int = 1):
        super().__init__()
        out = 2 * planes
        self.body = nn.Sequential(
            Pointwise(width, planes),
            nn.BatchNorm3d(planes),
            nn.ReLU(inplace=True),
            Grouped(planes, stride=stride),
            nn.BatchNorm3d(planes),
            nn.ReLU(inplace=True),
            Pointwise(planes, out),
            nn.BatchNorm3d(out),
        )
        self.shortcut = nn.Sequential()
        if width != out or stride != 1:
            self.shortcut.append(Pointwise(width, out, stride=stride))
            self.shortcut.append(nn.BatchNorm3d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


class VideoBranch(nn.Module):
    """The 3-D ResNeXt-50 of section 1 up to its feature map: `(B, 3, frames, size, size)` to `(B, 2048, t, h, w)`.

    Raises ValueError for video of another shape.
    """

    def __init__(self, *, frames: int, size: int, stem_relu: bool):
        super().__init__()
        self.shape = (3, frames, size, size)
        stem = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm3d(64))
        self.stem_relu = stem_relu
        self.pool = nn.MaxPool3d(3, stride=2, padding=1)
        self.layers, width = nn.Sequential(), 64
        for blocks, planes, stride in ((3, 128, 1), (4, 256, 2), (6, 512, 2), (3, 1024, 2)):
            layer = nn.Sequential(Bottleneck(width, planes, stride=stride))
            layer.extend(Bottleneck(2 * planes, planes) for _ in range(blocks - 1))
            self.layers.append(layer)
            width = 2 * planes
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, video: Tensor) -> Tensor:
        if video.ndim != 5 or video.shape[1:] != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(f"video must be (B, {wanted}), not {tuple(video.shape)}")
        x = self.stem(video)
        return self.layers(self.pool(F.relu(x, inplace=True) if self.stem_relu else x))


class AudioBranch(nn.Sequential):
    """The 1-D CNN of section 2: `(B, 13, F)`, 212 <= F <= 219, to `(B, 64, 26)`.

    Each ReLU stands before its BatchNorm, so the sequence has both signs. Raises ValueError for another shape.
    """

    def __init__(self):
        super().__init__(
            nn.Conv1d(MFCCS, 32, 7, padding=2),
            nn.ReLU(),
            nn.BatchNorm1d(32),
            nn.Conv1d(32, 32, 7, padding=2),
            nn.ReLU(),
            nn.MaxPool1d(8),
            nn.BatchNorm1d(32),
            nn.Dropout(0.2),
            nn.Conv1d(32, AUDIO_WIDTH, 5, padding=2),
            nn.ReLU(),
            nn.BatchNorm1d(AUDIO_WIDTH),
        )

    def forward(self, audio: Tensor) -> Tensor:
        # The two convolutions take 4 frames off, the pool keeps whole eighths: 26 steps, and a remainder of 0 to 7.
        if audio.ndim != 3 or audio.shape[1] != MFCCS or (audio.shape[2] - 4) // 8 != AUDIO_STEPS:
            raise ValueError(
                f"audio must be (B, {MFCCS}, 212): 212 MFCC frames are needed and at most 219 taken, "
                f"not {tuple(audio.shape)}"
            )
        return super().forward(audio)


class ResNeXt3D(nn.Module):
    """The video alone: `(B, 3, frames, size, size)` to logits `(B, classes)`, with 25 882 056 parameters."""

    def __init__(self, classes: int = 8, *, frames: int = 30, size: int = 224):
        super().__init__()
        self.branch = VideoBranch(frames=frames, size=size, stem_relu=True)
        self.classifier = nn.Linear(VIDEO_WIDTH, classes)

    def forward(self, video: Tensor) -> Tensor:
        return self.classifier(self.branch(video).mean((2, 3, 4)))


class AudioCNN(nn.Module):
    """The audio alone: `(B, 13, 212)` to logits `(B, classes)`, with 34 024 parameters."""

    def __init__(self, classes: int = 8):
        super().__init__()
        self.branch = AudioBranch()
        self.dropout = nn.Dropout(0.4)
        self.classifier = nn.Linear(AUDIO_WIDTH * AUDIO_STEPS, classes)

    def forward(self, audio: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.branch(audio).flatten(1)))


class SelfAttentionEncoder(nn.Module):
    """The causal pre-norm transformer of section 3: `(B, T, dim)` to the same shape, T <= 26."""

    def __init__(self, dim: int = AUDIO_WIDTH, *, layers: int = 5, heads: int = 8):
        super().__init__()
        self.dropout = nn.Dropout(0.3)
        # Its one rate is that of all four places; ReLU is its activation.
        layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), enable_nested_tensor=False)
        # PyTorch's encoder starts its layers as copies of one another.
        for name, parameter in self.encoder.named_parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        # Sines, then cosines (fairseq's order), of steps counted from 1, at frequencies from 1 down to 1 / 10 000.
        steps, frequencies = torch.arange(1.0, AUDIO_STEPS + 1), torch.logspace(0, -4, dim // 2)
        angles = torch.outer(steps, frequencies)  # (26, dim / 2)
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], 1), persistent=False)
        future = torch.ones(AUDIO_STEPS, AUDIO_STEPS, dtype=torch.bool).triu(1)  # True is not looked at
        self.register_buffer("future", future, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        x = self.dropout(math.sqrt(x.shape[2]) * x + self.positions[:steps])
        return self.encoder(x, mask=self.future[:steps, :steps], is_causal=True)


class CrossModalBlock(nn.Module):
    """Where the audio says to look, section 3: `x` `(B, C, t, h, w)`, `audio` `(B, D, T)`, shaped like `x`.

    `residual` adds `x` itself; without it the h·w weights of a slice, which sum to 1, make `x` smaller.
    `batch_summed` is the released code's defect: one map, the sum of the batch's, for every clip in it.
    """

    def __init__(
        self,
        video_width: int = VIDEO_WIDTH,
        audio_width: int = AUDIO_WIDTH,
        *,
        heads: int = 8,
        residual: bool = True,
        batch_summed: bool = False,
    ):
        super().__init__()
        self.residual, self.batch_summed = residual, batch_summed
        self.encoder = SelfAttentionEncoder(audio_width, heads=heads)
        self.video = nn.Linear(video_width, audio_width)
        self.audio = nn.Linear(audio_width, audio_width, bias=False)
        # Its bias moves every score alike, which the softmax takes out: it is counted but never learns.
        self.score = nn.Linear(audio_width, 1)

    def forward(self, x: Tensor, audio: Tensor) -> Tensor:
        m = self.attention_map(x, audio)[:, None]  # (B, 1, t, h, w)
        if self.batch_summed:
            m = m.sum(0, keepdim=True)
        return x * m + x if self.residual else x * m

    def attention_map(self, x: Tensor, audio: Tensor) -> Tensor:
        """Each clip's own map `(B, t, h, w)`; every temporal slice sums to 1."""
        a = self.encoder(audio.transpose(1, 2))[:, -1]  # (B, D): the one step that saw them all
        q = self.video(x.flatten(3).movedim(1, 3)) + self.audio(a)[:, None, None]  # (B, t, h·w, D)
        return self.score(q.tanh()).squeeze(3).softmax(2).unflatten(2, x.shape[3:])


class CFNSR(nn.Module):
    """Video `(B, 3, frames, size, size)` and audio `(B, 13, 212)` to logits `(B, classes)`: 26 301 417 parameters.

    `block=False` only splices the two branches (25 916 072); `residual` and `batch_summed_attention` are the
    block's. Raises ValueError for a stream of another shape, for unequal numbers of clips, and for a change to a
    block that is not there.
    """

    def __init__(
        self,
        classes: int = 8,
        *,
        frames: int = 30,
        size: int = 224,
        block: bool = True,
        residual: bool = True,
        batch_summed_attention: bool = False,
    ):
        super().__init__()
        if not block and (batch_summed_attention or not residual):
            raise ValueError("residual=False and batch_summed_attention=True need block=True: they change it")
        self.video = VideoBranch(frames=frames, size=size, stem_relu=False)
        self.audio = AudioBranch()
        self.block = None
        if block:
            self.block = CrossModalBlock(residual=residual, batch_summed=batch_summed_attention)
        self.dropout = nn.Dropout(0.4)
        self.classifier = nn.Linear(VIDEO_WIDTH + AUDIO_WIDTH * AUDIO_STEPS, classes)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        if len(video) != len(audio):
            raise ValueError(f"video holds {len(video)} clips and audio {len(audio)}")
        x, a = self.video(video), self.audio(audio)
        if self.block is not None:
            x = self.block(x, a)
        # Section 1's average pool spans the whole last map, whatever its shape.
        return self.classifier(torch.cat([x.mean((2, 3, 4)), self.dropout(a.flatten(1))], 1))

    def start_from(self, video: dict[str, Tensor], audio: dict[str, Tensor]) -> None:
        """Take the branches' weights from the states of a ResNeXt3D and an AudioCNN (section 6), not their heads.

        Raises ValueError for a state that is not such a network's.
        """
        for branch, state, owner in ((self.video, video, "a ResNeXt3D"), (self.audio, audio, "an AudioCNN")):
            weights = {k.removeprefix("branch."): v for k, v in state.items() if k.startswith("branch.")}
            try:
                branch.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(f"this is not the state of {owner}: it does not fit its branch") from error
