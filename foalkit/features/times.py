"""When the frames of a stream are: seconds from the start of their utterance."""

import math
from pathlib import Path

import numpy as np

from foalkit.features import media
from foalkit.params import Params
from foalkit.params.encoders import Features
from foalkit.params.schema import Clip


def used_part(spec: Features, clip: Clip, length: float) -> tuple[float, float]:
    """From where to where an utterance of `length` seconds is used by an encoder, in seconds from its start."""
    if getattr(spec, "seconds", None) is not None:  # it says itself which part
        return spec.start, spec.start + spec.seconds
    return clip.window(length)


def frame_times(params: Params, stream: str, turn: dict, root: Path, count: int) -> tuple[np.ndarray, float]:
    """When the `count` frames of a stream that leave its input layer are `(count,)`, and how far apart, in seconds.

    `turn` is a row of the manifest, `root` its corpus. A frame of sound is at the middle of its window, a picture at
    the moment it is first shown. Features made elsewhere that do not say when they are (`step`) are taken as evenly
    spread, and counted, a second each, where it is not known how long the utterance lasts either.
    Raises MediaError for a video that cannot be opened.
    """
    spec, layer = params.features[stream], params.model.inputs.get(stream)
    length = turn["end"] - turn["start"]
    start, end = used_part(spec, params.clip, length)
    stride = getattr(layer, "stride", 1)
    if step := getattr(layer, "step", None):  # a WavLM that is trained with the rest
        first = start + layer.first
    elif step := getattr(spec, "step", None):
        first, step = start + spec.first, step * stride
    elif every := getattr(spec, "every", None):
        number, rate = media.first_frame(root / turn["video"], turn["start"] + start)
        first, step = float(number / rate) - turn["start"], float(every * stride / rate)
    else:
        step = 1.0 if math.isnan(length) else (min(end, length) - start) / count
        first = start + step / 2
    return first + step * np.arange(count), step
