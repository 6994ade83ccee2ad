"""Notebook 06 headless: on a clean checkout it says one line, with the published posteriors it prints 86.70 again."""

import nbformat
import papermill
import pytest

from foalkit import ROOT

FILE = ROOT / "notebooks" / "06_recompute.ipynb"


def ran(out, **parameters):
    """The cells' outputs of a headless run, in order, of those that have any."""
    papermill.execute_notebook(FILE, out, parameters, progress_bar=False, start_timeout=180)
    cells = nbformat.read(out, as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_without_the_posteriors_it_says_what_to_do_and_ends(tmp_path, monkeypatch):
    monkeypatch.delenv("RAVDESS_POSTERIORS", raising=False)
    (said,) = ran(str(tmp_path / "out.ipynb"))
    assert said["text"].count("\n") == 1 and "git clone" in said["text"] and "RAVDESS_POSTERIORS" in said["text"]


def test_with_them_it_prints_the_printed_number_and_what_it_is_worth(posteriors_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RAVDESS_POSTERIORS", str(posteriors_folder))
    folds, printed, scores, picture, differences = ran(str(tmp_path / "out.ipynb"))
    assert folds["text"] == "1440 takes, 24 actors, 5 folds\n"
    assert printed["data"]["text/html"].count("86.70") == 2 and "86.90" in printed["data"]["text/html"]
    assert all(f"<th>{metric}</th>" in scores["data"]["text/html"] for metric in ("WA", "UA"))
    assert picture.metadata["image/png"]["alt"].startswith("UA of video, audio, fusion and product")
    assert differences["data"]["text/html"].count("[") == 8


def test_a_misspelt_parameter_is_named(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        ran(str(tmp_path / "out.ipynb"), foldr="x")
    assert "unknown notebook parameter 'foldr'; did you mean 'folder'?" in str(caught.value)
