"""What a stream in `features:` may be: the settings of an encoder, the kind of stream it gives, and what makes it.

`kind` is sound (of the utterance's audio file), picture (of its video file) or numbers (files of their own);
`made_by` names the class in foalkit.features.encoders, which is loaded when it is used; `by_torch` says whether it is a
network of PyTorch's. A sound's `step` is how many seconds lie from the middle of one frame to that of the next, and
`first` where the first one lies. `trained_on` names data sets (foalkit.params.trained_on); no feature depends on it.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from foalkit.params.strict import Count, Few, Line, Strict

Kind = Literal["sound", "picture", "numbers"]
Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
Region = Literal["picture", "face"]
FOLD = "{fold}"  # in the folder of imported features: they are made for each fold
TABLES = (".csv", ".parquet")
READABLE = (".npy", ".npz", ".safetensors", *TABLES)  # features made elsewhere
PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill")
TrainedOn = Annotated[
    list[Line] | None, Field(description="data sets it was trained on; null: what the kit knows of the model")
]


class WeightFree(Strict):
    """An encoder without weights."""

    by_torch: ClassVar[bool] = False
    trained_on: ClassVar = ()


class Packaged(Strict):
    """A network whose weights are a file of an installed Python package (requirements-weights.lock), run on the CPU."""

    by_torch: ClassVar[bool] = True


class LogMel(WeightFree):
    """Log-mel spectrum (librosa) of 16 kHz sound in windows of 25 ms."""

    kind: ClassVar[Kind] = "sound"
    made_by: ClassVar[str] = "sound.LogMelEncoder"
    encoder: Literal["log-mel"]
    bands: Count = Field(64, description="mel bands, each a number per frame")
    hop_ms: Count = Field(10, description="milliseconds from frame to frame")
    first: ClassVar[float] = 0.0

    @property
    def step(self) -> float:
        return self.hop_ms / 1000


class Mfcc(WeightFree):
    """Mel-frequency cepstral coefficients (librosa)."""

    kind: ClassVar[Kind] = "sound"
    made_by: ClassVar[str] = "sound.MfccEncoder"
    encoder: Literal["mfcc"]
    coefficients: Count = Field(13, description="coefficients per frame")
    rate: Count = Field(16_000, description="samples per second (Hz) that the sound is brought to; CFN-SR: 44 100")
    window: Count = Field(400, description="samples of a frame")
    hop: Count = Field(160, description="samples from frame to frame")
    bands: Count = Field(40, description="mel filters")
    start: float = Field(0.0, ge=0, le=3600, description="where it begins, in seconds into the utterance")
    seconds: float | None = Field(
        None, gt=0, le=3600, description="how much is used, filled up with silence; null: all of it"
    )
    first: ClassVar[float] = 0.0

    @property
    def step(self) -> float:
        return self.hop / self.rate


class Waveform(WeightFree):
    """The raw 16 kHz mono samples, for an encoder that is trained with the rest."""

    kind: ClassVar[Kind] = "sound"
    made_by: ClassVar[str] = "sound.WaveformEncoder"
    step: ClassVar[float] = 1 / 16_000
    first: ClassVar[float] = 0.0
    encoder: Literal["waveform"]


class WavLMWeights(Strict):
    """Which WavLM (transformers) is loaded, frozen or to be trained."""

    by_torch: ClassVar[bool] = True
    step: ClassVar[float] = 0.02  # its front end: 400 samples at 16 kHz every 320
    first: ClassVar[float] = 0.0125
    model: Line = Field(description="a hub name, a folder, or `small` (seeded random weights, written on first use)")
    revision: Line | None = Field(None, description="the hub commit; needed for a hub name")
    width: Count = Field(1024, description="numbers per frame, checked against the weights")
    summary: list[float] | None = Field(None, description="what wavlm_summary must give; null: not checked")
    trained_on: TrainedOn = None


class WavLM(WavLMWeights):
    """A frozen WavLM."""

    kind: ClassVar[Kind] = "sound"
    made_by: ClassVar[str] = "wavlm.WavLMEncoder"
    encoder: Literal["wavlm"]
    layer: int = Field(-1, ge=-1000, le=1000, description="which of its hidden states; -1: the last")
    precision: Precision = Field("fp32", description="the arithmetic of the forward pass")
    device: Device = Field("auto", description="where it runs; auto: a GPU where there is one")


class FrameNetwork(Strict):
    """What the networks that see one frame at a time have in common."""

    kind: ClassVar[Kind] = "picture"
    by_torch: ClassVar[bool] = True
    model: Line = Field(description="the network's name, or `small` (seeded random weights, written on first use)")
    revision: Line | None = Field(None, description="the hub commit; needed for weights from a hub")
    width: Count = Field(768, description="numbers per frame, checked against the weights")
    region: Region = Field("picture", description="the speaker's whole picture, or the face in it")
    every: Count = Field(1, description="use each n-th frame")
    batch: Count = Field(64, description="frames at once through the network")
    precision: Precision = Field("fp32", description="the arithmetic of the forward pass")
    device: Device = Field("auto", description="where it runs; auto: a GPU where there is one")
    trained_on: TrainedOn = None


class ClipImages(FrameNetwork):
    """CLIP's projected image embedding per frame (open_clip)."""

    made_by: ClassVar[str] = "frame_networks.ClipEncoder"
    encoder: Literal["clip"]
    pretrained: Line | None = Field(None, description="a hub repository, or a .safetensors file")


