"""The registry of printed results, their ranking, and the check of printed numbers against the records."""

import csv
import json
import re
import shutil
import subprocess
import sys

import made_up
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import refused

from foalkit import ROOT, cli, params
from foalkit.params.load import read_published
from foalkit.params.rows import PublishedRow
from foalkit.report import page as report
from foalkit.report.check import check
from foalkit.results import published as report_published
from foalkit.results import records
from foalkit.results import tables as report_tables
from foalkit.results import variants as report_results

# made-up runs under a folder of their own
p, grid, grid_once, undrawn = made_up.p, made_up.grid, made_up.grid_once, made_up.undrawn
pytestmark = pytest.mark.usefixtures("undrawn")
FILE = ROOT / "params" / "published.yaml"


@pytest.fixture(scope="module")
def written_once(tmp_path_factory):
    """Made-up runs with everything that is printed from them, and a copy of it all to put back."""
    p = made_up.params_in(tmp_path_factory.mktemp("written") / "out")
    made_up.write_grid(p)
    results = made_up.results(p)
    for result in results:
        report_results.write_five_fold(p, result)
    report.write_report(p, results)
    return p, shutil.copytree(p.folder, p.folder.with_name("copy"))


@pytest.fixture
def written(written_once):
    """Their params; whatever an earlier test changed is put back."""
    p, copy = written_once
    shutil.rmtree(p.folder)
    shutil.copytree(copy, p.folder)
    return p


def row(**changes):
    return PublishedRow.model_validate(
        {
            "system": "x",
            "corpus": "IEMOCAP",
            "modality": "A",
            "ua": 50.0,
            "protocol": "unknown",
            "source": "here",
            **changes,
        }
    )


# ---- the registry ---------------------------------------------------------------------------------


def test_the_registry_holds_the_papers_tables():
    rows = read_published()
    printed = {(r.corpus, r.system): (r.ua, r.wa) for r in rows}
    assert len(printed) == len(rows)  # no row twice
    assert all(r.year and re.match(r"(doi:10\.|arXiv:)\d", r.source) for r in rows)
    # spec, spelt out: Foal-Net's Tables 1 and 2, and CFN-SR's
    assert printed["IEMOCAP", "Foal-Net"] == (80.10, 79.45)
    assert printed["IEMOCAP", "MMAN"] == (None, 73.94) and printed["IEMOCAP", "GCNet"] == (78.36, None)
    assert sum(r.source.startswith("doi:10.21437/Interspeech.2024-1462") for r in rows) == 12 + 9
    assert printed["RAVDESS", "CFN-SR"] == (None, 75.76) and printed["RAVDESS", "MSAF"] == (None, 74.86)
    assert sum(r.source.startswith("arXiv:2111.02172") for r in rows) == 11
    selected = {r.system for r in rows if r.protocol == "test-selected"}
    assert {"Foal-Net", "CFN-SR", "HiCMAE-B"} < selected and "MSAF" not in selected


def test_the_variants_printed_numbers_are_the_registrys():
    registry = {
        r.system.removeprefix("Foal-Net: "): (r.ua, r.wa)
        for r in read_published()
        if (r.corpus == "IEMOCAP" and "Table" in r.source) or r.source.startswith("arXiv:2111.02172")
    }
    printed = {m: v for v in params.load("demo").variants.values() for m, v in v.published.items()}
    assert len(printed) == 9 + 4  # Foal-Net's Table 2, and CFN-SR's two modalities, splicing and itself
    assert all(registry[method] == percent for method, percent in printed.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "test-select"}, ["RAVDESS", "Mine", "protocol", "'test-select'", "'test-selected'"]),
        ({"wa": None}, ["Mine", "neither ua nor wa"]),
        ({"wa": 0.5, "ua": 101}, ["Mine", "ua", "100"]),
        ({"accuracy": 50}, ["Mine", "accuracy"]),
    ],
)
def test_a_row_that_is_not_whole_is_named(tmp_path, change, words):
    line = {"system": "Mine", "year": 2026, "modality": "A", "wa": 50.0, "protocol": "unknown", "source": "s"}
    (tmp_path / "published.yaml").write_text(yaml.safe_dump({"RAVDESS": [{"rows": [line | change]}]}))
    said = refused(lambda: read_published(tmp_path / "published.yaml"))
    assert all(word in said for word in ["published.yaml", *words])


def test_the_registry_is_no_params_file():
    assert "unknown params file" in refused(lambda: params.load("published"))


# ---- ranking --------------------------------------------------------------------------------------


