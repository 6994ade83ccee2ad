"""A media file that is open: its picture, its sound, and the one clock that their time stamps are on (PyAV)."""

import errno
import itertools
import math
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
from av.stream import Disposition

from foalkit import UserError
from foalkit.features.reasons import fault, of_this_file
from foalkit.files import unusable

SOUND_RATES = 1_000, 768_000  # Hz: what a recorder may write; a header that says another rate is damaged
PICTURE_RATES = Fraction(1, 10), 240  # per second: beyond, the header counts ticks of its clock and not pictures
PIXEL_SHAPES = Fraction(1, 4), 4  # width to height: what cameras and discs have; a header that says more is damaged
APART = Fraction(1, 4)  # seconds that picture and sound may begin or end apart unnoted
PROGRESSIVE, HDR = 1, {16: "PQ", 18: "HLG"}  # FFmpeg's numbers of field orders and of transfer characteristics
ESTIMATED = {"mp3", "aac", "amr", "ac3", "eac3", "mpeg"}  # no header says how long they are: FFmpeg guesses by the size
# numbers of the system by which FFmpeg's demuxers and decoders speak of data
OF_DATA = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ERANGE, errno.EDOM, errno.EILSEQ}
OF_THE_BUILD = (av.error.LookupError, av.error.PyAVCallbackError, av.error.ExitError)  # a decoder, a filter is lacking
DAMAGED = 3
DECODE_ALL = f"""
import sys, av
with open(sys.argv[1], "rb") as file:
    while file.read(1 << 20):
        pass
try:
    for kind in ("video", "audio"):
        with av.open(sys.argv[1], options={{"protocol_whitelist": "file"}}, metadata_errors="replace") as media:
            for _ in media.decode(**{{kind: 0}}) if getattr(media.streams, kind) else ():
                pass
except av.FFmpegError:
    sys.exit({DAMAGED})
"""


class MediaError(UserError):
    """A file that cannot be used, with its name and the reason: the utterance is left out, the run goes on."""


class Recording:
    """The picture and the sound of an open file, None where it has none.

    Time 0 is where the earlier of the two begins. A cover picture is no picture. Of several tracks the one that the
    file marks as its default is taken, else the first.
    """

    def __init__(self, file: Path, container):
        self.file, self.container = file, container
        film = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        self.tracks = {"picture": film, "sound": list(container.streams.audio)}
        self.picture, self.sound = map(_default, self.tracks.values())
        starts = [_start(s) for s in (self.picture, self.sound) if s is not None]
        self.origin = min(starts, default=Fraction(0))

    def needs(self, kind: str):
        """The stream of this kind, `picture` or `sound`; raises MediaError for a file without it."""
        stream, name = getattr(self, kind), {"picture": "video", "sound": "audio"}[kind]
        if stream is None:
            raise MediaError(f"{self.file.name}: no {name} stream")
        if stream.codec_context is None:
            raise MediaError(f"{self.file.name}: its {name} is of a format that FFmpeg cannot decode")
        return stream

    def of_several(self, kind: str) -> str | None:
        """Which of several tracks of a kind, `picture` or `sound`, is taken; None where there is but one."""
        tracks, taken = self.tracks[kind], getattr(self, kind)
        if len(tracks) < 2:
            return None
        why = "its default" if taken.disposition & Disposition.default else "as none is marked as its default"
        return f"of its {len(tracks)} {kind} tracks number {tracks.index(taken) + 1} is taken, {why}"

    def start(self, stream) -> Fraction:
        """When the stream begins, in seconds."""
        return _start(stream) - self.origin

    def end(self, stream) -> Fraction | None:
        """When the stream ends in seconds, by the file's header; None where that does not say."""
        if "DURATION" in stream.metadata:  # Matroska
            try:
                hours, minutes, seconds = map(Fraction, stream.metadata["DURATION"].split(":"))
            except (ValueError, ZeroDivisionError):
                raise MediaError(f"{self.file.name}: damaged (the duration in its header is no time)") from None
            return 3600 * hours + 60 * minutes + seconds - self.origin
        if not stream.duration or self.container.format.name in ESTIMATED:
            return None
        return self.start(stream) + stream.duration * stream.time_base

    def time(self, frame) -> Fraction | None:
        """When a decoded frame of picture or sound begins, in seconds; None where it does not say."""
        clock = frame.dts if frame.pts is None else frame.pts
        return None if clock is None else clock * frame.time_base - self.origin

    def decode(self, stream) -> Iterator:
        """The frames of a stream from where the file is."""
        if not stream.codec_context.is_open:
            stream.thread_type = "NONE"  # one thread: the callers run in parallel, and results stay the same
        yield from self.container.decode(stream)

    @cached_property
    def picture_rate(self) -> Fraction:
        """Pictures per second: the rate of a stream of one rate, the average of one whose rate varies."""
        average, common = self.picture.average_rate, self.picture.base_rate
        if not average or not PICTURE_RATES[0] <= average <= PICTURE_RATES[1]:
            first, last, count = math.inf, -math.inf, 0
            for time, _ in self.packets(self.picture):
                first, last, count = min(first, time), max(last, time), count + 1
            average = (count - 1) / (last - first) if last > first else 25
            average = Fraction(min(max(average, PICTURE_RATES[0]), PICTURE_RATES[1])).limit_denominator(1001)
        # the average is of times as they are rounded in the file
        return Fraction(common if common and abs(average / common - 1) < 0.01 else average)

    @property
    def pixel_shape(self) -> Fraction:
        """The width to the height at which a stored pixel is to be shown; 1 where nothing likely is said."""
        shape = self.picture.sample_aspect_ratio or 1
        likely = PIXEL_SHAPES[0] <= shape <= PIXEL_SHAPES[1] and abs(shape - 1) > 0.01
        return Fraction(shape if likely else 1)

    def sound_rate(self) -> int:
        """Samples per second; raises MediaError for a rate that no recorder writes."""
        rate = self.needs("sound").rate
        if not rate or not SOUND_RATES[0] <= rate <= SOUND_RATES[1]:
            raise MediaError(f"{self.file.name}: says that its sound has {rate or 'no'} samples per second")
        return rate

    def packets(self, stream) -> Iterator[tuple[Fraction, Fraction]]:
        """When each packet of a stream begins and how long it lasts, in seconds; the whole file is read."""
        with _open(self.file) as container:  # anew: this one keeps its place
            again = container.streams[stream.index]
            for p in container.demux(again):
                if p.pts is not None:
                    yield p.pts * again.time_base - self.origin, (p.duration or 0) * again.time_base


