"""Figures for notebooks and report: matplotlib figures from tables, shown with an alternative text."""

import io
import math
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
AUDIO, VIDEO, FUSED, PUBLISHED = "#d97706", "#2563a8", "#0f766e", "#9f1239"
SPLIT = {"validation": VIDEO, "test": AUDIO}
MARKS = {"validation": ("o", FUSED), "last": ("s", "#6b4fa0"), "test": ("X", PUBLISHED)}  # rules for the epoch
# after Okabe and Ito: told apart without red and green; a ninth emotion has the first one's again
HUES = ["#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#222222"]


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG; no date and no version inside, so that the same figure gives the same bytes."""
    for text in figure.findobj(Text):  # a $ in a name is no formula
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def show(figure: Figure, alt: str):
    """The figure as a notebook output with its alternative text."""
    from IPython.display import Image

    return Image(png(figure), alt=alt)


def loss_curves(history: pd.DataFrame, classes: int) -> Figure:
    """Each loss term over epochs, in training and on held-out clips, between its chance level and its floor.

    One panel a term (their scales differ 30-fold); `history` is a run's, or the mean of several by epoch. Under soft
    targets L_CE has its floor in training, the mean entropy of the votes; on held-out clips it is that of the labels.
    """
    side = "validation" if "validation_loss" in history else "test"
    held = {"ce": f"{side}_loss", "avel": "held_avel", "mem": "held_mem"}
    levels = {"ce": (math.log(classes), history.get("votes_entropy", pd.Series(0.0)).mean()), "mem": (math.log(2), 0)}
    if "avel_floor" in history:
        levels["avel"] = (history["avel_chance"].mean(), history["avel_floor"].mean())
    names = {"ce": "L_CE", "avel": "L_AVEL", "mem": "L_MEM", "temperature": "temperature τ"}
    kept = [n for n in names if n in history]
    figure = Figure(figsize=(2.6 * len(kept), 2.7), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(kept), squeeze=False)[0], kept, strict=True):
        for column, colour in ((name, FUSED), (held.get(name), AUDIO)):
            if column in history:
                ax.plot(history["epoch"], _between_levels(history, column, levels.get("avel")), color=colour)
        for level, style in zip(levels.get(name, ()), (":", "--"), strict=False):
            ax.axhline(level, color=INK, lw=1, ls=style)
        plain(ax, names[name])
    handles = [
        Line2D([], [], color=FUSED, label="training, with dropout"),
        Line2D([], [], color=AUDIO, label="held-out clips"),
        Line2D([], [], color=INK, lw=1, ls=":", label="chance"),
        Line2D([], [], color=INK, lw=1, ls="--", label="floor: all is learned"),
    ]
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside lower center", ncols=4)
    return figure


def _between_levels(history: pd.DataFrame, column: str, levels: tuple[float, float] | None) -> pd.Series:
    """A loss term as it is; L_AVEL, whose levels differ from batch to batch, at its place between their means."""
    values = history[column]
    if f"{column}_floor" not in history:
        return values
    chance, floor = history[f"{column}_chance"], history[f"{column}_floor"]
    return levels[1] + (values - floor) / (chance - floor) * (levels[0] - levels[1])


def learning_curves(history: pd.DataFrame) -> Figure:
    """AVEL's retrieval and MEM's accuracy on held-out clips over epochs, with chance as a line; a panel a term."""
    panels = {
        "AVEL: the most similar other picture\nhas the emotion of the sound": {"held_retrieval": FUSED},
        "MEM: pairs told apart": {"held_mem_accuracy": FUSED, "held_mem_accuracy_drawn": AUDIO},
    }
    panels = {title: lines for title, lines in panels.items() if next(iter(lines)) in history}
    figure = Figure(figsize=(3.6 * max(len(panels), 1), 2.8), layout="constrained")
    for ax, (title, lines) in zip(
        figure.subplots(1, max(len(panels), 1), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, colour in lines.items():
            ax.plot(history["epoch"], history[name], color=colour)
        chance = history["held_retrieval_chance"].mean() if "held_retrieval" in lines else 0.5
        ax.axhline(chance, color=INK, lw=1, ls=":", label="chance")
        plain(ax, title)
        ax.set_ylim(0, 1.02)
        ax.yaxis.set_major_formatter(PercentFormatter(1, 0))
        if len(lines) > 1:
            for name, label in (
                ("held_mem_accuracy", "hardest negatives"),
                ("held_mem_accuracy_drawn", "drawn negatives"),
            ):
                ax.plot([], [], color=lines[name], label=label)
        ax.legend(fontsize=7, frameon=False, loc="lower right")
    return figure


def score_curves(history: pd.DataFrame, scores: dict[str, dict]) -> Figure:
    """WA and UA over epochs on validation and test, with the epoch each selection rule takes."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    for ax, metric in zip(figure.subplots(1, 2, sharey=True), ("ua", "wa"), strict=True):
        for side, colour in SPLIT.items():
            if f"{side}_{metric}" in history:
                ax.plot(history["epoch"], history[f"{side}_{metric}"], color=colour, label=side)
        for rule, chosen in scores.items():
            marker, colour = MARKS[rule]
            ax.plot(chosen["epoch"], chosen[metric], marker, color=colour, ms=7, label=f"chosen by {rule}", ls="")
        plain(ax, metric.upper())
        ax.yaxis.set_major_formatter(PercentFormatter(1, 0))
    ax.legend(fontsize=7, frameon=False, loc="lower right")
    return figure


