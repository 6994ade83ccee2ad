"""The one-modality baselines of the paper's Table 2: a masked mean and a linear classifier."""

from torch import Tensor, nn

from foalkit.models.draws import Dropout
from foalkit.models.foalnet import check_frames, check_stream, masked_mean, start_small


class Unimodal(nn.Module):
    """One stream `(B, T, dim)` with its bool mask `(B, T)` to logits `(B, classes)`.

    Raises ValueError for a stream of the wrong shape and for a clip without any real frame.
    """

    def __init__(self, dim: int, classes: int = 4, *, dropout: float = 0.0):
        super().__init__()
        self.dim = dim
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(dim, classes)
        self.apply(start_small)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        check_stream("the stream", x, mask, self.dim)
        check_frames("the stream has", mask.any(1))
        return self.classifier(self.dropout(masked_mean(x, mask)))
