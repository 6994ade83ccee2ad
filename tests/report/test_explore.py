"""The look inside a run: its weights on its own test side, against one utterance at a time and naive loops."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refused

from foalkit.corpora.folds import split
from foalkit.report import explore as report_explore
from foalkit.results import records
from foalkit.training import networks, runs


@pytest.fixture(scope="module")
def run(tiny, data):
    """A real run of two epochs on the tiny corpus: its record and folder."""
    record = runs.run(tiny, "foal-net", 2, 0, "honest", data)
    return records.read_record(record) | {"folder": record.parent}


@pytest.fixture(scope="module")
def seen(tiny, run):
    return report_explore.embeddings(tiny, run)


def test_embeddings_are_of_the_test_side_and_its_weights(tiny, data, run, seen):
    assert seen.utterances == split(data.table, tiny, 2, "honest").test
    emotion = data.table.set_index("utterance")["emotion"]
    assert [tiny.corpus.classes[c] for c in seen.labels] == emotion[seen.utterances].tolist()
    net = networks.build_net(tiny, "foal-net", data.stores, seen.utterances)
    net.load_state_dict(records.read_weights(run["folder"]))
    net.eval()
    for i in (0, 3, len(seen.utterances) - 1):  # alone, without padding
        clip = {s: torch.from_numpy(data.stores[s][seen.utterances[i]].astype("f4"))[None] for s in ("audio", "video")}
        for s, x in clip.items():
            assert seen.before[s][i] == pytest.approx(x[0].numpy().mean(0), rel=1e-4, abs=1e-4)
        with torch.inference_mode():
            masks = {s: torch.ones(x.shape[:2], dtype=torch.bool) for s, x in clip.items()}
            (audio, am), (video, vm) = net.enter({s: (x, masks[s]) for s, x in clip.items()})
            vectors = net.core.project(audio, video, am, vm)
        for s, vector in zip(("audio", "video"), vectors, strict=True):
            assert seen.after[s][i] == pytest.approx(vector[0].numpy(), rel=1e-3, abs=1e-4)


def test_the_similarity_is_the_cosine_over_the_temperature(run, seen):
    temperature = records.read_weights(run["folder"])["core.temperature"].item()
    a, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in seen.after.values())
    assert seen.similarity == pytest.approx(a @ v.T / temperature, abs=1e-5)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def naive_share(queries, keys, labels):
    """Percent of queries whose most similar other key has their label."""
    right = 0
    for i, q in enumerate(queries):
        others = [j for j in range(len(keys)) if j != i]
        nearest = max(others, key=lambda j: cosine(q, keys[j]))
        right += labels[nearest] == labels[i]
    return 100 * right / len(queries)


def test_neighbours_are_what_a_loop_over_pairs_finds(seen):
    table = report_explore.neighbours(seen)
    assert table.index.tolist() == ["audio", "video", "audio to video"]

    def scaled(x):
        spread = x.std(0)
        return (x - x.mean(0)) / np.where(spread == 0, 1, spread)

    for s in ("audio", "video"):
        for when, x in (("before", scaled(seen.before[s].astype(float))), ("after", seen.after[s])):
            assert table.loc[s, when] == pytest.approx(naive_share(x, x, seen.labels), abs=0.051)
    want = naive_share(seen.after["audio"], seen.after["video"], seen.labels)
    assert table.loc["audio to video", "after"] == pytest.approx(want, abs=0.051)
    pairs = [(a, b) for i, a in enumerate(seen.labels) for j, b in enumerate(seen.labels) if i != j]
    assert table["chance"].tolist() == pytest.approx([100 * np.mean([a == b for a, b in pairs])] * 3, abs=0.051)


def test_pictures_are_kept_for_the_report_and_those_of_another_run_go(tiny, seen, tmp_path):
    p = tiny.model_copy(update={"outputs": str(tmp_path)})
    drawn = report_explore.pictures(p, seen)
    report_explore.keep_pictures(p, drawn)
    kept = {f.stem for f in (tmp_path / "figures").glob("*.png")}
    assert kept == set(drawn) == {"embeddings", "similarity"}
    assert report_explore.pictures(p, None) == {}
    report_explore.keep_pictures(p, {})
    assert not list((tmp_path / "figures").glob("*.png"))


def test_there_is_nothing_to_see_in_one_modality_or_without_features(tiny, run, tmp_path):
    assert report_explore.embeddings(tiny, run | {"variant": "audio"}) is None
    gone = tiny.model_copy(update={"outputs": str(tmp_path)})
    assert report_explore.embeddings(gone, run) is None


def test_other_features_and_other_weights_are_refused(tiny, run):
    other = run | {"feature_digests": run["feature_digests"] | {"video": "0" * 16}}
    said = refused(lambda: report_explore.embeddings(tiny, other))
    assert "features.video" in said and "train it again" in said
    file = run["folder"] / "weights.safetensors"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert "weights.safetensors" in refused(lambda: report_explore.embeddings(tiny, run))
    finally:
        file.write_bytes(whole)


def test_the_pictures_show_every_utterance_by_emotion(seen, tiny):
    figure = report_explore.pictures(tiny, seen)["embeddings"]
    audio, video, joint = (ax.collections for ax in figure.axes)
    counts = [int((seen.labels == c).sum()) for c in range(4)]
    assert [len(c.get_offsets()) for c in audio] == [len(c.get_offsets()) for c in video] == counts
    assert [len(c.get_offsets()) for c in joint] == counts * 2
    matrix = report_explore.pictures(tiny, seen)["similarity"].axes[0].images[0].get_array()
    order = sorted(range(len(seen.labels)), key=lambda i: seen.labels[i])
    want = pd.DataFrame(seen.similarity).iloc[order, order].to_numpy()
    assert np.asarray(matrix) == pytest.approx(want)
