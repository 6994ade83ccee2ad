"""Report and tables from made-up records: every printed number against a count by hand."""

import csv
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
            "ablation={honest: [audio, baseline, foal-net], published: [foal-net]}",
        ],
    )


def write_run(p, protocol, variant, fold, skill, seed=0, params_digest=None):
    """A run whose test predictions are right with probability `skill`, better in the middle epoch."""
    rng = np.random.default_rng([fold, seed, int(100 * skill)])
    splits = ["test"] + (["validation"] if protocol == "honest" else [])
    rows = []
    for split in splits:
        true = rng.integers(0, 4, 40)
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
        assert f"{100 * result.row['ua_pooled']:.2f}" in text
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


def test_paired_differences_are_of_the_same_utterances(p, grid):
    table = report.paired_differences(p, results(p))
    assert table["variant"].tolist() == [p.variants["foal-net"].label]
    a, b = (report.variant_result(p, "honest", v).row["ua_pooled"] for v in ("foal-net", "baseline"))
    # the made-up truths differ between the two variants' files, so only the form is held here
    assert re.fullmatch(r"[+-]\d+\.\d\d", table["UA difference (points)"].iloc[0]) and a > b
