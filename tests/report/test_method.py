"""The figures of notebook 0 show the numbers they are given, and AVEL's loss of a matrix is the naive sum."""

import math

import numpy as np
import pytest
import torch
from matplotlib.patches import FancyBboxPatch, Rectangle

from foalkit import losses
from foalkit.puppets.clips import Clip
from foalkit.report import drawings, figures, method

NAMES = ["clip 1", "clip 2", "clip 3", "clip 4"]
LABELS = torch.tensor([0, 0, 1, 1])
COSINE = torch.tensor([[0.9, 0.2, -0.5, 0.4], [0.1, 0.8, -0.3, 0.3], [-0.6, 0.0, 0.7, 0.5], [-0.2, -0.9, 0.6, -0.1]])


@pytest.fixture
def clip():
    pictures = np.stack([np.full((28, 28, 3), value, np.uint8) for value in (20, 90, 160, 250)])
    return Clip("Ses01F", np.linspace(-0.4, 0.4, 8000, dtype=np.float32), pictures)


def naive(cosine, labels, temperature):
    """AVEL's loss by loops over rows, columns and pairs."""
    total, n = 0.0, len(labels)
    for matrix in (cosine.tolist(), cosine.T.tolist()):
        for i, row in enumerate(matrix):
            powers = [math.exp(c / temperature) for c in row]
            total += sum(-math.log(powers[j] / sum(powers)) for j in range(n) if labels[i] == labels[j])
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 2.659])
def test_avels_loss_of_a_matrix_is_the_naive_sum_and_the_librarys(temperature):
    assert method.avel_loss(COSINE, LABELS, temperature) == pytest.approx(
        naive(COSINE, LABELS.tolist(), temperature), rel=1e-5
    )
    torch.manual_seed(0)
    a, v = torch.randn(2, 4, 8)
    cosine = torch.nn.functional.cosine_similarity(a[:, None], v[None], dim=2)
    theirs = losses.avel(a, v, LABELS, temperature).loss
    assert method.avel_loss(cosine, LABELS, temperature) == pytest.approx(float(theirs), rel=1e-5)


def written(ax):
    """The numbers of a 4 x 4 panel, row by row."""
    return [t.get_text() for t in ax.texts[:16]]


def test_temperatures_shows_each_softmax_and_the_loss_between_its_levels():
    figure = method.temperatures(COSINE, LABELS, [0.07, 2.659], NAMES)
    first, second, curve = figure.axes
    for ax, temperature in ((first, 0.07), (second, 2.659)):
        powers = np.exp(COSINE.numpy() / temperature)
        assert written(ax) == [f"{p:.2f}" for p in (powers / powers.sum(1, keepdims=True)).ravel()]
        assert f"{temperature:g}" in ax.get_title()
    lines = {line.get_label(): line for line in curve.lines}
    chance, floor = (np.interp(2.659, *lines[n].get_data()) for n in ("chance", "floor"))
    assert chance == pytest.approx(2 * math.log(4))
    share = math.exp(1 / 2.659) / (2 * math.exp(1 / 2.659) + 2 * math.exp(-1 / 2.659))
    assert floor == pytest.approx(-2 * math.log(share), abs=1e-3)
    values = [naive(COSINE, LABELS.tolist(), t) for t in (0.07, 2.659)]
    assert [t.get_text() for t in curve.texts] == [f"{v:.2f}" for v in values]
    marks = [line for line in curve.lines if len(line.get_xdata()) == 1]
    top = curve.get_ylim()[1]
    assert [m.get_marker() for m in marks] == ["^", "o"] and values[0] > top  # off the scale: at its edge
    assert [m.get_ydata()[0] for m in marks] == pytest.approx([0.97 * top, values[1]])
    assert figures.png(figure) != figures.png(method.temperatures(COSINE, LABELS, [0.07, 0.5], NAMES))


def test_matrices_write_every_number_and_ring_what_they_are_told():
    hidden = COSINE.masked_fill(LABELS[:, None] == LABELS, -torch.inf)
    figure = method.matrices({"all": COSINE, "others": hidden}, NAMES, [(0, 3), (2, 1)])
    left, right = figure.axes
    assert written(left) == [f"{c:.2f}" for c in COSINE.flatten()]
    assert written(right)[:4] == ["–", "–", "-0.50", "0.40"]
    rings = [p for p in right.patches if isinstance(p, Rectangle)]
    centres = {(round(p.get_y() + p.get_height() / 2), round(p.get_x() + p.get_width() / 2)) for p in rings}
    assert centres == {(0, 3), (2, 1)} and not left.patches
    assert left.images[0].get_clim() == (-1, 1)  # not stretched: an untrained network's matrix is pale