def remarks(file: Path, sound: bool = True) -> list[str]:
    """What must be known of how a file's picture, and its `sound`, are read, by the header.

    Raises MediaError for a file that cannot be opened.
    """
    with opened(file) as recording:
        picture, sound = recording.picture, recording.sound if sound else None
        said = [*(_of_the_picture(recording) if picture else ()), recording.of_several("sound") if sound else None]
        ends = {"picture": picture and recording.end(picture), "sound": sound and recording.end(sound)}
        for one, other in (("picture", "sound"), ("sound", "picture")) if picture and sound else ():
            if (begins := recording.start(getattr(recording, one))) > APART:
                said.append(f"its {one} begins at {float(begins):.2f} s")
            if all(ends.values()) and ends[other] - ends[one] > APART:
                lost = ", whose rest is not used" * (one == "picture")
                first, last = float(ends[one]), float(ends[other])
                said.append(f"its {one} ends at {first:.2f} s, its {other} at {last:.2f} s{lost}")
        return [text for text in said if text]


def picture_remarks(file: Path) -> list[str]:
    """What of that is said of the picture; raises MediaError for a file that has none or cannot be opened."""
    with opened(file) as recording:
        recording.needs("picture")
        return list(filter(None, _of_the_picture(recording)))


def _of_the_picture(recording: Recording) -> Iterator[str | None]:
    yield recording.of_several("picture")
    codec = recording.picture.codec_context
    if codec is not None and codec.field_order > PROGRESSIVE:
        yield "its pictures are interlaced and read as they are: what moves has combed edges"
    if codec is not None and (name := HDR.get(codec.color_trc)):
        yield f"its colours are HDR ({name}) and read as they are: paler than they are shown"
    if len(list(itertools.islice(recording.packets(recording.picture), 2))) < 2:
        yield "its picture is a single one: nothing moves in it"


@contextmanager
def opened(file: Path) -> Iterator[Recording]:
    """A media file, open; what FFmpeg says of its data becomes a MediaError with its name and the reason.

    Raises OSError, with the file, for a fault of the machine, and any other error as it is: a defect.
    """
    if why := unusable(file):
        raise MediaError(f"{file.name}: {why}")
    at_work = "cannot be opened as media"
    try:
        with _open(file) as container:
            at_work = "damaged or truncated"
            yield Recording(file, container)
    except UserError:
        raise
    except Exception as error:
        if _of_the_data(error, file):
            raise MediaError(f"{file.name}: {at_work} ({getattr(error, 'strerror', None) or error})") from None
        if isinstance(error, (OSError, MemoryError, av.FFmpegError)):
            raise fault(error, str(file)) from error
        raise


def _of_the_data(error: Exception, file: Path) -> bool:
    """Whether an error says something of the file's data, and not of the machine, of FFmpeg's build or of this code."""
    if isinstance(error, OF_THE_BUILD):
        return False
    if isinstance(error, av.FFmpegError):
        system = isinstance(error, (OSError, MemoryError)) and error.errno not in OF_DATA
        return not system or of_this_file(error, file.name) or _fails_in_another_process(file)
    if isinstance(error, (ValueError, IndexError, OverflowError)):  # PyAV, where a header contradicts itself
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        return "av" in Path(frames[-1].f_code.co_filename).parts
    return of_this_file(error, file.name) if isinstance(error, OSError) else False


def _fails_in_another_process(file: Path) -> bool:
    """Whether a process of its own, which can read all of the file's bytes, meets an error of FFmpeg's in it, too.

    FFmpeg speaks of input and output, and of memory, where a damaged file leads it astray, as where a disk fails.
    """
    done = subprocess.run([sys.executable, "-c", DECODE_ALL, str(file)], capture_output=True, check=False)
    return done.returncode == DAMAGED


def _open(file: Path):
    # only files: a playlist that is named like a film must not fetch anything. Titles and remarks are of any encoding
    return av.open(str(file), options={"protocol_whitelist": "file"}, metadata_errors="replace")


def _default(streams: list):
    return next((s for s in streams if s.disposition & Disposition.default), next(iter(streams), None))


def _start(stream) -> Fraction:
    return Fraction((stream.start_time or 0) * stream.time_base)
