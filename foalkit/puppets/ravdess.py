"""The demo corpus in RAVDESS's layout: 24 puppets act short takes, written as mp4, silent twin and wav.

Emotions, displays and their known ceilings are those of `foalkit.puppets.displays`; looks and voices are seeded
variations of its ten speakers'. The puppets wear dark shirts before a white wall, as RAVDESS's actors do.
"""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from scipy.signal import resample_poly

from foalkit import UserError
from foalkit.puppets.acting import perform
from foalkit.puppets.casting import varied
from foalkit.puppets.displays import WRONG, Turn, ceilings, display_row, display_tables, draw_display
from foalkit.puppets.faces import Portrait
from foalkit.puppets.looks import Look
from foalkit.puppets.voices import HOP, Voice, speak
from foalkit.puppets.voices import RATE as VOICE_RATE
from foalkit.puppets.writing import FPS, LICENCE, in_processes, write_card, write_csv, write_once, write_wav

VERSION = 2  # raise it with every change that changes a byte of the corpus
RATE = 48_000  # Hz
PICTURE = (272, 480)  # rows, columns: RAVDESS's shape in whole blocks of 16; a face of about 110 pixels
CODES = {"neu": 1, "hap": 3, "sad": 4, "ang": 5}  # the plane's corner -> RAVDESS's emotion field
NAMES = {"neu": "neutral", "hap": "happy", "sad": "sad", "ang": "angry"}
STUDIO = 0.7  # the gamma of its light: on dark skin dlib finds no brows and lids in the puppets' own
STEREO = 5  # wav files with two channels, as many as the release has


# ---- the plan: who acts what ---------------------------------------------------------------------


def plan(seed: int, takes_per_actor: int, actors: int) -> list[Turn]:
    """Return all takes, each a turn of its own from 0 s to the clip's end; the emotions take turns.

    A neutral take has intensity 01 only, so there are at most four of an actor, and eight of each other emotion.
    """
    takes = []
    for actor in range(1, actors + 1):
        rng = np.random.default_rng([seed, actor])
        corners = np.roll(list(CODES), actor).tolist()  # who is short of a take differs from actor to actor
        left = {}  # corner -> its (intensity, statement, repetition) in random order
        for corner in corners:
            intensities = (1,) if corner == "neu" else (1, 2)
            left[corner] = rng.permutation(list(product(intensities, (1, 2), (1, 2))))
        reach = rng.uniform(0.9, 1.1)  # how far this actor's displays go
        rounds = [corner for n in range(8) for corner in corners if n < len(left[corner])]
        count = Counter()
        for corner in rounds[:takes_per_actor]:
            intensity, statement, repetition = left[corner][count[corner]]
            count[corner] += 1
            frames = int(rng.integers(94, 102))
            takes.append(
                Turn(
                    f"01-{CODES[corner]:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}",
                    f"Actor_{actor:02d}", NAMES[corner], 0.0, float(frames / FPS),
                    draw_display(rng, corner, "audio", WRONG), draw_display(rng, corner, "video", WRONG),
                    reach * (rng.uniform(0.85, 0.95) + 0.1 * (intensity == 2)),
                )
            )  # fmt: skip
    return takes


def cast(seed: int, actor: int) -> tuple[Look, Voice]:
    """Return an actor's look and voice: those of one of the five men (odd) or women (even), varied."""
    rng = np.random.default_rng([seed, 0, actor])
    nth = actor // 2 + actor % 2  # of each sex
    look, voice = varied(rng, "FM"[actor % 2], nth, light=STUDIO, cloth="#2e2e33")
    return replace(look, wall="#ebecec", collar="round", temples=True), voice


# ---- one take: sound, picture, three files -------------------------------------------------------


