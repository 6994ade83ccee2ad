"""The loop: same bytes twice, nothing learned from the test fold, losses recomputed by hand."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import Memory, batch_of, in_double, quiet, with_training
from safetensors.torch import load_file

from foalkit import UserError
from foalkit.corpora.folds import split
from foalkit.models import FoalNet
from foalkit.results import records
from foalkit.training import gradients, networks, runs
from foalkit.training import loop as training
from foalkit.training.adamw import AdamW


def train(p, data, variant="foal-net", seed=0, protocol="honest", fold=1, **kwargs):
    return training.train(p, variant, data, split(data.table, p, fold, protocol), seed, protocol, **kwargs)


@pytest.fixture(scope="module")
def result(p, easy):
    return train(p, easy)


def same_weights(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


# ---- determinism and what is kept ------------------------------------------------------------------


def test_same_params_and_seed_give_the_same_bytes(p, easy, tmp_path):
    p = p.model_copy(update={"outputs": str(tmp_path)})
    seen = []
    for seed in (3, 3, 4):
        torch.rand(5)  # what ran before must not matter
        file = runs.run(p, "foal-net", 1, seed, "honest", easy)
        names = ("predictions.parquet", "weights.safetensors")
        seen.append([hashlib.sha256((file.parent / n).read_bytes()).hexdigest() for n in names])
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[2][0] and seen[0][1] != seen[2][1]


def test_every_epoch_is_kept_for_validation_and_test(p, easy, result):
    sides = split(easy.table, p, 1, "honest")
    kept = result.predictions
    for epoch in (1, 2, 3):
        for side in ("validation", "test"):
            part = kept[(kept["epoch"] == epoch) & (kept["split"] == side)]
            assert part["utterance"].tolist() == getattr(sides, side)
            emotion = easy.table.set_index("utterance")["emotion"].loc[part["utterance"]]
            assert [p.corpus.classes[t] for t in part["true"]] == emotion.tolist()
            assert (part["speaker"] == part["utterance"].str[:6]).all()
    assert len(kept) == 3 * (16 + 16) and result.history["epoch"].tolist() == [1, 2, 3]
    assert [c for c in kept if c.startswith("logit_")] == [f"logit_{c}" for c in p.corpus.classes]


def test_the_published_protocol_has_no_validation_side(p, easy):
    published = train(p, easy, protocol="published")
    assert set(published.predictions["split"]) == {"test"} and set(published.scores) == {"test", "last"}
    assert published.selection == "test"


def test_a_random_split_is_trained_recorded_and_written_out_like_the_others(p, easy, tmp_path):
    p = p.model_copy(update={"outputs": str(tmp_path)})
    file = runs.run(p, "audio", 2, 0, "random-split", easy)
    record, sides = records.read_record(file), split(easy.table, p, 2, "random-split")
    assert file.parent.relative_to(tmp_path).parts == ("runs", "random-split", "audio", "fold2-seed0")
    assert (record["protocol"], record["selection"]) == ("random-split", "validation")
    assert record["split_digest"] == sides.digest and record["groups"]["test"] == ["part 2"]
    assert record["sizes"] == {"train": 48, "validation": 16, "test": 16}
    kept = records.read_predictions(file.parent)
    assert set(kept.loc[kept["split"] == "validation", "utterance"]) == set(sides.validation)
    parts = pd.read_csv(tmp_path / "random-split.csv").set_index("utterance")["part"]
    assert {u for u in parts.index if parts[u] == "part 2"} == set(kept.loc[kept["split"] == "test", "utterance"])


@pytest.mark.parametrize(("protocol", "variant"), [("honest", "foal-net"), ("published", "audio")])
def test_the_weights_on_disk_are_the_selected_epochs(p, easy, tmp_path, protocol, variant):
    p = p.model_copy(update={"outputs": str(tmp_path)})
    p = with_training(p, epochs=6, lr=0.05)
    file = runs.run(p, variant, 1, 2, protocol, easy)
    record, kept = records.read_record(file), records.read_predictions(file.parent)
    sides = split(easy.table, p, 1, protocol)
    net = networks.build_net(p.for_variant(variant), variant, easy.stores, sides.train)
    net.load_state_dict(load_file(file.parent / "weights.safetensors"))
    logits = training.predict(net, easy.stores, p.variants[variant].streams, sides.test, p)
    epoch = record["scores"][record["selection"]]["epoch"]
    test = kept[kept["split"] == "test"]
    distance = {e: np.abs(part.filter(like="logit_").to_numpy() - logits).max() for e, part in test.groupby("epoch")}
    assert distance[epoch] < 1e-5 and min(v for e, v in distance.items() if e != epoch) > 1e-4


# ---- leaks -----------------------------------------------------------------------------------------


def test_test_labels_do_not_reach_an_honest_run(p, easy):
    p = with_training(p, epochs=8, lr=0.02)
    rng = np.random.default_rng(1)
    noisy = {
        s: Memory({u: x + rng.normal(0, 4, x.shape[1]).astype("f2") for u, x in store.features.items()})
        for s, store in easy.stores.items()
    }
    easy = replace(easy, stores=noisy)  # so that epochs differ
    held, turn = easy.table["session"] == "Ses01", p.corpus.classes[1:] + p.corpus.classes[:1]
    turned = easy.table["emotion"].map(dict(zip(p.corpus.classes, turn, strict=True)))
    changed = replace(easy, table=easy.table.assign(emotion=easy.table["emotion"].mask(held, turned)))
    result, other = train(p, easy), train(p, changed)
    best = [r.history["test_ua"].max() for r in (result, other)]
    peeks = [set(r.history["epoch"][r.history["test_ua"] == b]) for r, b in zip((result, other), best, strict=True)]
    assert not peeks[0] & peeks[1]  # a run that peeked would differ
    assert result.scores["validation"]["epoch"] == other.scores["validation"]["epoch"]
    assert same_weights(result.weights, other.weights)
    logits = [r.predictions.filter(like="logit_").to_numpy() for r in (result, other)]
    np.testing.assert_array_equal(*logits)
    assert (result.predictions["true"] != other.predictions["true"]).sum() == 8 * 16


def test_test_features_do_not_reach_the_weights(p, easy, result):
    changed = {
        s: Memory({u: x + 9 if u.startswith("Ses01") else x for u, x in store.features.items()})
        for s, store in easy.stores.items()
    }
    assert same_weights(result.weights, train(p, replace(easy, stores=changed)).weights)


def test_standardisation_uses_training_utterances_only(p, easy):
    sides = split(easy.table, p, 1, "honest")
    net = networks.build_net(p, "foal-net", easy.stores, sides.train)
    assert set(net.scales) == {"audio"}  # as the params say
    frames = np.concatenate([easy.stores["audio"][u] for u in sides.train]).astype(float)
    scaled = net.scales["audio"](torch.tensor(frames, dtype=torch.float32)).double().numpy()
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, atol=5e-3)  # a thousandth is added against a deviation of 0


# ---- losses ----------------------------------------------------------------------------------------


def alone(net, streams, i):
    """Clip `i` of a batch, entered by itself and without padding."""
    return net.enter({s: (x[i : i + 1, mask[i]], mask[i : i + 1, mask[i]]) for s, (x, mask) in streams.items()})


def pair(one, other):
    """The audio of one entered clip and the video of another, as Foal-Net's methods take them."""
    (audio, audio_mask), (video, video_mask) = one[0], other[1]
    return audio, video, audio_mask, video_mask


