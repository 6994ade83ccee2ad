"""The demo corpus: its layout, its timing, its determinism, and the ceilings it promises."""

import csv
import itertools
import json
import re
import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from foalkit.corpora import iemocap
from foalkit.puppets import displays, networks, writing
from foalkit.puppets import iemocap as puppets
from foalkit.puppets.acting import CONTROLS, expression, perform
from foalkit.puppets.faces import Portrait
from foalkit.puppets.looks import LOOKS
from foalkit.puppets.voices import HOP, PEAK, RATE, VOICES, speak

# The expression that parses all 10 039 turns of the real corpus.
LABEL = re.compile(r"^\[(\d+\.\d+) - (\d+\.\d+)\]\t(\S+)\t(\w+)\t\[(\d\.\d+), (\d\.\d+), (\d\.\d+)\]")
TURNS = 12  # of every test's corpus, which two processes wrote


@pytest.fixture(scope="module")
def turns(corpus):
    """(utterance, label, start, end, vad) of every label line, read as the real corpus is."""
    rows = []
    for path in sorted(corpus.glob("Session*/dialog/EmoEvaluation/*.txt")):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("%")
        found = [m for m in map(LABEL.match, lines) if m]
        rows += [(m[3], m[4], float(m[1]), float(m[2]), [float(m[k]) for k in (5, 6, 7)]) for m in found]
        assert sum(line.startswith("[") for line in lines) == len(found)
    return rows


def _dialogue(utterance):
    return utterance.rsplit("_", 1)[0]


def _video(corpus, dialogue):
    return corpus / f"Session{dialogue[4]}/dialog/avi/DivX/{dialogue}.avi"


def _grey(corpus, dialogue):
    with av.open(str(_video(corpus, dialogue))) as container:
        return np.stack([f.to_ndarray(format="gray") for f in container.decode(video=0)])


# ---- ceilings ------------------------------------------------------------------------------------


def _naive_table(modality, chances):
    """P(display | class) written down cell by cell from the documented rules."""
    table = {}
    for label, (arousal, valence) in displays.CORNERS.items():
        for a, v in itertools.product((-1, 0, 1), repeat=2):
            kind_a, kind_v = 1 - a * arousal, 1 - v * valence  # 0 right, 1 unclear, 2 wrong
            if modality == "audio":
                p = chances.strong[kind_a] * chances.audio[kind_v]
            else:
                p = chances.video[kind_a] * chances.strong[kind_v]
            p *= 1 - chances.masked - chances.contradicts
            p += chances.masked * ((a, v) == (0, 0)) + chances.contradicts * ((a, v) == (-arousal, -valence))
            table[label, a, v] = p
    return table


BOTH = pytest.mark.parametrize("chances", [displays.WRONG, displays.UNCLEAR], ids=["wrong", "unclear"])


@BOTH
@pytest.mark.parametrize("prior", [displays.PRIORS, {"hap": 0.1, "ang": 0.2, "sad": 0.3, "neu": 0.4}])
def test_ceilings_agree_with_a_naive_enumeration(prior, chances):
    cells = list(itertools.product((-1, 0, 1), repeat=2))
    audio, video = _naive_table("audio", chances), _naive_table("video", chances)
    assert sum(prior.values()) == pytest.approx(1)
    for table in (audio, video):
        assert sum(p for (label, *_), p in table.items() if label == "sad") == pytest.approx(1)
    want = {
        "audio": sum(max(prior[k] * audio[k, *x] for k in prior) for x in cells),
        "video": sum(max(prior[k] * video[k, *x] for k in prior) for x in cells),
        "both": sum(max(prior[k] * audio[k, *x] * video[k, *y] for k in prior) for x in cells for y in cells),
    }
    assert displays.ceilings(chances, prior) == pytest.approx(want, abs=1e-12)
    known = {displays.WRONG: (0.70, 0.70, 0.92), displays.UNCLEAR: (0.87, 0.85, 0.99)}
    assert tuple(displays.ceilings(chances).values()) == pytest.approx(known[chances], abs=0.01)


