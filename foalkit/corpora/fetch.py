"""`foalkit fetch ravdess`: the archives of RAVDESS's record at Zenodo, checked and unpacked as its reader wants them.

Which archives there are, how large, and their checksums come from the record itself. Nothing else in the kit downloads
a corpus; this runs when a person asks for it.
"""

import re
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from foalkit import UserError, one_line
from foalkit.corpora.ravdess import NAME
from foalkit.corpora.recorded import FILM, SOUND
from foalkit.files import read_mapping, whole, write_json
from foalkit.progress import progress

RECORD = "https://zenodo.org/api/records/1188976"  # DOI 10.5281/zenodo.1188976
LICENCE = """\
RAVDESS, Livingstone and Russo (2018), doi:10.5281/zenodo.1188976, is licensed under CC BY-NC-SA 4.0
(https://creativecommons.org/licenses/by-nc-sa/4.0/): name the authors, no commercial use, share what you make of it
under the same licence. Cite doi:10.1371/journal.pone.0196391."""
WHAT = {"sound": ("Audio_Speech",), "speech": ("Audio_Speech", "Video_Speech"), "all": ("Audio", "Video")}
ARCHIVE = re.compile(r"(Audio|Video)_(Speech|Song)_Actors?_[0-9-]+\.zip", re.ASCII)
SPEED = 10e6  # bytes per second, to say how long it may take
BLOCK = 1 << 20
WAIT = 60  # seconds without an answer before a connection counts as lost


@dataclass(frozen=True)
class Archive:
    """One file of the record."""

    name: str
    size: int  # bytes
    checksum: str  # "md5:…"
    address: str


def archives(what: str = "speech", record: str = RECORD) -> list[Archive]:
    """The record's archives of `what` (a key of `WHAT`), by name; raises UserError where it cannot be read."""
    import requests

    try:
        answer = requests.get(record, timeout=WAIT)
        answer.raise_for_status()
        listed = [
            Archive(f["key"], int(f["size"]), f["checksum"], f["links"]["self"])
            for f in answer.json()["files"]
            if ARCHIVE.fullmatch(f["key"]) and f["key"].startswith(WHAT[what])
        ]
    except requests.RequestException as error:
        raise UserError(f"{record}: cannot be read ({_why(error)}); try again later") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{record}: is no record that lists files with sizes and checksums") from None
    if not listed:
        raise UserError(f"{record}: lists no archive of {' or '.join(WHAT[what])}")
    if unsure := [a.name for a in listed if not re.fullmatch(r"md5:[0-9a-f]{32}", a.checksum)]:
        raise UserError(f"{record}: gives no checksum of {unsure[0]}")
    return sorted(listed, key=lambda a: a.name)


def plan(wanted: list[Archive], folder: Path) -> str:
    """What fetching the archives takes, in words: what is there, bytes to come, disk space and time.

    Raises UserError where the disk is too small.
    """
    left = [a for a in wanted if not _unpacked(folder, a)]
    come = sum(a.size - min(a.size, _had(folder, a)) for a in left)
    need = int(1.1 * sum(a.size for a in left)) + max((a.size for a in left), default=0)  # unpacked, and one archive
    place = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    said = (
        f"{len(wanted)} archives, {len(wanted) - len(left)} of them unpacked already; {come / 1e9:.2f} GB to download "
        f"(about {come / SPEED / 60:.0f} minutes at {SPEED / 1e6:.0f} MB/s), {need / 1e9:.2f} GB of disk needed, "
        f"{free / 1e9:.2f} GB free in {place}"
    )
    if need > free:
        raise UserError(f"{said}: that is too little; free some space or name another folder")
    return said


def fetch(wanted: list[Archive], folder: Path) -> int:
    """Download, check and unpack the archives into `folder`; returns how many files lie there of them.

    What is unpacked is not downloaded again, and a download that was cut goes on where it stopped. An archive that
    fails costs only itself: raises UserError at the end, with each one's reason.
    """
    failed = []
    for archive in progress(wanted, "archives", len(wanted)):
        if _unpacked(folder, archive):
            continue
        try:
            file = _download(archive, folder)
            files = _unpack(file, folder)
        except UserError as error:
            failed.append(str(error))
        else:
            write_json(_done(folder, archive), {"checksum": archive.checksum, "files": files})
            file.unlink()
    if failed:
        words = f"{len(failed)} of {len(wanted)} archives are missing, the same command goes on with them"
        raise UserError(f"{words}: {'; '.join(failed)}")
    return sum(len(read_mapping(_done(folder, archive))["files"]) for archive in wanted)