def test_loss_terms_are_those_of_a_naive_recomputation(p, easy):
    p = quiet(p).for_variant("foal-net")
    torch.manual_seed(0)
    net, streams, labels = in_double(p, easy, range(0, 60, 7))
    terms = gradients.loss_terms(net.core, net.enter(streams), labels, p)
    core: FoalNet = net.core
    n = range(len(labels))
    entered = [alone(net, streams, i) for i in n]
    by_hand = torch.cat([core(*pair(clip, clip)) for clip in entered])
    torch.testing.assert_close(net(streams), by_hand)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(by_hand, labels))
    audio, video = (torch.cat([core.project(*pair(clip, clip))[k] for clip in entered]) for k in (0, 1))
    cosine = torch.stack([torch.stack([F.cosine_similarity(a, v, dim=0) for v in video]) for a in audio])
    similarity = cosine / core.temperature
    positive = (labels[:, None] == labels).double()
    rows, columns = similarity.log_softmax(1), similarity.T.log_softmax(1)
    avel = (-(positive * rows).sum(1).mean() - (positive * columns).sum(1).mean()) / 2
    torch.testing.assert_close(terms["avel"], avel)
    mem = 0.0
    for side, match, sim in (("a2v", core.match_a2v, similarity), ("v2a", core.match_v2a, similarity.T)):
        total = 0.0
        for i in n:
            hardest = max((j for j in n if labels[j] != labels[i]), key=lambda j: sim[i, j].item())
            own, other = entered[i], entered[hardest]
            negative = pair(own, other) if side == "a2v" else pair(other, own)
            total = total - match(getattr(core.fuse(*pair(own, own)), side)).log_softmax(1)[0, 1]
            total = total - match(getattr(core.fuse(*negative), side)).log_softmax(1)[0, 0]
        mem = mem + total / (2 * len(labels)) / 2
    torch.testing.assert_close(terms["mem"], mem)
    torch.testing.assert_close(terms["total"], terms["ce"] + p.loss.avel * avel + p.loss.mem * mem)


