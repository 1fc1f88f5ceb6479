"""Pictures of a fleet's updates: pure functions of the rows that `read_fleet` returns.

Each returns a figure with alt text that may be drawn in any thread.
"""

from __future__ import annotations

from fwupdate_helpers.fleet_figures.durations import plot_durations
from fwupdate_helpers.fleet_figures.failures import plot_failures
from fwupdate_helpers.fleet_figures.stage_counts import plot_stage_counts
from fwupdate_helpers.fleet_figures.swimlanes import plot_fleet

__all__ = ["plot_durations", "plot_failures", "plot_fleet", "plot_stage_counts"]
