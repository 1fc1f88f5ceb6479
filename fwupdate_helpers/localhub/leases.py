"""Who uses the shared hub: one small file for each open `Hub` of a living process.

Files, not connections: they need no thread in the kernel, they outlive a restart of the hub, and
one that a killed kernel leaves behind is recognised by its process id and start time.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import psutil

from fwupdate_helpers.localhub.statedir import StateDir, read_json, write_json


def take(state: StateDir) -> Path:
    """Note that this process uses the hub; delete the returned file to end that."""
    file = state.leases / f"{os.getpid()}-{secrets.token_hex(4)}.json"
    write_json(file, {"pid": os.getpid(), "started": psutil.Process().create_time()})
    return file


def alive(state: StateDir) -> list[Path]:
    """Return the leases of living processes, and delete the others."""
    living = []
    for file in state.leases.glob("[!.]*.json"):
        lease = read_json(file)
        if lease is not None and _is_alive(lease.get("pid"), lease.get("started")):
            living.append(file)
        else:
            file.unlink(missing_ok=True)
    return living


def _is_alive(pid: object, started: object) -> bool:
    if not isinstance(pid, int) or not isinstance(started, (int, float)):
        return False
    try:
        process = psutil.Process(pid)
        # A zombie is dead; its parent has not asked how it ended.
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        return not is_zombie and bool(abs(process.create_time() - started) < 2)
    except psutil.Error:
        return False