@pytest.mark.parametrize("share", [5, 2])  # two processes, and five
def test_what_processes_gather_carries_no_gradient(p, easy, share):
    """Ledger row 5, process by process and pair by pair: own clips ask, what was gathered from all is asked."""
    p = quiet(p).for_variant("foal-net")
    torch.manual_seed(0)
    net, streams, labels = in_double(p, easy, range(0, 60, 6))
    core, n = net.core, len(labels)
    with torch.no_grad():
        for w in core.parameters():  # a network at its start asks almost nothing of a context
            w *= 20 if w.ndim == 2 else 1
        gathered = [alone(net, streams, i) for i in range(n)]
        keys = [core.project(*pair(clip, clip)) for clip in gathered]
    total, elsewhere = 0.0, []
    for rows in (range(first, first + share) for first in range(0, n, share)):
        for i in rows:
            own = alone(net, streams, i)
            fused, projected = core.fuse(*pair(own, own)), core.project(*pair(own, own))
            loss = F.cross_entropy(core.classify(fused), labels[i : i + 1])
            for at, side, match in ((0, "a2v", core.match_a2v), (1, "v2a", core.match_v2a)):
                similarity = torch.cat([F.cosine_similarity(projected[at], k[1 - at]) for k in keys]) / core.temperature
                loss = loss - p.loss.avel * similarity.log_softmax(0)[labels == labels[i]].sum() / 2
                hardest = max((j for j in range(n) if labels[j] != labels[i]), key=lambda j: similarity[j].item())
                elsewhere.append(hardest not in rows)
                negative = pair(own, gathered[hardest]) if side == "a2v" else pair(gathered[hardest], own)
                yes, no = (match(getattr(f, side)).log_softmax(1)[0] for f in (fused, core.fuse(*negative)))
                loss = loss - p.loss.mem * (yes[1] + no[0]) / 4
            total = total + loss / len(rows) / (n / share)  # each process's mean, averaged over the processes
    assert any(elsewhere) and not all(elsewhere)  # negatives of other processes and of the own one
    total.backward()
    expected = {name: w.grad.clone() for name, w in net.named_parameters()}
    settings = {"local_batch": share}
    for more in ({}, {"micro_batch": 3}, {"local_batch": 16, "batch": 64}):  # the last: an epoch's last, short batch
        net.zero_grad()
        terms = gradients.add_gradients(net, streams, labels, with_training(p, **settings | more))
        torch.testing.assert_close(terms["total"], total)
        for name, w in net.named_parameters():
            torch.testing.assert_close(w.grad, expected[name], rtol=1e-9, atol=1e-12)
    net.zero_grad()
    whole = gradients.add_gradients(net, streams, labels, with_training(p, local_batch=p.training.batch))  # one process
    torch.testing.assert_close(whole, terms)  # the same losses, other gradients
    for name in ("core.audio_projection.enter.weight", "inputs.audio.linear.weight", "inputs.video.linear.weight"):
        assert not torch.allclose(net.get_parameter(name).grad, expected[name], rtol=1e-2)


@pytest.mark.parametrize(
    ("variant", "names"),
    [("audio", {"ce"}), ("baseline", {"ce"}), ("avel", {"ce", "avel"}), ("mem", {"ce", "mem"}),
     ("foal-net", {"ce", "avel", "mem"})],
)  # fmt: skip
def test_a_variant_has_its_own_terms(p, easy, variant, names):
    one = train(with_training(p, epochs=1), easy, variant).history.iloc[0]
    assert names <= set(one.index) and not ({"ce", "avel", "mem"} - names) & set(one.index)
    weights = {"ce": 1.0, "avel": p.loss.avel, "mem": p.loss.mem}
    assert one["total"] == pytest.approx(sum(weights[n] * one[n] for n in names), rel=1e-5)


