"""Drawings of the two methods for whoever meets them: boxes, arrows and the shape of what flows between them."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from foalkit.report.figures import AUDIO, FUSED, GRID, INK, MUTED, PUBLISHED, VIDEO

FOAL_NET_ALT = (
    "Foal-Net from left to right. Sound goes through WavLM to Ta frames of 1024 numbers, pictures through CLIP to Tv "
    "frames of 768. Above: the mean over each clip's frames is projected to 512 numbers; the cosine of every sound "
    "with every picture of the batch, over tau, is an N by N matrix, from which AVEL's loss is taken. Below: two "
    "stacks of cross-attention, a2v where the sound asks the pictures and v2a where the pictures ask the sound, read "
    "the encoded frames themselves and not the projections. Their means, 1024 and 768 numbers, go to a linear layer "
    "for the four emotions with the cross-entropy loss, and to MEM's linear layers, match or no match. An arrow from "
    "the matrix to the stacks carries the hard negative: the most similar partner of another emotion."
)
CFN_SR_ALT = (
    "CFN-SR's block from left to right. 26 steps of sound go through a causal transformer; its last step becomes 64 "
    "numbers. Each of the 49 places of each slice of the film's map, 2048 numbers, becomes 64 numbers as well. Their "
    "sum goes through tanh and a linear layer to one score a place, and a softmax over the 49 places makes weights. "
    "The film's map times the weights, plus the film's map itself by the residual path, is averaged, set beside the "
    "sound's 1664 numbers and classified into eight emotions."
)


def foal_net() -> Figure:
    """The whole of Foal-Net on one page, with the paper's widths."""
    figure, ax = _board(10.6, 5.13, 124, 60)
    ax.add_patch(Rectangle((30, 36), 64, 23, color=GRID, alpha=0.45, lw=0))
    ax.text(31, 57.2, "before the fusion", fontsize=8, color=MUTED, va="center")
    ax.add_patch(Rectangle((30, 1), 92, 33, color=GRID, alpha=0.45, lw=0))
    ax.text(31, 2.6, "the fusion and what is asked of it", fontsize=8, color=MUTED, va="center")

    _box(ax, 1, 21, 10, 8, "sound\n16 kHz", AUDIO)
    _box(ax, 1, 7, 10, 8, "pictures\n30 a second", VIDEO)
    _box(ax, 14, 21, 12, 8, "WavLM,\ntrained\n(Ta, 1024)", AUDIO)
    _box(ax, 14, 7, 12, 8, "CLIP,\nfrozen\n(Tv, 768)", VIDEO)
    for y, colour in ((25, AUDIO), (11, VIDEO)):
        _arrow(ax, [(11, y), (14, y)], colour)

    # AVEL
    _box(ax, 33, 48, 20, 7, "mean over frames,\nprojection (512)", AUDIO)
    _box(ax, 33, 38.5, 20, 7, "mean over frames,\nprojection (512)", VIDEO)
    _arrow(ax, [(20, 29), (20, 51.5), (33, 51.5)], AUDIO)
    _arrow(ax, [(26, 13.5), (28, 13.5), (28, 42), (33, 42)], VIDEO)
    for i in range(4):
        for j in range(4):
            same = (i < 2) == (j < 2)
            x, y = 60 + 2.7 * j, 49.9 - 2.7 * i
            ax.add_patch(Rectangle((x, y), 2.5, 2.5, color=FUSED if same else "white", alpha=0.75, lw=0))
    ax.text(65.3, 54.6, "cosine / τ", fontsize=9, color=INK, ha="center", va="center")
    ax.text(65.3, 39.6, "(N, N)", fontsize=9, color=INK, ha="center", va="center")
    _arrow(ax, [(53, 51.5), (59.4, 48.5)], AUDIO)
    _arrow(ax, [(53, 42), (59.4, 44.8)], VIDEO)
    _box(ax, 77, 43.2, 14, 7, "L_AVEL\nsame emotion:\nsimilar", PUBLISHED)
    _arrow(ax, [(71.4, 46.7), (77, 46.7)], INK)

    # fusion
    _box(ax, 42, 21, 22, 9, "a2v: two layers\nthe sound asks the pictures", AUDIO)
    _box(ax, 42, 6, 22, 9, "v2a: two layers\nthe pictures ask the sound", VIDEO)
    _arrow(ax, [(26, 25.5), (42, 25.5)], AUDIO)
    _arrow(ax, [(26, 10.5), (42, 10.5)], VIDEO)
    _arrow(ax, [(31, 25.5), (37, 12.8), (42, 12.8)], AUDIO)
    _arrow(ax, [(31, 10.5), (37, 23.2), (42, 23.2)], VIDEO)
    ax.text(40.5, 26.9, "query", fontsize=7, color=AUDIO, ha="right")
    ax.text(40.5, 8.1, "query", fontsize=7, color=VIDEO, ha="right")
    ax.text(42.5, 18.0, "key, value", fontsize=7, color=MUTED, ha="center", va="center")
    _box(ax, 69, 22, 12, 7, "mean over\nframes (1024)", AUDIO)
    _box(ax, 69, 7, 12, 7, "mean over\nframes (768)", VIDEO)
    _arrow(ax, [(64, 25.5), (69, 25.5)], AUDIO)
    _arrow(ax, [(64, 10.5), (69, 10.5)], VIDEO)
    _arrow(ax, [(66, 38.4), (66, 32.2), (53, 32.2), (53, 30)], INK, dashed=True)
    _arrow(ax, [(66, 32.2), (66, 18), (53, 18), (53, 15)], INK, dashed=True)
    ax.text(67, 32.2, "hard negative: another clip's key and value", fontsize=8, color=INK, va="center")

    _box(ax, 87, 20.5, 15, 8, "two linear layers:\nmatch or not (2)", FUSED)
    _box(ax, 87, 7.5, 15, 8, "beside each other,\nlinear (4)", FUSED)
    for y, colour in ((25.5, AUDIO), (10.5, VIDEO)):
        _arrow(ax, [(81, y), (87, y)], colour)
    _arrow(ax, [(81, 25.5), (84, 25.5), (84, 13.5), (87, 13.5)], AUDIO)
    _arrow(ax, [(81, 10.5), (85.4, 10.5), (85.4, 22.5), (87, 22.5)], VIDEO)
    _box(ax, 107, 21, 13, 7, "L_MEM\nmatching pairs", PUBLISHED)
    _box(ax, 107, 8, 13, 7, "L_CE\nthe emotion", PUBLISHED)
    _arrow(ax, [(102, 24.5), (107, 24.5)], INK)
    _arrow(ax, [(102, 11.5), (107, 11.5)], INK)
    ax.text(109, 46.7, "L = L_CE + L_AVEL\n+ 0.1 · L_MEM", fontsize=11, color=INK, ha="center", va="center")
    return figure


