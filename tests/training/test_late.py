"""The late product against plain scikit-learn calls, and its runs as the other rows' are read."""

import numpy as np
import pytest
from conftest import Memory, refused, with_training
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.preprocessing import scale

from foalkit import notebook, params
from foalkit.corpora.folds import split
from foalkit.results import records, tables
from foalkit.results.variants import read_absent, variant_result
from foalkit.training import late, loop, runs


def plain(data, sides, strength, streams=("audio", "video")):
    """{side: probabilities of each stream} by plain calls: statistics, standardisation and regression anew."""

    def of(stream, utterances):
        rows = []
        for u in utterances:
            x = np.asarray(data.stores[stream][u], float)
            rows.append([f(column) for f in (np.mean, np.std) for column in x.T])
        return np.array(rows)

    emotions = data.table.set_index("utterance")["emotion"]
    found = {"validation": [], "test": []}
    for stream in streams:
        train = of(stream, sides.train)
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000, tol=1e-8)
        model.fit(scale(train), emotions.loc[sides.train])
        for side, parts in found.items():
            x = (of(stream, getattr(sides, side)) - train.mean(0)) / train.std(0)
            order = [model.classes_.tolist().index(c) for c in data.classes]
            parts.append(model.predict_proba(x)[:, order])
    return found


@pytest.fixture(scope="module")
def sides(p, easy):
    return split(easy.table, p, 1, "honest")


@pytest.fixture(scope="module")
def result(p, easy, sides):
    return loop.train(p, "late-product", easy, sides, 0, "honest")


def logits(table):
    return table.filter(like="logit_").to_numpy(float)


def test_every_strengths_answers_are_the_product_of_two_plain_regressions(easy, sides, result):
    assert result.history["C"].tolist() == late.STRENGTHS and result.history["epoch"].tolist() == list(range(1, 10))
    for epoch in (1, 5, 9):
        wanted = plain(easy, sides, late.STRENGTHS[epoch - 1])
        for side, (audio, video) in wanted.items():
            part = result.predictions.query("split == @side and epoch == @epoch")
            assert part["utterance"].tolist() == getattr(sides, side)
            product = audio * video
            assert np.exp(logits(part)) == pytest.approx(product, rel=2e-2, abs=1e-4)
            assert (logits(part).argmax(1) == product.argmax(1)).all()


def test_the_strength_is_chosen_on_the_validation_side(easy, sides, result):
    best = {}
    for strength in late.STRENGTHS:
        audio, video = plain(easy, sides, strength)["validation"]
        product = audio * video / (audio * video).sum(1, keepdims=True)
        true = easy.labels(sides.validation)
        best[strength] = (balanced_accuracy_score(true, product.argmax(1)), -log_loss(true, product))
    chosen = late.STRENGTHS[result.scores["validation"]["epoch"] - 1]
    assert best[chosen] == pytest.approx(max(best.values()), abs=1e-3)
    assert result.selection == "validation" and result.scores["last"]["epoch"] == 9  # scikit-learn's own C


def test_nothing_is_learned_from_the_other_sides(p, easy, sides, result):
    changed = {}
    for stream, store in easy.stores.items():
        held = set(sides.validation + sides.test)
        changed[stream] = Memory({u: x + 3 if u in held else x for u, x in store.features.items()})
    other = loop.train(
        p,
        "late-product",
        type(easy)(easy.table, *([easy.left_out, changed, easy.info, easy.classes])),
        sides,
        0,
        "honest",
    )
    assert (other.history["ce"] == result.history["ce"]).all()
    assert not np.allclose(logits(other.predictions), logits(result.predictions))


def test_one_stream_alone_is_what_a_hidden_modality_leaves(easy, sides, result):
    strength = late.STRENGTHS[result.scores["validation"]["epoch"] - 1]
    audio, video = plain(easy, sides, strength)["test"]
    for condition, left in {"no video": audio, "no audio": video}.items():
        part = result.absent[result.absent["condition"] == condition]
        assert part["utterance"].tolist() == sides.test
        assert np.exp(logits(part)) == pytest.approx(left, rel=2e-2, abs=1e-4)


