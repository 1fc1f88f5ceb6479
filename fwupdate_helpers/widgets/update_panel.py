"""The live panel of one device: it watches the twin in the background, and has buttons."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.errors import UpdateTimeout
from fwupdate_helpers.hang_up import HungUp
from fwupdate_helpers.retries import RetryPolicy
from fwupdate_helpers.retry_log import Retry, RetryLog
from fwupdate_helpers.service import cancel_firmware_update, invoke_firmware_update
from fwupdate_helpers.widgets.live_view import LiveView
from fwupdate_helpers.widgets.panel_widgets import PanelWidgets
from fwupdate_helpers.widgets.picture import Picture
from fwupdate_helpers.widgets.twin_reader import TwinReader, service_client
from fwupdate_helpers.widgets.view import (
    CANCEL,
    POWER_CUT,
    READING,
    RESTART,
    START,
    Look,
    Note,
    PanelReader,
    PanelView,
    error_words,
)
from fwupdate_helpers.widgets.worker import Worker

if TYPE_CHECKING:
    from azure.iot.hub import IoTHubRegistryManager

    from fwupdate_helpers.device import SimulatedDevice
    from fwupdate_helpers.events import DeviceEvent
    from fwupdate_helpers.hub import Hub

ANSWER_SECONDS: Final = 20
"""How long the device may take to answer a press."""
_TURN_SECONDS: Final = 0.25
_LANES: Final = ("service", "power", "restart", "picture")
"""What may take long and must hold up neither the watching nor the others."""


class UpdatePanel(LiveView[PanelView]):
    """Shows the firmware updates of one device while they run, and starts, cancels, disturbs them.

    It shows what the device twin tells, so updates that another cell or another process has started
    are seen as well. It moves while cells run; its buttons wait until the kernel is free. A second
    panel for the same device closes the first one, so its cell may run again.

    Args:
        hub: The hub. When it is closed, the panel says so and ends.
        device: A device of this kernel.
        order: Keyword arguments for `invoke_firmware_update`, read anew at each press of *Start
            update*. An `update_id` in it is ignored: each press makes a new one. None is a
            simulated update.
        interval: Seconds between two reads of the twin while an update runs; when none does, the
            twin is read less often. None is 0.25 on the local hub, and 2 on one that counts reads
            as messages of the day.

    Attributes:
        widget: The ipywidgets widget that holds the panel, for a layout of your own.
        start_button: Also `cancel_button`, `power_button` and `restart_button`.
        error: The last error that was not expected, or None.

    Raises:
        TypeError: `order` has a name that `invoke_firmware_update` does not know.
        ValueError: `interval` is not positive.

    Example:
        >>> UpdatePanel(hub, device, order={"version": "2.0.0"})  # doctest: +SKIP
    """

    def __init__(
        self,
        hub: Hub,
        device: SimulatedDevice,
        *,
        order: Mapping[str, Any] | None = None,
        interval: float | None = None,
    ) -> None:
        self._order: Mapping[str, Any] = {} if order is None else order
        _check_order(self._order)
        super().__init__(
            hub,
            kind="panel",
            about=device.device_id,
            view=PanelView(READING, f"{READING} · 0 % · time left not known yet"),
            interval=hub.pace.panel if interval is None else interval,
            turn_seconds=_TURN_SECONDS,
        )
        self._device = device
        self._retries = RetryLog()
        self._presses = self._presses_done = self._presses_seen = 0
        self._events_seen: tuple[DeviceEvent, ...] = ()
        name = f"panel-{device.device_id}"
        self._workers = {lane: Worker(f"{name}-{lane}") for lane in _LANES}
        self._widgets = PanelWidgets(device.device_id)
        self._picture = Picture(self._widgets.show_picture)
        self._set_up_buttons()
        self._begin(name, widgets=self._widgets, workers=list(self._workers.values()))

    def _set_up_buttons(self) -> None:
        buttons = self._widgets.buttons
        self.start_button, self.cancel_button = buttons[START], buttons[CANCEL]
        self.power_button, self.restart_button = buttons[POWER_CUT], buttons[RESTART]
        self._widgets.on_press(START, lambda: self._press("service", self._start_update))
        self._widgets.on_press(CANCEL, lambda: self._press("service", self._cancel_update))
        # A lane of its own: the power may be cut while the device is still starting.
        self._widgets.on_press(POWER_CUT, lambda: self._press("power", self._device.power_cut))
        self._widgets.on_press(RESTART, lambda: self._press("restart", self._restart_device))

    def _is_settled(self) -> bool:
        return self._presses == self._presses_seen

    def _not_shown(self, message: str) -> UpdateTimeout:
        return UpdateTimeout(self._device.device_id, message)

    # -- the presses ------------------------------------------------------------------------------

    def _press(self, lane: str, work: Callable[[], object]) -> None:
        """Have a press worked on in the background: the kernel's own thread has other work."""
        with self._changed:
            if not self._workers[lane].submit(lambda: self._carry_out(work)):
                return
            self._presses += 1
        self._wake.set()

    def _carry_out(self, work: Callable[[], object]) -> None:
        note = None
        try:
            self._hang_up.check()  # the panel may have been closed since the press
            told = work()
            note = Note(told) if isinstance(told, str) else None
        except HungUp:
            return
        except Exception as error:
            note = Note(error_words(error), is_error=True)
            self.error = error
        with self._changed:
            self._note = note
            self._presses_done += 1
        self._wake.set()

    def _start_update(self) -> str | None:
        order = {name: value for name, value in self._order.items() if name != "update_id"}
        order = {"response_timeout": ANSWER_SECONDS, **order}
        order["policy"] = self._until_closed(order.get("policy"))
        self._retries = RetryLog()
        with service_client(self._hub, self._hang_up) as registry:
            update = invoke_firmware_update(
                registry, self._device.device_id, on_retry=self._note_retry, **order
            )
        if not update.is_up_to_date:
            return None
        return (
            f"Nothing was started: the device runs version {order.get('version')} already. To "
            "install it again, put allow_downgrade=True into the panel's order."
        )

    def _cancel_update(self) -> None:
        meant = self._view.update_id  # and no other one that has begun meanwhile
        with service_client(self._hub, self._hang_up) as registry:
            cancel_firmware_update(
                registry,
                self._device.device_id,
                meant,
                response_timeout=ANSWER_SECONDS,
                policy=self._until_closed(None),
                on_retry=self._note_retry,
            )

    def _restart_device(self) -> None:
        self._device.start(patience=lambda: not self._ended.is_set())

    def _until_closed(self, policy: RetryPolicy | None) -> RetryPolicy:
        """Return a policy that waits and tries no longer than this panel is open."""
        return replace(policy or RetryPolicy(), sleep=self._pause)

    def _pause(self, seconds: float) -> None:
        self._ended.wait(seconds)
        self._hang_up.check()

    def _note_retry(self, retry: Retry) -> None:
        """Show a retry: in words now, and as a mark in the picture."""
        self._retries(retry)
        self._note = Note(str(retry))
        self._wake.set()

    # -- the background thread --------------------------------------------------------------------

    def _new_look(self, registry: IoTHubRegistryManager) -> Callable[[], None]:
        reader = TwinReader(
            registry,
            self._device.device_id,
            self._interval,
            forgotten=self._hub.pace.forgotten,
        )
        viewer = PanelReader()
        return lambda: self._show_what_is_new(reader, viewer)

    def _show_what_is_new(self, reader: TwinReader, viewer: PanelReader) -> None:
        events = tuple(self._device.events)
        seen = self._read(reader, events)
        view = viewer.view(self._look(reader, events, busy=self._presses != seen))
        self._widgets.show(view)
        self._publish(view, seen)
        if not self._is_drawing and self._picture.is_due(view):
            self._draw_in(self._workers["picture"], lambda: self._picture.draw(view))

    def _read(self, reader: TwinReader, events: tuple[DeviceEvent, ...]) -> int:
        """Read the twin when it is time; return how many presses what was read knows of."""
        now, done, problem = time.monotonic(), self._presses_done, reader.problem
        lively = events[-1:] != self._events_seen or self._view.state in contract.STAGES
        due = done != self._presses_seen or reader.is_due(now, lively=lively)
        if self._hub_closed or not due:
            return self._presses_seen
        self._events_seen = events[-1:]
        reader.read(now)
        if problem is not None and reader.problem is None:
            self._note = Note("The twin can be read again; the panel goes on.")
        return done

    def _look(self, reader: TwinReader, events: tuple[DeviceEvent, ...], *, busy: bool) -> Look:
        device = self._device
        return Look(
            now=time.monotonic(),
            twin=reader.twin,
            problem=reader.problem,
            running=device.is_running,
            replaced=device.is_replaced,
            events=events,
            device_error=device.error,
            note=self._note,
            busy=busy,
            closed=self._hub_closed,
            retries=tuple(retry.at for retry in self._retries),
        )

    def _publish(self, view: PanelView, seen: int) -> None:
        with self._changed:
            self._view, self._presses_seen = view, seen
            self._changed.notify_all()


def _check_order(order: Mapping[str, Any]) -> None:
    own = {"registry", "device_id", "on_retry"}
    known = set(inspect.signature(invoke_firmware_update).parameters) - own
    unknown = ", ".join(sorted(set(order) - known))
    if unknown:
        raise TypeError(f"order has {unknown}; invoke_firmware_update takes {sorted(known)}.")
