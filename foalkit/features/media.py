"""Decode exactly a time range of a file: frames at the true frame rate, audio as mono at one rate (PyAV)."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from foalkit.features.container import MediaError, Recording, opened

SAMPLE_RATE = 16_000
DECODER = f"pyav-{av.__version__}, media 4"  # raise the number when a change here changes what is read
ROUNDING = Fraction(1, 20_000)  # label times have four decimals: at most 50 µs from the time that was meant
GAP = Fraction(1, 10)  # seconds: sound that pauses for longer by its time stamps is silent meanwhile
LONGEST_GAP, MOST_GAPS = 60, 100  # seconds; all gaps together, in lengths of the sound between them
LATEST = 1e7  # seconds: no recording lasts four months
LONGEST_STILL = 2  # seconds that one picture may be shown, or three times its usual time: then some are missing
EARLIER = 0, 2, 12  # seconds: a broadcast's file has no index, and a look for a place ends behind it
LOUDEST = 4.0  # times full scale: some lossy and float files overshoot it; those beyond hold other numbers
Box = tuple[int, int, int, int]


def read_audio(file: Path, start: float = 0.0, end: float = math.inf, *, rate: int = SAMPLE_RATE) -> np.ndarray:
    """The samples of [start, end) seconds as mono float32 `(S,)` at `rate` Hz, the mean of the file's channels.

    Time is the file's own clock: sound that begins after the picture, or pauses, is silent until then. Raises
    MediaError for a missing stream, an empty range, a truncated or damaged file, a track of zeros, samples that are NaN
    or infinite and samples of another scale than [-1, 1].
    """
    _check_range(file, start, end)
    first, last = round(start * rate), math.inf if math.isinf(end) else round(end * rate)
    with opened(file) as recording:
        recording.sound_rate()
        parts, count = [], 0
        for part in _sound(recording, rate):
            if count + len(part) > first:  # what comes before is not kept: it may be hours
                parts.append(part[max(0, first - count) :])
            count += len(part)
            if count >= last:
                break
        else:
            promised = recording.end(recording.sound) or 0
            if _cut_wav(file) or count < rate * (promised - Fraction(1, 10)):
                raise MediaError(f"{file.name}: ends after {count / rate:.2f} s (truncated?)")
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    samples = samples[: None if math.isinf(end) else last - first]
    if not len(samples):
        raise MediaError(f"{file.name}: no sound between {start} and {end} s (truncated?)")
    if not (finite := np.isfinite(samples)).all():
        place = start + finite.argmin() / rate
        raise MediaError(f"{file.name}: {(~finite).sum()} samples are NaN or infinite, the first at {place:.2f} s")
    if (peak := np.abs(samples).max()) > LOUDEST:
        raise MediaError(
            f"{file.name}: its samples reach {peak:.5g} times full scale: numbers of another scale in a float file? "
            "divide them (16-bit numbers by 32 768) and write it again"
        )
    if not peak:
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
    as_stored: bool = False,
) -> Iterator[np.ndarray]:
    """The frames n with start ≤ n / fps < end, cropped and resized to `size`², one by one as RGB uint8 `(H, W, 3)`.

    `every` keeps each n-th of them, beginning with the first. Without a `size`, pictures whose pixels are not square
    are brought to square ones, in which a face has its own proportions; with `as_stored` they stay as they are.

    Frame n is the one shown at n / fps by the file's own clock; a bound that is a frame's time rounded to
    four decimals, as label times are, means that frame. Where the rate varies, fps is its average: a picture that is
    shown for longer is given again, one that is shown for too short a time is left out. A picture that begins after the
    sound has no frames before. Pictures are upright, whichever way the camera was held, and `crop` is of the upright
    one, in pixels as they are stored. Raises MediaError for a missing stream, an empty range, a truncated or damaged
    file or a crop outside the picture.
    """
    _check_range(file, start, end)
    with opened(file) as recording:
        rate = _rate(recording)
        first, last = _frame_range(start, end, rate)
        shape = Fraction(1) if as_stored or size else recording.pixel_shape
        prepare, seen, shown = _Prepare(file, crop, size, shape), 0, None
        for number, frame in _shown(recording, first, last):
            if seen % every == 0:
                if frame is not shown:
                    picture, shown = prepare(frame), frame
                yield picture
            seen, first = seen + 1, first if seen else number
        promised = _promised(recording) if math.isinf(end) else last
    # a turn may end a frame or two after the last picture; more than that is a truncated file
    if not seen or first + seen < promised - 3:
        wanted = f"{promised - first} frames" if promised else "frames"
        raise MediaError(f"{file.name}: {seen} of the {wanted} from {start} to {end} s (truncated?)")


def seconds(file: Path) -> float:
    """When the file's picture ends, or its sound where it has none, in seconds on the file's clock.

    By its header alone where that says it. Raises MediaError when it cannot be opened or holds neither.
    """
    with opened(file) as recording:
        stream = recording.picture or recording.sound
        end = None if stream is None else recording.end(stream)
        if end is None and stream is not None:
            end = max((begins + lasts for begins, lasts in recording.packets(stream)), default=None)
        if not end:
            raise MediaError(f"{file.name}: does not say how long it is (no stream, or truncated)")
        return float(end)


def sound_seconds(file: Path) -> float | None:
    """How long the file's sound lasts by its header, None where that does not say; raises MediaError without sound."""
    with opened(file) as recording:
        stream = recording.needs("sound")
        end = recording.end(stream)
        return None if end is None else float(end - recording.start(stream))


