"""Notebook 0, which teaches the method: it runs anywhere, its asserts notice a wrong library, its answers are right."""

import os
import re
import subprocess
import sys
from contextlib import nullcontext
from unittest import mock

import nbformat
import pytest
import torch

from foalkit import ROOT, losses
from foalkit.models.cfnsr import CrossModalBlock
from foalkit.models.foalnet import FoalNet
from foalkit.report import figures, method

FILE = ROOT / "notebooks" / "00_method.ipynb"
CELLS = nbformat.read(FILE, as_version=4).cells
# What a cell holds its own computation against: it must stop when one of these is wrong.
COMPARED = [
    ("masked_mean(audio, audio_mask)", None, "masked_mean"),
    ("z_video), theirs)", FoalNet, "project"),
    ("one_direction(S.T)", losses, "avel"),
    ("avel_levels(labels, temperature", losses, "avel_levels"),
    ("losses.hard_negatives(S, labels)", losses, "hard_negatives"),
    ("theirs = net.fuse(*four)", FoalNet, "fuse"),
    ("theirs = net.fuse(*four)", FoalNet, "attention"),
    ("net.classifier.weight", FoalNet, "forward"),
    ("losses.mem(*pairs", losses, "mem"),
    ("library = three_losses(four", losses, "avel"),
    ("library = three_losses(four", losses, "mem"),
    ("assert_close(m, block", CrossModalBlock, "attention_map"),
    ("assert_close(m, block", CrossModalBlock, "forward"),
]


def nearly(function):
    """A function whose results are a little wrong: numbers by a hundredth, indices by one place."""

    def wrong(x):
        if isinstance(x, torch.Tensor):
            return x + 0.01 if x.is_floating_point() else x.roll(1, 0) if x.dtype == torch.int64 else x
        return type(x)(*map(wrong, x)) if hasattr(x, "_fields") else tuple(map(wrong, x))

    return lambda *args, **kwargs: wrong(function(*args, **kwargs))


@pytest.fixture(scope="module")
def walked():
    """The notebook's names after all cells were run here, and which of COMPARED a cell did not notice when wrong."""
    names, unnoticed, threads = {}, [], torch.get_num_threads()
    with mock.patch.dict(os.environ):
        for cell in (c.source for c in CELLS if c.cell_type == "code"):
            for part, owner, name in COMPARED:
                if part in cell and not stops(cell, dict(names), owner, name):
                    unnoticed.append((part, name))
            exec(cell, names)
    torch.set_num_threads(threads)
    return names, unnoticed


def stops(cell, names, owner, name) -> bool:
    """Whether a cell's own assert ends it where the library's function is wrong."""
    if owner is None:  # it was imported by its name
        names[name] = nearly(names[name])
    changed = mock.patch.object(owner, name, nearly(getattr(owner, name))) if owner else nullcontext()
    with changed:
        try:
            exec(cell, names)
        except AssertionError:
            return True
    return False


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook as papermill leaves it, run from a folder that is not the project's."""
    folder = tmp_path_factory.mktemp("method")
    before = set((ROOT / "outputs").iterdir()) if (ROOT / "outputs").exists() else set()
    call = [sys.executable, "-m", "foalkit.job", FILE, folder / "00_method.ipynb", "--no-progress-bar"]
    done = subprocess.run(call, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    after = set((ROOT / "outputs").iterdir()) if (ROOT / "outputs").exists() else set()
    assert after == before and [f.name for f in folder.iterdir()] == ["00_method.ipynb"]
    return folder / "00_method.ipynb"


def test_it_runs_headless_with_pictures_that_say_what_they_show_and_sounds(executed):
    outputs = [o for c in nbformat.read(executed, as_version=4).cells for o in c.get("outputs", [])]
    assert all(o.output_type != "error" and o.get("name") != "stderr" for o in outputs)
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 12 and all(len(o.metadata["image/png"]["alt"]) > 20 for o in pictures)
    sounds = [o for o in outputs if "<audio" in o.get("data", {}).get("text/html", "")]
    assert len(sounds) == 6  # the four clips; a sound and its hard negative's


def test_nbval_finds_every_output_again(executed):
    call = [sys.executable, "-m", "pytest", "--nbval", "--nbval-cell-timeout=300", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*call, executed], cwd=executed.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:]


def test_every_computation_by_hand_notices_a_library_that_is_wrong(walked):
    assert not walked[1]
    comparing = [c.source for c in CELLS if c.cell_type == "code" and re.search(r"\bassert|assert_", c.source)]
    met = [part for part, *_ in COMPARED]
    other = [s for s in comparing if not any(part in s for part in met)]
    assert len(other) == 1 and "answers_before" in other[0]  # AVEL did not move the answers: held below


