"""Pictures as discs and broadcasts store them: pixels that are not square, half-pictures, tracks, a lone picture."""

from fractions import Fraction

import av
import numpy as np
import pytest
from odd_media import with_matrix, write_film
from PIL import Image
from test_media import RATE, numbers, write_wav
from test_media import picture as drawn

from foalkit.features import clips, faces, media
from foalkit.features.container import Recording, opened, remarks
from foalkit.features.media import first_frame, read_audio, read_frames, seconds
from foalkit.features.reader import Reader

SOUND = "pcm_s16le"


def film(file, pictures, *, codec="libx264", shape=None, pixels="yuv420p", fps=25, **options):
    """RGB pictures as a film whose header says this shape of its pixels."""
    with av.open(str(file), "w") as container:
        video = container.add_stream(codec, rate=fps, options={"crf": "10"} | options)
        video.height, video.width, video.pix_fmt = *pictures[0].shape[:2], pixels
        if shape is not None:
            video.codec_context.sample_aspect_ratio = Fraction(shape)
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(video.encode(None))
    return file


def disc(width, height, x, y, across, high):
    """A white disc on black as it is stored: `across` pixels wide and `high` pixels high around (x, y)."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = ((columns - x) / across * 2) ** 2 + ((rows - y) / high * 2) ** 2 < 1
    return np.repeat(255 * inside[..., None], 3, -1).astype(np.uint8)


def extent(picture):
    """Where the white is: its left, top, width and height."""
    rows, columns = (np.flatnonzero((picture.mean(-1) > 127).any(axis)) for axis in (1, 0))
    return columns[0], rows[0], len(columns), len(rows)


# ---- pixels that are not square ------------------------------------------------------------------------

STORED = {2: (20, 40), Fraction(1, 2): (40, 20), Fraction(16, 11): (22, 32)}  # a disc: width and height in the file


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("shape", STORED)
def test_a_disc_is_round_whatever_shape_its_pixels_have(tmp_path, shape, ending):
    across, high = STORED[shape]
    file = film(tmp_path / f"wide.{ending}", [disc(96, 96, 30, 50, across, high)] * 4, shape=shape)
    seen = read_frames(file)
    assert seen.shape == (4, 96, round(96 * shape), 3)
    left, top, width, height = extent(seen[0])
    assert width == pytest.approx(height, abs=2) and height == pytest.approx(high, abs=2)
    assert left + width / 2 == pytest.approx(30 * shape, abs=2) and top + height / 2 == pytest.approx(50, abs=2)
    assert extent(read_frames(file, as_stored=True)[0]) == pytest.approx(
        (30 - across / 2, 50 - high / 2, across, high), abs=2
    )


def test_a_crop_is_of_stored_pixels_and_what_is_in_it_is_round(tmp_path):
    file = film(tmp_path / "wide.mp4", [disc(96, 96, 30, 50, 20, 40)] * 2, shape=2)
    seen = read_frames(file, crop=(10, 20, 40, 70))
    assert seen.shape == (2, 70, 80, 3)
    assert extent(seen[0]) == pytest.approx((20, 10, 40, 40), abs=2)
    assert read_frames(file, crop=(10, 20, 40, 70), as_stored=True).shape == (2, 70, 40, 3)


def test_turned_pixels_are_high_instead_of_wide(tmp_path):
    lying = np.rot90(disc(96, 64, 30, 25, 40, 20))  # upright: 96 wide, each pixel twice as high as wide
    file = with_matrix(film(tmp_path / "phone.mp4", [lying] * 2, shape=2), 0, 1, -1, 0)
    seen = read_frames(file)
    assert seen.shape == (2, 128, 96, 3) and extent(seen[0]) == pytest.approx((10, 30, 40, 40), abs=2)
    assert read_frames(file, crop=(0, 0, 60, 40)).shape == (2, 80, 60, 3)


@pytest.mark.parametrize("crop", [None, (8, 4, 60, 50)])
def test_what_is_brought_to_a_size_is_the_same_whatever_shape_the_pixels_have(tmp_path, crop):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3)).astype(np.uint8)
    wide, plain = (film(tmp_path / f"{s}.mkv", pictures, shape=s) for s in (2, None))
    assert read_frames(wide).shape == (3, 64, 192, 3)
    np.testing.assert_array_equal(read_frames(wide, crop=crop, size=32), read_frames(plain, crop=crop, size=32))
    np.testing.assert_array_equal(read_frames(wide, crop=crop, as_stored=True), read_frames(plain, crop=crop))


@pytest.mark.parametrize("shape", [Fraction(1000, 1001), 50])
def test_a_shape_that_is_none_or_damage_moves_nothing(tmp_path, shape):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    file = film(tmp_path / "odd.mkv", pictures, shape=shape)
    with opened(file) as recording:
        assert recording.picture.sample_aspect_ratio == shape and recording.pixel_shape == 1
    np.testing.assert_array_equal(read_frames(file), read_frames(film(tmp_path / "plain.mkv", pictures)))


@pytest.mark.parametrize("shape", [2, Fraction(1, 2)])
def test_a_squeezed_face_is_found_where_it_is(tmp_path, ravdess_root, shape):
    clip = ravdess_root / "clips" / "Actor_01" / "01-01-01-01-01-01-01.mp4"
    true = read_frames(clip, 0, 0.4)[::4, ::2, ::2]
    stored = (320, 360) if shape == 2 else (640, 180)
    squeezed = [np.asarray(Image.fromarray(picture).resize(stored, Image.BICUBIC)) for picture in true]
    file = film(tmp_path / "face.mp4", squeezed, shape=shape)
    assert np.mean([faces.detect(picture) is not None for picture in read_frames(file, as_stored=True)]) < 1
    scale = 1 if shape == 2 else 0.5
    for seen, picture in zip(read_frames(file), true, strict=True):
        found, wanted = faces.detect(seen), np.multiply(faces.detect(picture), scale)
        assert np.abs(np.subtract(found, wanted)).max() < 0.15 * wanted[2]


# ---- half-pictures, tracks, and what else must be said -------------------------------------------------


def test_half_pictures_are_read_as_they_are_and_it_is_said(p, tmp_path, ravdess_root):
    clip = ravdess_root / "clips" / "Actor_01" / "01-01-01-01-01-01-01.mp4"
    true = read_frames(clip, 0, 1.0)[:, ::2, ::2]
    moving = np.stack([np.roll(picture, 6 * n, 1) for n, picture in enumerate(true)])  # 6 pixels a half-picture
    woven = moving[0::2].copy()
    woven[:, 1::2] = moving[1::2, 1::2]
    file = film(tmp_path / "field.mp4", woven, flags="+ildct+ilme", **{"x264-params": "tff=1"})
    seen = read_frames(file)
    rows = (
        np.abs(seen[:, 1::2].astype(int) - woven[:, 1::2]).mean(),
        np.abs(seen[:, 1::2].astype(int) - moving[0::2, 1::2]).mean(),
    )
    assert rows[0] < 2 < rows[1]
    for picture, one, other in zip(seen[::5], moving[0::10], moving[1::10], strict=True):
        found, between = faces.detect(picture), np.mean([faces.detect(one), faces.detect(other)], 0)
        assert np.abs(found - between).max() < 0.15 * between[2]
    said = "its pictures are interlaced and read as they are: what moves has combed edges"
    assert remarks(file) == [said]
    row = {"utterance": "u", "audio": "", "video": file.name, "start": 0.0, "end": 0.5, "crop": None, "face": None}
    for stream in ("video", "face"):  # a corpus's features are noted alike
        reader = Reader(p, stream, tmp_path, {})
        reader.boxes_folder = tmp_path
        reader.load(row)
        assert reader.notes == {"u": f"field.mp4: {said}"}
    reader = clips.ClipReader(p, "video")  # a clip's answer has it once, among the row's remarks
    reader.load(whole := clips.clip_row(file))
    assert whole["remarks"] == [said] and not any(reader.notes.values())


def tracks(file, default=None, levels=(0.1, 0.2, 0.4)):
    """Sound tracks of a steady level each; `default` is the one that is marked so."""
    with av.open(str(file), "w") as container:
        streams = [container.add_stream(SOUND, rate=RATE, layout="mono") for _ in levels]
        for n, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition(n == default)
        for stream, level in zip(streams, levels, strict=True):
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE), level * 32768, "<i2"), format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux([*stream.encode(frame), *stream.encode(None)])
    return file


def test_of_several_sound_tracks_the_default_is_heard_else_the_first_and_it_is_said(tmp_path):
    file = tracks(tmp_path / "marked.mkv", default=1)
    assert read_audio(file).mean() == pytest.approx(0.2, abs=1e-3)
    assert remarks(file) == ["of its 3 sound tracks number 2 is taken, its default"]
    assert media.sound_track(file) == (RATE, "of its 3 sound tracks number 2 is taken, its default")
    file = tracks(tmp_path / "unmarked.mkv")
    assert read_audio(file).mean() == pytest.approx(0.1, abs=1e-3)
    assert remarks(file) == ["of its 3 sound tracks number 1 is taken, as none is marked as its default"]
    assert media.sound_track(tracks(tmp_path / "one.mkv", levels=[0.1])) == (RATE, None)


TIMES = [n / 30 for n in range(60)]


@pytest.mark.parametrize(
    "made, said",
    [
        ({"times": TIMES, "seconds": 2}, []),
        ({"times": TIMES, "seconds": 1}, ["its sound ends at 1.00 s, its picture at 2.00 s"]),
        ({"times": TIMES, "seconds": 5}, ["its picture ends at 2.00 s, its sound at 5.00 s, whose rest is not used"]),
        ({"times": TIMES, "seconds": 1, "sound_from": 1.0}, ["its sound begins at 1.00 s"]),
        ({"times": [1 + t for t in TIMES], "seconds": 3}, ["its picture begins at 1.00 s"]),
        ({"times": [0.0]}, ["its picture is a single one: nothing moves in it"]),
        ({"seconds": 2}, []),
        ({"times": TIMES}, []),
    ],
)
def test_what_picture_and_sound_do_not_share_is_said(tmp_path, made, said):
    assert remarks(write_film(tmp_path / "film.mkv", **made)) == said


def test_another_sound_s_times_say_nothing_of_this_film(tmp_path):
    file = write_film(tmp_path / "film.mkv", TIMES, seconds=1)
    other = write_wav(tmp_path / "own.wav", np.ones(2 * RATE) / 2)
    assert clips.clip_row(file)["remarks"] and not clips.clip_row(file, sound=other)["remarks"]


@pytest.mark.parametrize("number, name", [("16", "PQ"), ("18", "HLG"), ("1", None)])
def test_colours_of_more_range_are_named(tmp_path, number, name):
    transfer = {"16": "smpte2084", "18": "arib-std-b67", "1": "bt709"}[number]
    pictures, how = np.full((5, 64, 96, 3), 90, np.uint8), {"x264-params": f"transfer={transfer}"}
    said = remarks(film(tmp_path / "hdr.mp4", pictures, pixels="yuv420p10le", **how))
    assert said == ([f"its colours are HDR ({name}) and read as they are: paler than they are shown"] if name else [])


def test_the_real_clips_have_nothing_odd(ravdess_root):
    assert [remarks(clip) for clip in sorted((ravdess_root / "clips").rglob("*.mp4"))] == [[]] * 6


def test_faces_are_looked_for_in_a_lone_picture_and_where_none_can_be_read_nothing_is_said(tmp_path, monkeypatch):
    file = write_film(tmp_path / "one.mkv", [0.0])
    monkeypatch.setattr(faces, "detect", lambda picture: (1, 1, 1))
    row = clips.clip_row(file)
    assert clips.faces_found(row, 0.0, row["length"]) == 1
    assert clips.faces_found(row, 5.0, 6.0) is None
    monkeypatch.setattr(faces, "detect", lambda picture: None)
    assert clips.faces_found(row, 0.0, row["length"]) == 0


# ---- long files without an index ----------------------------------------------------------------------


def decoded(monkeypatch) -> list:
    """Every picture that is decoded from now on."""
    seen, decode = [], Recording.decode

    def counted(self, stream):
        for frame in decode(self, stream):
            seen.append(frame)
            yield frame

    monkeypatch.setattr(Recording, "decode", counted)
    return seen


def test_a_place_in_a_broadcast_is_found_without_reading_all_before_it(tmp_path, monkeypatch):
    times = [n / 25 for n in range(1000)]
    file = write_film(tmp_path / "cast.ts", times, seconds=40, sound="mp2")
    seen = decoded(monkeypatch)
    for start in (37.2, 20.0, 38.4):
        seen.clear()
        shown = numbers(read_frames(file, start, start + 0.2))
        assert np.abs(np.subtract(shown, [(round(start * 25) + n) % 256 for n in range(5)])).max() <= 1
        assert len(seen) < 350, start


@pytest.mark.parametrize(
    "name, codec, kind",
    [
        ("cast.ts", "mpeg4", "mpegts"),
        ("cast2.ts", "mpeg2video", "mpegts"),
        ("disc.vob", "mpeg2video", "vob"),
        ("old.mpg", "mpeg1video", "mpeg"),
        ("bare.h264", "libx264", "h264"),
    ],
)
def test_a_part_is_what_is_there_when_all_is_read(tmp_path, name, codec, kind):
    """Streams that begin in the middle of a prediction, or say few times or none."""
    with av.open(str(tmp_path / name), "w", format=kind) as container:
        video = container.add_stream(codec, rate=25, options={"bf": "2", "b": "4000000", "g": "48"})
        video.width, video.height, video.pix_fmt = 256, 64, "yuv420p"
        for n in range(300):
            container.mux(video.encode(av.VideoFrame.from_ndarray(drawn(n % 256), format="rgb24")))
        container.mux(video.encode(None))
    for start in (7, 60, 101, 150, 222, 290):
        shown = numbers(read_frames(tmp_path / name, start / 25, (start + 5) / 25))
        assert shown == [n % 256 for n in range(start, start + 5)]


def test_times_of_packets_are_not_kept(tmp_path):
    file = write_film(tmp_path / "sound.mp3", seconds=8, sound="libmp3lame")
    with opened(file) as recording:
        packets = recording.packets(recording.sound)
        assert iter(packets) is packets and sum(1 for _ in packets) > 50  # one at a time
    assert seconds(file) == pytest.approx(8, abs=0.1)
    # a header without a likely rate: it is counted, and kept within what cameras write
    assert first_frame(write_film(tmp_path / "slow.mp4", [0, 20, 40, 60]))[1] == Fraction(1, 10)
    assert first_frame(write_film(tmp_path / "fast.ts", [n / 1000 for n in range(50)]))[1] == 240
