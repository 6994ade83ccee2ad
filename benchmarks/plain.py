"""Foal-Net as a research repository would write it: what the library is compared with.

An honest opponent: PyTorch's own blocks in their usual calls (nn.MultiheadAttention; leaving out its attention
weights, `need_weights=False`, was not faster here), pad_sequence, boolean masks, autocast for bf16, AdamW. Every clip
is padded to the batch's longest. The one forward tells the method in its order: the classifier's pass through the
fusion, AVEL, then MEM's pass over the positives and its pass over the negatives, each from the features on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


class Layer(nn.Module):
    def __init__(self, query_dim: int, context_dim: int, heads: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(query_dim, heads, kdim=context_dim, vdim=context_dim, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(query_dim)

    def forward(self, query: Tensor, context: Tensor, padding: Tensor) -> Tensor:
        answer, _ = self.attention(query, context, context, key_padding_mask=padding)
        return self.norm(query + self.dropout(answer))


class Stack(nn.Module):
    def __init__(self, query_dim: int, context_dim: int, heads: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(Layer(query_dim, context_dim, heads, dropout) for _ in range(2))

    def forward(self, query: Tensor, context: Tensor, query_mask: Tensor, context_mask: Tensor) -> Tensor:
        for layer in self.layers:
            query = layer(query, context, ~context_mask)
        return mean(query, query_mask)


class Projection(nn.Module):
    def __init__(self, dim: int, width: int, dropout: float):
        super().__init__()
        self.enter = nn.Linear(dim, width, bias=False)
        self.block = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.norm(h + self.dropout(self.block(F.gelu(h))))


class PlainFoalNet(nn.Module):
    def __init__(
        self,
        audio_dim: int = 1024,
        video_dim: int = 768,
        *,
        heads: int = 4,
        dropout: float = 0.1,
        projection_dim: int = 512,
        projection_dropout: float = 0.5,
    ):
        super().__init__()
        self.a2v = Stack(audio_dim, video_dim, heads, dropout)
        self.v2a = Stack(video_dim, audio_dim, heads, dropout)
        self.audio_projection = Projection(audio_dim, projection_dim, projection_dropout)
        self.video_projection = Projection(video_dim, projection_dim, projection_dropout)
        self.match_a2v = nn.Linear(audio_dim, 2)
        self.match_v2a = nn.Linear(video_dim, 2)
        self.classifier = nn.Linear(audio_dim + video_dim, 4)
        self.temperature = nn.Parameter(torch.tensor(2.659))

    def logits(self, audio: Tensor, video: Tensor, audio_mask: Tensor, video_mask: Tensor) -> Tensor:
        a2v = self.a2v(audio, video, audio_mask, video_mask)
        v2a = self.v2a(video, audio, video_mask, audio_mask)
        return self.classifier(torch.cat([a2v, v2a], 1))

    def forward(
        self,
        audio: Tensor,
        video: Tensor,
        audio_mask: Tensor,
        video_mask: Tensor,
        labels: Tensor,
        negatives: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits and loss; `negatives`, videos and audios, stand for those that it would choose."""
        logits = self.logits(audio, video, audio_mask, video_mask)

        a = F.normalize(self.audio_projection(mean(audio, audio_mask)), dim=1)
        v = F.normalize(self.video_projection(mean(video, video_mask)), dim=1)
        similarity = a @ v.T / self.temperature
        same = labels[:, None] == labels
        target = same.to(similarity.dtype)
        avel = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2

        if negatives is None:
            videos = similarity.masked_fill(same, -torch.inf).argmax(1)
            audios = similarity.T.masked_fill(same, -torch.inf).argmax(1)
        else:
            videos, audios = negatives
        a2v = [
            self.a2v(audio, video, audio_mask, video_mask),
            self.a2v(audio, video[videos], audio_mask, video_mask[videos]),
        ]
        v2a = [
            self.v2a(video, audio, video_mask, audio_mask),
            self.v2a(video, audio[audios], video_mask, audio_mask[audios]),
        ]
        match = torch.cat([torch.ones_like(labels), torch.zeros_like(labels)])
        mem = F.cross_entropy(self.match_a2v(torch.cat(a2v)), match)
        mem = (mem + F.cross_entropy(self.match_v2a(torch.cat(v2a)), match)) / 2
        return logits, F.cross_entropy(logits, labels) + avel + 0.1 * mem


def mean(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def collate(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One stream's arrays `(T, D)`, an utterance each, as a padded batch `(B, T, D)` and its mask `(B, T)`."""
    x = pad_sequence(clips, batch_first=True)
    return x, torch.arange(x.shape[1]) < torch.tensor([len(clip) for clip in clips])[:, None]


def renamed(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The library's Foal-Net's weights, or their gradients, under the names and in the shapes of PlainFoalNet."""
    plain = {}
    for name, x in ours.items():
        layer, part, kind = ([""] * 2 + name.rsplit(".", 2))[-3:]
        if ".layers." not in name or part == "norm":
            plain[name] = x
        elif part == "out":
            plain[f"{layer}.attention.out_proj.{kind}"] = x
        elif kind == "weight":
            plain[f"{layer}.attention.{part[0]}_proj_weight"] = x
        elif part == "query":
            biases = [ours[f"{layer}.{p}.bias"] for p in ("query", "key", "value")]
            plain[f"{layer}.attention.in_proj_bias"] = torch.cat(biases)
    return plain
