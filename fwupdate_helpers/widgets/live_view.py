"""The life of a live widget: a thread that looks at the hub again and again, until it is ended."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from fwupdate_helpers.hang_up import HangUp, HungUp
from fwupdate_helpers.widgets.twin_reader import service_client
from fwupdate_helpers.widgets.view import Note, error_words
from fwupdate_helpers.widgets.worker import Worker

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

    from fwupdate_helpers.hub import Hub

CLOSE_SECONDS: Final = 30.0
"""How long closing waits for what nobody can end, such as a device that says goodbye."""

_log = logging.getLogger(__name__)
_open: dict[tuple[str, ...], LiveView[Any]] = {}
_open_lock = threading.Lock()


class View(Protocol):
    """What a live widget shows at one moment."""

    @property
    def state(self) -> str:
        """One word or a few."""

    @property
    def text(self) -> str:
        """The line that tells state, percent and time left."""

    @property
    def message(self) -> Note:
        """What there is to say besides."""


class Widgets(Protocol):
    """The ipywidgets of a live widget."""

    @property
    def root(self) -> Any:
        """The widget that holds the others."""

    def show_message(self, note: Note) -> None:
        """Show what there is to say."""

    def close(self) -> None:
        """Take all off the page."""


V = TypeVar("V", bound=View)


class LiveView(ABC, Generic[V]):
    """What panel and board have in common. A second one for the same thing closes the first one.

    A class of this kind makes its parts, and calls `_begin` last.

    Args:
        hub: The hub. When it is closed, the widget says so and ends.
        kind: What people call it: panel or board.
        about: What it shows, as people read it.
        view: What it shows at first.
        interval: Seconds between two looks.
        turn_seconds: How long the thread sleeps at most, as the time left goes on meanwhile.

    Attributes:
        error: The last error that was not expected, or None.

    Raises:
        ValueError: `interval` is not positive.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        kind: str,
        about: str,
        view: V,
        interval: float,
        turn_seconds: float,
    ) -> None:
        if not interval > 0:
            raise ValueError("interval must be more than zero seconds.")
        self._hub, self._kind, self._about = hub, kind, about
        self._view, self._interval, self._turn_seconds = view, interval, turn_seconds
        self.error: Exception | None = None
        self._note: Note | None = None
        self._changed = threading.Condition()
        self._wake, self._ended, self._hang_up = threading.Event(), threading.Event(), HangUp()
        self._hub_closed = self._is_over = self._is_drawing = False
        self._key = (kind, hub.host_name, about)

    def _begin(self, thread_name: str, *, widgets: Widgets, workers: Sequence[Worker]) -> None:
        """Close an older one for the same thing, and start the thread."""
        self._parts, self._helpers = widgets, workers
        self.widget = widgets.root
        self._thread = threading.Thread(target=self._run, name=thread_name, daemon=True)
        with _open_lock:
            older, _open[self._key] = _open.get(self._key), self
        if older is not None:
            older.close()
        self._forget_hub = self._hub.call_on_close(self._end_with_hub)
        self._thread.start()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._about!r}, {self.text!r})"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    # -- what a cell or a test asks ---------------------------------------------------------------

    @property
    def view(self) -> V:
        """What is shown now."""
        return self._view

    @property
    def text(self) -> str:
        """The line that tells state, percent and time left."""
        return self._view.text

    def wait_for(self, wanted: str | Callable[[V], bool], *, timeout: float = 60.0) -> V:
        """Wait until something is shown, with all presses worked off; return that view.

        Args:
            wanted: A state such as ``completed``, or a function that tells whether a view is the
                one.
            timeout: Seconds after which to give up.

        Raises:
            FirmwareUpdateError: It was not shown in time, or this was closed.
        """

        def fits() -> bool:
            view = self._view
            return self._is_settled() and (
                view.state == wanted if isinstance(wanted, str) else wanted(view)
            )

        with self._changed:
            self._changed.wait_for(lambda: fits() or self._is_over, timeout)
            if fits():
                return self._view
        what = f"{wanted!r}" if isinstance(wanted, str) else "what was waited for"
        seen, advice = f"The {self._kind} does not show", "Wait longer."
        if self._is_over:
            seen = f"The {self._kind} is closed and did not show"
            advice = f"Run the {self._kind}'s cell again."
        raise self._not_shown(f"{seen} {what} but: {self.text}. {self._view.message.text} {advice}")

    def close(self) -> None:
        """End the threads and take this off the page; harmless when that is done.

        A request that waits for its answer is ended at once. A direct method that the hub has
        passed on already runs all the same: the twin tells what became of it.
        """
        self._forget_hub()
        self._end()
        self._parts.close()
        with _open_lock:
            if _open.get(self._key) is self:
                del _open[self._key]

    def _end_with_hub(self) -> None:
        self._hub_closed = True
        self._end()

    def _end(self) -> None:
        self._ended.set()
        self._hang_up.end()
        self._wake.set()
        give_up = time.monotonic() + CLOSE_SECONDS
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)
        for worker in self._helpers:
            worker.close(max(0.0, give_up - time.monotonic()))

    # -- what each kind does in its own way -------------------------------------------------------

    def _is_settled(self) -> bool:
        """Tell whether the view knows of all that was asked for."""
        return True

    @abstractmethod
    def _not_shown(self, message: str) -> Exception:
        """Return the error of a wait in vain."""

    @abstractmethod
    def _new_look(self, registry: IoTHubRegistryManager) -> Callable[[], None]:
        """Return what looks once, and shows what is new; it is called in the thread."""

    # -- the background thread --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with service_client(self._hub, self._hang_up) as registry:
                self._watch(self._new_look(registry))
        except Exception as error:
            self._tell(error)
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _watch(self, look: Callable[[], None]) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            self._turn(look)
            if not self._ended.is_set():
                self._wake.wait(min(self._interval, self._turn_seconds))
        if self._hub_closed:
            self._turn(look)

    def _turn(self, look: Callable[[], None]) -> None:
        """Look once; whatever goes wrong is shown, too."""
        try:
            look()
        except HungUp:
            return  # this was closed meanwhile
        except Exception as error:
            self._tell(error)

    def _draw_in(self, worker: Worker, draw: Callable[[], None]) -> None:
        """Have the picture drawn by a worker, one at a time."""

        def draw_and_tell() -> None:
            try:
                draw()
            except Exception as error:
                self._tell(error)
            finally:
                self._is_drawing = False
                self._wake.set()

        self._is_drawing = True
        worker.submit(draw_and_tell)

    def _tell(self, error: Exception) -> None:
        self.error, self._note = error, Note(error_words(error, self._kind), is_error=True)
        _log.warning("The %s of %s: %r", self._kind, self._about, error)
        with suppress(Exception):  # it was the showing itself that failed
            self._parts.show_message(self._note)


@atexit.register
def _end_all() -> None:
    """End the threads before the interpreter goes away under them."""
    for view in list(_open.values()):
        view._end()
