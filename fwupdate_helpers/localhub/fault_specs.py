"""What a fault can be: each kind with its limits, read from JSON, and the words that tell it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from fwupdate_helpers.localhub.errors import ARGUMENT_INVALID, HubError

Json = dict[str, Any]

DEFAULT_SECONDS: Final = 600.0
MAX_SECONDS: Final = 3600.0
"""The longest life of a fault, and the longest of all times in one."""
MAX_COUNT: Final = 1_000_000
MAX_BYTES: Final = 2**40
CALL_KINDS: Final = ("methods", "twin", "registry")
STATUSES: Final = (429, 503)

_REQUIRED: Final = object()
_IMAGE: Final = re.compile(r"/firmware/[A-Za-z0-9_-]{1,64}/([A-Za-z0-9._+-]{1,128})")
_WORD: Final = re.compile(r"[ -~]{1,64}")


@dataclass(frozen=True)
class ReportedValue:
    """What a reported patch must hold.

    Attributes:
        path: The names that lead to the value.
        value: The value; None means any that is not null.
        name: What people call it, for example ``downloading``.
    """

    path: tuple[str, ...]
    value: str | int | bool | None
    name: str

    def is_in(self, patch: Json) -> bool:
        """Tell whether a reported patch holds it."""
        found: Any = patch
        for name in self.path:
            found = found.get(name) if isinstance(found, dict) else None
        return found is not None and self.value in (None, found)


@dataclass(frozen=True)
class DropConnection:
    """Ends a device's connection: at once, when it reports something, or again and again."""

    device_id: str
    at: ReportedValue | None
    every: tuple[float, float] | None
    keep_off: float

    @property
    def is_at_once(self) -> bool:
        """Whether it waits for nothing."""
        return self.at is None and self.every is None

    @property
    def text(self) -> str:
        """What it does, in words."""
        when = " now"
        if self.at is not None:
            when = f" when it reports {self.at.name}"
        elif self.every is not None:
            when = f" every {self.every[0]:g} to {self.every[1]:g} s"
        off = f", and keeps it off for {self.keep_off:g} s" if self.keep_off else ""
        return f"drops the connection of {self.device_id}{when}{off}"


@dataclass(frozen=True)
class DelayMethodResponses:
    """Passes a device's answers on later."""

    device_id: str
    delay: float

    @property
    def text(self) -> str:
        """What it does, in words."""
        return f"delays the method responses of {self.device_id} by {self.delay:g} s"


@dataclass(frozen=True)
class SwallowMethodResponses:
    """Passes a device's answers on never."""

    device_id: str

    @property
    def text(self) -> str:
        """What it does, in words."""
        return f"swallows the method responses of {self.device_id}: the service gets 504101"


@dataclass(frozen=True)
class LoseAcknowledgement:
    """Applies a reported patch, and does not answer it.

    Attributes:
        at: Only a patch that holds this.
        puback: Whether MQTT's own acknowledgement is sent. With it the SDK never sends the patch
            again, and its call does not end by itself; without, it is sent again after the next
            connect (measured with azure-iot-device 2.14).
    """

    device_id: str
    at: ReportedValue | None
    puback: bool

    @property
    def text(self) -> str:
        """What it does, in words."""
        when = f" of {self.at.name}" if self.at else ""
        puback = "" if self.puback else ", and their PUBACK, too"
        return f"applies the reports{when} of {self.device_id}, and loses the answers{puback}"


@dataclass(frozen=True)
class RefuseServiceCalls:
    """Answers calls of services with an error; they are not carried out.

    Attributes:
        share: The part of the calls that is refused, above 0 and up to 1.
    """

    device_id: str | None
    status: int
    retry_after: int | None
    kinds: tuple[str, ...]
    share: float

    @property
    def text(self) -> str:
        """What it does, in words."""
        some = "" if self.share == 1 else f"{self.share:.0%} of the "
        kinds = " and ".join(self.kinds) + " " if self.kinds else ""
        about = f" about {self.device_id}" if self.device_id else ""
        wait = "" if self.retry_after is None else f" and Retry-After: {self.retry_after}"
        return f"refuses {some}{kinds}calls of services{about} with {self.status}{wait}"


