"""Peeking, seeds, spread, calibration and errors in the report, and CFN-SR's rows, against counts by hand."""

import csv
import json
import re

import made_up
import numpy as np
import pandas as pd
import pytest
from made_up import answers, naive_recall, results, write_run

from foalkit.report import page as report
from foalkit.report.check import check
from foalkit.results import published as report_published
from foalkit.results import records
from foalkit.results import tables as report_tables
from foalkit.results import variants as report_results

# made-up runs under a folder of their own
p, grid, grid_once, undrawn = made_up.p, made_up.grid, made_up.grid_once, made_up.undrawn
pytestmark = pytest.mark.usefixtures("undrawn")
LABELS = ("fusion, L_CE only", "+ AVEL + MEM (Foal-Net)")


def ua_by_epoch(table, split="test"):
    """{epoch: UA} of a run's predictions, by hand."""
    found = {}
    for epoch in (1, 2, 3):
        part = table[(table["split"] == split) & (table["epoch"] == epoch)]
        predicted = part.filter(like="logit_").to_numpy().argmax(1).tolist()
        found[epoch] = naive_recall(part["true"].tolist(), predicted)
    return found


def value(cell):
    """The number before the bracket, and the two inside it."""
    first, _, rest = cell.partition(" [")
    return float(first), *(float(end) for end in rest.rstrip("]").split(", ") if rest)


def printed(p, made=None):
    """Everything that is printed of these params' rows; returns the page's path."""
    made = made or results(p)
    for result in made:
        report_results.write_five_fold(p, result)
    return report.write_report(p, made)


# ---- the price of peeking ---------------------------------------------------------------------------


def test_selection_csv_holds_every_run_under_every_rule(p, grid):
    report.write_report(p, results(p))
    rows = list(csv.DictReader((p.folder / "tables" / "selection.csv").open()))
    assert len(rows) == 4 * 5 * 3 + 5 * 2  # the published protocol has no validation side
    for row in rows:
        by_epoch = ua_by_epoch(grid[row["protocol"], row["variant"], int(row["fold"])])
        assert float(row["ua"]) == pytest.approx(by_epoch[int(row["epoch"])])
        if row["selection"] == "test":
            assert float(row["ua"]) == pytest.approx(max(by_epoch.values()))
        if row["selection"] == "last":
            assert row["epoch"] == "3"


def test_the_gain_is_printed_beside_what_selection_alone_gives(p, grid):
    table, said = report_tables.peeking_table(p, results(p))
    table = table.set_index("epoch by")
    assert said["metric"] == "UA" and said["printed"] == pytest.approx(80.10 - 77.85)
    assert table.loc["paper"].tolist() == ["77.85", "80.10", "+2.25"]
    chosen = {}
    for variant, label in zip(("baseline", "foal-net"), LABELS, strict=True):
        runs = [grid["honest", variant, fold] for fold in range(1, 6)]
        epochs = [
            records.read_record(records.run_folder(p, "honest", variant, f, 0) / "record.json")["scores"]
            for f in range(1, 6)
        ]
        uas = [ua_by_epoch(run) for run in runs]
        chosen[label] = {
            "validation": np.array([u[e["validation"]["epoch"]] for u, e in zip(uas, epochs, strict=True)]),
            "last": np.array([u[3] for u in uas]),
            "test": np.array([max(u.values()) for u in uas]),
        }
        for rule, values in chosen[label].items():
            assert float(table.loc[f"honest, {rule}", label]) == pytest.approx(100 * values.mean(), abs=0.0051)
        price = 100 * (chosen[label]["test"] - chosen[label]["validation"])
        half = 2.7764 * price.std(ddof=1) / 5**0.5  # the t table at four degrees of freedom
        want = (price.mean(), price.mean() - half, price.mean() + half)
        assert value(table.loc["honest, test − validation", label]) == pytest.approx(want, abs=0.051)
    assert said["price"]["honest"] == pytest.approx(want, abs=1e-3)  # foal-net's
    gain = [chosen[LABELS[1]][rule] - chosen[LABELS[0]][rule] for rule in ("validation", "test")]
    assert value(table.loc["honest, test", "gain (points)"])[0] == pytest.approx(100 * gain[1].mean(), abs=0.0051)
    change = 100 * (gain[1] - gain[0]).mean()
    assert value(table.loc["honest, test − validation", "gain (points)"])[0] == pytest.approx(change, abs=0.0051)
    assert not any(rule.startswith("published") for rule in table.index)  # no plain fusion there


