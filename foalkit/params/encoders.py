"""What a stream in `features:` may be: the settings of an encoder, the kind of stream it gives, and what makes it.

`kind` is sound (of the utterance's audio file), picture (of its video file) or numbers (files of their own);
`made_by` names the class in foalkit.features.encoders, which is loaded when it is used.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from foalkit.params.strict import Count, Strict

Kind = Literal["sound", "picture", "numbers"]
Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
Region = Literal["picture", "face"]


class LogMel(Strict):
    """Log-mel spectrum (librosa) of 16 kHz sound in windows of 25 ms."""

    kind: ClassVar[Kind] = "sound"
    made_by: ClassVar[str] = "sound.LogMelEncoder"
    encoder: Literal["log-mel"]
    bands: Count = 64
    """mel bands, each a number per frame"""
    hop_ms: Count = 10
    """milliseconds from frame to frame"""


class Mfcc(Strict):
    """Mel-frequency cepstral coefficients (librosa)."""

    kind: ClassVar[Kind] = "sound"
    made_by: ClassVar[str] = "sound.MfccEncoder"
    encoder: Literal["mfcc"]
    coefficients: Count = 13
    """coefficients per frame"""
    rate: Count = 16_000
    """samples per second (Hz) that the sound is brought to; CFN-SR: 44 100"""
    window: Count = 400
    """samples of a frame"""
    hop: Count = 160
    """samples from frame to frame"""
    bands: Count = 40
    """mel filters"""
    start: float = Field(0.0, ge=0)
    """where it begins, in seconds into the utterance"""
    seconds: float | None = Field(None, gt=0)
    """how much of the sound is used; a shorter one is filled up with silence, and noted; null: all of it"""


class Waveform(Strict):
    """The raw 16 kHz mono samples, for an encoder that is trained with the rest."""

    kind: ClassVar[Kind] = "sound"
    made_by: ClassVar[str] = "sound.WaveformEncoder"
    encoder: Literal["waveform"]


class WavLMWeights(Strict):
    """Which WavLM (transformers) is loaded, frozen or to be trained."""

    model: str
    """a hub name, a folder, or `small` (seeded random weights, written on first use)"""
    revision: str | None = None
    """the hub commit; needed for a hub name"""
    width: Count = 1024
    """numbers per frame, checked against the weights"""
    summary: list[float] | None = None
    """what features.encoders.wavlm.wavlm_summary must give for these weights; null: not checked"""


class WavLM(WavLMWeights):
    """A frozen WavLM."""

    kind: ClassVar[Kind] = "sound"
    made_by: ClassVar[str] = "wavlm.WavLMEncoder"
    encoder: Literal["wavlm"]
    layer: int = -1
    """which of its hidden states; -1: the last"""
    precision: Precision = "fp32"
    """the arithmetic of the forward pass"""
    device: Device = "auto"
    """where it runs; auto: a GPU where there is one"""


class FrameNetwork(Strict):
    """What the networks that see one frame at a time have in common."""

    kind: ClassVar[Kind] = "picture"
    model: str
    """the network's name, or `small` (seeded random weights, written on first use)"""
    revision: str | None = None
    """the hub commit; needed for weights from a hub"""
    width: Count = 768
    """numbers per frame, checked against the weights"""
    region: Region = "picture"
    """the speaker's whole picture, or the face in it"""
    every: Count = 1
    """use each n-th frame"""
    batch: Count = 64
    """frames at once through the network"""
    precision: Precision = "fp32"
    """the arithmetic of the forward pass"""
    device: Device = "auto"
    """where it runs; auto: a GPU where there is one"""


class ClipImages(FrameNetwork):
    """CLIP's projected image embedding per frame (open_clip)."""

    made_by: ClassVar[str] = "frame_networks.ClipEncoder"
    encoder: Literal["clip"]
    pretrained: str | None = None
    """a hub repository of open_clip weights, or a local .safetensors file"""


class Expression(FrameNetwork):
    """What an image-classification network (transformers) hands its classifier, per frame; meant for expressions."""

    made_by: ClassVar[str] = "frame_networks.ExpressionEncoder"
    encoder: Literal["expression"]
    region: Region = "face"
    """the speaker's whole picture, or the face in it"""


class Hog(Strict):
    """Histograms of oriented gradients per frame (weight-free)."""

    kind: ClassVar[Kind] = "picture"
    made_by: ClassVar[str] = "pictures.HogEncoder"
    encoder: Literal["hog"]
    size: Count = 64
    """pixels of each side that the picture is brought to"""
    cell: Count = 8
    """pixels of each side of a cell"""
    orientations: Count = 8
    """orientations, each a number per cell"""
    region: Region = "picture"
    """the speaker's whole picture, or the face in it"""
    every: Count = 1
    """use each n-th frame"""


class Frames(Strict):
    """The pictures themselves, for a network that is trained on them."""

    kind: ClassVar[Kind] = "picture"
    made_by: ClassVar[str] = "pictures.FramesEncoder"
    encoder: Literal["frames"]
    frames: Count = 30
    """how many, spread evenly over the utterance"""
    size: Count = 224
    """pixels of each side"""
    region: Region = "face"
    """the speaker's whole picture, or the face in it"""


class Imported(Strict):
    """Features made elsewhere: one .npy of shape (T, D) per utterance."""

    kind: ClassVar[Kind] = "numbers"
    made_by: ClassVar[str] = "imported.ImportedFeatures"
    encoder: Literal["imported"]
    folder: str
    """where the files lie; $NAME is taken from the environment"""
    pattern: str = "{utterance}.npy"
    """a file's place below the folder; may name any text column of the manifest"""
    width: Count
    """numbers per frame, checked in every file"""


# a new encoder is a class above and its name here, and the class that `made_by` names
Features = Annotated[
    LogMel | Mfcc | Waveform | WavLM | ClipImages | Expression | Hog | Frames | Imported,
    Field(discriminator="encoder"),
]
