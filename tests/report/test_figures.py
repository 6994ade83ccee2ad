"""Figures show what their tables hold: lines, marks and labels read back from matplotlib."""

import numpy as np
import pandas as pd
import pytest

from foalkit.report import figures


@pytest.fixture
def folds():
    """UA of two folds over four epochs, and what each rule chose."""
    ua = {1: [0.3, 0.6, 0.5, 0.4], 2: [0.2, 0.3, 0.8, 0.7]}
    epochs = pd.DataFrame(
        [{"fold": f, "seed": 0, "epoch": e, "ua": v} for f, values in ua.items() for e, v in enumerate(values, 1)]
    )
    rules = {"validation": {1: 3, 2: 2}, "last": {1: 4, 2: 4}, "test": {1: 2, 2: 3}}
    chosen = pd.DataFrame(
        [
            {"fold": f, "selection": rule, "epoch": e, "ua": ua[f][e - 1]}
            for rule, by_fold in rules.items()
            for f, e in by_fold.items()
        ]
    )
    return epochs, chosen


def test_peeking_has_a_line_a_fold_their_mean_and_each_rules_choice(folds):
    figure = figures.peeking({"honest": folds, "again": (folds[0], folds[1].query("selection != 'validation'"))})
    left, right = figure.axes
    lines = {tuple(np.round(line.get_ydata(), 6)) for line in left.lines}
    assert {(0.3, 0.6, 0.5, 0.4), (0.2, 0.3, 0.8, 0.7), (0.25, 0.45, 0.65, 0.55)} <= lines
    assert {(0.5, 0.3), (0.4, 0.7), (0.6, 0.8)} <= lines  # validation, last, test
    texts = {t.get_text(): t.get_position()[1] for t in left.texts}
    assert set(texts) == {"validation 40.0%", "last 55.0%", "test 70.0%"}
    assert texts["validation 40.0%"] < texts["last 55.0%"] < texts["test 70.0%"]
    assert {t.get_text() for t in right.texts} == {"last 55.0%", "test 70.0%"}
    assert max(left.get_xticks()) <= 4
    assert len(figures.png(figure)) > 5000


def test_labels_of_equal_values_do_not_lie_on_each_other(folds):
    epochs, chosen = folds
    same = chosen.assign(ua=0.5)
    (ax,) = figures.peeking({"x": (epochs, same)}).axes
    places = sorted(t.get_position()[1] for t in ax.texts)
    assert min(np.diff(places)) > 0.03 * (0.8 - 0.2)


def test_reliability_draws_each_bin_and_larger_dots_for_more_answers():
    table = pd.DataFrame({"confidence": [0.3, 0.9], "accuracy": [0.2, 0.7], "answers": [10, 90]})
    (ax,) = figures.reliability({"a": table}).axes
    (dots,) = ax.collections
    assert dots.get_offsets().tolist() == [[0.3, 0.2], [0.9, 0.7]]
    assert dots.get_sizes()[1] > 4 * dots.get_sizes()[0]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a"]