def test_the_page_answers_how_much_selection_gives(p, grid):
    for fold in range(1, 6):
        grid["published", "baseline", fold] = write_run(p, "published", "baseline", fold, 0.6)
    p = p.model_copy(update={"ablation": p.ablation | {"published": ["baseline", "foal-net"]}})
    _, said = report_tables.peeking_table(p, results(p))
    tests, lasts = (
        [pick(ua_by_epoch(grid["published", "foal-net", fold])) for fold in range(1, 6)]
        for pick in (lambda u: max(u.values()), lambda u: u[3])
    )
    price = 100 * (np.mean(tests) - np.mean(lasts))
    assert said["price"]["published"][0] == pytest.approx(price)
    page = printed(p).read_text()
    section = page.split('<h2 id="peeking">')[1].split("<h2")[0]
    assert "a gain of +2.25 points UA of Foal-Net over plain fusion" in section
    assert f"<b>{price:+.2f} points</b>" in section and f"{price / 2.25:.1f} times the printed gain" in section
    assert "UA over epochs on the test folds" in section  # the figure's alternative text
    assert check(p)[0] == []


def test_the_epochs_are_those_of_the_predictions(p, grid):
    result = report_results.variant_result(p, "honest", "audio")
    for fold in range(1, 6):
        kept = result.epochs[result.epochs["fold"] == fold].set_index("epoch")["ua"]
        assert kept.to_dict() == pytest.approx(ua_by_epoch(grid["honest", "audio", fold]))


def test_a_table_without_rows_is_not_written_and_an_earlier_one_goes(p, grid):
    report.write_report(p, results(p))
    kept = [r for r in results(p) if r.row["variant"] == "audio"]
    page = report.write_report(p, kept).read_text()
    written = {f.name for f in (p.folder / "tables").iterdir()}
    gone = {f"{name}.{suffix}" for name in ("peeking", "differences") for suffix in ("csv", "tex")}
    assert not gone & written and {"ablation.csv", "calibration.tex", "errors.csv"} < written
    assert 'id="peeking"' not in page and 'id="differences"' not in page


# ---- seeds ------------------------------------------------------------------------------------------


@pytest.fixture
def seeded(p, grid):
    """Baseline and foal-net under three seeds, which differ."""
    for fold in range(1, 6):
        for variant, skill in (("baseline", 0.6), ("foal-net", 0.7)):
            for seed in (1, 2):
                grid["honest", variant, fold, seed] = write_run(p, "honest", variant, fold, skill, seed)
    ablation = {"honest": ["baseline", "foal-net"]}
    return p.model_copy(update={"seeds": [0, 1, 2], "ablation": ablation})


def pooled_by_seed(p, variant):
    scores = []
    for seed in p.seeds:
        true, predicted = [], []
        for fold in range(1, 6):
            folder = records.run_folder(p, "honest", variant, fold, seed)
            table = pd.read_parquet(folder / "predictions.parquet")
            epoch = json.loads((folder / "record.json").read_text())["scores"]["validation"]["epoch"]
            part = table[(table["split"] == "test") & (table["epoch"] == epoch)]
            true += part["true"].tolist()
            predicted += part.filter(like="logit_").to_numpy().argmax(1).tolist()
        scores.append((naive_recall(true, predicted), np.mean(np.array(true) == predicted)))
    return np.array(scores)


