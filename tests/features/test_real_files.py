"""Files as phones, recorders and editors write them: read on one clock and upright, or refused with name and reason."""

import errno
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from odd_media import float_wav, wav, with_matrix, with_offsets, write_film
from test_media import RATE, numbers, refused

from foalkit.features import faces, media
from foalkit.features.media import MediaError, first_frame, read_audio, read_frames, seconds

TONE = np.sin(np.arange(2 * RATE) / 9)
PCM = (TONE * 16_000).astype("<i2").tobytes()


# ---- time comes from time stamps, on one clock ---------------------------------------------------------


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("first, then", [(24, 30), (10, 30), (30, 12)])
def test_a_varying_rate_shows_each_picture_at_its_time(tmp_path, first, then, ending):
    times = [n / first for n in range(2 * first)] + [2 + n / then for n in range(2 * then)]
    film = write_film(tmp_path / f"varying.{ending}", times)
    rate = first_frame(film)[1]
    assert seconds(film) == pytest.approx(4, abs=0.05)
    for start, end in ((0, 3.9), (1.5, 2.7), (2.3, 3.8)):
        shown = numbers(read_frames(film, start, end))
        places = [n for n in range(1000) if start - 5e-5 <= n / rate < end - 5e-5]
        # the latest picture that has begun by the middle of its place
        expected = [max(k for k, time in enumerate(times) if time <= (n + 0.5) / rate + 1e-3) for n in places]
        assert len(shown) == len(places) and np.abs(np.subtract(shown, expected)).max() <= 1
        late = [abs(times[k] - n / float(rate)) for k, n in zip(shown, places, strict=True)]
        assert max(late) <= 1 / min(first, then)  # no drift: each is the one that is shown then
    assert len(read_frames(film)) == pytest.approx(4 * float(rate), abs=2)


@pytest.mark.parametrize("ending", ["mkv", "mov"])
def test_sound_that_begins_late_is_silent_until_then(tmp_path, ending):
    film = write_film(
        tmp_path / f"late.{ending}", [n / 30 for n in range(60)], clicks=[0.75, 1.5], sound_from=0.5, seconds=1.4
    )
    heard = np.abs(read_audio(film))
    assert not heard[: int(0.49 * RATE)].any()
    assert np.flatnonzero(heard > 0.9).tolist() == pytest.approx([0.75 * RATE, 1.5 * RATE], abs=0.002 * RATE)
    assert np.argmax(np.abs(read_audio(film, 0.7, 1.0))) == pytest.approx(0.05 * RATE, abs=0.002 * RATE)
    assert numbers(read_frames(film, 0.5, 0.7)) == [15, 16, 17, 18, 19, 20]
    refused(lambda: read_audio(film, 0.0, 0.4), "silent")


@pytest.mark.parametrize("ending", ["mkv", "mov", "mp4"])
def test_a_picture_that_begins_late_keeps_its_time(tmp_path, ending):
    sound = "aac" if ending == "mp4" else "pcm_s16le"
    times = [0.5 + n / 30 for n in range(60)]
    film = write_film(tmp_path / f"late.{ending}", times, clicks=[1.5], seconds=2.5, sound=sound)
    assert first_frame(film) == (15, 30) and first_frame(film, 1.0) == (30, 30)
    assert numbers(read_frames(film)) == list(range(60))
    assert numbers(read_frames(film, 1.0, 1.2)) == [15, 16, 17, 18, 19, 20]  # sound and picture of one moment
    assert np.argmax(np.abs(read_audio(film))) == pytest.approx(1.5 * RATE, abs=0.03 * RATE)
    assert seconds(film) == pytest.approx(2.5, abs=0.04)
    refused(lambda: read_frames(film, 0.0, 0.4), f"late.{ending}", "0 of the")


def test_both_may_begin_at_any_time_stamp(tmp_path):
    film = write_film(tmp_path / "cut.mkv", [7 + n / 30 for n in range(60)], clicks=[8.5], sound_from=7.0, seconds=2.0)
    assert numbers(read_frames(film, 1.0, 1.1)) == [30, 31, 32]
    assert np.argmax(np.abs(read_audio(film))) == pytest.approx(1.5 * RATE, abs=0.002 * RATE)


