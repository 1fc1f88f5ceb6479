"""Do JupyterLab and the widgets fit together? The widgets' half in the browser is an extension."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from fwupdate_helpers.doctor.machine import Machine, shown
from fwupdate_helpers.doctor.packages import Installed
from fwupdate_helpers.doctor.report import Finding, failure, ok

EXTENSION: Final = "@jupyter-widgets/jupyterlab-manager"
_PACKAGES: Final = ("jupyterlab", "ipywidgets", "jupyterlab_widgets")


def check_jupyter(machine: Machine) -> Finding:
    """Check that JupyterLab, ipywidgets and the extension that draws them are there and a pair."""
    installed = Installed(machine)
    versions = {name: installed.version(name) for name in _PACKAGES}
    commands = machine.install_commands()
    if missing := [name for name, version in versions.items() if version is None]:
        found = f"missing: {', '.join(missing)}. No widget can be shown."
        return failure(found, "Install them, then start JupyterLab again:", *commands)
    if unfit := _unfit_pair(installed):
        return failure(unfit, "Install the pair, then start JupyterLab again:", *commands)
    if unfit := _unfit_extension(machine, str(versions["jupyterlab"])):
        return failure(unfit, "Install it anew, then start JupyterLab again:", *_anew(machine))
    if _is_disabled():
        return failure(
            f"JupyterLab's extension {EXTENSION} is switched off.",
            "Switch it on, then load the page in the browser again:",
            f"{machine.python} -m jupyter labextension enable {EXTENSION}",
        )
    return ok(", ".join(f"{name} {version}" for name, version in versions.items()))


def _anew(machine: Machine) -> tuple[str, ...]:
    again = "--force-reinstall --no-deps -c constraints.txt jupyterlab_widgets"
    return machine.in_checkout(f"{machine.python} -m pip install {again}")


def _unfit_pair(installed: Installed) -> str | None:
    from packaging.requirements import Requirement

    for line in installed.requires("ipywidgets"):
        requirement = Requirement(line)
        if requirement.name.replace("-", "_") == "jupyterlab_widgets":
            version = installed.version("jupyterlab_widgets")
            if version is not None and not requirement.specifier.contains(version):
                return (
                    f"ipywidgets {installed.version('ipywidgets')} needs jupyterlab_widgets "
                    f"{requirement.specifier}; {version} is installed."
                )
    return None


def _unfit_extension(machine: Machine, jupyterlab: str) -> str | None:
    folders = machine.labextensions
    if folders is None:
        from jupyter_core.paths import jupyter_path

        folders = [Path(one) for one in jupyter_path("labextensions")]
    found = _find_extension(folders)
    if found is None:
        return f"JupyterLab's extension {EXTENSION} is not installed, so no widget can be shown."
    file, about = found
    wanted = str(about.get("dependencies", {}).get("@jupyterlab/application", ""))
    if wanted and jupyterlab.partition(".")[0] not in re.findall(r"(\d+)\.", wanted):
        return (
            f"JupyterLab's extension {EXTENSION} {about.get('version')} in {shown(file.parent)} is "
            f"made for JupyterLab {wanted}; {jupyterlab} is installed."
        )
    return None


def _find_extension(folders: Sequence[Path]) -> tuple[Path, dict[str, Any]] | None:
    for folder in folders:  # the first one wins, as in JupyterLab
        file = folder / EXTENSION / "package.json"
        if file.is_file():
            return file, json.loads(file.read_text(encoding="utf-8"))
    return None


def _is_disabled() -> bool:
    return any(EXTENSION in disabled for disabled in _disabled_extensions())


def _disabled_extensions() -> Iterator[Sequence[str]]:
    from jupyter_core.paths import jupyter_config_path

    for folder in jupyter_config_path():
        file = Path(folder, "labconfig", "page_config.json")
        if file.is_file():
            given = json.loads(file.read_text(encoding="utf-8")).get("disabledExtensions", [])
            yield [one for one, off in given.items() if off] if isinstance(given, dict) else given
