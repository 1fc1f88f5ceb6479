"""A fleet: many simulated devices, in worker processes, with identities made in bulk.

`fleet` (what a notebook uses), `profiles` (who the devices are, drawn from a seed), `identities`
(made and deleted in bulk), `factory` (the images that boards leave the factory with), `crew` (the
worker processes, seen from the notebook), `states` (what they tell), `bar` (the progress in a
notebook), `worker` (a worker process), `member` (one device in it), `lines` (what the two say to
each other).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwupdate_helpers.fleet.fleet import Fleet
    from fwupdate_helpers.fleet.profiles import DeviceProfile

_HOME = {"DeviceProfile": "profiles", "Fleet": "fleet"}

__all__ = ["DeviceProfile", "Fleet"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