def test_the_slider_moves_the_picture_and_the_words(walked):
    names, _ = walked
    slider, picture, words = (names[n] for n in ("slider", "picture", "words"))
    seen = {}
    for temperature in (0.07, 2.659, 0.5):
        slider.value = temperature
        seen[temperature] = picture.value
        drawn = method.temperatures(names["cosine"], names["labels"], [temperature], names["names"])
        assert picture.value == figures.png(drawn)
        loss = method.avel_loss(names["cosine"], names["labels"], temperature)
        assert f"τ = {temperature:g}: loss {loss:.2f}, chance 2.77" in words.value
    assert len(set(seen.values())) == 3


def test_a_static_twin_stands_above_the_slider():
    sources = [c.source for c in CELLS if c.cell_type == "code"]
    twin = next(i for i, s in enumerate(sources) if "method.temperatures" in s)
    assert "[0.07, 0.5, 2.659]" in sources[twin] and "figures.show" in sources[twin]
    assert "SelectionSlider" not in "".join(sources[: twin + 1])
    (shown,) = [c for c in CELLS if c.cell_type == "code" and "ipywidgets.VBox" in c.source]
    assert "nbval-ignore-output" in shown.metadata["tags"]


def test_avel_alone_moved_the_projections_and_no_answer(walked):
    names, _ = walked
    assert names["moved"] == ["audio_projection", "video_projection"]
    assert torch.equal(names["answers_before"], names["answers_after"])


def test_the_text_tells_what_is_seen(walked):
    """What the prose says of the default seed, which holds on every processor that computes as the demo's do."""
    names, _ = walked
    assert names["picture_for_sound"].tolist()[:2] == [3, 3]  # both happy sounds: the man with the half smile
    assert names["cosine"][:2, 3].min() > 0.4 and names["cosine"][:2, 2].max() < -0.5
    chance, floor, after = names["chance"], names["floor"], names["after"]
    assert floor < after < chance
    history = names["history"]
    assert history["L_CE"][10] < 0.1 and sum(history["L_MEM"][:20]) / 20 > 0.5 and history["L_MEM"][-1] < 0.2
    table = names["table"]
    assert table["match with its own pictures"].min() > 0.5
    assert table["match with its negative's"][:2].min() > 0.5 > table["match with its negative's"][2:].max()
    mean_map = names["mean_map"]  # brows and mouth: rows 2 and 4, in the middle
    assert divmod(int(mean_map.argmax()), 7) == (2, 3) and mean_map[4, 3] > 2 / 49
    assert float(mean_map.sum()) == pytest.approx(1, abs=1e-5)


def test_the_folded_answers_are_right(walked):
    names, _ = walked
    text = "\n".join(c.source for c in CELLS if c.cell_type == "markdown")
    exercises = re.findall(r"\*\*Exercise (\d+)\.\*\*(.*?)</details>", text, re.S)
    assert [int(n) for n, _ in exercises] == list(range(1, len(exercises) + 1)) and len(exercises) >= 8
    assert all("<details><summary>Answer</summary>" in said for _, said in exercises)
    real = names["audio_mask"].sum(1)
    assert real.argmax() == 1 and real.argmin() == 3 and "28 of 38" in text and real[[3, 1]].tolist() == [28, 38]
    chance, floor = losses.avel_levels(torch.arange(4), 2.659, classes=4)
    assert f"{chance:.3f}" == "1.386" and f"= {floor:.3f}" in text
    drawn = names["candidates"][0].softmax(0)
    sharp = (names["candidates"][0] * names["temperature"] / 0.07).softmax(0)
    assert f"gives {drawn[2]:.2f} and {drawn[3]:.2f} at" in text and f"gives {sharp[2]:.2f} and {sharp[3]:.2f}," in text
    at = {t: method.avel_loss(names["cosine"], names["labels"], t) for t in names["taus"]}
    lowest = sorted(at, key=at.get)[:2]
    assert sorted(lowest) == [1, 1.5] and f"{at[lowest[0]]:.2f}" in text
    (code,) = re.findall(r"> ```python\n(.*?)> ```", text, re.S)
    with torch.no_grad():
        exec(code.replace("> ", ""), dict(names))  # shuffled pictures change nothing
    score = names["block"].score  # after its last training step
    assert score.bias.grad.abs().max() < 1e-4 * score.weight.grad.abs().max()


def test_a_misspelt_parameter_is_refused(tmp_path):
    call = [sys.executable, "-m", "foalkit.job", FILE, tmp_path / "out.ipynb", "--no-progress-bar", "-p", "sed", "2"]
    done = subprocess.run(call, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    line = next(line for line in done.stderr.splitlines() if "UserError" in line)
    assert done.returncode != 0 and "'sed'" in line and "'seed'" in line
