"""What a fleet and its workers say to each other: one JSON object a line.

Down to the worker goes first a `Task`, with the devices' connection strings, which therefore stand
neither on a command line nor in an environment; then orders ``{"on": [index, …]}`` and ``{"off":
[…]}``. The end of the input is the end of the worker. Up come ``{"folder": …}`` once, and
``{"index": …, "state": …, "why": …}`` with every change.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from typing import Any, Final

Json = dict[str, Any]

STARTING: Final = "starting"
ONLINE: Final = "online"
OFFLINE: Final = "offline"
"""It has no power, or no connection, at the moment."""
SWITCHED_OFF: Final = "off"
"""It was switched off, and has said goodbye."""
FAILED: Final = "failed"
"""It has ended by itself, and comes back when it is switched on again."""

ON: Final = "on"
OFF: Final = "off"
INDEX: Final = "index"
STATE: Final = "state"
WHY: Final = "why"
FOLDER: Final = "folder"


END_SECONDS: Final = 45.0
"""How long the devices of a worker may take to say goodbye; then it ends all the same."""


@dataclass(frozen=True)
class Member:
    """One device, as a worker is told of it; the names are those of `DeviceProfile`."""

    index: int
    device_id: str
    key: str
    model: str
    version: str
    bytes_per_second: float | None
    fails_self_test: bool
    hangs: bool
    loses_power_at: str | None

    def __repr__(self) -> str:
        return f"Member({self.device_id!r})"  # without the key


@dataclass(frozen=True)
class Task:
    """What a worker is to run.

    Attributes:
        host: What the devices connect to.
        device_options: Keyword arguments for the SDK's client.
        stage_seconds: How long a stage takes at least.
        outage_seconds: How long the power stays away when it is lost.
        watchdog_seconds: How long a board's watchdog waits.
        publisher_key: The raw public key that must have signed every image.
        images: For each version, the image that boards leave the factory with.
        lock: A file that the worker holds locked for as long as it runs.
        members: The devices.
    """

    host: str
    device_options: Json
    stage_seconds: float
    outage_seconds: float
    watchdog_seconds: float
    publisher_key: bytes
    images: dict[str, bytes]
    lock: str
    members: tuple[Member, ...]

    def __repr__(self) -> str:
        return f"Task({len(self.members)} devices of {self.host})"

    def to_line(self) -> str:
        """Return the task as its line."""
        content = asdict(self)
        content["publisher_key"] = self.publisher_key.hex()
        content["images"] = {
            version: base64.b64encode(image).decode() for version, image in self.images.items()
        }
        return json.dumps(content)

    @classmethod
    def from_line(cls, line: str) -> Task:
        """Read the line."""
        content = json.loads(line)
        content["publisher_key"] = bytes.fromhex(content["publisher_key"])
        content["images"] = {
            version: base64.b64decode(image) for version, image in content["images"].items()
        }
        content["members"] = tuple(Member(**one) for one in content["members"])
        return cls(**content)
