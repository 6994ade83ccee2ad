"""One progress line for long work: live where a person watches, a short kept line in batch."""

import html
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` while showing how many are done, how long it took and how long is left (seconds).

    In a notebook one output is updated in place, so a saved notebook keeps only the final line (tqdm's own
    notebook bar freezes at 0 % there); in a terminal tqdm draws its bar.
    """
    total = len(items) if total is None and hasattr(items, "__len__") else total
    if not _in_notebook():
        from tqdm import tqdm

        yield from tqdm(items, desc=label, total=total, mininterval=0.5, ascii=" =")
        return

    from IPython.display import display

    start = shown = time.monotonic()
    handle = display(_Line(label, 0, total, 0.0), display_id=True)
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - shown > 0.5:
            handle.update(_Line(label, done, total, now - start))
            shown = now
    handle.update(_Line(label, done, total, time.monotonic() - start))


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and shell.has_trait("kernel")


class _Line:
    """`label ██████░░░░ 3/5 · 12 s, 8 s left`, as plain text and as a small HTML bar."""

    def __init__(self, label: str, done: int, total: int | None, seconds: float):
        self.share = done / total if total else 0.0
        left = f", {seconds / done * (total - done):.0f} s left" if total and 0 < done < total else ""
        self.text = f"{label}: {done}{f'/{total}' if total else ''} · {seconds:.0f} s{left}"

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        text = html.escape(self.text)
        return (
            f'<div style="font-family:monospace"><progress value="{self.share:.3f}" max="1" '
            f'aria-label="{text}"></progress> {text}</div>'
        )
