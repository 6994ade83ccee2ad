"""The models: tensors in, logits out; no paths, no params object, no corpus names."""

from foalkit.models.cfnsr import CFNSR, AudioCNN, ResNeXt3D
from foalkit.models.foalnet import FoalNet
from foalkit.models.unimodal import Unimodal

__all__ = ["CFNSR", "AudioCNN", "FoalNet", "ResNeXt3D", "Unimodal"]
