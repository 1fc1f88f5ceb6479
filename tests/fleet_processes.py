"""Fleets for tests: in a process of their own, and updates of all devices at once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil

from fwupdate_helpers.errors import UpdateFailed
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update
from tests.support import HubProcess, told_python

Json = dict[str, Any]

OWNER = """
import json, os, signal, sys
from pathlib import Path
from fwupdate_helpers import Fleet, Hub

# What is started in the background has interrupts ignored, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
given = json.loads(sys.stdin.readline())
given["hub"]["ca_file"] = Path(given["hub"]["ca_file"])
hub = Hub(kind="local", **given["hub"])
fleet = Fleet(hub, given["size"], **given["options"])

def workers():
    return [worker.process.pid for worker in fleet._workers]

def tell(**what):
    print(json.dumps(what), flush=True)

"""
"""What a process that owns a fleet begins with; it is told the hub and the fleet on its input."""


@contextmanager
def owner(
    hub: HubProcess, code: str, *, size: int, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Run `OWNER` and then `code`, with the hub of a test; it is killed at the end."""
    about = {
        "connection_string": hub.connection_string,
        "device_host": hub.ready["device_host"],
        "ca_file": hub.ca_file,
    }
    given = {"hub": about, "size": size, "options": {"stage_seconds": 0.0, **options}}
    with told_python(OWNER + code, given) as process:
        yield process


def told(process: subprocess.Popen[str]) -> Json:
    """Return what the process tells next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    found: Json = json.loads(line)
    return found


def wait_for_end(pids: Iterable[int]) -> None:
    """Wait until none of these processes is there."""
    there = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(there, timeout=60)
    assert not alive, "processes were left behind"


def update_all(
    hub: Hub, device_ids: list[str], after: Callable[[], object] = lambda: None, **order: Any
) -> dict[str, str]:
    """Update devices from a thread pool; return, for each, ``completed`` or its error's code."""

    def begin(device_id: str) -> str:
        return invoke_firmware_update(hub.registry, device_id, **order).update_id

    def end(device_id: str, update_id: str) -> str:
        try:
            wait_for_update(hub.registry, device_id, update_id, interval=0.1, timeout=60)
        except UpdateFailed as error:
            return error.code
        return "completed"

    with ThreadPoolExecutor(8) as pool:
        update_ids = list(pool.map(begin, device_ids))
        after()
        return dict(zip(device_ids, pool.map(end, device_ids, update_ids), strict=True))