def test_a_pause_in_the_sound_stays_a_pause(tmp_path):
    film = tmp_path / "pause.mkv"
    with av.open(str(film), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for second in (0, 3):
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE), 9000, "<i2"), format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = RATE, second * RATE, Fraction(1, RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    heard = read_audio(film)
    assert len(heard) == 4 * RATE
    assert [heard[s * RATE + 100 : (s + 1) * RATE - 100].any() for s in range(4)] == [True, False, False, True]


def test_a_film_of_one_picture_and_one_without_a_length(tmp_path):
    one = write_film(tmp_path / "one.mkv", [0.0], seconds=0.5)
    assert numbers(read_frames(one)) == [0] and len(read_audio(one)) == RATE // 2
    film = write_film(tmp_path / "film.ts", [n / 25 for n in range(50)], seconds=2, sound="mp2")
    assert numbers(read_frames(film, 1.0, 1.2)) == pytest.approx(list(range(25, 30)), abs=1)
    assert seconds(film) == pytest.approx(2, abs=0.1)


# ---- upright -------------------------------------------------------------------------------------------

TURNS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]  # what phones write
MIRRORED = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("a, b, c, d", TURNS + MIRRORED)
def test_a_film_is_turned_upright_as_its_matrix_says(tmp_path, a, b, c, d):
    stored = np.zeros((64, 96, 3), np.uint8)
    for n, (x, y) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):  # a grey of its own in each quarter
        stored[32 * y : 32 * y + 32, 48 * x : 48 * x + 48] = 40 + 60 * n
    film = tmp_path / "phone.mp4"
    with av.open(str(film), "w") as container:
        video = container.add_stream("mpeg4", rate=25, width=96, height=64, pix_fmt="yuv420p")
        for _ in range(5):
            container.mux(video.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(video.encode(None))
    places = {(a * x + c * y, b * x + d * y): stored[y, x] for y in range(64) for x in range(96)}  # pixel by pixel
    left, top = min(x for x, _ in places), min(y for _, y in places)
    height, width = (64, 96) if a else (96, 64)
    expected = np.array([[places[left + x, top + y] for x in range(width)] for y in range(height)], int)
    seen = read_frames(with_matrix(film, a, b, c, d))
    assert seen.shape == (5, height, width, 3)
    assert np.abs(seen[0].astype(int) - expected)[:: height // 8].mean() < 6
    corner = read_frames(film, crop=(width - 16, 0, 16, 16))[0].astype(int)
    assert np.abs(corner - expected[0, -1]).max() < 12
    refused(lambda: read_frames(film, crop=(0, 0, 96, 96)), f"{width}×{height}")


def test_a_face_filmed_sideways_is_found(tmp_path, ravdess_root):
    clip = ravdess_root / "clips" / "Actor_01" / "01-01-01-01-01-01-01.mp4"
    film = tmp_path / "phone.mp4"
    with av.open(str(film), "w") as container:
        video = container.add_stream("mpeg4", rate=30, width=360, height=640, pix_fmt="yuv420p")
        video.bit_rate = 4_000_000
        for frame in read_frames(clip, 0, 0.4)[:, ::2, ::2]:
            turned = np.ascontiguousarray(np.rot90(frame))  # as a sensor lies in a phone
            container.mux(video.encode(av.VideoFrame.from_ndarray(turned, format="rgb24")))
        container.mux(video.encode(None))
    assert not any(faces.detect(frame) for frame in read_frames(film)[::4])
    assert all(faces.detect(frame) for frame in read_frames(with_matrix(film, 0, 1, -1, 0))[::4])


# ---- sound files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "riff, size",
    [
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0, 0),
        (None, 0),
        (0x80000024, 0x80000000),
        (0x7FFFF024, 0x7FFFF000),
        (None, 0xFFFFFFFF),
    ],
)
def test_a_wav_that_was_written_while_recording_is_read_to_its_end(tmp_path, riff, size):
    file = wav(tmp_path / "streamed.wav", PCM, riff=riff, size=size)
    np.testing.assert_array_equal(read_audio(file) * 32768, np.frombuffer(PCM, "<i2"))
    assert seconds(file) == 2


