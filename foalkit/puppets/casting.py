"""More speakers than the ten that are written out: seeded variations of their looks and voices."""

from dataclasses import replace

import numpy as np

from foalkit.puppets.looks import LOOKS, Look
from foalkit.puppets.voices import VOICES, Voice


def varied(
    rng: np.random.Generator, sex: str, n: int, *, light: float = 1.0, cloth: str | None = None
) -> tuple[Look, Voice]:
    """Return the n-th look and voice of a sex ("F" or "M", n from 0): those of one of its five speakers, varied.

    No two of the first 25 share speaker and hair. `light` below 1 brightens the skin; `cloth` (hex) stands for the
    speaker's own.
    """
    names = [name for name in LOOKS if name[5] == sex]
    styles = sorted({LOOKS[name].style for name in names})
    turn, base = divmod(n, 5)
    look, voice = LOOKS[names[base]], VOICES[names[base]]
    look = replace(
        look,
        skin=_tinted(look.skin, rng.uniform(0.9, 1.02), light=light),
        hair=_tinted(look.hair, rng.uniform(0.75, 1.25)),
        cloth=_tinted(cloth or look.cloth, rng.uniform(0.7, 1.3)),
        style=styles[(base + turn) % len(styles)],
        width=look.width + rng.normal(0, 0.02),
        jaw=look.jaw + rng.normal(0, 0.03),
        eyes=look.eyes + rng.normal(0, 0.03),
        brows=look.brows * rng.uniform(0.9, 1.15),
        beard=sex == "M" and rng.random() < 0.35,
        glasses=rng.random() < 0.2,
    )
    voice = Voice(
        f0=voice.f0 * 2 ** (rng.normal(0, 0.8) / 12),
        tract=voice.tract * rng.normal(1, 0.012),
        tempo=voice.tempo * rng.normal(1, 0.03),
        tilt=voice.tilt + rng.normal(0, 0.2),
    )
    return look, voice


def _tinted(colour: str, factor: float, light: float = 1.0) -> str:
    """Scale a colour's channels by `factor`, and its luminance Y by the power `light` (below 1: brighter)."""
    channels = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)])
    luminance = (channels * (0.299, 0.587, 0.114)).sum() / 255
    channels = channels * factor * luminance ** (light - 1)
    return "#" + "".join(f"{int(c):02x}" for c in channels.clip(0, 255))
