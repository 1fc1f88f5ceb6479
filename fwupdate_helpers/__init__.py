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
    from fwupdate_helpers.hub import Hub, connect_hub
    from fwupdate_helpers.retries import RetryLog, RetryPolicy
    from fwupdate_helpers.service import (
        cancel_firmware_update,
        invoke_firmware_update,
        wait_for_update,
        watch_update,
    )
    from fwupdate_helpers.timeline import UpdateTimeline, plot_timelines
    from fwupdate_helpers.trace_figure import plot_sequence
    from fwupdate_helpers.widgets import UpdatePanel

# Without a handler, Python prints the SDK's warnings to stderr, under whatever cell runs then.
logging.getLogger("azure.iot.device").addHandler(logging.NullHandler())

_HOME = {
    "DeviceProfile": "fleet",
    "FirmwareUpdateError": "errors",
    "Fleet": "fleet",
    "Hub": "hub",
    "RetryLog": "retries",
    "RetryPolicy": "retries",
    "SimulatedDevice": "device",
    "UpdatePanel": "widgets",
    "UpdateTimeline": "timeline",
    "cancel_firmware_update": "service",
    "connect_hub": "hub",
    "invoke_firmware_update": "service",
    "plot_sequence": "trace_figure",
    "plot_timelines": "timeline",
    "wait_for_update": "service",
    "watch_update": "service",
}

__all__ = [
    "DeviceProfile",
    "FirmwareUpdateError",
    "Fleet",
    "Hub",
    "RetryLog",
    "RetryPolicy",
    "SimulatedDevice",
    "UpdatePanel",
    "UpdateTimeline",
    "cancel_firmware_update",
    "connect_hub",
    "invoke_firmware_update",
    "plot_sequence",
    "plot_timelines",
    "wait_for_update",
    "watch_update",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