def peeking(panels: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """UA over epochs on the test folds, a panel per row: (fold, seed, epoch, ua), (fold, selection, ua, epoch).

    A thin line a fold and seed, their mean bold; a mark on each line where a rule chooses, and the rule's mean at the
    right edge.
    """
    figure = Figure(figsize=(4.6 * len(panels), 3.4), layout="constrained")
    for ax, (title, (epochs, chosen)) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        for _, line in epochs.groupby(["fold", "seed"]):
            ax.plot(line["epoch"], line["ua"], color=MUTED, lw=0.7, alpha=0.8)
        mean = epochs.groupby("epoch")["ua"].mean()
        ax.plot(mean.index, mean, color=INK, lw=2.4, label="mean of the folds")
        last, ends = epochs["epoch"].max(), []
        for rule, (marker, colour) in MARKS.items():
            at = chosen[chosen["selection"] == rule]
            if len(at):
                ax.plot(at["epoch"], at["ua"], marker, color=colour, ls="", zorder=3, **_open(rule))
                ends.append((at["ua"].mean(), rule, colour))
        low, high = epochs["ua"].min(), epochs["ua"].max()
        room, place = 0.055 * (high - low), -np.inf
        for value, rule, colour in sorted(ends):
            place = max(value, place + room)  # labels do not lie on each other
            ax.plot([last + 0.35, last + 1], [value, value], color=colour, lw=2.5, solid_capstyle="butt")
            ax.text(last + 1.2, place, f"{rule} {value:.1%}", color=colour, fontsize=8, va="center")
        plain(ax, title)
        ax.set_xlim(0.5, last + 1 + 0.3 * last)
        ax.set_xticks([t for t in ax.get_xticks() if 1 <= t <= last])
        ax.yaxis.set_major_formatter(PercentFormatter(1, 0))
    figure.axes[0].set_ylabel("UA on the test fold", fontsize=8)
    handles = [
        *(Line2D([], [], marker=m, color=c, ls="", label=f"chosen by {r}", **_open(r)) for r, (m, c) in MARKS.items()),
        Line2D([], [], color=MUTED, lw=0.7, label="one fold and seed"),
        Line2D([], [], color=INK, lw=2.4, label="mean"),
    ]
    figure.legend(handles=handles, fontsize=7, frameon=False, loc="outside upper center", ncols=5)
    return figure


def _open(rule: str) -> dict:
    """Rings of different sizes, so that rules which choose the same epoch are all seen."""
    size = {"validation": 10, "last": 7, "test": 5}[rule]
    return {"ms": size, **({} if rule == "test" else {"mfc": "none", "mew": 1.5})}


def reliability(curves: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy of the answers over their mean probability, by bin: {row: `scoring.calibration`'s table}.

    Dots grow with the number of answers; below the diagonal a row is surer than it is right.
    """
    figure = Figure(figsize=(4.4, 4), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=":")
    ax.text(0.3, 0.33, "as sure as right", color=MUTED, fontsize=7, rotation=45, ha="center", va="center")
    for (label, table), colour in zip(curves.items(), (FUSED, VIDEO, AUDIO, PUBLISHED), strict=False):
        ax.plot(table["confidence"], table["accuracy"], color=colour, lw=1.2, label=label)
        size = 8 + 140 * table["answers"] / table["answers"].sum()
        ax.scatter(table["confidence"], table["accuracy"], s=size, color=colour, alpha=0.8, lw=0)
    plain(ax, "")
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02))
    ax.set_xlabel("mean probability of the answer", fontsize=8)
    ax.set_ylabel("share of right answers", fontsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
        axis.set_major_formatter(PercentFormatter(1, 0))
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def embeddings(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], labels: np.ndarray, classes: list[str]
) -> Figure:
    """t-SNE (scikit-learn) of the utterances: each stream's features, and both projections in one space.

    `before` and `after` hold `(N, D)` of two streams; a dot is of the first (the sound), a triangle of the second.
    """
    figure = Figure(figsize=(4 * (len(before) + 1), 3.7), layout="constrained")
    *panels, joint = figure.subplots(1, len(before) + 1)
    for ax, (stream, x), marker in zip(panels, before.items(), "o^", strict=True):
        _scatter(ax, _tsne(_scaled(x)), labels, classes, marker)
        ax.set_title(f"{stream} features", fontsize=9, color=INK)
    places = np.split(_tsne(np.concatenate([*after.values()])), len(after))
    for xy, marker in zip(places, "o^", strict=True):
        _scatter(joint, xy, labels, classes, marker)
    joint.set_title("after the projection, both in one space", fontsize=9, color=INK)
    handles = [Line2D([], [], marker="s", color=c, ls="", label=n) for c, n in zip(cycle(HUES), classes, strict=False)]
    handles += [
        Line2D([], [], marker=marker, color=INK, ls="", label=s, fillstyle="none")
        for s, marker in zip(after, "o^", strict=True)
    ]
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside lower center", ncols=len(handles))
    return figure


def _scaled(x: np.ndarray) -> np.ndarray:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit_transform(x)


def _tsne(x: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE

    return TSNE(perplexity=min(30, (len(x) - 1) / 3), init="pca", random_state=0).fit_transform(x)


def _scatter(ax, places: np.ndarray, labels: np.ndarray, classes: list[str], marker: str) -> None:
    for i in range(len(classes)):
        ax.scatter(*places[labels == i].T, s=22, marker=marker, color=HUES[i % len(HUES)], alpha=0.8, lw=0)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_color(GRID)


def similarity(matrix: np.ndarray, labels: np.ndarray, classes: list[str]) -> Figure:
    """AVEL's similarities `(N, N)`, sounds in rows and pictures in columns, both ordered by emotion."""
    order, counts = np.argsort(labels, kind="stable"), np.bincount(labels, minlength=len(classes))
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    ax = figure.subplots()
    shown = matrix[np.ix_(order, order)]
    limit = np.abs(shown).max()
    image = ax.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    edges = np.cumsum(counts)
    for edge in edges[:-1]:
        ax.axhline(edge - 0.5, color=INK, lw=0.8)
        ax.axvline(edge - 0.5, color=INK, lw=0.8)
    middles = edges - counts / 2 - 0.5
    ax.set_xticks(middles, classes, fontsize=8, rotation=30 if len(classes) > 5 else 0)
    ax.set_yticks(middles, classes, fontsize=8)
    ax.set_xlabel("picture", fontsize=8)
    ax.set_ylabel("sound", fontsize=8)
    ax.tick_params(length=0)
    figure.colorbar(image, ax=ax, shrink=0.8).set_label("cosine over temperature", fontsize=8)
    return figure


def confusion(counts: pd.DataFrame, title: str = "", ax=None) -> Figure:
    """A confusion matrix: counts, and row percentages as colour and text."""
    figure = (
        ax.figure
        if ax is not None
        else Figure(figsize=(0.75 * len(counts) + 1.2, 0.65 * len(counts) + 0.9), layout="constrained")
    )
    ax = figure.subplots() if ax is None else ax
    share = counts / counts.sum(axis=1).clip(lower=1).to_numpy()[:, None]
    ax.imshow(share, vmin=0, vmax=1, cmap="Blues")
    for i in range(len(counts)):
        for j in range(len(counts)):
            ax.text(
                j,
                i,
                f"{share.iat[i, j]:.0%}\n{counts.iat[i, j]}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if share.iat[i, j] > 0.55 else INK,
            )
    ax.set_xticks(range(len(counts)), counts.columns, rotation=30, ha="right", fontsize=8)
    ax.set_yticks(range(len(counts)), counts.index, fontsize=8)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_title(title, fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def fold_points(scores: pd.DataFrame) -> Figure:
    """UA and WA on each fold's test side (columns fold, seed, ua, wa), one point a seed, the mean as a line."""
    figure = Figure(figsize=(6.5, 2.6), layout="constrained")
    for ax, metric in zip(figure.subplots(1, 2, sharey=True), ("ua", "wa"), strict=True):
        mean = scores[metric].mean()
        ax.scatter(scores["fold"], scores[metric], color=FUSED, s=45, alpha=0.8, lw=0, zorder=3)
        ax.axhline(mean, color=INK, lw=1, ls="--")
        ax.annotate(
            f"mean\n{mean:.1%}",
            (1.02, mean),
            xycoords=ax.get_yaxis_transform(),
            fontsize=7,
            color=INK,
            va="center",
            annotation_clip=False,
        )
        plain(ax, metric.upper())
        ax.set_xlabel("fold (test side)")
        ax.set_xlim(scores["fold"].min() - 0.5, scores["fold"].max() + 0.5)
        ax.yaxis.set_major_formatter(PercentFormatter(1, 0))
    return figure


def ablation(rows: pd.DataFrame, points: pd.DataFrame, ceilings: dict[str, float] | None, chance: float) -> Figure:
    """UA per variant: pooled value with its interval, a point per fold and seed, ceilings and chance as lines.

    `rows` has variant, label, modality, ua_pooled, ua_low, ua_high; `points` has variant and ua.
    """
    figure = Figure(figsize=(8.5, 0.52 * len(rows) + 1.3), layout="constrained")
    ax = figure.subplots()
    colour = {"V": VIDEO, "A": AUDIO, "A+V": FUSED}
    spread = np.linspace(-0.14, 0.14, 7)
    for y, row in enumerate(rows.to_dict("records")):
        c = colour.get(row["modality"], INK)
        mine = points.loc[points["variant"] == row["variant"], "ua"].to_numpy()
        ax.scatter(mine, y + 0.02 + spread[np.arange(len(mine)) % 7], s=16, color=c, alpha=0.35, lw=0)
        ax.plot([row["ua_low"], row["ua_high"]], [y, y], color=c, lw=3, solid_capstyle="round")
        ax.plot(row["ua_pooled"], y, "o", color="white", mec=c, mew=2, ms=8)
        if ceilings:
            ceiling = ceilings[{"V": "video", "A": "audio"}.get(row["modality"], "both")]
            ax.plot([ceiling, ceiling], [y - 0.42, y + 0.42], color=INK, lw=1.4)
    if ceilings:
        ax.plot([], [], color=INK, lw=1.4, label="known ceiling of the modality")
    ax.axvline(chance, color=MUTED, lw=1, ls=":", label="chance")
    ax.plot([], [], "o", color="white", mec=INK, mew=2, label="pooled UA, 95 % interval by speaker")
    ax.scatter([], [], s=16, color=INK, alpha=0.35, lw=0, label="one fold")
    lines_of_ua(ax, rows["label"])
    figure.legend(fontsize=7, frameon=False, loc="outside upper center", ncols=4)
    return figure


def lines_of_ua(ax, names) -> None:
    """Axes whose lines, from above, are named and whose width is UA."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.xaxis.set_major_formatter(PercentFormatter(1, 0))
    ax.set_xlabel("UA on unseen speakers")
    ax.grid(axis="x", color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def plain(ax, title: str) -> None:
    ax.set_title(title, fontsize=9, color=INK)
    ax.set_xlabel("epoch", fontsize=8)
    ax.set_ylabel("")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.grid(color=GRID, lw=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
