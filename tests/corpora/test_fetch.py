"""`foalkit fetch ravdess` against a small server on loopback that serves generated archives as Zenodo's record does."""

import hashlib
import io
import json
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import refused

from foalkit import ROOT, UserError, cli
from foalkit.corpora import fetch, ravdess

TAKE = "01-05-01-02-01"  # channel speech, angry, normal, second statement, first repetition


def zipped(files: dict[str, bytes], link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc")
    return buffer.getvalue()


def noise(number: int, count: int = 3000) -> bytes:
    """Bytes that do not shrink."""
    return b"".join(hashlib.sha256(f"{number} {i}".encode()).digest() for i in range(count // 32))


class Record:
    """A record whose archives hold two actors; what the server does wrong is set by name."""

    def __init__(self):
        self.files = {
            f"Video_Speech_Actor_0{n}.zip": zipped(
                {f"Actor_0{n}/{m}-{TAKE}-0{n}.mp4": noise(10 * n + int(m)) for m in ("01", "02")} | {".DS_Store": b"x"}
            )
            for n in (1, 2)
        }
        self.files["Audio_Speech_Actors_01-24.zip"] = zipped(
            {f"Actor_0{n}/03-{TAKE}-0{n}.wav": noise(n) for n in (1, 2)}
        )
        self.files["Audio_Song_Actors_01-24.zip"] = zipped({"Actor_01/03-02-05-01-02-01-01.wav": noise(7)})
        self.files["notes.txt"] = b"no archive"
        self.cut, self.corrupted, self.missing, self.without_ranges = {}, set(), set(), False
        self.asked = []  # (name, Range)

    def listing(self) -> dict:
        address = f"{self.base}/files"
        return {
            "files": [
                {
                    "key": name,
                    "size": len(content),
                    "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                    "links": {"self": f"{address}/{name}/content"},
                }
                for name, content in self.files.items()
            ]
        }

    def answer(self, handler) -> None:
        if handler.path == "/api/records/1":
            return self.send(handler, 200, json.dumps(self.listing()).encode())
        name = handler.path.split("/")[2]
        asked = handler.headers.get("Range")
        self.asked.append((name, asked))
        if name in self.missing:
            return self.send(handler, 404, b"")
        content = self.files[name]
        if name in self.corrupted:
            content = content[:100] + bytes([content[100] ^ 1]) + content[101:]
        first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and not self.without_ranges else 0
        self.send(handler, 206 if first else 200, content[first:], self.cut.pop(name, None))

    def send(self, handler, status: int, content: bytes, cut: int | None = None) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:cut])
        handler.close_connection = True


@pytest.fixture
def record():
    record = Record()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            record.answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    record.base = f"http://127.0.0.1:{server.server_port}"
    record.address = f"{record.base}/api/records/1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield record
    server.shutdown()
    server.server_close()


def files_in(folder) -> list[str]:
    return sorted(
        f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file() and ".archives" not in f.parts
    )


def everything() -> list[str]:
    return sorted(
        [f"Actor_0{n}/{m}-{TAKE}-0{n}.mp4" for n in (1, 2) for m in ("01", "02")]
        + [f"Actor_0{n}/03-{TAKE}-0{n}.wav" for n in (1, 2)]
    )


def test_what_is_fetched_is_what_the_reader_reads(record, tmp_path):
    wanted = fetch.archives("speech", record.address)
    assert [a.name for a in wanted] == [*sorted(n for n in record.files if "Speech" in n)]  # no song, no notes
    assert fetch.fetch(wanted, tmp_path / "r") == 6
    assert files_in(tmp_path / "r") == everything()
    assert (tmp_path / "r" / f"Actor_02/02-{TAKE}-02.mp4").read_bytes() == noise(22)
    rows, left_out = ravdess.read(tmp_path / "r")
    assert left_out == [] and [r["utterance"] for r in rows] == [f"{TAKE}-01", f"{TAKE}-02"]
    assert all(r["audio"].endswith(".wav") and "/01-" in r["video"] for r in rows)
    assert not [*(tmp_path / "r").rglob("*.zip")]  # an archive goes when it is unpacked


def test_what_is_there_is_not_fetched_again_and_what_is_gone_is(record, tmp_path):
    wanted = fetch.archives("speech", record.address)
    fetch.fetch(wanted, tmp_path)
    record.asked.clear()
    assert fetch.fetch(wanted, tmp_path) == 6 and record.asked == []
    assert "3 of them unpacked already; 0.00 GB to download" in fetch.plan(wanted, tmp_path)
    (tmp_path / f"Actor_01/03-{TAKE}-01.wav").write_bytes(b"short")
    fetch.fetch(wanted, tmp_path)
    assert [name for name, _ in record.asked] == ["Audio_Speech_Actors_01-24.zip"]
    assert (tmp_path / f"Actor_01/03-{TAKE}-01.wav").read_bytes() == noise(1)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_cut_goes_on_where_it_stopped(record, tmp_path, monkeypatch, ranges):
    monkeypatch.setattr(fetch, "BLOCK", 500)
    name, record.without_ranges = "Video_Speech_Actor_01.zip", not ranges
    record.cut[name] = 1000
    wanted = fetch.archives("speech", record.address)
    said = refused(lambda: fetch.fetch(wanted, tmp_path))
    assert "1 of 3 archives are missing" in said and name in said and "Actor_02" not in said
    assert len(files_in(tmp_path)) == 4  # the others are there
    record.asked.clear()
    assert fetch.fetch(wanted, tmp_path) == 6 and files_in(tmp_path) == everything()
    assert record.asked == [(name, "bytes=1000-")]


def test_a_corrupted_archive_is_refused_by_its_checksum_and_fetched_from_its_start(record, tmp_path):
    name = "Audio_Speech_Actors_01-24.zip"
    record.corrupted.add(name)
    wanted = fetch.archives("speech", record.address)
    said = refused(lambda: fetch.fetch(wanted, tmp_path))
    assert f"{name}: what was downloaded does not have the record's checksum" in said
    assert not [f for f in files_in(tmp_path) if f.endswith(".wav")]
    record.corrupted.clear()
    record.asked.clear()
    assert fetch.fetch(wanted, tmp_path) == 6 and record.asked == [(name, None)]


def test_a_missing_archive_costs_only_itself(record, tmp_path):
    record.missing.add("Video_Speech_Actor_01.zip")
    wanted = fetch.archives("speech", record.address)
    said = refused(lambda: fetch.fetch(wanted, tmp_path))
    assert "Video_Speech_Actor_01.zip: the server says 404 Not Found" in said
    assert len(files_in(tmp_path)) == 4


@pytest.mark.parametrize(
    "path", [f"../03-{TAKE}-01.wav", f"/tmp/03-{TAKE}-01.wav", f"a/../../03-{TAKE}-01.wav", f"..\\03-{TAKE}-01.wav"]
)
def test_an_archive_with_a_path_that_leaves_the_folder_is_not_unpacked(record, tmp_path, path):
    name = "Audio_Speech_Actors_01-24.zip"
    record.files[name] = zipped({f"Actor_01/03-{TAKE}-01.wav": b"good", path: b"bad"})
    folder = tmp_path / "deep" / "r"
    wanted = fetch.archives("sound", record.address)
    said = refused(lambda: fetch.fetch(wanted, folder))
    assert name in said and "may leave the folder" in said
    assert files_in(folder) == [] and not [*tmp_path.glob("*.wav"), *(tmp_path / "deep").glob("*.wav")]


def test_links_and_damaged_archives_are_refused_too(record, tmp_path):
    name = "Audio_Speech_Actors_01-24.zip"
    for content, words in (
        (zipped({f"Actor_01/03-{TAKE}-01.wav": b"good"}, link="Actor_02"), "may leave the folder"),
        (b"PK but no archive", "cannot be unpacked"),
        (zipped({"readme.txt": b"nothing"}), "holds no RAVDESS file"),
    ):
        record.files[name] = content
        said = refused(lambda: fetch.fetch(fetch.archives("sound", record.address), tmp_path))
        assert words in said and files_in(tmp_path) == []


def test_a_record_that_says_too_little_is_refused(record, monkeypatch):
    listing = record.listing()
    listing["files"][0]["checksum"] = "sha1:1"
    monkeypatch.setattr(record, "listing", lambda: listing)
    assert "gives no checksum of Video_Speech_Actor_01.zip" in refused(lambda: fetch.archives("all", record.address))
    monkeypatch.setattr(record, "listing", lambda: {"files": []})
    assert "lists no archive" in refused(lambda: fetch.archives("speech", record.address))
    monkeypatch.setattr(record, "listing", lambda: {})
    assert "is no record" in refused(lambda: fetch.archives("speech", record.address))
    assert "cannot be read (no connection)" in refused(lambda: fetch.archives("speech", "http://127.0.0.1:9/api"))


def test_the_disk_is_looked_at_first(record, tmp_path, monkeypatch):
    wanted = fetch.archives("speech", record.address)
    total = sum(len(record.files[a.name]) for a in wanted)
    assert f"3 archives, 0 of them unpacked already; {total / 1e9:.2f} GB" in fetch.plan(wanted, tmp_path / "new" / "r")
    usage = fetch.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: usage._replace(free=total))
    with pytest.raises(UserError, match="too little"):
        fetch.plan(wanted, tmp_path)


def test_the_licence_is_shown_and_must_be_accepted(record, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "RECORD", record.address)
    assert cli.main(["fetch", "ravdess", str(tmp_path / "r")]) == 1
    said = capsys.readouterr()
    assert "CC BY-NC-SA 4.0" in said.out and "GB of disk needed" in said.out and "--accept-licence" in said.err
    assert record.asked == [] and not (tmp_path / "r").exists()
    assert cli.main(["fetch", "ravdess", str(tmp_path / "r"), "--what", "sound", "--accept-licence"]) == 0
    assert "2 files lie in" in capsys.readouterr().out
    assert files_in(tmp_path / "r") == [f for f in everything() if f.endswith(".wav")]


def test_nothing_else_imports_it():
    """Nothing downloads a corpus but a person who asks for it."""
    files = [ROOT / "Snakefile", *(ROOT / "foalkit").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    found = [f for f in files if re.search(r"corpora(\.| import )fetch", f.read_text(encoding="utf-8"))]
    assert found == [ROOT / "foalkit" / "cli.py"]
