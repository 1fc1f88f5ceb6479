"""The stand-in for uamqp: who gets it, that pip and uv prefer it, and what it can and refuses."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.stand_in import (
    PROCESSORS,
    ROOT,
    STAND_IN,
    chooses_stand_in,
    pip,
    requirement,
    without_pips_settings,
)
from tests.unit.test_project import pins, tomllib

PIN = pins()["uamqp"][0]
VERSION = f"{PIN}+standin"
CHOSEN = {("darwin", "arm64"), ("linux", "aarch64")}
BUILD = "uamqp was about to be built"
EXE = sysconfig.get_config_var("EXE") or ""

# -- who gets it -------------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "processor"), PROCESSORS)
def test_apple_silicon_and_linux_on_arm_get_the_stand_in_and_no_other(
    system: str, processor: str
) -> None:
    assert chooses_stand_in(system, processor) is ((system, processor) in CHOSEN)


@pytest.mark.parametrize(
    ("platform", "chosen"),
    [
        ("aarch64-apple-darwin", True),
        ("x86_64-apple-darwin", False),
        ("aarch64-unknown-linux-gnu", True),
        ("x86_64-unknown-linux-gnu", False),
        ("aarch64-pc-windows-msvc", False),
        ("x86_64-pc-windows-msvc", False),
    ],
)
def test_uv_reads_the_requirements_as_meant(platform: str, chosen: bool) -> None:
    lines = resolve_with_uv("--no-deps", "--python-platform", platform, ROOT / "requirements.txt")
    assert lines == (["-e .", "./compat/uamqp"] if chosen else ["-e ."])


def resolve_with_uv(*arguments: str | Path) -> list[str]:
    uv = Path(sysconfig.get_path("scripts"), f"uv{EXE}")
    plain = ["--quiet", "--no-header", "--no-annotate", "--offline", "--no-index", "--no-cache"]
    command = [uv, "pip", "compile", *plain, "--no-build-isolation", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=without_pips_settings(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# -- that it is preferred ----------------------------------------------------------------------


def test_its_version_satisfies_the_pin_and_the_sdk() -> None:
    project = tomllib.loads((STAND_IN / "pyproject.toml").read_text("utf-8"))["project"]
    assert (project["name"], project["version"]) == ("uamqp", VERSION)
    assert Version(VERSION) in sdks_requirement().specifier
    assert Version(VERSION) in Requirement(f"uamqp=={PIN}").specifier


def sdks_requirement() -> Requirement:
    """What azure-iot-hub declares about uamqp."""
    lines = map(Requirement, distribution("azure-iot-hub").requires or [])
    (found,) = (line for line in lines if line.name == "uamqp")
    return found


@pytest.fixture
def arm_index(tmp_path: Path) -> Path:
    """What an index has for an ARM processor: azure-iot-hub, and of uamqp the source only.

    Here the one needs nothing but the other, and the other's build fails at once.
    """
    folder = tmp_path / "index"
    folder.mkdir()
    info = "azure_iot_hub-2.7.0.dist-info"
    with zipfile.ZipFile(folder / "azure_iot_hub-2.7.0-py3-none-any.whl", "w") as wheel:
        head = "Metadata-Version: 2.1\nName: azure-iot-hub\nVersion: 2.7.0\n"
        wheel.writestr(f"{info}/METADATA", f"{head}Requires-Dist: {sdks_requirement()}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    backend = '[build-system]\nrequires = []\nbuild-backend = "fails"\nbackend-path = ["."]\n'
    with tarfile.open(folder / f"uamqp-{PIN}.tar.gz", "w:gz") as source:
        for name, text in (("pyproject.toml", backend), ("fails.py", f"raise OSError('{BUILD}')")):
            entry = tarfile.TarInfo(f"uamqp-{PIN}/{name}")
            entry.size = len(text)
            source.addfile(entry, io.BytesIO(text.encode()))
    return folder


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    """The line of requirements.txt about the stand-in, beside azure-iot-hub and the pins."""
    path, marker = requirement()
    file = tmp_path / "wanted.txt"
    pins = (ROOT / "constraints.txt").as_posix()
    file.write_text(f"-c {pins}\nazure-iot-hub\n{path} ; {marker}\n", encoding="utf-8")
    return file


def pip_resolves(index: Path, wanted: Path, processor: str) -> subprocess.CompletedProcess[str]:
    report = ["--dry-run", "--quiet", "--ignore-installed", "--report", "-"]
    offline = ["--no-index", "--find-links", index, "--no-build-isolation"]
    return pip("install", *report, *offline, "-r", wanted, processor=processor)


@pytest.mark.skipif(sys.platform == "win32", reason="no processor gets the stand-in on Windows")
def test_pip_takes_the_stand_in_on_arm_and_does_not_build_uamqp(
    arm_index: Path, wanted: Path
) -> None:
    arm = "arm64" if sys.platform == "darwin" else "aarch64"
    done = pip_resolves(arm_index, wanted, arm)
    assert done.returncode == 0, done.stderr
    chosen = {one["metadata"]["name"]: one for one in json.loads(done.stdout)["install"]}
    assert chosen.keys() == {"azure-iot-hub", "uamqp"}
    assert chosen["uamqp"]["metadata"]["version"] == VERSION
    assert chosen["uamqp"]["download_info"]["url"] == STAND_IN.as_uri()


def test_elsewhere_pip_takes_uamqp_itself(arm_index: Path, wanted: Path) -> None:
    done = pip_resolves(arm_index, wanted, "x86_64")
    assert done.returncode != 0 and BUILD in done.stderr


def test_uv_takes_the_stand_in_on_arm_and_does_not_build_uamqp(
    arm_index: Path, wanted: Path
) -> None:
    platform = ["--python-platform", "aarch64-unknown-linux-gnu"]
    lines = resolve_with_uv(*platform, "--find-links", arm_index, wanted)
    assert [line.split(" ")[0] for line in lines] == ["azure-iot-hub==2.7.0", "./compat/uamqp"]


# -- what it can, and what it refuses ----------------------------------------------------------

SCRIPT = """
import json, sys, traceback
from importlib.metadata import version
from types import SimpleNamespace

