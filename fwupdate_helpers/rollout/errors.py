"""What can be wrong with a rollout as a whole."""

from __future__ import annotations

from fwupdate_helpers.errors import FirmwareUpdateError


class _RolloutError(FirmwareUpdateError):
    def __init__(self, rollout_id: str, message: str) -> None:
        self.rollout_id = rollout_id
        super().__init__(message)


class RolloutNotFound(_RolloutError):
    """The hub knows no rollout with this id."""


class RolloutExists(_RolloutError):
    """The id was used before, so a rollout that begins anew needs another one."""


class RolloutBusy(_RolloutError):
    """Another kernel runs this rollout, or has taken it over."""


class RolloutConflict(_RolloutError):
    """A device takes part in another rollout that is not over."""


class RolloutOver(_RolloutError):
    """The rollout was stopped or cancelled, so it goes on only if a person says so."""
