"""``make test-all``: the tests on every supported Python that is installed, and with the stand-in.

    nox                              every session
    nox -s tests-3.12 -- -k sas      one of them; what follows ``--`` is for pytest

Each session has an environment of its own in build/nox/, which stays for the next time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import nox

SERIES = ("3.10", "3.11", "3.12", "3.13")
STAND_IN = Path("compat", "uamqp")

_RELEASE = re.compile(r"\d+\.\d+\.(\d+)")
_WHO = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
_SECONDS = 10

nox.options.envdir = "build/nox"
nox.options.default_venv_backend = "venv"  # and pip, as `make env`: it honours what people have set
nox.options.reuse_existing_virtualenvs = True


def find_python(series: str) -> str | None:
    """Return a Python of a series (such as ``3.12``) that is installed and runs; None without."""
    return next(filter(None, (_running(one, series) for one in _candidates(series))), None)


def _candidates(series: str) -> Iterator[list[str]]:
    yield [f"python{series}"]
    yield [sys.executable]
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [one for one in root.glob(f"versions/{series}.*") if _RELEASE.fullmatch(one.name)]
    for folder in sorted(folders, key=_patch, reverse=True):
        yield [str(folder / "bin" / "python")]
        yield [str(folder / "python.exe")]
    yield ["py", f"-{series}"]


def _patch(folder: Path) -> int:
    return int(folder.name.rpartition(".")[2])


def _running(command: Sequence[str], series: str) -> str | None:
    """Return the program behind a command; None where it does not run: a pyenv shim may not."""
    try:
        done = subprocess.run(
            [*command, "-c", _WHO], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found, _, program = done.stdout.strip().partition(" ")
    return program if done.returncode == 0 and found == series else None


def _install(session: nox.Session, *more: str) -> None:
    session.env["PIP_USER"] = "0"
    session.install("-c", "constraints.txt", "pip>=25.1")
    session.install("-r", "requirements.txt", "--group", "dev", *more)


def _test(session: nox.Session) -> None:
    # Set but empty: the local hub, whatever .env says.
    session.run("pytest", *session.posargs, env={"FWUPDATE_IOTHUB_CONNECTION_STRING": ""})


def _add_session(series: str, python: str | None, *, is_none_there: bool) -> None:
    @nox.session(name=f"tests-{series}", python=python or False)
    def tests(session: nox.Session) -> None:
        if is_none_there:
            session.error(f"None of Python {', '.join(SERIES)} is installed.")
        if python is None:
            session.skip(f"Python {series} is not installed.")
        _install(session)
        _test(session)


_FOUND = {series: find_python(series) for series in SERIES}
for _series, _python in _FOUND.items():
    _add_session(_series, _python, is_none_there=not any(_FOUND.values()))


@nox.session(python=next((one for one in reversed(_FOUND.values()) if one), False))
def tests_standin(session: nox.Session) -> None:
    """Test with the stand-in in place of uamqp, as on the platforms without its wheels."""
    if not STAND_IN.is_dir():
        session.error(f"{STAND_IN.as_posix()} is not there.")
    _install(session, f"./{STAND_IN.as_posix()}")
    _test(session)
