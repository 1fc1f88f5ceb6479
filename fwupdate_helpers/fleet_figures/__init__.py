"""Pictures of a fleet's updates: pure functions of the rows that `read_fleet` returns.

Each returns a figure with alt text that may be drawn in any thread.
"""

from __future__ import annotations

from fwupdate_helpers.fleet_figures.swimlanes import plot_fleet

__all__ = ["plot_fleet"]
