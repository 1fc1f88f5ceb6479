"""Faults that the local hub makes happen on the wire, asked for from a notebook."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from fwupdate_helpers import contract, own_routes
from fwupdate_helpers.errors import (
    DeviceNotFound,
    DeviceOffline,
    FaultRefused,
    FaultsUnavailable,
    HubRequestError,
)
from fwupdate_helpers.fault import Fault, table

if TYPE_CHECKING:
    from requests import Response

    from fwupdate_helpers.hub import Hub

Json = dict[str, Any]

SECONDS: Final = 600.0
"""How long a fault lives when nothing else is said."""
STAGES: Final = (*contract.STAGES, *contract.FINAL_STATUSES)
"""What `at` may be: a stage that the device reports to have begun, or how the update ended."""

ON_AZURE: Final = (
    "Faults happen inside the local hub, on the wire; this is an IoT Hub on Azure, and nothing "
    "here can disturb it on purpose. Skip this cell, or run the notebook on the local hub."
)
TURNED_OFF: Final = (
    "This local hub was started without faults (--faults off). Skip this cell; or stop the hub "
    "with 'python -m fwupdate_helpers.localhub stop', and run the notebook's set-up cell again."
)
_PATH: Final = "/$localhub/faults"


class Faults:
    """What goes wrong at a hub on purpose: `Hub.faults`.

    Each method makes one fault, which happens on the wire in the hub's process: device and service
    meet it as they would meet the real thing. A fault ends when it has acted `count` times, after
    `seconds` (at most 3600), when it is cleared, when its device is deleted, or when the hub
    restarts. Iterating gives the active ones, oldest first; a notebook shows them as a table.

    Every method raises:
        FaultsUnavailable: The hub offers no faults: it is on Azure, or was started without.
        FaultRefused: An argument is wrong, or there are too many faults; the message tells which.
        DeviceNotFound: The hub has no such device.
        HubUnavailable: The local hub does not answer.

    Example:
        >>> if hub.faults.available:  # doctest: +SKIP
        ...     with hub.faults.swallow_method_responses(device_id):
        ...         invoke_firmware_update(hub.registry, device_id, uri)
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @property
    def available(self) -> bool:
        """Whether this hub makes faults happen; never on Azure.

        Raises:
            HubUnavailable: The local hub does not answer.
        """
        try:
            self._send("GET")
        except FaultsUnavailable:
            return False
        return True

    # -- the device's connection --------------------------------------------------------------

    def drop_connection(
        self,
        device_id: str,
        *,
        at: str | None = None,
        every: tuple[float, float] | None = None,
        keep_off: float = 0.0,
        count: int | None = None,
        seed: int = 0,
        seconds: float = SECONDS,
    ) -> Fault:
        """End a device's connection: now, at a stage, or again and again.

        Args:
            device_id: Whose connection.
            at: When the device reports that this stage has begun, or that the update ended so: one
                of `STAGES`. The report itself is still acknowledged.
            every: The shortest and the longest pause between two drops, in seconds.
            keep_off: For so many seconds after a drop the device finds no hub: the connection is
                closed before it is answered.
            count: How many drops; None means one, and with `every` all until it expires.
            seed: Decides the pauses of `every`: the same ones for the same seed.
            seconds: How long it lives.

        Raises:
            DeviceOffline: There is no connection to drop now, and none to keep off.
        """
        order: Json = {"device_id": device_id, "at": self._reported(at), "every": every}
        order |= {"keep_off": keep_off, "seed": seed}
        count = 1 if count is None and every is None else count
        return self._add("drop_connection", order, count, seconds)

    def lose_acknowledgement(
        self,
        device_id: str,
        *,
        count: int | None = 1,
        at: str | None = None,
        puback: bool = True,
        seconds: float = SECONDS,
    ) -> Fault:
        """Apply reported patches and never answer them, so that the device does not know.

        Args:
            device_id: Whose patches.
            count: The next so many; None means all until it expires.
            at: Only the patch that reports this stage or end: one of `STAGES`.
            puback: Whether MQTT's own acknowledgement still comes. With it, the SDK's call waits
                until its caller gives it up; without it, the SDK sends the patch again after the
                next connect.
            seconds: How long it lives.
        """
        order = {"device_id": device_id, "at": self._reported(at), "puback": puback}
        return self._add("lose_acknowledgement", order, count, seconds)

    # -- direct methods -----------------------------------------------------------------------

    def delay_method_responses(
        self, device_id: str, delay: float, *, count: int | None = 1, seconds: float = SECONDS
    ) -> Fault:
        """Pass a device's answers to direct methods on later.

        Args:
            device_id: Whose answers.
            delay: By so many seconds.
            count: The next so many; None means all until it expires.
            seconds: How long it lives.
        """
        order = {"device_id": device_id, "delay": delay}
        return self._add("delay_method_responses", order, count, seconds)

    def swallow_method_responses(
        self, device_id: str, *, count: int | None = 1, seconds: float = SECONDS
    ) -> Fault:
        """Never pass a device's answers on: it has done its part, and the service gets 504101.

        Args:
            device_id: Whose answers.
            count: The next so many; None means all until it expires.
            seconds: How long it lives.
        """
        return self._add("swallow_method_responses", {"device_id": device_id}, count, seconds)

    # -- services -----------------------------------------------------------------------------

    def refuse_service_calls(
        self,
        status: int = 429,
        *,
        count: int | None = None,
        retry_after: int | None = None,
        device_id: str | None = None,
        kinds: Iterable[str] | None = None,
        share: float | None = None,
        seed: int = 0,
        seconds: float = SECONDS,
    ) -> Fault:
        """Answer calls of services with an error instead of carrying them out.

        Args:
            status: 429 (ThrottlingException) or 503 (ServiceUnavailable).
            count: How many calls; None means the next one, and with `share` all until it expires.
            retry_after: Whole seconds for the header ``Retry-After``; None sends none.
            device_id: Only calls about this device.
            kinds: Only these: ``methods``, ``twin``, ``registry``.
            share: The part of the calls that is refused, above 0 and up to 1.
            seed: Decides which ones `share` hits: the same ones for the same seed.
            seconds: How long it lives.
        """
        order: Json = {"status": status, "retry_after": retry_after, "device_id": device_id}
        order |= {"kinds": None if kinds is None else _list(kinds), "share": share, "seed": seed}
        count = 1 if count is None and share is None else count
        return self._add("refuse_service_calls", order, count, seconds)

    # -- images -------------------------------------------------------------------------------

    def slow_download(
        self, bytes_per_second: int, *, image: str | None = None, seconds: float = SECONDS
    ) -> Fault:
        """Limit the speed of every download from the local hub, also of those that run.

        Args:
            bytes_per_second: For each download.
            image: Only of this image: what `publish_image` returned. None means all.
            seconds: How long it lives.
        """
        order = {"bytes_per_second": bytes_per_second, "image": self._image(image)}
        return self._add("slow_download", order, None, seconds)

    def cut_download(
        self,
        after: int,
        *,
        times: int | None = 1,
        reset: bool = False,
        image: str | None = None,
        seconds: float = SECONDS,
    ) -> Fault:
        """Hang up in the middle of a download.

        Args:
            after: When so many bytes of an answer have gone. A download that resumes starts
                counting anew; a shorter answer is not cut.
            times: How many answers; None means all until it expires.
            reset: Whether the connection is reset (TCP's RST), instead of closed.
            image: Only of this image: what `publish_image` returned. None means all.
            seconds: How long it lives.
        """
        order = {"after": after, "reset": reset, "image": self._image(image)}
        return self._add("cut_download", order, times, seconds)

    def corrupt_image(
        self,
        *,
        at: int | None = None,
        count: int | None = None,
        image: str | None = None,
        seconds: float = SECONDS,
    ) -> Fault:
        """Change one byte of an image on its way; its ETag stays, so only the hash finds it.

        Args:
            at: The byte's offset in the image; None means its middle.
            count: How often that byte is changed; None means until it expires.
            image: Only of this image: what `publish_image` returned. None means all.
            seconds: How long it lives.
        """
        order = {"at": at, "image": self._image(image)}
        return self._add("corrupt_image", order, count, seconds)

    # -- all of them --------------------------------------------------------------------------

    def clear(self) -> None:
        """End all faults of this hub, those of other notebooks, too."""
        self._send("DELETE")

    def __iter__(self) -> Iterator[Fault]:
        """Return the active faults, oldest first."""
        return iter([Fault(row, self._send) for row in self._send("GET").json()["faults"]])

    def __repr__(self) -> str:
        return f"Faults of {self._hub.host_name}; list(hub.faults) has the active ones"

    def _repr_html_(self) -> str:
        try:
            return table(self)
        except FaultsUnavailable as error:
            return f"<p>{escape(str(error))}</p>"

    def _add(self, kind: str, order: Json, count: int | None, seconds: float) -> Fault:
        if count is not None:
            order["count"] = count
        body = {"kind": kind, **order, "seconds": seconds}
        try:
            text = json.dumps(body, allow_nan=False)
        except (ValueError, TypeError) as error:
            raise FaultRefused(f"This fault cannot be: {error}.") from error
        device_id = order.get("device_id")
        return Fault(self._send("POST", body=text, device_id=device_id).json(), self._send)

    def _send(
        self, method: str, fault_id: str = "", *, body: str | None = None, device_id: Any = None
    ) -> Response:
        self._check_kind()
        path = f"{_PATH}/{fault_id}" if fault_id else _PATH
        content = None if body is None else BytesIO(body.encode())
        try:
            return own_routes.send(self._hub, method, path, content)
        except HubRequestError as error:
            raise _refused(error, device_id) from error

    def _check_kind(self) -> None:
        if self._hub.kind == "azure":
            raise FaultsUnavailable(ON_AZURE)

    def _reported(self, stage: str | None) -> Json | None:
        """Return what a device's report holds when a stage begins, or when the update ends so."""
        self._check_kind()
        if stage is None:
            return None
        if stage in contract.STAGES:
            path = [contract.UPDATE, contract.STAGES_KEY, stage, contract.STARTED_AT]
            return {"path": path, "name": stage}
        if stage in contract.FINAL_STATUSES:
            return {"path": [contract.STATUS], "value": stage, "name": stage}
        raise FaultRefused(f"There is no stage {stage!r}; 'at' may be one of {', '.join(STAGES)}.")

    def _image(self, address: str | None) -> str | None:
        """Return an image's path at the hub; the address is a secret, and is not shown."""
        self._check_kind()
        if address is None:
            return None
        try:
            parts = urlsplit(address)
            is_ours = (parts.scheme, parts.netloc) == ("https", self._hub.host_name)
        except (ValueError, AttributeError):
            is_ours = False
        if not is_ours:
            raise FaultRefused(
                "'image' is no address of an image at this local hub. Pass what publish_image "
                "returned for it, or None for all images."
            )
        return parts.path


def _refused(error: HubRequestError, device_id: Any) -> Exception:
    """Return the error of this kit that says why the hub makes no such fault."""
    message = str(error).partition(": ")[2]
    if error.code == 404001:
        return DeviceNotFound(
            str(device_id), f"The hub has no device {device_id}. Create it first, then its fault."
        )
    if error.code == 404103:
        return DeviceOffline(str(device_id), message)
    if error.code == 404000:
        return FaultsUnavailable(TURNED_OFF)
    return FaultRefused(message) if error.status == 400 else error


def _list(words: Iterable[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


__all__ = ["STAGES", "Fault", "Faults"]