class Expression(FrameNetwork):
    """What an image-classification network (transformers) hands its classifier, per frame; meant for expressions."""

    made_by: ClassVar[str] = "frame_networks.ExpressionEncoder"
    encoder: Literal["expression"]
    region: Region = Field("face", description="the speaker's whole picture, or the face in it")


class Hog(WeightFree):
    """Histograms of oriented gradients per frame (weight-free)."""

    kind: ClassVar[Kind] = "picture"
    made_by: ClassVar[str] = "pictures.HogEncoder"
    encoder: Literal["hog"]
    size: Few = Field(64, description="pixels of each side that the picture is brought to")
    cell: Count = Field(8, description="pixels of each side of a cell")
    orientations: Count = Field(8, description="orientations, each a number per cell")
    since_start: bool = Field(False, description="less the utterance's first frame: what moves, not who it is")
    region: Region = Field("picture", description="the speaker's whole picture, or the face in it")
    every: Count = Field(1, description="use each n-th frame")


class Frames(WeightFree):
    """The pictures themselves, for a network that is trained on them."""

    kind: ClassVar[Kind] = "picture"
    made_by: ClassVar[str] = "pictures.FramesEncoder"
    encoder: Literal["frames"]
    frames: Few = Field(30, description="how many, spread evenly over the utterance")
    size: Few = Field(224, description="pixels of each side")
    region: Region = Field("face", description="the speaker's whole picture, or the face in it")


class Resemblyzer(Packaged):
    """The states of Resemblyzer's network for speakers, 3 LSTMs of 256 on 40 mel bands."""

    kind: ClassVar[Kind] = "sound"
    made_by: ClassVar[str] = "packaged.ResemblyzerEncoder"
    trained_on: ClassVar = ("LibriSpeech", "VoxCeleb1", "VoxCeleb2")  # github.com/resemble-ai/Resemblyzer/issues/3
    encoder: Literal["resemblyzer"]
    layer: int = Field(3, ge=1, le=3, description="which LSTM's states; the last tells speakers apart")
    stride: Count = Field(4, description="frames of 10 ms from one state that is kept to the next")
    first: ClassVar[float] = 0.0

    @property
    def step(self) -> float:
        return self.stride / 100


class Fer(Packaged):
    """The mini-Xception of the package fer, which reads expressions from grey faces of 64 x 64 pixels."""

    kind: ClassVar[Kind] = "picture"
    made_by: ClassVar[str] = "packaged.FerEncoder"
    trained_on: ClassVar = ("FER2013",)
    encoder: Literal["fer"]
    output: Literal["features", "expressions"] = Field(
        "features", description="the 128 numbers before its classifier, or the probabilities of its 7 expressions"
    )
    region: Region = Field("face", description="the speaker's whole picture, or the face in it")
    every: Count = Field(1, description="use each n-th frame")