def test_rows_are_ranked_by_the_metric_most_of_them_print():
    rows = [row(system="a", ua=None, wa=90.0), row(system="b"), row(system="c", ua=60.0), row(system="d")]
    assert [(place, r.system) for place, r in report_published.rank(rows)] == [
        (1, "c"),
        (2, "b"),
        (2, "d"),
        (None, "a"),
    ]
    assert report_published.rank([]) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "test-selected"}, ["'unknown'", "'test-selected'", "protocol"]),
        ({"corpus": "RAVDESS"}, ["'IEMOCAP'", "'RAVDESS'", "corpus"]),
    ],
)
def test_rows_of_different_protocols_or_corpora_are_not_ranked(change, words):
    said = refused(lambda: report_published.rank([row(), row(**change)]))
    assert all(word in said for word in words)


def ours(table):
    return [s for s in table["system"] if s.startswith("ours: ")]


def test_our_rows_stand_only_where_the_epoch_was_chosen_in_the_same_way(p, grid):
    rows = report_tables.ablation_rows(p, made_up.results(p))
    rows.loc[rows["protocol"] == "published", "ua_pooled"] = 0.779  # below 78.10, 79.31 and 80.10
    real = p.model_copy(update={"corpus": p.corpus.model_copy(update={"generate": None})})
    tables = report_published.published_tables(real, rows)
    assert {tag: len(ours(t)) for tag, t in tables.items()} == {
        "validation-selected": 3,
        "test-selected": 1,
        "unknown": 0,
    }
    peeking = tables["test-selected"].set_index("system")
    mine = peeking.loc[f"ours: {p.variants['foal-net'].label}"]
    assert (mine["UA"], mine["place"], mine["modality"]) == ("77.90", "4", "A+V")
    assert mine["source"] == "five_fold/published-foal-net.json"
    assert peeking.index[-1] == "MERBench" and peeking.loc["MERBench", ["place", "UA", "WA"]].tolist() == ["–"] * 3
    assert peeking["UA"].iloc[:-1].astype(float).is_monotonic_decreasing and peeking.index[0] == "Foal-Net"
    assert set(tables["unknown"]["system"]) >= {"GCNet", "MSER"}
    assert "CFN-SR" not in set(peeking.index)
    assert [report._published_group(t)["ours"] for t in tables.values()] == [True, True, False]  # unfolded


def test_a_generated_corpus_and_other_classes_stand_apart(p, grid):
    rows = report_tables.ablation_rows(p, made_up.results(p))
    assert "generated" in report_published.why_apart(p)
    assert not any(ours(t) for t in report_published.published_tables(p, rows).values())
    corpus = p.corpus.model_copy(update={"generate": None, "classes": ["happy", "sad"]})
    two = p.model_copy(update={"corpus": corpus})
    assert "4 classes and ours of 2" in report_published.why_apart(two)
    assert not any(ours(t) for t in report_published.published_tables(two, rows).values())


def test_the_report_says_why_groups_are_not_ranked_and_why_ours_are_missing(written):
    section = (written.folder / "report.html").read_text().split('<h2 id="published">')[1].split("<h2")[0]
    assert "Across groups nothing is ranked" in section and "is generated" in section
    assert section.index("<summary>test-selected") < section.index("<summary>unknown")
    assert section.count("its validation shares speakers") == 1 and "<details open" not in section
    assert "ours: " not in section and "CFN-SR" not in section and "80.10" in section


# ---- the check ------------------------------------------------------------------------------------


def test_the_five_fold_file_leads_to_the_runs(written):
    kept = json.loads((written.folder / "five_fold" / "honest-audio.json").read_text())
    assert [r["fold"] for r in kept["runs"]] == [1, 2, 3, 4, 5]
    for r in kept["runs"]:
        record = json.loads((written.folder / r["record"]).read_text())
        assert (record["variant"], record["fold"], record["seed"]) == ("audio", r["fold"], r["seed"])
        assert (written.folder / r["folder"] / "predictions.parquet").exists()


def test_a_report_just_written_agrees_and_stays_as_it_is(written):
    def files():
        return {f: f.stat().st_mtime_ns for f in written.folder.rglob("*")}

    before = files()
    differences, numbers = check(written)
    assert differences == [] and numbers > 500
    assert files() == before  # nothing is written over


def change(file, old, new):
    text = file.read_text()
    assert text.count(old) >= 1
    file.write_text(text.replace(old, new, 1))


def test_a_changed_digit_of_the_report_is_named(written):
    ua = report_results.variant_result(written, "honest", "foal-net").row["ua_pooled"]
    html = written.folder / "report.html"
    head, table = html.read_text().split('<h2 id="ablation">')
    cell = f"{100 * ua:.2f}"
    assert cell in table
    html.write_text(head + '<h2 id="ablation">' + table.replace(cell, "99.99", 1))
    (line,), _ = check(written)
    assert line.startswith("report.html: #ablation, table 1, row 3, UA: ")
    assert "99.99" in line.split("recomputed")[0] and cell in line.split("recomputed")[1]


