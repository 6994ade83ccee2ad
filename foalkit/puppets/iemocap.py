"""The demo corpus in IEMOCAP's layout: animated puppets talk in pairs, with a known best possible score."""

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from foalkit.puppets.acting import perform
from foalkit.puppets.casting import varied
from foalkit.puppets.displays import CORNERS, PRIORS, UNCLEAR, Turn, ceilings, display_row, display_tables, draw_display
from foalkit.puppets.faces import PANEL, Portrait
from foalkit.puppets.looks import LOOKS, Look
from foalkit.puppets.voices import HOP, RATE, VOICES, Voice, speak
from foalkit.puppets.writing import (
    FPS,
    LICENCE,
    in_processes,
    sixteen_bit,
    write_card,
    write_csv,
    write_once,
    write_wav,
)

VERSION = 3  # raise it with every change that changes a byte of the corpus
SESSIONS = 5  # as many as the release has; more have speakers that are variations of theirs
USABLE = 0.8  # share of turns in the four classes; the others are what every reader leaves out
EXPRESSIVE = {"F": (1.0, 1.1, 0.93, 1.05, 0.9), "M": (0.9, 1.02, 1.08, 0.95, 1.05)}  # by session: how far displays go
# IEMOCAP's turn lengths in seconds at these percentiles (5 531 turns of four classes).
_PERCENT = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)
_LENGTHS = (0.58, 1.09, 1.39, 1.68, 2.13, 2.55, 3.00, 3.58, 4.25, 5.18, 6.53, 8.69, 11.06, 15.54, 34.14)
# Seconds of rest before a turn's voice and expression. Attention that is averaged over time can only tell whether two
# streams match where it has something else to look at: with one lasting display it answers the same to everyone.
BREATH = 0.2
_SHORTEST, _SHRINK = 0.7, 0.12  # the demo's turns: 0.7 s plus 0.12 of what IEMOCAP's exceed their shortest by
_NAMES = {  # irregular names, as in the release; they come first, so that small corpora have them
    3: ("M_impro05a", "M_impro05b", "F_impro01", "F_script01_1", "M_script02_2"),
    5: ("M_script01_1b", "F_impro02", "M_impro01", "F_script02_1", "F_impro04"),
}
_REGULAR = ("F_impro01", "M_impro02", "F_script01_1", "M_script02_1", "F_impro03")
_LINES = (
    "Excuse me.", "I told you about the letter.", "Well, what did they say?", "It came on Tuesday.",
    "Did you see her?", "I don't know yet.", "That is what I heard.", "They moved the whole thing to March.",
    "Is the door still open?", "You were there, too.", "I left it on the table.", "So that's it, then.",
    "He called again this morning.", "Let me think about it.", "We have been here since nine.",
    "Nobody asked me.",
)  # fmt: skip


@dataclass(frozen=True)
class Dialogue:
    """One recording: two speakers, the one named in the id on the left, and their turns in order of start."""

    name: str
    seed: tuple[int, ...]
    turns: list[Turn] = field(default_factory=list)

    @property
    def session(self) -> int:
        return int(self.name[3:5])

    @property
    def speakers(self) -> tuple[str, str]:
        left = self.name[:6]
        return left, left[:5] + ("M" if left[5] == "F" else "F")


def cast(seed: int, speaker: str) -> tuple[Look, Voice, float]:
    """Return a speaker's look and voice, and how far the displays go: written out for five sessions, varied after."""
    session, sex = int(speaker[3:5]), speaker[5]
    if session <= SESSIONS:
        return LOOKS[speaker], VOICES[speaker], EXPRESSIVE[sex][session - 1]
    rng = np.random.default_rng([seed, 0, session, "FM".index(sex)])
    return *varied(rng, sex, session - 1), rng.uniform(0.9, 1.1)


