"""Where the face is in each frame of a clip: dlib's detector, steadied over time, as squares inside the picture.

The detector looks for upright faces from the front and both sides (histograms of oriented gradients, Dalal and
Triggs 2005); its weights are part of the library.
"""

import threading
from collections.abc import Iterable

import dlib
import numpy as np
import pandas as pd
from PIL import Image

SHORT_SIDE = 400  # pixels a picture is brought to: faces of 80 and more are found, 51 in IEMOCAP's 256
EVERY, SMOOTH, MARGIN = 5, 5, 0.2
THINNEST = 20  # times as long as wide: no picture of a person, and brought to SHORT_SIDE it would fill the memory
_own = threading.local()
IDENTITY = {
    "detector": f"dlib {dlib.__version__}, faces 2",  # raise the number when a change here moves a box
    "short_side": SHORT_SIDE,
    "every": EVERY,
    "smooth": SMOOTH,
    "margin": MARGIN,
}


def detect(picture: np.ndarray, short_side: int = SHORT_SIDE) -> tuple[float, float, float] | None:
    """The surest face of an RGB picture `(H, W, 3)`: its centre x, y and its side in pixels, or None.

    The side reaches from the eyebrows to the chin.
    """
    height, width = picture.shape[:2]
    if max(height, width) > THINNEST * min(height, width):
        return None
    scale = short_side / min(height, width)
    small = Image.fromarray(picture).resize((round(width * scale), round(height * scale)), Image.BICUBIC)
    boxes, scores, _ = _detector().run(np.asarray(small), 0, 0.0)
    if not boxes:
        return None
    box = boxes[int(np.argmax(scores))]
    x, y = (box.left() + box.right() + 1) / 2, (box.top() + box.bottom() + 1) / 2
    return x / scale, y / scale, box.width() / scale


def track(
    pictures: Iterable[np.ndarray], *, every: int = EVERY, smooth: int = SMOOTH, margin: float = MARGIN
) -> tuple[np.ndarray, np.ndarray]:
    """Square face boxes `(T, 4)` (x, y, width, height in whole pixels) and where one was found, `(T,)` bool.

    Each `every`-th picture is looked at. Where no face is found the nearest found one in time stands in; a running
    median, then a running mean, of `smooth` looks steadies them, and pictures in between are interpolated. `margin`
    is added on each side, as a share of the face's side. A box never leaves the picture. Without any face the
    boxes are zeros.
    """
    looks, count = [], 0
    for count, picture in enumerate(pictures, 1):
        if (count - 1) % every == 0:
            looks.append(detect(picture))
    times, frames = every * np.arange(len(looks)), np.arange(count)
    hit = np.array([face is not None for face in looks])
    found = hit[np.abs(frames[:, None] - times).argmin(1)]
    if not hit.any():
        return np.zeros((count, 4), int), found
    known = times[hit]
    stand_in = np.abs(times[:, None] - known).argmin(1)
    faces = pd.DataFrame([face for face in looks if face is not None]).iloc[stand_in]  # (looks, 3)
    window = {"window": smooth, "center": True, "min_periods": 1}
    steady = faces.rolling(**window).median().rolling(**window).mean().to_numpy()
    x, y, side = (np.interp(frames, times, column) for column in steady.T)
    height, width = picture.shape[:2]
    side = np.minimum((1 + 2 * margin) * side, min(height, width)).round()
    left = (x - side / 2).round().clip(0, width - side)
    top = (y - side / 2).round().clip(0, height - side)
    return np.stack([left, top, side, side], 1).astype(int), found


def cut(picture: np.ndarray, box, size: int) -> np.ndarray:
    """A box (x, y, width, height) of an RGB picture, resized to `(size, size, 3)` (bicubic, antialiased)."""
    x, y, width, height = map(int, box)
    crop = Image.fromarray(picture[y : y + height, x : x + width])
    return np.asarray(crop.resize((size, size), Image.BICUBIC))


def _detector():
    # One a thread: dlib lets threads run at once, and what two of them do to one detector gives wrong boxes.
    if not hasattr(_own, "detector"):
        _own.detector = dlib.get_frontal_face_detector()
    return _own.detector
