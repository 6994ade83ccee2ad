"""The models: tensors in, logits out; no paths, no params object, no corpus names."""

from foalkit.models.foalnet import FoalNet
from foalkit.models.unimodal import Unimodal

__all__ = ["FoalNet", "Unimodal"]
