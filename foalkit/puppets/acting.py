"""How a puppet moves: facial actions and poses over time, from displays and the mouth of its voice."""

import numpy as np

ACTIONS = (  # facial actions, 0 = relaxed, 1 = full; in brackets the action units they stand for
    "inner", "outer", "knit",  # brows: inner end up or down (1/4), outer end (2), drawn together (4)
    "wide", "droop", "squint", "blink", "gaze_x", "gaze_y",  # eyes (5, 43, 6+7, 45, 61-64)
    "smile", "frown", "jaw", "stretch", "lips", "upper", "press", "pout",  # 12, 15, 26, 20, 18, 10, 24, 17
    "wrinkle", "blush",  # nose (9), cheeks
)  # fmt: skip
POSE = ("tilt", "turn", "nod", "sway", "rise", "shoulders", "lean")  # radians, then face units
CONTROLS = ACTIONS + POSE
_CORNERS = {  # (arousal, valence) -> controls of the prototype there; what is not named is 0
    (1, 1): dict(inner=0.5, outer=0.75, squint=0.7, smile=1.0, stretch=0.55, jaw=0.3, upper=0.55,
                 blush=1.0, nod=0.14, rise=0.06, shoulders=0.35, tilt=0.07, gaze_y=0.1),
    (1, -1): dict(inner=-1.0, outer=0.45, knit=1.0, wide=0.55, squint=0.35, frown=0.5, stretch=0.35,
                  upper=0.75, jaw=0.1, wrinkle=1.0, blush=0.5, nod=-0.14, shoulders=0.65, lean=0.07),
    (-1, -1): dict(inner=1.0, outer=-0.6, knit=0.35, droop=0.75, frown=1.0, pout=0.9, press=0.2, gaze_y=-0.7,
                   nod=-0.12, tilt=-0.12, rise=-0.1, shoulders=-0.7, lean=-0.02),
    (-1, 1): dict(inner=-0.1, outer=-0.2, smile=0.3, droop=0.3, press=0.35, shoulders=-0.4, rise=-0.04),
}  # fmt: skip


def expression(arousal: float, valence: float) -> np.ndarray:
    """Return the controls (len(CONTROLS),) at a point of the plane: its four corners' prototypes blended."""
    shares = [(1 + a * arousal) * (1 + v * valence) / 4 for a, v in _CORNERS]
    return product(shares, [[corner.get(name, 0.0) for name in CONTROLS] for corner in _CORNERS.values()])


def product(a, b) -> np.ndarray:
    """Return `a @ b` as NumPy itself adds it up: a library of matrix products adds otherwise on another processor."""
    return np.einsum("...i,ij->...j", a, b, optimize=False)


def perform(rng: np.random.Generator, times: np.ndarray, turns: list[tuple], mouth: np.ndarray) -> np.ndarray:
    """Act one speaker's part of a dialogue.

    `times` (frames,) in seconds; `turns` = (first frame, end frame, arousal, valence) of each turn; `mouth`
    (frames, 2) the voice's opening and lips. Returns controls (frames, len(CONTROLS)): rest outside the
    turns, within a turn its expression from the very first frame, growing to its apex.
    """
    frames = len(times)
    fps = (frames - 1) / (times[-1] - times[0])
    rest = 0.6 * expression(-0.6, 0.7)
    controls = np.tile(rest, (frames, 1))
    column = {name: i for i, name in enumerate(CONTROLS)}
    excited = np.zeros(frames)
    for first, end, arousal, valence in turns:
        apex = expression(arousal, valence)
        tail = min(end + 8, frames)
        clock = np.arange(first, tail) - first
        amount = 0.55 + 0.45 * np.minimum(clock / 5, 1)
        amount = np.where(clock < end - first, amount, 0.7 * (1 - (clock - (end - first)) / 8))
        controls[first:tail] = rest + amount[:, None] * (apex - rest)
        excited[first:end] = 0.45 + 0.45 * arousal
    # Head: slow wandering for everyone, beats with the voice for the one who speaks, larger when aroused.
    for name, size, hertz in (("tilt", 0.025, 0.23), ("turn", 0.05, 0.17), ("nod", 0.02, 0.31), ("sway", 0.03, 0.13)):
        controls[:, column[name]] += size * np.sin(2 * np.pi * (hertz * times + rng.random()))
    beat = np.sin(2 * np.pi * (2.1 * times + rng.random()))
    controls[:, column["nod"]] += 0.05 * excited * beat
    controls[:, column["rise"]] += 0.03 * excited * np.abs(beat)
    controls[:, column["tilt"]] += 0.03 * excited * np.sin(2 * np.pi * 1.3 * times)
    # Blinks, and looks aside that last about a second.
    at = rng.uniform(0.3, 3)
    while at < times[-1]:
        k = int(at * fps)
        blink = np.array([0.5, 1.0, 1.0, 0.5])[: frames - k]
        controls[k : k + 4, column["blink"]] = blink
        at += rng.uniform(1.6, 4.5)
    at = 0.0
    while at < times[-1]:
        k, length = int(at * fps), int(rng.uniform(0.6, 1.6) * fps)
        controls[k : k + length, column["gaze_x"]] += rng.normal(0, 0.3)
        controls[k : k + length, column["gaze_y"]] += rng.normal(0, 0.12)
        at += length / fps
    controls[:, column["jaw"]] += mouth[:, 0] * (0.5 + 0.3 * excited)
    controls[:, column["lips"]] += mouth[:, 1] * np.minimum(2 * mouth[:, 0], 1) * 0.6
    return controls
