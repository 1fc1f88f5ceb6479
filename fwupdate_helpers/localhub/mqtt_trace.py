"""What the wire trace says of the MQTT packets of one device."""

from __future__ import annotations

from typing import Any, Final

from fwupdate_helpers.localhub.wiretrace import DEVICE, HUB, Message, WireTrace

_KINDS: Final = (("$iothub/methods/", "methods"), ("$iothub/twin/", "twin"))
_ANSWERS: Final = ("$iothub/methods/res/", "$iothub/twin/res/")
_REQUESTS: Final = ("$iothub/methods/POST/", "$iothub/twin/GET/", "$iothub/twin/PATCH/")
_MAX_OPEN: Final = 200


class MqttTrace:
    """Adds the packets of one device to the wire trace, answers beside their requests."""

    def __init__(self, trace: WireTrace, device_id: str = "") -> None:
        self.device_id = device_id
        self._trace = trace
        self._open: dict[str, int | None] = {}
        self._unacknowledged: dict[int, int | None] = {}
        self._kinds: dict[int | None, str] = {}

    def received(self, topic: str, payload: bytes) -> int | None:
        """Note a PUBLISH of the device; return its number."""
        return self._published(topic, payload, from_device=True)

    def sent(self, topic: str, payload: bytes, *, packet_id: int | None = None) -> None:
        """Note a PUBLISH of the hub; one with a packet id will be acknowledged."""
        number = self._published(topic, payload, from_device=False)
        if number is not None:
            self._trace.note_images(self.device_id, payload)
        if packet_id is not None:
            self._keep(self._unacknowledged, packet_id, number)

    def packet(
        self,
        name: str,
        address: str = "",
        *,
        from_device: bool,
        status: int | None = None,
        reason: str = "",
    ) -> None:
        """Note a packet that carries no message, or the end of the connection with its reason."""
        self._trace.add(
            Message(
                self.device_id,
                "connection",
                *_ends(from_device),
                name,
                address,
                status=status,
                is_acknowledgement=name in ("SUBACK", "UNSUBACK"),
                reason=reason,
            )
        )

    def acknowledged_by_hub(self, number: int | None) -> None:
        """Note a PUBACK of the hub for the packet with this number in the trace."""
        self._acknowledged(number, from_device=False)

    def acknowledged_by_device(self, packet_id: int) -> None:
        """Note a PUBACK of the device for the packet with this id."""
        self._acknowledged(self._unacknowledged.pop(packet_id, None), from_device=True)

    def _acknowledged(self, number: int | None, *, from_device: bool) -> None:
        message = Message(
            self.device_id,
            self._kinds.pop(number, "other"),
            *_ends(from_device),
            "PUBACK",
            answers=number,
            is_acknowledgement=True,
        )
        self._trace.add(message)

    def _published(self, topic: str, payload: bytes, *, from_device: bool) -> int | None:
        if not self._trace.on:
            return None
        rid = topic.partition("$rid=")[2].partition("&")[0]
        is_answer = topic.startswith(_ANSWERS)
        kind = next((kind for start, kind in _KINDS if topic.startswith(start)), "other")
        message = Message(
            self.device_id,
            kind,
            *_ends(from_device),
            "PUBLISH",
            _public(topic),
            status=_status(topic) if is_answer else None,
            body=payload,
            answers=self._open.pop(rid, None) if is_answer else None,
        )
        number = self._trace.add(message)
        self._keep(self._kinds, number, kind)
        if rid and topic.startswith(_REQUESTS):
            self._keep(self._open, rid, number)
        return number

    @staticmethod
    def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
        """Remember something for the answer that may come, and not without end."""
        kept[key] = value
        if len(kept) > _MAX_OPEN:
            del kept[next(iter(kept))]


def _ends(from_device: bool) -> tuple[str, str]:
    return (DEVICE, HUB) if from_device else (HUB, DEVICE)


def _public(topic: str) -> str:
    """Return a topic without the properties of telemetry, which are the application's own."""
    start, events, _ = topic.partition("/messages/events/")
    return start + events


def _status(topic: str) -> int | None:
    part = topic.partition("/res/")[2].partition("/")[0]
    return int(part) if part.lstrip("-").isdigit() and len(part) < 12 else None
