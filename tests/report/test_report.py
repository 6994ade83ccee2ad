"""Report and tables from made-up records: every printed number against a count by hand."""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import product

import made_up
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from made_up import CLASSES, answers, manifest, naive_recall, results, write_run

from foalkit import UserError
from foalkit.params.load import read_ledger
from foalkit.report import page as report
from foalkit.results import records, scoring
from foalkit.results import tables as report_tables
from foalkit.results import variants as report_results

# made-up runs under a folder of their own
p, grid, grid_once, undrawn = made_up.p, made_up.grid, made_up.grid_once, made_up.undrawn


def test_the_row_is_what_a_hand_count_of_the_predictions_gives(p, grid):
    row = report_results.variant_result(p, "honest", "foal-net").row
    true, predicted, folds = [], [], []
    for fold in range(1, 6):
        table = grid["honest", "foal-net", fold]

        def answers(split, epoch, table=table):
            part = table[(table["split"] == split) & (table["epoch"] == epoch)]
            return part["true"].tolist(), part[[f"logit_{c}" for c in CLASSES]].to_numpy().argmax(1).tolist()

        best = max(range(1, 4), key=lambda e: naive_recall(*answers("validation", e)))
        t, q = answers("test", best)
        true += t
        predicted += q
        folds.append(naive_recall(t, q))
    assert row["ua_pooled"] == pytest.approx(naive_recall(true, predicted))
    assert row["wa_pooled"] == pytest.approx(np.mean(np.array(true) == predicted))
    assert row["ua_folds"] == pytest.approx(np.mean(folds))
    assert row["ua_low"] < row["ua_pooled"] < row["ua_high"]
    assert row["peeking"] == pytest.approx(row["ua_test"] - row["ua_folds"]) and row["peeking"] >= 0


def test_the_published_protocol_selects_on_the_test_fold_and_says_so(p, grid):
    row = report_results.variant_result(p, "published", "foal-net").row
    assert row["selection"] == "test" and row["ua_folds"] == pytest.approx(row["ua_test"])
    rows = [grid["published", "foal-net", fold].query("split == 'test'") for fold in range(1, 6)]
    by_epoch = []
    for table in rows:
        parts = [table[table["epoch"] == epoch] for epoch in (1, 2, 3)]
        answered = [part[[f"logit_{c}" for c in CLASSES]].to_numpy().argmax(1).tolist() for part in parts]
        by_epoch.append([naive_recall(part["true"].tolist(), a) for part, a in zip(parts, answered, strict=True)])
    # there is no validation side to choose by: the last epoch is the rule that does not look
    assert row["peeking"] == pytest.approx(np.mean([max(uas) - uas[-1] for uas in by_epoch])) and row["peeking"] > 0


def test_a_missing_run_is_named_and_a_run_of_other_params_does_not_count(p, grid):
    (records.run_folder(p, "honest", "audio", 4, 0) / "record.json").unlink()
    with pytest.raises(UserError, match="honest/audio: no run for fold 4 seed 0"):
        report_results.variant_result(p, "honest", "audio")
    write_run(p, "honest", "audio", 4, 0.5, params_digest="0" * 16)
    with pytest.raises(UserError, match="fold 4 seed 0"):
        report_results.variant_result(p, "honest", "audio")


def test_changed_predictions_are_refused(p, grid):
    file = records.run_folder(p, "honest", "audio", 2, 0) / "predictions.parquet"
    pd.read_parquet(file).iloc[1:].to_parquet(file)
    with pytest.raises(UserError, match="digest differs"):
        report_results.variant_result(p, "honest", "audio")


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_report_is_self_contained_and_its_links_lead_somewhere(p, grid):
    file = report.write_report(p, results(p))
    for r in results(p):
        report_results.write_five_fold(p, r)
    text = file.read_text()
    page = Page(text)
    assert not {t for t, _ in page.tags} & {"script", "link", "iframe", "object"}
    assert "@import" not in text and "url(" not in text
    images = [a for t, a in page.tags if t == "img"]
    assert len(images) >= 4 and all(a["src"].startswith("data:image/png;base64,") and a["alt"] for a in images)
    ids = {a["id"] for _, a in page.tags if "id" in a}
    for link in [a["href"] for t, a in page.tags if t == "a"]:
        assert link[1:] in ids if link.startswith("#") else (file.parent / link).exists(), link
    for result in results(p):
        ledger = result.row["variant"].startswith("ledger-")  # there a difference is printed
        assert (f"{100 * result.row['ua_pooled']:.2f}" in text) != ledger
    assert "80.10" in text and "0.0625" in text


