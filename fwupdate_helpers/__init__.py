"""Helpers behind the firmware update notebooks.

The names below load on first use (PEP 562), so that ``import fwupdate_helpers`` is quick and
starting the local hub imports no Azure SDK, no matplotlib and no ipywidgets.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwupdate_helpers.device import SimulatedDevice
    from fwupdate_helpers.errors import FirmwareUpdateError
    from fwupdate_helpers.fleet import DeviceProfile, Fleet
    from fwupdate_helpers.fleet_figures import (
        plot_durations,
        plot_failures,
        plot_fleet,
        plot_stage_counts,
    )
    from fwupdate_helpers.fleet_view import FleetRow, read_fleet
    from fwupdate_helpers.hub import Hub, connect_hub
    from fwupdate_helpers.retries import RetryLog, RetryPolicy
    from fwupdate_helpers.rollout import Rollout
    from fwupdate_helpers.service import (
        cancel_firmware_update,
        invoke_firmware_update,
        wait_for_update,
        watch_update,
    )
    from fwupdate_helpers.timeline import UpdateTimeline, plot_timelines
    from fwupdate_helpers.trace_figure import plot_sequence
    from fwupdate_helpers.widgets import FleetBoard, UpdatePanel

# Without a handler, Python prints the SDK's warnings to stderr, under whatever cell runs then.
for _name in ("azure.iot.device", "azure.identity"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

_HOME = {
    "DeviceProfile": "fleet",
    "FirmwareUpdateError": "errors",
    "Fleet": "fleet",
    "FleetBoard": "widgets",
    "FleetRow": "fleet_view",
    "Hub": "hub",
    "RetryLog": "retries",
    "RetryPolicy": "retries",
    "Rollout": "rollout",
    "SimulatedDevice": "device",
    "UpdatePanel": "widgets",
    "UpdateTimeline": "timeline",
    "cancel_firmware_update": "service",
    "connect_hub": "hub",
    "invoke_firmware_update": "service",
    "plot_durations": "fleet_figures",
    "plot_failures": "fleet_figures",
    "plot_fleet": "fleet_figures",
    "plot_sequence": "trace_figure",
    "plot_stage_counts": "fleet_figures",
    "plot_timelines": "timeline",
    "read_fleet": "fleet_view",
    "wait_for_update": "service",
    "watch_update": "service",
}

__all__ = [
    "DeviceProfile",
    "FirmwareUpdateError",
    "Fleet",
    "FleetBoard",
    "FleetRow",
    "Hub",
    "RetryLog",
    "RetryPolicy",
    "Rollout",
    "SimulatedDevice",
    "UpdatePanel",
    "UpdateTimeline",
    "cancel_firmware_update",
    "connect_hub",
    "invoke_firmware_update",
    "plot_durations",
    "plot_failures",
    "plot_fleet",
    "plot_sequence",
    "plot_stage_counts",
    "plot_timelines",
    "read_fleet",
    "wait_for_update",
    "watch_update",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
