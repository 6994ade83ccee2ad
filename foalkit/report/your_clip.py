"""One clip and what a recognizer answers to it: played above its probabilities, what was looked at, what was hidden."""

import base64
import html
import io
import mimetypes
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from foalkit import Recognizer, UserError, one_line
from foalkit.corpora.manifest import corpus_root
from foalkit.features import media
from foalkit.params import load
from foalkit.recognizer.runs import run_folders, settings_of
from foalkit.report.figures import AUDIO, GRID, HUES, INK, VIDEO
from foalkit.results import records

LEFT, RIGHT = 0.08, 0.985  # where the time axis begins and ends, in shares of the picture's width: a line moves over it
WIDTH = 7.2  # inches
PLAYED = 40e6  # bytes of a file that is played in the page: it lies in the page itself
FRAMES = 5
# the demo, small enough to be made and trained in about a minute
SMALL = ["corpus.generate.turns_per_session=24", "training.epochs=40"]


def some_model(variant: str = "foal-net") -> Path:
    """The demo's run of the first fold; where it is not there, one of a quarter of the corpus, made and trained now."""
    for overrides in ([], SMALL):
        p = load("demo", overrides)
        folder = records.run_folder(p, "honest", variant, 1, 0)
        if (folder / "record.json").exists():
            return folder
    from foalkit.training import runs

    return runs.run(p, variant, 1, 0, "honest").parent


def film(run: Path, file: Path) -> list[str]:
    """Write a film of three turns of a generated speaker whom this run was not trained on; returns their emotions.

    The turns follow each other, each of another emotion, as people would send it: H.264 and AAC.
    """
    (record,) = (records.read_record(f / "record.json") | {"folder": f} for f in run_folders(run))
    p, _ = settings_of(record, run.parents[3])
    root, table = corpus_root(p), pd.read_parquet(p.folder / "manifest.parquet")
    tested = table[table[p.folds.by].isin(record["groups"]["test"])]
    tested = tested[tested["speaker"] == tested["speaker"].iloc[0]].assign(length=tested["end"] - tested["start"])
    chosen = tested.sort_values("length").drop_duplicates("emotion", keep="last")  # the longest of each
    chosen = chosen.tail(3).sort_values("emotion").to_dict("records")
    boxes = [tuple(map(int, turn["crop"])) for turn in chosen]
    pictures = [
        media.read_frames(root / turn["video"], turn["start"], turn["end"], crop=box)
        for turn, box in zip(chosen, boxes, strict=True)
    ]
    _, rate = media.first_frame(root / chosen[0]["video"])
    sounds = []
    for turn, seen in zip(chosen, pictures, strict=True):  # as long as its pictures
        heard, size = media.read_audio(root / turn["audio"]), round(len(seen) / rate * media.SAMPLE_RATE)
        sounds.append(np.pad(heard, (0, max(0, size - len(heard))))[:size])
    write_film(file, np.concatenate(pictures), np.concatenate(sounds), rate)
    return [turn["emotion"] for turn in chosen]


def write_film(file: Path, pictures: np.ndarray, sound: np.ndarray, fps: Fraction) -> None:
    """An MP4 that browsers play: RGB pictures `(T, H, W, 3)` uint8, mono samples `(S,)` at 16 kHz."""
    with av.open(str(file), "w") as container:
        options = {"crf": "18", "x264-params": "mbtree=0:cpu-independent=1"}
        video = container.add_stream("libx264", rate=fps, options=options)
        video.height, video.width, video.pix_fmt = *pictures.shape[1:3], "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=media.SAMPLE_RATE, layout="mono", bit_rate=96_000)
        for n, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = n, 1 / fps
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts, frame.time_base = media.SAMPLE_RATE, 0, Fraction(1, media.SAMPLE_RATE)
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


# ---- over time ------------------------------------------------------------------------------------------