@BOTH
def test_ceilings_agree_with_the_generators_own_sampler(chances):
    rng = np.random.default_rng(0)
    tables = {m: _naive_table(m, chances) for m in ("audio", "video")}
    labels = list(displays.PRIORS)
    right, n = dict.fromkeys(("audio", "video", "both"), 0), 8000
    for label in rng.choice(labels, size=n, p=list(displays.PRIORS.values())).tolist():
        shown = {m: displays.draw_display(rng, label, m, chances) for m in tables}
        chance = {m: {k: tables[m][k, *shown[m]] for k in labels} for m in tables}
        chance["both"] = {k: chance["audio"][k] * chance["video"][k] for k in labels}
        for name, p in chance.items():
            right[name] += max((displays.PRIORS[k] * p[k], k) for k in labels)[1] == label
    for name, ceiling in displays.ceilings(chances).items():
        error = np.sqrt(ceiling * (1 - ceiling) / n)
        assert right[name] / n == pytest.approx(ceiling, abs=4 * error), name


# ---- layout --------------------------------------------------------------------------------------


def test_every_turn_is_labelled_once_and_has_its_sound(corpus, turns):
    assert len(turns) == 5 * TURNS == len({t[0] for t in turns})
    for utterance, _, start, end, vad in turns:
        dialogue = _dialogue(utterance)
        path = corpus / f"Session{utterance[4]}/sentences/wav/{dialogue}/{utterance}.wav"
        with wave.open(str(path)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert len(sound) == round((end - start) * RATE)
        assert 0.55 <= end - start <= 5.5
        assert 300 < np.abs(sound.astype(int)).max() < 32000  # something is said, nothing is clipped
        assert all(1 <= x <= 5 for x in vad)
    waves = {p.stem for p in corpus.glob("Session*/sentences/wav/*/*.wav")}
    assert waves == {t[0] for t in turns}


def test_classes_and_the_labels_every_reader_leaves_out(turns):
    for session in "12345":
        labels = [label for utterance, label, *_ in turns if utterance[4] == session]
        assert {"neu", "ang", "sad", "exc", "hap"} <= set(labels)
        assert {"xxx", "fru"} <= set(labels)
        usable = sum(label in ("neu", "ang", "sad", "exc", "hap") for label in labels)
        assert usable == pytest.approx(0.8 * len(labels), abs=1)


def test_the_default_plan_is_large_enough_and_balanced_as_iemocap():
    labels = [turn.label for dialogue in puppets.plan(1, 90) for turn in dialogue.turns]
    usable = [label.replace("exc", "hap") for label in labels if label not in ("xxx", "fru", "sur")]
    assert len(usable) == 360
    for label, share in {"hap": 0.296, "neu": 0.309, "sad": 0.196, "ang": 0.199}.items():
        assert usable.count(label) / len(usable) == pytest.approx(share, abs=0.02)
    assert "sur" in labels
    assert labels.count("exc") == pytest.approx(2 * labels.count("hap"), rel=0.1)
    lengths = [turn.end - turn.start for dialogue in puppets.plan(1, 90) for turn in dialogue.turns]
    assert 1.0 < np.mean(lengths) < 1.3 and min(lengths) >= 0.7 - 1e-3 and 2.5 < max(lengths) < 5.5


def test_valence_and_activation_follow_the_label(turns):
    mean = {k: np.mean([vad for _, label, *_, vad in turns if label == k], 0) for k in ("hap", "ang", "sad", "neu")}
    assert min(mean["hap"][0], mean["neu"][0]) > max(mean["ang"][0], mean["sad"][0])
    assert min(mean["hap"][1], mean["ang"][1]) > max(mean["sad"][1], mean["neu"][1])


def test_transcripts_hold_every_turn_and_the_releases_oddities(corpus, turns):
    spoken, odd, unlabelled = set(), 0, 0
    for path in corpus.glob("Session*/dialog/transcriptions/*.txt"):
        for line in path.read_text().splitlines():
            match = re.match(r"^(\S+) \[(\d{3}\.\d{4})-(\d{3}\.\d{4})\]: .+$", line)
            odd += match is None
            if match and "XX" in match[1]:
                unlabelled += 1
            elif match:
                spoken.add((match[1], float(match[2]), float(match[3])))
    assert spoken == {(u, start, end) for u, _, start, end, _ in turns}
    assert odd and unlabelled


def test_irregular_ids_exist_and_turns_overlap_in_time(turns):
    dialogues = {_dialogue(t[0]) for t in turns}
    assert {"Ses03M_impro05a", "Ses03M_impro05b", "Ses05M_script01_1b"} <= dialogues
    assert all(sum(d.startswith(f"Ses0{k}") for d in dialogues) >= 2 for k in range(1, 6))
    overlapping = 0
    for (u1, _, s1, e1, _), (u2, _, s2, e2, _) in itertools.combinations(turns, 2):
        if _dialogue(u1) == _dialogue(u2) and s1 < e2 and s2 < e1:
            overlapping += 1
            assert u1.rsplit("_", 1)[1][0] != u2.rsplit("_", 1)[1][0]  # nobody talks over themselves
    assert overlapping


def test_videos_have_the_releases_shape(corpus, turns):
    for dialogue in sorted({_dialogue(t[0]) for t in turns}):
        last = max(end for u, _, _, end, _ in turns if _dialogue(u) == dialogue)
        with av.open(str(_video(corpus, dialogue))) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.width, video.height, video.codec_context.name) == (720, 480, "mpeg4")
            assert video.average_rate == Fraction(30000, 1001)
            assert (audio.codec_context.name, audio.rate, audio.channels) == ("pcm_s16le", RATE, 1)
            pictures, heard = [], 0
            for packet in container.demux(video, audio):
                if packet.stream.type == "audio":
                    heard += packet.size / 2 / RATE
                elif packet.size:
                    pictures.append((packet.is_keyframe, packet.pts, packet.dts))
        assert max(np.diff([n for n, (key, *_) in enumerate(pictures) if key])) <= 15
        assert all(pts in (None, dts) for _, pts, dts in pictures)  # no reordering, so no B-frames
        seconds = len(pictures) / float(Fraction(30000, 1001))
        assert last < seconds < last + 1
        assert heard == pytest.approx(seconds, abs=0.05)
        with av.open(str(_video(corpus, dialogue))) as container:
            kinds = {frame.pict_type for frame in container.decode(video=0)}
        assert {int(kind) for kind in kinds} == {1, 2}  # I and P