def sound_track(file: Path) -> tuple[int, str | None]:
    """How many samples per second a file's sound has, and which of several tracks it is, None where there is but one.

    Raises MediaError where it has none or cannot be opened.
    """
    with opened(file) as recording:
        return recording.sound_rate(), recording.of_several("sound")


def sample_rate(file: Path) -> int:
    """How many samples per second a file's sound has; raises MediaError where it has none or cannot be opened."""
    return sound_track(file)[0]


def first_frame(file: Path, start: float = 0.0) -> tuple[int, Fraction]:
    """The number of the first frame that `iter_frames` gives from `start` on, and the file's frames per second.

    Raises MediaError for a file that cannot be opened or has no video stream.
    """
    with opened(file) as recording:
        rate = _rate(recording)
        begins = round(recording.start(recording.picture) * rate)
    return max(begins, _frame_range(start, math.inf, rate)[0]), rate


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
    is_wav = (
        head[:4] == b"RIFF" and head[8:] == b"WAVE" and promised < 0x7FFFF000
    )  # that much: written while recording, not known
    return is_wav and file.stat().st_size + 1 < promised  # some writers count a padding byte


def _check_range(file: Path, start: float, end: float) -> None:
    if not 0 <= start < end or (LATEST < end < math.inf) or start > LATEST:
        raise MediaError(f"{file.name}: the time range {start}-{end} s is empty")


def _rate(recording: Recording) -> Fraction:
    recording.needs("picture")
    return recording.picture_rate


def _promised(recording: Recording) -> int:
    """How many frames the header says there are up to the end, 0 where it does not say."""
    return round((recording.end(recording.picture) or 0) * recording.picture_rate)


def _sound(recording: Recording, rate: int) -> Iterator[np.ndarray]:
    """The sound from time 0 on at `rate` Hz, the mean of its channels, in parts `(n,)` that follow each other."""
    made, resampler, form = 0, None, None
    expected, heard = Fraction(0), Fraction(0)  # when the next frame begins if nothing is missing between

    def resampled(frame) -> Iterator[np.ndarray]:
        # channels are averaged here: FFmpeg's own downmix makes a stereo file 1.41 times louder than its mono
        for part in resampler.resample(frame) if resampler else ():
            yield part.to_ndarray().mean(0)

    for frame in recording.decode(recording.sound):
        begins = recording.time(frame) if frame.pts is not None else expected
        late = begins - expected
        now = frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate
        if now != form or late > GAP:
            for part in resampled(None):
                made += len(part)
                yield part
            if late > LONGEST_GAP or begins > LONGEST_GAP + (1 + MOST_GAPS) * heard:
                raise MediaError(f"{recording.file.name}: its time stamps leave {float(late):.0f} s without sound")
            if late > 0:
                silent = np.zeros(max(0, round(begins * rate) - made), np.float32)
                made += len(silent)
                yield silent
                expected = begins
            resampler, form = av.AudioResampler(format="fltp", rate=rate), now
        for part in resampled(frame):
            made += len(part)
            yield part
        lasts = Fraction(frame.samples, frame.sample_rate)
        expected, heard = expected + lasts, heard + lasts
    yield from resampled(None)


