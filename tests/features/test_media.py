"""Decoding: frames proved by a number drawn in their pixels, samples by a signal computed beside them."""

import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from scipy.signal import resample_poly

from foalkit import UserError
from foalkit.features.media import MediaError, read_audio, read_frames, seconds

FPS, FRAMES, RATE = Fraction(30000, 1001), 150, 16_000
BLOCK, BITS = 16, 8  # a frame's number in 8 blocks of 16x16 pixels, black or white


def picture(number: int, width: int = 256, height: int = 64) -> np.ndarray:
    """Left half: the frame's number, top row; right half: its complement."""
    image = np.full((height, width, 3), 128, np.uint8)
    for half, value in ((0, number), (width // 2, ~number)):
        for bit in range(BITS):
            image[:BLOCK, half + bit * BLOCK : half + (bit + 1) * BLOCK] = 255 * (value >> bit & 1)
    return image


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers drawn in the left 128 columns of the frames."""
    centres = frames[:, BLOCK // 2, BLOCK // 2 : BITS * BLOCK : BLOCK].mean(-1) > 127  # (T, 8)
    return (centres @ (1 << np.arange(BITS))).tolist()


def write_avi(path, *, frames=FRAMES, sound=True, picture_stream=True, b_frames=0):
    """MPEG-4 without B-frames (or with) and pcm_s16le: a ramp whose sample says its place."""
    with av.open(str(path), "w", format="avi") as container:
        if picture_stream:
            video = container.add_stream("mpeg4", rate=FPS, width=256, height=64, pix_fmt="yuv420p")
            video.bit_rate, video.codec_context.gop_size = 4_000_000, 12
            video.codec_context.max_b_frames = b_frames
        if sound:
            audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for n in range(frames if picture_stream else 0):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(n), format="rgb24")))
        if picture_stream:
            container.mux(video.encode(None))
        if sound:
            frame = av.AudioFrame.from_ndarray(ramp()[None], format="s16", layout="mono")
            frame.rate = RATE
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def ramp() -> np.ndarray:
    return (np.arange(int(FRAMES / FPS * RATE)) % 30_000 + 1).astype("<i2")


def write_wav(path, samples: np.ndarray, rate: int = RATE):
    """Samples (S,) or (S, channels) in [-1, 1] as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if samples.ndim == 1 else samples.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def avi(tmp_path_factory):
    return write_avi(tmp_path_factory.mktemp("media") / "coded.avi")


def refused(read, *words):
    """The one-line message of the MediaError that `read` must raise."""
    with pytest.raises(MediaError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# ---- pictures ------------------------------------------------------------------------------------


def test_the_code_survives_the_codec(avi):
    assert seconds(avi) == pytest.approx(FRAMES / FPS)
    assert numbers(read_frames(avi)) == list(range(FRAMES))


def test_frames_are_those_within_the_range(avi):
    rng = np.random.default_rng(0)
    for start in rng.uniform(0, 4.4, 60):
        end = start + rng.uniform(0.05, 0.6)
        start, end = round(start, 4) + 0.0, round(end, 4)
        # a frame's time as a label file would write it
        expected = [n for n in range(FRAMES) if start <= round(n / FPS, 4) < end]
        exact = [n for n in range(FRAMES) if Fraction(start) <= n / FPS < Fraction(end)]
        assert numbers(read_frames(avi, start, end)) == expected
        assert len(set(expected) ^ set(exact)) <= 2  # only bounds on a frame's rounded time may differ


@pytest.mark.parametrize("first", [0, 1, 2, 11, 12, 13, 23, 24, 25, 60, 100, 119, 140])
def test_bounds_on_rounded_frame_times_mean_those_frames(avi, first):
    start, end = round(float(first / FPS), 4), round(float((first + 7) / FPS), 4)
    assert numbers(read_frames(avi, start, end)) == list(range(first, first + 7))


def test_a_file_with_b_frames_gives_the_right_number_of_frames(tmp_path):
    frames = read_frames(write_avi(tmp_path / "b.avi", b_frames=2), 1.0, 2.0)
    assert len(frames) == 30
    assert np.abs(np.array(numbers(frames)) - np.arange(30, 60)).max() <= 1  # readers differ by one there


def test_crop_takes_its_half_and_size_its_size(avi):
    crop = read_frames(avi, 1.0, 2.0, crop=(128, 0, 128, 64))
    assert crop.shape == (30, 64, 128, 3)
    assert numbers(crop) == [~n & 255 for n in range(30, 60)]  # the right half holds the complement
    small = read_frames(avi, 1.0, 1.2, crop=(0, 0, 64, 64), size=32)
    assert small.shape == (6, 32, 32, 3) and small.dtype == np.uint8


def test_colours_keep_their_order(tmp_path):
    path = tmp_path / "red.avi"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25, width=64, height=64, pix_fmt="yuv420p")
        red = np.zeros((64, 64, 3), np.uint8) + np.array([200, 40, 90], np.uint8)
        for _ in range(5):
            container.mux(video.encode(av.VideoFrame.from_ndarray(red, format="rgb24")))
        container.mux(video.encode(None))
    assert np.abs(read_frames(path, size=16).astype(int) - [200, 40, 90]).max() < 12


# ---- sound ---------------------------------------------------------------------------------------


def test_samples_are_those_within_the_range(avi):
    whole = ramp().astype(np.float32) / 32768
    for start, end in [(0, 1), (0.5, 0.75), (1.2345, 2.3456), (3.99995, 4.5)]:
        expected = whole[round(start * RATE) : round(end * RATE)]
        np.testing.assert_array_equal(read_audio(avi, start, end), expected)
    np.testing.assert_array_equal(read_audio(avi), whole)


def test_a_short_file_is_its_own_end(tmp_path):
    tone = np.sin(np.arange(5000) / 9) / 2
    assert len(read_audio(write_wav(tmp_path / "short.wav", tone), 0, 6.0)) == 5000


def test_resampling_keeps_level_length_and_time(tmp_path):
    time = np.arange(48_000) / 48_000
    left, right = 0.4 * np.sin(2 * np.pi * 300 * time), 0.3 * np.sin(2 * np.pi * 1100 * time + 1)
    heard = read_audio(write_wav(tmp_path / "stereo.wav", np.stack([left, right], 1), 48_000))
    expected = resample_poly((left + right) / 2, 1, 3)
    assert heard.dtype == np.float32 and heard.shape == expected.shape
    assert np.abs(heard - expected)[200:-200].max() < 2e-3


def test_an_impulse_stays_in_its_place(tmp_path):
    samples = np.zeros(48_000)
    samples[30_000] = 0.9
    assert np.argmax(np.abs(read_audio(write_wav(tmp_path / "click.wav", samples, 48_000)))) == 10_000


# ---- what cannot be used -------------------------------------------------------------------------


def test_missing_streams_and_silence_are_named(tmp_path):
    mute, blind = (write_avi(tmp_path / "mute.avi", sound=False), write_wav(tmp_path / "a.wav", np.ones(999) / 2))
    refused(lambda: read_audio(mute), "mute.avi", "no audio stream")
    refused(lambda: read_frames(blind), "a.wav", "no video stream")
    refused(lambda: read_audio(write_wav(tmp_path / "zero.wav", np.zeros(999))), "zero.wav", "silent")


def test_ranges_without_content_are_refused(avi):
    for read in (read_audio, read_frames):
        refused(lambda read=read: read(avi, 1.0, 1.0), "coded.avi", "empty")
        refused(lambda read=read: read(avi, 2.0, 1.0), "coded.avi", "empty")
        refused(lambda read=read: read(avi, -1.0, 1.0), "coded.avi")
        refused(lambda read=read: read(avi, float("nan"), 1.0), "coded.avi")
        refused(lambda read=read: read(avi, 99.0, 100.0), "coded.avi")
    refused(lambda: read_frames(avi, 4.5, 6.0), "coded.avi", "15 of the 45 frames")
    refused(lambda: read_frames(avi, 1.005, 1.01), "coded.avi", "0 of the")  # between two frames


def test_a_turn_may_end_just_after_the_last_picture(avi):
    assert numbers(read_frames(avi, 4.9, 5.06)) == list(range(147, 150))


@pytest.mark.parametrize("crop", [(-1, 0, 64, 64), (200, 0, 64, 64), (0, 1, 64, 64)])
def test_a_crop_outside_the_picture_is_refused(avi, crop):
    refused(lambda: read_frames(avi, 0, 1, crop=crop), "coded.avi", "outside", "256×64")


def test_broken_files_are_named(tmp_path, avi):
    refused(lambda: read_audio(tmp_path / "gone.wav"), "gone.wav", "no such file")
    refused(lambda: read_frames(tmp_path / "gone.avi"), "gone.avi", "no such file")
    for name, content in (("text.avi", b"not a film\n" * 50), ("empty.wav", b""), ("noise.avi", bytes(999))):
        (tmp_path / name).write_bytes(content)
        refused(lambda name=name: read_frames(tmp_path / name), name)
        refused(lambda name=name: read_audio(tmp_path / name), name)
    assert issubclass(MediaError, UserError)


def test_truncated_files_are_noticed(tmp_path, avi):
    cut = tmp_path / "cut.avi"
    cut.write_bytes(avi.read_bytes()[: avi.stat().st_size // 3])
    refused(lambda: read_frames(cut, 3.5, 4.5), "cut.avi", "truncated")
    refused(lambda: read_frames(cut), "cut.avi", "truncated")
    tone = write_wav(tmp_path / "tone.wav", np.sin(np.arange(32_000) / 9) / 2)
    cut = tmp_path / "cut.wav"
    cut.write_bytes(tone.read_bytes()[:40_000])
    refused(lambda: read_audio(cut), "cut.wav", "truncated")
    assert len(read_audio(cut, 0, 1.0)) == RATE  # what is there can be used


# ---- real recordings -----------------------------------------------------------------------------


def test_real_ravdess_clips(ravdess_root):
    clips = sorted((ravdess_root / "clips").rglob("*.mp4"))
    assert len(clips) == 6
    for clip in clips:
        with av.open(str(clip)) as container:
            packets = list(container.demux(video=0))  # one is before the start that the file's edit list sets
            count = sum(p.size > 0 and not p.is_discard for p in packets)
        assert read_frames(clip, size=32).shape == (count, 32, 32, 3)
        assert read_frames(clip, 0, seconds(clip), size=32).shape == (count, 32, 32, 3)
        assert len(read_frames(clip, 0, 2.0, size=32)) == 60  # 2 s at 29.97 frames/s: frames 0 to 59
        if clip.name.startswith("02"):
            refused(lambda clip=clip: read_audio(clip), clip.name, "silent")
        else:
            assert abs(len(read_audio(clip)) / RATE - count / FPS) < 0.2


def test_a_real_clips_two_copies_sound_alike(ravdess_root):
    clip = ravdess_root / "clips" / "Actor_01" / "01-01-01-01-01-01-01.mp4"
    sound = read_audio(clip)
    reference = read_audio(ravdess_root / "speech16k" / "Actor_01" / "03-01-01-01-01-01-01.flac")
    level = np.sqrt(np.mean(sound**2)) / np.sqrt(np.mean(reference**2))
    assert 0.9 < level < 1.1


@pytest.mark.parametrize("every", [2, 3, 7])
def test_every_nth_frame_counts_from_the_first_of_the_range(avi, every):
    assert numbers(read_frames(avi, 0.7, 2.1, every=every)) == numbers(read_frames(avi, 0.7, 2.1))[::every]