def test_seeds_are_printed_as_mean_and_sd(seeded):
    row = report_results.variant_result(seeded, "honest", "foal-net").row
    ua, wa = pooled_by_seed(seeded, "foal-net").T
    assert len(set(ua)) == 3
    assert (row["ua_pooled"], row["wa_pooled"]) == pytest.approx((ua.mean(), wa.mean()))
    assert (row["ua_seed_sd"], row["wa_seed_sd"]) == pytest.approx((ua.std(ddof=1), wa.std(ddof=1)))
    assert row["utterances"] == 200 and row["seeds"] == 3
    table = report_tables.printed_table(seeded, report_tables.ablation_rows(seeded, results(seeded)))
    cell = table["seeds: sd of UA / WA"].iloc[1]
    assert cell == f"3: ± {100 * ua.std(ddof=1):.2f} / {100 * wa.std(ddof=1):.2f}"


def test_one_seed_has_no_sd(p, grid):
    assert report_results.variant_result(p, "honest", "audio").row["ua_seed_sd"] is None


def test_the_price_of_peeking_is_of_the_same_runs_and_the_protocols_gap_stands_apart(p, grid):
    table = report_tables.printed_table(p, report_tables.ablation_rows(p, results(p)))
    table = table.set_index(["variant", "protocol, epoch by"])
    honest, published = (report_results.variant_result(p, q, "foal-net").row for q in ("honest", "published"))
    runs = [ua_by_epoch(grid["published", "foal-net", fold]) for fold in range(1, 6)]
    price = 100 * np.mean([max(uas.values()) - uas[3] for uas in runs])
    assert table["price of peeking"][LABELS[1], "published, test"] == f"{price:+.2f}"
    assert table["price of peeking"][LABELS[1], "honest, validation"] == f"{100 * honest['peeking']:+.2f}"
    gap = 100 * (published["ua_pooled"] - honest["ua_pooled"])
    assert table["published − honest"][LABELS[1], "published, test"] == f"{gap:+.2f}" != f"{price:+.2f}"
    assert (table["published − honest"].drop((LABELS[1], "published, test")) == "–").all()


def columns(p, rows):
    return report_tables.printed_table(p, rows).columns.tolist()


def test_a_column_that_says_nothing_is_left_out(p, grid):
    rows = report_tables.ablation_rows(p, results(p))
    first = ["modality", "variant", "protocol, epoch by", "UA", "WA"]
    assert columns(p, rows) == [*first, "mean of folds, UA / WA", "price of peeking", "published − honest"]
    honest = rows[rows["protocol"] == "honest"]
    assert columns(p, honest) == [*first, "mean of folds, UA / WA", "price of peeking"]
    # a difference that is smaller than what is printed
    equal = honest.assign(ua_folds=honest["ua_pooled"] + 3.2e-5, wa_folds=honest["wa_pooled"])
    assert columns(p, equal) == [*first, "price of peeking"]
    one = equal.assign(wa_folds=equal["wa_folds"] + np.array([0, 0, 1e-4]))
    assert columns(p, one) == [*first, "mean of folds, UA / WA", "price of peeking"]
    seeds = equal.assign(seeds=3, ua_seed_sd=0.011, wa_seed_sd=0.02)
    assert columns(p, seeds) == [*first, "price of peeking", "seeds: sd of UA / WA"]
    assert report_tables.printed_table(p, seeds)["seeds: sd of UA / WA"].tolist() == ["3: ± 1.10 / 2.00"] * 3
    folds = rows.assign(folds=[5, 5, 5, 4])
    assert report_tables.printed_table(p, folds)["folds"].tolist() == ["5 of 5"] * 3 + ["4 of 5"]


def test_the_papers_numbers_stand_beside_ours_on_its_own_corpus_only(p, grid, cfn):
    rows = report_tables.ablation_rows(p, results(p))
    real = p.corpus.model_copy(update={"generate": None, "root": "nowhere"})
    five = real.model_copy(update={"classes": [*real.classes, "surprised"]})
    kept = {}
    for name, corpus in {"generated": p.corpus, "real": real, "other classes": five, "RAVDESS": cfn.corpus}.items():
        kept[name] = report_tables.printed_table(p.model_copy(update={"corpus": corpus}), rows)
    assert [name for name, table in kept.items() if "paper, UA / WA" in table] == ["real"]
    cells = kept["real"]["paper, UA / WA"].str.replace("\u00a0", " ").tolist()
    assert cells == ["WavLM 77.68 / 77.25", "baseline 77.85 / 77.31", *["Foal-Net 80.10 / 79.45"] * 2]