@pytest.mark.usefixtures("undrawn")
def test_every_table_is_a_named_region_for_the_keyboard_and_methods_are_folded(p, grid):
    page = BeautifulSoup(report.write_report(p, results(p)).read_text(), "html.parser")
    regions = [table.parent for table in page.find_all("table")]
    assert len(regions) > 5 and all((r.get("role"), r.get("tabindex")) == ("region", "0") for r in regions)
    names = [r["aria-label"] for r in regions]
    assert all(names) and len(set(names)) == len(names)
    for said in (
        "from a bootstrap that resamples speakers",
        "Student's t",
        "exchange their answers speaker by speaker",
    ):
        texts = [t for t in page.find_all(string=True) if said in t]
        assert texts and all(t.find_parent("details").summary.get_text() for t in texts)


def test_the_same_records_give_the_same_report(p, grid):
    first = report.write_report(p, results(p)).read_bytes()
    assert report.write_report(p, results(p)).read_bytes() == first


@pytest.mark.usefixtures("undrawn")
def test_tables_as_csv_and_booktabs(p, grid):
    report.write_report(p, results(p))
    folder = p.folder / "tables"
    rows = list(csv.DictReader((folder / "ablation.csv").open()))
    assert [(r["protocol"], r["variant"]) for r in rows] == [
        ("honest", "audio"),
        ("honest", "baseline"),
        ("honest", "foal-net"),
        ("published", "foal-net"),
    ]
    assert float(rows[2]["ua_printed"]) == 0.801 and float(rows[2]["wa_printed"]) == 0.7945
    names = {f.stem for f in folder.glob("*.tex")}
    assert names == {"claims", "ablation", "protocols", "peeking", "differences", "calibration", "errors", "strata"}
    for name in names:
        tex = (folder / f"{name}.tex").read_text()
        assert all(rule in tex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
        body = tex[tex.index(r"\toprule") : tex.index(r"\bottomrule")]
        lines = [line for line in body.splitlines() if line.rstrip().endswith(r"\\")]
        columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", tex)[1]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(columns) - 1}
        assert not re.search(r"(?<!\\)[_%]", body)
    assert r"{lllrrrrr}" in (folder / "ablation.tex").read_text()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no TeX here")
def test_every_table_compiles_with_booktabs(p, grid, tmp_path):
    write_absent(p, grid, "foal-net")
    report.write_report(p, results(p))
    tables = sorted((p.folder / "tables").glob("*.tex"))
    assert len(tables) == 9
    inputs = "\n\n".join(rf"\input{{{t}}}" for t in tables)
    page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}\small {inputs}\end{{document}}"
    (tmp_path / "page.tex").write_text(page)
    call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").stat().st_size > 5000


def naive_difference(a, b):
    assert a.keys() == b.keys() and all(a[u][0] == b[u][0] for u in a)
    true = [a[u][0] for u in a]
    return 100 * (naive_recall(true, [a[u][1] for u in a]) - naive_recall(true, [b[u][1] for u in a]))


def test_paired_differences_are_of_the_same_utterances(p, grid):
    table = report_tables.paired_differences(p, results(p))
    assert table["variant"].tolist() == [p.variants["foal-net"].label]  # neither audio's nor the ledger's
    want = naive_difference(*(answers(p, grid, v) for v in ("foal-net", "baseline")))
    assert float(table["UA difference (points)"].iloc[0]) == pytest.approx(want, abs=0.0051)


# ---- the ledger -----------------------------------------------------------------------------------