def test_without_dropout_one_positive_pass_serves_for_two(p, easy):
    shared, separate = (train(quiet(p, positive_pass=how), easy) for how in ("shared", "separate"))
    columns = ["ce", "avel", "mem", "total", "validation_loss"]
    np.testing.assert_allclose(shared.history[columns], separate.history[columns], rtol=2e-3)


def test_an_easy_task_is_learned(p, easy):
    history = train(with_training(p, epochs=12), easy).history
    assert history["ce"].iloc[-1] < 0.5 * history["ce"].iloc[0]
    assert history["test_ua"].iloc[-1] > 0.8


def test_a_loss_that_is_no_number_stops_the_run(p, easy):
    broken = {s: Memory(dict(store.features)) for s, store in easy.stores.items()}
    broken["audio"].features["Ses03F_2"] = np.full((4, 6), np.nan, np.float16)
    unscaled = with_training(p, standardise=[], sampler="shuffle")
    with pytest.raises(UserError, match=r"^foal-net: the loss is nan at epoch 1, step \d: ") as caught:
        train(unscaled, replace(easy, stores=broken))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="at epoch"):
        train(with_training(p, lr=1e6), easy)


def test_threads_are_given_back(p, easy):
    before = torch.get_num_threads()
    with pytest.raises(UserError):
        train(with_training(p, lr=1e6, threads=1), easy)
    assert torch.get_num_threads() == before


# ---- sampling --------------------------------------------------------------------------------------


def test_the_balanced_sampler_draws_classes_alike():
    labels = torch.tensor([0] * 700 + [1] * 200 + [2] * 90 + [3] * 10)
    rng = torch.Generator().manual_seed(0)
    rows = torch.cat([training._epoch_order(labels, "balanced", rng) for _ in range(20)])
    assert len(rows) == 20_000
    shares = torch.bincount(labels[rows]) / len(rows)
    assert (shares - 0.25).abs().max() < 0.015  # five standard deviations
    seen = torch.bincount(rows[labels[rows] == 3] - 990, minlength=10) / (shares[3] * len(rows))
    assert (seen - 0.1).abs().max() < 0.025  # within a class, everyone alike


