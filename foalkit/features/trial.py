"""Each stream's encoder on a generated second, before any recording: what breaks here is the installation's."""

import wave
from pathlib import Path

import av
import numpy as np

from foalkit.features import media
from foalkit.features.encoders import broken
from foalkit.features.reader import Reader
from foalkit.files import scratch

RATE, PICTURES = 16_000, 5  # samples and pictures of the second
DECODERS = {"sound": ("pcm_s16le", "aac", "mp3", "flac"), "picture": ("mpeg4", "h264")}  # of the usual recordings


def try_out(reader: Reader, where: str) -> None:
    """Write, read and encode a second of the stream's kind, as a recording is; nothing of it stays.

    Raises UserError naming the stream (`where`, a params key), its encoder and the package that fails; OSError for a
    fault of the machine. Imported features have no encoder.
    """
    if reader.kind == "numbers":
        return
    row = {"utterance": "a generated second", "audio": "second.wav", "video": "second.avi"}
    try:
        for name in DECODERS[reader.kind]:
            av.codec.Codec(name, "r")
        with scratch() as folder:
            made = _sound if reader.kind == "sound" else _pictures
            reader.encode(row, made(reader, folder))
    except Exception as error:
        raise broken(error, where, reader.spec) from error


def _sound(reader: Reader, folder: Path) -> np.ndarray:
    moments = np.arange(RATE) / RATE
    tones = sum(np.sin(2 * np.pi * pitch * moments) for pitch in (220, 660, 1760))
    with wave.open(str(folder / "second.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((9000 * tones).astype("<i2").tobytes())
    return media.read_audio(folder / "second.wav", rate=getattr(reader.encoder, "rate", media.SAMPLE_RATE))


def _pictures(reader: Reader, folder: Path) -> np.ndarray:
    with av.open(str(folder / "second.avi"), "w") as container:
        video = container.add_stream("mpeg4", rate=PICTURES, width=160, height=120, pix_fmt="yuv420p")
        for n in range(PICTURES):
            picture = np.full((120, 160, 3), 40 * n, np.uint8)
            picture[20:80, 20 * n : 20 * n + 60] = 255
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    if reader.spec.region == "face":
        from foalkit.features import faces

        pictures = media.read_frames(folder / "second.avi")
        faces.track(pictures)
        clip = np.stack([faces.cut(picture, (0, 0, 120, 120), reader.encoder.size) for picture in pictures])
    else:
        clip = media.read_frames(folder / "second.avi", size=reader.encoder.size)
    return clip[reader.encoder.pick(len(clip))] if hasattr(reader.encoder, "pick") else clip
