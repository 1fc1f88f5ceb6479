"""Installs the kit from the wheelhouse where there is no network, and tries it. Linux only.

    python tools/wheelhouse_check.py

In a network namespace of its own, which has loopback and no route to anywhere: the command of
README.md installs the kit into an empty environment, the SDK and the kit are imported, and the
doctor does a real update on the local hub.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support import OWN_LOOPBACK, own_network

ROOT: Final = Path(__file__).resolve().parents[1]
INSTALL: Final = (
    "python -m pip install --no-index --find-links build/wheelhouse -r requirements.txt"
)
"""As README.md has it."""
_ELSEWHERE: Final = ("192.0.2.1", 443)
"""An address of nobody (RFC 5737), which is nevertheless worth a try where there is a route."""
_INSIDE: Final = "--inside"
_INHERITED: Final = ("PIP_", "PYTHON", "VIRTUAL_ENV", "FWUPDATE_", "JUPYTER")


def main(arguments: Sequence[str]) -> int:
    """Check the wheelhouse; return the exit status."""
    if _INSIDE not in arguments:
        inside = [sys.executable, "-m", "tools.wheelhouse_check", _INSIDE]
        return subprocess.call([*own_network(), *inside], cwd=ROOT)
    exec(OWN_LOOPBACK, {})  # the words with which the tests set up their networks
    require_no_route()
    with tempfile.TemporaryDirectory(prefix="fwupdate-offline-") as folder:
        return _install_and_try(Path(folder))


def require_no_route() -> None:
    """Make sure that nothing but this computer can be reached.

    Raises:
        SystemExit: There is a route.
    """
    try:
        socket.create_connection(_ELSEWHERE, timeout=5).close()
    except OSError as error:
        if error.errno == errno.ENETUNREACH:
            return
    raise SystemExit("wheelhouse-check: there is a route to the network here.")


def _install_and_try(folder: Path) -> int:
    run = _Runner(folder)
    python = str(folder / "env" / "bin" / "python")
    run("an empty environment", sys.executable, "-m", "venv", str(folder / "env"))
    run("installation without network", python, *INSTALL.split()[1:])
    run("import", python, "-c", "import azure.iot.hub, azure.iot.device, fwupdate_helpers")
    try:
        run("doctor, with a real update", python, "-m", "fwupdate_helpers.doctor")
    finally:
        run("stop of the local hub", python, "-m", "fwupdate_helpers.localhub", "stop")
    return 0


class _Runner:
    """Runs the steps, with nothing of this user's settings, and tells what each took."""

    def __init__(self, folder: Path) -> None:
        kept = {name: v for name, v in os.environ.items() if not name.startswith(_INHERITED)}
        own = {name: str(folder / name.lower()) for name in ("HOME", "TMPDIR")}
        for place in own.values():
            Path(place).mkdir()
        self._environment = {**kept, **own, "PIP_CONFIG_FILE": os.devnull}
        self._environment["FWUPDATE_IOTHUB_CONNECTION_STRING"] = ""

    def __call__(self, what: str, *command: str) -> None:
        begun = time.perf_counter()
        ran = subprocess.run(
            command,
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        if ran.returncode:
            raise SystemExit(f"wheelhouse-check: {what} failed:\n{ran.stdout[-4000:]}")
        print(f"ok  {what}: {time.perf_counter() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
