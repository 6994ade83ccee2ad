"""Sizes that the params alone tell to be wrong: said before any recording is opened, by a key that is there."""

import typing

from foalkit import UserError
from foalkit.params.encoders import Features

if typing.TYPE_CHECKING:
    from foalkit.params.schema import Params


def check_sizes(params: "Params", variant: str, where: str) -> None:
    """Raise UserError where a stream's width or input layer does not fit the variant's network.

    `params` are the variant's own (`Params.for_variant`), `where` begins the line. A width that only the features
    tell is looked at when they are there.
    """
    row, heads = params.variants[variant], params.model.heads
    for stream in row.streams if row.network == "foal-net" else ():
        layer, spec = params.model.inputs.get(stream), params.features[stream]
        key, kind = f"{where}, variant {variant}: model.inputs.{stream}", layer.kind if layer else "none"
        if kind == "wavlm" and spec.encoder != "waveform":
            raise UserError(f"{key}: a trained WavLM reads samples: set features.{stream} to {{encoder: waveform}}")
        if kind == "conv" and (layer.kernel < 3 or layer.kernel % 2 == 0):
            raise UserError(f"{key}.kernel: must be odd and at least 3, not {layer.kernel}")
        if kind == "conv" and (layer.stride & (layer.stride - 1) or layer.stride > 2**layer.layers):
            most = f"2^layers = {2**layer.layers}"
            raise UserError(f"{key}.stride: must be a power of two up to {most}, not {layer.stride}")
        width = frame_width(spec) if kind == "none" else layer.width
        if len(row.streams) > 1 and width and width % heads:
            does_not = f"which model.heads = {heads} do not divide"
            if kind == "none":
                raise UserError(
                    f"{where}, variant {variant}: features.{stream} are {width} numbers per frame, {does_not}: "
                    f"set model.inputs.{stream} to {{kind: linear, width: {16 * heads}}}"
                )
            raise UserError(f"{key}.width: is {width}, {does_not}: set it to {heads * -(-width // heads)}")


def frame_width(spec: Features) -> int | None:
    """How many numbers a frame of an encoder's features has; None where the params do not tell."""
    known = {
        "log-mel": lambda: spec.bands,
        "mfcc": lambda: spec.coefficients,
        "waveform": lambda: 1,
        "hog": lambda: (spec.size // spec.cell) ** 2 * spec.orientations,
        "frames": lambda: spec.size**2 * 3,
        "resemblyzer": lambda: 256,
        "fer": lambda: 128 if spec.output == "features" else 7,
        "efficientnet-lite0": lambda: 1280,
    }
    return known[spec.encoder]() if spec.encoder in known else getattr(spec, "width", None)
