"""Local hubs of a tier: F1 as it is, or with numbers so small that a test meets them at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fwupdate_helpers.localhub import background
from fwupdate_helpers.localhub.statedir import StateDir
from fwupdate_helpers.localhub.tiers import Operation
from tests.support import HubProcess

Json = dict[str, Any]

_SMALL = """
import json, sys
from dataclasses import replace
from fwupdate_helpers.localhub import throttle, tiers
from fwupdate_helpers.localhub.__main__ import main

given = json.loads(sys.argv.pop(1))
rates = {tiers.Operation(name): rate for name, rate in given.pop("per_second").items()}
throttle.BURST_SECONDS = given.pop("burst_seconds")
tiers.TIERS["F1"] = replace(tiers.F1, per_second={**tiers.F1.per_second, **rates}, **given)
sys.exit(main())
"""
"""Runs a hub whose tier F1 has other numbers; it is told them as its first argument."""


class SmallHub(HubProcess):
    """A hub with ``--tier F1``, where F1 grants less than it does.

    Args:
        state_dir: Where it keeps its state.
        per_second: The rates that are other than those of F1.
        burst_seconds: How long it saves up what a rate grants.
        limits: Other attributes of the tier, such as ``daily_messages``.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        per_second: dict[Operation, float] | None = None,
        burst_seconds: float = 60.0,
        **limits: Any,
    ) -> None:
        super().__init__(state_dir, "--tier", "F1")
        rates = {one.value: rate for one, rate in (per_second or {}).items()}
        given = {"per_second": rates, "burst_seconds": burst_seconds, **limits}
        self.program = ("-c", _SMALL, json.dumps(given))


def about(hub: HubProcess) -> Json:
    """Return what a hub tells of itself."""
    return background.request(StateDir(hub.state_dir), "GET", "/$localhub/status")


def messages(hub: HubProcess) -> int:
    """Return how many messages of the day a hub has counted."""
    return int(about(hub)["daily_messages"]["used"])


def throttled(hub: HubProcess, operation: Operation) -> int:
    """Return how often a hub has refused an operation."""
    return int(about(hub)["throttled"].get(operation.value, 0))
