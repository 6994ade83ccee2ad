"""How every benchmark here measures: both versions side by side in one process, in shuffled order, on one thread.

Before each round the rate of matrix products is calibrated; rounds in which the machine gave more than 25 % less
than in the best one are left out. Times are CPU seconds of this process, ratios are taken within a round. A slow
machine gets fewer rounds, and a row says how many it had.
"""

import random
import time
from collections.abc import Callable

import numpy as np
import torch

FAST = "training.reproducible=here"  # an override: all that the processor can do
LIMIT = 30  # seconds by the clock for all rounds of one measurement: the whole table takes less than five minutes


def calibrate(dtype: torch.dtype = torch.float32) -> float:
    """The FLOP/s of this thread's best of twelve products (2048, 1024) x (1024, 1024)."""
    a, b = torch.randn(2048, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    best = min(cpu_seconds(lambda: a @ b) for _ in range(12))
    return 2 * 2048 * 1024 * 1024 / best


def cpu_seconds(action: Callable[[], object]) -> float:
    """The CPU time of one call, in seconds."""
    start = time.process_time()
    action()
    return time.process_time() - start


def side_by_side(
    what: str,
    actions: dict[str, Callable[[], object]],
    rounds: int,
    *,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    limit: float = LIMIT,
) -> tuple[dict[str, np.ndarray], dict[torch.dtype, np.ndarray]]:
    """CPU seconds of each action and the calibrated rate of each type, `(rounds kept,)`, after a first run of each.

    `what` is printed first. No round begins that would end after `limit` seconds; where there is time for none, the
    first run is the only one.
    """
    print(f"  {what} …", flush=True)
    torch.set_num_threads(1)
    order, seconds, rates = list(actions), {name: [] for name in actions}, {dtype: [] for dtype in dtypes}
    shuffle, start = random.Random(0).shuffle, time.monotonic()
    for _ in range(rounds + 1):
        begun = time.monotonic()
        for dtype in dtypes:
            rates[dtype].append(calibrate(dtype))
        for name in order:
            seconds[name].append(cpu_seconds(actions[name]))
        shuffle(order)
        now = time.monotonic()
        if now - start + (now - begun) > limit:
            break
    if len(rates[dtypes[0]]) > 1:  # the first run only made ready
        seconds, rates = ({name: x[1:] for name, x in both.items()} for both in (seconds, rates))
    first = np.array(rates[dtypes[0]])
    kept = first >= 0.75 * first.max()
    return tuple({name: np.array(x)[kept] for name, x in both.items()} for both in (seconds, rates))


def by_the_clock(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each action `(rounds,)` by the clock, after a first run; each must end by waiting for the GPU."""
    seconds = {name: [] for name in actions}
    for round_ in range(rounds + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(x) for name, x in seconds.items()}


def row(what: str, plain: np.ndarray, ours: np.ndarray, *, equality: str, share: np.ndarray | None = None) -> dict:
    """A benchmark's row: medians in seconds, the median ratio of paired rounds and its 95 % lower bound.

    `share` is each round's share of the calibrated rate. The bound is the 5 % quantile of a bootstrap over rounds.
    """
    ratio, rng = plain / ours, np.random.default_rng(0)
    drawn = np.median(ratio[rng.integers(0, len(ratio), (10_000, len(ratio)))], axis=1)
    return {
        "what": what,
        "plain": float(np.median(plain)),
        "ours": float(np.median(ours)),
        "ratio": float(np.median(ratio)),
        "low": float(np.quantile(drawn, 0.05)),
        "rounds": len(ratio),
        "share": None if share is None else float(np.median(share)),
        "equality": equality,
    }
