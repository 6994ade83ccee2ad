"""What a puppet's sound and picture show: displays on the plane of arousal and valence, with a known best score.

Four emotions stand at the corners of the plane. In every utterance each modality shows its own *display*: on either
axis the right sign, nothing clear (0), or the wrong sign, with a corpus's own `Chances`. Sound tells arousal better
than valence, the face the reverse, so neither is enough and fusion pays; `ceilings` says by how much.
"""

from dataclasses import dataclass

import numpy as np

CORNERS = {"hap": (1, 1), "ang": (1, -1), "sad": (-1, -1), "neu": (-1, 1)}  # class -> arousal, valence
PRIORS = {"hap": 0.30, "ang": 0.20, "sad": 0.20, "neu": 0.30}  # IEMOCAP's four classes, rounded


@dataclass(frozen=True)
class Chances:
    """How a corpus's displays are drawn: chances to be right, unclear, wrong on an axis, and what covers both axes."""

    strong: tuple[float, float, float]  # on the axis that the modality tells well
    audio: tuple[float, float, float]  # on the other one
    video: tuple[float, float, float]
    masked: float  # the modality shows nothing at all
    contradicts: float  # it shows the opposite corner


WRONG = Chances((0.96, 0.03, 0.01), (0.60, 0.25, 0.15), (0.64, 0.21, 0.15), masked=0.05, contradicts=0.01)
"""Displays are often wrong. The clip of another emotion that fits a display best then shows that very display, and
no classifier can tell it from the clip's own partner: matching with the hardest negatives cannot be learned."""
UNCLEAR = Chances((0.97, 0.03, 0.0), (0.75, 0.25, 0.0), (0.75, 0.25, 0.0), masked=0.02, contradicts=0.0)
"""Displays are unclear, never wrong: what two modalities show together tells whether they belong together."""


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


def display_table(modality: str, c: Chances) -> dict[str, np.ndarray]:
    """Return P(display | class) of "audio" or "video": class -> (3, 3), arousal by valence in (-1, 0, 1)."""
    table = {}
    for label, corner in CORNERS.items():
        chances = (c.strong, c.audio) if modality == "audio" else (c.video, c.strong)
        axes = [np.array(p[::-1] if sign > 0 else p) for p, sign in zip(chances, corner, strict=True)]
        cells = (1 - c.masked - c.contradicts) * np.outer(*axes)
        cells[1, 1] += c.masked
        cells[1 - corner[0], 1 - corner[1]] += c.contradicts
        table[label] = cells
    return table


def ceilings(chances: Chances, priors: dict[str, float] = PRIORS) -> dict[str, float]:
    """Return the Bayes-optimal accuracy (0..1) of "audio", "video", "both", over all 9, 9 and 81 displays."""
    prior = np.array([priors[label] for label in CORNERS])
    tables = {m: display_table(m, chances) for m in ("audio", "video")}
    audio, video = (np.stack([table[label].ravel() for label in CORNERS]) for table in tables.values())
    return {
        "audio": float((prior[:, None] * audio).max(0).sum()),
        "video": float((prior[:, None] * video).max(0).sum()),
        "both": float(np.einsum("k,ki,kj->kij", prior, audio, video).max(0).sum()),
    }


def draw_display(rng: np.random.Generator, label: str, modality: str, chances: Chances) -> tuple[float, float]:
    """Draw what a modality displays, (arousal, valence): of -1, 0, 1 for the four classes, else any point."""
    label = "hap" if label == "exc" else label
    if label == "fru":
        return tuple(np.clip(rng.normal((0.4, -0.6), 0.25), -1, 1).tolist())
    if label == "sur":
        return tuple(np.clip(rng.normal((0.9, 0.0), 0.25), -1, 1).tolist())
    cells = display_table(modality, chances)[label].ravel() if label in CORNERS else np.full(9, 1 / 9)
    arousal, valence = divmod(int(rng.choice(9, p=cells)), 3)
    return arousal - 1, valence - 1


def display_tables(names: dict[str, str], chances: Chances) -> dict:
    """Return both display tables for a card, the classes called by `names`."""
    return {
        "axes": "class -> rows arousal -1, 0, 1; columns valence -1, 0, 1; P(display | class)",
        **{
            m: {names[label]: np.round(cells, 6).tolist() for label, cells in display_table(m, chances).items()}
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
