"""A media file that is open: its picture, its sound, and the one clock that their time stamps are on (PyAV)."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
from av.stream import Disposition

from foalkit import UserError
from foalkit.features.reasons import of_one_file
from foalkit.files import unusable

SOUND_RATES = 1_000, 768_000  # Hz: what a recorder may write; a header that says another rate is damaged
PICTURE_RATES = Fraction(1, 10), 240  # per second: beyond, the header counts ticks of its clock and not pictures
ESTIMATED = {"mp3", "aac", "amr", "ac3", "eac3", "mpeg"}  # no header says how long they are: FFmpeg guesses by the size


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
        self.picture, self.sound = _default(film), _default(container.streams.audio)
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

    def start(self, stream) -> Fraction:
        """When the stream begins, in seconds."""
        return _start(stream) - self.origin

    def end(self, stream) -> Fraction | None:
        """When the stream ends in seconds, by the file's header; None where that does not say."""
        if "DURATION" in stream.metadata:  # Matroska
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")
            return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds) - self.origin
        if not stream.duration or self.container.format.name in ESTIMATED:
            return None
        return self.start(stream) + stream.duration * stream.time_base

    def time(self, frame) -> Fraction | None:
        """When a decoded frame of picture or sound begins, in seconds; None where it does not say."""
        clock = frame.dts if frame.pts is None else frame.pts
        return None if clock is None else clock * frame.time_base - self.origin

    def decode(self, stream) -> Iterator:
        """The frames of a stream from where the file is."""
        stream.thread_type = "NONE"  # one thread: the callers run in parallel, and results stay the same
        yield from self.container.decode(stream)

    @cached_property
    def picture_rate(self) -> Fraction:
        """Pictures per second: the rate of a stream of one rate, the average of one whose rate varies."""
        average, common = self.picture.average_rate, self.picture.base_rate
        if not average or not PICTURE_RATES[0] <= average <= PICTURE_RATES[1]:
            times = sorted(time for time, _ in self.packets(self.picture))
            average = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 25
            average = Fraction(min(max(average, PICTURE_RATES[0]), PICTURE_RATES[1])).limit_denominator(1001)
        # the average is of times as they are rounded in the file
        return Fraction(common if common and abs(average / common - 1) < 0.01 else average)

    def sound_rate(self) -> int:
        """Samples per second; raises MediaError for a rate that no recorder writes."""
        rate = self.needs("sound").rate
        if not rate or not SOUND_RATES[0] <= rate <= SOUND_RATES[1]:
            raise MediaError(f"{self.file.name}: says that its sound has {rate or 'no'} samples per second")
        return rate

    def packets(self, stream) -> list[tuple[Fraction, Fraction]]:
        """When each packet of a stream begins and how long it lasts, in seconds; the whole file is read."""
        with _open(self.file) as container:  # anew: this one keeps its place
            again = container.streams[stream.index]
            found = [(p.pts, p.duration or 0) for p in container.demux(again) if p.pts is not None]
            return [(pts * again.time_base - self.origin, lasts * again.time_base) for pts, lasts in found]


@contextmanager
def opened(file: Path) -> Iterator[Recording]:
    """A media file, open; whatever keeps it from being read becomes a MediaError with its name and the reason.

    What is wrong with the machine (too many open files) stays what it is: it is not one file's fault.
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
        if not of_one_file(error):
            raise
        raise MediaError(f"{file.name}: {at_work} ({getattr(error, 'strerror', None) or error})") from None


def _open(file: Path):
    # only files: a playlist that is named like a film must not fetch anything. Titles and remarks are of any encoding
    return av.open(str(file), options={"protocol_whitelist": "file"}, metadata_errors="replace")


def _default(streams: list):
    return next((s for s in streams if s.disposition & Disposition.default), next(iter(streams), None))


def _start(stream) -> Fraction:
    return Fraction((stream.start_time or 0) * stream.time_base)