def test_the_ledgers_effect_is_against_foal_net_on_the_same_utterances(p, grid):
    table = report_tables.ledger_table(p, results(p)).set_index("variant")
    line = table.loc[p.variants["ledger-cosine"].label]
    a, b = answers(p, grid, "ledger-cosine"), answers(p, grid, "foal-net")
    want = naive_difference(a, b)
    assert want < -10  # 0.4 against 0.7 right
    assert float(line["UA difference (points)"]) == pytest.approx(want, abs=0.0051)
    assert line["protocol"] == "honest" and line["#"] == 7
    low, high = map(float, line["95 % interval"].strip("[]").split(","))
    rng, draws = np.random.default_rng(0), []  # speakers drawn with all their utterances, by hand
    by_speaker = {}
    for u, (_, _, speaker) in a.items():
        by_speaker.setdefault(speaker, []).append(u)
    for _ in range(3000):
        drawn = [u for s in rng.choice(list(by_speaker), 10) for u in by_speaker[s]]
        true = np.array([a[u][0] for u in drawn])
        right = np.array([[x[u][1] == x[u][0] for u in drawn] for x in (a, b)])
        recall = [np.mean([r[true == c].mean() for c in set(true)]) for r in right]
        draws.append(100 * (recall[0] - recall[1]))
    assert (low, high) == pytest.approx(np.percentile(draws, [0.855, 99.145]), abs=1)  # ten speakers


def test_the_ledger_has_a_line_for_every_row_and_variant_run_or_not(p, grid):
    table = report_tables.ledger_table(p, results(p))
    rows = read_ledger()
    assert [n for n in table["#"] if n != ""] == list(rows)
    assert len(table) == sum(max(1, len(r.variants)) for r in rows.values())
    effects = table.set_index("variant")["UA difference (points)"]
    names = [n for r in rows.values() for n in r.variants]
    others = [p.variants[n].label for n in names if n != "ledger-cosine"]
    assert (effects[others] == "not measured here").all()
    assert set(effects[""]) == {rows[8].see, rows[9].see}


@pytest.mark.usefixtures("undrawn")
def test_the_ledgers_variants_are_in_their_own_table_only(p, grid):
    rows = report_tables.ablation_rows(p, results(p))
    assert "ledger-cosine" not in set(rows["variant"])
    text = report.write_report(p, results(p)).read_text()
    main, ledger = text.split('<h2 id="ledger">')
    assert p.variants["ledger-cosine"].label not in main.split('<h2 id="ablation">')[1]
    ledger = ledger.split("<h2")[0]
    assert p.variants["ledger-cosine"].question in ledger and "<details" not in ledger
    assert "<b>ours</b>" in ledger
    others = sum(len(r.variants) for r in read_ledger().values()) - 1
    assert (p.folder / "tables" / "ledger.csv").read_text().count("not measured here") == others


@pytest.mark.usefixtures("undrawn")
def test_without_a_ledger_variant_the_ledger_is_folded_away(p, grid):
    kept = [r for r in results(p) if r.row["variant"] != "ledger-cosine"]
    ledger = report.write_report(p, kept).read_text().split('<h2 id="ledger">')[1].split("<h2")[0]
    assert "<details" in ledger and "most similar clip of another emotion" in ledger
    assert p.variants["ledger-cosine"].question in ledger


# ---- a missing modality ---------------------------------------------------------------------------


def write_absent(p, grid, variant, folds=range(1, 6)):
    """absent.parquet of each fold: without audio a third right, without video half; returns all rows."""
    kept = []
    for fold in folds:
        test = grid["honest", variant, fold].query("split == 'test' and epoch == 1")
        for condition, every in (("no audio", 3), ("no video", 2)):
            right = np.arange(40) % every == 0
            predicted = np.where(right, test["true"], (test["true"] + 1) % 4)
            logits = np.eye(4, dtype=np.float32)[predicted]
            table = test[["utterance", "speaker", "true"]].assign(
                condition=condition, **{f"logit_{c}": logits[:, i] for i, c in enumerate(CLASSES)}
            )
            kept.append(table.assign(predicted=predicted, fold=fold))
    rows = pd.concat(kept)
    for fold, part in rows.groupby("fold"):
        folder = records.run_folder(p, "honest", variant, fold, 0)
        records.write_parquet(folder / "absent.parquet", part.drop(columns=["predicted", "fold"]))
        record = json.loads((folder / "record.json").read_text())
        digest = records.file_digest(folder / "absent.parquet")
        records.write_sealed(folder / "record.json", record | {"absent_digest": digest})
    return rows