import azure.iot.hub as sdk
import uamqp

KEY = "c3RhbmQtaW4="
STRING = "HostName=h.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey="
asked = []


class Credential:
    def get_token(self, *scopes, **settings):
        asked.extend(scopes)
        return SimpleNamespace(token="a", expires_on=0)


def of(work):
    try:
        return repr(work())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def made_with_a_key(manager):
    return type(manager.from_connection_string(STRING + KEY)).__name__


def made_with_a_credential(manager):
    return type(manager.from_token_credential("h.azure-devices.net", Credential())).__name__


managers = [getattr(sdk, name) for name in sdk.__all__ if name != "DigitalTwinClient"]
registry = sdk.IoTHubRegistryManager.from_connection_string(
    STRING + KEY, transport_type=uamqp.TransportType.AmqpOverWebsocket
)
message = of(lambda: registry.send_c2d_message("device-01", "hello", {"messageId": "1"}))
client = registry.amqp_svc_client.amqp_client
found = {
    "module": uamqp.__file__,
    "version": version("uamqp"),
    "with_a_key": [made_with_a_key(one) for one in managers],
    "with_a_credential": [made_with_a_credential(one) for one in managers],
    "scopes": asked,
    "message": message,
    "queued": of(lambda: client.queue_message(None)),
    "bad_key": of(lambda: sdk.IoTHubRegistryManager.from_connection_string(STRING + "A")),
    "has_receive_client": hasattr(uamqp, "ReceiveClient"),
    "closed": of(registry.amqp_svc_client.disconnect_sync),
}
print(json.dumps(found))
"""
MANAGERS = ["Registry", "Configuration", "Job", "HttpRuntime"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What azure-iot-hub does in an environment into which the stand-in's wheel was installed."""
    folder = tmp_path_factory.mktemp("stand-in")
    python = install(build(folder), folder / "venv")
    done = subprocess.run(
        [python, "-W", "ignore", "-c", SCRIPT],
        env=without_pips_settings(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "venv": str(folder / "venv"), "stderr": done.stderr}


def build(folder: Path) -> Path:
    plain = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    done = pip("wheel", *plain, "--wheel-dir", folder, STAND_IN)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    assert wheel.name == f"uamqp-{VERSION}-py3-none-any.whl"
    return wheel


def install(wheel: Path, venv: Path) -> Path:
    """Install a wheel into a new environment, which has this one's packages behind its own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    base = {"base": str(venv), "platbase": str(venv)}
    scheme = "nt" if sys.platform == "win32" else "posix_prefix"
    python = Path(sysconfig.get_path("scripts", scheme, base), f"python{EXE}")
    done = pip("--python", python, "install", "--no-index", "--no-deps", "--quiet", wheel)
    assert done.returncode == 0, done.stderr
    site = Path(sysconfig.get_path("purelib", scheme, base))
    behind = "\n".join(Path(one).as_posix() for one in sys.path if "site-packages" in one)
    (site / "behind.pth").write_text(behind, encoding="utf-8")
    return python


def test_the_sdks_managers_are_made_with_the_stand_in(found: dict[str, Any]) -> None:
    assert found["version"] == VERSION
    assert Path(found["module"]).is_relative_to(found["venv"])
    assert found["with_a_key"] == [f"IoTHub{name}Manager" for name in MANAGERS]
    assert found["with_a_credential"] == found["with_a_key"]
    assert (found["closed"], found["stderr"]) == ("None", "")


def test_a_cloud_to_device_message_is_refused_with_the_reason(found: dict[str, Any]) -> None:
    assert found["message"].startswith("AmqpNotAvailableError: uamqp.message is not available")
    assert "send_c2d_message" in found["message"] and "direct method" in found["message"]
    assert found["queued"].startswith("AmqpNotAvailableError: uamqp.SendClient.queue_message is")
    assert found["has_receive_client"] is False


def test_a_key_or_credential_is_used_when_the_client_is_made_as_by_uamqp(
    found: dict[str, Any],
) -> None:
    assert found["bad_key"].startswith("Error: ")
    assert found["scopes"] == ["https://iothubs.azure.net/.default"]
