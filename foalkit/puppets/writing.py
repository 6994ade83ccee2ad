"""What both generated corpora need to be written: all at once or not at all, in several processes."""

import csv
import json
import multiprocessing
import shutil
import wave
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np

from foalkit.files import read_mapping, whole
from foalkit.progress import progress
from foalkit.puppets.voices import RATE

LICENCE = "Generated from numbers alone; no rights reserved (CC0 1.0)."
FPS = Fraction(30000, 1001)


def write_once(root: Path, identity: dict, write: Callable[[Path], dict]) -> dict:
    """Have `write` fill a folder that then becomes `root`, unless a corpus of this identity is there already.

    `identity` holds a corpus's name, version and parameters; `write` leaves a card.json with them in the
    folder it is given and returns the card. A corpus of the same name but another identity is replaced.
    Raises FileExistsError if `root` holds anything else.
    """
    root = Path(root)
    card = root / "card.json"
    try:
        found = read_mapping(card)
    except (OSError, ValueError):  # not there, or not whole
        found = {}
    if found.get("name") == identity["name"]:
        if identity.items() <= found.items():
            return found
    elif root.exists() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty and holds no demo corpus: choose another folder")
    with whole(root) as part:
        part.mkdir()
        written = write(part)
        if root.exists():
            shutil.rmtree(root)
    return written


def in_processes(function: Callable, part: Path, items: list, workers: int) -> list:
    """Return `function((part, item))` of every item, worked on by so many processes, with a progress line."""
    jobs = [(part, item) for item in items]
    if workers <= 1:
        return list(progress(map(function, jobs), "demo corpus", total=len(jobs)))
    # spawn: a notebook's kernel has threads, which fork does not survive, and macOS has no safe fork at all.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(progress(pool.map(function, jobs), "demo corpus", total=len(jobs)))


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows that have the same keys, with a header."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_card(part: Path, card: dict, readme: str) -> dict:
    """Write a corpus's card.json and README.txt and return the card."""
    (part / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (part / "README.txt").write_text(readme, encoding="utf-8")
    return card


def write_wav(path: Path, sound: np.ndarray, rate: int = RATE) -> None:
    """Write sound `(S,)` or `(S, channels)` in [-1, 1] as 16-bit PCM at `rate` Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if sound.ndim == 1 else sound.shape[1], 2, rate, len(sound), "NONE", ""))
        file.writeframes(sixteen_bit(sound).tobytes())


def sixteen_bit(sound: np.ndarray) -> np.ndarray:
    """16-bit PCM of sound in [-1, 1]."""
    return np.round(sound * 32767).astype("<i2")  # voices stay within ±0.45 each, so two and the room fit
