"""`connect_hub`: which hub it is, what it shows, and what becomes of its handles."""

from __future__ import annotations

import base64
import os
import socket
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import NoReturn

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubConfigurationManager, IoTHubRegistryManager

from fwupdate_helpers import settings as settings_module
from fwupdate_helpers.connection_string import Secret
from fwupdate_helpers.errors import (
    FirmwareUpdateError,
    HubUnauthorized,
    HubUnavailable,
    InvalidConnectionString,
)
from fwupdate_helpers.hub import CONNECTION_STRING_VARIABLE, Hub, connect_hub
from fwupdate_helpers.localhub import background
from fwupdate_helpers.localhub.statedir import StateDir
from tests.support import settle

KEY = base64.b64encode(b"not a key of any hub in the world").decode()
AZURE = f"HostName=example.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey={KEY}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return the local hub that all tests of this session share."""
    with connect_hub() as hub:
        yield hub


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateDir]:
    """Return the state folder of a local hub that `connect_hub` uses in this test only."""
    state = StateDir(tmp_path / "state")
    monkeypatch.setenv("FWUPDATE_STATE_DIR", str(state.path))
    settle(state)
    yield state
    background.stop(state)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let every connection fail, and return a state folder that nobody may make."""

    def refuse(*arguments: object) -> NoReturn:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("FWUPDATE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dotenv: str) -> Path:
    """Make the root of a repository with a `.env` and let `connect_hub` take it for its own."""
    (tmp_path / "pyproject.toml").touch()
    file = tmp_path / ".env"
    file.touch(mode=0o600)
    file.write_text(dotenv, encoding="utf-8")
    monkeypatch.setattr(settings_module, "_REPOSITORY", tmp_path)
    return file


# -- which hub ------------------------------------------------------------------------------------


def test_a_connection_string_in_the_environment_selects_azure_without_any_network(
    no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, f"  {AZURE}\n")
    with connect_hub() as hub:
        assert (hub.kind, hub.host_name) == ("azure", "example.azure-devices.net")
        assert "Azure" in repr(hub)
        assert hub.device_options == {}
        assert isinstance(hub.registry, IoTHubRegistryManager)
        assert hub.registry.protocol.config.connection.verify is True
        assert hub.registry.protocol.config.proxies.use_env_settings is True
        assert isinstance(hub.configurations, IoTHubConfigurationManager)
        assert hub.configurations.protocol.config.connection.verify is True
    assert not no_network.exists(), "no local hub was started"


def test_the_env_file_of_the_repository_selects_azure_when_the_variable_is_not_set(
    no_network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path, monkeypatch, f"# mine\n{CONNECTION_STRING_VARIABLE}='{AZURE}'\n")
    monkeypatch.delenv(CONNECTION_STRING_VARIABLE)
    assert connect_hub().kind == "azure"


@pytest.mark.parametrize("value", ["", "  "])
def test_a_variable_that_is_set_and_empty_means_the_local_hub_whatever_env_says(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path, monkeypatch, f"{CONNECTION_STRING_VARIABLE}={AZURE}\n")
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, value)
    with connect_hub() as hub:
        assert hub.kind == "local"


@pytest.mark.parametrize("why", ["another owner", "no repository", "no such line", "no file"])
def test_an_env_file_that_does_not_count_means_the_local_hub(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = repository(tmp_path, monkeypatch, f"{CONNECTION_STRING_VARIABLE}={AZURE}\n")
    monkeypatch.delenv(CONNECTION_STRING_VARIABLE)
    if why == "another owner":
        if os.name != "posix" or os.getuid() != 0:
            monkeypatch.setattr(os, "getuid", lambda: file.stat().st_uid + 1, raising=False)
        else:
            os.chown(file, 12345, -1)
    elif why == "no repository":
        (tmp_path / "pyproject.toml").unlink()
    elif why == "no such line":
        file.write_text("OTHER=1\n", encoding="utf-8")
    else:
        file.unlink()
    assert settings_module.read_hub_setting() is None


@pytest.mark.parametrize(
    ("text", "part", "words"),
    [
        (AZURE.replace("HostName=", "Host="), "HostName", "has no HostName"),
        (AZURE.replace("example.", "https://example."), "HostName", "is no host name"),
        (AZURE.replace("SharedAccessKeyName=service;", ""), "SharedAccessKeyName", "has no"),
        (AZURE.replace(f"SharedAccessKey={KEY}", ""), "SharedAccessKey", "has no SharedAccessKey"),
        (AZURE[:-3], "SharedAccessKey", "not base64"),
        (
            AZURE.replace("SharedAccessKeyName=service", "DeviceId=d1"),
            "SharedAccessKeyName",
            "connection string of a device",
        ),
        ("nonsense", "HostName", "has no HostName"),
    ],
)
def test_a_malformed_string_gets_an_error_that_names_the_part_and_never_the_key(
    text: str, part: str, words: str, no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, text)
    with pytest.raises(InvalidConnectionString, match=words) as refused:
        connect_hub()
    assert refused.value.part == part
    assert KEY[:8] not in f"{refused.value} {refused.value!r} {refused.value.__cause__!r}"


def test_a_local_hub_that_cannot_start_is_an_error_of_this_kit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FWUPDATE_STATE_DIR", str(tmp_path / "file"))
    with pytest.raises(HubUnavailable, match="FWUPDATE_STATE_DIR"):
        connect_hub()


# -- what a Hub does ------------------------------------------------------------------------------


def test_a_dead_proxy_in_the_environment_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, device_id: str
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with connect_hub() as hub:
        assert hub.device_connection_string(device_id)


def test_the_sdks_device_client_connects_with_what_a_hub_hands_out(
    hub: Hub, device_id: str
) -> None:
    client = IoTHubDeviceClient.create_from_connection_string(
        hub.device_connection_string(device_id), **hub.device_options
    )
    client.connect()
    assert hub.registry.get_twin(device_id).connection_state == "Connected"
    client.shutdown()


def test_a_connection_string_creates_the_identity_once(hub: Hub, device_id: str) -> None:
    first = hub.device_connection_string(device_id)
    generation = hub.registry.get_device(device_id).generation_id
    second = hub.device_connection_string(device_id)
    assert str.__str__(first) == str.__str__(second)
    assert hub.registry.get_device(device_id).generation_id == generation


def test_two_threads_that_ask_at_once_get_one_identity(hub: Hub, device_id: str) -> None:
    together = Barrier(4)

    def ask(number: int) -> list[str]:
        strings = []
        for attempt in range(3):
            together.wait(10)
            strings.append(str.__str__(hub.device_connection_string(f"{device_id}-{attempt}")))
        return strings

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(ask, range(4))
    assert all(other == first for other in others)


def test_a_device_that_is_deleted_twice_is_gone(hub: Hub, device_id: str) -> None:
    hub.device_connection_string(device_id)
    hub.delete_device(device_id)
    hub.delete_device(device_id)
    assert device_id not in {device.device_id for device in hub.registry.get_devices()}


def test_device_ids_are_stable_and_specific_to_user_and_notebook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = Hub(kind="azure", connection_string=AZURE)

    def device_id(user: str, notebook: str, name: str = "thermostat") -> str:
        monkeypatch.setenv("LOGNAME", user)
        monkeypatch.setenv("JPY_SESSION_NAME", notebook)
        return hub.device_id(name)

    ann = device_id("ann", "/home/ann/02_firmware update.ipynb")
    assert ann == device_id("ann", "/somewhere/else/02_firmware update.ipynb")
    assert ann == "ann-02-firmware-update-thermostat"
    different = {
        ann,
        device_id("bob", "/home/ann/02_firmware update.ipynb"),
        device_id("ann", "/home/ann/03_other.ipynb"),
        device_id("ann", "/home/ann/02_firmware update.ipynb", "pump"),
        device_id("ann", ""),
    }
    assert len(different) == 5
    long = device_id("DOMAIN\\Zoë", "n" * 200 + ".ipynb", "a"), device_id("Z", "n" * 200, "b")
    allowed = set(string.ascii_letters + string.digits + "-")
    assert all(len(one) <= 128 and set(one) <= allowed for one in long)
    assert long[0].endswith("-a"), "the name is not what gets cut off"
    assert long[1].endswith("-b")


def test_a_user_without_a_name_has_device_ids_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a container that runs under a user id that /etc/passwd does not know.
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    if os.name == "posix":
        monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setenv("JPY_SESSION_NAME", "02.ipynb")
    assert Hub(kind="azure", connection_string=AZURE).device_id("pump").endswith("-02-pump")


def test_nothing_that_is_shown_holds_a_secret(hub: Hub, device_id: str) -> None:
    device_string = hub.device_connection_string(device_id)
    keys = [
        str.__str__(device_string).rpartition("SharedAccessKey=")[2],
        hub.registry.get_device(device_id).authentication.symmetric_key.secondary_key,
        background.find(StateDir.default()).connection_string.rpartition("SharedAccessKey=")[2],  # type: ignore[union-attr]
    ]
    shown = [
        *(repr(hub), str(hub), f"{hub}", hub._repr_html_(), hub.masked_connection_string),
        *(repr(device_string), str(device_string), f"{device_string}", f"{device_string:>10}"),
        *("%s" % device_string, "{}".format(device_string), f"{[device_string]}"),  # noqa: UP031, UP032
        *(repr(Secret(device_string)), repr(vars(hub)), repr(background.find(StateDir.default()))),
    ]
    assert all(len(key) == 44 for key in keys)
    assert [text for text in shown if any(key in text for key in keys)] == []
    assert "***" in repr(device_string)


# -- handles --------------------------------------------------------------------------------------


def test_close_can_be_repeated_and_leaves_the_hub_to_others(hub: Hub, device_id: str) -> None:
    other = connect_hub()
    other.device_connection_string(device_id)
    other.close()
    other.close()
    assert hub.registry.get_device(device_id).device_id == device_id


def test_handles_go_on_working_after_the_hub_was_stopped_and_started(
    own_state: StateDir, device_id: str
) -> None:
    with connect_hub() as hub:
        before = hub.device_connection_string(device_id)
        assert background.stop(own_state)
        background.ensure_running(own_state)
        assert str.__str__(hub.device_connection_string(device_id)) == str.__str__(before)


def test_a_handle_of_before_a_reset_gets_a_clear_error(own_state: StateDir, device_id: str) -> None:
    with connect_hub() as old:
        old.device_connection_string(device_id)
        background.reset(own_state)
        settle(own_state, address=old.host_name.partition(":")[0])
        with pytest.raises(FirmwareUpdateError, match="set-up cell"):
            old.device_connection_string(device_id)
        with connect_hub() as new:
            assert new.registry.get_devices() == []
            with pytest.raises(HubUnauthorized, match="credentials"):
                old.device_connection_string(device_id)
