"""The live board of a fleet: it queries the hub in the background, and shows one device closely."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.fleet_view import FleetRow
from fwupdate_helpers.hang_up import HangUp, HungUp
from fwupdate_helpers.widgets.board_view import READING, BoardLook, BoardReader, BoardView
from fwupdate_helpers.widgets.board_widgets import BoardWidgets
from fwupdate_helpers.widgets.fleet_picture import FleetPicture
from fwupdate_helpers.widgets.fleet_reader import (
    LOCAL_SECONDS,
    FleetReader,
)
from fwupdate_helpers.widgets.twin_reader import READ_SECONDS, TwinReader, service_client
from fwupdate_helpers.widgets.view import Note, error_words
from fwupdate_helpers.widgets.worker import Worker

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

    from fwupdate_helpers.hub import Hub
    from fwupdate_helpers.timeline import UpdateTimeline

CLOSE_SECONDS: Final = 30.0
_TURN_SECONDS: Final = 0.5
"""How long the thread sleeps at most: the time left goes on between two reads."""

_log = logging.getLogger(__name__)
_boards: dict[tuple[str, str], FleetBoard] = {}
_boards_lock = threading.Lock()


class BoardTimeout(FirmwareUpdateError):
    """A fleet board did not show in time what was waited for."""


class FleetBoard:
    """Shows the updates of a fleet while they run: counts, swimlanes, and any device closely.

    It shows what the hub tells, whoever started the updates. It moves while cells run; choosing a
    device waits until the kernel is free. A second board for the same condition closes the first
    one, so its cell may run again.

    On Azure each page of 100 devices is a query, and a unit of S1 grants 20 a minute to all that
    work with the hub. The board takes half of them at most, so a fleet of 1,000 is read once a
    minute; the device that is chosen is read by itself, every 2 seconds. When nothing has changed
    for a quarter of an hour, a hub that counts is read every 10 minutes.

    Args:
        hub: The hub. When it is closed, the board says so and ends.
        condition: What stands after WHERE in a query; ``*`` means all devices.
        update_id: Leave out what the devices tell of other updates than this one.
        since: Leave out updates that began earlier (hub clock).
        interval: Seconds between two reads while updates run; None is 1 s, and 2 s on a hub
            that counts. When none run, the fleet is read less often.

    Attributes:
        widget: The ipywidgets widget that holds the board, for a layout of your own.
        error: The last error that was not expected, or None.

    Raises:
        ValueError: `interval` is not positive.

    Example:
        >>> FleetBoard(hub, "tags.rollout.id = 'fw-2-0-0'")  # doctest: +SKIP
    """

    def __init__(
        self,
        hub: Hub,
        condition: str = "*",
        *,
        update_id: str | None = None,
        since: datetime | None = None,
        interval: float | None = None,
    ) -> None:
        least = max(LOCAL_SECONDS, hub.pace.panel)
        self._interval = least if interval is None else interval
        if not self._interval > 0:
            raise ValueError("interval must be more than zero seconds.")
        self._hub, self._condition, self._update_id, self._since = hub, condition, update_id, since
        self.error: Exception | None = None
        self._note: Note | None = None
        self._view = BoardView(READING, f"{READING} · 0 % · time left not known yet")
        self._chosen: str | None = None
        self._drawn: UpdateTimeline | None = None
        self._changed = threading.Condition()
        self._wake, self._ended, self._hang_up = threading.Event(), threading.Event(), HangUp()
        self._hub_closed = self._is_over = self._is_drawing = False
        self._painter = Worker("fleet-board-picture")
        self._thread = threading.Thread(target=self._run, name="fleet-board", daemon=True)
        self._widgets = BoardWidgets("all devices" if condition == "*" else condition)
        self.widget = self._widgets.root
        self._picture = FleetPicture(self._widgets.show_picture)
        self._widgets.on_choice(self._choose)
        self._widgets.on_search(self._wake.set)
        self._take_place()
        self._forget_hub = hub.call_on_close(self._end_with_hub)
        self._thread.start()

    def _take_place(self) -> None:
        key = (self._hub.host_name, self._condition)
        with _boards_lock:
            older, _boards[key] = _boards.get(key), self
        if older is not None:
            older.close()

    def __repr__(self) -> str:
        return f"FleetBoard({self._condition!r}, {self.text!r})"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    # -- what a cell or a test asks ---------------------------------------------------------------

    @property
    def view(self) -> BoardView:
        """What the board shows now."""
        return self._view

    @property
    def text(self) -> str:
        """The line that tells state, percent and time left."""
        return self._view.text

    def choose(self, device_id: str | None) -> None:
        """Show one device closely, as a person does who clicks on it; None shows none."""
        self._choose(device_id)

    def wait_for(
        self, wanted: str | Callable[[BoardView], bool], *, timeout: float = 60.0
    ) -> BoardView:
        """Wait until the board shows something; return its view.

        Args:
            wanted: A state such as ``all updates ended`` (`board_view` has them all), or a
                function that tells whether a view is the one.
            timeout: Seconds after which to give up.

        Raises:
            BoardTimeout: It did not show in time, or the board has ended.
        """

        def fits() -> bool:
            view = self._view
            return view.state == wanted if isinstance(wanted, str) else wanted(view)

        with self._changed:
            self._changed.wait_for(lambda: fits() or self._is_over, timeout)
            if fits():
                return self._view
        what = f"{wanted!r}" if isinstance(wanted, str) else "what was waited for"
        advice = "Run the board's cell again." if self._is_over else "Wait longer."
        raise BoardTimeout(
            f"The board does not show {what} but: {self.text}. {self._view.message.text} {advice}"
        )

    def close(self) -> None:
        """End the board's threads and take it off the page; harmless when that is done."""
        self._forget_hub()
        self._end()
        self._widgets.close()
        with _boards_lock:
            for key in [key for key, board in _boards.items() if board is self]:
                del _boards[key]

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
        self._painter.close(max(0.0, give_up - time.monotonic()))

    def _choose(self, device_id: str | None) -> None:
        self._chosen = device_id
        self._wake.set()

    # -- the background thread --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with service_client(self._hub, self._hang_up) as registry:
                registry.protocol.config.connection.timeout = READ_SECONDS
                self._watch(registry)
        except Exception as error:
            self._tell(error)
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _watch(self, registry: IoTHubRegistryManager) -> None:
        reader, viewer, closely = self._new_reader(registry), BoardReader(), _Closely(registry)
        while not self._ended.is_set():
            self._wake.clear()
            self._turn(reader, viewer, closely)
            if not self._ended.is_set():
                self._wake.wait(min(self._interval, _TURN_SECONDS))
        if self._hub_closed:
            self._turn(reader, viewer, closely)

    def _new_reader(self, registry: IoTHubRegistryManager) -> FleetReader:
        return FleetReader(
            registry,
            self._condition,
            interval=self._interval,
            pace=self._hub.pace,
            update_id=self._update_id,
            since=self._since,
            clock=time.monotonic,
        )

    def _turn(self, reader: FleetReader, viewer: BoardReader, closely: _Closely) -> None:
        """Look once, and show what is new; whatever goes wrong is shown, too."""
        try:
            if not self._hub_closed and reader.is_due(time.monotonic()):
                reader.read()
            view = viewer.view(self._look(reader))
            self._widgets.show(view, self._chosen)
            self._show_device(view, closely)
            self._publish(view)
            if view.rows and not self._is_drawing and self._picture.is_due(view):
                self._is_drawing = True
                self._painter.submit(lambda: self._draw(view))
        except HungUp:
            return  # the board was closed meanwhile
        except Exception as error:
            self._tell(error)

    def _look(self, reader: FleetReader) -> BoardLook:
        return BoardLook(
            now=time.monotonic(),
            rows=reader.rows,
            problem=reader.problem,
            note=self._note,
            closed=self._hub_closed,
            seconds=reader.seconds,
        )

    def _publish(self, view: BoardView) -> None:
        with self._changed:
            self._view = view
            self._changed.notify_all()

    def _draw(self, view: BoardView) -> None:
        try:
            self._picture.draw(view)
        except Exception as error:
            self._tell(error)
        finally:
            self._is_drawing = False
            self._wake.set()

    def _show_device(self, view: BoardView, closely: _Closely) -> None:
        """Show the device that was chosen, from a look of its own at its twin."""
        chosen = self._chosen
        if not self._hub_closed:
            closely.look(chosen, self._interval, forgotten=self._hub.pace.forgotten)
        row = next((row for row in view.rows if row.device_id == chosen), None)
        if closely.twin is not None:
            row = FleetRow.from_twin(closely.twin, update_id=self._update_id, since=self._since)
        problem = closely.problem
        note = Note(error_words(problem, "board"), is_error=True) if problem else None
        self._widgets.show_device(row, note)
        timeline = row.timeline if row else None
        if timeline != self._drawn:
            self._drawn = timeline
            self._painter.submit(lambda: self._draw_device(timeline))

    def _draw_device(self, timeline: UpdateTimeline | None) -> None:
        from fwupdate_helpers.widgets.picture import timeline_png

        try:
            if timeline is None:
                self._widgets.show_device_picture(None, "")
            elif timeline is self._drawn:  # else there is a newer one to draw
                title = timeline.title.removesuffix(f": {timeline.device_id}")
                png = timeline_png(timeline, title=title, to_come=())
                self._widgets.show_device_picture(png, timeline.alt_text)
        except Exception as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        self.error, self._note = error, Note(error_words(error, "board"), is_error=True)
        _log.warning("The fleet board: %r", error)
        with suppress(Exception):  # it was the showing itself that failed
            self._widgets.show_message(self._note)


class _Closely:
    """Reads the twin of the one device that was chosen."""

    def __init__(self, registry: IoTHubRegistryManager) -> None:
        self._registry = registry
        self._chosen: str | None = None
        self._reader: TwinReader | None = None

    @property
    def twin(self) -> object | None:
        """Its twin, or None before it was read."""
        return self._reader.twin if self._reader else None

    @property
    def problem(self) -> Exception | None:
        """Why it could not be read just now, or None."""
        return self._reader.problem if self._reader else None

    def look(self, chosen: str | None, interval: float, *, forgotten: float) -> None:
        """Read the twin when it is time; another device is read at once."""
        if chosen != self._chosen:
            self._chosen = chosen
            self._reader = (
                TwinReader(self._registry, chosen, interval, forgotten=forgotten)
                if chosen
                else None
            )
        now = time.monotonic()
        if self._reader and self._reader.is_due(now, lively=_runs(self.twin)):
            self._reader.read(now)


def _runs(twin: object | None) -> bool:
    return twin is None or FleetRow.from_twin(twin).is_running


@atexit.register
def _end_all() -> None:
    """End the threads before the interpreter goes away under them."""
    for board in list(_boards.values()):
        board._end()