@dataclass(frozen=True)
class SlowDownload:
    """Limits the speed of each download."""

    image: str | None = field(repr=False)
    bytes_per_second: int

    @property
    def text(self) -> str:
        """What it does, in words."""
        return f"slows each download of {_shown(self.image)} to {self.bytes_per_second} bytes/s"


@dataclass(frozen=True)
class CutDownload:
    """Hangs up after some bytes of an answer.

    Attributes:
        reset: Whether the connection is reset (RST) instead of closed.
    """

    image: str | None = field(repr=False)
    after: int
    reset: bool

    @property
    def text(self) -> str:
        """What it does, in words."""
        how = "resets" if self.reset else "cuts"
        return f"{how} the download of {_shown(self.image)} after {self.after} bytes of an answer"


@dataclass(frozen=True)
class CorruptImage:
    """Changes one byte of an image on its way; its ETag stays.

    Attributes:
        at: The offset in the image; None means its middle.
    """

    image: str | None = field(repr=False)
    at: int | None

    @property
    def text(self) -> str:
        """What it does, in words."""
        where = "in the middle" if self.at is None else f"at offset {self.at}"
        return f"changes the byte {where} of {_shown(self.image)}, under the same ETag"

    def offset(self, size: int) -> int:
        """Return which byte of an image of `size` bytes is changed."""
        return size // 2 if self.at is None else self.at


Spec = (
    DropConnection
    | DelayMethodResponses
    | SwallowMethodResponses
    | LoseAcknowledgement
    | RefuseServiceCalls
    | SlowDownload
    | CutDownload
    | CorruptImage
)


@dataclass(frozen=True)
class FaultOrder:
    """A checked wish for a fault.

    Attributes:
        spec: What it does.
        count: How often; None means until it expires.
        seconds: How long it lives.
        seed: What decides where chance does.
    """

    kind: str
    spec: Spec
    count: int | None
    seconds: float
    seed: int

    @classmethod
    def from_json(cls, body: Json) -> FaultOrder:
        """Check a wish as a client sends it; raise `HubError` 400004 for a bad one."""
        fields = _Fields(body)
        kind = fields.one_of("kind", tuple(_READERS))
        order = cls(
            kind=kind,
            spec=_READERS[kind](fields),
            count=fields.count(),
            seconds=fields.number("seconds", 0, MAX_SECONDS, default=DEFAULT_SECONDS),
            seed=fields.whole("seed", -(2**62), 2**62, default=0),
        )
        fields.check_all_read()
        return order


