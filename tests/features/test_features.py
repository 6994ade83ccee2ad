"""The feature store: what goes in comes out, once, whole, and only what changed is made again."""

import hashlib
import itertools
import json
import shutil
import subprocess
import sys
import threading
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import refused
from test_media import FPS, FRAMES, numbers, ramp, write_avi, write_wav

from foalkit import params
from foalkit.corpora.folds import random_parts, split
from foalkit.corpora.manifest import read_manifest
from foalkit.features import build, digests, faces, leaks, media
from foalkit.features import store as storing
from foalkit.features.data import extract, open_data, prepare, sources, up_to_date
from foalkit.features.encoders import make_encoder
from foalkit.features.encoders.sound import LogMelEncoder
from foalkit.features.media import square
from foalkit.features.reader import Reader
from foalkit.features.store import FILES, FeatureStore
from foalkit.params.load import expand


@pytest.fixture(scope="module")
def one_session(corpus, tmp_path_factory):
    root = tmp_path_factory.mktemp("session") / "corpus"
    shutil.copytree(corpus / "Session1", root / "Session1")
    shutil.copy(corpus / "face_boxes.csv", root)
    return root


@pytest.fixture
def world(one_session, tiny, tmp_path):
    """Params of one stream (log-mel) on a copy of the first session that a test may change."""
    root = tmp_path / "corpus"
    shutil.copytree(one_session, root)
    return make_world(tiny, tmp_path, root, "audio")


def make_world(tiny, folder, root, *streams, **changes):
    data = tiny.model_dump(exclude={"variants"})
    data["outputs"] = str(folder / "outputs")
    data["corpus"] |= {"root": str(root), "generate": None}
    data["features"] = {s: data["features"][s] for s in streams}
    data["model"]["inputs"], data["ablation"] = {}, {"honest": list(streams)[:1]}
    data |= changes
    file = folder / "world.yaml"
    file.write_text(yaml.safe_dump(data))
    return params.load(file)


@pytest.fixture
def untried(monkeypatch):
    """No generated second among the clips that are counted."""
    monkeypatch.setattr(build, "try_out", lambda *_: None)


@pytest.fixture
def calls(monkeypatch, untried):
    """The clips that went through the log-mel encoder, as their first samples."""
    seen, encode = [], LogMelEncoder.__call__

    def counted(self, samples):
        seen.append(len(samples))
        return encode(self, samples)

    monkeypatch.setattr(LogMelEncoder, "__call__", counted)
    return seen


def usable_wav(p, data, n=0):
    return expand(p.corpus.root, "root") / data.table["audio"].iloc[n]


