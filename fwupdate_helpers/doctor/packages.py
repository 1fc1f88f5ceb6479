"""Are the packages there that the kit declares, in the versions that it is tested with?"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from fwupdate_helpers.doctor.machine import Machine
from fwupdate_helpers.doctor.report import Finding, failure, ok, warning

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_KIT = "fwupdate-helpers"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAMED_AT_MOST = 8
"""So many packages that differ from their pins are named; then the number tells enough."""
_STAND_IN = "+standin"
"""The end of the version of a stand-in of the kit's own, such as compat/uamqp."""
_STANDS_IN_FOR_UAMQP = frozenset({("darwin", "arm64"), ("linux", "aarch64")})
"""Where requirements.txt takes the stand-in: `sys.platform` and processor."""
_ARM = frozenset({"aarch64", "arm64"})


class Installed:
    """The packages in the folders where Python looks for them."""

    def __init__(self, machine: Machine) -> None:
        self._path = [folder or "." for folder in machine.path]
        self._found: dict[str, metadata.Distribution | None] = {}

    def version(self, name: str) -> str | None:
        """Return a package's version; None when it is not there, or only in part."""
        distribution = self._distribution(name)
        if distribution is None or "Version" not in distribution.metadata:
            return None
        return distribution.metadata["Version"]

    def requires(self, name: str) -> list[str]:
        """Return what a package declares that it needs."""
        distribution = self._distribution(name)
        return list(distribution.requires or []) if distribution else []

    def _distribution(self, name: str) -> metadata.Distribution | None:
        if name not in self._found:
            found = metadata.Distribution.discover(name=name, path=self._path)
            self._found[name] = next(iter(found), None)
        return self._found[name]


def check_packages(machine: Machine) -> Finding:
    """Check every package that the kit needs, directly or through others.

    A package of the kit's own that is missing, or outside its declared range, is a failure, and so
    is a missing one that another package needs. Another version than the pinned one is a warning.
    A stand-in of the kit's own (compat/) is as good as the package, and is told.
    """
    installed = Installed(machine)
    declared = _declared(machine, installed)
    commands = machine.install_commands()
    if not declared:
        return failure(
            "The kit's packages are not installed in this Python.", "Install them:", *commands
        )
    missing = [name for name in map(_name, declared) if installed.version(name) is None]
    if installed.version("packaging") is None:
        found = f"missing: {', '.join(missing)}. Without packaging no version can be compared."
        return failure(found, "Install what is missing:", *commands)
    return _Comparison(machine, installed, declared).finding(commands)


def _declared(machine: Machine, installed: Installed) -> list[str]:
    """Return the kit's requirements as the clone tells them, which may be newer than installed."""
    file = machine.checkout / "pyproject.toml"
    if file.is_file() and (toml := _toml_parser()) is not None:
        project = toml.loads(file.read_text(encoding="utf-8"))["project"]
        if project.get("name") == _KIT:
            return list(project["dependencies"])
    return installed.requires(_KIT)


def _toml_parser() -> Any:
    for name in ("tomllib", "tomli"):  # Python's own came with 3.11
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return found.group() if found else requirement


@dataclass
class _Comparison:
    """What is needed, compared with what is installed and with what is pinned."""

    machine: Machine
    installed: Installed
    declared: list[str]
    missing: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)
    checked: int = 0

    def finding(self, commands: tuple[str, ...]) -> Finding:
        pins = dict(self._pins())
        for name, requirement, needed_by in self._needed():
            self._compare(name, requirement, needed_by, pins.get(name))
        found = "; ".join(
            f"{word}: {', '.join(names)}"
            for word, names in (
                ("missing", self.missing),
                ("wrong version", self.outside),
                ("not the pinned version", _shortened(self.differing)),
            )
            if names
        )
        if self.missing or self.outside:
            return failure(f"{found}.", f"{self._reason()}Install the pinned ones:", *commands)
        if self.differing:
            fix = "Should something go wrong, install the versions that the kit is tested with:"
            return warning(f"{found}.", fix, *commands)
        what = "as pinned" if pins else "in their ranges (no constraints.txt to compare with)"
        told = "".join(f"; {name} is the kit's stand-in, without AMQP" for name in self.stand_ins)
        return ok(f"{self.checked} packages, {what}{told}")

    def _compare(
        self, name: str, requirement: Requirement, needed_by: str, pinned: str | None
    ) -> None:
        self.checked += 1
        version = self.installed.version(name)
        whose = f", which {needed_by} needs" if needed_by else ""
        if version is None:
            self.missing.append(name + (f" {pinned}" if pinned else "") + whose)
        elif not requirement.specifier.contains(version, prereleases=True):
            self.outside.append(f"{name} {version} instead of {requirement.specifier}{whose}")
        elif pinned is not None and version.removesuffix(_STAND_IN) != pinned:
            self.differing.append(f"{name} {version} (pinned {pinned})")
        elif version.endswith(_STAND_IN):
            self.stand_ins.append(name)

    def _needed(self) -> Iterator[tuple[str, Requirement, str]]:
        """Yield each package that is needed, once: name, requirement, and by which other one."""
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name

        queue = [(Requirement(line), "", "") for line in self.declared]
        seen: set[tuple[str, str]] = set()
        named: set[str] = set()
        while queue:
            requirement, needed_by, extra = queue.pop(0)
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(requirement.name)
            if name not in named:
                named.add(name)
                yield name, requirement, needed_by
            for wanted in ("", *requirement.extras):
                if (name, wanted) not in seen:
                    seen.add((name, wanted))
                    lines = self.installed.requires(name)
                    queue += [(Requirement(line), name, wanted) for line in lines]

    def _pins(self) -> Iterator[tuple[str, str]]:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name

        file = self.machine.checkout / "constraints.txt"
        if not file.is_file():
            return
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                pin = Requirement(line)
                if pin.marker is None or pin.marker.evaluate():
                    yield canonicalize_name(pin.name), next(iter(pin.specifier)).version

    def _reason(self) -> str:
        lacks_uamqp = any(text.startswith("uamqp") for text in self.missing)
        if not lacks_uamqp or self.machine.processor.lower() not in _ARM:
            return ""
        reason = "uamqp has no wheels for ARM processors"
        if (self.machine.system, self.machine.processor) in _STANDS_IN_FOR_UAMQP:
            return f"{reason}; requirements.txt puts the kit's stand-in in its place. "
        return f"{reason}: use an x86-64 Python. "


def _shortened(names: list[str]) -> list[str]:
    if len(names) <= _NAMED_AT_MOST:
        return names
    return [*names[:_NAMED_AT_MOST], f"and {len(names) - _NAMED_AT_MOST} more"]