def over_time(table: pd.DataFrame, classes: list[str], seconds: float) -> Figure:
    """Each class's probability at the middle of each window; the time axis lies where `player` moves its line."""
    figure = Figure(figsize=(WIDTH, 2.5))
    ax = figure.add_axes((LEFT, 0.28, RIGHT - LEFT, 0.66))
    middle = (table["start"] + table["end"]) / 2
    for i, name in enumerate(classes):
        ax.plot(middle, table[name].astype(float), "o-", ms=3, lw=1.5, color=HUES[i % len(HUES)], label=name)
    _time_axis(ax, seconds)
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1, 0))
    figure.legend(ncols=min(8, len(classes)), fontsize=8, frameon=False, loc="lower center")
    return figure


def describe(table: pd.DataFrame) -> str:
    """What the windows are answered, one after the other, for who does not see the figure."""
    told = table["label"].fillna("nothing").tolist()
    first = [i for i in range(len(told)) if i == 0 or told[i] != told[i - 1]]
    return "Probabilities over time: " + ", then ".join(f"{told[i]} from {table['start'].iloc[i]:.1f} s" for i in first)


def player(file: Path, figure: Figure, alt: str, seconds: float) -> str:
    """The clip as HTML, to be played, above a figure whose time axis a line goes along as it plays."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})  # not cropped: the line must fit
    drawn = base64.b64encode(buffer.getvalue()).decode()
    kind = mimetypes.guess_type(file.name)[0] or "video/mp4"
    move = f"{LEFT} + {RIGHT - LEFT} * this.currentTime / {seconds:.3f}"
    move = f"this.parentNode.querySelector('.at').style.left = 100 * ({move}) + '%'"
    tag = "audio" if kind.startswith("audio") else "video"
    played = f"<p>{html.escape(one_line(file.name))} is too large to be played here.</p>"
    if file.stat().st_size <= PLAYED:
        data = base64.b64encode(file.read_bytes()).decode()
        label = html.escape(f"The clip {one_line(file.name)}")
        played = f'<{tag} controls aria-label="{label}" ontimeupdate="{move}" src="data:{kind};base64,{data}" '
        played += f'style="width: 100%; max-height: 20em"></{tag}>'
    line = f"position: absolute; top: 0; bottom: 0; left: {100 * LEFT}%; width: 2px; background: #9f1239"
    return (
        f'<div style="max-width: {WIDTH * 110:.0f}px">{played}<div style="position: relative">'
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{drawn}" style="width: 100%">'
        f'<div class="at" style="{line}"></div></div></div>'
    ).replace("this.parentNode", "this.parentElement")


# ---- what is attended to -------------------------------------------------------------------------------------


def attention(recognizer: Recognizer, file: Path, window: float) -> pd.DataFrame:
    """`Recognizer.attention` of windows that follow each other: stream, second, weight (times an even look)."""
    table = recognizer.over_time(file, window, window)
    parts = [recognizer.attention(file, start=row.start, end=row.end) for row in table.itertuples() if row.label]
    return pd.concat(parts, ignore_index=True)


def attended(recognizer: Recognizer, file: Path, looked: pd.DataFrame) -> Figure:
    """The moments that are looked at: the waveform below its weights, and the frames of the largest weights."""
    kinds = recognizer.params.kinds
    seconds = float(looked["second"].max()) + 0.1
    figure = Figure(figsize=(WIDTH, 4.4))
    for i, (stream, of) in enumerate(looked.groupby("stream", sort=False)):
        ax = figure.add_axes((LEFT, 0.78 - 0.33 * i, RIGHT - LEFT, 0.16))
        colour = AUDIO if kinds[stream] == "sound" else VIDEO
        ax.fill_between(of["second"], 1, of["weight"], color=colour, alpha=0.5, lw=0)
        ax.axhline(1, color=INK, lw=0.6)
        ax.set_ylabel("times an\neven look", fontsize=8)
        ax.set_title(f"how much {stream} is looked at", fontsize=9, color=INK)
        _time_axis(ax, seconds)
        if kinds[stream] == "sound":
            samples = media.read_audio(file, 0, seconds)
            under = ax.twinx()
            under.plot(np.arange(len(samples)) / media.SAMPLE_RATE, samples, lw=0.3, color="#9fb3c8", zorder=0)
            under.axis("off")
        else:
            moments = largest(of)
            ax.plot(moments["second"], moments["weight"], "o", ms=4, color=colour)
            for n, second in enumerate(moments["second"]):
                place = figure.add_axes((LEFT + n * (RIGHT - LEFT) / FRAMES, 0.0, 0.16, 0.25))
                place.imshow(next(media.iter_frames(file, max(0.0, second), size=112)))
                place.set_title(f"{second:.2f} s", fontsize=8)
                place.axis("off")
    return figure


def largest(of: pd.DataFrame, apart: float = 0.25) -> pd.DataFrame:
    """The moments of the largest weights that lie a quarter of a second apart at least, in order of time."""
    chosen: list[int] = []
    for i in of["weight"].sort_values(ascending=False).index:
        if all(abs(of["second"][i] - of["second"][j]) >= apart for j in chosen):
            chosen.append(i)
        if len(chosen) == FRAMES:
            break
    return of.loc[sorted(chosen)]


# ---- what is hidden ------------------------------------------------------------------------------------------


def hidden(recognizer: Recognizer, file: Path, window: float, hop: float) -> dict[str, pd.DataFrame]:
    """`Recognizer.over_time` with all streams and, of a model of two streams, without each of them."""
    found = {"all streams": recognizer.over_time(file, window, hop)}
    for stream in recognizer.streams if len(recognizer.streams) == 2 else ():
        try:
            found[f"without {stream}"] = recognizer.over_time(file, window, hop, without=stream)
        except UserError:  # it is the only one that the clip has, or the model needs both
            continue
    return found


def hidden_table(found: dict[str, pd.DataFrame], classes: list[str]) -> pd.DataFrame:
    """Mean probability of each class over the windows in percent, and of how many windows the label changes."""
    told = next(iter(found.values()))["label"]
    rows = {name: 100 * table[classes].astype(float).mean() for name, table in found.items()}
    changes = {name: f"{(table['label'] != told).sum()} of {len(told)}" for name, table in found.items()}
    return pd.DataFrame(rows).T.round(1).assign(**{"windows of another label": changes})


def bands(found: dict[str, pd.DataFrame], classes: list[str], seconds: float) -> Figure:
    """A band for each of `hidden`'s tables: a bar a window in its label's colour, as high as it is sure."""
    figure = Figure(figsize=(WIDTH, 0.7 * len(found) + 0.9), layout="constrained")
    axes = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, table) in zip(axes, found.items(), strict=True):
        middle = (table["start"] + table["end"]) / 2
        width = float(middle.diff().min()) if len(table) > 1 else seconds
        for i, label in enumerate(classes):
            own = table["label"] == label
            ax.bar(middle[own], table["probability"][own], 0.9 * width, color=HUES[i % len(HUES)], label=label)
        _time_axis(ax, seconds)
        ax.set_ylim(0, 1)
        ax.set_yticks([0, 1], ["0 %", "100 %"])
        ax.set_title(name, fontsize=9, color=INK, loc="left")
        if ax is not axes[-1]:
            ax.set_xlabel("")
    handles = [Patch(color=HUES[i % len(HUES)], label=name) for i, name in enumerate(classes)]
    figure.legend(handles=handles, ncols=min(8, len(classes)), fontsize=8, frameon=False, loc="outside lower center")
    return figure


def _time_axis(ax, seconds: float) -> None:
    ax.set_xlim(0, seconds)
    ax.grid(color=GRID, lw=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("seconds", fontsize=8, labelpad=1)
    ax.tick_params(labelsize=8)
