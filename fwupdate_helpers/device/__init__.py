"""A simulated device: the azure-iot-device client in a background thread, and its update agent.

`simulated` (the device: its thread, its power, start and stop), `program` (its program, on a loop
that somebody runs), `life` (what it does between two
starts of its board), `link` (the connection to the hub, and `link_policy`, its limits), `reports`
(reported properties on their way), `methods` (the answers to direct methods), `desired` (follows
the desired property `firmware`), `surroundings` (what the update agent sees of the device),
`faults` (what may go wrong with the hardware), `sdk_inside` (what the SDK has no call for).
"""

from __future__ import annotations

from fwupdate_helpers.device.faults import DeviceFaults
from fwupdate_helpers.device.link_policy import LinkPolicy
from fwupdate_helpers.device.simulated import SimulatedDevice

__all__ = ["DeviceFaults", "LinkPolicy", "SimulatedDevice"]