def plan(seed: int, turns_per_session: int, sessions: int = SESSIONS) -> list[Dialogue]:
    """Return all dialogues of the corpus, labels dealt in the priors' proportions within each session."""
    dialogues = []
    for session in range(1, sessions + 1):
        rng = np.random.default_rng([seed, session])
        names = _NAMES.get(session, _REGULAR)[: int(np.clip(turns_per_session // 15, 2, 5))]
        labels = _deal_labels(rng, turns_per_session)
        # Lengths are dealt too, one from each slice of the distribution: no session lacks long turns.
        percent = 100 * (rng.permutation(turns_per_session) + rng.random(turns_per_session)) / turns_per_session
        lengths = _SHORTEST + _SHRINK * (np.interp(percent, _PERCENT, _LENGTHS) - _LENGTHS[0])
        for index, rows in enumerate(np.array_split(np.arange(turns_per_session), len(names))):
            dialogue = Dialogue(f"Ses{session:02}{names[index]}", (seed, session, index))
            dialogue.turns.extend(_turns(rng, dialogue, [labels[i] for i in rows], lengths[rows]))
            dialogues.append(dialogue)
    return dialogues


def _deal_labels(rng: np.random.Generator, turns: int) -> list[str]:
    usable = round(USABLE * turns)
    shares = np.array(list(PRIORS.values())) * usable
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: usable - counts.sum()]] += 1  # largest remainders
    labels = [label for label, count in zip(PRIORS, counts, strict=True) for _ in range(count)]
    excited = round(2 / 3 * counts[0])  # of happy and excited together
    labels[:excited] = ["exc"] * excited
    labels += [("fru", "xxx", "fru", "sur", "xxx")[i % 5] for i in range(turns - usable)]
    return [labels[i] for i in rng.permutation(turns)]


def _turns(rng: np.random.Generator, dialogue: Dialogue, labels: list[str], lengths: np.ndarray):
    speaker, count, at = dialogue.speakers[0], Counter(), rng.uniform(0.5, 0.9)
    ended = dict.fromkeys(dialogue.speakers, 0.0)
    for i, (label, length) in enumerate(zip(labels, lengths, strict=True)):
        if i and rng.random() < 0.75:
            speaker = next(s for s in dialogue.speakers if s != speaker)
        gap = rng.uniform(-0.45, -0.15) if rng.random() < 0.2 else rng.uniform(0.03, 0.2)
        start = max(at + (gap if i else 0), ended[speaker] + 0.3)
        # Times are multiples of half a millisecond: eight samples, and exact in the label's four decimals.
        start, end = (round(t * 2000) / 2000 for t in (start, start + length))
        at, ended[speaker] = max(at, end), end
        yield Turn(
            f"{dialogue.name}_{speaker[5]}{count[speaker]:03d}", speaker, label, start, end,
            *(draw_display(rng, label, m, UNCLEAR) for m in ("audio", "video")), rng.uniform(0.85, 1.0),
        )  # fmt: skip
        count[speaker] += 1


def _write_dialogue(job: tuple[Path, Dialogue]) -> list[dict]:
    """Write every file of one dialogue and return its two rows of face_boxes.csv."""
    root, dialogue = job
    rng = np.random.default_rng(dialogue.seed)
    base = root / f"Session{dialogue.session}"
    seconds = max(turn.end for turn in dialogue.turns) + 0.6
    samples, frames = round(seconds * RATE), int(seconds * FPS)
    known = {speaker: cast(dialogue.seed[0], speaker) for speaker in dialogue.speakers}
    times = np.arange(frames) / float(FPS)
    voices = {s: np.zeros(samples, np.float32) for s in dialogue.speakers}
    mouths = {s: np.zeros((samples // HOP + 2, 2), np.float32) for s in dialogue.speakers}
    parts = {s: [] for s in dialogue.speakers}
    for turn in dialogue.turns:
        _, own_voice, expressive = known[turn.speaker]
        reach = turn.intensity * expressive
        (a1, v1), (a2, v2) = (np.array(d) * reach + rng.normal(0, 0.07, 2) for d in (turn.audio, turn.video))
        begin = turn.start + BREATH
        voice, mouth = speak(rng, own_voice, seconds=turn.end - begin, arousal=a1, valence=v1)
        first, step = round(begin * RATE), round(begin * RATE / HOP)
        voices[turn.speaker][first : first + len(voice)] = voice
        mouths[turn.speaker][step : step + len(mouth)] = mouth
        # A frame n belongs to the turn if start <= n / FPS < end.
        parts[turn.speaker].append((*(int(np.ceil(t * FPS)) for t in (begin, turn.end)), a2, v2))
    room = rng.normal(0, 6e-4, samples)
    folder = base / "sentences/wav" / dialogue.name
    for turn in dialogue.turns:
        other = next(s for s in dialogue.speakers if s != turn.speaker)
        cut = slice(round(turn.start * RATE), round(turn.end * RATE))
        write_wav(folder / f"{turn.utterance}.wav", (voices[turn.speaker] + 0.12 * voices[other] + room)[cut])

    played, boxes = [], []
    for side, speaker in zip(("left", "right"), dialogue.speakers, strict=True):
        track = mouths[speaker]
        clock = np.arange(len(track)) * HOP / RATE
        mouth = np.stack([np.interp(times, clock, track[:, k]) for k in (0, 1)], 1)
        played.append((perform(rng, times, parts[speaker], mouth), _redrawn(frames, parts[speaker])))
        boxes.append({"dialogue": dialogue.name, "side": side, "x": 0, "y": 0, "width": 0, "height": 0})
    path = base / "dialog/avi/DivX" / f"{dialogue.name}.avi"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = _encode(
        path, _pictures([look for look, *_ in known.values()], played, boxes), sixteen_bit(sum(voices.values()) + room)
    )
    assert drawn == frames, (dialogue.name, drawn, frames)
    _write_texts(rng, base, dialogue)
    return boxes


def _redrawn(frames: int, part: list[tuple]) -> np.ndarray:
    """Mark the frames to draw anew: on twos within a turn, as animators do, on fours while listening."""
    marks = np.arange(frames) % 4 == 0
    for first, end, *_ in part:
        marks[first:end] = (np.arange(first, end) - first) % 2 == 0
        marks[end : end + 8 : 2] = True  # the expression fades within these
    return marks


def _pictures(looks: list[Look], played: list[tuple], boxes: list[dict]):
    """Yield the 720x480 pictures (480, 720, 3), the same object while nothing moves, and fill in `boxes`."""
    portraits = [Portrait(look) for look in looks]
    canvas = np.zeros((480, 720, 3), np.uint8)
    heads = [np.array([1e9, 1e9, -1e9, -1e9]) for _ in portraits]
    for n in range(len(played[0][0])):
        moved = False
        for k, (portrait, (controls, redrawn)) in enumerate(zip(portraits, played, strict=True)):
            if n and not redrawn[n]:
                continue
            if not moved:
                canvas, moved = canvas.copy(), True
            picture, head = portrait.draw(controls[n])
            canvas[120 : 120 + PANEL[0], 6 + 360 * k : 6 + 360 * k + PANEL[1]] = picture
            heads[k] = np.concatenate([np.minimum(heads[k][:2], head[:2]), np.maximum(heads[k][2:], head[2:])])
        yield canvas
    for k, (box, head) in enumerate(zip(boxes, heads, strict=True)):
        left, top, right, bottom = np.clip(np.add(head, (-4, -4, 4, 4)), 0, (PANEL[1], PANEL[0]) * 2)
        box.update(x=6 + 360 * k + int(left), y=120 + int(top), width=int(right - left), height=int(bottom - top))


def _encode(path: Path, pictures, sound: np.ndarray) -> int:
    """Write an AVI without B-frames (readers disagree by a frame on those); return how many frames it has."""
    with av.open(str(path), "w", format="avi", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("mpeg4", rate=FPS, width=720, height=480, pix_fmt="yuv420p", bit_rate=1_200_000)
        context = video.codec_context
        context.codec_tag, context.max_b_frames, context.gop_size, context.thread_count = "DIVX", 0, 12, 1
        context.flags |= av.codec.context.Flags.bitexact
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        audio.codec_context.flags |= av.codec.context.Flags.bitexact
        last, heard, n = None, 0, -1
        to_yuv = VideoReformatter()  # one for all frames: a frame's own reformat sets FFmpeg's scaler up anew
        for n, picture in enumerate(pictures):
            if picture is not last:
                frame = to_yuv.reformat(av.VideoFrame.from_ndarray(picture, format="rgb24"), format="yuv420p")
                last = picture
            frame.pts, frame.time_base = n, 1 / FPS
            container.mux(video.encode(frame))
            if n % 15 == 14:  # half a second of sound after the pictures it belongs to
                heard = _mux_sound(container, audio, sound, heard, int((n + 1) / FPS * RATE))
        _mux_sound(container, audio, sound, heard, len(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return n + 1


def _mux_sound(container, stream, sound: np.ndarray, start: int, end: int) -> int:
    if end > start:
        frame = av.AudioFrame.from_ndarray(sound[None, start:end], format="s16", layout="mono")
        frame.rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        container.mux(stream.encode(frame))
    return end


def _write_texts(rng: np.random.Generator, base: Path, dialogue: Dialogue) -> None:
    """Write the label file with its raters' lines and the transcript with its oddities."""
    words = {"hap": "Happiness", "exc": "Excited", "ang": "Anger", "sad": "Sadness", "neu": "Neutral state",
             "fru": "Frustration", "sur": "Surprise", "xxx": "Other"}  # fmt: skip
    centres = {**CORNERS, "exc": (1.2, 0.9), "fru": (0.4, -0.7), "sur": (0.9, 0.2), "xxx": (0.0, -0.1)}
    labels = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"]
    spoken = []
    for turn in dialogue.turns:
        a, v = centres[turn.label]
        vad = np.clip(np.round(2 * (3 + 1.15 * np.array([v, a, 0.7 * a - 0.1 * v]) + rng.normal(0, 0.3, 3))) / 2, 1, 5)
        block = [
            f"[{turn.start:.4f} - {turn.end:.4f}]\t{turn.utterance}\t{turn.label}\t"
            f"[{', '.join(f'{x:.4f}' for x in vad)}]"
        ]
        categorical = ["C-E2", "C-E3", "C-E4", f"C-F{dialogue.session}", f"C-M{dialogue.session}"][: rng.integers(3, 6)]
        for rater in categorical:
            said = words[turn.label] if rng.random() < 0.8 else words[str(rng.choice(list(words)))]
            block.append(f"{rater}:\t{said};\t()")
        for rater in ["A-E3", "A-E4", f"A-{turn.speaker[5]}{dialogue.session}"][: rng.integers(2, 4)]:
            val, act, dom = np.clip(np.round(vad + rng.normal(0, 0.4, 3)), 1, 5).astype(int)
            block.append(f"{rater}:\tval {val}; act {act}; dom  {dom};\t()")
        labels.append("\n".join(block) + "\n")
        text = _LINES[rng.integers(len(_LINES))]
        spoken.append(f"{turn.utterance} [{turn.start:08.4f}-{turn.end:08.4f}]: {text}")
    # As in the release: a remark without an id, and a sound that got an id but no label.
    spoken.insert(1, f"{dialogue.speakers[1][5]}: Mm-hm.")
    sound = f"{dialogue.name}_{dialogue.speakers[0][5]}XX0 [{0.1:08.4f}-{0.4:08.4f}]: [BREATHING]"
    spoken[:0] = [sound] if dialogue.seed[-1] == 0 else []
    for kind, lines in (("EmoEvaluation", labels), ("transcriptions", spoken)):
        path = base / "dialog" / kind / f"{dialogue.name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_corpus(
    root: Path, *, seed: int = 1, turns_per_session: int = 90, sessions: int = SESSIONS, workers: int = 2
) -> dict:
    """Write the demo corpus to `root`, unless it is there already, and return its card.

    The files appear all at once when everything is written; they depend on `seed`, `turns_per_session` and `sessions`
    only. Raises ValueError below 8 turns a session (no room for all four classes and two dialogues),
    FileExistsError if `root` holds something else.
    """
    if turns_per_session < 8:
        raise ValueError(f"turns_per_session must be at least 8, not {turns_per_session}")
    identity = {
        "name": "puppets",
        "version": VERSION,
        "parameters": {"seed": seed, "turns_per_session": turns_per_session},
    }
    if sessions != SESSIONS:  # corpora of before there was this key stay what they are
        identity["parameters"]["sessions"] = sessions

    def write(part: Path) -> dict:
        dialogues = plan(seed, turns_per_session, sessions)
        boxes = [row for rows in in_processes(_write_dialogue, part, dialogues, workers) for row in rows]
        return _write_tables(part, dialogues, boxes, identity)

    return write_once(root, identity, write)


def _write_tables(part: Path, dialogues: list[Dialogue], boxes: list[dict], identity: dict) -> dict:
    turns = [turn for dialogue in dialogues for turn in dialogue.turns]
    truth = [display_row(turn) for turn in turns]
    write_csv(part / "face_boxes.csv", boxes)
    write_csv(part / "displays.csv", truth)
    labels = [t.label for t in turns]
    card = {
        **identity,
        "licence": LICENCE,
        "utterances": len(turns),
        "usable": sum(label in (*CORNERS, "exc") for label in labels),
        "seconds": round(sum(t.end - t.start for t in turns), 2),
        "labels": dict(sorted(Counter(labels).items())),
        "labels_by_session": {
            str(k): dict(sorted(Counter(t.label for t in turns if int(t.speaker[3:5]) == k).items()))
            for k in sorted({d.session for d in dialogues})
        },
        "priors": PRIORS,
        "ceilings": {name: round(value, 6) for name, value in ceilings(UNCLEAR).items()},
        "display_tables": display_tables({label: label for label in CORNERS}, UNCLEAR),
    }
    return write_card(part, card, _README)


_README = """\
Puppets: a demo corpus for foalkit, drawn and spoken by a program.
No person appears in it; no rights are reserved (CC0).

The folders are IEMOCAP's own (Session1..5, dialog/EmoEvaluation, dialog/transcriptions, dialog/avi/DivX,
sentences/wav), so the same reader reads both.
The actor named in a dialogue's id is in the left half of the picture.
face_boxes.csv  where each actor's head stays, in pixels of the 720x480 picture
displays.csv    what each modality was told to show: for teaching and tests, never for training
card.json       parameters, counts, display tables, and the best accuracy within reach
"""