def _write_take(job: tuple[Path, tuple[Turn, int, bool]]) -> None:
    root, (take, seed, stereo) = job
    fields = [int(field) for field in take.utterance.split("-")]
    rng = np.random.default_rng([seed, *fields])
    look, voice = cast(seed, fields[-1])
    frames = round(take.end * FPS)
    samples = round(take.end * RATE)
    # Seconds of silence around the speech; CFN-SR listens from 0.5 to 2.95 s.
    lead, tail = rng.uniform(0.3, 0.42), rng.uniform(0.08, 0.18)
    (a1, v1), (a2, v2) = (np.array(d) * take.intensity + rng.normal(0, 0.07, 2) for d in (take.audio, take.video))
    spoken, track = speak(rng, voice, seconds=take.end - lead - tail, arousal=a1, valence=v1)
    sound = rng.normal(0, 6e-4, samples)  # the room
    first, spoken = round(lead * RATE), resample_poly(spoken, RATE // VOICE_RATE, 1)
    sound[first : first + len(spoken)] += spoken[: samples - first]

    times = np.arange(frames) / float(FPS)
    clock = lead + np.arange(len(track)) * HOP / VOICE_RATE
    mouth = np.stack([np.interp(times, clock, track[:, k], left=0, right=0) for k in (0, 1)], 1)
    controls = perform(rng, times, [(0, frames, a2, v2)], mouth)
    portrait = Portrait(look, PICTURE)
    pictures = (portrait.draw(controls[n])[0] if n % 2 == 0 else None for n in range(frames))

    folder = root / take.speaker
    folder.mkdir(exist_ok=True)
    _encode(folder / f"01-{take.utterance}.mp4", pictures, sound)
    _silence(folder / f"01-{take.utterance}.mp4", folder / f"02-{take.utterance}.mp4", samples)
    # Channels that differ, with the mono file as their mean: a reader that takes only one of them shows.
    wav = np.outer(sound, (1.1, 0.9)) if stereo else sound
    write_wav(folder / f"03-{take.utterance}.wav", wav, RATE)


def _encode(path: Path, pictures, sound: np.ndarray) -> None:
    """Write H.264 with B-frames and AAC, as the release has; None repeats a picture (they move on twos)."""
    with _create(path) as container:
        # With mbtree, libx264's choices depend on what happens to lie in memory: no two files were the same.
        options = {"preset": "veryfast", "crf": "26", "x264-params": "mbtree=0:cpu-independent=1"}
        video = container.add_stream("libx264", rate=FPS, options=options)
        video.height, video.width = PICTURE
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # the same bytes on any number of cores
        video.codec_context.flags |= av.codec.context.Flags.bitexact
        audio = _add_aac(container)
        to_yuv = VideoReformatter()  # one for all frames, as in iemocap.py
        for n, picture in enumerate(pictures):
            if picture is not None:
                frame = to_yuv.reformat(av.VideoFrame.from_ndarray(picture, format="rgb24"), format="yuv420p")
            frame.pts, frame.time_base = n, 1 / FPS
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        _mux_sound(container, audio, sound)


def _silence(source: Path, target: Path, samples: int) -> None:
    """Copy the video's packets as they are, with a sound track of zeros."""
    with av.open(str(source)) as taken, _create(target) as container:
        video = container.add_stream_from_template(taken.streams.video[0])
        audio = _add_aac(container)
        for packet in taken.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
        _mux_sound(container, audio, np.zeros(samples))


def _create(path: Path):
    return av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"})


def _add_aac(container):
    audio = container.add_stream("aac", rate=RATE, layout="stereo", bit_rate=96_000)
    audio.codec_context.flags |= av.codec.context.Flags.bitexact
    return audio


def _mux_sound(container, stream, sound: np.ndarray) -> None:
    both = np.stack([sound, sound]).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(both, format="fltp", layout="stereo")
    frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


# ---- the whole corpus ----------------------------------------------------------------------------


def write_corpus(root: Path, *, seed: int = 1, takes_per_actor: int = 12, actors: int = 24, workers: int = 2) -> dict:
    """Write the demo corpus in RAVDESS's layout to `root`, unless it is there already, and return its card.

    The files appear all at once when everything is written; they depend on `seed`, `takes_per_actor` (4..28)
    and `actors` (1..24) only. Raises ValueError outside these ranges, FileExistsError if `root` holds
    something else, UserError where PyAV comes without its H.264 encoder.
    """
    if not 4 <= takes_per_actor <= 28:
        raise ValueError(f"takes_per_actor must be 4 to 28 (all that the names allow), not {takes_per_actor}")
    if not 1 <= actors <= 24:
        raise ValueError(f"actors must be 1 to 24, not {actors}")
    identity = {
        "name": "puppets-ravdess",
        "version": VERSION,
        "parameters": {"seed": seed, "takes_per_actor": takes_per_actor, "actors": actors},
    }

    def write(part: Path) -> dict:
        if "libx264" not in av.codecs_available:
            raise UserError("the demo corpus needs PyAV with libx264: install av from its wheel")
        takes = plan(seed, takes_per_actor, actors)
        stereo = np.random.default_rng([seed, 0]).permutation(len(takes)) < STEREO
        jobs = [(take, seed, bool(two)) for take, two in zip(takes, stereo, strict=True)]
        in_processes(_write_take, part, jobs, workers)
        return _write_tables(part, takes, identity)

    return write_once(root, identity, write)


def _write_tables(part: Path, takes: list[Turn], identity: dict) -> dict:
    write_csv(part / "displays.csv", [display_row(take) for take in takes])
    labels = Counter(take.label for take in takes)
    priors = {corner: labels[name] / len(takes) for corner, name in NAMES.items()}
    card = {
        **identity,
        "licence": LICENCE,
        "utterances": len(takes),
        "seconds": round(sum(take.end for take in takes), 2),
        "labels": dict(sorted(labels.items())),
        "priors": {NAMES[corner]: round(share, 6) for corner, share in priors.items()},
        "ceilings": {name: round(value, 6) for name, value in ceilings(WRONG, priors).items()},
        "display_tables": display_tables(NAMES, WRONG),
    }
    return write_card(part, card, _README)


_README = """\
Puppets: a demo corpus for foalkit, drawn and spoken by a program.
No person appears in it; no rights are reserved (CC0).

Folders and names are those of RAVDESS (Actor_01..24, modality-channel-emotion-intensity-statement-
repetition-actor), so the same reader reads both. Odd actors are men, even ones women.
01-*.mp4        picture and sound
02-*.mp4        the same pictures with a silent track
03-*.wav        the sound alone, 48 kHz; a few files are stereo
displays.csv    what each modality was told to show: for teaching and tests, never for training
card.json       parameters, counts, display tables, and the best accuracy within reach
"""
