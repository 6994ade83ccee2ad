"""Report and tables from made-up records: every printed number against a count by hand."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

from foalkit import UserError, params, records, report

CLASSES = ["happy", "neutral", "sad", "angry"]
EPOCHS = 3


@pytest.fixture
def p(tmp_path):
    return params.load(
        "demo",
        [
            f"outputs={tmp_path / 'out'}",
            "ablation={honest: [audio, baseline, foal-net, ledger-cosine], published: [foal-net]}",
        ],
    )


def write_run(p, protocol, variant, fold, skill, seed=0, params_digest=None):
    """A run whose test predictions are right with probability `skill`, better in the middle epoch."""
    rng, truth = np.random.default_rng([fold, seed, int(100 * skill)]), np.random.default_rng([fold, 7])
    splits = ["test"] + (["validation"] if protocol == "honest" else [])
    rows = []
    for split in splits:
        true = truth.integers(0, 4, 40)
        for epoch in range(1, EPOCHS + 1):
            right = rng.random(40) < skill + 0.1 * (epoch == 2)
            predicted = np.where(right, true, (true + 1) % 4)
            logits = np.eye(4, dtype=np.float32)[predicted]
            rows.append(
                pd.DataFrame(
                    {
                        "utterance": [f"Ses0{fold}F_{split}_{i:03}" for i in range(40)],
                        "speaker": [f"Ses0{fold}{'FM'[i % 2]}" for i in range(40)],
                        "split": split,
                        "epoch": np.int16(epoch),
                        "true": true.astype(np.int8),
                        **{f"logit_{c}": logits[:, i] for i, c in enumerate(CLASSES)},
                    }
                )
            )
    predictions = pd.concat(rows, ignore_index=True)
    from foalkit import scoring

    by_epoch = scoring.scores_by_epoch(predictions)
    history = [
        {"epoch": e, "ce": 1.0 / e, **{f"{s}_{m}": 0.5 for s in splits for m in ("ua", "wa")}}
        for e in (1, 2, 3)
    ]
    record = {
        "run": f"x/{protocol}/{variant}/fold{fold}-seed{seed}",
        "variant": variant,
        "protocol": protocol,
        "fold": fold,
        "seed": seed,
        "selection": scoring.SELECTION[protocol],
        "scores": scoring.selected_scores(by_epoch),
        "params_digest": params_digest or p.digest(variant),
        "sizes": {"train": 9, "validation": 40, "test": 40},
        "classes": CLASSES,
        "parameters": 10,
        "seconds": 1.0,
        "history": history,
        "provenance": records.provenance(),
    }
    records.write_run(
        records.run_folder(p, protocol, variant, fold, seed), record, predictions, {"w": torch.zeros(1)}
    )
    return predictions


@pytest.fixture
def grid(p):
    kept = {}
    for (protocol, variant), skill in {
        ("honest", "audio"): 0.5,
        ("honest", "baseline"): 0.6,
        ("honest", "foal-net"): 0.7,
        ("honest", "ledger-cosine"): 0.4,
        ("published", "foal-net"): 0.7,
    }.items():
        for fold in range(1, 6):
            kept[protocol, variant, fold] = write_run(p, protocol, variant, fold, skill)
    records.write_json(
        p.folder / "preprocess.json",
        {
            "utterances": 200,
            "left_out": 3,
            "longer_than_clip": 2,
            "counts": {c: 50 for c in CLASSES},
            "ceilings": {"audio": 0.7, "video": 0.7, "both": 0.92},
            "features": {"audio": {"encoder": {"encoder": "log-mel"}}},
        },
    )
    return kept


def results(p):
    return [report.variant_result(p, protocol, v) for protocol, vs in p.ablation.items() for v in vs]


def naive_recall(true, predicted):
    return sum(
        sum(t == c and q == c for t, q in zip(true, predicted, strict=True)) / sum(t == c for t in true)
        for c in set(true)
    ) / len(set(true))


def test_the_row_is_what_a_hand_count_of_the_predictions_gives(p, grid):
    row = report.variant_result(p, "honest", "foal-net").row
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
    row = report.variant_result(p, "published", "foal-net").row
    assert row["selection"] == "test" and row["peeking"] is None
    assert row["ua_folds"] == pytest.approx(row["ua_test"])


def test_a_missing_run_is_named_and_a_run_of_other_params_does_not_count(p, grid):
    (records.run_folder(p, "honest", "audio", 4, 0) / "record.json").unlink()
    with pytest.raises(UserError, match="honest/audio: no run for fold 4 seed 0"):
        report.variant_result(p, "honest", "audio")
    write_run(p, "honest", "audio", 4, 0.5, params_digest="0" * 16)
    with pytest.raises(UserError, match="fold 4 seed 0"):
        report.variant_result(p, "honest", "audio")


def test_changed_predictions_are_refused(p, grid):
    file = records.run_folder(p, "honest", "audio", 2, 0) / "predictions.parquet"
    pd.read_parquet(file).iloc[1:].to_parquet(file)
    with pytest.raises(UserError, match="digest differs"):
        report.variant_result(p, "honest", "audio")


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
        report.write_five_fold(p, r)
    text = file.read_text()
    page = Page(text)
    assert not {t for t, _ in page.tags} & {"script", "link", "iframe", "object"}
    assert "@import" not in text and "url(" not in text
    images = [a for t, a in page.tags if t == "img"]
    assert len(images) >= 4 and all(
        a["src"].startswith("data:image/png;base64,") and a["alt"] for a in images
    )
    ids = {a["id"] for _, a in page.tags if "id" in a}
    for link in [a["href"] for t, a in page.tags if t == "a"]:
        assert link[1:] in ids if link.startswith("#") else (file.parent / link).exists(), link
    for result in results(p):
        ledger = result.row["variant"].startswith("ledger-")  # there a difference is printed
        assert (f"{100 * result.row['ua_pooled']:.2f}" in text) != ledger
    assert "80.10" in text and "0.0625" in text


def test_the_same_records_give_the_same_report(p, grid):
    first = report.write_report(p, results(p)).read_bytes()
    assert report.write_report(p, results(p)).read_bytes() == first


def test_tables_as_csv_and_booktabs(p, grid):
    csv_file, tex_file = report.write_tables(p, report.ablation_rows(p, results(p)))
    rows = list(csv.DictReader(csv_file.open()))
    assert [(r["protocol"], r["variant"]) for r in rows] == [
        ("honest", "audio"),
        ("honest", "baseline"),
        ("honest", "foal-net"),
        ("published", "foal-net"),
    ]
    assert float(rows[2]["ua_printed"]) == 0.801 and float(rows[2]["wa_printed"]) == 0.7945
    tex = tex_file.read_text()
    assert all(rule in tex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    body = tex[tex.index(r"\toprule") : tex.index(r"\bottomrule")]
    cells = {
        len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.rstrip().endswith(r"\\")
    }
    assert cells == {8}  # 9 columns in the header and in every row
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", tex)[1]
    assert len(columns) == 9
    assert not re.search(r"(?<!\\)[_%]", body)


def answers(p, grid, variant):
    """(truth, answers, speakers) by utterance at the epoch that validation chose, over all folds."""
    found = {}
    for fold in range(1, 6):
        record = records.read_record(records.run_folder(p, "honest", variant, fold, 0) / "record.json")
        table = grid["honest", variant, fold]
        at = record["scores"]["validation"]["epoch"]
        for row in table[(table["split"] == "test") & (table["epoch"] == at)].to_dict("records"):
            logits = [row[f"logit_{c}"] for c in CLASSES]
            found[row["utterance"]] = (row["true"], logits.index(max(logits)), row["speaker"])
    return found


def naive_difference(a, b):
    assert a.keys() == b.keys() and all(a[u][0] == b[u][0] for u in a)
    true = [a[u][0] for u in a]
    return 100 * (naive_recall(true, [a[u][1] for u in a]) - naive_recall(true, [b[u][1] for u in a]))


def test_paired_differences_are_of_the_same_utterances(p, grid):
    table = report.paired_differences(p, results(p))
    assert table["variant"].tolist() == [p.variants["foal-net"].label]  # neither audio's nor the ledger's
    want = naive_difference(*(answers(p, grid, v) for v in ("foal-net", "baseline")))
    assert float(table["UA difference (points)"].iloc[0]) == pytest.approx(want, abs=0.0051)


# ---- the ledger -----------------------------------------------------------------------------------


def test_the_ledgers_effect_is_against_foal_net_on_the_same_utterances(p, grid):
    table = report.ledger_table(p, results(p)).set_index("variant")
    line = table.loc[p.variants["ledger-cosine"].label]
    a, b = answers(p, grid, "ledger-cosine"), answers(p, grid, "foal-net")
    want = naive_difference(a, b)
    assert want < -10  # 0.4 against 0.7 right
    assert float(line["UA difference (points)"]) == pytest.approx(want, abs=0.0051)
    assert line["protocol"] == "honest" and line["#"] == 7
    low, high = map(float, line["95 % interval"].strip("[]").split(","))
    rng, draws = np.random.default_rng(0), []  # speakers drawn, then their utterances, by hand
    by_speaker = {}
    for u, (_, _, speaker) in a.items():
        by_speaker.setdefault(speaker, []).append(u)
    for _ in range(3000):
        inside = {s: rng.choice(us, len(us)) for s, us in by_speaker.items()}  # once a speaker, as in scoring
        drawn = [u for s in rng.choice(list(by_speaker), 10) for u in inside[s]]
        true = np.array([a[u][0] for u in drawn])
        right = np.array([[x[u][1] == x[u][0] for u in drawn] for x in (a, b)])
        recall = [np.mean([r[true == c].mean() for c in set(true)]) for r in right]
        draws.append(100 * (recall[0] - recall[1]))
    assert (low, high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=2.5)


def test_the_ledger_has_a_line_for_every_row_and_variant_run_or_not(p, grid):
    table = report.ledger_table(p, results(p))
    rows = params.read_ledger()
    assert [n for n in table["#"] if n != ""] == list(rows)
    assert len(table) == sum(max(1, len(r.variants)) for r in rows.values())
    effects = table.set_index("variant")["UA difference (points)"]
    names = [n for r in rows.values() for n in r.variants]
    others = [p.variants[n].label for n in names if n != "ledger-cosine"]
    assert (effects[others] == "not measured here").all()
    assert set(effects[""]) == {rows[8].see, rows[9].see}


def test_the_ledgers_variants_are_in_their_own_table_only(p, grid):
    rows = report.ablation_rows(p, results(p))
    assert "ledger-cosine" not in set(rows["variant"])
    text = report.write_report(p, results(p)).read_text()
    main, ledger = text.split('<h2 id="ledger">')
    assert p.variants["ledger-cosine"].label not in main.split('<h2 id="ablation">')[1]
    ledger = ledger.split("<h2")[0]
    assert p.variants["ledger-cosine"].question in ledger and "<details" not in ledger
    assert "<b>ours</b>" in ledger
    others = sum(len(r.variants) for r in params.read_ledger().values()) - 1
    assert (p.folder / "tables" / "ledger.csv").read_text().count("not measured here") == others


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
        records.write_json(folder / "record.json", record | {"absent_digest": digest})
    return rows


def test_a_missing_modality_stands_beside_the_other_one_alone(p, grid):
    rows = write_absent(p, grid, "foal-net")
    write_absent(p, grid, "ledger-cosine")
    table = report.absent_table(p, results(p)).set_index("variant")
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
        100 * report.variant_result(p, "honest", "foal-net").row["ua_pooled"], abs=0.0051
    )
    alone = table.loc[p.variants["audio"].label]
    assert alone["both"] == alone["picture only"] == "–"
    assert number(alone["sound only"]) == pytest.approx(
        100 * report.variant_result(p, "honest", "audio").row["ua_pooled"], abs=0.0051
    )
    text = report.write_report(p, results(p)).read_text()
    assert line["picture only"] in text.split('<h2 id="missing">')[1].split("<h2")[0]


def test_without_all_folds_of_it_no_missing_modality_is_shown(p, grid):
    assert 'id="missing"' not in report.write_report(p, results(p)).read_text()
    write_absent(p, grid, "foal-net", folds=range(1, 5))
    assert report.absent_table(p, results(p)).empty