def test_letterbox_and_head_boxes(corpus):
    boxes = list(csv.DictReader((corpus / "face_boxes.csv").open()))
    assert len(boxes) == 2 * len(list(corpus.glob("Session*/dialog/avi/DivX/*.avi")))
    picture = _grey(corpus, "Ses03M_impro05a")[0].astype(float)
    assert picture[:112].max() < 24 and picture[368:].max() < 24 and picture[:, 358:362].max() < 24
    assert picture[124:160, 10:40].min() > 100 and picture[124:160, 680:710].min() > 100  # the walls
    for box in boxes:
        x, y, width, height = (int(box[k]) for k in ("x", "y", "width", "height"))
        left, right = (52, 308) if box["side"] == "left" else (412, 668)  # the default crop holds the head
        assert left <= x and x + width <= right and y >= 112 and y + height <= 368
        assert 120 <= width <= 200 and 160 <= height <= 220


def test_the_actor_named_in_the_id_is_on_the_left(corpus):
    for dialogue in ("Ses01F_impro01", "Ses01M_impro02"):
        with av.open(str(_video(corpus, dialogue))) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(float)
        shirts = picture[340:356, 180], picture[340:356, 540]
        for speaker, shirt in zip((dialogue[:6], dialogue[:5] + "FM"[dialogue[5] == "F"]), shirts, strict=True):
            colour = [int(LOOKS[speaker].cloth[k : k + 2], 16) for k in (1, 3, 5)]
            assert np.abs(np.median(shirt, 0) - colour).max() < 40, (dialogue, speaker)


# ---- voices and faces ----------------------------------------------------------------------------


def test_the_mouth_follows_the_voice():
    lengths, times = 4.0, np.arange(120) / float(writing.FPS)
    for speaker in ("Ses01F", "Ses05M"):
        sound, mouth = speak(np.random.default_rng(5), VOICES[speaker], seconds=lengths, arousal=0, valence=0)
        assert len(sound) == lengths * RATE and np.abs(sound).max() <= PEAK
        track = np.stack([np.interp(times, np.arange(len(mouth)) * HOP / RATE, mouth[:, k]) for k in (0, 1)], 1)
        controls = perform(np.random.default_rng(6), times, [(0, 120, 0.0, 0.0)], track)
        envelope = [np.sqrt(np.mean(sound[int(t * RATE) : int(t * RATE) + 534] ** 2)) for t in times]
        assert np.corrcoef(controls[:, CONTROLS.index("jaw")], envelope)[0, 1] > 0.5


