"""The look inside a run: its weights on its own test side, against one utterance at a time and naive loops."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refused

from foalkit.corpora.folds import split
from foalkit.corpora.manifest import corpus_root
from foalkit.features import media
from foalkit.report import attention, figures
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


# ---- attention ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inside(tiny, run):
    return report_explore.opened(tiny, run)


@pytest.fixture(scope="module")
def looked(tiny, inside):
    return attention.looks(inside, inside.test[3], corpus_root(tiny))


def test_attention_is_of_the_runs_weights_and_every_frame_has_its_moment(tiny, data, inside, looked):
    utterance = inside.test[3]
    clip = {s: torch.from_numpy(data.stores[s][utterance].astype("f4"))[None] for s in ("audio", "video")}
    with torch.inference_mode():
        entered = inside.net.enter({s: (x, torch.ones(x.shape[:2], dtype=torch.bool)) for s, x in clip.items()})
        want = inside.net.core.attention(*(x for x, _ in entered), *(mask for _, mask in entered))
    sound, film = (len(data.stores[s][utterance]) for s in ("audio", "video"))
    steps = -(-sound // 4)  # the sound's input layer lets every fourth frame of 20 ms out
    for stream, weights, shape in zip(("audio", "video"), want, ((steps, film), (film, steps)), strict=True):
        assert looked.weights[stream].shape == (2, 4, *shape)
        assert looked.weights[stream] == pytest.approx(weights[0].numpy(), abs=1e-6)
        assert looked.weights[stream].sum(3) == pytest.approx(np.ones((2, 4, shape[0])), abs=1e-5)
    assert looked.times["audio"] == pytest.approx(0.08 * np.arange(steps))
    turn = data.table.set_index("utterance").loc[utterance]
    _, rate = media.first_frame(corpus_root(tiny) / turn["video"])
    assert np.diff(looked.times["video"]) == pytest.approx(5 / float(rate))  # each fifth frame is used
    assert 0 <= looked.times["video"][0] < 1 / rate
    length = min(turn["end"] - turn["start"], tiny.clip.seconds)
    assert all(length - looked.steps[s] - 0.02 < looked.times[s][-1] < length + 0.02 for s in looked.times)


def test_the_spread_of_attention_is_what_a_loop_over_frames_finds(inside):
    table = attention.spread(inside)
    assert table.columns.tolist() == ["head 1", "head 2", "head 3", "head 4", "mean"]
    shares: dict = {}
    for utterance in inside.test:  # alone, without padding
        ((_, entered),) = inside.batches([utterance])
        with torch.inference_mode():
            both = inside.net.core.attention(*(x for x, _ in entered.values()), *(m for _, m in entered.values()))
        for name, weights in zip(("audio at video", "video at audio"), both, strict=True):
            for layer, of_layer in enumerate(weights[0].double().numpy(), 1):
                for head, rows in enumerate(of_layer, 1):
                    for row in rows:
                        share = np.exp(-sum(w * np.log(w) for w in row if w > 0)) / len(row)
                        shares.setdefault((name, f"layer {layer}", f"head {head}"), []).append(100 * share)
    for (name, layer, head), values in shares.items():
        assert table.loc[(name, layer), head] == pytest.approx(np.mean(values), abs=0.06)
    assert table["mean"].tolist() == pytest.approx(table.iloc[:, :4].mean(axis=1), abs=0.06)


def test_the_picture_of_attention_shows_both_directions_beside_sound_and_film(tiny, looked):
    root = corpus_root(tiny)
    film, audio_at, video_at, *above, _ = attention.picture(looked, root, layer=0, head=2).axes
    rows, columns = len(looked.times["video"]), len(looked.times["audio"])
    for ax, of in (
        (audio_at, looked.weights["audio"][0, 2].T * rows),
        (video_at, looked.weights["video"][0, 2] * columns),
    ):
        shown = ax.collections[0]
        assert np.asarray(shown.get_array()) == pytest.approx(of, rel=1e-5)
        places = shown.get_coordinates()  # edges, halfway between the frames
        assert places[0, :, 0].mean() == pytest.approx(looked.times["audio"].mean())
        assert places[:, 0, 1].mean() == pytest.approx(looked.times["video"].mean())
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # time runs down, as beside it
    for ax in above:
        (wave,) = ax.lines
        seconds, samples = wave.get_data()
        assert 0 <= seconds[0] < 1e-6 and len(samples) == pytest.approx(16_000 * (seconds[-1] + 1 / 16_000))
        assert abs(seconds[-1] - looked.turn["end"] + looked.turn["start"]) < looked.steps["audio"]
    assert 2 <= len(film.artists) <= attention.FRAMES
    mean = attention.picture(looked, root).axes[1].collections[0].get_array()
    assert np.asarray(mean) == pytest.approx(looked.weights["audio"][1].mean(0).T * rows, rel=1e-5)


def test_every_head_has_its_column(looked):
    *axes, _ = attention.heads(looked, layer=1).axes
    assert [ax.get_title() for ax in axes[:4]] == ["head 1", "head 2", "head 3", "head 4"]
    frames = len(looked.times["video"])
    for head in range(4):
        shown = np.asarray(axes[head].collections[0].get_array())
        assert shown == pytest.approx(looked.weights["audio"][1, head].T * frames, rel=1e-5)
    assert len({ax.collections[0].norm.vmax for ax in axes}) == 1  # one scale for all


def test_attention_in_words_names_the_moment_that_is_looked_at_most(looked):
    at = looked.weights["audio"][1].mean(0).mean(0).argmax()
    said = attention.describe(looked)
    assert looked.turn["utterance"] in said
    assert f"audio looks most at video at {looked.times['video'][at]:.2f} s" in said


def test_a_stream_of_numbers_has_no_waveform_and_no_film(tiny, looked):
    bare = attention.Looks(
        looked.turn, dict.fromkeys(looked.kinds, "numbers"), looked.times, looked.steps, looked.weights
    )
    film, _, _, *above, _ = attention.picture(bare, corpus_root(tiny)).axes
    assert not film.artists and not any(ax.lines for ax in above)
    assert len(figures.png(attention.picture(bare, corpus_root(tiny)))) > 5000