@pytest.mark.parametrize(("corpus", "where"), [("demo", "are of IEMOCAP"), ("real", "are of the same corpus")])
def test_the_page_says_where_the_papers_numbers_are(p, grid, corpus, where):
    made = results(p)
    if corpus == "real":
        p = p.model_copy(update={"corpus": p.corpus.model_copy(update={"generate": None, "root": "nowhere"})})
    ablation = report.write_report(p, made).read_text().split('<h2 id="ablation">')[1].split("<h2")[0]
    assert f"The paper's numbers {where}" in ablation
    assert ("80.10" in ablation) == (corpus == "real")


def test_one_seed_shows_no_spread_and_says_so_in_a_line(p, grid):
    assert report_tables.spread_table(p, results(p)).empty
    section = report.write_report(p, results(p)).read_text().split('<h2 id="spread">')[1].split("<h2")[0]
    assert report_tables.NO_SPREAD in section and "<table" not in section and section.count("<p") == 1
    assert not list((p.folder / "tables").glob("spread.*"))


def test_the_spread_is_of_speakers_uas_under_each_seed(seeded):
    table = report_tables.spread_table(seeded, results(seeded))
    assert table["what differs"].tolist() == ["fold", "speaker", "seed", "speaker × seed"] * 2
    assert table["how many"].tolist() == ["5", "10", "15", "30"] * 2
    cube = np.zeros((5, 2, 3))
    for fold in range(1, 6):
        for seed in range(3):
            folder = records.run_folder(seeded, "honest", "foal-net", fold, seed)
            kept = pd.read_parquet(folder / "predictions.parquet").query("split == 'test'")
            epoch = json.loads((folder / "record.json").read_text())["scores"]["validation"]["epoch"]
            for i, (_, part) in enumerate(kept[kept["epoch"] == epoch].groupby("speaker")):
                predicted = part.filter(like="logit_").to_numpy().argmax(1).tolist()
                cube[fold - 1, i, seed] = 100 * naive_recall(part["true"].tolist(), predicted)
    # the rest: what fold, speaker and seed of a fold leave, 5 · 1 · 2 degrees of freedom
    left = cube - cube.mean(2, keepdims=True) - cube.mean(1, keepdims=True) + cube.mean((1, 2), keepdims=True)
    assert float(table["sd of one (points)"].iloc[3]) == pytest.approx((left**2).sum() ** 0.5 / 10**0.5, abs=0.051)
    page = printed(seeded).read_text()
    assert "trained under 3 seeds" in page and "under every seed" in page
    assert check(seeded)[0] == []


# ---- calibration and errors -------------------------------------------------------------------------


def given(grid, p, variant):
    """(utterance, true, predicted, probability of predicted) at the epoch that validation chose."""
    found = answers(p, grid, variant)
    for fold in range(1, 6):
        table = grid["honest", variant, fold].set_index(["utterance", "epoch"])
        folder = records.run_folder(p, "honest", variant, fold, 0)
        at = json.loads((folder / "record.json").read_text())["scores"]["validation"]["epoch"]
        for utterance in [u for u in found if u.startswith(f"Ses0{fold}")]:
            logits = table.loc[(utterance, at)].filter(like="logit_").to_numpy(float)
            yield utterance, *found[utterance][:2], float(np.exp(logits.max()) / np.exp(logits).sum())