def test_an_open_mouth_is_drawn_open():
    portrait = Portrait(LOOKS["Ses04M"])
    shut, wide = expression(0, 1), expression(0, 1)
    wide[CONTROLS.index("jaw")] += 0.8
    pictures = [portrait.draw(c)[0].astype(int) for c in (shut, wide)]
    change = np.abs(pictures[0] - pictures[1]).sum(-1)
    assert change[:110].max() < 12  # brows and eyes stay
    assert (change[120:200, 120:230] > 60).sum() > 300


def test_the_speakers_half_of_the_picture_moves_more(corpus, turns):
    dialogue = "Ses03M_impro05a"
    grey = _grey(corpus, dialogue)[:, ::3, ::3].astype(float)
    motion = np.abs(np.diff(grey, axis=0))
    left, right = motion[:, 40:120, :120].mean((1, 2)), motion[:, 40:120, 120:].mean((1, 2))
    own = [(u, s, e) for u, _, s, e, _ in turns if _dialogue(u) == dialogue]
    agree = 0
    for utterance, start, end in own:
        n = slice(int(np.ceil(start * writing.FPS)), int(np.ceil(end * writing.FPS)))
        speaks, listens = (left, right) if utterance.rsplit("_", 1)[1][0] == dialogue[5] else (right, left)
        agree += speaks[n].mean() > listens[n].mean()
    assert agree >= len(own) - 1  # one may be talked over


def test_a_turn_begins_at_rest(tmp_path, monkeypatch):
    """For its first 0.2 s its speaker is silent, and the face is the resting one."""
    told = []
    monkeypatch.setattr(puppets, "perform", lambda *a: told.append(a[2]) or perform(*a))
    dialogue = puppets.plan(1, TURNS)[0]
    puppets._write_dialogue((tmp_path, dialogue))
    acted = sorted(part for parts in told for part in parts)
    wanted = sorted(tuple(int(np.ceil(t * writing.FPS)) for t in (d.start + 0.2, d.end)) for d in dialogue.turns)
    assert [tuple(part[:2]) for part in acted] == wanted
    alone = [t for t in dialogue.turns if all(o is t or o.end < t.start or o.start > t.end for o in dialogue.turns)]
    assert alone
    for turn in alone:
        file = next(tmp_path.rglob(f"{turn.utterance}.wav"))
        with wave.open(str(file)) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").reshape(-1, sound.getnchannels())
        rest, rest_of_it = samples[: int(0.19 * RATE)].astype(float), samples[int(0.25 * RATE) :].astype(float)
        assert rest.std() < 0.1 * rest_of_it.std()


def test_a_turns_expression_starts_and_ends_with_its_frames():
    rng = np.random.default_rng(0)
    times, silent = np.arange(60) / float(writing.FPS), np.zeros((60, 2))
    smile = perform(rng, times, [(20, 40, 1.0, 1.0)], silent)[:, CONTROLS.index("smile")]
    rest = smile[0]
    assert np.all(smile[:20] == rest) and np.all(smile[20:40] > rest + 0.3) and np.all(smile[50:] == rest)


# ---- one writing, whole or not at all ------------------------------------------------------------


def test_same_bytes_whatever_the_number_of_workers(corpus, tmp_path, monkeypatch):
    """Two processes wrote all dialogues; one alone writes the first three, and the tables of all."""
    again, whole = tmp_path / "again", puppets.in_processes
    monkeypatch.setattr(
        puppets, "in_processes", lambda write, part, all_, workers: whole(write, part, all_[:3], workers)
    )
    puppets.write_corpus(again, turns_per_session=TURNS, workers=1)
    names = [dialogue.name for dialogue in puppets.plan(1, TURNS)]
    files = sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert files == sorted(
        f for p in corpus.rglob("*") if p.is_file()
        if (f := p.relative_to(corpus)).parts[0][:7] != "Session" or any(n in str(f) for n in names[:3])
    )  # fmt: skip
    boxes, all_boxes = ((root / "face_boxes.csv").read_text() for root in (again, corpus))
    assert all_boxes.startswith(boxes) and len(boxes.splitlines()) == 1 + 2 * 3
    different = [str(f) for f in files if (corpus / f).read_bytes() != (again / f).read_bytes()]
    assert different == ["face_boxes.csv"]


