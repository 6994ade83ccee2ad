"""The three protocols side by side and their two prices, against counts by hand; random-split is always marked."""

import csv
import re

import made_up
import numpy as np
import pandas as pd
import pytest
from made_up import naive_recall, results, write_run

from foalkit import params
from foalkit.corpora.folds import write_random_parts
from foalkit.report import page as report
from foalkit.report.check import check
from foalkit.results import protocols, records, scoring, tables, variants
from foalkit.results import published as report_published

p, grid, grid_once, undrawn = made_up.p, made_up.grid, made_up.grid_once, made_up.undrawn
pytestmark = pytest.mark.usefixtures("undrawn")
MARKED = "random-split (speakers on both sides)"


@pytest.fixture
def random(p, grid):
    """Random-split runs of the plain fusion and foal-net, better than the honest ones."""
    for variant, skill in {"baseline": 0.75, "foal-net": 0.8}.items():
        for fold in range(1, 6):
            grid["random-split", variant, fold] = write_run(p, "random-split", variant, fold, skill)
    return p.model_copy(update={"ablation": p.ablation | {"random-split": ["baseline", "foal-net"]}})


def scores_of(p, protocol, variant, fold):
    return records.read_record(records.run_folder(p, protocol, variant, fold, 0) / "record.json")["scores"]


def answered(p, grid, protocol, variant, rule):
    """{utterance: (truth, answer, speaker)} of all folds at the epoch that the rule chose."""
    found = {}
    for fold in range(1, 6):
        table, at = grid[protocol, variant, fold], scores_of(p, protocol, variant, fold)[rule]["epoch"]
        for row in table[(table["split"] == "test") & (table["epoch"] == at)].to_dict("records"):
            logits = [row[f"logit_{c}"] for c in made_up.CLASSES]
            found[row["utterance"]] = (row["true"], logits.index(max(logits)), row["speaker"])
    return found


def recall(answers):
    return naive_recall([t for t, _, _ in answers.values()], [a for _, a, _ in answers.values()])


def numbers(cell):
    return [float(n) for n in re.findall(r"[+-]?[\d.]+", cell)]


def test_each_row_stands_under_each_protocol_with_its_two_prices(random, grid):
    table = protocols.protocols_table(random, results(random))
    assert list(table) == ["variant", "honest", "published", MARKED, "price of peeking", "price of the split"]
    assert table["variant"].tolist() == ["fusion, L_CE only", "+ AVEL + MEM (Foal-Net)"]  # audio is honest alone
    for variant, line in zip(("baseline", "foal-net"), table.to_dict("records"), strict=True):
        honest = answered(random, grid, "honest", variant, "validation")
        other = answered(random, grid, "random-split", variant, "validation")
        assert numbers(line["honest"])[0] == pytest.approx(100 * recall(honest), abs=0.0051)
        assert numbers(line[MARKED])[0] == pytest.approx(100 * recall(other), abs=0.0051)
        assert set(honest) == set(other) and all(honest[u][0] == other[u][0] for u in honest)
        value, low, high = numbers(line["price of the split"])
        assert value == pytest.approx(100 * (recall(other) - recall(honest)), abs=0.0051)
        columns = [np.array(c) for c in zip(*((*other[u][:2], *honest[u][1:]) for u in honest), strict=True)]
        want = scoring.paired_interval(*columns)
        assert (low, high) == pytest.approx([100 * end for end in want], abs=0.051) and low < value < high
        added = []
        for fold in range(1, 6):
            chosen = scores_of(random, "honest", variant, fold)
            part = grid["honest", variant, fold].query("split == 'test'")
            by_epoch = {
                e: naive_recall(t["true"].tolist(), t.filter(like="logit_").to_numpy().argmax(1).tolist())
                for e, t in part.groupby("epoch")
            }
            added.append(100 * (max(by_epoch.values()) - by_epoch[chosen["validation"]["epoch"]]))
        half = 2.7764 * np.std(added, ddof=1) / 5**0.5  # the t table at four degrees of freedom
        want = (np.mean(added), np.mean(added) - half, np.mean(added) + half)
        assert numbers(line["price of peeking"]) == pytest.approx(want, abs=0.051)
    published = answered(random, grid, "published", "foal-net", "test")
    assert table["published"][0] == "–"  # not run
    assert numbers(table["published"][1])[0] == pytest.approx(100 * recall(published), abs=0.0051)