def cfn_sr() -> Figure:
    """CFN-SR's cross-modal block between its two branches, with the paper's widths."""
    figure, ax = _board(10.6, 3.42, 124, 40)
    ax.add_patch(Rectangle((29, 1), 66, 38, color=GRID, alpha=0.45, lw=0))
    ax.text(30, 37.3, "the block", fontsize=8, color=MUTED, va="center")
    _box(ax, 1, 25, 10, 8, "voice\n13 MFCC", AUDIO)
    _box(ax, 1, 7, 10, 8, "face\n30 frames", VIDEO)
    _box(ax, 14, 25, 12, 8, "1-D CNN\n(64, 26)", AUDIO)
    _box(ax, 14, 7, 12, 8, "3-D ResNeXt\n(2048, 2, 7, 7)", VIDEO)
    for y, colour in ((29, AUDIO), (11, VIDEO)):
        _arrow(ax, [(11, y), (14, y)], colour)
    _box(ax, 33, 25, 17, 8, "causal transformer,\nits last step (64)", AUDIO)
    _box(ax, 33, 14.5, 17, 7, "each place: linear (64)", VIDEO)
    _arrow(ax, [(26, 29), (33, 29)], AUDIO)
    _arrow(ax, [(26, 12.5), (29.5, 12.5), (29.5, 18), (33, 18)], VIDEO)
    _box(ax, 57, 18, 15, 11, "sum, tanh,\none score a place,\nsoftmax over 49", FUSED)
    _arrow(ax, [(50, 29), (53.5, 29), (53.5, 25.5), (57, 25.5)], AUDIO)
    _arrow(ax, [(50, 18), (53.5, 18), (53.5, 21.5), (57, 21.5)], VIDEO)
    ax.text(79.3, 19, "weights m\n(2, 7, 7)", fontsize=8, color=FUSED, va="center")
    _arrow(ax, [(72, 23.5), (78.5, 23.5), (78.5, 13)], FUSED)
    _circle(ax, 78.5, 11, "×")
    _circle(ax, 88.5, 11, "+")
    _arrow(ax, [(26, 11), (76.7, 11)], VIDEO)
    _arrow(ax, [(80.3, 11), (86.7, 11)], VIDEO)
    _arrow(ax, [(64, 11), (64, 4.5), (88.5, 4.5), (88.5, 9.2)], VIDEO)
    ax.text(65, 2.9, "the residual: x itself", fontsize=8, color=VIDEO, va="center")
    ax.text(58, 12.3, "x", fontsize=9, color=VIDEO, va="center")
    _box(ax, 98, 7, 11, 8, "mean over\nplaces (2048)", VIDEO)
    _arrow(ax, [(90.3, 11), (98, 11)], VIDEO)
    _box(ax, 113, 12, 10, 11, "beside each\nother,\nlinear (8)", FUSED)
    _arrow(ax, [(109, 11), (111, 11), (111, 14.5), (113, 14.5)], VIDEO)
    _arrow(ax, [(28, 29), (28, 35.5), (118, 35.5), (118, 23)], AUDIO)
    ax.text(97, 33.9, "the sound itself (1664)", fontsize=8, color=AUDIO, va="center")
    return figure


def _board(width: float, height: float, columns: float, rows: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, columns), ylim=(0, rows))
    ax.axis("off")
    return figure, ax


def _box(ax: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """A white box with its lower left corner at (x, y)."""
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=1", ec=colour, fc="white", lw=1.6)
    ax.add_patch(shape)
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5, color=INK, linespacing=1.25)


def _circle(ax: Axes, x: float, y: float, text: str) -> None:
    ax.plot(x, y, "o", ms=17, mfc="white", mec=INK, mew=1.4)
    ax.text(x, y, text, ha="center", va="center", fontsize=12, color=INK)


def _arrow(ax: Axes, points: list[tuple[float, float]], colour: str, dashed: bool = False) -> None:
    """A line through the points with a head at the last one."""
    style = (0, (4, 2)) if dashed else "-"
    ax.plot(*zip(*points, strict=True), color=colour, lw=1.4, ls=style, solid_joinstyle="round")
    ax.annotate(
        "",
        points[-1],
        points[-2],
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 0, "shrinkB": 0, "mutation_scale": 13},
    )