@pytest.mark.parametrize("channels", [1, 2, 6, 7])
@pytest.mark.parametrize("kind", ["u8", "s24", "f32", "f64"])
def test_all_sample_formats_and_channels_give_the_same_sound(tmp_path, kind, channels):
    samples = np.repeat(TONE[:, None] * 0.5, channels, 1).ravel()
    data, form, bits = {
        "u8": ((samples * 127 + 128).round().astype("u1").tobytes(), 1, 8),
        "s24": (b"".join(int(s * 8388607).to_bytes(3, "little", signed=True) for s in samples), 1, 24),
        "f32": (samples.astype("<f4").tobytes(), 3, 32),
        "f64": (samples.astype("<f8").tobytes(), 3, 64),
    }[kind]
    file = wav(tmp_path / "x.wav", data, form=form, bits=bits, channels=channels)
    np.testing.assert_allclose(read_audio(file), TONE * 0.5, atol=0.01 if kind == "u8" else 1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_refused_with_its_place(tmp_path, value):
    samples = TONE.copy()
    samples[24_000] = value
    file = float_wav(tmp_path / "bad.wav", samples)
    refused(lambda: read_audio(file), "bad.wav", "1 samples are NaN or infinite", "1.50 s")
    assert len(read_audio(file, 0, 1)) == RATE  # what lies before it can be used


def test_floats_of_another_scale_are_refused_and_small_overshoots_read(tmp_path):
    refused(lambda: read_audio(float_wav(tmp_path / "large.wav", TONE * 8000)), "large.wav", "8000 times full scale")
    assert read_audio(float_wav(tmp_path / "over.wav", TONE * 1.3)).max() == pytest.approx(1.3, abs=1e-4)


@pytest.mark.parametrize("rate", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_rate_that_no_recorder_has_is_refused(tmp_path, rate):
    refused(lambda: read_audio(wav(tmp_path / "rate.wav", PCM, rate=rate)), "rate.wav")


def test_other_wavs_that_cannot_be_read_are_named(tmp_path):
    refused(lambda: read_audio(wav(tmp_path / "a.wav", PCM, form=0x1234)), "a.wav", "cannot decode")
    refused(lambda: read_audio(wav(tmp_path / "b.wav", PCM, channels=0)), "b.wav")
    refused(lambda: read_audio(wav(tmp_path / "c.wav", b"")), "c.wav", "no sound")


def test_a_title_in_another_encoding_does_no_harm(tmp_path):
    title = b"INFOINAM" + struct.pack("<I", 6) + "Größe".encode("latin-1") + b"\0"
    file = wav(tmp_path / "title.wav", PCM, more=b"LIST" + struct.pack("<I", len(title)) + title)
    assert len(read_audio(file)) == 2 * RATE and seconds(file) == 2


@pytest.mark.parametrize("ending, codec", [("m4a", "aac"), ("mp3", "libmp3lame"), ("opus", "libopus"), ("ogg", "flac")])
def test_sound_of_other_endings_is_read_at_its_time(tmp_path, ending, codec):
    file = write_film(tmp_path / f"x.{ending}", clicks=[1.0], seconds=2, rate=48_000, sound=codec)
    heard = np.abs(read_audio(file))
    assert len(heard) / RATE == pytest.approx(2, abs=0.05)
    assert np.argmax(heard) / RATE == pytest.approx(1.0, abs=0.03)
    assert seconds(file) == pytest.approx(2, abs=0.05)


# ---- pictures of other kinds ---------------------------------------------------------------------------


@pytest.mark.parametrize("name, codec, form", [("a.mov", "qtrle", "argb"), ("b.mkv", "ffv1", "gray10le")])
def test_other_forms_of_pixels_are_read_as_rgb(tmp_path, name, codec, form):
    with av.open(str(tmp_path / name), "w") as container:
        video = container.add_stream(codec, rate=10, width=65, height=48, pix_fmt=form)
        for n in range(5):
            grey = np.full((48, 65, 3), 40 * n, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(video.encode(None))
    seen = read_frames(tmp_path / name, crop=(3, 5, 31, 33))
    assert seen.shape == (5, 33, 31, 3) and np.abs(seen.mean((1, 2, 3)) - 40 * np.arange(5)).max() < 3


def test_a_cover_is_no_film(tmp_path):
    file = tmp_path / "song.mp3"
    with av.open(str(file), "w") as container:
        audio = container.add_stream("libmp3lame", rate=48_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1, width=64, height=64, pix_fmt="yuvj420p")
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode(None))
        for n in range(40):
            tone = np.sin(np.arange(1152 * n, 1152 * (n + 1)) / 9)[None].astype(np.float32) / 2
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.rate, frame.pts = 48_000, 1152 * n
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    refused(lambda: read_frames(file), "song.mp3", "no video stream")
    assert seconds(file) == pytest.approx(0.96, abs=0.05) and len(read_audio(file)) > 0.9 * RATE


# ---- what is no file of sound or film, and what is damaged ---------------------------------------------


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "link.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    said = {"pipe": "no regular file", "folder": "folder", "link": "leads nowhere", "loop": "", "empty": "0 bytes"}
    for name, words in said.items():
        for read in (read_audio, read_frames, seconds, media.sample_rate, first_frame):
            refused(lambda read=read, name=name: read(tmp_path / f"{name}.wav"), f"{name}.wav: ", words)


def test_a_list_of_other_files_is_not_followed(tmp_path):
    film = write_film(tmp_path / "film.mkv", [n / 30 for n in range(30)])
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {film}\n")
    refused(lambda: read_frames(tmp_path / "list.mp4"), "list.mp4")
    (tmp_path / "net.mp4").write_text("#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    refused(lambda: read_frames(tmp_path / "net.mp4"), "net.mp4")


@pytest.mark.parametrize("moved", [1, 1000, 10**9])
def test_an_mp4_with_wrong_places_of_its_frames_is_refused(tmp_path, moved):
    film = write_film(tmp_path / "film.mp4", [n / 30 for n in range(60)], seconds=2, sound="aac")
    with_offsets(film, moved)
    refused(lambda: read_frames(film), "film.mp4")
    refused(lambda: read_audio(film), "film.mp4")


@pytest.mark.parametrize("ending, sound", [("mp4", "aac"), ("mkv", "pcm_s16le"), ("avi", "pcm_s16le"), ("ts", "mp2")])
def test_whatever_bytes_are_damaged_is_read_or_refused(tmp_path, ending, sound):
    film = write_film(tmp_path / f"film.{ending}", [n / 25 for n in range(25)], seconds=1, sound=sound)
    whole, rng, refusals = film.read_bytes(), np.random.default_rng(0), 0
    for _ in range(12):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 150):
            data[place] = rng.integers(256)
        film.write_bytes(data)
        for read in (seconds, read_audio, lambda file: read_frames(file, size=16)):
            try:
                read(film)
            except MediaError as error:
                refusals += 1
                assert str(error).startswith(film.name) and "\n" not in str(error)
    assert refusals


def test_too_many_open_files_are_not_one_files_fault(tmp_path, monkeypatch):
    file = wav(tmp_path / "good.wav", PCM)

    def full(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(av, "open", full)
    with pytest.raises(OSError, match="Too many"):
        read_audio(file)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    file = wav(tmp_path / "secret.wav", PCM)
    opened = Path.open

    def open_(path, *how):
        if path == file:  # root may read all
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *how)

    monkeypatch.setattr(Path, "open", open_)
    refused(lambda: read_audio(file), "secret.wav", "permission denied")
