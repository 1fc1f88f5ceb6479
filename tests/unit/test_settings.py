"""Which hub is set, and a `.env` that only its owner can read."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from fwupdate_helpers import settings
from fwupdate_helpers.errors import EnvFileRefused
from fwupdate_helpers.settings import (
    CONNECTION_STRING_VARIABLE,
    HOST_NAME_VARIABLE,
    IMAGE_CONTAINER_VARIABLE,
    read_hub_setting,
    read_setting,
)

REPOSITORY = Path(__file__).parents[2]
KEY = "c2VjcmV0IG9mIHRoZSBodWIgaW4gLmVudiBmaWxl"
STRING = f"HostName=h.azure-devices.net;SharedAccessKeyName=p;SharedAccessKey={KEY}"
posix_only = pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the `.env` of a repository, empty and closed; the environment sets nothing."""
    (tmp_path / "pyproject.toml").touch()
    file = tmp_path / ".env"
    file.touch(mode=0o600)
    monkeypatch.setattr(settings, "_REPOSITORY", tmp_path)
    for name in (CONNECTION_STRING_VARIABLE, HOST_NAME_VARIABLE, IMAGE_CONTAINER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return file


@posix_only
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o640, 0o660, 0o602, 0o777])
@pytest.mark.parametrize("name", [CONNECTION_STRING_VARIABLE, IMAGE_CONTAINER_VARIABLE])
def test_a_file_with_a_key_that_others_can_open_is_refused_with_the_fix(
    env_file: Path, mode: int, name: str
) -> None:
    env_file.write_text(f"{name}='{STRING}'\n", encoding="utf-8")
    env_file.chmod(mode)
    for read in (lambda: read_setting(name), read_hub_setting):
        with pytest.raises(EnvFileRefused) as refused:
            read()
        assert f"chmod 600 '{env_file}'" in str(refused.value)
        told = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
        assert KEY not in "".join(told.format())
    env_file.chmod(0o600)
    assert read_setting(name) == STRING


@posix_only
def test_a_file_without_a_key_may_be_read_by_all(env_file: Path) -> None:
    lines = f"{CONNECTION_STRING_VARIABLE}=\n{HOST_NAME_VARIABLE}=h.azure-devices.net\n"
    env_file.write_text(lines, encoding="utf-8")
    env_file.chmod(0o644)
    setting = read_hub_setting()
    assert setting is not None and setting.host_name == "h.azure-devices.net"


@posix_only
def test_a_file_that_is_not_asked_is_not_refused(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text(f"{CONNECTION_STRING_VARIABLE}={STRING}\n", encoding="utf-8")
    env_file.chmod(0o644)
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, "")
    assert read_hub_setting() is None


def test_on_windows_modes_tell_nothing(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file.write_text(f"{CONNECTION_STRING_VARIABLE}={STRING}\n", encoding="utf-8")
    env_file.chmod(0o644)
    # `os` for this module alone: pathlib must not take this machine for another one.
    monkeypatch.setattr(settings, "os", type("Windows", (), {"name": "nt", "environ": os.environ}))
    setting = read_hub_setting()
    assert setting is not None and setting.connection_string == STRING


@pytest.mark.parametrize(
    ("environment", "file", "wanted"),
    [
        ({}, {}, None),
        ({}, {"s": STRING}, STRING),
        ({}, {"h": "file"}, "file"),
        ({}, {"s": STRING, "h": "file"}, STRING),
        ({}, {"s": "", "h": "file"}, "file"),
        ({"s": STRING}, {"h": "file"}, STRING),
        ({"h": "here"}, {"s": STRING}, "here"),
        ({"h": "here", "s": STRING}, {}, STRING),
        ({"s": ""}, {"s": STRING, "h": "file"}, None),
        ({"s": " ", "h": "here"}, {"s": STRING}, None),
        ({"h": ""}, {"h": "file"}, "file"),
    ],
)
def test_the_environment_goes_before_the_file_and_an_empty_string_means_the_local_hub(
    environment: dict[str, str],
    file: dict[str, str],
    wanted: str | None,
    env_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {"s": CONNECTION_STRING_VARIABLE, "h": HOST_NAME_VARIABLE}
    for short, value in environment.items():
        monkeypatch.setenv(names[short], value)
    lines = [f"{names[short]}={value}" for short, value in file.items()]
    env_file.write_text("\n".join(lines), encoding="utf-8")
    setting = read_hub_setting()
    found = setting and (str.__str__(setting.connection_string) or setting.host_name)
    assert found == wanted
    assert KEY not in repr(setting)


def test_the_example_sets_nothing_and_names_every_setting(env_file: Path) -> None:
    example = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    env_file.write_text(example, encoding="utf-8")
    assert read_hub_setting() is None
    names = [getattr(settings, name) for name in settings.__all__ if name.endswith("_VARIABLE")]
    assert [name for name in names if f"\n{name}=\n" not in example] == []


def test_git_never_sees_an_env_file_and_does_see_the_example() -> None:
    lines = (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert ".env" in lines and not [line for line in lines if line.startswith((".env.", ".env*"))]
