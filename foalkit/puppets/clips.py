"""One puppet's utterance in memory: what is heard and what is seen, with no file between."""

from typing import NamedTuple

import numpy as np

from foalkit.puppets.acting import perform
from foalkit.puppets.faces import Portrait
from foalkit.puppets.looks import LOOKS
from foalkit.puppets.voices import HOP, RATE, VOICES, speak

PANEL = (224, 224)  # rows and columns of a picture
FPS = 8  # pictures a second: enough to see a mouth move, few enough to draw dozens of clips in seconds


class Clip(NamedTuple):
    """`sound` `(S,)` float32 at 16 kHz, and `pictures` `(T, 224, 224, 3)` uint8, 8 a second."""

    speaker: str
    sound: np.ndarray
    pictures: np.ndarray


def act(
    rng: np.random.Generator, speaker: str, voice: tuple[float, float], face: tuple[float, float], *, seconds: float
) -> Clip:
    """One of the ten speakers says nonsense for so many seconds.

    `voice` and `face` are what each of them shows, (arousal, valence) in [-1, 1]; no two takes of it are alike.
    """
    (a1, v1), (a2, v2) = (rng.uniform(0.85, 1) * np.array(shown) + rng.normal(0, 0.07, 2) for shown in (voice, face))
    sound, track = speak(rng, VOICES[speaker], seconds=seconds, arousal=a1, valence=v1)
    frames = int(seconds * FPS)
    times, clock = np.arange(frames) / FPS, np.arange(len(track)) * HOP / RATE
    mouth = np.stack([np.interp(times, clock, part) for part in track.T], 1)
    controls = perform(rng, times, [(0, frames, a2, v2)], mouth)
    portrait = Portrait(LOOKS[speaker], PANEL)
    return Clip(speaker, sound, np.stack([portrait.draw(c)[0].copy() for c in controls]))
