"""Which device goes in which wave: pure arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

DEFAULT_WAVES: Final = (1, "10 %", "50 %", "rest")
REST: Final = "rest"
_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,6})?) ?%", re.ASCII)
_HOW: Final = "Write a number of devices such as 1, a share such as '10 %', or 'rest' as the last."


@dataclass(frozen=True)
class WaveSize:
    """How many devices a wave takes, as it was written.

    Attributes:
        text: As people read it, for example ``10 %``.
        count: A number of devices; None for the others.
        share: A share of all devices, 0 to 1; None for the others. The rest has neither.
    """

    text: str
    count: int | None = None
    share: Fraction | None = None

    def of(self, total: int, left: int) -> int:
        """Return how many of the `left` devices go in this wave.

        A share is of all devices of the rollout, not of those that are left; half a device counts
        as one, and a share of anything is one device at least.
        """
        if self.count is not None:
            return min(self.count, left)
        if self.share is not None:
            return min(max(1, int(self.share * total + Fraction(1, 2))), left)
        return left


@dataclass(frozen=True)
class PlannedWave:
    """The devices of one wave.

    Attributes:
        number: From 1; the tag ``rollout.wave`` of its devices.
        size: As it was written.
        device_ids: In their order.
    """

    number: int
    size: str
    device_ids: tuple[str, ...]


def read_waves(waves: Sequence[int | str]) -> tuple[WaveSize, ...]:
    """Read the sizes of waves.

    Args:
        waves: For each wave a number of devices, a share of all of them, or ``"rest"``.

    Raises:
        ValueError: There is no wave, or one that cannot be used.

    Example:
        >>> [size.text for size in read_waves((1, "10%", "rest"))]
        ['1', '10 %', 'rest']
    """
    if isinstance(waves, (str, bytes)) or not isinstance(waves, Sequence):
        raise ValueError(f"waves must be a list such as {DEFAULT_WAVES}, not {waves!r}.")
    if not waves:
        raise ValueError("A rollout needs one wave at least, for example ('rest',).")
    sizes = tuple(map(_read_size, waves))
    early = [number for number, size in enumerate(sizes[:-1], 1) if size.text == REST]
    if early:
        raise ValueError(f"'rest' must be the last wave: wave {early[0] + 1} would get no device.")
    return sizes


def _read_size(size: int | str) -> WaveSize:
    if isinstance(size, int) and not isinstance(size, bool):
        if size < 1:
            raise ValueError(f"A wave of {size} devices is none. {_HOW}")
        return WaveSize(str(size), count=size)
    text = size.strip().lower() if isinstance(size, str) else ""
    if text == REST:
        return WaveSize(REST)
    match = _PERCENT.fullmatch(text)
    if match is None:
        raise ValueError(f"{size!r} is no size of a wave. {_HOW}")
    share = Fraction(match[1]) / 100
    if not 0 < share <= 1:
        raise ValueError(f"{size!r} is no share: it must be above 0 % and at most 100 %.")
    return WaveSize(f"{match[1]} %", share=share)


def plan_waves(device_ids: Iterable[str], sizes: Sequence[WaveSize]) -> tuple[PlannedWave, ...]:
    """Put devices into waves, in their order, each once.

    A wave that would be empty is left out, and the numbers go on without a gap.

    Args:
        device_ids: A device that comes twice counts where it comes first.
        sizes: What `read_waves` returned.

    Raises:
        ValueError: Devices would be in no wave.

    Example:
        >>> [len(wave.device_ids) for wave in plan_waves(map(str, range(200)), read_waves(
        ...     (1, "10 %", "50 %", "rest")))]
        [1, 20, 100, 79]
    """
    ids = tuple(dict.fromkeys(device_ids))
    waves: list[PlannedWave] = []
    start = 0
    for size in sizes:
        count = size.of(len(ids), len(ids) - start)
        if count:
            chosen = ids[start : start + count]
            waves.append(PlannedWave(len(waves) + 1, size.text, chosen))
        start += count
    if start < len(ids):
        raise ValueError(
            f"{len(ids) - start} of {len(ids)} devices would be in no wave. Let the last wave be "
            "'rest', or name fewer devices."
        )
    return tuple(waves)
