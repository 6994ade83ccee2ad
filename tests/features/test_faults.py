"""A fault of the machine stops the run in one line, costs no utterance, and is forgotten when it is mended."""

import errno
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from odd_media import wav, write_film
from test_bad_tree import TONE, film
from test_features import store_bytes

from foalkit import ROOT, UserError, params
from foalkit.cli import main
from foalkit.features import build, container, digests, faces, media, reader
from foalkit.features import data as features_data
from foalkit.features.container import MediaError
from foalkit.features.data import extract, prepare, up_to_date
from foalkit.features.encoders.pictures import HogEncoder
from foalkit.features.encoders.sound import LogMelEncoder
from foalkit.files import refusal

TAKES = [f"01-03-0{i}-0{s}-0{r}-0{actor}" for i, s, r, actor in itertools.product((1, 2), (1,), (1, 2), (1, 2))]
BAD, LATER = TAKES[2], TAKES[5]  # a file that is damaged, and one that a fault meets


@pytest.fixture(scope="module")
def corpus_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("faults") / "corpus"
    root.mkdir()
    for n, take in enumerate(TAKES):
        wav(root / f"03-{take}.wav", (TONE // (n + 1)).tobytes())
        film(root / f"01-{take}.mp4")
    (root / f"03-{BAD}.wav").write_bytes(b"not a sound")
    return root


@pytest.fixture
def world(corpus_once, tmp_path):
    root = tmp_path / "corpus"
    shutil.copytree(corpus_once, root)
    return load(root, tmp_path / "outputs")


def load(root, outputs, **more):
    given = {
        "outputs": outputs / "a",
        "corpus.root": root,
        "features.audio": '{"encoder": "log-mel"}',
        "features.video": '{"encoder": "hog", "size": 16}',
        "ablation": "{honest: [baseline], published: []}",
        **more,
    }
    return params.load("ravdess-speech", [f"{key}={value}" for key, value in given.items()])


def root_of(p):
    return Path(p.corpus.root)


@pytest.fixture(scope="module")
def undisturbed(corpus_once, tmp_path_factory):
    """What the stores of a preparation without any fault hold."""
    p = load(corpus_once, tmp_path_factory.mktemp("undisturbed"))
    data = prepare(p)
    assert set(data.left_out["utterance"]) == {BAD}
    return {stream: store_bytes(p, stream) for stream in ("audio", "video")}


def nothing_is_remembered(p):
    """Only the damaged file has a reason, in stores and logs alike, and nothing says that all is done."""
    assert not (p.folder / "preprocess.json").exists() and not up_to_date(p)
    for file in p.features_folder.rglob("*.json*"):
        for take in set(TAKES) - {BAD}:
            assert not [line for line in file.read_text().splitlines() if take in line and "failed" in line]


def failing(error, name=LATER):
    """A function that raises for one file, and else does what the original does."""

    def wrap(original):
        def wrapped(*given, **how):
            if any(name in str(part) for part in given):
                if original is STAT:  # the system names the file
                    error.filename = str(given[0])
                raise error
            return original(*given, **how)

        return wrapped

    return wrap


STAT = Path.stat
# where a fault may come up: what is replaced, and by which name
PLACES = {
    "stat": (Path, "stat"),
    "open": (av, "open"),
    "digest": (digests, "file_digest"),
    "decode": (media, "read_audio"),
    "seconds": (media, "seconds"),
    "track": (media, "sound_track"),
    "load": (reader.Reader, "load"),
    "encode": (reader.Reader, "encode"),
}
NUMBERS = [
    "ETIMEDOUT",
    "ESTALE",
    "EIO",
    "ENOMEM",
    "EAGAIN",
    "EINTR",
    "ENODEV",
    "ENXIO",
    "ECONNRESET",
    "ECONNABORTED",
    "ENOTCONN",
    "EHOSTDOWN",
    "EHOSTUNREACH",
    "ENETDOWN",
    "EFBIG",
    "EDQUOT",
    "ENOSPC",
    "EMFILE",
    "ENFILE",
    "EROFS",
    "EREMOTEIO",
    "EBUSY",
    "EPROTO",
]
SYSTEM = [OSError(getattr(errno, name), os.strerror(getattr(errno, name))) for name in NUMBERS]
FFMPEG = [av.error.classes[number](number, os.strerror(number), "x") for number in (5, 12, 110, 116, 11, 4, 19, 104)]
OTHERS = [
    OSError("cannot load library"),
    TimeoutError("timed out"),
    MemoryError(),
    FileNotFoundError(2, "no", "/a/x.dat"),
]
DEFECTS = [
    KeyError("x"), AttributeError("no attribute"), ValueError("numpy.dtype size changed"), IndexError("x"),
    ZeroDivisionError(), TypeError("x"), RuntimeError("CUDA error"), ImportError("libx.so"), AssertionError(),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_fault_of_the_machine_stops_and_is_forgotten(world, undisturbed, monkeypatch, place):
    (owner, name), n = PLACES[place], list(PLACES).index(place)
    errors = SYSTEM[n::4] if place == "stat" else SYSTEM[n::4] + [*FFMPEG, *OTHERS][n % 3 :: 3]
    for error in errors:
        with monkeypatch.context() as patched, pytest.raises(OSError) as caught:
            patched.setattr(owner, name, failing(error)(getattr(owner, name)))
            prepare(world)
        said = refusal(caught.value)
        assert "\n" not in said and LATER in said and ("start again" in said or "read only" in said), error
        nothing_is_remembered(world)
    data = prepare(world)
    assert set(data.left_out["utterance"]) == {BAD} and up_to_date(world)
    assert {stream: store_bytes(world, stream) for stream in undisturbed} == undisturbed


@pytest.mark.parametrize("place", ["decode", "load", "encode", "open", "digest"])
def test_a_defect_stops_with_its_traceback_and_a_line_about_the_file(world, undisturbed, monkeypatch, place):
    owner, name = PLACES[place]
    for error in DEFECTS[list(PLACES).index(place) % 3 :: 3]:
        with monkeypatch.context() as patched, pytest.raises(type(error)) as caught:
            patched.setattr(owner, name, failing(error)(getattr(owner, name)))
            prepare(world)
        assert LATER in caught.value.__notes__[0] and "not of that file" in caught.value.__notes__[0]
        nothing_is_remembered(world)
    prepare(world)
    assert {stream: store_bytes(world, stream) for stream in undisturbed} == undisturbed


@pytest.mark.parametrize("owner, name", [(LogMelEncoder, "__call__"), (HogEncoder, "__call__"), (media, "read_audio")])
def test_what_breaks_on_a_generated_second_is_the_installations(world, monkeypatch, owner, name):
    for error in [*DEFECTS, OSError("cannot load library"), NameError("x"), av.error.DecoderNotFoundError(1, "no")]:

        def breaks(*_, error=error, **__):
            raise error

        with monkeypatch.context() as patched, pytest.raises(UserError) as caught:
            patched.setattr(owner, name, breaks)
            prepare(world)
        stream, encoder = ("video", "hog") if owner is HogEncoder else ("audio", "log-mel")
        assert str(caught.value).startswith(f"features.{stream}: the encoder {encoder} does not run")
        assert type(error).__name__ in str(caught.value)
        nothing_is_remembered(world)
    assert set(prepare(world).left_out["utterance"]) == {BAD}


def test_a_decoder_that_ffmpeg_was_built_without_is_named(world, monkeypatch):
    real = av.codec.Codec

    def lacking(name, mode):
        return real("no-such-decoder" if name == "h264" else name, mode)

    monkeypatch.setattr(av.codec, "Codec", lacking)
    with pytest.raises(UserError, match=r"features\.video: the encoder hog"):
        prepare(world)
    nothing_is_remembered(world)


def test_broken_packages_are_named_for_real(world, tmp_path):
    """llvmlite as where its library is not found, and dlib that does not load, each in a process of its own."""
    broken = {"llvmlite/__init__.py": ("raise OSError('Could not load shared object file: libllvmlite.so')", "audio")}
    broken["dlib.py"] = "raise ImportError('libopenblas.so.0: cannot open shared object file')", "video"
    for name, (code, stream) in broken.items():
        file = tmp_path / name.split("/")[0].removesuffix(".py") / "over" / name
        file.parent.mkdir(parents=True)
        file.write_text(code)
        over = tmp_path / name.split("/")[0].removesuffix(".py") / "over"
        script = (
            "import sys; sys.path.insert(0, sys.argv[1]); from foalkit.cli import main\n"
            "given = ['--stream', sys.argv[2], '--group', 'Actor_01', '--', 'ravdess-speech', *sys.argv[3:]]\n"
            "sys.exit(main(['extract', *given]))"
        )
        given = [f"outputs={world.outputs}", f"corpus.root={world.corpus.root}"]
        given += ["features.audio={encoder: mfcc}", "features.video={encoder: hog, size: 16, region: face}"]
        given += ["ablation={honest: [baseline], published: []}"]
        done = subprocess.run(
            [sys.executable, "-c", script, str(over), stream, *given], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert (
            last.startswith(f"error: features.{stream}: the encoder") and name.split("/")[0].removesuffix(".py") in last
        )
        nothing_is_remembered(world)


@pytest.mark.parametrize("limit, number", [("RLIMIT_NOFILE", errno.EMFILE), ("RLIMIT_FSIZE", errno.EFBIG)])
def test_a_limit_of_the_system_is_met_and_raised(world, undisturbed, limit, number):
    which = getattr(resource, limit)
    before, ignored = resource.getrlimit(which), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    prepare(load(world.corpus.root, Path(world.outputs).parent / "b"))  # all is imported
    try:
        value = len(os.listdir("/proc/self/fd")) + 1 if number == errno.EMFILE else 3000
        resource.setrlimit(which, (value, before[1]))
        with pytest.raises((OSError, UserError)) as caught:
            prepare(world)
    finally:
        resource.setrlimit(which, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert getattr(caught.value, "errno", None) == number or os.strerror(number) in str(caught.value)
    nothing_is_remembered(world)
    prepare(world)
    assert {stream: store_bytes(world, stream) for stream in undisturbed} == undisturbed


# ---- one file's own fault -------------------------------------------------------------------------------


@contextmanager
def as_nobody(folder: Path):
    """Without the rights of root, where the tests run as root."""
    if os.geteuid():
        yield
        return
    subprocess.run(["chown", "-R", "65534", str(folder)], check=True)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_recording_without_rights_is_left_out_and_read_when_it_has_them(corpus_once, undisturbed, monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(corpus_once, Path(folder) / "corpus")
        p = load(Path(folder) / "corpus", Path(folder) / "outputs")
        prepare(p)  # all is imported
        shutil.rmtree(p.features_folder.parent)
        with as_nobody(Path(folder)):
            file = root_of(p) / f"03-{LATER}.wav"
            file.chmod(0)
            data = prepare(p)
            reasons = dict(zip(data.left_out["utterance"], data.left_out["reason"], strict=True))
            assert set(reasons) == {BAD, LATER} and "permission denied" in reasons[LATER] and up_to_date(p)
            file.chmod(0o644)
            assert not up_to_date(p)
            data = prepare(p)
            assert set(data.left_out["utterance"]) == {BAD} and up_to_date(p)
            assert (data.info["left_out"], data.info["left_out_before"]) == (1, 2)
            assert {stream: store_bytes(p, stream) for stream in undisturbed} == undisturbed


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES])
def test_what_the_system_says_of_a_recording_costs_it_alone(world, monkeypatch, number):
    file = root_of(world) / f"03-{LATER}.wav"
    error = OSError(number, os.strerror(number), str(file))
    monkeypatch.setattr(digests, "file_digest", failing(error, file.name)(digests.file_digest))
    assert set(prepare(world).left_out["utterance"]) == {BAD, LATER}


def test_a_failed_row_is_asked_again_though_no_file_has_changed(world, undisturbed, monkeypatch):
    """As when a decoder learns to read it: in the finished store, in a shard, and in what a killed run left."""
    for how in ("store", "shard", "killed"):
        with monkeypatch.context() as patched:
            for module in (media, reader.media):
                patched.setattr(module, "read_audio", failing(MediaError(f"{LATER}: no"))(media.read_audio))
            if how == "shard":
                extract(world, "audio", "Actor_02")
            elif how == "killed":
                patched.setattr(build.Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    prepare(world)
            else:
                assert set(prepare(world).left_out["utterance"]) == {BAD, LATER}
                before = store_bytes(world)
                prepare(world)
                assert store_bytes(world) == before  # it fails again: the store stays
        if how == "shard":
            extract(world, "audio", "Actor_02")
            shard = next(world.features_folder.glob("*.shard-*/store.json"))
            assert LATER not in shard.read_text()
        assert set(prepare(world).left_out["utterance"]) == {BAD}
        assert {stream: store_bytes(world, stream) for stream in undisturbed} == undisturbed
        shutil.rmtree(world.features_folder)


def test_other_bytes_of_the_same_size_and_time_are_noticed(world):
    first = prepare(world)
    file = root_of(world) / f"03-{LATER}.wav"
    before = file.stat()
    other = wav(root_of(world).parent / "other.wav", TONE[::-1].tobytes())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    subprocess.run(["cp", "-p", str(other), str(file)], check=True)
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert not up_to_date(world)
    second = prepare(world)
    changed = {
        u
        for u in first.stores["audio"].lengths
        if first.stores["audio"].digests[u] != second.stores["audio"].digests[u]
    }
    assert changed == {LATER} and up_to_date(world)


def test_a_copied_corpus_is_prepared_again_and_nothing_is_extracted(world, monkeypatch):
    first = prepare(world)
    root = root_of(world)
    shutil.copytree(root, root.with_name("copy"))
    shutil.rmtree(root)
    root.with_name("copy").rename(root)
    assert not up_to_date(world)
    monkeypatch.setattr(reader.Reader, "encode", failing(AssertionError("made again"), "01-0")(reader.Reader.encode))
    second = prepare(world)
    kept = ("manifest_digest", "params_digest", "features")
    assert {k: first.info[k] for k in kept} == {k: second.info[k] for k in kept}


def test_a_damaged_file_that_ffmpeg_finds_no_memory_for_costs_itself_alone(tmp_path, monkeypatch):
    """Fuzzed files for which FFmpeg says ENOMEM or EIO in another process too; of a whole file it never does."""
    whole = write_film(tmp_path / "x.mov", [n / 25 for n in range(12)], seconds=0.5, sound="aac")
    data, rng, said = whole.read_bytes(), np.random.default_rng(1), set()
    asked = container._fails_in_another_process
    monkeypatch.setattr(container, "_fails_in_another_process", lambda file: said.add("asked") or asked(file))
    for _ in range(400):
        bad = bytearray(data)
        for place in rng.integers(max(0, len(bad) - 2500), len(bad), rng.integers(1, 12)):
            bad[place] = rng.choice([0, 255, 127, 128])
        whole.write_bytes(bad)
        try:
            media.read_audio(whole)
        except MediaError as error:
            said |= {words for words in ("allocate memory", "Input/output") if words in str(error)}
        if len(said) == 2:
            break
    assert "asked" in said and "allocate memory" in said
    whole.write_bytes(data)
    monkeypatch.setattr(av, "open", failing(FFMPEG[1], "x.mov")(av.open))
    with pytest.raises(OSError, match="allocate memory"):
        media.read_audio(whole)


def test_a_film_whose_time_stamps_leave_it_silent_is_refused(tmp_path):
    """A sample a minute, as damaged stamps have it: an hour of them would fill the memory."""
    from fractions import Fraction

    file = tmp_path / "gaps.mkv"
    with av.open(str(file), "w") as container_:
        audio = container_.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for minute in range(5):
            frame = av.AudioFrame.from_ndarray(np.full((1, 10), 9000, "<i2"), format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = 16_000, 50 * 16_000 * minute, Fraction(1, 16_000)
            container_.mux(audio.encode(frame))
        container_.mux(audio.encode(None))
    with pytest.raises(MediaError, match="without sound"):
        media.read_audio(file)


def test_a_thin_picture_has_no_face():
    assert faces.detect(np.zeros((4, 4000, 3), np.uint8)) is None


# ---- reading a corpus, and recognising ------------------------------------------------------------------


@pytest.mark.parametrize("what", ["corpus", "listing"])
def test_a_folder_that_cannot_be_listed_for_a_while_loses_nobody(world, monkeypatch, what):
    scan = os.scandir

    def broken(path):
        if str(path) == str(root_of(world)):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(OSError, match="Input/output"):
        prepare(world) if what == "corpus" else features_data.sources(world)


def test_the_command_says_a_fault_in_one_line(world, monkeypatch, capsys):
    monkeypatch.setattr(media, "read_audio", failing(OSError(errno.ESTALE, "Stale file handle"))(media.read_audio))
    given = [f"outputs={world.outputs}", f"corpus.root={world.corpus.root}", "features.audio={encoder: log-mel}"]
    given += ["features.video={encoder: hog, size: 16}", "ablation={honest: [baseline], published: []}"]
    assert main(["extract", "--stream", "audio", "--group", "Actor_02", "--", "ravdess-speech", *given]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and LATER in last and "Stale" in last and "this machine" in last
