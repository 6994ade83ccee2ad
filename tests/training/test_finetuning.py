"""A trained WavLM in the same loop: what moves, the whole batch's losses from parts of it."""

import numpy as np
import pytest
import torch
from conftest import batch_of, in_double, quiet, refused, with_training
from transformers import WavLMConfig, WavLMModel

from foalkit import params
from foalkit.corpora.folds import split
from foalkit.features.data import open_data
from foalkit.models import Unimodal
from foalkit.models.inputs import WavLMInput
from foalkit.params.encoders import LogMel
from foalkit.training import gradients, networks
from foalkit.training import loop as training


def small_wavlm(**changes) -> WavLMModel:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
        "layerdrop": 0.0, "feat_extract_norm": "layer",
    }  # fmt: skip
    return WavLMModel(WavLMConfig(**sizes | changes))


def gradients_of(net) -> dict[str, torch.Tensor]:
    return {n: w.grad.clone() for n, w in net.named_parameters() if w.grad is not None}


# ---- the input layer -------------------------------------------------------------------------------


def test_a_clip_in_a_batch_is_the_clip_alone():
    layer = WavLMInput(small_wavlm()).eval()
    x, lengths = torch.randn(4, 8000, 1), [8000, 5000, 399, 720]
    mask = torch.arange(8000) < torch.tensor(lengths)[:, None]
    together, frames = layer(x * mask[..., None], mask)
    assert frames.sum(1).tolist() == [24, 15, 1, 2]  # (samples - 400) // 320 + 1, and never none
    for i, n in enumerate(lengths):
        alone, real = layer(x[i : i + 1, :n], mask[i : i + 1, :n])
        assert real.all()
        torch.testing.assert_close(together[i, frames[i]], alone[0], atol=1e-5, rtol=1e-4)


def test_hidden_sound_stays_hidden():
    _, frames = WavLMInput(small_wavlm()).eval()(torch.randn(2, 900, 1), torch.tensor([[True], [False]]).expand(2, 900))
    assert frames.any(1).tolist() == [True, False]


def test_normalising_is_transformers_own():
    from transformers import Wav2Vec2FeatureExtractor

    model = small_wavlm()
    x, lengths = 3 * torch.randn(2, 4000) + 1, [4000, 2500]
    mask = torch.arange(4000) < torch.tensor(lengths)[:, None]
    theirs = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)(
        [x[i, :n].numpy() for i, n in enumerate(lengths)], sampling_rate=16_000, padding=True, return_tensors="pt"
    )
    expected = model.eval()(theirs["input_values"], attention_mask=theirs["attention_mask"]).last_hidden_state
    layer = WavLMInput(model, normalise=True).eval()
    found, frames = layer((x * mask)[..., None], mask)
    torch.testing.assert_close(found[frames], expected[frames], atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_checkpointing_gives_the_same_gradients_from_fewer_kept_activations():
    x, mask = torch.randn(3, 6000, 1), torch.ones(3, 6000, dtype=torch.bool)
    seen, kept = [], []
    for checkpointing in (False, True):
        model = small_wavlm(num_hidden_layers=4, hidden_size=32, intermediate_size=512)
        layer = WavLMInput(model, checkpointing=checkpointing).train()
        torch.manual_seed(1)
        np.random.seed(1)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda v, saved=saved: saved.append(v.numel()) or v, lambda v: v):
            out, _ = layer(x, mask)
        out.square().mean().backward()
        seen.append(gradients_of(layer))
        kept.append(sum(saved))
    assert seen[0].keys() == seen[1].keys() and kept[1] < 0.7 * kept[0]
    for n in seen[0]:
        torch.testing.assert_close(seen[0][n], seen[1][n])


# ---- a whole batch from its parts ------------------------------------------------------------------


@pytest.mark.parametrize("micro", [1, 3, 8, 20])
def test_parts_of_a_batch_give_the_whole_batchs_gradients(p, easy, micro):
    p = quiet(p).for_variant("foal-net")
    torch.manual_seed(0)
    net, streams, labels = in_double(p, easy, range(0, 60, 6))
    whole = gradients.add_gradients(net, streams, labels, p)
    expected = gradients_of(net)
    net.zero_grad()
    parts = gradients.add_gradients(net, streams, labels, with_training(p, micro_batch=micro))
    assert expected and whole.keys() == parts.keys() == {"ce", "avel", "mem", "total"}
    for n, gradient in gradients_of(net).items():
        torch.testing.assert_close(gradient, expected[n], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=0)