def test_another_seed_is_another_corpus():
    assert puppets.plan(2, TURNS) == puppets.plan(2, TURNS) != puppets.plan(1, TURNS)


def test_more_sessions_leave_the_first_five_and_have_speakers_of_their_own(tmp_path):
    plan = puppets.plan(1, TURNS, 12)
    assert plan[: len(puppets.plan(1, TURNS))] == puppets.plan(1, TURNS)
    speakers = sorted({s for dialogue in plan for s in dialogue.speakers})
    assert speakers == [f"Ses{k:02}{sex}" for k in range(1, 13) for sex in "FM"]
    made = [puppets.cast(1, speaker) for speaker in speakers]
    assert made[0] == (LOOKS["Ses01F"], VOICES["Ses01F"], 1.0) and made == [puppets.cast(1, s) for s in speakers]
    assert len({look.skin + look.hair + look.style for look, *_ in made}) == 24
    assert len({voice.f0 for _, voice, _ in made}) == 24 and puppets.cast(2, "Ses09M") != puppets.cast(1, "Ses09M")
    assert all(bool(look.beard) <= (s[5] == "M") for s, (look, *_) in zip(speakers, made, strict=True))
    for dialogue in plan[-2:]:  # a session of two digits, as its reader finds it
        puppets._write_dialogue((tmp_path, dialogue))
    rows, left_out = iemocap.read(tmp_path)
    assert len(rows) == sum(len(d.turns) for d in plan[-2:]) and not left_out
    assert {(r["session"], r["speaker"]) for r in rows} == {("Ses12", "Ses12F"), ("Ses12", "Ses12M")}


def test_the_card_tells_what_was_written(corpus, turns):
    card = json.loads((corpus / "card.json").read_text())
    assert card["parameters"] == {"seed": 1, "turns_per_session": TURNS}
    assert card["utterances"] == len(turns)
    assert card["labels"] == {k: sum(t[1] == k for t in turns) for k in card["labels"]}
    assert card["ceilings"] == pytest.approx(displays.ceilings(displays.UNCLEAR), abs=1e-6)
    truth = {row["utterance"]: row["emotion"] for row in csv.DictReader((corpus / "displays.csv").open())}
    assert truth == {t[0]: t[1] for t in turns}
    assert {path.name for path in corpus.iterdir()} == {
        "README.txt", "card.json", "displays.csv", "face_boxes.csv", *(f"Session{k}" for k in range(1, 6))
    }  # fmt: skip


def test_a_corpus_that_is_there_is_not_written_again(corpus, monkeypatch):
    monkeypatch.setattr(puppets, "_write_dialogue", lambda job: pytest.fail("written again"))
    card = puppets.write_corpus(corpus, turns_per_session=TURNS, workers=1)
    assert card == json.loads((corpus / "card.json").read_text())


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def interrupted(job):
        if written:
            raise KeyboardInterrupt
        written.append(job)
        (job[0] / "Session1").mkdir()
        return []

    monkeypatch.setattr(puppets, "_write_dialogue", interrupted)
    with pytest.raises(KeyboardInterrupt):
        puppets.write_corpus(tmp_path / "corpus", turns_per_session=TURNS, workers=1)
    assert written and not list(tmp_path.iterdir())


def test_refuses_a_strangers_folder_and_too_few_turns(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(FileExistsError):
        puppets.write_corpus(tmp_path, turns_per_session=TURNS)
    with pytest.raises(ValueError, match="at least 8"):
        puppets.write_corpus(tmp_path / "corpus", turns_per_session=4)
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_small_networks_are_for_whoever_may_read_the_files_beside_them(tmp_path):
    made = {
        networks.small_wavlm: "config.json",
        networks.small_vit: "config.json",
        networks.small_clip: "small-32.json",
    }
    for make, beside in made.items():
        folder = tmp_path / make.__name__
        make(folder, 32)
        (weights,) = folder.glob("*.safetensors")
        assert weights.stat().st_mode == (folder / beside).stat().st_mode
