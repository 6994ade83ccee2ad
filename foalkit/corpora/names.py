"""The names reader: files whose names say who speaks and which label they have; files of one name are one utterance."""

import re
from pathlib import Path

from foalkit import UserError
from foalkit.corpora.recorded import FILM, SOUND
from foalkit.corpora.table import RowError, side
from foalkit.corpora.watched import watched
from foalkit.files import entries_below
from foalkit.params.corpora import Names

ENDINGS = {"audio": SOUND, "video": FILM}


def read(root: Path, corpus: Names) -> tuple[list[dict], list[tuple[str, str]]]:
    """The files below `root` as manifest rows, and (file, reason) for those left out.

    A film gives the sound, too, where there is no sound file of its name. Raises UserError when no file's name
    matches, naming one that does not.
    """
    pattern, depth = re.compile(corpus.pattern), corpus.pattern.count("/") + 1
    takes: dict[str, dict] = {}
    left_out, unmatched = [], []
    media = _media(root, corpus)
    places = ["/".join(file.with_suffix("").parts[-depth:]) for _, file in media]
    with watched("corpus.pattern", corpus.pattern, places) as each:
        matches = [pattern.fullmatch(place) for place in each]
    for place, match, (kind, file) in zip(places, matches, media, strict=True):
        if not match:
            unmatched.append((str(file), "its name does not match corpus.pattern"))
            continue
        said = {key: value for key, value in match.groupdict().items() if value}
        take = takes.setdefault(said.get("utterance", place.replace("/", "_")), {"said": said})
        if other := take.get(kind):
            left_out.append((str(file), f"a second copy; {other} is used"))
        elif take["said"] != said:
            left_out.append((str(file), f"its name says otherwise than that of {take.get('audio', take.get('video'))}"))
        else:
            take[kind] = str(file)
    if not takes and not unmatched:
        asked = " of corpus.audio and corpus.video" if corpus.audio or corpus.video else ""
        raise UserError(f"{root}: no file of sound or film{asked} lies there")
    if not takes:
        raise UserError(f"{root}: corpus.pattern matches none of {len(unmatched)} names, as {unmatched[0][0]!r} is one")
    rows = []
    for name, take in takes.items():
        try:
            rows.append(_utterance(name, take))
        except RowError as error:
            left_out.append((name, str(error)))
    return rows, left_out + unmatched


def _utterance(name: str, take: dict) -> dict:
    said = take["said"]
    for needed in ("speaker", "label"):
        if needed not in said:
            raise RowError(f"its name says no {needed}")
    row = {
        "utterance": name,
        "speaker": said["speaker"],
        "session": said.get("session", said["speaker"]),
        "dialogue": said.get("dialogue", name),
        "kind": said.get("kind", ""),
        "gender": said.get("gender", ""),
        "label": said["label"],
        "start": 0.0,
        "end": None,
        "audio": take.get("audio", take.get("video")),
        "video": take.get("video", ""),
        "crop": None,
        "face": None,
    }
    return row | ({"split": side(said["split"])} if "split" in said else {})


def _media(root: Path, corpus: Names) -> list[tuple[str, Path]]:
    """(kind, place in the root) of each sound and film, the preferred of two copies first; hidden files are none."""
    found, files = [], [f.relative_to(root) for f in entries_below(root)]
    files = [f for f in files if not any(part.startswith(".") for part in f.parts)]
    for kind, endings in ENDINGS.items():
        glob = getattr(corpus, kind)
        with watched(f"corpus.{kind}", glob or "", list(map(str, files))) as each:
            used = [
                file.match(glob) if glob else file.suffix.lower() in endings
                for file, _ in zip(files, each, strict=True)
            ]
        for file in (f for f, use in zip(files, used, strict=True) if use):
            ending = file.suffix.lower()
            rank = endings.index(ending) if ending in endings else len(endings)
            found.append((kind, rank, file))
    return [(kind, file) for kind, _, file in sorted(found)]
