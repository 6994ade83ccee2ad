"""Expressions of a params file, which may be written so that matching one name with them takes for ever."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from foalkit import UserError, short

TICK, AT_LEAST, OF_A_NAME = 1.0, 10, 0.001  # seconds of computing: for one name, for all, and for each of them


@contextmanager
def watched(key: str, pattern: str, names: list[str]) -> Iterator[Iterator[str]]:
    """The names, one after the other, to be matched within this context with a pattern of the params key.

    Raises UserError, with the pattern and the name, where that stays at one name for seconds, or takes too long for
    all. Only a signal stops an expression, and only the main thread gets it: in another one there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield iter(names)
        return
    at, before, ticks = 0, -1, 0

    def each() -> Iterator[str]:
        nonlocal at
        for at, name in enumerate(names):  # noqa: B007 (`tick` reads where the loop is)
            yield name

    def tick(*_) -> None:
        nonlocal before, ticks
        ticks += 1
        if at == before or ticks * TICK > AT_LEAST + OF_A_NAME * len(names):
            raise UserError(
                f"{key}: matching {short(names[at], 100)!r} with {short(pattern, 200)!r} takes too long; repeats in "
                "repeats do, as (a+)+: write it so that there is one way to match a name"
            )
        before = at

    handler = signal.signal(signal.SIGVTALRM, tick)
    signal.setitimer(signal.ITIMER_VIRTUAL, TICK, TICK)
    try:
        yield each()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler or signal.SIG_DFL)
