"""What encoders were trained on: told for each, a warning where it may hold the corpus, and no key depends on it."""

import typing

import pytest
from pydantic import TypeAdapter

from foalkit import params
from foalkit.files import read_mapping
from foalkit.params.encoders import Features
from foalkit.params.trained_on import DATA_SETS, NETWORKS, data_sets, in_words, may_have_seen, trained_on

FACE = {"encoder": "imported", "folder": "x", "width": 7}


def loaded(*overrides, file="ravdess-speech"):
    return params.load(file, ["corpus.root=nowhere", *overrides])


def test_every_encoder_says_what_it_was_trained_on():
    for kind in typing.get_args(typing.get_args(Features)[0]):
        needed = {n: 7 if n == "width" else "x" for n, f in kind.model_fields.items() if f.is_required()}
        name = typing.get_args(kind.model_fields["encoder"].annotation)[0]
        spec = TypeAdapter(Features).validate_python(needed | {"encoder": name})
        assert data_sets(spec) is None if hasattr(spec, "model") or name == "imported" else data_sets(spec) is not None
    assert all(name in DATA_SETS for names in NETWORKS.values() for name in names)


def test_what_is_known_of_the_hubs_networks_and_what_a_file_says():
    p = params.load("iemocap")
    assert trained_on(p) == {
        "audio": ["Libri-Light", "GigaSpeech", "VoxPopuli"],  # of the network that the waveform enters
        "video": ["WIT-400M"],
        "face": ["ImageNet-21k", "FER2013"],
        "face-clip": ["WIT-400M"],
    }
    assert trained_on(params.load("demo-encoders")) == {"audio": [], "video": [], "face": []}
    said = loaded("features.video.trained_on=[FER2013]")
    assert trained_on(said) == {"audio": [], "video": ["FER2013"]} and not may_have_seen(said)
    assert [in_words(names) for names in ([], None, ["A", "B"])] == ["nothing", "not known", "A, B"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (None, "nobody says"),
        ("[]", None),
        ("[LibriSpeech, VoxCeleb2]", None),  # books, and people who are known by name
        ("[AffectNet]", None),  # older than RAVDESS
        ("[VoxPopuli, GigaSpeech]", "GigaSpeech (audiobooks, podcasts and YouTube videos, 2021) is younger"),
        ("[WIT-400M]", "nobody can look up"),
        ("[RAVDESS]", "trained on RAVDESS itself"),
        ("[CREMA-D, ravdess-song]", "trained on RAVDESS itself"),
        ("[Somebody's faces]", "does not know Somebody's faces"),
    ],
)
def test_a_warning_where_the_corpus_may_have_been_seen(names, words):
    p = loaded(f"features.video.trained_on={names}") if names else loaded()
    seen = may_have_seen(p)
    assert set(seen) == ({"video"} if words else set())
    assert words is None or words in seen["video"]


def test_a_corpus_that_is_sent_to_signers_only_is_in_no_listed_set():
    seen = may_have_seen(params.load("iemocap-frozen"))
    assert set(seen) == {"video", "face-clip"} and all("WIT-400M" in why for why in seen.values())
    assert may_have_seen(params.load("iemocap-frozen", "features.face.trained_on=[IEMOCAP]")).keys() == {*seen, "face"}


def test_nobody_has_seen_a_generated_corpus():
    p = params.load("demo", "features.video={encoder: clip, model: ViT-L-14, trained_on: [WIT-400M]}")
    assert trained_on(p)["video"] == ["WIT-400M"] and not may_have_seen(p)


def test_no_key_and_no_digest_depends_on_it():
    plain, said = loaded(), loaded("features.video.trained_on=[FER2013]")
    assert plain.data_digest == said.data_digest and plain.store_name("video") == said.store_name("video")
    assert [plain.digest(v) for v in ("video", "foal-net")] == [said.digest(v) for v in ("video", "foal-net")]
    plain = params.load("iemocap")
    said = params.load("iemocap", "model.inputs.audio.trained_on=[A] features.face.trained_on=[B]")
    assert plain.data_digest == said.data_digest
    assert all(plain.digest(v) == said.digest(v) for v in ("audio", "video-face", "foal-net"))
    assert said.for_variant("audio").model.inputs["audio"].trained_on == ["A"]


def test_the_store_says_it_too(data, tiny):
    told = {s: read_mapping(tiny.store_folder(s) / "store.json")["trained_on"] for s in tiny.features}
    assert told == {s: [] for s in tiny.features}


def test_a_corpus_that_this_kit_does_not_know_is_called_as_its_params_are():
    labels = ["corpus.labels=null", "corpus.labels.a=A", "corpus.labels.b=B", "corpus.classes=[A,B]"]
    p = params.load("emo-db", ["corpus.root=nowhere", *labels])
    assert may_have_seen(p) == {}  # speakers of read books and interviews
    hub = "features.audio={encoder: wavlm, model: microsoft/wavlm-large, revision: x}"
    assert "unless that was never public" in may_have_seen(params.load("emo-db", ["corpus.root=nowhere", hub]))["audio"]
