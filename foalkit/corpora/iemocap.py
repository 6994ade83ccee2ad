"""The IEMOCAP reader: label files, sentence wavs and split-screen dialogue videos (corpora.md)."""

import csv
import re
from pathlib import Path

import pandas as pd

from foalkit import UserError
from foalkit.corpora.recorded import FILM, SOUND, find, label_text
from foalkit.files import listed, of_the_machine, unusable

LABEL_LINE = re.compile(r"\[(\d+\.\d+) - (\d+\.\d+)\]\t(\S+)\t(\w+)\t\[(\d\.\d+), (\d\.\d+), (\d\.\d+)\]")
TIMES = re.compile(r"\[\s*\d+[.,]?\d*\s*-\s*\d")  # how a label begins
# what an id may be: the speaker is read from it, and a file's name made of it
UTTERANCE = re.compile(r"Ses\d\d[FM]_\w{1,50}_[FM]\w{0,20}", re.ASCII)
CROPS = {"left": (52, 112, 256, 256), "right": (412, 112, 256, 256)}  # x, y, width, height of 720×480
COUNTS = {  # the four-class set of the literature, 5 531 utterances
    "emotion": {"happy": 1636, "neutral": 1708, "sad": 1084, "angry": 1103},
    "session": {"Ses01": 1085, "Ses02": 1023, "Ses03": 1151, "Ses04": 1031, "Ses05": 1241},
}


def read(root: Path) -> tuple[list[dict], list[tuple[str, str]]]:
    """All labelled turns under `root`/Session*/ as manifest rows, and (utterance, reason) for unusable ones.

    A turn needs neither its wav nor its film: a stream that is made from one that is not there lacks the turn.
    Raises UserError when there is no label file at all.
    """
    sessions = [folder for folder in listed(root) if folder.match("Session*")]
    there = [f for session in sessions for f in listed(session / "dialog" / "EmoEvaluation")]
    files = sorted(f for f in there if f.suffix.lower() == ".txt" and not f.name.startswith("."))
    if not files:
        raise UserError(f"{root}: no Session*/dialog/EmoEvaluation/*.txt; point corpus.root at the release folder")
    faces = _face_boxes(root / "face_boxes.csv")
    rows, left_out, seen = [], [], set()
    for file in files:
        dialogue, session = file.stem, file.parents[2]
        video = find(session / "dialog" / "avi" / "DivX", dialogue, (".avi", *FILM))
        labels, bad = _labels(file)
        left_out += bad
        for number, match in labels:
            start, end, utterance, label = float(match[1]), float(match[2]), match[3], match[4]
            known = UTTERANCE.fullmatch(utterance)
            audio = find(session / "sentences" / "wav" / dialogue, utterance, SOUND) if known else None
            reason = (
                f"{file.name} line {number}: {utterance!r} is no utterance's id, as Ses01F_impro01_F000 is"
                if not known
                else f"{file.name} line {number}: utterance {utterance} is not of dialogue {dialogue}"
                if utterance.rsplit("_", 1)[0] != dialogue
                else f"{file.name} line {number}: utterance {utterance} stands twice; the first line is used"
                if utterance in seen
                else f"{file.name} line {number}: the time range {start}-{end} s is empty"
                if end <= start
                else None
            )
            if reason:
                left_out.append((utterance, reason))
                continue
            seen.add(utterance)
            gender = utterance.rsplit("_", 1)[1][0]  # who speaks, not whom the dialogue names
            side = "left" if gender == dialogue[5] else "right"  # the named actor sits on the left
            rows.append(
                {
                    "utterance": utterance,
                    "speaker": utterance[:5] + gender,
                    "session": utterance[:5],
                    "dialogue": dialogue,
                    "kind": "improvised" if "impro" in dialogue else "scripted",
                    "gender": gender,
                    "label": label,
                    "start": start,
                    "end": end,
                    "audio": str(audio.relative_to(root)) if audio else "",
                    "video": str(video.relative_to(root)) if video else "",
                    "crop": CROPS[side],
                    "face": faces.get((dialogue, side)),
                }
            )
    return rows, left_out


def _labels(file: Path) -> tuple[list[tuple[int, re.Match]], list[tuple[str, str]]]:
    """The labels of a label file with the number of their line, and (file or line, reason) for what is none.

    A line may hold several, and begin with another sign than its label's bracket; one that begins with % or # is a
    remark.
    """
    labels, bad = [], []
    try:
        why = unusable(file)
        lines = [] if why else label_text(file).splitlines()
    except (OSError, ValueError) as error:
        if of_the_machine(error):
            raise
        why, lines = getattr(error, "strerror", None) or str(error), []
    for number, line in enumerate(lines, 1):
        line = line.partition("[START_TIME")[2] or line  # what follows the head of the columns in the same line
        if line.lstrip("\ufeff \t").startswith(("%", "#")):
            continue
        found = list(LABEL_LINE.finditer(line))
        labels += [(number, match) for match in found]
        count = max(len(TIMES.findall(line)), line.startswith("["))
        if count > len(found):
            said = "is not a label line" if count == 1 else f"holds {count} labels, {len(found)} of them can be read"
            bad.append((f"{file.name}:{number}", f"{file.name} line {number} {said}"))
    if not labels and not bad:
        bad.append((file.name, f"{file.name}: {why or 'holds no label line'}"))
    return labels, bad


def assert_counts(table: pd.DataFrame) -> None:
    """Raise UserError unless classes and sessions hold exactly the literature's 5 531 utterances."""
    for column, expected in COUNTS.items():
        found = table[column].value_counts().to_dict()
        for key, count in expected.items():
            if found.get(key, 0) != count:
                raise UserError(
                    f"IEMOCAP: {column} {key} has {found.get(key, 0)} utterances, the release has {count}: "
                    "files are missing (or set corpus.assert_counts: false)"
                )


def _face_boxes(file: Path) -> dict[tuple[str, str], tuple[int, int, int, int]]:
    # only the puppets know where their faces are; the real release has no such file
    if not file.exists():
        return {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return {
                (r["dialogue"], r["side"]): (int(r["x"]), int(r["y"]), int(r["width"]), int(r["height"]))
                for r in csv.DictReader(lines)
            }
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{file}: not a table of face boxes ({error!r}); delete it or write the corpus again") from None
