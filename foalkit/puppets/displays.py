"""What a puppet's sound and picture show: displays on the plane of arousal and valence, with a known best score.

Four emotions stand at the corners of the plane. In every utterance each modality shows its own *display*: on either
axis the right sign, nothing clear (0), or the wrong sign. Sound tells arousal better than valence, the face the
reverse, so neither is enough and fusion pays; `ceilings` says by how much.
"""

from dataclasses import dataclass

import numpy as np

CORNERS = {"hap": (1, 1), "ang": (1, -1), "sad": (-1, -1), "neu": (-1, 1)}  # class -> arousal, valence
PRIORS = {"hap": 0.30, "ang": 0.20, "sad": 0.20, "neu": 0.30}  # IEMOCAP's four classes, rounded
STRONG = (0.96, 0.03, 0.01)  # a display's chance to be right, unclear, wrong on the axis its modality tells well ...
WEAK = {"audio": (0.60, 0.25, 0.15), "video": (0.64, 0.21, 0.15)}  # ... and on the other one
MASKED = 0.05  # the modality shows nothing at all
CONTRADICTS = 0.01  # it shows the opposite corner


@dataclass(frozen=True)
class Turn:
    """One utterance: label, times in seconds, each modality's display as (arousal, valence) in [-1, 1]."""

    utterance: str
    speaker: str
    label: str
    start: float
    end: float
    audio: tuple[float, float]
    video: tuple[float, float]
    intensity: float


def display_table(modality: str) -> dict[str, np.ndarray]:
    """Return P(display | class) of "audio" or "video": class -> (3, 3), arousal by valence in (-1, 0, 1)."""
    table = {}
    for label, corner in CORNERS.items():
        chances = (STRONG, WEAK["audio"]) if modality == "audio" else (WEAK["video"], STRONG)
        axes = [np.array(c[::-1] if sign > 0 else c) for c, sign in zip(chances, corner, strict=True)]
        cells = (1 - MASKED - CONTRADICTS) * np.outer(*axes)
        cells[1, 1] += MASKED
        cells[1 - corner[0], 1 - corner[1]] += CONTRADICTS
        table[label] = cells
    return table


def ceilings(priors: dict[str, float] = PRIORS) -> dict[str, float]:
    """Return the Bayes-optimal accuracy (0..1) of "audio", "video", "both", over all 9, 9 and 81 displays."""
    prior = np.array([priors[label] for label in CORNERS])
    audio, video = (np.stack([display_table(m)[label].ravel() for label in CORNERS]) for m in ("audio", "video"))
    return {
        "audio": float((prior[:, None] * audio).max(0).sum()),
        "video": float((prior[:, None] * video).max(0).sum()),
        "both": float(np.einsum("k,ki,kj->kij", prior, audio, video).max(0).sum()),
    }


def draw_display(rng: np.random.Generator, label: str, modality: str) -> tuple[float, float]:
    """Draw what a modality displays, (arousal, valence): of -1, 0, 1 for the four classes, else any point."""
    label = "hap" if label == "exc" else label
    if label == "fru":
        return tuple(np.clip(rng.normal((0.4, -0.6), 0.25), -1, 1).tolist())
    if label == "sur":
        return tuple(np.clip(rng.normal((0.9, 0.0), 0.25), -1, 1).tolist())
    cells = display_table(modality)[label].ravel() if label in CORNERS else np.full(9, 1 / 9)
    arousal, valence = divmod(int(rng.choice(9, p=cells)), 3)
    return arousal - 1, valence - 1


def display_tables(names: dict[str, str]) -> dict:
    """Return both display tables for a card, the classes called by `names`."""
    return {
        "axes": "class -> rows arousal -1, 0, 1; columns valence -1, 0, 1; P(display | class)",
        **{
            m: {names[label]: np.round(cells, 6).tolist() for label, cells in display_table(m).items()}
            for m in ("audio", "video")
        },
    }


def display_row(turn: Turn) -> dict:
    """Return a row of displays.csv."""
    return {
        "utterance": turn.utterance, "emotion": turn.label, "audio_arousal": round(turn.audio[0], 3),
        "audio_valence": round(turn.audio[1], 3), "video_arousal": round(turn.video[0], 3),
        "video_valence": round(turn.video[1], 3), "intensity": round(turn.intensity, 3),
    }  # fmt: skip
