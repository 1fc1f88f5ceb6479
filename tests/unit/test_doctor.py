"""The environment check: what each check finds on a machine that is handed in, and how it shows."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from fwupdate_helpers.doctor import Machine, Report
from fwupdate_helpers.doctor.checks import Check, all_checks, run_check
from fwupdate_helpers.doctor.folders import check_disk
from fwupdate_helpers.doctor.hub import check_clock, check_setting
from fwupdate_helpers.doctor.jupyter import EXTENSION, check_jupyter
from fwupdate_helpers.doctor.machine import shown
from fwupdate_helpers.doctor.network import check_proxy
from fwupdate_helpers.doctor.packages import check_packages
from fwupdate_helpers.doctor.python import NEWEST, OLDEST, check_interpreter, check_version
from fwupdate_helpers.doctor.report import Finding, Line, failure, not_checked, ok, warning
from fwupdate_helpers.doctor.table import as_text
from tests.stand_in import PROCESSORS, chooses_stand_in, has_stand_in
from tests.unit.test_project import pins, read_pyproject

ROOT = Path(__file__).resolve().parents[2]
KEY = "c2VjcmV0LWtleS1vZi1ub2JvZHk="
STRING = f"HostName=h.azure-devices.net;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY}"
VARIABLE = "FWUPDATE_IOTHUB_CONNECTION_STRING"


def machine(**other: Any) -> Machine:
    """This machine, seen from the kit's folder, with what a test wants to be otherwise."""
    return replace(Machine(folder=ROOT, runs=lambda name: False), **other)


# -- Python ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 13, 9)])
def test_a_python_in_the_range_is_ok(version: tuple[int, int, int]) -> None:
    assert check_version(machine(version=version)) == ok(".".join(map(str, version)))


def test_the_range_is_that_of_the_project() -> None:
    supported = SpecifierSet(read_pyproject()["project"]["requires-python"])
    minors = [(3, minor) for minor in range(6, 30) if f"3.{minor}" in supported]
    assert (minors[0], minors[-1]) == (OLDEST, NEWEST)


def test_a_python_that_is_too_new_is_a_failure_with_the_reason_and_a_right_one() -> None:
    found = check_version(machine(version=(3, 14, 1), runs=lambda name: name == "python3.12"))
    assert found.state == "failure"
    assert found.found.startswith("3.14.1 is too new")
    assert "uamqp" in found.found and "3.14." in found.found
    assert found.commands == ("make lab PYTHON=python3.12",)


@pytest.mark.parametrize(
    ("system", "command"),
    [
        ("linux", "sudo apt install python3.12 python3.12-venv"),
        ("darwin", "brew install python@3.12"),
        ("win32", "winget install -e --id Python.Python.3.12"),
    ],
)
def test_where_no_right_python_is_its_installation_is_named(system: str, command: str) -> None:
    found = check_version(machine(version=(3, 9, 2), system=system, folder=Path("/elsewhere")))
    assert found.found.startswith("3.9.2 is too old")
    assert found.commands[:2] == (f"cd {shown(ROOT)}", command)


