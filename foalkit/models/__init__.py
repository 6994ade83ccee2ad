"""The models.

In: tensors and masks. Out: logits, projections. Never: paths, params, names of corpora.
"""

from foalkit.models.cfnsr import CFNSR, AudioCNN, ResNeXt3D
from foalkit.models.foalnet import FoalNet
from foalkit.models.unimodal import Unimodal

__all__ = ["CFNSR", "AudioCNN", "FoalNet", "ResNeXt3D", "Unimodal"]
