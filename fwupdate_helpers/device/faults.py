"""Faults of a simulated device's hardware: they strike as they would, and report nothing.

What comes of a fault, the device finds out by itself, as it would in the field. Two more are not
here, because they are of other things: an image that passes its self-test on no board
(``build_image(behaviour="failsSelfTest")``), and a flash chip that is full (`Board.fill`).
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from fwupdate_helpers import contract


class DeviceFaults:
    """The faults of one device's hardware; they may be set from any thread, at any time.

    Args:
        clock_offset: See the attribute.

    Attributes:
        clock_offset: Seconds by which the device's clock is ahead; negative when it is slow. Its
            timestamps and its SAS tokens (the next one that it signs) go by it; certificates are
            still checked by this computer's clock.

    Example:
        >>> faults = DeviceFaults(clock_offset=-7200)
        >>> faults.cut_power_at("applying")
        >>> faults
        DeviceFaults(clock 7200 s slow, power cut at applying)
    """

    def __init__(self, *, clock_offset: float = 0.0) -> None:
        self.clock_offset = clock_offset
        self._cut_at: str | None = None
        self._hangs = self._fails_self_test = False

    def __repr__(self) -> str:
        offset = self.clock_offset
        clock = f"clock {abs(offset):g} s {'fast' if offset > 0 else 'slow'}" if offset else ""
        cut = f"power cut at {self._cut_at}" if self._cut_at else ""
        hang = f"hang while {contract.APPLYING}" if self._hangs else ""
        test = "self-test fails" if self._fails_self_test else ""
        return f"DeviceFaults({', '.join(filter(None, (clock, cut, hang, test))) or 'none'})"

    def cut_power_at(self, stage: str) -> None:
        """Cut the power when this stage begins the next time, once.

        Args:
            stage: One of `contract.STAGES`.

        Raises:
            ValueError: There is no such stage.
        """
        if stage not in contract.STAGES:
            raise ValueError(f"{stage!r} is no stage; the stages are {', '.join(contract.STAGES)}.")
        self._cut_at = stage

    def hang_while_applying(self) -> None:
        """Let the copying into the free slot get stuck the next time, once.

        The board's watchdog notices, and resets the board.
        """
        self._hangs = True

    def fail_self_test(self) -> None:
        """Let every new image fail its self-test from now on, until `clear`.

        As on a board with a damaged part, which the firmware in use happens not to need.
        """
        self._fails_self_test = True

    def clear(self) -> None:
        """Mend everything."""
        self.clock_offset, self._cut_at = 0.0, None
        self._hangs = self._fails_self_test = False

    def now(self) -> datetime:
        """Return the device's clock, UTC."""
        return datetime.now(timezone.utc) + timedelta(seconds=self.clock_offset)

    @property
    def fails_self_test(self) -> bool:
        """Whether the board does not pass the self-test of a new image."""
        return self._fails_self_test

    # -- for the device ---------------------------------------------------------------------------

    def takes_power_at(self, stage: str) -> bool:
        """Tell whether the power goes now, as `stage` begins; it does so once."""
        if self._cut_at != stage:
            return False
        self._cut_at = None
        return True

    def takes_hang(self) -> bool:
        """Tell whether the copying gets stuck now; it does so once."""
        hangs, self._hangs = self._hangs, False
        return hangs
