"""Shares of raters' votes as targets: against PyTorch's own loss, by hand, and from a table of votes to the record."""

import csv
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import batch_of, in_double, quiet, refused, with_training

from foalkit import params
from foalkit.corpora.overview import check as check_corpus
from foalkit.features.data import open_data
from foalkit.recognizer.card import _body
from foalkit.report import figures
from foalkit.report.page import write_report
from foalkit.results import records
from foalkit.results.variants import variant_result
from foalkit.training import gradients, networks, runs

SHARES = torch.tensor([[0.75, 0.25, 0, 0], [0, 1, 0, 0], [0.4, 0.2, 0.2, 0.2], [0, 0, 0.5, 0.5]] * 2)


def by_hand(logits, shares):
    """The mean over clips of −Σ share · log softmax, number by number."""
    total = 0.0
    for row, share in zip(logits.tolist(), shares.tolist(), strict=True):
        norm = math.log(sum(math.exp(x) for x in row))
        total -= sum(s * (x - norm) for s, x in zip(share, row, strict=True))
    return total / len(logits)


@pytest.mark.parametrize("row", ["foal-net", "audio"])
def test_the_loss_is_the_cross_entropy_of_the_shares(p, easy, row):
    q = quiet(p)
    net = networks.build_net(q, row, easy.stores, easy.table["utterance"].tolist())
    streams, labels = batch_of(easy, range(8))
    streams = {s: streams[s] for s in q.variants[row].streams}
    entered = net.enter(streams)
    terms = gradients.loss_terms(net.core, entered, labels, q, targets=SHARES)
    logits = networks.classify(net.core, entered).detach()
    assert terms["ce"].item() == pytest.approx(by_hand(logits, SHARES), rel=1e-5)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(logits, SHARES).item(), rel=1e-6)
    hard = gradients.loss_terms(net.core, entered, labels, q)
    assert hard["ce"].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert abs(terms["ce"].item() - hard["ce"].item()) > 1e-4
    for name in set(terms) - {"ce", "total"}:  # they ask which clips are of one emotion
        assert terms[name].item() == hard[name].item()


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_gradients_of_one_hot_shares_are_the_labels(p, easy, micro_batch):
    q, found = quiet(p, micro_batch=micro_batch), {}
    net, streams, labels = in_double(q, easy, range(8))
    one_hot, soft = F.one_hot(labels, 4).double(), SHARES.double()
    for name, targets in {"labels": None, "one-hot": one_hot, "soft": soft}.items():
        net.zero_grad()
        gradients.add_gradients(net, streams, labels, q, targets=targets)
        found[name] = torch.cat([w.grad.flatten() for w in net.parameters() if w.grad is not None])
    torch.testing.assert_close(found["one-hot"], found["labels"], rtol=1e-12, atol=1e-14)
    assert (found["soft"] - found["labels"]).abs().max() > 1e-3


def test_parts_of_a_batch_give_its_gradients(p, easy):
    found = []
    for micro_batch in (None, 3):
        q = quiet(p, micro_batch=micro_batch)
        torch.manual_seed(0)
        net, streams, labels = in_double(q, easy, range(8))
        gradients.add_gradients(net, streams, labels, q, targets=SHARES.double())
        found.append(torch.cat([w.grad.flatten() for w in net.parameters() if w.grad is not None]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_bf16_takes_shares_too(p, easy, bf16_units):
    q = quiet(p)
    net = networks.build_net(q, "foal-net", easy.stores, easy.table["utterance"].tolist())
    streams, labels = batch_of(easy, range(8))
    values = []
    for precision in ("fp32", "bf16"):
        terms = gradients.add_gradients(net, streams, labels, quiet(p, precision=precision), targets=SHARES)
        values.append(terms["ce"].item())
    assert terms["ce"].dtype == torch.float32 and values[1] == pytest.approx(values[0], rel=0.02)


# ---- from a table of votes -------------------------------------------------------------------------------

LABELS = {"ang": "angry", "hap": "happy", "exc": "happy", "sad": "sad"}
CLASSES = ["sad", "happy", "angry"]
# by hand: what each of the raters says, and the shares of sad, happy and angry
VOTES = {
    "ang ang hap": [0, 1 / 3, 2 / 3],
    "hap exc hap sad": [1 / 4, 3 / 4, 0],
    "ang fru ang hap fru ang": [0, 1 / 4, 3 / 4],  # a label of no class does not count
    "sad sad": [1, 0, 0],
    "ang ang ang hap hap exc exc": [0, 4 / 7, 3 / 7],  # the raters' commonest label is ang
}
TIE, UNMAPPED = "ang hap ang hap", "fru fru ang"


def write(root, speakers=6, times=2):
    """A table of cells of votes, and features of its utterances; every speaker has each kind of votes."""
    rng, rows = np.random.default_rng(0), []
    (root / "features").mkdir(parents=True)
    for s in range(speakers):
        for k, votes in enumerate([*VOTES, TIE, UNMAPPED] * times):
            name = f"s{s}_{k:02}"
            rows.append([name, f"s{s}", ";".join(votes.split())])
            np.save(root / "features" / f"{name}.npy", rng.normal(0, 1, (3, 6)) + 0.3 * np.eye(6)[k % 5])
    with (root / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "who", "votes"], *rows])
    return pd.DataFrame(rows, columns=["utterance", "speaker", "votes"]).set_index("utterance")