def _download(archive: Archive, folder: Path) -> Path:
    """The archive's file, its checksum compared; raises UserError for a download that fails or is another file."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    place = _archives(folder)
    try:
        return Path(pooch.retrieve(archive.address, archive.checksum, archive.name, place, downloader=_Going(archive)))
    except ValueError:  # another checksum: what came is deleted
        raise UserError(f"{archive.name}: what was downloaded does not have the record's checksum") from None


class _Going:
    """A downloader for pooch that goes on where an earlier one stopped."""

    def __init__(self, archive: Archive):
        self.archive = archive

    def __call__(self, url: str, output_file: str, _) -> None:
        import requests

        part = Path(output_file).parent / f"{self.archive.name}.part"
        had = part.stat().st_size if part.exists() else 0
        try:
            if had < self.archive.size:
                head = {"Range": f"bytes={had}-"} if had else {}
                with requests.get(url, headers=head, stream=True, timeout=WAIT) as answer:
                    answer.raise_for_status()
                    if answer.status_code != 206:  # the whole of it comes
                        part.unlink(missing_ok=True)
                    with part.open("ab") as handle:
                        for block in answer.iter_content(BLOCK):
                            handle.write(block)
        except requests.RequestException as error:
            raise UserError(f"{self.archive.name}: {_why(error)}") from None
        if (have := part.stat().st_size) < self.archive.size:
            raise UserError(f"{self.archive.name}: the download stopped at {have} of {self.archive.size} bytes")
        shutil.move(part, output_file)


def _unpack(file: Path, folder: Path) -> dict[str, int]:
    """Unpack an archive's takes into `folder`; returns each one's size in bytes by its path there.

    Raises UserError, before anything is written, for a damaged archive and for one with a path that leaves the folder.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            for member in members:
                path = PurePosixPath(member.filename.replace("\\", "/"))
                link = stat.S_ISLNK(member.external_attr >> 16)
                if path.is_absolute() or ".." in path.parts or ":" in member.filename or link:
                    name = one_line(member.filename)
                    raise UserError(f"{file.name}: holds {name!r}, a path that may leave the folder; not unpacked")
            takes = [m for m in members if NAME.match(PurePosixPath(m.filename).stem)]
            takes = [m for m in takes if PurePosixPath(m.filename).suffix.lower() in (*SOUND, *FILM)]
            if not takes:
                raise UserError(f"{file.name}: holds no RAVDESS file (such as Actor_01/03-01-05-01-02-01-01.wav)")
            for member in takes:
                with whole(folder / member.filename) as part:
                    part.write_bytes(archive.read(member))  # a take has some megabytes
            return {m.filename: m.file_size for m in takes}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"{file.name}: cannot be unpacked ({one_line(str(error))})") from None


def _unpacked(folder: Path, archive: Archive) -> bool:
    """Whether all that the archive holds lies in the folder, each file in its size."""
    try:
        done = read_mapping(_done(folder, archive))
        sizes = {name: (folder / name).stat().st_size for name in done["files"]}
        return done["checksum"] == archive.checksum and sizes == done["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _archives(folder: Path) -> Path:
    return folder / ".archives"  # hidden: readers of the corpus pass over it


def _done(folder: Path, archive: Archive) -> Path:
    return _archives(folder) / f"{archive.name}.json"


def _had(folder: Path, archive: Archive) -> int:
    """How many bytes of the archive are there already."""
    names = (archive.name, f"{archive.name}.part")
    return max((f.stat().st_size for n in names if (f := _archives(folder) / n).exists()), default=0)


def _why(error: Exception) -> str:
    """What went wrong on the way, without the addresses and objects in it."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"the server says {answer.status_code} {answer.reason}"
    return {"ConnectionError": "no connection", "ConnectTimeout": "no answer", "ReadTimeout": "no answer"}.get(
        type(error).__name__, "the connection was lost"
    )