def test_a_changed_headline_is_named(written):
    ua = report_results.variant_result(written, "honest", "foal-net").row["ua_pooled"]
    change(written.folder / "report.html", f"<b>{ua:.1%}</b>", "<b>99.9%</b>")
    (line,), _ = check(written)
    assert line.startswith("report.html: top, text") and "99.9%" in line and f"{ua:.1%}" in line


def test_changed_cells_of_csv_tex_and_json_are_named(written):
    with (written.folder / "tables" / "ablation.csv").open() as file:
        value = list(csv.DictReader(file))[1]["ua_low"]
    change(written.folder / "tables" / "ablation.csv", value, "0.123")
    change(written.folder / "tables" / "peeking.tex", "80.10", "81.00")
    change(written.folder / "five_fold" / "honest-audio.json", '"epoch": 3', '"epoch": 4')
    (written.folder / "tables" / "ledger.csv").unlink()
    lines = sorted(check(written)[0])
    assert len(lines) == 4
    assert re.match(r"five_fold/honest-audio.json: folds \d+ epoch: printed '4', recomputed '3'", lines[0])
    assert lines[1].startswith("tables/ablation.csv: row 2, ua_low: printed '0.123', recomputed '0.")
    assert lines[2] == "tables/ledger.csv: not there"
    assert lines[3].startswith("tables/peeking.tex: line") and "81.00" in lines[3] and "80.10" in lines[3]


def spoil(p, fold):
    """Turn one right answer of a run's chosen epoch wrong; returns the record's folder and WA before."""
    folder = records.run_folder(p, "honest", "audio", fold, 0)
    record = records.read_record(folder / "record.json")
    table = pd.read_parquet(folder / "predictions.parquet")
    logits = table.filter(like="logit_").columns
    right = table[logits].to_numpy().argmax(1) == table["true"]
    chosen = record["scores"]["validation"]
    at = np.flatnonzero(right & (table["split"] == "test") & (table["epoch"] == chosen["epoch"]))[0]
    table.loc[at, logits] = np.roll(table.loc[at, logits].to_numpy(float), 1).astype("f4")
    records.write_parquet(folder / "predictions.parquet", table)
    return folder, record


def test_changed_predictions_are_named(written):
    spoil(written, 2)
    (line,), _ = check(written)
    assert "honest/audio/fold2-seed0/predictions.parquet" in line and "digest differs" in line


def test_scores_that_the_predictions_do_not_give_are_named_digest_or_not(written):
    folder, record = spoil(written, 4)
    digest = records.file_digest(folder / "predictions.parquet")
    records.write_json(folder / "record.json", record | {"predictions_digest": digest})
    lines, _ = check(written)
    was = record["scores"]["validation"]["wa"]
    said = f"runs/honest/audio/fold4-seed0: WA, epoch by validation: printed {was:.6f}, "
    assert any(line == said + f"recomputed {was - 1 / 40:.6f}" for line in lines)
    assert all("fold4" in line for line in lines)


def test_a_variant_outside_the_ablation_is_checked_by_its_five_fold_file(written):
    for fold in range(1, 6):
        made_up.write_run(written, "honest", "mem", fold, 0.6)
    file = report_results.write_five_fold(written, report_results.variant_result(written, "honest", "mem"))
    assert check(written)[0] == []
    change(file, '"utterances": 200', '"utterances": 201')
    (line,), _ = check(written)
    assert line == "five_fold/honest-mem.json: row utterances: printed '201', recomputed '200'"


def test_the_command_says_it_in_lines_and_in_its_exit_code(written, capfd):
    def run(*more):
        call = [sys.executable, "-W", "error::RuntimeWarning", "-m", "foalkit", "check", "demo"]
        return subprocess.run([*call, *more], capture_output=True, text=True)

    ablation = "ablation={honest: [audio, baseline, foal-net, ledger-cosine], published: [foal-net]}"
    outputs = f"outputs={written.folder}"
    done = run(outputs, ablation)
    assert (
        done.returncode == 0
        and re.fullmatch(r"\d+ numbers agree, 0 stores hold what was written\n", done.stdout)
        and not done.stderr
    )
    done = run(f"outputs={written.folder / 'none'}")
    assert done.returncode == 1 and done.stderr == "error: demo: no report.html; run 04_ablation first\n"
    change(written.folder / "tables" / "ablation.csv", "0.801", "0.811")
    capfd.readouterr()
    assert cli.main(["check", "demo", outputs, ablation]) == 1
    said = capfd.readouterr()
    assert said.out.count("\n") == 1 and not said.err
    assert "tables/ablation.csv: row 3, ua_printed: printed '0.811'" in said.out
