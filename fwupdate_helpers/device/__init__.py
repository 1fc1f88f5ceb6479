"""A simulated device: the azure-iot-device client in a background thread, and its update agent.

`simulated` (the device: its thread, its power, its life from start to stop), `link` (the connection
to the hub), `methods` (the answers to direct methods), `surroundings` (what the update agent sees
of the device).
"""

from __future__ import annotations

from fwupdate_helpers.device.simulated import SimulatedDevice

__all__ = ["SimulatedDevice"]
