"""What notebook 0 shows of the method on a handful of clips."""

import numpy as np
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from foalkit import losses
from foalkit.puppets.clips import Clip
from foalkit.puppets.voices import RATE
from foalkit.report.figures import AUDIO, FUSED, GRID, INK, MUTED, PUBLISHED


def avel_loss(cosine: Tensor, labels: Tensor, temperature: float) -> float:
    """AVEL's loss of cosines `(N, N)`, sounds in rows, of clips with labels `(N,)`; targets as the released code's."""
    target = (labels[:, None] == labels).to(cosine.dtype)
    both = [F.cross_entropy(c / temperature, target) for c in (cosine, cosine.T)]
    return float(sum(both) / 2)


def recordings(clips: list[Clip], titles: list[str]) -> Figure:
    """A row a clip: four of its pictures, evenly over it, and its waveform over seconds."""
    figure = Figure(figsize=(9.6, 1.35 * len(clips) + 0.3), layout="constrained")
    grid = figure.subplots(len(clips), 5, squeeze=False, width_ratios=[1, 1, 1, 1, 2.6])
    longest = max(len(clip.sound) for clip in clips) / RATE
    for row, clip, title in zip(grid, clips, titles, strict=True):
        for ax, i in zip(row, np.linspace(0, len(clip.pictures) - 1, 4).round().astype(int), strict=False):
            ax.imshow(clip.pictures[i])
            ax.axis("off")
        row[0].text(-0.1, 0.5, title, ha="right", va="center", transform=row[0].transAxes, fontsize=9, color=INK)
        row[4].plot(np.arange(len(clip.sound)) / RATE, clip.sound, lw=0.4, color=AUDIO)
        row[4].set(xlim=(0, longest), ylim=(-0.5, 0.5), yticks=[])
        row[4].spines[["top", "right", "left"]].set_visible(False)
        row[4].tick_params(labelsize=7, labelbottom=False)
    grid[-1][4].tick_params(labelbottom=True)
    grid[-1][4].set_xlabel("seconds", fontsize=8)
    return figure


def padded(streams: dict[str, tuple[Tensor, Tensor]], names: list[str]) -> Figure:
    """A batch as the network gets it, `{stream: (x (B, T, D), mask (B, T))}`: time to the right, padding hatched."""
    figure = Figure(figsize=(9.6, 1.9 * len(streams) + 0.3), layout="constrained")
    grid = figure.subplots(len(streams), len(names), squeeze=False)
    for row, (stream, (x, mask)) in zip(grid, streams.items(), strict=True):
        for ax, name, frames, real in zip(row, names, x, mask, strict=True):
            colours = {"cmap": "magma", "vmin": -2.5, "vmax": 2.5}
            ax.imshow(frames.T.numpy(), aspect="auto", origin="lower", interpolation="none", **colours)
            last = int(real.sum()) - 0.5
            ax.axvspan(last, len(real) - 0.5, fc="#c9ced6", ec="white", hatch="///", lw=0)
            ax.set_title(f"{name}: {int(real.sum())} of {len(real)} frames", fontsize=8, color=INK)
            ax.set(yticks=[])
            ax.tick_params(labelsize=7)
        row[0].set_ylabel(f"{stream}\n{x.shape[2]} numbers a frame", fontsize=8)
    return figure


def matrices(panels: dict[str, Tensor], names: list[str], rings: list[tuple[int, int]] = ()) -> Figure:
    """Matrices `(N, N)` side by side, sounds in rows and pictures in columns, each number written in its cell.

    Cosines are red and blue about white, numbers without a negative one the darker the larger, and those that are not
    finite a dash. `rings` marks cells of the last matrix.
    """
    figure = Figure(figsize=(3.3 * len(panels) + 0.6, 3.5), layout="constrained")
    for ax, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _matrix(ax, np.asarray(values), title, names)
    figure.axes[0].set_ylabel("sound of", fontsize=9)
    for i, j in rings:
        figure.axes[-1].add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, ec="#facc15", lw=3.5))
    return figure


