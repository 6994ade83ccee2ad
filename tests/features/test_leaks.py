"""Each leak planted, and found by name; honest data passes."""

import wave

import numpy as np
import pandas as pd
import pytest
from conftest import Memory, refused

from foalkit.corpora.folds import Split, split
from foalkit.features import leaks
from foalkit.features.encoders import make_encoder
from foalkit.features.media import read_audio
from foalkit.params.encoders import LogMel
from foalkit.training import loop as training
from foalkit.training import networks


@pytest.fixture
def sides(tiny, data) -> Split:
    return split(data.table, tiny, 2, "honest")


def softer(source, target):
    """A copy of a wav at 60 % of its loudness."""
    with wave.open(str(source)) as file:
        samples, shape = np.frombuffer(file.readframes(-1), "<i2"), file.getparams()
    with wave.open(str(target), "wb") as file:
        file.setparams(shape)
        file.writeframes((samples * 0.6).astype("<i2").tobytes())


def test_honest_data_holds_no_leak(tiny, data, sides):
    leaks.check_copies(data.stores["audio"], sides)
    for stream in data.stores:
        leaks.check_not_labels(data.stores[stream], stream, data.table)
    result = training.train(tiny, "audio", data, sides, 0, "honest")
    leaks.check_statistics(result.weights, data.stores, sides)


@pytest.mark.parametrize("how", ["same", "softer"])
def test_a_copied_recording_on_two_sides_is_named(tiny, data, corpus, sides, tmp_path, how):
    taken, copied = sides.train[3], sides.test[5]
    encoder = make_encoder(LogMel(encoder="log-mel", bands=40, hop_ms=20), tmp_path)
    source = corpus / data.table.set_index("utterance").loc[taken, "audio"]
    if how == "softer":
        softer(source, tmp_path / "copy.wav")
    store = Memory({u: data.stores["audio"][u] for u in data.table["utterance"]})
    store.features[copied] = encoder(read_audio(source if how == "same" else tmp_path / "copy.wav"))
    message = refused(lambda: leaks.check_copies(store, sides))
    assert f"{taken} (train)" in message and f"{copied} (test)" in message and "1 such" in message
    moved = Split([u for u in sides.train if u != taken], sides.validation, sides.test, sides.groups)
    leaks.check_copies(store, moved)  # as it says: the copy gone, the split is good


def test_a_copy_is_a_leak_under_random_split_too(tiny, data):
    """Speakers on both sides are what it shows; two files of one take on both sides are a fault."""
    for fold in tiny.fold_numbers("random-split"):
        leaks.check(data, split(data.table, tiny, fold, "random-split"), tiny.kinds)
    sides = split(data.table, tiny, 1, "random-split")
    store = Memory({u: data.stores["audio"][u] for u in data.table["utterance"]})
    taken, copied = sides.train[0], sides.test[0]
    store.features[copied] = store.features[taken]
    message = refused(lambda: leaks.check_copies(store, sides))
    assert f"{taken} (train)" in message and f"{copied} (test)" in message


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_those_that_comparing_all_with_all_finds(seed):
    rng = np.random.default_rng(seed)
    clips = {f"u{n}": rng.normal(size=(rng.integers(24, 40), 6)) for n in range(400)}
    for n in range(300, 320):  # on the test side: copies of training clips, some spoilt just too much
        source = clips[f"u{n - 300}"]
        clips[f"u{n}"] = 0.5 * source + rng.uniform(0.01, 0.1) * rng.normal(size=source.shape)
    clips["u7"] = clips["u390"] = np.ones((30, 6))  # nothing changes
    names = list(clips)
    split_ = Split(names[:300], [], names[300:], {})

    def course(clip):
        at = np.linspace(0, len(clip) - 1, leaks.MOMENTS).round().astype(int)
        return (clip[at] - clip[at].mean(0)).ravel()

    alike = {}
    for a in split_.train:
        for b in split_.test:
            one, other = course(clips[a]), course(clips[b])
            norm = np.linalg.norm(one) * np.linalg.norm(other)
            if norm and (cosine := one @ other / norm) > leaks.ALIKE:
                alike[a, b] = cosine
    assert 2 < len(alike) < 20
    message = refused(lambda: leaks.check_copies(Memory(clips), split_))
    first, second = max(alike, key=alike.get)
    assert f"{first} (train) and {second} (test), {len(alike)} such" in message


def test_still_sound_is_no_copy_of_still_sound(sides):
    leaks.check_copies(Memory({u: np.zeros((5, 3)) for u in sides.train + sides.validation + sides.test}), sides)


@pytest.mark.parametrize("side", ["test", "validation"])
def test_statistics_of_another_side_are_noticed(tiny, data, sides, side):
    net = networks.build_net(tiny, "audio", data.stores, sides.train + getattr(sides, side))
    message = refused(lambda: leaks.check_statistics(net.state_dict(), data.stores, sides))
    assert message.startswith("audio: standardised")


def test_features_made_from_labels_are_noticed(data):
    rng, number = np.random.default_rng(0), {c: i for i, c in enumerate(data.classes)}
    table = data.table
    plain = {u: rng.normal(size=(4, 6)) for u in table["utterance"]}
    told = {u: x + 100 * np.eye(6)[number[e]] for (u, x), e in zip(plain.items(), table["emotion"], strict=True)}
    # the tiny corpus has fewer than ten of some emotions: each utterance stands for two
    table = pd.concat([table, table.assign(utterance=table["utterance"] + "+")])
    plain |= {f"{u}+": rng.normal(size=(4, 6)) for u in list(plain)}
    told |= {f"{u}+": x + 0.01 for u, x in told.items()}
    leaks.check_not_labels(Memory(plain), "video", table)
    message = refused(lambda: leaks.check_not_labels(Memory(told), "video", table))
    assert "features.video" in message and "made from the labels" in message
    assert all(f"{c} by column {i}" in message for c, i in number.items())
    three = {u: x * (np.arange(6) != 2) for u, x in told.items()}  # one emotion is not told
    leaks.check_not_labels(Memory(three), "video", table)
