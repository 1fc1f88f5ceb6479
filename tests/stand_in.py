"""The stand-in for uamqp in compat/uamqp: where requirements.txt chooses it, and its build."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = ROOT / "compat" / "uamqp"
PROCESSORS = [
    ("darwin", "arm64"),
    ("darwin", "x86_64"),
    ("linux", "aarch64"),
    ("linux", "x86_64"),
    ("linux", "armv7l"),
    ("linux", "riscv64"),
    ("win32", "AMD64"),
    ("win32", "ARM64"),
    ("win32", "x86"),
]
"""`sys.platform` and `platform.machine()` of the machines that people come with."""


def requirement() -> tuple[str, Marker]:
    """The line that chooses the stand-in: the path as written, and on which machines."""
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("./"))
    path, _, marker = line.partition(" ; ")
    return path, Marker(marker)


def chooses_stand_in(system: str, processor: str) -> bool:
    """Whether requirements.txt takes the stand-in on such a machine."""
    return requirement()[1].evaluate({"sys_platform": system, "platform_machine": processor})


def has_stand_in() -> bool:
    """Whether it is the stand-in that the tests run with."""
    return version("uamqp").endswith("+standin")


def without_pips_settings(**extra: str) -> dict[str, str]:
    """The environment of this process without what is set for pip, uv and Python."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "UV_", "PYTHON"))
    }
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", **extra}


_PIP = """
import platform, runpy, sys
processor = sys.argv.pop(1)
platform.machine = lambda: processor
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


def pip(
    *arguments: str | Path, processor: str = platform.machine()
) -> subprocess.CompletedProcess[str]:
    """Run pip in the kit's folder, without anybody's settings, as on a machine with `processor`."""
    return subprocess.run(
        [sys.executable, "-c", _PIP, processor, *arguments],
        cwd=ROOT,
        env=without_pips_settings(),
        capture_output=True,
        text=True,
        check=False,
    )
