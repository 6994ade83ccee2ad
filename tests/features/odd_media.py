"""Films and sounds as phones, recorders and editors write them: time stamps, tracks, headers and damage of any kind."""

import struct
from fractions import Fraction

import av
import numpy as np
from test_media import picture

TICK = Fraction(1, 1000)


def write_film(
    path, times=(), *, clicks=(), sound_from=0.0, seconds=None, rate=16_000, codec="mpeg4", sound="pcm_s16le"
):
    """A film whose n-th picture, with n drawn in it, has the time stamp times[n]; a tone with clicks at those times.

    The sound's time stamps begin at `sound_from`; clicks are at the film's times.
    """
    with av.open(str(path), "w") as container:
        if len(times):
            video = container.add_stream("mpeg4", rate=30, width=256, height=64, pix_fmt="yuv420p")
            video.codec_context.time_base, video.bit_rate = TICK, 4_000_000
        if seconds:
            audio = container.add_stream(sound, rate=rate, layout="mono")
        for n, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(n % 256), format="rgb24")
            frame.pts, frame.time_base = round(time / TICK), TICK
            container.mux(video.encode(frame))
        if len(times):
            container.mux(video.encode(None))
        if seconds:
            samples = (1000 * np.sin(np.arange(int(seconds * rate)) / 5)).astype("<i2")
            samples[[round((click - sound_from) * rate) for click in clicks]] = 32_000
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = rate, round(sound_from * rate), Fraction(1, rate)
            shaped = av.AudioResampler(audio.codec_context.format, "mono", rate, audio.codec_context.frame_size or None)
            for part in [*shaped.resample(frame), *shaped.resample(None)]:
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path


def wav(path, data: bytes, *, form=1, channels=1, rate=16_000, bits=16, riff=None, size=None, more=b""):
    """A wav with these bytes as samples; `riff` and `size` are what its header says instead of the truth."""
    block = channels * bits // 8
    head = struct.pack("<HHIIHH", form, channels, rate, rate * block & 0xFFFFFFFF, block, bits)
    said = len(data) if size is None else size
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + more + b"data" + struct.pack("<I", said) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body)
    return path


def float_wav(path, samples):
    """Samples as 32-bit floats, whatever they are."""
    return wav(path, np.asarray(samples, "<f4").tobytes(), form=3, bits=32)


def with_matrix(path, a, b, c, d):
    """Write the display matrix of an mp4's first track, which says how its pictures are to be turned."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    assert struct.unpack(">9i", data[at : at + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def with_offsets(path, moved: int):
    """Move every chunk offset of an mp4: its header is whole and its frames are looked for in the wrong place."""
    data, at = bytearray(path.read_bytes()), 0
    while (at := data.find(b"stco", at + 1)) > 0:
        for n in range(struct.unpack(">I", data[at + 8 : at + 12])[0]):
            place = slice(at + 12 + 4 * n, at + 16 + 4 * n)
            data[place] = struct.pack(">I", struct.unpack(">I", data[place])[0] + moved & 0xFFFFFFFF)
    path.write_bytes(data)
    return path
