"""CFN-SR through the same store, loop and records as Foal-Net: pictures in, runs that start from other runs."""

import hashlib

import numpy as np
import pytest
import torch
import yaml
from conftest import refused, with_training
from safetensors.torch import load_file
from torchvision.transforms import v2

from foalkit import params
from foalkit.corpora.folds import split
from foalkit.features import faces, leaks, media
from foalkit.features.data import open_data
from foalkit.features.store import FeatureStore
from foalkit.models.inputs import PicturesInput
from foalkit.params.load import expand
from foalkit.results import records
from foalkit.training import loop as training
from foalkit.training import networks, runs

ROWS = ["cfn-video", "cfn-audio", "concat", "cfn-sr"]


@pytest.fixture(scope="module")
def p(tiny, tmp_path_factory):
    """Two frames of 32 x 32 and 1.69 s of MFCCs of the tiny corpus: CFN-SR on IEMOCAP's layout."""
    folder = tmp_path_factory.mktemp("cfn-sr")
    data = tiny.model_dump(exclude={"variants"})
    data["outputs"] = str(folder / "outputs")
    data["features"] = {
        "face-frames": {"encoder": "frames", "frames": 2, "size": 32},
        "mfcc": {"encoder": "mfcc", "hop": 128, "seconds": 1.69},
    }
    data["model"]["inputs"], data["ablation"] = {}, {"honest": ROWS, "published": []}
    data["training"] |= {"epochs": 1, "batch": 16, "sampler": "shuffle", "schedule": "constant"}
    data["training"]["standardise"] = ["mfcc"]
    (folder / "cfn-sr.yaml").write_text(yaml.safe_dump(data))
    return params.load(folder / "cfn-sr.yaml")


@pytest.fixture(scope="module")
def data(p):
    return open_data(p)


@pytest.fixture(scope="module")
def fused(p, data):
    """The run of a fused variant; the two that it starts from were missing."""
    return runs.run(p, "cfn-sr", 1, 0, "honest", data)


# ---- the store ---------------------------------------------------------------------------------------