def test_its_run_is_recorded_and_read_like_the_others(p, easy, tmp_path):
    rows = ["audio", "late-product", "baseline"]
    p = p.model_copy(update={"outputs": str(tmp_path / "out"), "ablation": {"honest": rows, "published": rows[1:2]}})
    records.write_json(p.folder / "preprocess.json", {"features": {}})
    for protocol, variant in ((q, v) for q, names in p.ablation.items() for v in names):
        for fold in p.fold_numbers(protocol):
            file = runs.run(p, variant, fold, 0, protocol, easy)
    record = records.read_record(file)
    assert (record["device"], record["precision"], record["protocol"]) == ("cpu", "fp32", "published")
    assert record["parameters"] == 4 * (2 * 6 + 1) + 4 * (2 * 5 + 1)  # classes, statistics and a bias each
    weights = load_file(file.parent / "weights.safetensors")
    assert weights["audio.coef"].shape == (4, 12) and weights["video.mean"].shape == (10,)
    again = runs.finished(p, "late-product", 5, 0, "published", easy)
    assert again.scores == record["scores"] and len(again.absent) == 2 * len(record["groups"]["test"]) * 16
    found = [variant_result(p, q, v) for q, names in p.ablation.items() for v in names]
    late_product = found[1]
    true, answered = late_product.pooled["true"], late_product.pooled["predicted"]
    assert late_product.row["ua_pooled"] == pytest.approx(balanced_accuracy_score(true, answered))
    assert len(read_absent(late_product)) == 2 * 80
    line = tables.paired_differences(p, found).set_index("variant").loc["late product"]
    difference = late_product.row["ua_pooled"] - found[2].row["ua_pooled"]
    assert float(line["UA difference (points)"]) == pytest.approx(100 * difference, abs=0.0051)
    absent = tables.absent_table(p, found)
    assert absent["variant"].tolist() == ["audio", "late product", "fusion, L_CE only"]
    peeked = tables.selection_table([found[3]])
    assert peeked["ua"][peeked["selection"] == "test"].mean() >= peeked["ua"][peeked["selection"] == "last"].mean()


def test_the_same_bytes_again_under_any_seed(p, easy, tmp_path):
    p = p.model_copy(update={"outputs": str(tmp_path)})
    digests = {records.read_record(runs.run(p, "late-product", 1, s, "honest", easy))["weights_digest"] for s in (0, 7)}
    assert len(digests) == 1


def test_an_emotion_that_the_training_side_lacks_is_never_answered(p, easy, sides):
    emotion = easy.table.set_index("utterance")["emotion"]
    some = type(sides)([u for u in sides.train if emotion[u] != "sad"], sides.validation, sides.test, sides.groups)
    found = loop.train(p, "late-product", easy, some, 0, "honest").predictions
    assert np.isfinite(logits(found)).all() and (logits(found).argmax(1) != p.corpus.classes.index("sad")).all()


def test_samples_and_pictures_are_refused(p, easy, sides):
    store = Memory(easy.stores["audio"].features)
    store.dtype = "int16"
    data = type(easy)(easy.table, easy.left_out, easy.stores | {"audio": store}, easy.info, easy.classes)
    assert "features.audio: the mean of samples or pictures" in refused(
        lambda: loop.train(p, "late-product", data, sides, 0, "honest")
    )


def test_its_settings_are_the_loops_alone_and_its_digest_does_not_know_the_losses(p):
    digest = p.digest("late-product")
    louder = p.model_copy(update={"loss": p.loss.model_copy(update={"mem": 0.5})})
    assert louder.digest("late-product") == digest != with_training(p, sampler="shuffle").digest("late-product")
    assert louder.digest("foal-net") != p.digest("foal-net")
    shown = notebook.settings(p, variant="late-product").data
    assert "training.sampler" in shown and "loss." not in shown and "model." not in shown


def test_ravdess_posteriors_runs_its_rows_under_three_protocols():
    p = params.load("ravdess-posteriors", "corpus.root=nowhere features.video.folder=nowhere")
    some = ["audio", "late-product", "baseline", "foal-net"]
    every = ["video", "audio", "late-product", "baseline", "avel", "mem", "foal-net"]
    assert p.ablation == {"honest": every, "published": some, "random-split": some} and p.seeds == [0, 1, 2]
    assert p.kinds == {"audio": "sound", "video": "numbers"} and len(p.folds.groups) == 6
