"""A hub that the kit knows as one on Azure: by its connection string, and by nothing else.

It is a local hub that is started outside the kit, under the limits of the free tier, without what
only local hubs have, and trusted as public servers are: through the system's certificates, which
``SSL_CERT_FILE`` and ``REQUESTS_CA_BUNDLE`` replace here. A Blob storage stands beside it.

With ``make test-azure`` it is the IoT Hub on Azure that the user has set, and nothing stands in.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fwupdate_helpers.localhub.statedir import StateDir
from tests.blob_storage import blob_storage
from tests.support import HubProcess

REAL_VARIABLE: Final = "FWUPDATE_TEST_AZURE"
"""Set by ``make test-azure``: the tests that ask for a hub on Azure get the real one."""
STRING, CONTAINER = "FWUPDATE_IOTHUB_CONNECTION_STRING", "FWUPDATE_IMAGE_CONTAINER_URL"
HTTPS_PORT: Final = 443
NO_EXTRAS: Final = ("--trace", "off", "--faults", "off", "--images", "off")

_real: dict[str, str] = {}


def take_real_hub(environment: MutableMapping[str, str]) -> None:
    """Take the user's own hub out of the environment; keep it for `make test-azure` alone."""
    if environment.get(REAL_VARIABLE):
        names = (STRING, CONTAINER, "FWUPDATE_IOTHUB_WEBSOCKETS")
        _real.update({name: environment[name] for name in names if environment.get(name)})
    environment[STRING] = ""
    environment.pop(CONTAINER, None)


def is_real() -> bool:
    """Tell whether the tests run against a real account."""
    return STRING in _real


@dataclass(frozen=True)
class AzureMode:
    """What a program needs to work with the hub.

    Attributes:
        environment: Variables for its environment.
        process: The local hub that stands in; None for a real one.
    """

    environment: dict[str, str]
    process: HubProcess | None

    def __repr__(self) -> str:
        return f"AzureMode({'a stand-in' if self.process else 'the real thing'})"  # without keys

    @property
    def can_publish(self) -> bool:
        """Whether there is a container for images."""
        return CONTAINER in self.environment


@contextmanager
def azure_mode(
    folder: Path, *arguments: str, port: int | None = None, tier: str | None = "F1"
) -> Iterator[AzureMode]:
    """Run a hub that stands in for one on Azure, or hand out the real one.

    Args:
        folder: Where it keeps its state.
        arguments: Further ones of ``localhub run``.
        port: Its service port; None is one that is free.
        tier: Whose limits it has; None for none.
    """
    if is_real():
        attendee = f"test-{secrets.token_hex(4)}"
        yield AzureMode({**_real, "FWUPDATE_ATTENDEE": attendee, **_unused(folder)}, None)
        return
    limits = ("--tier", tier) if tier else ()
    ports = ("--service-port", str(port)) if port else ()
    with (
        HubProcess(folder / "hub", *NO_EXTRAS, *limits, *ports, *arguments) as process,
        blob_storage(StateDir(folder / "hub"), str(process.ready["device_host"])) as storage,
    ):
        yield AzureMode(
            {
                STRING: process.connection_string,
                CONTAINER: storage.container(),
                "SSL_CERT_FILE": process.ca_file,
                "REQUESTS_CA_BUNDLE": process.ca_file,
                **_unused(folder),
            },
            process,
        )


def _unused(folder: Path) -> dict[str, str]:
    """Return a folder for a local hub of the kit's own, that nobody is to start."""
    return {"FWUPDATE_STATE_DIR": str(folder / "unused")}


def program_environment(mode: AzureMode) -> dict[str, str]:
    """Return the environment of a program that works with the hub."""
    return {**os.environ, **mode.environment}
