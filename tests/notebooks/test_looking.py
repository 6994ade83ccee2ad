"""Notebook 1 on any corpus: classes without utterances, a first take without a picture, a damaged film."""

import sys
from pathlib import Path

import pytest

from foalkit import ROOT

sys.path.append(str(ROOT / "tests" / "features"))

from odd_media import wav, with_offsets, write_film
from test_bad_tree import TONE
from test_notebooks import run_cells

FOLDS = '{by: speaker, groups: [["Actor_01"], ["Actor_02"], ["Actor_03"]], published: null}'


@pytest.fixture
def takes(tmp_path) -> Path:
    root = tmp_path / "corpus"
    root.mkdir()
    for emotion in ("03", "04"):
        for actor in ("01", "02", "03"):
            take = f"01-{emotion}-01-01-01-{actor}"
            wav(root / f"03-{take}.wav", TONE.tobytes())
            film = write_film(root / f"02-{take}.mp4", [n / 30 for n in range(15)])
            if actor == "02":
                with_offsets(film, 10**9)
    (root / "02-01-03-01-01-01-01.mp4").unlink()
    return root


def test_notebook_1_shows_what_is_there(takes, tmp_path, capsys):
    changes = {
        "outputs": tmp_path / "outputs",
        "corpus.root": takes,
        "features.video": "null",
        "ablation": "{honest:[audio],published:[]}",
        "folds": FOLDS.replace(" ", ""),
    }
    overrides = " ".join(f"{key}={value}" for key, value in changes.items())
    run_cells("01_preprocess", params="ravdess-speech", overrides=overrides)
    assert "ready: 6 utterances" in capsys.readouterr().out