def _matrix(ax: Axes, values: np.ndarray, title: str, names: list[str]) -> None:
    colours = {"cmap": "RdBu_r", "vmin": -1} if values.min() < 0 else {"cmap": "Purples", "vmin": 0}
    ax.imshow(np.where(np.isfinite(values), values, 0), vmax=1, **colours)
    for (i, j), value in np.ndenumerate(values):
        dark = np.isfinite(value) and abs(value) > 0.6
        text = f"{value:.2f}" if np.isfinite(value) else "–"
        ax.text(j, i, text, ha="center", va="center", fontsize=8.5, color="white" if dark else INK)
    ax.set_title(title, fontsize=9, color=INK)
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_xlabel("picture of", fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def temperatures(cosine: Tensor, labels: Tensor, shown: list[float], names: list[str]) -> Figure:
    """Each row's softmax of the cosines `(N, N)` at the temperatures `shown`, and the loss over all temperatures."""
    figure = Figure(figsize=(2.6 * len(shown) + 3.9, 3.3), layout="constrained")
    *panels, curve = figure.subplots(1, len(shown) + 1, width_ratios=[1] * len(shown) + [1.3])
    for ax, temperature in zip(panels, shown, strict=True):
        _matrix(ax, (cosine / temperature).softmax(1).numpy(), f"softmax at τ = {temperature:g}", names)
    panels[0].set_ylabel("sound of", fontsize=9)
    taus = np.geomspace(0.05, 10, 60)
    chance, floor = np.array([losses.avel_levels(labels, t, len(labels.unique())) for t in taus]).T
    curve.plot(taus, [avel_loss(cosine, labels, t) for t in taus], color=INK, lw=1.6, label="these clips")
    curve.plot(taus, chance, color=MUTED, ls=":", lw=1.5, label="chance")
    curve.plot(taus, floor, color=FUSED, ls="--", lw=1.4, label="floor")
    top = 2.6 * chance[0]
    for temperature in shown:
        value = avel_loss(cosine, labels, temperature)
        place = min(value, 0.97 * top)  # what is higher stands at the upper edge
        curve.plot(temperature, place, "o" if value < top else "^", color=PUBLISHED, ms=6)
        curve.annotate(f"{value:.2f}", (temperature, place), (6, 5), textcoords="offset points", fontsize=8)
    curve.set(xscale="log", ylim=(0, top))
    curve.set_xticks([0.07, 0.3, 1, 2.659, 10], ["0.07", "0.3", "1", "2.66", "10"], fontsize=8)
    curve.set_xticks([], minor=True)
    curve.set_xlabel("τ", fontsize=9)
    curve.set_title("L_AVEL over τ", fontsize=9, color=INK)
    _plain(curve)
    curve.legend(fontsize=8, frameon=False, loc="upper right")
    return figure


def curves(history: dict[str, list[float]], levels: dict[str, tuple[float, float]]) -> Figure:
    """Each loss over training steps between its `levels`, chance and floor."""
    figure = Figure(figsize=(3.2 * len(history) + 0.4, 2.5), layout="constrained")
    for ax, (name, values) in zip(figure.subplots(1, len(history), squeeze=False)[0], history.items(), strict=True):
        ax.plot(np.arange(1, len(values) + 1), values, color=INK, lw=1.2)
        chance, floor = levels[name]
        for word, level, colour, style in (("chance", chance, MUTED, ":"), ("floor", floor, FUSED, "--")):
            ax.axhline(level, color=colour, ls=style, lw=1.3)
            ax.annotate(word, (1.02, level), xycoords=ax.get_yaxis_transform(), color=colour, fontsize=8, va="center")
        ax.set_title(name, fontsize=9, color=INK)
        ax.set_xlabel("training step", fontsize=8)
        _plain(ax)
    return figure


def attention(weights: Tensor, clip: Clip) -> Figure:
    """Where each frame of a clip's sound looks in its film, `(H, Tq, Tk)` of real frames: the heads' mean, then each.

    The waveform runs down the left side, beside its frames; above a column stands its picture.
    """
    heads, _, pictures = weights.shape
    figure = Figure(figsize=(10.6, 4.3), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2.1, 1])
    grid = left.subplots(2, 2, width_ratios=[1, 8], height_ratios=[1, 7])
    grid[0, 0].axis("off")
    strip = np.concatenate([picture[::4, ::4] for picture in clip.pictures[:pictures]], 1)
    grid[0, 1].imshow(strip, aspect="auto")
    grid[0, 1].axis("off")
    wave, mean = grid[1]
    wave.plot(clip.sound, np.arange(len(clip.sound)) / RATE, lw=0.4, color=AUDIO)
    wave.set(xlim=(-0.5, 0.5), xticks=[], ylim=(len(clip.sound) / RATE, 0))
    wave.set_ylabel("its sound, in seconds: the queries", fontsize=8)
    wave.spines[["top", "right", "bottom"]].set_visible(False)
    wave.tick_params(labelsize=7)
    image = mean.imshow(weights.mean(0).numpy(), aspect="auto", cmap="Blues", vmin=0, interpolation="none")
    mean.set(yticks=[])
    mean.set_xticks(range(pictures), range(1, pictures + 1), fontsize=7)
    mean.set_xlabel("picture of its film: the keys", fontsize=8)
    left.colorbar(image, ax=mean, shrink=0.9).ax.tick_params(labelsize=7)
    left.suptitle("mean of the heads; each row sums to 1", fontsize=9, color=INK)
    right.suptitle("each head alone", fontsize=9, color=INK)
    for h, ax in enumerate(right.subplots(2, -(-heads // 2)).flat):
        ax.imshow(weights[h].numpy(), aspect="auto", cmap="Blues", vmin=0, interpolation="none")
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"head {h + 1}", fontsize=8, color=INK)
    return figure


def maps(weights: Tensor, pictures: list[np.ndarray], titles: list[str]) -> Figure:
    """Weights `(B, t, h, w)` as light on the pictures they are for, `(t, H, W, 3)` of each clip.

    Above each stands the largest weight of a place.
    """
    figure = Figure(figsize=(1.5 * weights.shape[1] + 1.2, 1.62 * len(titles)), layout="constrained")
    grid = figure.subplots(*weights.shape[:2], squeeze=False)
    for row, clip, shown, title in zip(grid, weights, pictures, titles, strict=True):
        for ax, weight, picture in zip(row, clip, shown, strict=True):
            light = (weight / weight.max()).sqrt()  # the eye needs the small ones, too
            side = [n // k for n, k in zip(picture.shape[:2], light.shape, strict=True)]
            shade = np.kron(light.numpy(), np.ones(side))[..., None]
            ax.imshow((picture * (0.3 + 0.7 * shade)).astype(np.uint8))
            ax.set_title(f"{float(weight.max()):.0%}", fontsize=8, color=INK, pad=2)
            ax.axis("off")
        row[0].text(-0.08, 0.5, title, ha="right", va="center", transform=row[0].transAxes, fontsize=9, color=INK)
    return figure


def _plain(ax: Axes) -> None:
    ax.grid(color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
