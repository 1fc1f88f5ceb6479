"""Collects in a folder all packages that an installation of the kit without network needs.

    python tools/wheelhouse.py                                        for this computer
    python tools/wheelhouse.py --platform windows macos-arm64 --series 3.12 3.13
    python tools/wheelhouse.py --platform all --series all            for every computer in the room

Then, in the kit's folder on the other computer, in a new environment:

    python -m pip install --no-index --find-links build/wheelhouse -r requirements.txt
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT: Final = Path(__file__).resolve().parents[1]
WHEELHOUSE: Final = Path("build", "wheelhouse")
SERIES: Final = ("3.10", "3.11", "3.12", "3.13")
BUILT_HERE: Final = ("paho-mqtt",)
"""Has no wheels in the version that azure-iot-device needs. It is pure Python, so any computer can
build the wheel for all of them."""
TOOLS: Final = ("hatchling>=1.26", "editables>=0.5", "pip>=25.1")
"""What ``pip install -e .`` fetches before it builds the kit, and pip itself."""
_PATCHES: Final = (0, 99)
"""The first and the last release of a series: no marker looks at those in between alone."""
_PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
_HERE: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Platform:
    """A kind of computer.

    Attributes:
        resolver: Its name for uv.
        tags: What it accepts in a wheel's name, the best first.
        has_uamqp: Whether uamqp has wheels for it; else requirements.txt chooses the stand-in.
    """

    resolver: str
    tags: tuple[str, ...]
    has_uamqp: bool = True


def _manylinux(processor: str) -> tuple[str, ...]:
    newest_first = (f"manylinux_2_{minor}_{processor}" for minor in range(28, 16, -1))
    return (*newest_first, f"manylinux2014_{processor}")


# Of macOS the oldest release that all wheels run on: what is named here also accepts what is older.
PLATFORMS: Final = {
    "linux-x86_64": Platform("x86_64-manylinux_2_28", _manylinux("x86_64")),
    "linux-aarch64": Platform("aarch64-manylinux_2_28", _manylinux("aarch64"), has_uamqp=False),
    "macos-x86_64": Platform("x86_64-apple-darwin", ("macosx_11_0_x86_64",)),
    "macos-arm64": Platform("aarch64-apple-darwin", ("macosx_11_0_arm64",), has_uamqp=False),
    "windows": Platform("x86_64-pc-windows-msvc", ("win_amd64",)),
}


class WheelhouseError(Exception):
    """The wheelhouse cannot be filled; the message tells why."""


def this_platform() -> str:
    """Return the name of this computer's platform."""
    system = {"linux": "linux", "darwin": "macos", "win32": "windows"}.get(sys.platform, "")
    name = system if system == "windows" else f"{system}-{platform.machine()}"
    if name not in PLATFORMS:
        raise WheelhouseError(f"This computer ({name}) is none of {', '.join(PLATFORMS)}.")
    return name


def pins(name: str, python: str) -> list[str]:
    """Return all that a computer needs, each as ``name==version``, as constraints.txt pins it.

    Args:
        name: Its platform.
        python: Its Python, such as ``3.12.4``: a few pins differ within a series.

    Raises:
        WheelhouseError: A package has no wheel for it.
    """
    there = PLATFORMS[name]
    with tempfile.TemporaryDirectory() as folder:
        overrides = Path(folder, "overrides.txt")
        overrides.write_text("" if there.has_uamqp else "uamqp; python_version < '0'\n", "utf-8")
        command = [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "pyproject.toml", "-"),
            *("--constraints", "constraints.txt", "--overrides", str(overrides)),
            *("--python-platform", there.resolver, "--python-version", python),
            *("--only-binary", ":all:", "--no-python-downloads", "--no-header", "--no-annotate"),
            *(word for built in BUILT_HERE for word in ("--no-binary", built)),
        ]
        return _run(command, given="\n".join(TOOLS)).split()


def collect(name: str, series: str, folder: Path) -> int:
    """Download the wheels for one platform and one Python; return how many there are.

    Raises:
        WheelhouseError: A wheel cannot be had.
    """
    first, last = (f"{series}.{patch}" for patch in _PATCHES)
    needed, newer = pins(name, first), pins(name, last)
    _download(needed, folder, _target(name, first))
    _download(set(newer) - set(needed), folder, _target(name, last))
    everything = {*needed, *newer}
    if missing := absent(everything, folder):
        raise WheelhouseError(f"Not in {folder}: {', '.join(missing)}.")
    return len(everything)


def _download(wanted: Collection[str], folder: Path, target: Sequence[str]) -> None:
    built = [pin for pin in wanted if pin.partition("==")[0] in BUILT_HERE]
    wheels = sorted(set(wanted) - set(built))
    if wheels:
        command = [*_PIP, "download", "--no-deps", "--only-binary", ":all:", *target]
        _run([*command, "--dest", str(folder), *wheels])
    if built:
        _run([*_PIP, "wheel", "--no-deps", "--wheel-dir", str(folder), *built])


def _target(name: str, python: str) -> list[str]:
    """Return pip's options for another computer; for this one pip itself knows the tags best."""
    options = ["--python-version", python, "--implementation", "cp"]
    if name == this_platform() and python.startswith(f"{_HERE}."):
        tags = [tag.platform for tag in sys_tags() if tag.platform != "any"]
    else:
        tags = list(PLATFORMS[name].tags)
    return [*options, *(word for tag in dict.fromkeys(tags) for word in ("--platform", tag))]


def absent(needed: Iterable[str], folder: Path) -> list[str]:
    """Return those of the pins that no wheel in the folder is for."""
    there = set()
    for file in folder.glob("*.whl"):
        name, version, _, _ = parse_wheel_filename(file.name)
        there.add((name, str(version)))
    pairs = ((pin, pin.partition("==")) for pin in needed)
    return [
        pin for pin, (name, _, version) in pairs if (canonicalize_name(name), version) not in there
    ]


def _run(command: Sequence[str], given: str = "") -> str:
    ran = subprocess.run(
        command, cwd=ROOT, input=given, capture_output=True, encoding="utf-8", check=False
    )
    if ran.returncode:
        raise WheelhouseError(f"{' '.join(command[2:5])} failed:\n{ran.stderr.strip()}")
    return ran.stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Collect the wheels for a computer without network."
    )
    parser.add_argument("--platform", nargs="+", default=[], choices=[*PLATFORMS, "all"])
    parser.add_argument("--series", nargs="+", default=[], choices=[*SERIES, "all"])
    parser.add_argument("--folder", type=Path, default=ROOT / WHEELHOUSE)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the wheelhouse; return the exit status."""
    options = _parser().parse_args(arguments)
    folder: Path = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        names = list(PLATFORMS) if "all" in options.platform else options.platform
        for name in names or [this_platform()]:
            for series in SERIES if "all" in options.series else options.series or [_HERE]:
                print(
                    f"{name}, Python {series}: {collect(name, series, folder)} packages", flush=True
                )
    except WheelhouseError as error:
        print(f"wheelhouse: {error}", file=sys.stderr)
        return 1
    wheels = list(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels) / 1e6
    print(f"{folder}: {len(wheels)} wheels, {size:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