def test_parts_are_entered_again_with_the_same_random_draws(p, easy):
    p = p.for_variant("foal-net")
    net = networks.build_net(p, "foal-net", easy.stores, easy.table["utterance"].tolist()).double()
    for layer in net.inputs.values():
        layer.linear = torch.nn.Sequential(layer.linear, torch.nn.Dropout(0.5))
    streams, labels = batch_of(easy, range(0, 60, 6))
    streams = {s: (x.double(), mask) for s, (x, mask) in streams.items()}
    torch.manual_seed(5)
    parts = [net.enter({s: (x[i : i + 4], m[i : i + 4]) for s, (x, m) in streams.items()}) for i in (0, 4, 8)]
    entered = [
        tuple(torch.cat(v) for v in zip(*stream, strict=False)) for stream in zip(*parts, strict=False)
    ]  # one graph, no second entering
    gradients.loss_terms(net.core, entered, labels, p)["total"].backward()
    expected, drawn = gradients_of(net), torch.rand(1)
    net.zero_grad()
    torch.manual_seed(5)
    gradients.add_gradients(net, streams, labels, with_training(p, micro_batch=4))
    assert torch.rand(1) == drawn
    for n, gradient in gradients_of(net).items():
        torch.testing.assert_close(gradient, expected[n], rtol=1e-10, atol=1e-13)


def test_a_trained_wavlm_takes_parts_too(p, easy):
    """Time masks, layer drop and dropout on: the second entering repeats NumPy's draws as well as torch's."""
    p = with_training(p.for_variant("audio"), micro_batch=3)
    net = networks.Net(
        {"audio": WavLMInput(small_wavlm(layerdrop=0.3, mask_time_prob=0.3, mask_time_length=2))}, {}, Unimodal(16, 4)
    ).train()
    x, labels = torch.randn(6, 4000, 1), torch.tensor([0, 1, 2, 3, 0, 1])
    mask = torch.ones(6, 4000, dtype=torch.bool)

    def seeded():
        torch.manual_seed(1)
        np.random.seed(1)
        net.zero_grad()

    seeded()
    entered = [net.enter({"audio": (x[i : i + 3], mask[i : i + 3])})[0] for i in (0, 3)]
    joined = [tuple(torch.cat(v) for v in zip(*entered, strict=False))]
    gradients.loss_terms(net.core, joined, labels, p)["total"].backward()
    expected = gradients_of(net)
    seeded()
    gradients.add_gradients(net, {"audio": (x, mask)}, labels, p)
    found = gradients_of(net)
    assert found.keys() == expected.keys()
    for n in expected:
        torch.testing.assert_close(found[n], expected[n], rtol=1e-4, atol=1e-7)


# ---- the demo's raw sound --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fine(tiny_file, tmp_path_factory):
    """Foal-Net on raw sound: a small WavLM trained end to end, small CLIP frames cached and frozen."""
    overrides = [
        f"outputs={tmp_path_factory.mktemp('fine')}", "model.heads=2",
        "features={audio: {encoder: waveform}, video: {encoder: clip, model: small, width: 32, every: 8}}",
        "model.inputs={audio: {kind: wavlm, model: small, width: 32}}", "training.standardise=[]",
        "training.epochs=12", "training.batch=8", "training.lr=3.0e-3", "training.schedule=constant",
        "loss.normalise_targets=true",
        "ablation={honest: [audio, foal-net]}",
    ]  # fmt: skip
    return params.load(tiny_file, overrides)


def start_and_end(fine, variant):
    data = open_data(fine)
    sides = split(data.table, fine, 1, "honest")
    torch.manual_seed(0)  # as training does before it builds the net
    net = networks.build_net(fine.for_variant(variant), variant, data.stores, sides.train)
    return {n: v.clone() for n, v in net.state_dict().items()}, training.train(fine, variant, data, sides, 0, "honest")


@pytest.fixture(scope="module")
def trained(fine):
    """{variant: (first weights, result)}."""
    return {variant: start_and_end(fine, variant) for variant in ("audio", "foal-net")}


@pytest.mark.parametrize("variant", ["audio", "foal-net"])
def test_wavlm_is_trained_end_to_end_and_its_front_end_is_not(trained, variant):
    before, result = trained[variant]
    front = [n for n in before if ".feature_extractor." in n]
    assert len(front) > 7 and all(torch.equal(before[n], result.weights[n]) for n in front)
    moved = {n for n in before if not torch.equal(before[n], result.weights[n])}
    still = set(before) - moved - set(front)
    # a key's bias cancels in the softmax; masked_spec_embed only stands where time was masked
    assert all(n.endswith(("k_proj.bias", "key.bias", "masked_spec_embed")) for n in still), still
    losses = result.history["total"].to_numpy()
    assert losses[-4:].mean() < losses[0] - 0.1


def test_the_same_fine_tuning_twice_gives_the_same_bytes(fine, trained):
    (_, one), (_, two) = trained["foal-net"], start_and_end(fine, "foal-net")
    assert one.predictions.equals(two.predictions)


def test_a_trained_wavlm_wants_samples(fine):
    changed = fine.model_copy(update={"features": fine.features | {"audio": LogMel(encoder="log-mel")}})
    data = open_data(fine)
    message = refused(lambda: networks.build_net(changed, "audio", data.stores, []))
    assert "model.inputs.audio" in message and "waveform" in message
