"""Rollouts: an update of many devices in waves."""

from __future__ import annotations

from fwupdate_helpers.rollout.errors import (
    RolloutBusy,
    RolloutConflict,
    RolloutExists,
    RolloutNotFound,
    RolloutOver,
)
from fwupdate_helpers.rollout.outcomes import Outcome, Result
from fwupdate_helpers.rollout.report import RolloutPlan, RolloutReport, WaveReport
from fwupdate_helpers.rollout.rollout import Rollout
from fwupdate_helpers.rollout.terms import Status

__all__ = [
    "Outcome",
    "Result",
    "Rollout",
    "RolloutBusy",
    "RolloutConflict",
    "RolloutExists",
    "RolloutNotFound",
    "RolloutOver",
    "RolloutPlan",
    "RolloutReport",
    "Status",
    "WaveReport",
]