def change_wav(file):
    with wave.open(str(file), "rb") as handle:
        settings, samples = handle.getparams(), np.frombuffer(handle.readframes(10**7), "<i2")
    with wave.open(str(file), "wb") as handle:
        handle.setparams(settings)
        handle.writeframes((samples[::-1] // 2).astype("<i2").tobytes())


def store_of(p, stream="audio"):
    return p.features_folder / p.store_name(stream)


def partial_of(p, stream="audio"):
    return store_of(p, stream).with_name(f"{p.store_name(stream)}.partial")


def forget(p):
    """As if nothing had been prepared: the outputs and the features go."""
    shutil.rmtree(p.folder)
    shutil.rmtree(p.features_folder)


def store_bytes(p, stream="audio"):
    folder = store_of(p, stream)
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.name != "seconds.json"}


def write_index(folder, packed, lengths):
    """What stands beside a packed array of so many frames of each utterance."""
    offsets = np.cumsum([0, *lengths.values()])
    parts = [packed[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
    index = pd.DataFrame({"utterance": list(lengths), "offset": offsets[:-1], "frames": list(lengths.values())})
    index = index.assign(key="k", digest=[hashlib.sha256(p).hexdigest()[:16] for p in parts], found=np.nan)
    storing.write_index(folder, index.assign(note=None, boxes=None), packed.shape[1], packed.dtype.name)


# ---- what is stored --------------------------------------------------------------------------------


def test_the_store_holds_the_encoders_output_in_half_precision(data, tiny, corpus):
    rows = data.table.to_dict("records")
    assert {s: set(store.lengths) for s, store in data.stores.items()} == {
        s: set(data.table["utterance"]) for s in ("audio", "video", "face")
    }
    for stream, store in data.stores.items():
        spec = tiny.features[stream]
        encoder = make_encoder(spec, tiny.weights_folder)
        for row in (rows[0], rows[17], rows[-1]):
            if stream == "audio":
                clip = media.read_audio(corpus / row["audio"], 0, tiny.clip.seconds)
            else:
                box = row["crop"] if stream == "video" else square(row["face"])
                end = min(row["end"], row["start"] + tiny.clip.seconds)
                clip = media.read_frames(corpus / row["video"], row["start"], end, crop=tuple(box), size=encoder.size)
                clip = clip[:: spec.every]
            np.testing.assert_array_equal(store[row["utterance"]], encoder(clip).astype(np.float16))


@pytest.fixture
def raw(one_session, tiny, tmp_path):
    """Params of one stream of waveforms."""
    return make_world(tiny, tmp_path, one_session, "audio", features={"audio": {"encoder": "waveform"}})


def test_a_waveform_is_stored_as_16_bit_samples_and_read_back_at_scale(raw, one_session):
    data = prepare(raw)
    store, rows = data.stores["audio"], data.table.iloc[[3, 0, 5]].to_dict("records")
    assert store.info["dtype"] == "int16" and store.width == 1
    x, mask = store.batch([r["utterance"] for r in rows])
    assert x.dtype == np.float32 and x.shape == (*mask.shape, 1)
    for row, samples, real in zip(rows, x, mask, strict=True):
        read = media.read_audio(one_session / row["audio"], 0, raw.clip.seconds)
        kept = store[row["utterance"]]
        assert kept.shape == (len(read), 1) and kept.dtype == np.int16 and real.sum() == len(read)
        np.testing.assert_allclose(kept[:, 0] / 32768, read, rtol=0, atol=0.5 / 32768)
        np.testing.assert_array_equal(samples[real], kept / np.float32(32768))
        assert not samples[~real].any()


def test_a_waveform_beyond_full_scale_is_clipped(raw):
    reader = Reader(raw, "audio", None, {})
    loud = np.array([[1.0], [-1.0], [3.0], [0.25], [-0.99999]], np.float32)
    assert reader._packed(loud, None)[:, 0].tolist() == [32767, -32767, 32767, 8192, -32767]


def test_a_killed_build_of_waveforms_resumes(raw, monkeypatch, untried):
    count = len(prepare(raw).table)
    whole = store_bytes(raw)
    forget(raw)
    kill_after(raw, monkeypatch, 4)
    packed = partial_of(raw) / "features.i16"
    packed.write_bytes(packed.read_bytes() + b"x" * 77)  # half an utterance
    read, made = media.read_audio, []
    monkeypatch.setattr(media, "read_audio", lambda *a, **how: made.append(a) or read(*a, **how))
    prepare(raw)
    assert len(made) == count - 4 and store_bytes(raw) == whole


def test_batches_are_padded_with_zeros_and_masked(data):
    store, some = data.stores["audio"], data.table["utterance"].iloc[[5, 2, 9, 2]].tolist()
    x, mask = store.batch(some)
    longest = max(len(store[u]) for u in some)
    expected, real = np.zeros((4, longest, store.width), np.float32), np.zeros((4, longest), bool)
    for i, u in enumerate(some):
        for t, frame in enumerate(store[u]):
            expected[i, t], real[i, t] = frame, True
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(mask, real)
    assert x.dtype == np.float32 and mask.dtype == bool and not mask.all()


@pytest.mark.parametrize("dtype", ["float16", "int16", "uint8"])
def test_a_store_that_stays_on_a_device_gives_the_same_bits(tmp_path, monkeypatch, dtype):
    rng, lengths = np.random.default_rng(3), [3, 1, 4, 2]
    packed = (100 * rng.random((10, 5))).astype(dtype)
    packed.tofile(tmp_path / FILES[dtype])
    write_index(tmp_path, packed, dict(zip("abcd", lengths, strict=True)))
    store = FeatureStore(tmp_path)
    plain = store.tensors("cabd")
    monkeypatch.setattr(store, "_resident", lambda device: torch.from_numpy(store.packed))
    for resident, sent, padded in zip(store.tensors("cabd"), plain, store.batch("cabd"), strict=True):
        assert resident.dtype == sent.dtype and resident.shape == sent.shape
        np.testing.assert_array_equal(resident, sent)
        np.testing.assert_array_equal(sent, padded)


def test_a_large_store_is_mapped_and_reads_the_same(data, tiny, monkeypatch, recwarn):
    monkeypatch.setattr(storing, "IN_MEMORY_BYTES", 0)
    mapped = FeatureStore(store_of(tiny))
    assert isinstance(mapped.packed, np.memmap)
    np.testing.assert_array_equal(mapped.packed, data.stores["audio"].packed)
    some = data.table["utterance"].iloc[[5, 2, 9]].tolist()
    torch.set_warn_always(True)  # else only a process's first read of the map could warn
    try:
        found = mapped.batch(some)
    finally:
        torch.set_warn_always(False)
    assert not recwarn
    for x, loaded in zip(found, data.stores["audio"].batch(some), strict=True):
        np.testing.assert_array_equal(x, loaded)


def test_every_float16_number_is_read_as_numpys_float32(tmp_path):
    stored = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 16)
    stored.tofile(tmp_path / FILES["float16"])
    write_index(tmp_path, stored, {"u": len(stored)})
    x, _ = FeatureStore(tmp_path).batch(["u"])
    expected = stored.astype(np.float32)
    np.testing.assert_array_equal(x[0], expected)
    np.testing.assert_array_equal(np.signbit(x[0]), np.signbit(expected))  # -0 is not 0


def test_labels_are_numbered_in_the_params_order(data, tiny):
    some = data.table["utterance"].iloc[[8, 1, 4]]
    emotion = dict(zip(data.table["utterance"], data.table["emotion"], strict=True))
    assert data.labels(some).tolist() == [tiny.corpus.classes.index(emotion[u]) for u in some]


@pytest.mark.parametrize("box", [(10, 20, 30, 50), (10, 20, 50, 30), (100, 100, 7, 7), (40, 2, 9, 20)])
def test_the_square_has_the_boxs_centre(box):
    x, y, width, height = square(box)
    assert width == height == max(box[2:])
    assert x + width / 2 == pytest.approx(box[0] + box[2] / 2, abs=0.5)
    assert y + height / 2 == pytest.approx(box[1] + box[3] / 2, abs=0.5)


# ---- which part of an utterance ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def turn(tmp_path_factory):
    """Seconds 1 to 4 of a film whose frames and samples say their place, and the folder it lies in."""
    root = tmp_path_factory.mktemp("turn")
    write_avi(root / "film.avi")
    write_wav(root / "turn.wav", ramp()[16_000:64_000] / 32767)
    row = {"utterance": "u", "start": 1.0, "end": 4.0, "audio": "turn.wav", "video": "film.avi"}
    return {**row, "crop": None, "face": None}, root


class Frames:
    """An encoder of pictures that reads the number in each frame."""

    width, size, identity = 1, None, {"encoder": "frames"}

    def __call__(self, frames):
        return np.array(numbers(frames), np.float32)[:, None]


def readers(tiny, turn, **clip):
    """A reader of the samples and one of the frames."""
    streams = {"audio": {"encoder": "waveform"}, "video": tiny.features["video"].model_dump() | {"every": 1}}
    p = type(tiny).model_validate(
        tiny.model_dump() | {"clip": clip, "features": streams, "ablation": {"honest": ["audio"]}}
    )
    audio, video = (Reader(p, s, turn[1], {}) for s in streams)
    video.encoder = Frames()
    return audio, video


@pytest.mark.parametrize(
    ("clip", "start", "end"),
    [
        ({"seconds": 1.0}, 1.0, 2.0),
        ({"seconds": 1.0, "part": "first"}, 1.0, 2.0),
        ({"seconds": 1.0, "part": "centre"}, 2.0, 3.0),
        ({"seconds": 2.5, "part": "centre"}, 1.25, 3.75),
        ({"seconds": 9.0, "part": "centre"}, 1.0, 4.0),
        ({"seconds": 1.0, "part": "all"}, 1.0, 4.0),
    ],
)
def test_sound_and_picture_show_the_same_part(tiny, turn, clip, start, end):
    audio, video = readers(tiny, turn, **clip)
    expected = ramp()[round(16_000 * start) : round(16_000 * end)]
    assert np.abs(audio(turn[0])[:, 0].astype(int) - expected).max() <= 1
    shown = [n for n in range(FRAMES) if start <= n / FPS < end]
    assert video(turn[0])[:, 0].tolist() == shown


def test_another_part_is_another_key(tiny, turn):
    def keys(**clip):
        return [r.key(turn[0]) for r in readers(tiny, turn, **clip)]

    first, centre, whole = (keys(seconds=1.0, part=part) for part in ("first", "centre", "all"))
    for modality in (0, 1):
        assert len({k[modality] for k in (first, centre, whole, keys(seconds=1.5))}) == 4
    assert keys(seconds=3.0) == keys(seconds=3.0, part="centre")  # nothing is cut: nothing changes


@pytest.mark.parametrize("part", ["first", "centre", "all"])
def test_what_was_done_to_long_utterances_is_written_down(world, part):
    clip = {"seconds": 1.0, "part": part}
    data = prepare(world.model_copy(update={"clip": type(world.clip)(**clip)}))
    length = data.table["end"] - data.table["start"]
    cut = (length > 1.0) & (part != "all")
    assert data.info["clip"] == clip and data.info["longer_than_clip"] == cut.sum()
    longest = data.stores["audio"].lengths[data.table["utterance"][length.idxmax()]]
    assert longest == int(50 * (length.max() if part == "all" else 1.0)) + 1


# ---- networks and what their clips share ---------------------------------------------------------------


def test_a_large_model_gets_decoded_clips_and_gives_the_same_store(tiny, one_session, tmp_path, monkeypatch, request):
    spec = {"encoder": "wavlm", "model": "small", "width": 32}
    p = make_world(tiny, tmp_path, one_session, "audio", features={"audio": spec})
    rows = prepare(p).table["utterance"].tolist()
    whole = store_bytes(p)["features.f16"]
    folder = p.weights_folder / "wavlm-small-32"
    shutil.move(folder, tmp_path / "wavlm")
    forget(p)
    spec["model"] = str(tmp_path / "wavlm")
    large = make_world(tiny, tmp_path, one_session, "audio", features={"audio": spec})
    encode, threads = Reader.encode, set()

    def watched(self, *clips):
        threads.add(threading.current_thread().name)
        return encode(self, *clips)

    monkeypatch.setattr(Reader, "encode", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the light encoder's threads: sums depend on how many share them
    request.addfinalizer(lambda: torch.set_num_threads(before))
    assert prepare(large).table["utterance"].tolist() == rows
    assert threads == {"MainThread"}
    assert store_bytes(large)["features.f16"] == whole


# ---- faces that must be looked for -------------------------------------------------------------------


@pytest.fixture
def hidden(one_session, tiny, tmp_path):
    """Params of two streams of faces on a corpus whose manifest does not know where the faces are."""
    root = tmp_path / "corpus"
    shutil.copytree(one_session, root)
    (root / "face_boxes.csv").unlink()
    hog = {"encoder": "hog", "region": "face", "size": 32, "cell": 8}
    streams = {"face": {**hog, "every": 2}, "face-clip": {**hog, "every": 3}}
    return make_world(tiny, tmp_path, root, features=streams, ablation={"honest": []})


@pytest.fixture
def looked(monkeypatch, untried):
    """How often a clip's faces were looked for; they are made to move, which the puppets hardly do."""
    track, seen = faces.track, []

    def counted(pictures):
        seen.append(1)
        boxes, found = track(pictures)
        return boxes + np.arange(len(boxes))[:, None] % 9 * np.array([1, 2, 0, 0]), found

    monkeypatch.setattr(faces, "track", counted)
    return seen


def test_detected_faces_are_cut_frame_by_frame_and_looked_for_once(hidden, looked):
    data = prepare(hidden)
    assert len(looked) == len(data.table) + (data.left_out["reason"].str.contains("no face").sum())
    root = expand(hidden.corpus.root, "root")
    row = data.table.iloc[2]
    end = min(row["end"], row["start"] + hidden.clip.seconds)
    pictures = media.read_frames(root / row["video"], row["start"], end, crop=tuple(map(int, row["crop"])))
    boxes, found = faces.track(pictures)
    for stream, every in (("face", 2), ("face-clip", 3)):
        store = data.stores[stream]
        frames = [faces.cut(p, b, 32) for p, b in zip(pictures[::every], boxes[::every], strict=True)]
        encoder = make_encoder(hidden.features[stream], hidden.folder)
        np.testing.assert_array_equal(store[row["utterance"]], encoder(np.stack(frames)).astype(np.float16))
        assert set(store.found) == set(store.lengths)
        assert store.found[row["utterance"]] == found.mean()
        rates = list(store.found.values())
        assert store.info["found_rate"] == {
            "mean": pytest.approx(np.mean(rates)),
            "min": min(rates),
            "clips_under_half": sum(r < 0.5 for r in rates),
        }
    again = FeatureStore(store_of(hidden, "face"))
    assert again.found == data.stores["face"].found


def test_threads_find_the_faces_that_one_finds(hidden, monkeypatch):
    seen = {}
    for threads in (1, 4):
        monkeypatch.setattr(build.devices, "cores", lambda n=threads: n)
        shutil.rmtree(hidden.features_folder, ignore_errors=True)
        seen[threads] = prepare(hidden).stores["face"]
    assert seen[1].found == seen[4].found
    np.testing.assert_array_equal(seen[1].packed, seen[4].packed)


def test_found_rates_outlive_what_is_made_again(hidden, looked):
    first = prepare(hidden)
    rates = dict(first.stores["face"].found)
    clips = first.table[["video", "start"]].drop_duplicates()
    changed = dict(hidden.features)
    changed["face"] = changed["face"].model_copy(update={"orientations": 4})
    looked.clear()
    second = prepare(hidden.model_copy(update={"features": changed}))
    assert looked == [] and second.stores["face"].found == rates  # other features of the same boxes
    video = clips["video"].iloc[0]
    file = expand(hidden.corpus.root, "root") / video
    file.write_bytes(file.read_bytes() + b"\0\0")  # another file, the same film
    third = prepare(hidden)
    assert third.stores["face-clip"].found == rates
    assert len(looked) == (first.table["video"] == video).sum()


def test_a_clip_without_any_face_is_left_out_and_listed(hidden, monkeypatch, untried):
    monkeypatch.setattr(build.devices, "cores", lambda: 1)
    track, count = faces.track, []

    def blind_once(pictures):
        count.append(1)
        if len(count) == 2:
            frames = len(list(pictures))
            return np.zeros((frames, 4), int), np.zeros(frames, bool)
        return track(pictures)

    monkeypatch.setattr(faces, "track", blind_once)
    data = prepare(hidden)
    reasons = data.left_out["reason"][data.left_out["reason"].str.contains("no face")]
    assert reasons.iloc[0].startswith("face: Ses01") and ".avi: no face found in any of its" in reasons.iloc[0]
    assert len(count) == len(data.table) + len(reasons)  # nor is it looked for again for the other stream
    assert not set(data.left_out["utterance"]) & set(data.stores["face"].found)


def test_known_faces_are_not_looked_for(data, looked):
    assert data.stores["face"].found == {} and data.stores["face"].info["found_rate"] is None
    assert looked == []


# ---- once, and only what changed ---------------------------------------------------------------------


def test_features_are_made_once(world, calls):
    first = prepare(world)
    assert len(calls) == len(first.table)
    before = store_bytes(world)
    again = prepare(world)
    opened = open_data(world)
    assert len(calls) == len(first.table) and store_bytes(world) == before
    pd.testing.assert_frame_equal(opened.table[["utterance", "emotion"]], first.table[["utterance", "emotion"]])
    known = {name: value for name, value in opened.info.items() if name != "digest"}  # that of the file
    assert known == again.info == {**first.info, "left_out_before": len(first.left_out)}


def test_only_the_changed_recording_is_made_again(world, calls):
    first = prepare(world)
    old = {u: first.stores["audio"][u].copy() for u in first.table["utterance"]}
    changed = first.table["utterance"].iloc[3]
    change_wav(usable_wav(world, first, 3))
    calls.clear()
    second = prepare(world)
    assert len(calls) == 1
    for u, before in old.items():
        assert np.array_equal(second.stores["audio"][u], before) == (u != changed)
    assert second.info["features"]["audio"]["digest"] != first.info["features"]["audio"]["digest"]
    for u in old:  # what was copied and what was made anew lie where a fresh build puts them
        assert second.stores["audio"].lengths[u] == first.stores["audio"].lengths[u]
    updated = store_bytes(world)
    forget(world)
    prepare(world)
    assert store_bytes(world) == updated


def test_a_touched_file_of_the_same_bytes_is_not_made_again(world, calls):
    data = prepare(world)
    usable_wav(world, data).touch()
    calls.clear()
    prepare(world)
    assert calls == []


@pytest.mark.parametrize("edit", ["a label", "a film", "a film gone", "a film more"])
def test_what_was_edited_after_preparing_is_noticed(world, tmp_path, edit):
    root = tmp_path / "corpus"
    assert not up_to_date(world)  # nothing is there
    prepare(world)
    assert up_to_date(world)
    film = next(root.rglob("*.mp4" if list(root.rglob("*.mp4")) else "*.avi"))
    if edit == "a label":
        file = next(root.rglob("EmoEvaluation/*.txt"))
        file.write_text(file.read_text().replace("\tang\t", "\tsad\t").replace("\tneu\t", "\tang\t"))
    elif edit == "a film":
        film.touch()
    elif edit == "a film gone":
        film.unlink()
    else:
        shutil.copy(film, film.with_stem("another"))
    assert not up_to_date(world)


def test_imported_features_and_weights_are_among_what_is_looked_at(world, tmp_path):
    made = params.encoders.Imported(encoder="imported", folder=str(tmp_path / "made"), width=2)
    more = world.model_copy(update={"features": {**world.features, "made": made}})
    before = sources(more)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "one.npy").write_bytes(b"1")
    assert len({before, sources(more), sources(world)}) == 2


def test_results_can_be_read_where_the_corpus_is_not(world, tmp_path, monkeypatch):
    prepare(world)
    (tmp_path / "corpus").rename(tmp_path / "elsewhere")
    assert up_to_date(world)
    unset = world.corpus.model_copy(update={"root": "$FOALKIT_NO_SUCH_VARIABLE/corpus"})
    assert sources(world.model_copy(update={"corpus": unset})) is None


def test_other_params_are_noticed(world, calls):
    prepare(world)
    made = len(calls)
    shorter = world.model_copy(update={"clip": world.clip.model_copy(update={"seconds": 0.5})})
    data = open_data(shorter)
    assert len(calls) == 2 * made
    assert max(data.stores["audio"].lengths.values()) == 0.5 * 50 + 1
    assert data.info["longer_than_clip"] == ((data.table["end"] - data.table["start"]) > 0.5).sum()


# ---- in shards ---------------------------------------------------------------------------------------

SPEAKERS = ("Ses01F", "Ses01M")


def by_speaker(p):
    return p.model_copy(update={"folds": type(p.folds)(by="speaker", groups=[[s] for s in SPEAKERS])})


def shards_of(p):
    return sorted(p.features_folder.glob("*.shard-*/"))


def test_shards_are_joined_to_the_bytes_of_a_store_that_is_built_at_once(world, calls, monkeypatch):
    world = by_speaker(world)
    first = prepare(world)
    at_once = store_bytes(world)
    forget(world)
    hashed, digest = [], digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda file: hashed.append(file.name) or digest(file))
    for speaker in reversed(SPEAKERS):
        extract(world, "audio", speaker)
    assert len(shards_of(world)) == 2 and not store_of(world).exists()
    calls.clear()
    joined = prepare(world)
    assert calls == [] and shards_of(world) == []
    assert store_bytes(world) == at_once
    recordings = [name for name in hashed if name.endswith(".wav")]
    assert sorted(recordings) == sorted(Path(f).name for f in first.table["audio"])  # each once
    pd.testing.assert_frame_equal(joined.table, first.table)


def test_faces_found_in_shards_are_known_to_the_joined_store(hidden, looked):
    hidden = by_speaker(hidden)
    prepare(hidden)
    at_once = {stream: store_bytes(hidden, stream) for stream in hidden.features}
    forget(hidden)
    for stream in hidden.features:
        for speaker in SPEAKERS:
            extract(hidden, stream, speaker)
    looked.clear()
    prepare(hidden)
    assert looked == []
    assert {stream: store_bytes(hidden, stream) for stream in hidden.features} == at_once


def test_what_no_shard_has_is_extracted_when_they_are_joined(world, calls):
    world = by_speaker(world)
    table = prepare(world).table
    at_once = store_bytes(world)
    forget(world)
    extract(world, "audio", "Ses01F")
    calls.clear()
    prepare(world)
    assert len(calls) == (table["speaker"] == "Ses01M").sum()
    assert store_bytes(world) == at_once


def test_a_recording_changed_after_its_shard_is_extracted_again(world, calls):
    world = by_speaker(world)
    data = prepare(world)
    forget(world)
    for speaker in SPEAKERS:
        extract(world, "audio", speaker)
    change_wav(usable_wav(world, data))
    calls.clear()
    prepare(world)
    assert len(calls) == 1
    joined = store_bytes(world)
    forget(world)
    prepare(world)
    assert store_bytes(world) == joined


def test_a_shard_of_which_nothing_can_be_read_is_left_out_as_it_is_at_once(world):
    world = by_speaker(world)
    data = prepare(world)
    forget(world)
    for row in data.table[data.table["speaker"] == "Ses01F"].itertuples():
        (expand(world.corpus.root, "root") / row.audio).write_bytes(b"no sound")
    at_once = prepare(world)
    bytes_ = store_bytes(world)
    forget(world)
    for speaker in SPEAKERS:
        extract(world, "audio", speaker)
    joined = prepare(world)
    assert set(joined.table["speaker"]) == {"Ses01M"} and store_bytes(world) == bytes_
    pd.testing.assert_frame_equal(joined.left_out, at_once.left_out)


def test_nothing_is_extracted_that_the_store_has(world, calls):
    world = by_speaker(world)
    prepare(world)
    calls.clear()
    extract(world, "audio", "Ses01F")
    assert calls == [] and shards_of(world) == []


def test_a_session_without_utterances_has_no_shard(world, capsys):
    extract(world, "audio", "Ses02")
    assert "no utterance of session Ses02" in capsys.readouterr().out and shards_of(world) == []


def test_shards_of_what_is_not_in_the_params_are_refused(world):
    assert "unknown stream 'audoi'; did you mean 'audio'" in refused(lambda: extract(world, "audoi", "Ses01"))
    assert "unknown session 'Ses1'; did you mean 'Ses01'" in refused(lambda: extract(world, "audio", "Ses1"))


# ---- killed half-way ---------------------------------------------------------------------------------


@pytest.fixture
def whole(world):
    """The bytes of an uninterrupted build, and the number of its utterances."""
    data = prepare(world)
    bytes_ = store_bytes(world)
    forget(world)
    return bytes_, len(data.table)


def kill_after(world, monkeypatch, count):
    monkeypatch.setattr(build.devices, "cores", lambda: 1)
    load, done = Reader.load, []

    def killed(self, row):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(row["utterance"])
        return load(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "load", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(world)


def test_a_killed_build_resumes(world, whole, calls, monkeypatch):
    kill_after(world, monkeypatch, 4)
    assert not (world.folder / "preprocess.json").exists()
    calls.clear()
    prepare(world)
    assert len(calls) == whole[1] - 4  # the four are not made again
    assert store_bytes(world) == whole[0]


@pytest.mark.parametrize("damage", ["half a line", "half an utterance", "lost data", "no data", "no log"])
def test_a_build_killed_while_writing_resumes(world, whole, monkeypatch, damage):
    kill_after(world, monkeypatch, 4)
    folder = partial_of(world)
    log, packed = folder / "log.jsonl", folder / "features.f16"
    if damage == "half a line":
        log.write_bytes(log.read_bytes()[:-9])
    elif damage == "half an utterance":
        packed.write_bytes(packed.read_bytes() + b"x" * 77)
    elif damage == "lost data":
        packed.write_bytes(packed.read_bytes()[:-1])
    else:
        (packed if damage == "no data" else log).unlink()
    prepare(world)
    assert store_bytes(world) == whole[0]
    assert not folder.exists()


def test_a_build_killed_while_replacing_the_old_store_resumes(world, whole, calls, monkeypatch):
    first = prepare(world)
    recording = usable_wav(world, first, 3)
    before = recording.read_bytes()
    change_wav(recording)

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build.Path, "rename", killed)
        prepare(world)
    calls.clear()
    prepare(world)
    assert calls == []  # all was done, it had only to be put in place
    recording.write_bytes(before)
    prepare(world)
    assert store_bytes(world) == whole[0] and len(calls) == 1


def test_a_recording_changed_during_the_break_is_read_again(world, whole, monkeypatch):
    kill_after(world, monkeypatch, 4)
    log = partial_of(world) / "log.jsonl"
    first = json.loads(log.read_text().splitlines()[0])["utterance"]
    change_wav(next(expand(world.corpus.root, "root").rglob(f"{first}.wav")))
    resumed = prepare(world).stores["audio"]
    bytes_ = store_bytes(world)
    forget(world)
    np.testing.assert_array_equal(prepare(world).stores["audio"][first], resumed[first])
    assert store_bytes(world) == bytes_ != whole[0]


def test_two_processes_may_prepare_at_once(world, whole, tmp_path):
    script = "from foalkit import params; from foalkit.features.data import open_data;" \
        f"print(len(open_data(params.load({str(tmp_path / 'world.yaml')!r})).table))"  # fmt: skip
    both = [subprocess.Popen([sys.executable, "-c", script], stdout=-1, stderr=-1, text=True) for _ in range(2)]
    for process in both:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert int(out.splitlines()[-1]) == whole[1]  # above it, one of them says that it waits
    assert store_bytes(world) == whole[0]


# ---- what cannot be used -----------------------------------------------------------------------------


def test_a_bad_recording_is_left_out_of_all_streams_and_listed(tiny, one_session, tmp_path):
    shutil.copytree(one_session, tmp_path / "corpus")
    p = make_world(tiny, tmp_path, tmp_path / "corpus", "audio", "face")
    good = prepare(p)
    bad, silent = good.table["utterance"].iloc[[1, 4]]
    usable_wav(p, good, 1).write_bytes(b"no sound at all")
    with wave.open(str(usable_wav(p, good, 4)), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    data = prepare(p)
    assert set(good.table["utterance"]) - set(data.table["utterance"]) == {bad, silent}
    reasons = dict(zip(data.left_out["utterance"], data.left_out["reason"], strict=True))
    assert reasons[bad].startswith(f"audio: {bad}.wav: ") and "silent" in reasons[silent]
    assert data.info["left_out"] == len(data.left_out) == len(good.left_out) + 2
    assert sum(data.info["counts"].values()) == len(data.table) == data.info["utterances"]
    again = open_data(p)
    assert again.left_out["reason"].tolist() == data.left_out["reason"].tolist()
    for utterance in data.table["utterance"]:
        assert all(len(store[utterance]) for store in data.stores.values())


def test_when_nothing_can_be_read_the_first_reason_is_said(world):
    for file in expand(world.corpus.root, "root").rglob("*.wav"):
        file.write_bytes(b"")
    assert ".wav" in refused(lambda: prepare(world))


def test_a_take_without_a_picture_stays_for_the_rows_that_need_none(tiny, tmp_path, corpus):
    sound = some_wav_of(corpus)
    root = tmp_path / "ravdess"
    for name in ("03-01-03-01-01-01-01.wav", "03-01-04-01-01-01-02.wav"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(sound, root / name)
    video = next(corpus.rglob("*.avi"))
    shutil.copy(video, root / "02-01-03-01-01-01-01.mp4")  # FFmpeg looks inside
    changes = {
        "reader": "ravdess", "root": str(root), "generate": None,
        "labels": {"happy": "happy", "sad": "sad"}, "classes": ["happy", "sad"],
    }  # fmt: skip
    features_of = {"audio": tiny.features["audio"], "video": tiny.features["video"]}
    dumped = {s: v.model_dump() for s, v in features_of.items()}
    p = make_world(tiny, tmp_path, root, "audio", "video", corpus=changes, features=dumped)
    data = prepare(p)
    assert data.left_out.empty and data.info["fewer"] == {"video": "1 of 2 utterances have no video file"}
    assert data.table[["utterance", "lacks"]].to_numpy().tolist() == [
        ["01-03-01-01-01-01", ""],
        ["01-04-01-01-01-02", "video"],
    ]
    assert set(data.stores["audio"].lengths) == set(data.table["utterance"])
    assert set(data.stores["video"].lengths) == {"01-03-01-01-01-01"}


def test_a_take_that_is_there_twice_is_known_and_lies_in_one_part(tiny, tmp_path, corpus):
    """As in RAVDESS itself: two repetitions by actor 7 are one recording."""
    root, sounds = tmp_path / "ravdess", sorted(corpus.rglob("*.wav"))
    root.mkdir()
    names = [f"03-01-0{e}-01-02-0{r}-0{a}.wav" for e in (3, 4) for a in (1, 2, 7) for r in (1, 2)]
    for name, sound in zip(names, sounds, strict=False):
        shutil.copy(sound, root / name)
    shutil.copy(root / "03-01-03-01-02-01-07.wav", root / "03-01-03-01-02-02-07.wav")
    changes = {
        "reader": "ravdess", "root": str(root), "generate": None,
        "labels": {"happy": "happy", "sad": "sad"}, "classes": ["happy", "sad"],
    }  # fmt: skip
    folds = {"by": "speaker", "groups": [["Actor_01"], ["Actor_02"], ["Actor_07"]], "published": None}
    data = prepare(p := make_world(tiny, tmp_path, root, "audio", corpus=changes, folds=folds))
    first, copy = "01-03-01-02-01-07", "01-03-01-02-02-07"
    assert data.info["copies"] == {copy: first}
    known = data.table.set_index("utterance")["copy_of"]
    assert known[copy] == first and (known.drop(copy) == "").all() and len(known) == 12
    for count in range(2, 7):
        parts = random_parts(data.table, count).set_axis(data.table["utterance"])
        assert parts[copy] == parts[first]
        others = parts.drop(copy).value_counts()
        assert len(others) == count and others.max() - others.min() <= 1
    for fold in p.fold_numbers("random-split"):
        leaks.check(data, split(data.table, p, fold, "random-split"), p.kinds)
    apart = data.table.drop(columns="copy_of")  # dealt as if it were not known, the two are parted by some count
    dealt = [random_parts(apart, count).set_axis(apart["utterance"]) for count in range(2, 7)]
    assert any(parts[copy] != parts[first] for parts in dealt)
    sides = split(data.table, p, 1, "random-split")
    moved = {s: [u for u in getattr(sides, s) if u != copy] for s in ("train", "validation", "test")}
    other = next(s for s in moved if first not in moved[s])
    parted = replace(sides, **moved | {other: [*moved[other], copy]})
    said = refused(lambda: leaks.check(data, parted, p.kinds))
    assert first in said and copy in said


def test_without_copies_the_manifest_is_what_it_was(data):
    assert data.info["copies"] == {} and "copy_of" not in data.table


def some_wav_of(corpus):
    return sorted(corpus.rglob("*.wav"))[0]


def test_imported_features_stand_in_for_an_encoder(tiny, one_session, tmp_path):
    folder = tmp_path / "npy"
    folder.mkdir()
    spec = {"encoder": "imported", "folder": str(folder), "width": 3}
    p = make_world(tiny, tmp_path, one_session, "audio", features={"audio": spec})
    table, _ = read_manifest(p.corpus, one_session)
    rng = np.random.default_rng(0)
    for u in table["utterance"]:
        np.save(folder / f"{u}.npy", rng.normal(size=(4, 3)))
    broken, large, gone = table["utterance"].iloc[:3]
    np.save(folder / f"{broken}.npy", np.full((2, 3), np.nan))
    np.save(folder / f"{large}.npy", np.full((2, 3), 1e6))  # more than half precision can hold
    (folder / f"{gone}.npy").unlink()
    data = prepare(p)
    reasons = dict(zip(data.left_out["utterance"], data.left_out["reason"], strict=True))
    assert "NaN" in reasons[broken] and "fp16" in reasons[large] and "no features of audio" in reasons[gone]
    last = data.table["utterance"].iloc[-1]
    np.testing.assert_array_equal(data.stores["audio"][last], np.load(folder / f"{last}.npy").astype(np.float16))
    np.save(folder / f"{gone}.npy", np.ones((2, 3)))  # it arrives later
    np.testing.assert_array_equal(prepare(p).stores["audio"][gone], np.ones((2, 3)))


@pytest.mark.parametrize("damage", ["features.f16", "store.json", "index.parquet"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_damaged_store_says_what_to_do(world, damage, how):
    prepare(world)
    folder = store_of(world)
    whole = store_bytes(world)
    if how == "cut":
        (folder / damage).write_bytes((folder / damage).read_bytes()[:-10])
    else:
        (folder / damage).unlink()
    assert not up_to_date(world)  # so that a grid prepares again
    if damage != "store.json":  # without that one there is no store: it is simply built
        message = refused(lambda: open_data(world))
        assert str(folder) in message and "delete the folder to build it again" in message
        prepare(world)
    open_data(world)
    assert store_bytes(world) == whole and up_to_date(world)


# ---- the digest is of the stored bytes ---------------------------------------------------------------


def one_value(folder, index):
    packed = folder / "features.f16"
    stored = np.fromfile(packed, np.float16)
    stored[len(stored) // 2] += np.float16(1)
    stored.tofile(packed)


def zeros(folder, index):
    packed = folder / "features.f16"
    packed.write_bytes(bytes(packed.stat().st_size))


def swapped_places(folder, index):
    index.loc[[0, 1], "offset"] = index.loc[[1, 0], "offset"].to_numpy()
    index.to_parquet(folder / "index.parquet")


def swapped_names(folder, index):
    index.loc[[0, 1], "utterance"] = index.loc[[1, 0], "utterance"].to_numpy()
    index.to_parquet(folder / "index.parquet")


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("damage", [one_value, zeros, swapped_places, swapped_names])
def test_changed_features_are_noticed_before_anything_is_trained(world, damage, mapped, monkeypatch):
    data = prepare(world)
    assert data.info["features"]["audio"]["digest"] == data.stores["audio"].digest
    # of one length, so that swapping two changes no size
    index = pd.read_parquet(store_of(world) / "index.parquet")
    damage(store_of(world), index)
    if mapped:  # read when it is used
        monkeypatch.setattr(storing, "IN_MEMORY_BYTES", 0)

    def use():
        store = open_data(world).stores["audio"]
        for utterance in store.lengths:
            store[utterance]

    said = refused(use)
    assert str(store_of(world)) in said and "delete the folder to build it again" in said
    prepare(world)
    use()


def test_an_index_that_was_made_to_fit_is_not_the_one_the_record_names(world):
    prepare(world)
    one_value(store_of(world), None)
    index = pd.read_parquet(store_of(world) / "index.parquet")
    store = FeatureStore(store_of(world))
    index["digest"] = [
        hashlib.sha256(store.packed[o : o + n].tobytes()).hexdigest()[:16]
        for o, n in zip(index["offset"], index["frames"], strict=True)
    ]
    info = {k: v for k, v in store.info.items() if k not in ("width", "dtype", "digest")}
    storing.write_index(store_of(world), index, store.width, store.dtype, **info)
    before = json.loads((world.folder / "preprocess.json").read_text())["features"]["audio"]["digest"]
    FeatureStore(store_of(world)).verify()
    assert (
        open_data(world).info["features"]["audio"]["digest"] != before
    )  # prepared again: runs of the old ones are old


# ---- shared by params files -------------------------------------------------------------------------


def test_two_params_files_build_their_common_features_once(world, calls):
    first = prepare(world)
    made = len(calls)
    other = world.model_copy(update={"name": "other", "outputs": f"{world.outputs}-other"})
    second = prepare(other)
    assert len(calls) == made and other.folder != world.folder
    assert second.stores["audio"].folder == first.stores["audio"].folder
    assert second.info["features"]["audio"] == first.info["features"]["audio"]
    names = {f["store"] for f in second.info["features"].values()}
    assert names == {world.store_name("audio")} and (world.features_folder / names.pop()).is_dir()


def test_two_params_files_may_build_one_store_at_once(world, whole, tmp_path):
    other = yaml.safe_load((tmp_path / "world.yaml").read_text()) | {"outputs": str(tmp_path / "outputs-other")}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    script = (
        "import sys; from foalkit import params; from foalkit.features.data import open_data;"
        "print(len(open_data(params.load(sys.argv[1])).table))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / f)], stdout=-1, stderr=-1, text=True)
        for f in ("world.yaml", "other.yaml")
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {int(out.splitlines()[-1]) for out, _ in said} == {whole[1]}
    assert store_bytes(world) == whole[0]


def test_sounds_of_a_lower_rate_than_the_features_are_noted(tmp_path):
    def note(recorded, **spec):
        file = f"03-01-01-01-01-01-{len(list(tmp_path.glob('*.wav'))) + 1:02}.wav"
        write_wav(tmp_path / file, np.sin(np.arange(recorded) / 9).astype(np.float32), recorded)
        mfcc = json.dumps({"encoder": "mfcc", **spec})
        changed = [
            f"outputs={tmp_path}/o/{file[-6:-4]}",
            f"corpus.root={tmp_path}",
            "features.video=null",
            "features.audio=null",
        ]
        changed += [f"features.mfcc={mfcc}", "ablation={honest: [cfn-audio], published: []}"]
        p = params.load("ravdess-speech", changed)
        store = prepare(p).stores["mfcc"]
        return store.notes.get(file[3:-4]), store.info["notes"]

    said = "recorded at 16000 Hz, raised to 44100 Hz: above 8000 Hz it holds nothing"
    assert note(16_000, rate=44_100)[0] == f"03-01-01-01-01-01-01.wav: {said}"
    assert note(48_000, rate=44_100) == (None, {said: 1})
    short, counted = note(16_000, rate=44_100, seconds=2.0)
    assert short == f"03-01-01-01-01-01-03.wav: 276 of 552 MFCC frames, the rest is silence; {said}"
    assert sum(counted.values()) == 3
    assert note(8_000)[0].endswith("recorded at 8000 Hz, raised to 16000 Hz: above 4000 Hz it holds nothing")