def _shown(recording: Recording, first: int, last: float) -> Iterator[tuple[int, av.VideoFrame]]:
    """The numbers n of [first, last) that have a picture, each with the one that is shown at n / fps."""
    rate, name = recording.picture_rate, recording.file.name
    still = max(int(LONGEST_STILL * rate), 3)
    shown, since, lasts = None, -1, 1
    for frame in _from(recording, first):
        time = recording.time(frame)
        number = since + 1 if time is None else round(time * rate)
        if shown is not None and number <= since:
            shown = frame if number == since else shown  # two within one n: the later is the one that is seen
            continue
        if shown is not None:
            if number - since > still and number > first:
                place, gap = float(since / rate), float((number - since) / rate)
                raise MediaError(f"{name}: one picture stands for {gap:.1f} s, from {place:.1f} s on (damaged?)")
            for n in range(max(first, since), min(number, last) if last < math.inf else number):
                yield n, shown
        shown, since, lasts = frame, number, max(1, round((frame.duration or 0) * frame.time_base * rate))
        if number >= last:
            return
    if shown is not None:
        for n in range(max(first, since), min(since + min(lasts, still), last)):
            yield n, shown


def _from(recording: Recording, first: int) -> Iterator[av.VideoFrame]:
    """The frames from the one that is shown at first / fps on, or from an earlier one."""
    stream, rate = recording.picture, recording.picture_rate
    # a program stream (.mpg, .vob) says few times: those that are guessed behind a place that was looked for are wrong
    if first > round(recording.start(stream) * rate) and recording.container.format.name != "mpeg":
        # land on a keyframe at or before the first frame, then decode forward
        for earlier in EARLIER:
            moment = (first - 1) / rate - earlier + recording.origin
            try:
                recording.container.seek(int(moment / stream.time_base), stream=stream)
                frames = recording.decode(stream)
                # a broadcast's begin in the middle of what was predicted from a keyframe before them
                frame = next((f for f in frames if f.key_frame or (recording.time(f) or 0) * rate > first), None)
                time = None if frame is None else recording.time(frame)
                if time is not None and time * rate <= first:
                    yield frame
                    yield from frames
                    return
            except av.FFmpegError:  # a file in which no place can be looked for
                break
        with opened(recording.file) as again:  # from its beginning
            yield from again.decode(again.picture)
        return
    yield from recording.decode(stream)


class _Prepare:
    """From a decoded frame to an upright RGB picture `(H, W, 3)`, cropped, and resized or with square pixels."""

    def __init__(self, file: Path, crop: Box | None, size: int | None, shape: Fraction):
        self.file, self.crop, self.size, self.shape = file, crop, size, shape
        self.form, self.upright = None, None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        turned = _turns(frame)
        form = frame.width, frame.height, frame.format.name, frame.time_base, *turned
        if form != self.form:  # calls over a network change their picture's size on the way
            self.form, self.graph = form, self._graph(frame, turned)
        self.graph.push(frame)
        return self.graph.pull().to_ndarray(format="rgb24")

    def _graph(self, frame: av.VideoFrame, turned: list[str]):
        width, height = frame.width, frame.height
        if "transpose" in turned:
            width, height = height, width
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base
            )
        ]
        # the plain transposition, which FFmpeg names by what it is put together from
        nodes += [graph.add(name, *["cclock_flip"] * (name == "transpose")) for name in turned]
        self.upright = self.upright or (width, height)
        if (width, height) != self.upright:
            width, height = self.upright
            nodes.append(graph.add("scale", f"{width}:{height}:flags=bicubic+accurate_rnd+bitexact"))
        if self.crop is not None:
            x, y, w, h = self.crop
            if x < 0 or y < 0 or x + w > width or y + h > height:
                raise MediaError(f"{self.file.name}: crop {self.crop} is outside its {width}×{height} picture")
            nodes.append(graph.add("crop", f"w={w}:h={h}:x={x}:y={y}:exact=1"))
            width, height = w, h
        if self.size is not None or self.shape != 1:
            wide, high = (1, self.shape) if "transpose" in turned else (self.shape, 1)
            seen = max(1, round(width * wide)), max(1, round(height * high))
            width, height = (self.size, self.size) if self.size else seen
            nodes.append(graph.add("scale", f"{width}:{height}:flags=bicubic+accurate_rnd+bitexact"))
        nodes += [graph.add("format", "pix_fmts=rgb24"), graph.add("buffersink")]
        for a, b in itertools.pairwise(nodes):
            a.link_to(b)
        graph.configure()
        return graph


def _turns(frame: av.VideoFrame) -> list[str]:
    """The filters that turn a stored picture upright, by the display matrix that the camera wrote."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return []
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # right = a x + c y, down = b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return ["hflip"] * (a < 0) + ["vflip"] * (d < 0)
    return ["transpose"] + ["hflip"] * (c < 0) + ["vflip"] * (b < 0)