def test_calibration_is_of_the_answers_probabilities(p, grid):
    table = report_tables.calibration_table(p, results(p)).set_index("variant")
    assert table.index.tolist() == [p.variants[v].label for v in ("audio", "baseline", "foal-net")]
    rows = list(given(grid, p, "foal-net"))
    error = 0
    for b in range(10):
        inside = [(t == q, c) for _, t, q, c in rows if b / 10 < c <= (b + 1) / 10]
        error += abs(sum(right - c for right, c in inside)) / len(rows)
    line = table.loc[p.variants["foal-net"].label].astype(float)
    assert line["calibration error (points)"] == pytest.approx(100 * error, abs=0.051) and error > 0.01
    assert line["mean probability"] == pytest.approx(100 * np.mean([c for *_, c in rows]), abs=0.051)
    assert line["accuracy"] == pytest.approx(100 * np.mean([t == q for _, t, q, _ in rows]), abs=0.051)


def test_the_surest_mistakes_come_first_and_can_be_played(p, grid, tmp_path):
    turns = pd.read_parquet(p.folder / "manifest.parquet")
    turns["audio"], turns["video"] = "wav/" + turns["utterance"] + ".wav", "a dialogue.avi"
    turns.loc[turns["utterance"].str.startswith("Ses01"), "video"] = ""
    records.write_parquet(p.folder / "manifest.parquet", turns)
    wrong = sorted((r for r in given(grid, p, "foal-net") if r[1] != r[2]), key=lambda r: (-r[3], r[0]))[:12]
    (tmp_path / "corpus" / "wav").mkdir(parents=True)
    (tmp_path / "corpus" / "a dialogue.avi").touch()
    (tmp_path / "corpus" / "wav" / f"{wrong[0][0]}.wav").touch()
    pooled = report_results.variant_result(p, "honest", "foal-net").pooled
    corpus = p.corpus.model_copy(update={"root": str(tmp_path / "corpus"), "generate": None})
    table = report_tables.errors_table(p.model_copy(update={"corpus": corpus}), pooled)
    assert table["utterance"].tolist() == [r[0] for r in wrong]
    for line, (_, true, predicted, chance) in zip(table.to_dict("records"), wrong, strict=True):
        assert (line["true"], line["predicted"]) == (p.corpus.classes[true], p.corpus.classes[predicted])
        assert float(line["probability"]) == pytest.approx(100 * chance, abs=0.051)
    times = turns.set_index("utterance")
    for i, line in enumerate(table.to_dict("records")):
        assert line["sound"] == (f"../corpus/wav/{wrong[0][0]}.wav" if i == 0 else "")
        start, end = times.loc[line["utterance"], ["start", "end"]]
        moment = f"../corpus/a%20dialogue.avi#t={start:.2f},{end:.2f}"
        assert line["video"] == ("" if line["utterance"].startswith("Ses01") else moment)


