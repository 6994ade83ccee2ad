"""The RAVDESS reader: one take = one utterance, whatever copies of it (AV, video, audio) are there."""

import re
from pathlib import Path

from foalkit import UserError
from foalkit.corpora.recorded import FILM, SOUND, is_recording
from foalkit.files import entries_below, refusal_to_enter

NAME = re.compile(r"^(0[123])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)\Z", re.ASCII)
EMOTIONS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
FEATURES = {".npy", ".npz", ".safetensors", ".csv", ".parquet"}  # made elsewhere: they tell that there is such a take


def read(root: Path) -> tuple[list[dict], list[tuple[str, str]]]:
    """All speech takes under `root` (any depth) as manifest rows, and (file, reason) for those left out.

    A take's id is fields 2-7 of its file names: `01-03-…` (audio), `01-01-…` (audio and video) and `02-01-…`
    (video, silent) of one take are one utterance. Sound is taken from 03 before 01, the picture from 01
    before 02; a take needs neither. A file may have any ending that FFmpeg reads, in any letter case, and lie below a
    linked folder. A take that only files of features are named by is an utterance without media. Raises UserError when
    `root` holds no such file.
    """
    takes: dict[str, dict[str, Path]] = {}
    left_out = []
    every = entries_below(root)
    for file in every:
        if why := refusal_to_enter(file):
            left_out.append((file.name, why))
        if file.name.startswith("."):
            continue
        if not is_recording(file):
            continue
        match = NAME.match(file.stem)
        if file.suffix.lower() not in (*SOUND, *FILM):
            left_out.append((file.name, f"a recording whose ending {file.suffix} is not among those that are read"))
        elif not match:
            left_out.append(
                (file.name, "the name is not modality-channel-emotion-intensity-statement-repetition-actor")
            )
        elif match[2] == "01":  # speech; 02 is song
            copies = takes.setdefault(file.stem[3:], {})
            if match[1] in copies:
                left_out.append((file.name, f"a second copy; {copies[match[1]].relative_to(root)} is used"))
            else:
                copies[match[1]] = file
    for file in (f for f in every if f.suffix in FEATURES):
        match = NAME.match(file.stem) or NAME.match(f"03-{file.stem}")  # by its file's name, or by the take's
        if match and match[2] == "01":
            takes.setdefault(match[0][3:], {})
    if not takes:
        raise UserError(f"{root}: no RAVDESS file (such as 03-01-05-01-02-01-12.wav) below this folder")
    rows = []
    for take, copies in takes.items():
        audio, video = copies.get("03", copies.get("01")), copies.get("01", copies.get("02"))
        actor = take[-2:]
        rows.append(
            {
                "utterance": take,
                "speaker": f"Actor_{actor}",
                "session": f"Actor_{actor}",
                "dialogue": take,
                "kind": "acted",
                "gender": "M" if int(actor) % 2 else "F",
                "label": EMOTIONS[int(take[3:5]) - 1],
                "start": 0.0,
                "end": None,
                "audio": str(audio.relative_to(root)) if audio else "",
                "video": str(video.relative_to(root)) if video else "",
                "crop": None,
                "face": None,
            }
        )
    return rows, left_out
