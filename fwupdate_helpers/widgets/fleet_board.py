"""The live board of a fleet: it queries the hub in the background, and shows one device closely."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.fleet_view import FleetRow
from fwupdate_helpers.widgets.board_view import READING, BoardLook, BoardReader, BoardView
from fwupdate_helpers.widgets.board_widgets import BoardWidgets
from fwupdate_helpers.widgets.fleet_picture import FleetPicture
from fwupdate_helpers.widgets.fleet_reader import (
    LOCAL_SECONDS,
    FleetReader,
)
from fwupdate_helpers.widgets.live_view import LiveView
from fwupdate_helpers.widgets.twin_reader import READ_SECONDS, TwinReader
from fwupdate_helpers.widgets.view import Note, error_words
from fwupdate_helpers.widgets.worker import Worker

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

    from fwupdate_helpers.hub import Hub
    from fwupdate_helpers.timeline import UpdateTimeline

_TURN_SECONDS: Final = 0.5


class BoardTimeout(FirmwareUpdateError):
    """A fleet board did not show in time what was waited for."""


class FleetBoard(LiveView[BoardView]):
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
        super().__init__(
            hub,
            kind="board",
            about=condition,
            view=BoardView(READING, f"{READING} · 0 % · time left not known yet"),
            interval=max(LOCAL_SECONDS, hub.pace.panel) if interval is None else interval,
            turn_seconds=_TURN_SECONDS,
        )
        self._condition, self._update_id, self._since = condition, update_id, since
        self._chosen: str | None = None
        self._drawn: UpdateTimeline | None = None
        self._painter = Worker("fleet-board-picture")
        self._widgets = BoardWidgets("all devices" if condition == "*" else condition)
        self._picture = FleetPicture(self._widgets.show_picture)
        self._widgets.on_choice(self._choose)
        self._widgets.on_search(self._wake.set)
        self._begin("fleet-board", widgets=self._widgets, workers=[self._painter])

    def choose(self, device_id: str | None) -> None:
        """Show one device closely, as a person does who clicks on it; None shows none."""
        self._choose(device_id)

    def _not_shown(self, message: str) -> BoardTimeout:
        return BoardTimeout(message)

    def _choose(self, device_id: str | None) -> None:
        self._chosen = device_id
        self._wake.set()

    # -- the background thread --------------------------------------------------------------------

    def _new_look(self, registry: IoTHubRegistryManager) -> Callable[[], None]:
        registry.protocol.config.connection.timeout = READ_SECONDS
        reader, viewer, closely = self._new_reader(registry), BoardReader(), _Closely(registry)
        return lambda: self._show_what_is_new(reader, viewer, closely)

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

    def _show_what_is_new(
        self, reader: FleetReader, viewer: BoardReader, closely: _Closely
    ) -> None:
        if not self._hub_closed and reader.is_due(time.monotonic()):
            reader.read()
        view = viewer.view(self._look(reader))
        self._widgets.show(view, self._chosen)
        self._show_device(view, closely)
        self._publish(view)
        if view.rows and not self._is_drawing and self._picture.is_due(view):
            self._draw_in(self._painter, lambda: self._picture.draw(view))

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