def test_frames_are_stored_as_they_were_cut(p, data, corpus):
    store = data.stores["face-frames"]
    row = data.table.iloc[3]
    box = media.square(row["face"])
    shown = media.read_frames(corpus / row["video"], row["start"], row["end"], crop=box, size=32)
    whole = media.read_frames(corpus / row["video"], row["start"], min(row["end"], row["start"] + 2.0))
    kept = [len(whole) // 4, 3 * len(whole) // 4]  # the middles of the two halves
    assert store.packed.dtype == np.uint8 and store.info["dtype"] == "uint8"
    np.testing.assert_array_equal(store[row["utterance"]].reshape(2, 32, 32, 3), shown[kept])
    x, mask = store.batch(data.table["utterance"][:3])
    assert x.dtype == np.uint8 and x.shape == (3, 2, 3072) and mask.all()


def test_sounds_that_are_filled_up_are_noted_and_the_note_is_kept(p, data):
    store, audio = data.stores["mfcc"], data.table.set_index("utterance")["audio"]
    assert set(store.lengths.values()) == {212}
    short = {u: len(media.read_audio(expand(p.corpus.root, "") / a)) for u, a in audio.items()}
    short = {u: n for u, n in short.items() if n < 27_040}
    assert set(store.notes) == set(short) and len(short) > 3
    u = next(iter(short))
    frames = 1 + short[u] // 128
    assert store.notes[u] == f"{u}.wav: {frames} of 212 MFCC frames, the rest is silence"
    assert store.info["noted"] == len(short)
    again = FeatureStore(p.features_folder / p.store_name("mfcc"))
    assert again.notes == store.notes


def test_real_clips_are_read_from_mp4(ravdess_root, tmp_path):
    p = params.load("ravdess-cfnsr-small", f"outputs={tmp_path} corpus.root={ravdess_root}/clips")
    data = open_data(p)
    lacks = data.table.set_index("utterance")["lacks"]  # two files show one take; of another there is no sound
    assert len(lacks) == 5 and lacks[lacks != ""].to_dict() == {"01-04-01-02-01-01": "mfcc"} and data.left_out.empty
    assert len(data.stores["mfcc"].lengths) == 4 and set(data.stores["mfcc"].lengths.values()) == {212}
    store = data.stores["face-frames"]
    assert set(store.lengths.values()) == {16} and min(store.found.values()) == 1.0
    row = data.table.iloc[0]
    pictures = media.read_frames(ravdess_root / "clips" / row["video"])
    boxes, _ = faces.track(pictures)
    at = len(pictures) * (2 * 5 + 1) // 32  # the sixth of sixteen middles
    np.testing.assert_array_equal(
        store[row["utterance"]][5].reshape(112, 112, 3), faces.cut(pictures[at], boxes[at], 112)
    )


# ---- what the network sees ---------------------------------------------------------------------------


def test_in_testing_pictures_are_only_scaled():
    frames = torch.randint(0, 256, (2, 3, 8, 8, 3), dtype=torch.uint8)
    video, _ = PicturesInput(192).eval()(frames.flatten(2), torch.ones(2, 3, dtype=torch.bool))
    assert video.shape == (2, 3, 3, 8, 8)
    scale = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for clip in range(2):
        for t in range(3):
            expected = scale(frames[clip, t].permute(2, 0, 1).float() / 255)
            torch.testing.assert_close(video[clip, :, t], expected, rtol=0, atol=1e-6)


def test_one_draw_a_clip_in_training():
    still = torch.randint(0, 256, (1, 1, 16, 16, 3), dtype=torch.uint8).expand(6, 5, -1, -1, -1)
    torch.manual_seed(0)
    video, _ = PicturesInput(768).train()(still.flatten(2), torch.ones(6, 5, dtype=torch.bool))
    for clip in video:
        assert all(torch.equal(clip[:, 0], clip[:, t]) for t in range(5))
    assert len({clip[:, 0].sum().item() for clip in video}) > 1  # but clips differ
    torch.manual_seed(0)
    mirrored, _ = PicturesInput(768, crop=(1.0, 1.0), flip=1.0).train()(
        still.flatten(2), torch.ones(6, 5, dtype=torch.bool)
    )
    plain, _ = PicturesInput(768).eval()(still.flatten(2), torch.ones(6, 5, dtype=torch.bool))
    assert (mirrored == plain.flip(4)).flatten(1).all(1).any()


def test_pictures_must_be_square():
    with pytest.raises(ValueError, match="no square picture"):
        PicturesInput(100)


# ---- runs that start from runs -----------------------------------------------------------------------


def test_a_fused_run_trains_what_it_starts_from_and_says_so(p, fused):
    record = records.read_record(fused)
    folders = {v: records.run_folder(p, "honest", v, 1, 0) for v in ("cfn-video", "cfn-audio")}
    digests = {v: hashlib.sha256((f / "weights.safetensors").read_bytes()).hexdigest() for v, f in folders.items()}
    assert record["starts_from"] == digests
    # eight classes would make it 26 301 417
    assert record["parameters"] == 26_301_417 - 4 * (3712 + 1)
    assert records.read_record(folders["cfn-video"] / "record.json")["starts_from"] == {}


def test_the_branches_start_with_those_weights(p, data, fused):
    start = runs.first_weights(p, "concat", 1, 0, "honest")
    still = with_training(p, lr=1e-30)  # too little to move a weight
    net = training.train(still, "concat", data, split(data.table, p, 1, "honest"), 0, "honest", start=start)
    compared = 0
    for name, part in (("cfn-video", "video"), ("cfn-audio", "audio")):
        weights = load_file(records.run_folder(p, "honest", name, 1, 0) / "weights.safetensors")
        for key, value in weights.items():
            if key.startswith("core.branch.") and key.endswith((".weight", ".bias")):
                now = net.weights[key.replace("core.branch", f"core.{part}")]
                torch.testing.assert_close(now, value, rtol=0, atol=1e-20)  # a weight of 0 moves by the rate
                compared += 1
    assert compared > 100


def test_weights_of_another_file_are_refused(p, fused):
    file = records.run_folder(p, "honest", "cfn-audio", 1, 0) / "weights.safetensors"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1])
        line = refused(lambda: runs.first_weights(p, "cfn-sr", 1, 0, "honest"))
    finally:
        file.write_bytes(whole)
    assert "not the file its record was written with" in line


def test_the_same_bytes_twice(p, data, fused):
    first = {n: (fused.parent / n).read_bytes() for n in ("predictions.parquet", "weights.safetensors")}
    torch.rand(5)
    again = runs.run(p, "cfn-sr", 1, 0, "honest", data)
    assert {n: (again.parent / n).read_bytes() for n in first} == first


def test_standardised_mfccs_rest_on_the_training_side(p, data, fused):
    sides = split(data.table, p, 1, "honest")
    weights = load_file(fused.parent / "weights.safetensors")
    frames = np.concatenate([data.stores["mfcc"][u] for u in sides.train]).astype(np.float64)
    np.testing.assert_allclose(1 / weights["scales.mfcc.scale"].numpy(), frames.std(0), rtol=1e-2)
    leaks.check_statistics(weights, data.stores, sides)


def test_what_cfn_sr_cannot_read_is_refused(p, data):
    sides = split(data.table, p, 1, "honest")

    def built(q, variant="cfn-audio"):
        return refused(lambda: networks.build_net(q, variant, data.stores, sides.train))

    spec = p.features["face-frames"].model_copy(update={"encoder": "hog"})
    q = p.model_copy(update={"features": {**p.features, "face-frames": spec}})
    assert "reads pictures (encoder frames)" in built(q, "cfn-video")
    short = data.stores["mfcc"].lengths
    utterance = next(iter(short))
    kept, short[utterance] = short[utterance], 180
    try:
        assert f"{utterance} has 180 MFCC frames" in built(p)
    finally:
        short[utterance] = kept
    line = refused(lambda: training.train(p, "cfn-sr", data, sides, 0, "honest"))
    assert "starts from other runs" in line