def test_shuffling_takes_each_once_and_each_epoch_anew():
    labels, rng = torch.zeros(50, dtype=torch.long), torch.Generator().manual_seed(0)
    first, second = (training._epoch_order(labels, "shuffle", rng) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()


# ---- the whole way ---------------------------------------------------------------------------------


def test_a_run_on_the_tiny_corpus_is_recorded(tiny, data):
    file = runs.run(tiny, "foal-net", 2, 0, "honest", data)
    record = records.read_record(file)
    assert record["params_digest"] == tiny.digest("foal-net")
    assert record["groups"] == {
        "train": ["Ses01", "Ses04", "Ses05"], "validation": ["Ses03"], "test": ["Ses02"],
    }  # fmt: skip
    predictions = records.read_predictions(file.parent)
    assert sum(record["sizes"].values()) == len(data.table)
    assert len(predictions) == 2 * (record["sizes"]["validation"] + record["sizes"]["test"])
    assert record["streams"] == ["audio", "video"] and set(record["scores"]) == {"validation", "test", "last"}
    assert record["feature_digests"] == {s: data.stores[s].digest for s in ("audio", "video")}


def test_predicting_does_not_depend_on_the_batch(p, easy):
    torch.manual_seed(0)
    net = networks.build_net(p, "foal-net", easy.stores, easy.table["utterance"].tolist())
    everyone = easy.table["utterance"].tolist()
    alone, together = (
        training.predict(net, easy.stores, ["audio", "video"], everyone, with_training(p, micro_batch=b))
        for b in (1, 64)
    )
    np.testing.assert_allclose(alone, together, atol=1e-5)


# ---- one modality hidden ---------------------------------------------------------------------------


def test_the_test_side_is_kept_with_each_stream_hidden(p, easy, result):
    sides = split(easy.table, p, 1, "honest")
    assert set(result.absent["condition"]) == {"no audio", "no video"}
    net = networks.build_net(p, "foal-net", easy.stores, sides.train)
    net.load_state_dict(result.weights)
    net.eval()
    for hidden in ("audio", "video"):
        kept = result.absent.query(f"condition == 'no {hidden}'")
        assert kept["utterance"].tolist() == sides.test
        assert kept["true"].tolist() == easy.labels(sides.test).tolist()
        for row in kept.to_dict("records")[::5]:
            streams = {
                s: tuple(map(torch.from_numpy, easy.stores[s].batch([row["utterance"]]))) for s in ("audio", "video")
            }
            # what is hidden cannot matter: another clip stands in its place
            streams[hidden] = (torch.full_like(streams[hidden][0], 7.0), torch.zeros_like(streams[hidden][1]))
            with torch.inference_mode():
                logits = net(streams)[0]
            np.testing.assert_allclose([row[f"logit_{c}"] for c in easy.classes], logits, atol=1e-5)
    assert "absent" in vars(train(p, easy, "audio")) and train(p, easy, "audio").absent.empty


def test_an_utterance_without_any_stream_is_named(p, easy):
    class Hidden(Memory):
        def batch(self, utterances):
            x, mask = super().batch(utterances)
            mask[[i for i, u in enumerate(utterances) if u == "Ses02M_3"]] = False
            return x, mask

    stores = {s: Hidden(store.features) for s, store in easy.stores.items()}
    net = networks.build_net(p, "foal-net", stores, easy.table["utterance"].tolist())
    with pytest.raises(UserError, match=r"Ses02M_3.*masked"):
        training.predict(net, stores, ["audio", "video"], easy.table["utterance"].tolist(), p)


def test_the_models_settings_reach_the_model(p, easy):
    changes = {
        "layers": 3, "heads": 4, "dropout": 0.25, "projection_dim": 12, "projection_dropout": 0.35,
    }  # fmt: skip
    p = p.model_copy(update={"model": p.model.model_copy(update=changes)}).for_variant("ledger-temperature")
    core = networks.build_net(p, "foal-net", easy.stores, easy.table["utterance"].tolist()).core
    assert core.temperature.item() == pytest.approx(0.07) and core.temperature_range == (0.001, 0.5)
    layers = [*core.a2v.layers, *core.v2a.layers]
    assert len(layers) == 6 and all((la.heads, la.dropout.p) == (4, 0.25) for la in layers)
    assert core.audio_projection.enter.out_features == 12 and core.video_projection.dropout.p == 0.35


def test_without_bf16_units_a_run_is_the_fp32_one_and_its_record_says_so(p, easy, tmp_path, bf16_units):
    bf16_units.setattr("foalkit.devices.has_bf16", lambda: False)
    seen = {}
    for precision in ("fp32", "bf16"):
        asked = with_training(p, precision=precision, epochs=1).model_copy(
            update={"outputs": str(tmp_path / precision)}
        )
        seen[precision] = records.read_record(runs.run(asked, "baseline", 1, 0, "honest", easy))
    assert [r["precision"] for r in seen.values()] == ["fp32", "fp32"]
    assert seen["bf16"]["params"]["training"]["precision"] == "bf16"
    assert seen["bf16"]["predictions_digest"] == seen["fp32"]["predictions_digest"]


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_bf16_steps_are_near_fp32_ones(p, easy, micro_batch, bf16_units):
    torch.manual_seed(0)
    quietly = quiet(p, standardise=[]).for_variant("foal-net")
    net = networks.build_net(quietly, "foal-net", easy.stores, easy.table["utterance"].tolist())
    streams, labels = batch_of(easy, range(0, 60, 6))
    seen = {}
    for precision in ("fp32", "bf16"):
        net.zero_grad()
        settings = with_training(quietly, precision=precision, micro_batch=micro_batch)
        terms = gradients.add_gradients(net, streams, labels, settings)
        seen[precision] = (
            terms["total"].item(),
            torch.cat([w.grad.flatten() for w in net.parameters() if w.grad is not None]),
        )
    assert all(w.dtype == torch.float32 for w in net.parameters())
    assert seen["bf16"][0] != seen["fp32"][0] and seen["bf16"][0] == pytest.approx(seen["fp32"][0], rel=0.02)
    assert torch.norm(seen["bf16"][1] - seen["fp32"][1]) < 0.05 * torch.norm(seen["fp32"][1])


def test_adamw_takes_the_steps_of_the_one_in_pytorch():
    ours, theirs = (torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.02, fused=True)
    optimiser = AdamW(list(ours.parameters()), lr=0.1, weight_decay=0.02)
    for step in range(5):
        optimiser.lr = reference.param_groups[0]["lr"] = 0.1 / (1 + step)
        x = torch.randn(4, 7)
        for net, one in ((ours, optimiser), (theirs, reference)):
            one.zero_grad()
            net(x).square().sum().backward()
            if step == 2:  # a batch that reaches only some weights
                net[0].weight.grad = None
            one.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
