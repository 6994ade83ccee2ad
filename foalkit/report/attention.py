"""What sound and picture look at in each other: the attention of a run's network, in seconds."""

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from foalkit.features import media
from foalkit.features.times import frame_times
from foalkit.params.encoders import Kind
from foalkit.report import recordings
from foalkit.report.explore import Opened
from foalkit.report.figures import AUDIO, INK

FRAMES = 6  # pictures beside the film's axis at most: more would lie on each other


@dataclass(frozen=True)
class Looks:
    """The attention of one utterance's two streams to each other, every frame at its moment."""

    turn: dict  # the manifest's row
    kinds: dict[str, Kind]  # by stream: sound, picture or numbers
    times: dict[str, np.ndarray]  # by stream (T,): seconds from the utterance's start
    steps: dict[str, float]  # by stream: seconds from frame to frame
    weights: dict[str, np.ndarray]  # by the stream that looks (layers, heads, T, the other's T); rows sum to 1

    @property
    def unit(self) -> str:
        """What the times count: seconds, or frames where nobody knows how long the utterance lasts."""
        return "frames" if np.isnan(self.turn["end"]) else "seconds"

    def other(self, stream: str) -> str:
        """The stream that `stream` looks at."""
        return next(s for s in self.weights if s != stream)

    def shown(self, stream: str, layer: int, head: int | None) -> np.ndarray:
        """How many times as much as an even look, `(T, the other's T)`: of one head, or of the mean over heads."""
        heads = self.weights[stream][layer]
        return (heads.mean(0) if head is None else heads[head]) * heads.shape[2]


def looks(inside: Opened, utterance: str, root: Path) -> Looks:
    """What the two streams of a test utterance look at, by the run's weights; `root` is the corpus."""
    ((_, entered),) = inside.batches([utterance])
    weights = [w[0].float().cpu().numpy() for w in _attention(inside, entered)]
    turn = inside.turns.loc[utterance].to_dict()
    placed = {s: frame_times(inside.params, s, turn, root, x.shape[1]) for s, (x, _) in entered.items()}
    return Looks(
        turn,
        {s: inside.params.kinds[s] for s in inside.streams},
        {s: times for s, (times, _) in placed.items()},
        {s: step for s, (_, step) in placed.items()},
        dict(zip(inside.streams, weights, strict=True)),
    )


def _attention(inside: Opened, entered: dict):
    import torch

    with torch.inference_mode():
        return inside.net.core.attention(*(x for x, _ in entered.values()), *(mask for _, mask in entered.values()))


def spread(inside: Opened) -> pd.DataFrame:
    """How much of the other stream a frame looks at, in percent, mean over the frames of the test side, by head.

    It is exp(entropy of the weights) over the number of frames that could be looked at: 100 where all are looked at
    alike, and one over that number where only one is.
    """
    rows: dict[tuple[str, str], list] = {}
    for _, entered in inside.batches(inside.test):
        masks = [mask.cpu().numpy() for _, mask in entered.values()]
        both = zip(permutations(inside.streams), permutations(masks), _attention(inside, entered), strict=True)
        for (one, other), (asking, asked), weights in both:
            w = weights.double().cpu().numpy()  # (B, layers, heads, T, the other's T)
            entropy = -(w * np.log(np.where(w > 0, w, 1))).sum(4)
            share = np.exp(entropy) / asked.sum(1)[:, None, None, None]
            for layer in range(share.shape[1]):
                rows.setdefault((f"{one} at {other}", f"layer {layer + 1}"), []).append(
                    share[:, layer].transpose(1, 0, 2)[:, asking]
                )
    table = {key: 100 * np.concatenate(parts, 1).mean(1) for key, parts in rows.items()}
    heads = [f"head {h + 1}" for h in range(len(next(iter(table.values()))))]
    frame = pd.DataFrame(table, index=heads).T
    return frame.assign(mean=frame.mean(axis=1)).round(1)


def describe(seen: Looks, layer: int = -1, head: int | None = None) -> str:
    """The picture in a sentence, for who does not see it."""
    said = []
    for stream in seen.weights:
        shown, other = seen.shown(stream, layer, head), seen.other(stream)
        most = seen.times[other][shown.mean(0).argmax()]
        said.append(f"{stream} looks most at {other} at {most:.2f} s, up to {shown.max():.1f} times an even look")
    return f"Attention in {seen.turn['utterance']}: {'; '.join(said)}"


