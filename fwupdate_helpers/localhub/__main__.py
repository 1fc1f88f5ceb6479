"""The command line of the local hub."""

from __future__ import annotations

import argparse
import json
import logging
import logging.handlers
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwupdate_helpers.localhub.errors import LocalHubError
from fwupdate_helpers.localhub.open_files import allow_open_files
from fwupdate_helpers.localhub.redaction import mask_text
from fwupdate_helpers.localhub.statedir import STATE_DIR_VARIABLE, StateDir

if TYPE_CHECKING:
    from fwupdate_helpers.localhub.jobs.scheduler import JobLimits
    from fwupdate_helpers.localhub.tiers import Tier

Json = dict[str, Any]

MAX_ACTIVE_JOBS = 100
MIN_JOB_RATE, MAX_JOB_RATE = 0.1, 10_000.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    options = _parser().parse_args(arguments)
    state = StateDir(options.state_dir) if options.state_dir else StateDir.default()
    try:
        status: int = options.command(state, options)
        return status
    except LocalHubError as error:
        if getattr(options, "background", False):
            _report_failure(state, str(error))
        print(f"localhub: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fwupdate_helpers.localhub",
        description="A stand-in for Azure IoT Hub on loopback, for the unmodified Azure SDKs.",
        epilog=f"The folder with its state is --state-dir, else ${STATE_DIR_VARIABLE}, else one "
        "per user and host.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--state-dir", type=Path, metavar="DIR", help="where the hub keeps all")
        sub.set_defaults(command=function)
        return sub

    run = command("run", _run, "Run a hub in the foreground; print one JSON line when it is ready.")
    run.add_argument("--host", metavar="ADDRESS", help="the loopback address, such as 127.0.0.9")
    run.add_argument(
        "--service-port", type=int, metavar="N", help="the HTTPS port (8443; Azure's: 443)"
    )
    run.add_argument(
        "--idle-timeout", type=float, metavar="SECONDS", help="stop so long after the last use"
    )
    run.add_argument(
        "--trace", choices=("on", "off"), default="on", help="whether to keep the last messages"
    )
    run.add_argument(
        "--faults", choices=("on", "off"), default="on", help="whether things may be made to fail"
    )
    run.add_argument(
        "--images", choices=("on", "off"), default="on", help="whether it keeps firmware images"
    )
    run.add_argument(
        "--active-jobs",
        type=_job_count,
        metavar="N",
        help="how many jobs may be active (10; with a tier: 1)",
    )
    run.add_argument(
        "--job-rate",
        type=_job_rate,
        metavar="N",
        help="on how many devices jobs begin in a second (100; with a tier: 10)",
    )
    run.add_argument(
        "--configuration-seconds",
        type=_seconds,
        metavar="SECONDS",
        help="from one evaluation of the automatic device configurations to the next (5; Azure's: "
        "300)",
    )
    run.add_argument(
        "--tier",
        choices=("F1", "S1", "none"),
        default="none",
        help="throttle and count messages as an IoT Hub of this tier does, one unit of it",
    )
    run.add_argument("--background", action="store_true", help=argparse.SUPPRESS)
    for name, function, text in (
        ("start", _start, "Start the shared background hub, unless it runs already."),
        ("status", _status, "Tell whether the shared background hub runs, and where."),
    ):
        sub = command(name, function, text)
        sub.add_argument("--show-keys", action="store_true", help="show the key, do not mask it")
    command("stop", _stop, "Stop the shared background hub; its state stays.")
    command("reset", _reset, "Stop the hub and delete its state: devices, twins, keys, CA.")
    return parser


def _run(state: StateDir, options: argparse.Namespace) -> int:
    from fwupdate_helpers.localhub import server
    from fwupdate_helpers.localhub.config import owner_connection_string
    from fwupdate_helpers.localhub.configurations.loop import DEFAULT_SECONDS
    from fwupdate_helpers.localhub.tiers import TIERS

    os.umask(0o077)
    state.prepare()
    allow_open_files()
    _set_up_logging(state if options.background else None)

    def on_ready(ready: Json) -> None:
        if not options.background:
            string = owner_connection_string(state)
            print(json.dumps({"connection_string": string, **ready}), flush=True)

    server.run(
        state,
        address=options.host,
        service_port=options.service_port,
        idle_timeout=options.idle_timeout,
        trace=options.trace == "on",
        faults=options.faults == "on",
        images=options.images == "on",
        job_limits=_job_limits(options, TIERS.get(options.tier)),
        tier=TIERS.get(options.tier),
        configuration_seconds=options.configuration_seconds or DEFAULT_SECONDS,
        on_ready=on_ready,
    )
    return 0


def _job_limits(options: argparse.Namespace, tier: Tier | None) -> JobLimits:
    from fwupdate_helpers.localhub.jobs.scheduler import JobLimits

    given = {"active": options.active_jobs, "devices_per_second": options.job_rate}
    wanted = {name: value for name, value in given.items() if value is not None}
    return replace(JobLimits.of(tier), **wanted)


def _job_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= (number := int(text)) <= MAX_ACTIVE_JOBS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MAX_ACTIVE_JOBS}")
    return number


def _job_rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not MIN_JOB_RATE <= number <= MAX_JOB_RATE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number from {MIN_JOB_RATE:g} to {MAX_JOB_RATE:g}"
        )
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("it must be within [0.1; 3600]")
    return seconds


def _start(state: StateDir, options: argparse.Namespace) -> int:
    from fwupdate_helpers.localhub import background

    background.ensure_running(state)
    return _status(state, options)


def _status(state: StateDir, options: argparse.Namespace) -> int:
    from fwupdate_helpers.localhub import background
    from fwupdate_helpers.localhub.config import owner_connection_string

    about = background.status(state)
    if about is None:
        print(json.dumps({"running": False, "state_dir": str(state.path)}))
        return 3
    string = owner_connection_string(state)
    if not options.show_keys:
        string = mask_text(string)
    print(
        json.dumps(
            {
                "running": True,
                "connection_string": string,
                **about,
                "state_dir": str(state.path),
                "log_file": str(state.log_file),
            }
        )
    )
    return 0


def _stop(state: StateDir, options: argparse.Namespace) -> int:
    from fwupdate_helpers.localhub import background

    print("The local hub has stopped." if background.stop(state) else "No local hub runs.")
    return 0


def _reset(state: StateDir, options: argparse.Namespace) -> int:
    from fwupdate_helpers.localhub import background

    background.reset(state)
    print("The local hub has stopped, and all that it kept is deleted.")
    return 0


def _report_failure(state: StateDir, message: str) -> None:
    from fwupdate_helpers.localhub import background

    background.report_failure(state, message)


class _Masked(logging.Formatter):
    """Masks secrets: aiohttp quotes a malformed request, token and all; our own code logs none."""

    def format(self, record: logging.LogRecord) -> str:
        return mask_text(super().format(record))


def _set_up_logging(state: StateDir | None) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if state is not None:
        handler = logging.handlers.RotatingFileHandler(
            state.log_file, maxBytes=1_000_000, backupCount=1, encoding="utf-8"
        )
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("fwupdate_helpers").setLevel(logging.INFO if state else logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
