"""The faults that are to happen at the hub: which one acts on what, how often, and until when.

Nothing here does any I/O or has a clock. Who reads or writes on the wire asks the book, and does
what the answer says. Where several faults of one kind fit, the oldest acts. A restart of the hub
begins with an empty book.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, TypeVar

from fwupdate_helpers.localhub.errors import (
    ARGUMENT_INVALID,
    SERVICE_UNAVAILABLE,
    THROTTLED,
    HubError,
)
from fwupdate_helpers.localhub.fault_specs import (
    CorruptImage,
    CutDownload,
    DelayMethodResponses,
    DropConnection,
    FaultOrder,
    LoseAcknowledgement,
    RefuseServiceCalls,
    SlowDownload,
    Spec,
    SwallowMethodResponses,
)
from fwupdate_helpers.localhub.jsontext import timestamp

Json = dict[str, Any]
S = TypeVar("S", bound=Spec)

MAX_FAULTS: Final = 50
MAX_ENDED: Final = 100
"""So many faults that have ended can still be asked for."""

ACTIVE: Final = "active"
USED_UP: Final = "used up"
EXPIRED: Final = "expired"
CLEARED: Final = "cleared"


@dataclass
class Fault:
    """One fault in the book.

    Attributes:
        id: Random, so that it fits no fault of the hub's next run.
        remaining: How often it acts yet; None means until it expires.
        expires_at: When it ends at the latest.
        acted: How often it has acted.
        state: ``active``, or how it ended: ``used up``, ``expired`` or ``cleared``.
        off_until: Until when its device is kept off.
    """

    id: str
    order: FaultOrder
    remaining: int | None
    expires_at: datetime
    chance: Random = field(repr=False)
    acted: int = 0
    state: str = ACTIVE
    off_until: datetime | None = None

    @property
    def spec(self) -> Spec:
        """What it does."""
        return self.order.spec

    @property
    def device_id(self) -> str | None:
        """The device that it is about, or None."""
        return getattr(self.spec, "device_id", None)

    @property
    def is_active(self) -> bool:
        """Whether it may act, or keeps a device off."""
        return self.state == ACTIVE

    def next_pause(self) -> float:
        """Draw the seconds until a connection is dropped the next time."""
        if not isinstance(self.spec, DropConnection) or self.spec.every is None:
            raise TypeError("only a fault that comes again and again has pauses")
        return self.chance.uniform(*self.spec.every)

    def to_json(self) -> Json:
        """Return what may be told of it: no address of an image."""
        return {
            "id": self.id,
            "kind": self.order.kind,
            "text": self.spec.text,
            "device_id": self.device_id,
            "remaining": self.remaining,
            "acted": self.acted,
            "expires_at": timestamp(self.expires_at),
            "state": self.state,
        }


class FaultBook:
    """The faults of one run of the hub, oldest first.

    Args:
        clock: Tells the time, UTC.
        limit: How many may be active at once.
    """

    def __init__(self, clock: Callable[[], datetime], *, limit: int = MAX_FAULTS) -> None:
        self._clock = clock
        self._limit = limit
        self._active: list[Fault] = []
        self._ended: deque[Fault] = deque(maxlen=MAX_ENDED)

    def __iter__(self) -> Iterator[Fault]:
        """Return the active faults, oldest first."""
        if self._active:
            now = self._clock()
            for fault in [one for one in self._active if one.expires_at <= now]:
                # One that has acted often enough only waited for the end of its device's absence.
                self._end(fault, USED_UP if fault.remaining == 0 else EXPIRED)
        return iter(list(self._active))

    def add(self, order: FaultOrder) -> Fault:
        """Add a fault.

        Raises:
            HubError: 400004, there are too many already.
        """
        if len(list(self)) >= self._limit:
            raise HubError(
                ARGUMENT_INVALID,
                f"There are {self._limit} faults already. Clear some with hub.faults.clear().",
            )
        expires_at = self._clock() + timedelta(seconds=order.seconds)
        chance = Random(order.seed)  # noqa: S311 - repeatable, not secret
        fault = Fault(secrets.token_hex(4), order, order.count, expires_at, chance)
        self._active.append(fault)
        return fault

    def find(self, fault_id: str) -> Fault | None:
        """Return a fault that is active or ended lately, or None."""
        return next((one for one in [*self, *self._ended] if one.id == fault_id), None)

    def clear(self, fault_id: str | None = None) -> None:
        """End one fault or all; harmless when there is none."""
        for fault in self:
            if fault_id in (None, fault.id):
                self._end(fault, CLEARED)

    def forget(self, device_id: str) -> None:
        """End the faults of a device that was deleted."""
        for fault in self:
            if fault.device_id == device_id:
                self._end(fault, CLEARED)

    def act(self, fault: Fault) -> None:
        """Note that a fault has acted; it ends when that was the last time."""
        now, spec = self._clock(), fault.spec
        fault.acted += 1
        if isinstance(spec, DropConnection) and spec.keep_off:
            fault.off_until = now + timedelta(seconds=spec.keep_off)
        if fault.remaining is None:
            return
        fault.remaining -= 1
        if not fault.remaining and fault.off_until is not None:
            fault.expires_at = fault.off_until
        elif not fault.remaining:
            self._end(fault, USED_UP)

    def _end(self, fault: Fault, state: str) -> None:
        fault.state = state
        self._active.remove(fault)
        self._ended.append(fault)

    def _acting(self, kind: type[S], **about: str | None) -> Iterator[tuple[Fault, S]]:
        """Return the faults of a kind that may act, about this device, image or any."""
        if not self._active:
            return
        for fault in self:
            spec = fault.spec
            if not isinstance(spec, kind) or fault.remaining == 0:
                continue
            if all(getattr(spec, name) in (None, value) for name, value in about.items()):
                yield fault, spec

    def _act(self, fault: Fault, spec: S) -> S:
        self.act(fault)
        return spec

    # -- devices ------------------------------------------------------------------------------

    def keeps_off(self, device_id: str) -> bool:
        """Tell whether a device must not come in now."""
        if not self._active:
            return False
        now = self._clock()
        return any(
            fault.device_id == device_id and fault.off_until is not None and now < fault.off_until
            for fault in self
        )

    def drops_after(self, device_id: str, patch: Json) -> bool:
        """Tell whether a reported patch costs a device its connection."""
        for fault, spec in self._acting(DropConnection, device_id=device_id):
            if spec.at is not None and spec.at.is_in(patch):
                self.act(fault)
                return True
        return False

    def lost_acknowledgement(self, device_id: str, patch: Json) -> LoseAcknowledgement | None:
        """Return what keeps back the answer to a reported patch, if anything does."""
        for fault, spec in self._acting(LoseAcknowledgement, device_id=device_id):
            if spec.at is None or spec.at.is_in(patch):
                return self._act(fault, spec)
        return None

    def method_answer_delay(self, device_id: str) -> float | None:
        """Return in how many seconds a device's answer is passed on; None means never."""
        for fault, _ in self._acting(SwallowMethodResponses, device_id=device_id):
            self.act(fault)
            return None
        for fault, spec in self._acting(DelayMethodResponses, device_id=device_id):
            return self._act(fault, spec).delay
        return 0.0

    # -- services -----------------------------------------------------------------------------

    def refusal(self, kind: str, device_id: str | None) -> HubError | None:
        """Return the error that a call of a service gets instead of being carried out, or None.

        Args:
            kind: One of `CALL_KINDS`, or another word for what is none of them.
            device_id: Which device it is about; None where it is about none.
        """
        for fault, spec in self._acting(RefuseServiceCalls, device_id=device_id):
            if spec.kinds and kind not in spec.kinds:
                continue
            if fault.chance.random() < spec.share:
                self.act(fault)
                return HubError(
                    THROTTLED if spec.status == 429 else SERVICE_UNAVAILABLE,
                    f"The fault {fault.id} at the local hub refuses this call.",
                    retry_after=spec.retry_after,
                )
        return None

    # -- images -------------------------------------------------------------------------------

    def speed(self, image: str) -> int | None:
        """Return how many bytes a second a download of an image may have; None means all."""
        speeds = (spec.bytes_per_second for _, spec in self._acting(SlowDownload, image=image))
        return min(speeds, default=None)

    def next_cut(self, image: str, sent: int) -> tuple[Fault, CutDownload] | None:
        """Return what cuts an answer the earliest, when `sent` bytes of it have gone, or None."""
        cuts = (one for one in self._acting(CutDownload, image=image) if one[1].after >= sent)
        return min(cuts, key=lambda one: one[1].after, default=None)

    def corruptions(self, image: str) -> list[tuple[Fault, CorruptImage]]:
        """Return what changes an image on its way."""
        return list(self._acting(CorruptImage, image=image))
