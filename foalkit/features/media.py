"""Decode exactly a time range of a file: frames at the true frame rate, audio as mono at one rate (PyAV)."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from foalkit import UserError

SAMPLE_RATE = 16_000
DECODER = f"pyav-{av.__version__}, media 2"  # raise the number when a change here changes what is read
ROUNDING = Fraction(1, 20_000)  # label times have four decimals: at most 50 µs from the time that was meant
Box = tuple[int, int, int, int]


class MediaError(UserError):
    """A file that cannot be used, with its name and the reason: the utterance is left out, the run goes on."""


def read_audio(file: Path, start: float = 0.0, end: float = math.inf, *, rate: int = SAMPLE_RATE) -> np.ndarray:
    """The samples of [start, end) seconds as mono float32 `(S,)` at `rate` Hz, the mean of the file's channels.

    Raises MediaError for a missing stream, an empty range, a truncated file or a track of zeros.
    """
    _check_range(file, start, end)
    with _open(file) as container:
        if not container.streams.audio:
            raise MediaError(f"{file.name}: no audio stream")
        stream = container.streams.audio[0]
        # channels are averaged below: FFmpeg's own downmix makes a stereo file 1.41 times louder than its mono
        resampler = av.AudioResampler(format="fltp", rate=rate)
        parts, count = [], 0
        for frame in itertools.chain(_decode(container, file, stream), [None]):
            for part in resampler.resample(frame):
                parts.append(part.to_ndarray().mean(0))
                count += part.samples
            if count >= rate * end:
                break
        else:
            promised = float((stream.duration or 0) * stream.time_base)
            if _cut_wav(file) or count < rate * (promised - 0.1):
                raise MediaError(f"{file.name}: ends after {count / rate:.2f} s (truncated?)")
    first = round(start * rate)
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    samples = samples[first : None if math.isinf(end) else round(end * rate)]
    if not len(samples):
        raise MediaError(f"{file.name}: no sound between {start} and {end} s (truncated?)")
    if not samples.any():
        raise MediaError(f"{file.name}: the audio track is silent (all zeros)")
    return samples


def read_frames(file: Path, start: float = 0.0, end: float = math.inf, **how) -> np.ndarray:
    """The frames of `iter_frames` as one RGB uint8 array `(T, H, W, 3)`."""
    return np.stack(list(iter_frames(file, start, end, **how)))


def iter_frames(
    file: Path,
    start: float = 0.0,
    end: float = math.inf,
    *,
    crop: Box | None = None,
    size: int | None = None,
    every: int = 1,
) -> Iterator[np.ndarray]:
    """The frames n with start ≤ n / fps < end, cropped and resized to `size`², one by one as RGB uint8 `(H, W, 3)`.

    `every` keeps each n-th of them, beginning with the first.

    Frame n is the one shown at n / fps by the stream's own clock; a bound that is a frame's time rounded to
    four decimals, as label times are, means that frame. Raises MediaError for a missing stream, an
    empty range, a truncated file or a crop outside the picture.
    """
    _check_range(file, start, end)
    with _open(file) as container:
        if not container.streams.video:
            raise MediaError(f"{file.name}: no video stream")
        stream = container.streams.video[0]
        rate, origin = stream.average_rate, stream.start_time or 0
        first, last = _frame_range(start, end, rate)
        graph = _graph(stream, file, crop, size)
        if first:  # land on a keyframe at or before the first frame, then decode forward
            container.seek(origin + int((first - 1) / rate / stream.time_base), stream=stream)
        seen = 0
        for frame in _decode(container, file, stream):
            clock = frame.dts if frame.pts is None else frame.pts
            number = round((clock - origin) * stream.time_base * rate)
            if number >= last:
                break
            if number >= first:
                if seen % every == 0:
                    graph.push(frame)
                    yield graph.pull().to_ndarray(format="rgb24")
                seen += 1
        promised = stream.frames if math.isinf(end) else last  # 0 where the file does not say
    # a turn may end a frame or two after the last picture; more than that is a truncated file
    if not seen or first + seen < promised - 3:
        wanted = f"{promised - first} frames" if promised else "frames"
        raise MediaError(f"{file.name}: {seen} of the {wanted} from {start} to {end} s (truncated?)")


def seconds(file: Path) -> float:
    """How long the file's picture lasts, or its sound where it has none, by its header alone.

    Raises MediaError when it cannot be opened or does not say.
    """
    with _open(file) as container:
        stream = next(iter([*container.streams.video, *container.streams.audio]), None)
        if stream is None or not stream.duration:
            raise MediaError(f"{file.name}: does not say how long it is (no stream, or truncated)")
        return float(stream.duration * stream.time_base)


def sample_rate(file: Path) -> int:
    """How many samples per second a file's sound has; raises MediaError where it has none or cannot be opened."""
    with _open(file) as container:
        if not container.streams.audio:
            raise MediaError(f"{file.name}: no audio stream")
        return container.streams.audio[0].rate