def picture(seen: Looks, root: Path, layer: int = -1, head: int | None = None) -> Figure:
    """Both directions over one pair of axes: the first stream to the right, the second one downwards.

    Above lies the waveform, where the first stream is a sound, and at the left stand frames of the film, where the
    second is a picture. `head` None is the mean over the heads.
    """
    across, down = seen.weights
    figure = Figure(figsize=(9.2, 4.8), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(0.9, 4, 4), height_ratios=(0.8, 3.2))
    which = range(len(seen.weights[across]))[layer] + 1
    figure.suptitle(f"layer {which}, " + ("mean of the heads" if head is None else f"head {head + 1}"), fontsize=9)
    film = figure.add_subplot(grid[1, 0])
    maps = [figure.add_subplot(grid[1, i], sharey=film) for i in (1, 2)]
    image = _draw(maps, seen, layer, head)
    for i, words in enumerate(
        (
            f"where {across} looks in {down}\na column: one moment of {across}",
            f"where {down} looks in {across}\na row: one moment of {down}",
        )
    ):
        maps[i].set_xlabel(f"{across}: {seen.unit}", fontsize=8)
        maps[i].tick_params(labelleft=False)
        above = figure.add_subplot(grid[0, 1 + i], sharex=maps[i])
        above.set_title(words, fontsize=9, color=INK)
        _wave(above, seen, root, across)
    _film(film, seen, root, down)
    _bar(figure, image, maps)
    return figure


def heads(seen: Looks, layer: int = -1) -> Figure:
    """Each head's own look, both directions: a column a head, axes and colours as in `picture`."""
    across, down = seen.weights
    count = seen.weights[across].shape[1]
    figure = Figure(figsize=(1.9 * count + 1.2, 4.2), layout="constrained")
    axes = figure.subplots(2, count, sharex=True, sharey=True, squeeze=False)
    limit = max(_limit(seen, layer, head) for head in range(count))
    for head, column in enumerate(axes.T):
        image = _draw(column, seen, layer, head, limit)
        column[0].set_title(f"head {head + 1}", fontsize=9, color=INK)
    for ax, words in zip(axes[:, 0], (f"{across} at {down}", f"{down} at {across}"), strict=True):
        ax.set_ylabel(f"{words}\n{down}: {seen.unit}", fontsize=8)
    for ax in axes[1]:
        ax.set_xlabel(f"{across}: {seen.unit}", fontsize=8)
    _bar(figure, image, axes)
    return figure


def _limit(seen: Looks, layer: int, head: int | None) -> float:
    """The end of the colours: as far from an even look as any frame is, and at most a quarter of it downwards."""
    shown = [seen.shown(s, layer, head) for s in seen.weights]
    return max(1.25, *(max(x.max(), 1 / max(x.min(), 0.25)) for x in shown))


def _draw(axes, seen: Looks, layer: int, head: int | None, limit: float | None = None):
    """One map a direction, in colours that are white at an even look."""
    across, down = seen.weights
    limit = limit or _limit(seen, layer, head)
    edges = {s: np.append(t - seen.steps[s] / 2, t[-1] + seen.steps[s] / 2) for s, t in seen.times.items()}
    for ax, values in zip(axes, (seen.shown(across, layer, head).T, seen.shown(down, layer, head)), strict=True):
        norm = LogNorm(1 / limit, limit, clip=True)
        image = ax.pcolormesh(edges[across], edges[down], values, cmap="RdBu_r", norm=norm)
        ax.set_ylim(edges[down][-1], edges[down][0])
        ax.tick_params(labelsize=8)
    return image


def _bar(figure: Figure, image, axes) -> None:
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    limit = image.norm.vmax
    bar.set_ticks([1 / limit, 1, limit], labels=[f"{1 / limit:.2g}", "1", f"{limit:.2g}"], minor=False)
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=8)
    bar.set_label("times an even look", fontsize=8)


def _wave(ax, seen: Looks, root: Path, stream: str) -> None:
    ax.axis("off")
    if seen.kinds[stream] == "sound":
        times, step = seen.times[stream], seen.steps[stream]
        start = max(0.0, times[0] - step / 2)
        samples = recordings.heard(seen.turn, root, start, times[-1] + step / 2)
        ax.plot(start + np.arange(len(samples)) / media.SAMPLE_RATE, samples, lw=0.4, color=AUDIO)


def _film(ax, seen: Looks, root: Path, stream: str) -> None:
    """Frames of the speaker at the moments that the film's axis shows."""
    ax.set_ylabel(f"{stream}: {seen.unit}", fontsize=8)
    ax.set_xticks([])
    ax.tick_params(labelsize=8)
    ax.spines[:].set_visible(False)
    if seen.kinds[stream] != "picture":
        return
    turn, times = seen.turn, seen.times[stream]
    crop = None if turn["crop"] is None else tuple(turn["crop"])
    first, last = (turn["start"] + t for t in (times[0], times[-1]))
    frames = media.read_frames(root / turn["video"], first, last + 1e-3, size=96, crop=crop)
    for t in np.linspace(times[0], times[-1], min(FRAMES, len(times))):
        place = (t - times[0]) / max(times[-1] - times[0], 1e-9)
        box = OffsetImage(frames[round(place * (len(frames) - 1))], zoom=0.38)
        ax.add_artist(AnnotationBbox(box, (0.5, t), xycoords=("axes fraction", "data"), frameon=False))
