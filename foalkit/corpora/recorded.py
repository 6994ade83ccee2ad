"""Which files are recordings, whatever their ending, and the text of label files however they were saved."""

import mimetypes
import os
from pathlib import Path

from foalkit.files import listed

# what FFmpeg reads, in the order in which copies of one recording are preferred
SOUND = (
    ".wav", ".flac", ".aiff", ".aif", ".caf", ".au", ".m4a", ".aac", ".opus", ".ogg", ".oga", ".mp3", ".wma", ".amr",
)  # fmt: skip
FILM = (
    ".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg",
    ".mts", ".m2ts", ".ts", ".wmv", ".flv", ".3gp", ".ogv",
)  # fmt: skip


def is_recording(file: Path) -> bool:
    """Whether a file's ending says that it holds sound or a film, of a kind that is read here or not."""
    ending = file.suffix.lower()
    kind = mimetypes.guess_type(f"x{ending}")[0] or ""
    return ending in (*SOUND, *FILM) or kind.startswith(("audio/", "video/"))


def find(folder: Path, stem: str, endings: tuple[str, ...]) -> Path | None:
    """The file of that name in a folder with the first of these endings, in any letter case; None where there is none.

    A link that leads nowhere and a folder are found too: reading them says what they are.
    """
    usual = folder / f"{stem}{endings[0]}"
    if os.path.lexists(usual):
        return usual
    own = {file.suffix.lower(): file for file in listed(folder) if file.stem == stem}
    return next((own[ending] for ending in endings if ending in own), None)


def label_text(file: Path) -> str:
    """The text of a label file in UTF-8 or UTF-16; raises OSError, or ValueError for bytes that are no text."""
    data = file.read_bytes()
    if b"\0" not in data:
        return data.decode("utf-8-sig", errors="replace")
    zeros = [data[first::2].count(0) for first in (0, 1)]  # text without accents is half zeros in UTF-16
    if max(zeros) < 0.4 * len(data) / 2 or min(zeros) > 0.1 * max(zeros):
        raise ValueError("holds bytes that are no text")
    return data.decode("utf-16-le" if zeros[1] > zeros[0] else "utf-16-be", errors="replace").lstrip("\ufeff")