class EfficientNetLite0(Packaged):
    """The 1 280 numbers that EfficientNet-Lite0 hands its classifier of ImageNet's objects, per frame."""

    kind: ClassVar[Kind] = "picture"
    made_by: ClassVar[str] = "packaged.EfficientNetLite0Encoder"
    trained_on: ClassVar = ("ImageNet",)
    encoder: Literal["efficientnet-lite0"]
    region: Region = Field("picture", description="the speaker's whole picture, or the face in it")
    every: Count = Field(1, description="use each n-th frame")


class Imported(Strict):
    """Features made elsewhere: `(T, width)` numbers of each utterance, from one file each or from files of many.

    A pattern with `{utterance}` names a file for each; one without it names files that hold many: dictionaries of
    arrays, tables with a column `utterance`, or a matrix with an `index`. Pickled files are not read. A folder with
    `{fold}` in it names one folder for each fold: `Params.for_fold` fills in its number.
    """

    kind: ClassVar[Kind] = "numbers"
    by_torch: ClassVar[bool] = False
    made_by: ClassVar[str] = "imported.ImportedFeatures"
    encoder: Literal["imported"]
    folder: Line = Field(
        description="where the files lie; $NAME is taken from the environment; with {fold}: a folder for each fold"
    )
    pattern: Line = Field(
        "{utterance}.npy", pattern=r"^([^{}]|\{[a-z]+\})+$", description="a file's place; names columns of the manifest"
    )
    width: Count = Field(description="numbers per frame, checked in every file")
    key: Line = Field("{utterance}", description="an array's name in an .npz or .safetensors file")
    index: Line | None = Field(None, description="a table whose column `utterance` names the rows of an .npy matrix")
    columns: list[Line] | None = Field(None, min_length=1, description="of a table, those with the numbers; null: all")
    step: float | None = Field(None, gt=0, le=3600, description="seconds from frame to frame; null: not known")
    trained_on: TrainedOn = None

    @property
    def first(self) -> float:
        """Where the middle of the first frame lies, in seconds."""
        return (self.step or 0) / 2

    @field_validator("pattern")
    @classmethod
    def _can_be_read(cls, value):
        if (ending := Path(value).suffix) in PICKLED:
            raise ValueError(f"{ending} files are pickled, and a pickle may run any code when it is read: save numbers")
        if ending not in READABLE:
            raise ValueError(f"must end in one of {', '.join(READABLE)}")
        return value

    @model_validator(mode="after")
    def _fits_its_files(self):
        ending = Path(self.pattern).suffix
        if FOLD in self.pattern + self.key:  # the manifest has a column of that name: which fold tests an utterance
            raise ValueError(f"folder: {FOLD} belongs there, not in `pattern` or `key`: each fold has its folder")
        if self.index and Path(self.index).suffix not in TABLES:
            raise ValueError(f"index: must be a table ({' or '.join(TABLES)})")
        if self.index and (ending != ".npy" or "{utterance}" in self.pattern):
            raise ValueError("index: names the rows of one .npy matrix of many utterances, which the pattern is not")
        if ending == ".npy" and not self.index and "{" not in self.pattern:
            raise ValueError("index: one .npy file of all utterances needs a table that names its rows")
        if self.columns and ending not in TABLES:
            raise ValueError(f"columns: {ending} files have none")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler):
        kept = {"key": "{utterance}", "index": None, "columns": None, "step": None}  # digests stay what they were
        return {name: v for name, v in handler(self).items() if name not in kept or v != kept[name]}


# a new encoder is a class above and its name here, and the class that `made_by` names
Features = Annotated[
    LogMel
    | Mfcc
    | Waveform
    | WavLM
    | ClipImages
    | Expression
    | Hog
    | Frames
    | Resemblyzer
    | Fer
    | EfficientNetLite0
    | Imported,
    Field(discriminator="encoder"),
]
