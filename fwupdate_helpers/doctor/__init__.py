"""Is this machine ready for the notebooks? A table with a fix for every line that is not ok.

``python -m fwupdate_helpers.doctor`` prints it, with ``--json`` for programs (`Report.as_json` has
the keys), and ends with status 1 when a line failed. The modules here need Python's standard
library alone; what else a check looks at, it imports itself, so that the table can tell what is
missing. No check contacts Azure.

Where to find things: `checks` (all checks in their order), `python`, `packages`, `jupyter`,
`folders`, `network` and `hub` (the checks themselves), `machine` (what they look at), `report` and
`table` (what they found).
"""

from __future__ import annotations

import platform

from fwupdate_helpers.doctor.checks import all_checks, run_check
from fwupdate_helpers.doctor.machine import Machine
from fwupdate_helpers.doctor.packages import Installed
from fwupdate_helpers.doctor.report import Finding, Line, Report

__all__ = ["Finding", "Line", "Machine", "Report", "check"]


def check(*, on_azure: bool = False, machine: Machine | None = None) -> Report:
    """Check this machine, in a few seconds; the last check does one real update.

    It leaves nothing behind but the shared local hub, which stops by itself.

    Args:
        on_azure: Also check that the setting for a hub on Azure can be read; Azure is not
            contacted.
        machine: What to look at, for tests.

    Example:
        >>> report = check()  # doctest: +SKIP
        >>> report.ok  # doctest: +SKIP
        True
    """
    machine = machine or Machine()
    lines: list[Line] = []
    for one in all_checks(on_azure=on_azure):
        lines.append(run_check(one, machine, lines))
    about = {
        "kit": Installed(machine).version("fwupdate-helpers"),
        "python": ".".join(map(str, machine.version)),
        "system": f"{platform.system()} {platform.release()} {machine.processor}",
    }
    return Report(lines, about)