def first_frame(file: Path, start: float = 0.0) -> tuple[int, Fraction]:
    """The number of the first frame that `iter_frames` gives from `start` on, and the file's frames per second.

    Raises MediaError for a file that cannot be opened or has no video stream.
    """
    with _open(file) as container:
        if not container.streams.video:
            raise MediaError(f"{file.name}: no video stream")
        rate = container.streams.video[0].average_rate
    return _frame_range(start, math.inf, rate)[0], rate


def square(box) -> Box:
    """The smallest square around a box with the same centre: resizing then keeps the face's proportions."""
    x, y, width, height = map(int, box)
    side = max(width, height)
    return max(0, x - (side - width) // 2), max(0, y - (side - height) // 2), side, side


def _frame_range(start: float, end: float, rate: Fraction) -> tuple[int, float]:
    def bound(seconds: float) -> int:
        return max(0, math.ceil((Fraction(seconds) - ROUNDING) * rate))

    return bound(start), math.inf if math.isinf(end) else bound(end)


def _cut_wav(file: Path) -> bool:
    # FFmpeg reads a cut .wav without complaint; its header still says how long it was
    with file.open("rb") as handle:
        head = handle.read(12)
    promised = int.from_bytes(head[4:8], "little") + 8
    is_wav = head[:4] == b"RIFF" and head[8:] == b"WAVE" and promised < 0xFFFFFFFF  # that much: not known
    return is_wav and file.stat().st_size + 1 < promised  # some writers count a padding byte


def _check_range(file: Path, start: float, end: float) -> None:
    if not 0 <= start < end:
        raise MediaError(f"{file.name}: the time range {start}-{end} s is empty")


def _open(file: Path):
    try:
        return av.open(str(file))
    except FileNotFoundError:
        raise MediaError(f"{file.name}: no such file") from None
    except av.FFmpegError as error:
        raise MediaError(f"{file.name}: cannot be opened as media ({error.strerror})") from None


def _decode(container, file: Path, stream):
    stream.thread_type = "NONE"  # one thread: the callers run in parallel, and results stay the same
    try:
        yield from container.decode(stream)
    except av.FFmpegError as error:
        raise MediaError(f"{file.name}: damaged or truncated ({error.strerror})") from None


def _graph(stream, file: Path, crop: Box | None, size: int | None):
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(template=stream)]
    if crop is not None:
        x, y, width, height = crop
        if x < 0 or y < 0 or x + width > stream.width or y + height > stream.height:
            raise MediaError(f"{file.name}: crop {crop} is outside its {stream.width}×{stream.height} picture")
        nodes.append(graph.add("crop", f"w={width}:h={height}:x={x}:y={y}:exact=1"))
    if size is not None:
        nodes.append(graph.add("scale", f"{size}:{size}:flags=bicubic+accurate_rnd+bitexact"))
    nodes += [graph.add("format", "pix_fmts=rgb24"), graph.add("buffersink")]
    for a, b in itertools.pairwise(nodes):
        a.link_to(b)
    graph.configure()
    return graph
