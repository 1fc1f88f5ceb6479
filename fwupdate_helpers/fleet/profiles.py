"""Who the devices of a fleet are: drawn from a seed, the same in every run.

Each device is drawn for itself, from the seed and its own number. So the first ten devices of a
thousand are those of a fleet of ten, and one more kind of fault moves none of the other draws.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeVar

from fwupdate_helpers import contract

T = TypeVar("T")
Choices = Sequence[T] | Mapping[T, float]
"""Values to choose from: a sequence of equally likely ones, or a mapping from each to its share."""

_POWER_LOSS_STAGES: Final = (contract.DOWNLOADING, contract.APPLYING, contract.REBOOTING)


@dataclass(frozen=True)
class DeviceProfile:
    """One device of a fleet.

    Attributes:
        index: Its number in the fleet, from 0.
        device_id: Its id on the hub.
        model: What kind of board it is: the hardware that an image must be for.
        version: The version that it leaves the factory with.
        site: Where it stands.
        bytes_per_second: Its bandwidth; None for as fast as it goes.
        fails_self_test: Whether its board passes no new image's self-test.
        hangs: Whether it hangs as it applies its next image.
        loses_power_at: The stage of its next update at which it loses its power for a while.
        tags: The tags of its device twin.
    """

    index: int
    device_id: str
    model: str
    version: str
    site: str
    bytes_per_second: float | None = None
    fails_self_test: bool = False
    hangs: bool = False
    loses_power_at: str | None = None
    tags: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Mix:
    """What a fleet is mixed from.

    Attributes:
        models: Kinds of boards.
        versions: Versions that run at first.
        sites: Places.
        speeds: Bandwidths in bytes per second; None for as fast as it goes.
        self_test_failures: The share of devices whose board passes no new image's self-test.
        hangs: The share of devices that hang as they apply their next image.
        power_losses: The share of devices that lose their power in their next update.

    Raises:
        ValueError: There is nothing to choose from, or a share is none.
    """

    models: Choices[str]
    versions: Choices[str]
    sites: Choices[str]
    speeds: Choices[float | None]
    self_test_failures: float = 0.0
    hangs: float = 0.0
    power_losses: float = 0.0

    def __post_init__(self) -> None:
        for name in ("models", "versions", "sites", "speeds"):
            _check_choices(name, getattr(self, name))
        shares = (self.self_test_failures, self.hangs, self.power_losses)
        if not all(0 <= share <= 1 for share in shares) or sum(shares) > 1:
            raise ValueError(
                "self_test_failures, hangs and power_losses are shares of the devices: each from "
                "0 to 1, and together 1 at most."
            )

    def draw(self, index: int, device_id: str, seed: int) -> DeviceProfile:
        """Draw the device with this number; the same arguments give the same device."""
        # Text, because Python hashes it alike in every run and in every version.
        dice = random.Random(f"{seed} {index}")  # noqa: S311 (no secret)
        model, version = _choose(dice, self.models), _choose(dice, self.versions)
        site, speed = _choose(dice, self.sites), _choose(dice, self.speeds)
        fate = dice.random()
        stage = dice.choice(_POWER_LOSS_STAGES)
        tests, hangs = self.self_test_failures, self.self_test_failures + self.hangs
        return DeviceProfile(
            index=index,
            device_id=device_id,
            model=model,
            version=version,
            site=site,
            bytes_per_second=speed,
            fails_self_test=fate < tests,
            hangs=tests <= fate < hangs,
            loses_power_at=stage if hangs <= fate < hangs + self.power_losses else None,
        )


def frozen_tags(tags: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return tags that cannot be changed by accident."""
    return MappingProxyType(dict(tags))


def _choose(dice: random.Random, choices: Choices[T]) -> T:
    if isinstance(choices, Mapping):
        return dice.choices(list(choices), weights=list(choices.values()))[0]
    return dice.choices(list(choices))[0]


def _check_choices(name: str, choices: Choices[Any]) -> None:
    if isinstance(choices, str) or not choices:
        raise ValueError(f"{name} must be a list of values, or a mapping from values to shares.")
    shares = list(choices.values()) if isinstance(choices, Mapping) else [1.0]
    if min(shares) < 0 or not sum(shares) > 0:
        raise ValueError(f"The shares of {name} must not be negative, and not all be 0.")