class _Fields:
    """Reads the fields of a wish; a null counts as a field that is not there."""

    def __init__(self, body: Json) -> None:
        self._left = {name: value for name, value in body.items() if value is not None}

    def _take(self, name: str, default: Any) -> Any:
        value = self._left.pop(name, default)
        if value is _REQUIRED:
            raise _bad(f"'{name}' is missing")
        return value

    def check_all_read(self) -> None:
        if self._left:
            raise _bad(f"there is no '{next(iter(self._left))}' in this fault")

    def number(self, name: str, above: float, most: float, *, default: Any = _REQUIRED) -> float:
        """A number of seconds or the like, greater than `above`."""
        value = self._take(name, default)
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not above < value <= most:
            raise _bad(f"'{name}' must be a number above {above:g} and up to {most:g}")
        return float(value)

    def whole(self, name: str, least: int, most: int, *, default: Any = _REQUIRED) -> Any:
        value = self._take(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _bad(f"'{name}' must be a whole number from {least} to {most}")
        return value

    def count(self) -> int | None:
        count: int | None = self.whole("count", 1, MAX_COUNT, default=None)
        return count

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise _bad(f"'{name}' must be true or false")
        return value

    def one_of(self, name: str, words: tuple[str, ...]) -> str:
        value = self._take(name, _REQUIRED)
        if value not in words:
            raise _bad(f"'{name}' must be one of {', '.join(words)}")
        return str(value)

    def device_id(self, *, default: Any = _REQUIRED) -> Any:
        value = self._take("device_id", default)
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= 128):
            raise _bad("'device_id' must be the id of a device")
        return value

    def image(self) -> str | None:
        value = self._take("image", None)
        if value is not None and not (isinstance(value, str) and _IMAGE.fullmatch(value)):
            raise _bad("'image' must be the path of an image of this hub")
        return value

    def keep_off(self) -> float:
        # Zero is the usual case here, and means not at all.
        if self._left.get("keep_off") in (0, None):
            self._left.pop("keep_off", None)
            return 0.0
        return self.number("keep_off", 0, MAX_SECONDS)

    def every(self) -> tuple[float, float] | None:
        value = self._take("every", None)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2:
            raise _bad("'every' must be two numbers of seconds")
        low, high = (_Fields({"every": one}).number("every", 0, MAX_SECONDS) for one in value)
        if low > high:
            raise _bad("'every' must be the shortest and the longest pause, in this order")
        return low, high

    def at(self) -> ReportedValue | None:
        value = self._take("at", None)
        if value is None:
            return None
        path = value.get("path") if isinstance(value, dict) else None
        if not isinstance(path, list) or not 1 <= len(path) <= 10 or not all(map(_is_word, path)):
            raise _bad("'at' must have a 'path' of 1 to 10 names")
        wanted, name = value.get("value"), value.get("name", path[-1])
        if not isinstance(wanted, (str, int, type(None))) or not _is_word(name):
            raise _bad("'at' must have a text, a number or nothing as 'value', and a short 'name'")
        return ReportedValue(tuple(path), wanted, name)

    def kinds(self) -> tuple[str, ...]:
        value = self._take("kinds", [])
        if not isinstance(value, list) or not all(one in CALL_KINDS for one in value):
            raise _bad(f"'kinds' must be of {', '.join(CALL_KINDS)}")
        return tuple(kind for kind in CALL_KINDS if kind in value)


def _drop_connection(fields: _Fields) -> Spec:
    spec = DropConnection(fields.device_id(), fields.at(), fields.every(), fields.keep_off())
    if spec.at is not None and spec.every is not None:
        raise _bad("a connection is dropped 'at' something or 'every' so often, not both")
    return spec


def _refuse_service_calls(fields: _Fields) -> Spec:
    status = fields.whole("status", 100, 599)
    if status not in STATUSES:
        raise _bad(f"'status' must be one of {', '.join(map(str, STATUSES))}")
    return RefuseServiceCalls(
        device_id=fields.device_id(default=None),
        status=status,
        retry_after=fields.whole("retry_after", 0, int(MAX_SECONDS), default=None),
        kinds=fields.kinds(),
        share=fields.number("share", 0, 1, default=1.0),
    )


_READERS: Final[dict[str, Callable[[_Fields], Spec]]] = {
    "drop_connection": _drop_connection,
    "delay_method_responses": lambda fields: DelayMethodResponses(
        fields.device_id(), fields.number("delay", 0, MAX_SECONDS)
    ),
    "swallow_method_responses": lambda fields: SwallowMethodResponses(fields.device_id()),
    "lose_acknowledgement": lambda fields: LoseAcknowledgement(
        fields.device_id(), fields.at(), fields.flag("puback", default=True)
    ),
    "refuse_service_calls": _refuse_service_calls,
    "slow_download": lambda fields: SlowDownload(
        fields.image(), fields.whole("bytes_per_second", 1, MAX_BYTES)
    ),
    "cut_download": lambda fields: CutDownload(
        fields.image(), fields.whole("after", 0, MAX_BYTES), fields.flag("reset", default=False)
    ),
    "corrupt_image": lambda fields: CorruptImage(
        fields.image(), fields.whole("at", 0, MAX_BYTES, default=None)
    ),
}


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(_WORD.fullmatch(value))


def _shown(image: str | None) -> str:
    """Name an image without the token in its path."""
    found = _IMAGE.fullmatch(image) if image else None
    return f"the image …/{found[1]}" if found else "any image"


def _bad(problem: str) -> HubError:
    return HubError(ARGUMENT_INVALID, f"This fault cannot be: {problem}.")