@pytest.mark.usefixtures("undrawn")
def test_a_missing_modality_stands_beside_the_other_one_alone(p, grid):
    rows = write_absent(p, grid, "foal-net")
    write_absent(p, grid, "ledger-cosine")
    table = report_tables.absent_table(p, results(p)).set_index("variant")
    assert table.index.tolist() == [p.variants[v].label for v in ("audio", "foal-net")]
    line = table.loc[p.variants["foal-net"].label]

    def number(cell):
        value, low, high = map(float, re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", cell).groups())
        assert low < value < high
        return value

    for column, condition in (("sound only", "no video"), ("picture only", "no audio")):
        part = rows[rows["condition"] == condition]
        want = 100 * naive_recall(part["true"].tolist(), part["predicted"].tolist())
        assert number(line[column]) == pytest.approx(want, abs=0.0051)
    assert number(line["picture only"]) < number(line["sound only"])
    assert number(line["both"]) == pytest.approx(
        100 * report_results.variant_result(p, "honest", "foal-net").row["ua_pooled"], abs=0.0051
    )
    alone = table.loc[p.variants["audio"].label]
    assert alone["both"] == alone["picture only"] == "–"
    assert number(alone["sound only"]) == pytest.approx(
        100 * report_results.variant_result(p, "honest", "audio").row["ua_pooled"], abs=0.0051
    )
    text = report.write_report(p, results(p)).read_text()
    missing = text.split('<h2 id="missing">')[1].split("<h2")[0]
    assert line["picture only"] in missing.replace("\u00a0", " ")


@pytest.mark.usefixtures("undrawn")
def test_without_all_folds_of_it_no_missing_modality_is_shown(p, grid):
    assert 'id="missing"' not in report.write_report(p, results(p)).read_text()
    write_absent(p, grid, "foal-net", folds=range(1, 5))
    assert report_tables.absent_table(p, results(p)).empty


# ---- p-values and intervals ------------------------------------------------------------------------


def test_p_exchanges_speakers_and_holm_is_within_a_protocol(p, grid):
    variants = ["avel", "mem", "foal-net"]
    for variant, skill in zip(variants, (0.63, 0.66, 0.7), strict=True):
        for fold in range(1, 6):
            grid["honest", variant, fold] = write_run(p, "honest", variant, fold, skill)
            write_run(p, "published", variant, fold, skill)
            write_run(p, "published", "baseline", fold, 0.6)
    wanted = [("honest", v) for v in ["baseline", *variants]] + [("published", v) for v in ["baseline", "avel"]]
    table = report_tables.paired_differences(p, [report_results.variant_result(p, *row) for row in wanted])
    assert table["protocol"].tolist() == ["honest"] * 3 + ["published"]
    baseline, raw = answers(p, grid, "baseline"), []
    counts = [sum(t == c for t, _, _ in baseline.values()) for c in range(4)]
    signs = np.array(list(product([1, -1], repeat=10)))
    for variant in variants:  # every exchange of the ten speakers' answers
        parts = dict.fromkeys(sorted({s for _, _, s in baseline.values()}), 0)
        for u, (t, answer, speaker) in answers(p, grid, variant).items():
            parts[speaker] += (int(answer == t) - int(baseline[u][1] == t)) / counts[t] / 4
        found = np.abs(signs @ list(parts.values()))
        raw.append(np.mean(found >= found[0] - 1e-12))
    assert table["p"].astype(float).tolist()[:3] == pytest.approx(raw, abs=6e-5)
    first, second, third = np.argsort(raw)
    holm = {first: 3 * raw[first]}
    holm[second] = max(holm[first], 2 * raw[second])
    holm[third] = max(holm[second], raw[third])
    want = [min(1, holm[i]) for i in range(3)]
    assert table["p (Holm)"].astype(float).tolist()[:3] == pytest.approx(want, abs=6e-5)
    assert table["p (Holm)"].iloc[3] == table["p"].iloc[3]  # alone in its protocol


def test_several_seeds_are_averaged_before_the_exchange(p, grid):
    """The same answers under three seeds are no more evidence than under one."""
    once = report_tables.paired_differences(p, results(p))
    for fold in range(1, 6):
        for variant in ("baseline", "foal-net"):
            folder = records.run_folder(p, "honest", variant, fold, 0)
            for seed in (1, 2):
                copy = shutil.copytree(folder, records.run_folder(p, "honest", variant, fold, seed))
                record = json.loads((copy / "record.json").read_text())
                records.write_sealed(copy / "record.json", record | {"seed": seed})
    more = p.model_copy(update={"seeds": [0, 1, 2]})
    thrice = [report_results.variant_result(more, "honest", v) for v in ("baseline", "foal-net")]
    assert thrice[0].row["seeds"] == 3 and thrice[0].row["utterances"] == 200
    assert report_tables.paired_differences(more, thrice).to_dict() == once.to_dict()


@pytest.mark.usefixtures("undrawn")
def test_the_report_says_what_its_intervals_were_measured_to_cover(p, grid):
    text = report.write_report(p, results(p)).read_text()
    assert "resamples speakers (here 10)" in text
    for speakers, (low, high) in scoring.COVERAGE.items():
        assert f"{low}–{high} of 100 cases at {speakers} speakers" in text
    assert "10 speakers cannot give less than 0.0020" in text


# ---- strata ----------------------------------------------------------------------------------------


def strata_by_hand(p, turns, found):
    """{(by, stratum): utterances}, by a loop over the manifest."""
    groups = {}
    for t in turns.to_dict("records"):
        rate = found.get(t["utterance"])
        face = "not measured" if rate is None else "in 90 % of frames or more" if rate >= 0.9 else ""
        clip = "cut at 2 s" if t["end"] - t["start"] > 2 else "whole"
        strata = {k: t[k] for k in ("emotion", "speaker", "gender", "kind")} | {"clip": clip}
        for stratum in (strata | {"face found": face or "in fewer than 90 % of frames"}).items():
            groups.setdefault(stratum, []).append(t["utterance"])
    return groups


@pytest.mark.usefixtures("undrawn")
def test_strata_are_what_a_loop_over_manifest_and_predictions_counts(p, grid):
    turns = manifest(grid)
    rates = dict(zip(turns["utterance"], [0.95, 0.5, 0.9, None] * 50, strict=True))
    found = {u: rate for u, rate in rates.items() if rate is not None}
    unlooked = pd.DataFrame({"utterance": turns["utterance"]})  # a store from before faces were looked for
    records.write_parquet(p.features_folder / p.store_name("audio") / "index.parquet", unlooked)
    looked = unlooked.assign(found=unlooked["utterance"].map(rates).astype(float)).iloc[::-1]
    records.write_parquet(p.features_folder / p.store_name("face") / "index.parquet", looked)
    table = report_tables.strata_table(p, results(p)).set_index(["by", "stratum"])
    groups = strata_by_hand(p, turns, found)
    assert set(table.index) == set(groups) and len(table) == 4 + 10 + 2 + 3 + 2 + 3
    assert table.loc["emotion"].index.tolist() == p.corpus.classes
    for variant in ("foal-net", "baseline"):
        given, label = answers(p, grid, variant), p.variants[variant].label
        for (by, stratum), utterances in groups.items():
            true, predicted = [given[u][0] for u in utterances], [given[u][1] for u in utterances]
            line = table.loc[(by, stratum)]
            accuracy = 100 * sum(t == q for t, q in zip(true, predicted, strict=True)) / len(true)
            assert float(line[f"accuracy, {label}"]) == pytest.approx(accuracy, abs=0.051)
            if by == "emotion":
                assert line[f"UA, {label}"] == "–"
            else:
                want = 100 * naive_recall(true, predicted)
                assert float(line[f"UA, {label}"]) == pytest.approx(want, abs=0.051)
            few = " (few)" if len(utterances) < 20 else ""
            assert line["utterances"] == f"{len(utterances)}{few}"
    assert table.loc[("kind", "acted"), "utterances"] == "5 (few)"
    text = report.write_report(p, results(p)).read_text().split('<h2 id="strata">')[1].split("<h2")[0]
    assert "<details>" in text and "5 (few)" in text and "in fewer than 90 % of frames" in text


@pytest.mark.usefixtures("undrawn")
def test_strata_need_an_honest_row_and_use_the_best_without_foal_net(p, grid):
    kept = {r.row["variant"]: r for r in results(p) if r.row["protocol"] == "honest"}
    columns = report_tables.strata_table(p, [kept["audio"], kept["ledger-cosine"]]).columns
    assert [c for c in columns if c.startswith("UA")] == [f"UA, {p.variants['audio'].label}"]
    published = [report_results.variant_result(p, "published", "foal-net")]
    assert report_tables.strata_table(p, published).empty
    assert 'id="strata"' not in report.write_report(p, published).read_text()
