"""A progress bar for the one cell that waits: in a notebook, and nothing elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

OnTick = Callable[[int], object]

_REDRAW_SECONDS: Final = 0.2


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[OnTick]:
    """Show a bar with a line of text while the block runs, where there is a notebook to show it.

    Args:
        what: What is done, for example "Connecting devices".
        total: How many there are to do.

    Yields:
        A function to call with how many are done, as often as one likes.
    """
    if not total or not _in_notebook():
        yield lambda done: None
        return
    bar = _Bar(what, total)
    try:
        yield bar.tick
    finally:
        bar.close()


def line_of(what: str, *, done: int, total: int, seconds: float) -> str:
    """Return the line of text: what, how many, and how long it will still take.

    >>> line_of("Connecting devices", done=250, total=1000, seconds=5)
    'Connecting devices: 250 of 1000 (25 %), about 15 s left'
    >>> line_of("Connecting devices", done=1000, total=1000, seconds=20.4)
    'Connecting devices: 1000 of 1000 (100 %) in 20.4 s'
    """
    line = f"{what}: {done} of {total} ({100 * done // total} %)"
    if done >= total:
        return f"{line} in {seconds:.1f} s"
    return f"{line}, about {seconds * (total - done) / done:.0f} s left" if done else line


class _Bar:
    def __init__(self, what: str, total: int) -> None:
        from IPython.display import display
        from ipywidgets import HTML, HBox, IntProgress

        self._what, self._total = what, total
        self._began, self._drawn_at, self._done = time.monotonic(), 0.0, 0
        self._bar = IntProgress(min=0, max=total)
        self._line = HTML()
        self._box = HBox([self._bar, self._line])
        self._draw()
        display(self._box)  # type: ignore[no-untyped-call]

    def tick(self, done: int) -> None:
        self._done = done
        if done >= self._total or time.monotonic() - self._drawn_at > _REDRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        seconds = self._drawn_at - self._began
        self._bar.value = self._done
        self._line.value = line_of(self._what, done=self._done, total=self._total, seconds=seconds)

    def close(self) -> None:
        if self._done < self._total:
            self._bar.bar_style = "warning"
        self._draw()


def _in_notebook() -> bool:
    from sys import modules

    if "IPython" not in modules:
        return False
    from IPython import get_ipython

    shell: Any = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
