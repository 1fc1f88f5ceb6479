"""The machine that is checked: what the checks look at, and how one types a fix on it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]
_CANDIDATE_SECONDS = 2
_PLAIN_PATH = re.compile(r"[\w./~+@%,:\\-]+")


def _runs(program: str) -> bool:
    """Tell whether a program is there and runs: a pyenv shim exists and fails."""
    found = shutil.which(program)
    if found is None:
        return False
    try:
        done = subprocess.run(
            [found, "-c", ""], capture_output=True, timeout=_CANDIDATE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class Machine:
    """What the checks look at. Tests hand in another one; the defaults are this machine.

    Attributes:
        version: The running Python's.
        prefix: The folder of its environment.
        executable: Its program.
        path: Where packages are looked for.
        checkout: The folder that holds the package, and in a clone of the kit all the rest.
        folder: The working folder.
        environ: The environment's variables.
        system: ``sys.platform``.
        processor: ``platform.machine()``.
        labextensions: Where JupyterLab looks for extensions; None asks Jupyter.
        runs: Tells whether a Python of that name is there and runs.
        free_bytes: Tells how many bytes are free in a folder.
        now: Tells the time, in UTC.
    """

    version: tuple[int, int, int] = sys.version_info[:3]
    prefix: Path = Path(sys.prefix)
    executable: Path = Path(sys.executable)
    path: Sequence[str] = field(default_factory=lambda: list(sys.path))
    checkout: Path = _CHECKOUT
    folder: Path = field(default_factory=Path.cwd)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    system: str = sys.platform
    processor: str = field(default_factory=platform.machine)
    labextensions: Sequence[Path] | None = None
    runs: Callable[[str], bool] = _runs
    free_bytes: Callable[[Path], int] = _free_bytes
    now: Callable[[], datetime] = _now

    @property
    def is_windows(self) -> bool:
        """Whether commands are typed into PowerShell."""
        return self.system == "win32"

    @property
    def is_conda(self) -> bool:
        """Whether the running Python is one of conda's."""
        return (self.prefix / "conda-meta").is_dir()

    @property
    def is_made_by_make(self) -> bool:
        """Whether the running Python is that of ``make env``."""
        return (self.prefix / ".made-by-make").is_file() and self.prefix.parent == self.checkout

    @property
    def python(self) -> str:
        """How to type the running Python."""
        typed = self.typed(self.executable)
        return f"& {typed}" if self.is_windows and typed.startswith('"') else typed

    def typed(self, path: Path) -> str:
        """Return a path as one types it."""
        short = shown(path)
        if _PLAIN_PATH.fullmatch(short):
            return short
        return f'"{path}"' if self.is_windows else shlex.quote(str(path))

    def in_checkout(self, *commands: str) -> tuple[str, ...]:
        """Return commands that work in the kit's folder, with the one that leads there."""
        if self.folder == self.checkout:
            return commands
        return (f"cd {self.typed(self.checkout)}", *commands)

    def install_commands(self) -> tuple[str, ...]:
        """Return what installs the kit's packages, as pinned, into the running Python."""
        if self.is_made_by_make:
            # -B: make knows the age of two files, not what has been taken away since.
            return self.in_checkout("make -B env")
        if self.is_conda:
            prefix = self.typed(self.prefix)
            return self.in_checkout(f"conda env update -p {prefix} -f environment.yml")
        return self.in_checkout(f"{self.python} -m pip install -r requirements.txt")

    def kill(self, pid: int, *, hangs: bool = False) -> str:
        """Return what ends a process."""
        if self.is_windows:
            return f"Stop-Process -Id {pid}"
        return f"kill -9 {pid}" if hangs else f"kill {pid}"

    def set_variables(self, **values: str) -> tuple[str, ...]:
        """Return the commands that set variables for the programs started after them."""
        if self.is_windows:
            return tuple(f'$env:{name} = "{value}"' for name, value in values.items())
        return tuple(f"export {name}={self.typed(Path(value))}" for name, value in values.items())

    def spare_folder(self, name: str) -> str:
        """Return a folder of the user's own where one can write, or a text that says so."""
        own = str(os.getuid()) if hasattr(os, "getuid") else "own"
        try:
            return str(Path(tempfile.gettempdir()) / f"fwupdate-{own}" / name)
        except FileNotFoundError:  # no temporary folder can be written
            return "/a/folder/that/you/can/write"


def shown(path: Path) -> str:
    """Return a path with the user's home folder as ``~``, which also hides the user's name."""
    text, home = str(path), os.path.expanduser("~")  # noqa: PTH111  # Path.home may raise
    if len(home) > 1 and (text == home or text.startswith(home + os.sep)):
        return "~" + text[len(home) :]
    return text
