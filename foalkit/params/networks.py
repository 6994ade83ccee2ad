"""The sizes and switches of Foal-Net, of its input layers and of CFN-SR."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from foalkit.params.encoders import WavLMWeights
from foalkit.params.strict import Count, Few, Share, Stream, Strict


class NoInput(Strict):
    """The stream enters the fusion as it is."""

    kind: Literal["none"]


class LinearInput(Strict):
    """A linear layer per frame between a stream's features and the fusion."""

    kind: Literal["linear"]
    width: Count = Field(description="numbers per frame that come out")


class ConvInput(Strict):
    """1-D convolutions over time between a stream's features and the fusion."""

    kind: Literal["conv"]
    width: Count = Field(description="numbers per frame that come out")
    layers: Few = Field(3, description="how many convolutions")
    stride: Few = Field(4, description="frames that enter for one that comes out, a power of two")
    kernel: Few = Field(5, description="frames that a convolution sees")
    dropout: Share = Field(0.1, description="share of numbers set to zero after each convolution, in training")


class FineTuned(WavLMWeights):
    """A WavLM (transformers) trained with the rest on the `waveform` feature, its CNN front end frozen."""

    kind: Literal["wavlm"]
    normalise: bool = Field(False, description="zero mean and unit deviation per clip; the released code does not")
    checkpointing: bool = Field(False, description="less memory for a third more time")


InputLayer = Annotated[NoInput | LinearInput | ConvInput | FineTuned, Field(discriminator="kind")]


class Model(Strict):
    """Foal-Net's sizes (paper section 2 and released code)."""

    layers: Few = Field(2, description="layers of each cross-attention stack")
    heads: Few = Field(4, description="attention heads; they divide the streams' widths")
    dropout: Share = Field(0.1, description="share of numbers set to zero in the fusion, in training")
    projection_dim: Count = Field(512, description="width of AVEL's space")
    projection_dropout: Share = Field(0.5, description="the same in AVEL's projections")
    inputs: dict[Stream, InputLayer] = Field({}, description="the input layer of each stream that has one")


class CfnSr(Strict):
    """CFN-SR's switches (spec sections 3 and 6); the stem sizes follow the `frames` and `mfcc` features."""

    block: bool = Field(True, description="the cross-modal block; without it the branches are only spliced")
    residual: bool = Field(True, description="add the video branch to what the block makes of it")
    batch_summed_attention: bool = Field(False, description="the released code's maps, summed over the batch")
    crop: tuple[float, float] = Field(
        (0.8, 1.4), strict=False, description="the random crop's share; above 1 it is the whole"
    )
    flip: Share = Field(0.5, description="chance that a clip is mirrored")

    @field_validator("crop")
    @classmethod
    def _is_a_range(cls, value):
        if not 0 < value[0] <= value[1] <= 10:
            raise ValueError("must be a range [low, high] above 0, up to 10")
        return value