def test_what_was_not_run_has_no_column_and_no_price(p, grid, random):
    plain = protocols.protocols_table(p, results(p))
    assert list(plain) == ["variant", "honest", "published", "price of peeking"] and len(plain) == 1
    some = [r for r in results(random) if r.row["protocol"] != "honest"]
    assert list(protocols.protocols_table(random, some)) == ["variant", "published", MARKED]
    alone = [r for r in results(random) if r.row["protocol"] == "random-split"]
    assert protocols.protocols_table(random, alone).empty


def test_random_split_is_marked_and_never_among_the_others(random, grid):
    made = results(random)
    rows = tables.ablation_rows(random, made)
    printed = tables.printed_table(random, rows)
    assert (printed["protocol, epoch by"] == f"{MARKED}, validation").sum() == 2
    assert not tables.peeking_table(random, made)[0]["epoch by"].str.contains("random").any()
    _, alt, caption = report.ablation_figure(random, made, rows, None, 0.25)
    assert "honest protocol" in alt and alt.count("%") == 3 and "unseen speakers" in caption
    alone = rows[rows["protocol"] == "random-split"]
    figure, alt, caption = report.ablation_figure(random, made, alone, None, 0.25)
    assert "random-split protocol" in alt and "UA on seen speakers" in caption
    assert figure.axes[0].get_xlabel() == "UA on seen speakers"


def test_its_rows_stand_among_random_splits_of_others_alone(random, grid):
    rows = tables.ablation_rows(random, results(random))
    iemocap = random.model_copy(update={"corpus": params.load("iemocap-frozen").corpus})
    found = report_published.published_tables(iemocap, rows)
    ours = {tag: t.loc[t["system"].str.startswith("ours"), "source"].tolist() for tag, t in found.items()}
    assert ours["random-split"] == [
        f"five_fold/random-split-{v}.json" for v in sorted(("baseline", "foal-net"), key=lambda v: -pooled(rows, v))
    ]
    assert all("random-split" not in source for tag in ours if tag != "random-split" for source in ours[tag])


def pooled(rows, variant):
    return rows[(rows["protocol"] == "random-split") & (rows["variant"] == variant)]["ua_pooled"].iloc[0]


def test_the_report_has_the_table_the_price_and_the_warning(random, grid):
    made = results(random)
    for result in made:
        variants.write_five_fold(random, result)
    text = report.write_report(random, made).read_text()
    section = text.split('<h2 id="protocols">')[1].split("<h2")[0]
    assert "Random-split is a demonstration, no result." in section and 'href="#protocols"' in text
    assert "random-split.csv" not in section  # these runs are made up: nothing was dealt
    line = protocols.protocols_table(random, made).iloc[1]
    value, low, high = numbers(line["price of the split"])
    assert f"[{low:+.1f}, {high:+.1f}]" in section.replace("\u00a0", " ")
    card = text.split("random-split − honest")[0].rsplit("<b>", 1)[1]
    assert abs(float(card.split(" points")[0]) - value) <= 0.0501
    with (random.folder / "tables" / "protocols.csv").open() as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["fusion, L_CE only", "'+ AVEL + MEM (Foal-Net)"]
    assert check(random)[0] == []  # five_fold/random-split-….json among the files
    file = random.folder / "five_fold" / "random-split-baseline.json"
    file.write_text(file.read_text().replace('"protocol": "random-split"', '"protocol": "honest"'))
    assert any(line.startswith("five_fold/random-split-baseline.json: row protocol") for line in check(random)[0])


def test_the_report_leads_to_the_parts_where_they_were_written(random, grid):
    write_random_parts(pd.read_parquet(random.folder / "manifest.parquet"), random)
    text = report.write_report(random, results(random)).read_text()
    assert '<a href="random-split.csv">' in text and (random.folder / "random-split.csv").exists()


def test_a_report_without_random_split_does_not_speak_of_it(p, grid):
    text = report.write_report(p, results(p)).read_text()
    section = text.split('<h2 id="protocols">')[1].split("<h2")[0]
    assert "price of the split" not in section
    assert "andom-split" not in text.split('<h2 id="ablation">')[1].split('<h2 id="published">')[0]