def test_without_the_recordings_the_mistakes_have_no_links(p, grid, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    pooled = report_results.variant_result(p, "honest", "foal-net").pooled
    corpus = p.corpus.model_copy(update={"root": "$NOWHERE", "generate": None})
    table = report_tables.errors_table(p.model_copy(update={"corpus": corpus}), pooled)
    assert len(table) == 12 and (table[["sound", "video"]] == "").all(axis=None)


def test_a_mistake_of_several_seeds_is_listed_once(seeded):
    pooled = report_results.variant_result(seeded, "honest", "foal-net").pooled
    table = report_tables.errors_table(seeded, pooled, most=500)
    wrong = pooled[pooled["true"] != pooled["predicted"]]
    assert table["utterance"].is_unique and len(table) == wrong["utterance"].nunique()
    for line in table.to_dict("records"):
        same = wrong[wrong["utterance"] == line["utterance"]]
        count = (same["predicted"] == seeded.corpus.classes.index(line["predicted"])).sum()
        assert line["seeds"] == f"{count} of 3"


# ---- CFN-SR -----------------------------------------------------------------------------------------


@pytest.fixture
def cfn(tmp_path):
    return made_up.write_cfn_grid(tmp_path / "cfn")


def test_cfn_srs_rows_stand_with_their_own_best_and_plain_row(cfn):
    made = results(cfn)
    shown = report_results.shown_rows(cfn, made)
    assert [r.row["variant"] for r in shown] == ["cfn-sr", "concat"]
    differences = report_tables.paired_differences(cfn, made)
    labels = [cfn.variants[v].label for v in ("no-residual", "cfn-sr", "cfn-sr")]
    assert differences["variant"].tolist() == labels
    assert differences["protocol"].tolist() == ["honest", "honest", "published"]
    page = printed(cfn, made).read_text()
    assert f"<h1>CFN-SR, ablated on {cfn.name}</h1>" in page and 'id="ledger"' not in page
    assert {f.stem for f in (cfn.folder / "figures").glob("confusion-*")} == {"confusion-cfn-sr", "confusion-concat"}
    assert check(cfn)[0] == []


def test_a_paper_without_ua_is_compared_by_accuracy(cfn):
    made = results(cfn)
    rows = report_tables.ablation_rows(cfn, made)
    cell = report_tables.printed_table(cfn, rows).set_index("variant").loc["CFN-SR", "paper, UA / WA"].iloc[0]
    assert cell == "CFN-SR –\u00a0/\u00a075.76"
    table, said = report_tables.peeking_table(cfn, made)
    assert said["metric"] == "WA" and said["printed"] == pytest.approx(75.76 - 71.04)
    of_paper = table.set_index("epoch by").loc["paper"]
    assert of_paper.tolist() == ["71.04", "75.76", "+4.72"]
    assert "a gain of +4.72 points WA of CFN-SR" in report.write_report(cfn, made).read_text()


def test_actors_that_are_never_tested_are_named(cfn):
    made = results(cfn)
    rows = report_tables.ablation_rows(cfn, made)
    table = report_tables.printed_table(cfn, rows)
    assert table["folds"].tolist() == ["6 of 6"] * 5 + ["5 of 6"] * 4
    assert (table["paper, UA / WA"] == "–").tolist() == [not cfn.variants[v].published for v in rows["variant"]]
    never = "Actor_21, Actor_22, Actor_23, Actor_24"
    page = report.write_report(cfn, made).read_text()
    assert page.count(f"Under published, {never} are never tested") == 1 and "Under honest" not in page
    assert "over 5 folds instead of 6" in page
    published = report_published.published_tables(cfn, rows)["test-selected"].set_index("system")
    assert published.loc["ours: CFN-SR", "folds"] == f"5; never tested: {never}"


def test_foal_nets_page_warns_of_nothing(p, grid):
    page = report.write_report(p, results(p)).read_text()
    assert "never tested</b>" not in page and f"<h1>Foal-Net, ablated on {p.name}</h1>" in page


# ---- the check of what is new -----------------------------------------------------------------------


def test_changed_numbers_of_the_new_sections_are_named(p, grid):
    page, best = printed(p), report_results.variant_result(p, "honest", "foal-net")
    cells = {
        "peeking": report_tables.peeking_table(p, results(p))[0].iloc[1, 1],
        "errors": report_tables.errors_table(p, best.pooled)["probability"].iloc[0],
        "calibration": report_tables.calibration_table(p, results(p)).iloc[0, 2],
    }
    text = page.read_text()
    for section, cell in cells.items():
        head, rest = text.split(f'<h2 id="{section}">')
        assert f"<td>{cell}</td>" in rest
        text = head + f'<h2 id="{section}">' + rest.replace(f"<td>{cell}</td>", "<td>98.76</td>", 1)
    before, figure = text.split("mean UA of the epochs chosen by each rule")  # an alternative text
    assert re.search(r"last [67]\d\.", figure)
    page.write_text(
        before + "mean UA of the epochs chosen by each rule" + re.sub(r"last [67]", "last 9", figure, count=1)
    )
    file = p.folder / "tables" / "selection.csv"
    file.write_text(file.read_text().replace(",test,0.", ",test,1.", 1))
    lines = check(p)[0]
    assert len(lines) == 5
    for section in cells:
        (line,) = [x for x in lines if x.startswith(f"report.html: #{section}, table 1")]
        assert "98.76" in line
    assert any(x.startswith("report.html: #peeking, text") for x in lines)
    assert any(re.match(r"tables/selection.csv: row \d+, ua: printed '1\.", x) for x in lines)