def test_padding_is_hatched_from_the_last_real_frame_on():
    mask = torch.tensor([[True] * 5 + [False] * 3, [True] * 8])
    figure = method.padded({"audio": (torch.zeros(2, 8, 3), mask)}, NAMES[:2])
    hatched, whole = (ax.patches[0] for ax in figure.axes)
    assert (hatched.get_x(), hatched.get_width()) == (4.5, 3) and whole.get_width() == 0
    assert figure.axes[0].get_title() == "clip 1: 5 of 8 frames"


def test_curves_lie_between_their_levels():
    figure = method.curves({"L_MEM": [0.7, 0.5, 0.1]}, {"L_MEM": (math.log(2), 0.0)})
    (ax,) = figure.axes
    curve, chance, floor = ax.lines
    assert np.array(curve.get_data()).tolist() == [[1, 2, 3], [0.7, 0.5, 0.1]]
    assert {t.get_text(): t.xy[1] for t in ax.texts} == {"chance": math.log(2), "floor": 0.0}
    assert chance.get_ydata()[0] == math.log(2) and floor.get_ydata()[0] == 0


def test_recordings_show_pictures_evenly_and_the_waveform_in_seconds(clip):
    figure = method.recordings([clip, clip], ["one", "two"])
    shown = [ax.images[0].get_array()[0, 0, 0] for ax in figure.axes[:4]]
    assert shown == [20, 90, 160, 250]
    (wave,) = figure.axes[4].lines
    assert wave.get_xdata()[-1] == pytest.approx(0.5, abs=1e-3) and wave.get_ydata().tolist() == clip.sound.tolist()


def test_attention_shows_the_mean_and_each_head(clip):
    torch.manual_seed(0)
    weights = torch.randn(4, 10, 4).softmax(2)
    figure = method.attention(weights, clip)
    panels = [ax.images[0].get_array() for ax in figure.axes if ax.images and ax.images[0].get_array().shape == (10, 4)]
    assert len(panels) == 5
    np.testing.assert_allclose(panels[0], weights.mean(0))
    for head, panel in zip(weights, panels[1:], strict=True):
        np.testing.assert_allclose(panel, head)
    strip = next(ax.images[0].get_array() for ax in figure.axes if ax.images and ax.images[0].get_array().ndim == 3)
    assert strip[0, :: strip.shape[1] // 4, 0].tolist() == [20, 90, 160, 250]


def test_maps_are_light_where_the_weight_is(clip):
    weights = torch.full((1, 4, 7, 7), 0.4 / 48)
    weights[0, :, 4, 3] = 0.6
    figure = method.maps(weights, [clip.pictures], ["clip"])
    for ax, picture in zip(figure.axes, clip.pictures, strict=True):
        lit = ax.images[0].get_array()
        assert (lit[16:20, 12:16] == picture[0, 0, 0]).all() and lit[0, 0, 0] < 0.5 * picture[0, 0, 0]
        assert ax.get_title() == "60%"


@pytest.mark.parametrize(
    ("draw", "alt", "words"),
    [
        (drawings.foal_net, drawings.FOAL_NET_ALT, ["L_AVEL", "L_MEM", "L_CE", "a2v", "v2a", "hard negative"]),
        (drawings.cfn_sr, drawings.CFN_SR_ALT, ["residual", "softmax over 49", "causal transformer"]),
    ],
)
def test_a_drawing_keeps_its_words_inside_their_boxes(draw, alt, words):
    figure = draw()
    figures.png(figure)  # lays it out
    (ax,) = figure.axes
    said = " ".join(t.get_text() for t in ax.texts)
    assert all(word in said for word in words) and len(alt) > 300
    boxes = [p.get_window_extent() for p in ax.patches if isinstance(p, FancyBboxPatch)]
    inside = 0
    for text in ax.texts:
        extent = text.get_window_extent()
        assert figure.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1, text.get_text()
        for box in boxes:
            if box.contains((extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2):
                inside += 1
                assert box.x0 < extent.x0 and extent.x1 < box.x1, text.get_text()
    assert inside == len(boxes)
