"""Fixtures for every test: a state folder of their own, a local hub of their own, no Azure."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import azure_mode
from tests.support import HubProcess, device_connection_string

# Before anything reads it: no test ever reaches a real hub, or the hub of the person who runs them,
# except those of `make test-azure`, which are handed it.
azure_mode.take_real_hub(os.environ)
os.environ["FWUPDATE_IOTHUB_WEBSOCKETS"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each worker begin with its share of the long tests: the last ones to end are short then.

    pytest-xdist gives each worker a run of tests that follow each other, and lets idle workers take
    from the end of the longest queue (``--dist=worksteal``).
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    long_ones = [item for item in items if _is_long(item)]
    others = [item for item in items if not _is_long(item)]
    ordered: list[pytest.Item] = []
    for number in range(workers):
        size = (len(items) - len(ordered)) // (workers - number)
        share = long_ones[number::workers]
        room = max(0, size - len(share))
        ordered += share + others[:room]
        del others[:room]
    items[:] = ordered


def _is_long(item: pytest.Item) -> bool:
    in_browser_or_kernel = {"browser", "notebooks"} & {part.name for part in item.path.parents}
    return bool(in_browser_or_kernel) or item.get_closest_marker("long") is not None


@pytest.fixture(scope="session", autouse=True)
def shared_hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give `connect_hub` a state folder of its own, and stop its hub at the end."""
    from fwupdate_helpers.localhub import background
    from fwupdate_helpers.localhub.statedir import StateDir

    folder = tmp_path_factory.mktemp("shared-hub")
    os.environ["FWUPDATE_STATE_DIR"] = str(folder)
    os.environ["FWUPDATE_DEVICE_DIR"] = str(tmp_path_factory.mktemp("devices"))
    yield folder
    background.stop(StateDir(folder))


@pytest.fixture(scope="session")
def hub_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """Return a local hub that runs in the foreground of a process, for tests that do not end it."""
    with HubProcess(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def own_hub_process(tmp_path: Path) -> Iterator[HubProcess]:
    """Return a local hub for one test alone, which may stop, kill and restart it."""
    with HubProcess(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def device_id() -> str:
    """Return a device id that no other test has."""
    return f"device-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def new_device(hub_process: HubProcess) -> Callable[[str], str]:
    """Return a function that creates an identity on `hub_process`: id in, connection string out."""
    return lambda device_id: device_connection_string(hub_process, device_id)
