"""The command line of the check."""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
from collections.abc import Sequence

from fwupdate_helpers.doctor import check
from fwupdate_helpers.doctor.table import as_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Check this machine and print the table; return the exit status."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A folder's name may have letters that this console has not.
        sys.stdout.reconfigure(errors="replace")
    report = check(on_azure=options.on_azure)
    if options.json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        width = shutil.get_terminal_size().columns
        print(as_text(report, width=width, encoding=sys.stdout.encoding or "ascii"))
    return 0 if report.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fwupdate_helpers.doctor",
        description="Is this machine ready for the notebooks? Each line that is not ok has its "
        "fix. The exit status is 1 when a line failed.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--on-azure",
        action="store_true",
        help="check also that the setting for a hub on Azure can be read (Azure is not contacted)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
