"""Pictures of the recordings themselves: who is seen, what is heard, how long it lasts."""

import io
import math
import wave
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from foalkit.features import media
from foalkit.params.schema import Clip
from foalkit.report.figures import AUDIO, INK, MUTED, PUBLISHED


def contact_sheet(
    table: pd.DataFrame, root: Path, classes: list[str], column: str = "crop", per_class: int = 6, size: int = 128
) -> Figure:
    """The middle frame of some utterances per class, cropped as training sees them: is it the right person?

    `column` is the manifest's box, `crop` or `face`; a face that it does not know is looked for, and its place
    stays empty where none is found, as that of a film that cannot be read and of a class without utterances.
    """
    figure = Figure(figsize=(1.25 * per_class, 1.4 * len(classes)))
    axes = figure.subplots(len(classes), per_class, squeeze=False)
    for row, emotion in zip(axes, classes, strict=True):
        for ax in row:
            ax.axis("off")
        # one per speaker first, so that the sheet shows as many faces as it can
        part = table[(table["emotion"] == emotion) & (table["video"] != "")]
        speakers = part[part["end"] - part["start"] > 0.3].groupby("speaker")
        part = speakers.nth(1) if (speakers.size() > 1).any() else speakers.nth(0)
        for ax, turn in zip(row, part.head(per_class).to_dict("records"), strict=False):
            try:
                picture = _middle(turn, root / turn["video"], column, size)
            except media.MediaError:  # no stream is made of films: nobody has read this one before
                picture = None
            if picture is not None:
                ax.imshow(picture)
            ax.set_title(turn["speaker"], fontsize=7, color=MUTED, pad=2)
        row[0].text(-0.12, 0.5, emotion, rotation=90, va="center", ha="right", transform=row[0].transAxes, color=INK)
    return figure


def _middle(turn: dict, file: Path, column: str, size: int) -> np.ndarray | None:
    middle = (turn["start"] + min(turn["end"], turn["start"] + 4)) / 2
    box = turn[column]
    if column == "face" and box is None:
        from foalkit.features import faces

        crop = None if turn["crop"] is None else tuple(turn["crop"])
        frame = next(media.iter_frames(file, middle, crop=crop))
        boxes, found = faces.track([frame])
        return faces.cut(frame, boxes[0], size) if found[0] else None
    crop = None if box is None else media.square(box) if column == "face" else tuple(box)
    return next(media.iter_frames(file, middle, size=size, crop=crop))


def heard(turn: dict, root: Path, start: float = 0.0, end: float = math.inf) -> np.ndarray:
    """The samples `(S,)` at 16 kHz of an utterance (a manifest's row), from `start` to `end` seconds of it.

    Its own segment alone, where its file holds more than it. Raises MediaError for a file that cannot be read.
    """
    if (begins := turn.get("audio_from")) is not None:
        start, end = begins + start, begins + min(end, turn["end"] - turn["start"])
    return media.read_audio(root / turn["audio"], start, end)


def playable(turn: dict, root: Path) -> tuple[str, bytes]:
    """An utterance's sound as a browser plays it: its format and bytes, the file's own where that holds nothing else.

    Raises MediaError for a segment that cannot be read.
    """
    if not turn["audio"]:
        return "wav", b""
    file = root / turn["audio"]
    if "audio_from" not in turn:
        return file.suffix.lower().removeprefix("."), file.read_bytes()
    written = io.BytesIO()
    with wave.open(written, "wb") as out:
        out.setparams((1, 2, media.SAMPLE_RATE, 0, "NONE", ""))
        out.writeframes(np.rint(heard(turn, root).clip(-1, 1) * 32767).astype("<i2").tobytes())
    return "wav", written.getvalue()


def waveforms(table: pd.DataFrame, root: Path, classes: list[str], clip: Clip) -> Figure:
    """One utterance per class, the part that is used: waveform above log-mel spectrum (dB), on one time axis (s).

    The place of a class without one stays empty.
    """
    import librosa

    figure = Figure(figsize=(2.6 * min(len(classes), 4), 3.4 * -(-len(classes) // 4)), layout="constrained")
    grid = figure.subplots(2 * -(-len(classes) // 4), min(len(classes), 4), squeeze=False, sharey="row")
    for i, emotion in enumerate(classes):
        part = table[(table["emotion"] == emotion) & (table["audio"] != "")]
        wave, mel = grid[2 * (i // 4)][i % 4], grid[2 * (i // 4) + 1][i % 4]
        try:
            turn = part.iloc[len(part) // 2]
            samples = heard(turn.to_dict(), root, *clip.window(turn["end"] - turn["start"]))
        except (IndexError, media.MediaError):
            why = "cannot be read" if len(part) else "no utterance"
            wave.set_title(f"{emotion}\n({why})", fontsize=8)
            continue
        length = len(samples) / media.SAMPLE_RATE
        wave.plot(np.linspace(0, length, len(samples)), samples, lw=0.4, color=AUDIO)
        wave.set_title(f"{emotion}\n{turn['utterance']}", fontsize=8)
        power = librosa.feature.melspectrogram(y=samples, sr=media.SAMPLE_RATE, n_fft=512, hop_length=160, n_mels=64)
        mel.imshow(
            librosa.power_to_db(power, top_db=70),
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, length, 0, 64),
        )
        mel.set_xlabel("s")
        wave.tick_params(labelbottom=False)
    for ax in grid.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def moments(turns: list[dict], root: Path, size: int = 120, frames: int = 4) -> Figure:
    """Some frames of each turn, evenly over it, cropped to its speaker; `turns` are manifest rows with a `title`."""
    figure = Figure(figsize=(1.25 * frames + 2.6, 1.3 * len(turns)), layout="constrained")
    for row, turn in zip(figure.subplots(len(turns), frames, squeeze=False), turns, strict=True):
        crop = None if turn["crop"] is None else tuple(turn["crop"])
        for ax in row:
            ax.axis("off")
        pictures = media.read_frames(root / turn["video"], turn["start"], turn["end"], size=size, crop=crop)
        chosen = np.linspace(0, len(pictures) - 1, frames).round().astype(int)
        for ax, i in zip(row, chosen, strict=True):
            ax.imshow(pictures[i])
        row[0].text(
            -0.08, 0.5, turn["title"], ha="right", va="center", transform=row[0].transAxes, fontsize=8, color=INK
        )
    return figure


def lengths(table: pd.DataFrame, classes: list[str], clip: Clip) -> Figure:
    """Utterance lengths (s) per class, and where the clip cuts."""
    import seaborn as sns

    figure = Figure(figsize=(7, 0.45 * len(classes) + 1), layout="constrained")
    ax = figure.subplots()
    length = (table["end"] - table["start"]).rename("length")
    if length.isna().all():
        ax.set_title("how long utterances last is not known", fontsize=9)
        return figure
    sns.violinplot(
        x=length,
        y=table["emotion"],
        order=classes,
        ax=ax,
        color="#9fb3c8",
        cut=0,
        inner="quart",
        density_norm="width",
        linewidth=0.8,
    )
    if clip.part != "all":
        ax.axvline(clip.seconds, color=PUBLISHED, lw=1.2, ls="--")
        ax.text(clip.seconds, -0.55, f" clip of {clip.seconds:g} s", color=PUBLISHED, fontsize=8, va="bottom")
    ax.set(xlabel="utterance length in seconds", ylabel="")
    ax.spines[["top", "right"]].set_visible(False)
    return figure