def asking(root, **changes):
    spec = {"encoder": "imported", "folder": str(root / "features"), "width": 6}
    whole = params.load("demo").model_dump()
    whole |= {"outputs": str(root / "out" / "p"), "features": {"audio": spec, "video": spec}, "robustness": {}}
    corpus = {"reader": "table", "root": str(root), "table": "t.csv", "votes": ";", "labels": LABELS}
    corpus |= {"columns": {"utterance": "id", "label": "votes", "speaker": "who"}, "classes": CLASSES}
    whole |= {"corpus": corpus, "folds": {"by": "speaker", "groups": [["s0", "s1"], ["s2", "s3"], ["s4", "s5"]]}}
    whole["training"] |= {"epochs": 2, "batch": 8, "standardise": [], "target": "majority"}
    whole["model"] |= {"heads": 2, "projection_dim": 4, "inputs": {}}
    base = whole["variants"]["audio"]
    whole["variants"]["audio-soft"] = base | {"label": "audio, soft", "set": {"training.target": "soft"}}
    whole["ablation"] = {"honest": ["audio", "audio-soft"]}
    return params.Params.model_validate(whole | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("votes")
    written = write(root)
    p = asking(root, ablation={"honest": ["audio", "audio-soft", "late-product"]})
    p = with_training(p, target="soft", sampler="shuffle")  # but for the row `audio`, which says otherwise
    hard = p.variants["audio"].model_copy(update={"set": {"training.target": "majority"}})
    p = p.model_copy(update={"variants": {**p.variants, "audio": hard}})
    runs.run_all(p, records.missing_runs(p, [("honest", row) for row in p.ablation["honest"]]))
    return p, written


def test_the_manifest_has_the_shares_and_the_label_of_most(trained):
    p, written = trained
    data = open_data(p, ["audio"])
    table = pd.read_parquet(p.folder / "manifest.parquet").set_index("utterance")
    kept = written[~written["votes"].isin([v.replace(" ", ";") for v in (TIE, UNMAPPED)])]
    assert set(table.index) == set(kept.index) and len(kept) == 60
    for utterance, votes in kept["votes"].items():
        expected = VOTES[votes.replace(";", " ")]
        assert table.loc[utterance, [f"share_{c}" for c in CLASSES]].tolist() == pytest.approx(expected)
        np.testing.assert_allclose(data.shares([utterance]), [expected], rtol=1e-6)
        first = votes.split(";")[0]  # so they are written: the first label is the commonest
        assert table.loc[utterance, "emotion"] == LABELS[first]
    reasons = dict(zip(data.left_out["utterance"], data.left_out["reason"], strict=True))
    assert reasons["s0_05"].endswith("its raters do not agree: ang 2, hap 2")
    assert reasons["s0_06"] == "label fru is not among the classes"


def test_the_record_says_what_was_taught_and_the_scores_are_of_the_label(trained):
    p, _ = trained
    told, data = {}, open_data(p)
    for row in p.ablation["honest"]:
        folder = records.run_folder(p, "honest", row, 1, 0)
        told[row] = record = records.read_record(folder / "record.json")
        test = records.read_predictions(folder).query("split == 'test'")
        assert test["true"].tolist() == data.labels(test["utterance"]).tolist()
        at = test[test["epoch"] == record["scores"]["validation"]["epoch"]]
        right = at["true"].to_numpy() == at.filter(like="logit_").to_numpy().argmax(1)
        assert record["scores"]["validation"]["wa"] == pytest.approx(right.mean())
    assert {row: r.get("target") for row, r in told.items()} == {
        "audio": None,
        "audio-soft": "soft",
        "late-product": "majority",
    }
    assert told["audio-soft"]["params"]["training"]["target"] == "soft"
    assert "target" not in told["audio"]["params"]["training"]
    assert [told[row]["network"] for row in told] == ["foal-net", "foal-net", "late-product"]
    assert told["audio"]["predictions_digest"] != told["audio-soft"]["predictions_digest"]
    assert len({r["params_digest"] for r in told.values()}) == 3
    page = write_report(p, [variant_result(p, "honest", row) for row in p.ablation["honest"]])
    said = page.read_text(encoding="utf-8")
    assert "The cross-entropy of audio, soft was taught the shares of the raters' votes" in said.replace("&#39;", "'")


def test_the_floor_of_the_cross_entropy_is_the_votes_own_entropy(trained):
    p, written = trained
    folder = records.run_folder(p, "honest", "audio-soft", 1, 0)
    record = records.read_record(folder / "record.json")
    held_out = set(records.read_predictions(folder)["utterance"])
    data = open_data(p, ["audio"])
    learned = [u for u in data.table["utterance"] if u not in held_out]
    entropies = [
        sum(-s * math.log(s) for s in VOTES[votes.replace(";", " ")] if s) for votes in written.loc[learned, "votes"]
    ]
    history = pd.DataFrame(record["history"])
    assert history["votes_entropy"].tolist() == pytest.approx([np.mean(entropies)] * 2, abs=2e-6)
    (axis, *_) = figures.loss_curves(history, 3).axes
    dashed = [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"]
    assert dashed == [pytest.approx(np.mean(entropies), abs=2e-6)]
    plain = records.read_record(records.run_folder(p, "honest", "audio", 1, 0) / "record.json")["history"]
    assert "votes_entropy" not in plain[0]
    (axis, *_) = figures.loss_curves(pd.DataFrame(plain), 3).axes
    assert [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"] == [0]


def test_where_all_raters_agree_the_run_is_that_of_the_labels(tmp_path):
    write(tmp_path)
    table = pd.read_csv(tmp_path / "t.csv")
    table["votes"] = [(v.split(";")[0] + ";") * 2 for v in table["votes"]]
    table.to_csv(tmp_path / "t.csv", index=False)
    p = asking(tmp_path)
    runs.run_all(p, [("honest", row, 1, 0) for row in ("audio", "audio-soft")])
    of = [records.read_predictions(records.run_folder(p, "honest", r, 1, 0)) for r in ("audio", "audio-soft")]
    logits = [t.filter(like="logit_").to_numpy() for t in of]
    np.testing.assert_allclose(*logits, atol=1e-5)
    assert "raters: all votes for a class agree in 100% of the utterances; the label has 100%" in "\n".join(
        check_corpus(p)
    )


def test_check_corpus_says_how_far_raters_agree(trained):
    p, _ = trained
    shares = [2 / 3, 3 / 4, 3 / 4, 1, 3 / 7]
    said = "\n".join(check_corpus(p))
    assert f"agree in 20% of the utterances; the label has {np.mean(shares):.0%} of them on average" in said


def test_raters_in_columns_are_votes_too(tmp_path):
    written = write(tmp_path, speakers=2, times=1)
    split = written["votes"].str.split(";", expand=True).fillna("").add_prefix("r").reset_index()
    split.assign(who=written["speaker"].to_numpy()).to_csv(tmp_path / "t.csv", index=False)
    columns = {"utterance": "utterance", "speaker": "who", "raters": [f"r{n}" for n in range(7)]}
    p = asking(tmp_path)
    corpus = p.corpus.model_copy(update={"votes": None, "columns": p.corpus.columns.model_validate(columns)})
    folds = {"by": "speaker", "groups": [["s0"], ["s1"]]}
    p = params.Params.model_validate(p.model_dump() | {"corpus": corpus.model_dump(), "folds": folds})
    table = open_data(p, ["audio"]).table.set_index("utterance")
    assert table.loc["s1_01", ["share_sad", "share_happy", "share_angry"]].tolist() == [0.25, 0.75, 0]


def test_soft_without_votes_is_one_line(tmp_path, trained):
    said = refused(lambda: params.load("demo", "training.target=soft"))
    assert "training.target: soft needs the labels of several raters" in said and "corpus.votes" in said
    row = "variants.audio.set.training.target=soft"
    assert "training.target: soft needs" in refused(lambda: params.load("demo", row))
    assert "'majority' or 'soft'" in refused(lambda: params.load("demo", "training.target=sotf"))
    p, _ = trained
    data = open_data(p, ["audio"])
    plain = type(data)(data.table.drop(columns="share_sad"), data.left_out, data.stores, data.info, data.classes)
    assert "no column 'share_sad'" in refused(lambda: plain.shares(["s0_00"]))


def test_digests_of_before_stay_and_soft_has_others(tmp_path):
    write(tmp_path, speakers=1, times=1)
    p = asking(tmp_path)
    others = {n: v for n, v in p.variants.items() if n != "audio-soft"}
    plain = p.model_copy(update={"variants": others, "ablation": {"honest": ["audio"]}})
    assert p.soft and not plain.soft and "target" not in plain.model_dump()["training"]
    assert p.data_digest != plain.data_digest and p.digest("audio") == plain.digest("audio")
    assert with_training(p, target="soft").digest("audio") == p.digest("audio-soft") != p.digest("audio")
    assert p.store_name("audio") == with_training(p, target="soft").store_name("audio")  # features are shared
    nested = p.variants["audio-soft"].model_copy(update={"set": {"training": {"target": "soft"}}})
    assert p.model_copy(update={"variants": {"audio": p.variants["audio"], "x": nested}}).soft


def test_a_model_card_says_it(trained):
    p, _ = trained
    scores = {"protocol": "honest", "folds": [1], "utterances": 1, "speakers": 1}
    scores |= {key: {"value": 0.5, "low": None, "high": None} for key in ("ua", "wa")}
    said = {}
    for row in ("audio", "audio-soft"):
        own = {"params": p.for_variant(row), "variant": row, "scores": scores, "members": [], "generated": False}
        own |= {"classes": CLASSES, "streams": ["audio"]}
        said[row] = _body(type("Recognizer", (), own), row, "")
    assert "shares of the raters' votes" in said["audio-soft"] and "shares of" not in said["audio"]