def test_condas_python_is_mended_by_conda(tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    found = check_version(machine(version=(3, 14, 0), prefix=tmp_path))
    assert found.commands == ("conda env create -f environment.yml", "conda activate fwupdate")


def test_the_package_of_another_clone_than_the_working_folders_is_a_failure(tmp_path: Path) -> None:
    other = tmp_path / "clone"
    (other / "notebooks").mkdir(parents=True)
    (other / "fwupdate_helpers").mkdir()
    (other / "fwupdate_helpers" / "__init__.py").touch()
    found = check_interpreter(machine(folder=other / "notebooks"))
    assert found.state == "failure"
    assert shown(ROOT) in found.found and str(other) in found.found
    assert found.commands[0] == f"cd {other}"
    assert check_interpreter(machine(folder=ROOT / "notebooks")).state == "ok"


SERVER = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
KERNEL = """
import ipykernel
from fwupdate_helpers.doctor import Machine
from fwupdate_helpers.doctor.python import check_interpreter
found = check_interpreter(Machine())
print(found.state, found.found, *found.commands, sep="|")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the folders of a virtual environment differ")
@pytest.mark.parametrize("same", [True, False])
def test_a_kernel_in_another_environment_than_jupyterlab_is_a_warning(
    tmp_path: Path, same: bool
) -> None:
    python = Path(sys.executable)
    if not same:
        create = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "other")]
        subprocess.run(create, check=True)
        python = tmp_path / "other" / "bin" / "python"
    server = tmp_path / "jupyter-lab"
    server.write_text(SERVER, encoding="ascii")
    command = [python, server, sys.executable, "-c", KERNEL]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    state, found, *commands = ran.stdout.strip().split("|")
    if same:
        assert (state, commands) == ("ok", [])
        assert found.endswith("with the environment of JupyterLab")
    else:
        assert state == "warning"
        assert shown(Path(sys.prefix)) in found and str(tmp_path / "other") in found
        assert commands == [f"{shown(Path(sys.executable))} -m jupyterlab notebooks"]


# -- packages ----------------------------------------------------------------------------------


class Site:
    """A folder in which the packages of this environment are installed, as far as one can tell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for one in distributions():
            name = canonicalize_name(one.metadata["Name"])
            self.set(name, one.version, one.read_text("METADATA") or "")

    def set(self, name: str, version: str, metadata: str | None = None) -> None:
        """Install a package, in place of another version of it."""
        metadata = self.remove(name) if metadata is None else metadata
        file = self.folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
        file.parent.mkdir(parents=True, exist_ok=True)
        changed = re.sub(r"^Version: .*$", f"Version: {version}", metadata, flags=re.MULTILINE)
        file.write_text(changed, encoding="utf-8")

    def remove(self, name: str) -> str:
        """Uninstall a package; return its metadata."""
        (found,) = self.folder.glob(f"{name.replace('-', '_')}-*.dist-info")
        metadata = (found / "METADATA").read_text("utf-8")
        shutil.rmtree(found)
        return metadata


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a folder with all packages, for a test to spoil."""
    return Site(tmp_path / "site")


def packages_in(site: Site, **other: Any) -> Finding:
    return check_packages(machine(path=[str(site.folder)], **other))


def test_the_packages_of_this_environment_are_as_pinned() -> None:
    found = check_packages(machine())
    told = "; uamqp is the kit's stand-in, without AMQP" if has_stand_in() else ""
    assert re.fullmatch(rf"\d{{2,}} packages, as pinned{told}", found.found)
    assert found.state == "ok"


def test_a_missing_package_is_a_failure_with_the_command_that_installs_it(site: Site) -> None:
    site.remove("aiohttp")
    found = packages_in(site)
    assert found.state == "failure"
    assert found.found == f"missing: aiohttp {pins()['aiohttp'][0]}."
    assert found.commands == machine().install_commands()


def test_a_missing_package_of_a_package_is_a_failure_that_names_both(site: Site) -> None:
    site.remove("uamqp")
    found = packages_in(site)
    assert found.state == "failure"
    assert re.search(r"missing: uamqp [\d.]+, which azure-iot-hub needs", found.found)


def test_where_uamqp_has_no_wheels_its_stand_in_is_named_if_it_is_chosen_there(site: Site) -> None:
    site.remove("uamqp")
    for system, processor in PROCESSORS:
        fix = packages_in(site, system=system, processor=processor).fix
        assert ("the kit's stand-in" in fix) is chooses_stand_in(system, processor), processor
        assert ("no wheels" in fix) is (processor.lower() in ("arm64", "aarch64")), processor


def test_the_stand_in_for_uamqp_is_as_good_as_pinned_and_is_told(site: Site) -> None:
    site.set("uamqp", f"{pins()['uamqp'][0]}+standin")
    found = packages_in(site)
    assert found.state == "ok"
    assert found.found.endswith(" as pinned; uamqp is the kit's stand-in, without AMQP")


def test_the_stand_in_for_another_uamqp_than_the_pinned_one_is_a_warning(site: Site) -> None:
    site.set("uamqp", "1.6.9+standin")
    found = packages_in(site)
    assert found.state == "warning"
    assert "uamqp 1.6.9+standin (pinned 1." in found.found


def test_a_version_outside_the_declared_range_is_a_failure(site: Site) -> None:
    site.set("azure-iot-device", "2.12.0")
    found = packages_in(site)
    assert found.state == "failure"
    assert found.found == "wrong version: azure-iot-device 2.12.0 instead of <3,>=2.14."
    assert found.commands


def test_another_version_than_the_pinned_one_is_a_warning_with_the_command(site: Site) -> None:
    site.set("cryptography", "999.0")
    found = packages_in(site)
    assert found.state == "warning"
    pinned = pins()["cryptography"][0]
    assert found.found == f"not the pinned version: cryptography 999.0 (pinned {pinned})."
    assert found.commands == machine().install_commands()


def test_a_package_without_its_metadata_counts_as_missing(site: Site) -> None:
    for file in site.folder.glob("tenacity-*.dist-info/METADATA"):
        file.unlink()
    assert "missing: tenacity" in packages_in(site).found


def test_without_packaging_the_missing_ones_are_named_all_the_same(site: Site) -> None:
    site.remove("packaging")
    site.remove("matplotlib")
    found = packages_in(site)
    assert found.state == "failure"
    assert "missing: packaging, matplotlib." in found.found


def test_a_kit_that_is_not_installed_is_a_failure(tmp_path: Path) -> None:
    found = check_packages(machine(path=[str(tmp_path)], checkout=tmp_path))
    assert found.state == "failure"
    assert found.commands[-1].endswith("-m pip install -r requirements.txt")


@pytest.mark.parametrize(
    ("file", "command"),
    [
        (".made-by-make", "make -B env"),
        ("conda-meta/history", "conda env update -p {prefix} -f environment.yml"),
        ("pyvenv.cfg", "{python} -m pip install -r requirements.txt"),
    ],
)
def test_the_install_command_is_that_of_the_environment(
    tmp_path: Path, file: str, command: str
) -> None:
    prefix = tmp_path / ".venv"
    (prefix / file).parent.mkdir(parents=True)
    (prefix / file).touch()
    python = prefix / "bin" / "python"
    there = machine(prefix=prefix, executable=python, checkout=tmp_path, folder=tmp_path)
    assert there.install_commands() == (command.format(prefix=prefix, python=python),)


def test_a_path_with_a_space_is_typed_in_quotes() -> None:
    path = Path("/opt/a folder/python")
    assert machine(executable=path).python == "'/opt/a folder/python'"
    assert machine(executable=path, system="win32").python == '& "/opt/a folder/python"'


# -- JupyterLab --------------------------------------------------------------------------------


def test_jupyterlab_and_widgets_of_this_environment_are_a_pair() -> None:
    found = check_jupyter(machine())
    assert found.state == "ok", found
    assert found.found.startswith(f"jupyterlab {pins()['jupyterlab'][0]}, ipywidgets ")


def test_widgets_that_are_no_pair_are_a_failure(site: Site) -> None:
    site.set("jupyterlab-widgets", "1.1.0")
    found = check_jupyter(machine(path=[str(site.folder)]))
    assert found.state == "failure"
    assert "needs jupyterlab_widgets ~=3." in found.found and "1.1.0 is installed" in found.found


def test_a_missing_jupyterlab_is_a_failure(site: Site) -> None:
    site.remove("jupyterlab")
    found = check_jupyter(machine(path=[str(site.folder)]))
    assert (found.state, found.found[:20]) == ("failure", "missing: jupyterlab.")


def test_an_extension_that_is_missing_or_for_another_jupyterlab_is_a_failure(
    tmp_path: Path,
) -> None:
    found = check_jupyter(machine(labextensions=[tmp_path]))
    assert found.state == "failure" and f"{EXTENSION} is not installed" in found.found
    assert "--force-reinstall" in found.commands[-1]

    file = tmp_path / EXTENSION / "package.json"
    file.parent.mkdir(parents=True)
    about = {"version": "3.1.0", "dependencies": {"@jupyterlab/application": "^2.0.0 || ^3.0.0"}}
    file.write_text(json.dumps(about), encoding="ascii")
    found = check_jupyter(machine(labextensions=[tmp_path]))
    assert found.state == "failure" and "made for JupyterLab ^2.0.0 || ^3.0.0" in found.found


def test_an_extension_that_is_switched_off_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "labconfig" / "page_config.json"
    file.parent.mkdir()
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path))
    for off, state in ((True, "failure"), (False, "ok")):
        file.write_text(json.dumps({"disabledExtensions": {EXTENSION: off}}), encoding="ascii")
        assert check_jupyter(machine()).state == state
    file.write_text(json.dumps({"disabledExtensions": [EXTENSION]}), encoding="ascii")
    assert f"labextension enable {EXTENSION}" in check_jupyter(machine()).commands[0]


# -- disk, proxy, clock, setting ---------------------------------------------------------------


@pytest.mark.parametrize(("megabytes", "state"), [(50, "failure"), (500, "warning"), (5000, "ok")])
def test_little_room_is_a_warning_and_too_little_a_failure(megabytes: int, state: str) -> None:
    found = check_disk(machine(free_bytes=lambda folder: megabytes * 1_000_000))
    assert found.state == state
    assert (str(megabytes) in found.found) or f"{megabytes / 1000:.1f} GB" in found.found
    assert bool(found.commands) == (state != "ok")


@pytest.mark.parametrize(
    ("variables", "state"),
    [
        ({}, "ok"),
        ({"HTTPS_PROXY": ""}, "ok"),
        ({"https_proxy": "http://p"}, "warning"),
        ({"ALL_PROXY": "http://p", "NO_PROXY": "localhost,.example"}, "warning"),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "localhost, 127.0.0.1"}, "ok"),
        ({"HTTP_PROXY": "http://p", "no_proxy": "127.0.0.0/8"}, "ok"),
        ({"HTTP_PROXY": "http://p", "no_proxy": "*"}, "ok"),
        ({"HTTP_PROXY": "http://p", "no_proxy": "a", "NO_PROXY": "127.0.0.1"}, "warning"),
    ],
)
def test_a_proxy_that_would_catch_loopback_is_a_warning(
    variables: dict[str, str], state: str
) -> None:
    assert check_proxy(machine(environ=variables)).state == state


def test_a_proxys_password_is_not_shown_and_the_fix_keeps_what_is_set() -> None:
    variables = {"https_proxy": "http://user:geheim@proxy:8080", "NO_PROXY": "intranet"}
    found = check_proxy(machine(environ=variables))
    assert "geheim" not in repr(found) and "https_proxy" in found.found
    assert found.commands == ('export NO_PROXY="$NO_PROXY,127.0.0.1,localhost"',)


def test_a_year_that_cannot_be_right_is_a_failure_with_the_command() -> None:
    found = check_clock(machine(now=lambda: datetime(1970, 1, 1, tzinfo=timezone.utc)))
    assert found.state == "failure" and found.found.startswith("1970-01-01")
    assert found.commands


def test_without_on_azure_a_setting_is_named_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert check_setting(machine()).state == "ok"
    monkeypatch.setenv(VARIABLE, STRING)
    found = check_setting(machine())
    assert found.state == "warning"
    assert "does not contact Azure" in found.found and "--on-azure" in found.fix
    assert "azure-devices" not in repr(found) and KEY not in repr(found)


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        ("", "ok", "8883; where it is blocked, set FWUPDATE_IOTHUB_WEBSOCKETS=1"),
        ("1", "ok", "port 443 (WebSockets)"),
        ("443", "failure", "port of devices is not set right"),
    ],
)
def test_on_azure_the_port_of_devices_is_told(
    monkeypatch: pytest.MonkeyPatch, given: str, state: str, words: str
) -> None:
    monkeypatch.setenv(VARIABLE, STRING)
    monkeypatch.setenv("FWUPDATE_IOTHUB_WEBSOCKETS", given)
    found = check_setting(machine(), on_azure=True)
    assert found.state == state and words in found.found


@pytest.mark.parametrize(
    ("given", "state", "words"),
    [
        (STRING, "ok", "Azure was not contacted"),
        ("", "failure", "is not set"),
        (STRING.replace("SharedAccessKeyName=iothubowner;", ""), "failure", "cannot be used"),
        (STRING.replace("Key=c2V", "Key=!c2V"), "failure", "cannot be used"),
    ],
)
def test_on_azure_the_setting_is_read_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, given: str, state: str, words: str
) -> None:
    monkeypatch.setenv(VARIABLE, given)
    found = check_setting(machine(), on_azure=True)
    assert found.state == state and words in found.found
    assert "azure-devices" not in repr(found) and KEY[4:] not in repr(found)


# -- how checks are run ------------------------------------------------------------------------


def raising(error: Exception) -> Callable[[Machine], Finding]:
    def check(machine: Machine) -> Finding:
        raise error

    return check


def test_a_check_that_crashes_is_a_failure_with_the_class_and_what_to_do() -> None:
    line = run_check(Check("x", "X", raising(ValueError("text with a secret"))), machine(), [])
    assert line.state == "failure"
    assert line.finding.found == "The check itself failed with ValueError."
    assert line.finding.commands[0].endswith("-m fwupdate_helpers.doctor --json")
    line = run_check(Check("x", "X", raising(PermissionError(13, "Denied"))), machine(), [])
    assert line.finding.found == "The check itself failed with PermissionError (Denied)."


def test_a_check_that_lacks_a_module_names_the_line_that_tells_of_it() -> None:
    never = raising(AssertionError("it must not run"))
    for check in (
        Check("x", "X", raising(ModuleNotFoundError(name="aiohttp"))),
        Check("x", "X", never, modules=("json", "aiohttp_is_not_there")),
        Check("x", "X", never, modules=("aiohttp_is_not_there.at_all",)),
    ):
        finding = run_check(check, machine(), []).finding
        assert finding.state == "not checked"
        assert "aiohttp" in finding.found and "'Packages'" in finding.fix


def test_a_check_after_a_failed_one_names_the_first_cause() -> None:
    lines = [Line("a", "A", failure("broken", "mend it"), 0.0)]
    never = raising(AssertionError("it must not run"))
    for name, needed in (("b", "a"), ("c", "b")):
        lines.append(run_check(Check(name, name.upper(), never, needs=(needed,)), machine(), lines))
    assert [line.finding.found for line in lines[1:]] == ["needs 'A'", "needs 'B'"]
    assert [line.finding.fix for line in lines[1:]] == ["Mend 'A' first."] * 2


def test_a_check_after_a_warning_runs() -> None:
    lines = [Line("a", "A", warning("old", "renew it"), 0.0)]
    assert run_check(
        Check("b", "B", lambda _: ok("fine"), needs=("a",)), machine(), lines
    ).state == ("ok")


def test_ids_are_unique_and_needs_name_earlier_checks() -> None:
    seen: list[str] = []
    for check in all_checks(on_azure=False):
        assert check.id not in seen and set(check.needs) <= set(seen)
        seen.append(check.id)
    assert seen[-1] == "update"


@pytest.mark.parametrize("file", sorted((ROOT / "fwupdate_helpers" / "doctor").glob("*.py")))
def test_a_python_that_is_too_old_can_read_the_check_that_tells_so(file: Path) -> None:
    ast.parse(file.read_text("utf-8"), feature_version=(3, 8))
    assert "\nfrom __future__ import annotations\n" in file.read_text("utf-8")


# -- how a report shows ------------------------------------------------------------------------


def test_a_table_without_anything_to_do_has_no_column_for_it() -> None:
    fine = Line("a", "A", ok("3.11"), 0.0)
    assert "what to do" not in Report([fine], {})._repr_html_()
    old = Line("b", "B", warning("old", "renew it"), 0.0)
    assert "what to do" in Report([fine, old], {})._repr_html_()


LONG = "six <1.16>" + " and more" * 20
REPORT = Report(
    [
        Line("python", "Python", ok("3.11.7"), 0.01),
        Line("packages", "Packages", warning(LONG, "Do:", "make -B env"), 0.2),
        Line("device-port", "Port 8883", failure("taken & held", "End it:", "kill 1" * 30), 0.1),
        Line("hub", "Local hub", not_checked("needs 'Port 8883'", "Port 8883"), 0.0),
    ],
    {"kit": "0.1.0", "python": "3.11.7", "system": "Linux"},
)


def test_only_failures_make_a_report_not_ok() -> None:
    assert not REPORT.ok
    assert not Report(REPORT.lines[2:3], {}).ok
    assert Report(REPORT.lines[:2], {}).ok
    assert Report(REPORT.lines[:2], {}).summary == "This machine is ready. 1 warning can wait."
    assert REPORT.summary.startswith("This machine is not ready: 1 failure, 1 warning.")


def test_the_json_has_the_keys_that_its_docstring_names() -> None:
    told = json.loads(json.dumps(REPORT.as_json()))
    named = re.findall(r"``(\w+)``", Report.as_json.__doc__ or "")
    assert [*told, *(key for key in told["lines"][0] if key not in told)] == list(
        dict.fromkeys(named)
    )
    assert (told["format"], told["ok"], told["kit"]) == (1, False, "0.1.0")
    assert told["lines"][1]["commands"] == ["make -B env"]
    assert [line["state"] for line in told["lines"]] == ["ok", "warning", "failure", "not checked"]


def test_the_table_in_a_notebook_has_marker_word_colour_and_fix_and_is_escaped() -> None:
    html = REPORT._repr_html_()
    for marker, word in (("●", "ok"), ("▲", "warning"), ("✖", "failure"), ("○", "not checked")):
        assert f"{marker} {word}</span>" in html
    assert set(re.findall(r"background:(#\w+)", html)) >= {"#0072B2", "#E69F00", "#D55E00"}
    assert "six &lt;1.16&gt;" in html and "taken &amp; held" in html
    assert "<code>make -B env</code>" in html
    assert html.count("<tr>") == 1 + len(REPORT.lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_in_a_terminal_is_aligned_and_no_wider_than_it(width: int) -> None:
    lines = as_text(REPORT, width=width).splitlines()
    commands = [command for line in REPORT.lines for command in line.finding.commands]
    words = [line for line in lines if line.strip() not in commands]
    assert len(words) == len(lines) - len(commands), "a command is whole"
    assert max(map(len, words)) <= width
    start = words[0].index("3.11.7")
    for line in words[: words.index("")]:
        assert line[start - 2 : start] == "  " and line[start] != " "


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii", "no-such-encoding"])
def test_an_old_console_gets_plain_markers(encoding: str) -> None:
    text = as_text(REPORT, encoding=encoding)
    text.encode("ascii")
    assert re.findall(r"^(\S) (?:ok|warning|failure|not checked)", text, re.MULTILINE) == list(
        "+!X-"
    )
    assert "● ok" in as_text(REPORT, encoding="utf-8") and repr(REPORT) == as_text(REPORT)
