"""The masked field for a connection string: it sets the kernel's environment, and shows nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from fwupdate_helpers.notebook import ask_connection_string, ask_image_container
from fwupdate_helpers.settings import CONNECTION_STRING_VARIABLE, IMAGE_CONTAINER_VARIABLE
from tests.blob_storage import Storage

KEY = "Y2FuYXJ5IGtleSBvZiBhIG1hc2tlZCBmaWVsZCAhISE="
STRING = f"HostName=h.azure-devices.net;SharedAccessKeyName=p;SharedAccessKey={KEY}"
CONTAINER = Storage("https://a.blob.core.windows.net").container()
SIGNATURE = CONTAINER.partition("sig=")[2]
FIELDS = [
    pytest.param(ask_connection_string, CONNECTION_STRING_VARIABLE, STRING, KEY, id="hub"),
    pytest.param(
        ask_image_container, IMAGE_CONTAINER_VARIABLE, CONTAINER, SIGNATURE, id="container"
    ),
]
each_field = pytest.mark.parametrize(("ask", "variable", "good", "secret"), FIELDS)


def enter(field: Any, text: str) -> None:
    """Enter a text as a front end does."""
    field.field.set_state({"value": text})


def shown(field: Any) -> str:
    """Return all that a notebook's output and its file hold of the field."""
    states = [widget.get_state() for widget in (field, *field.children)]
    return f"{field!r} {field} {field.text} {json.dumps(states, default=repr)} {vars(field)}"


@each_field
def test_what_is_entered_is_set_for_this_kernel_and_is_nowhere_to_be_seen(
    ask: Callable[[], Any],
    variable: str,
    good: str,
    secret: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, "")
    field = ask()
    enter(field, f"  {good}\n")
    assert os.environ[variable] == good
    assert field.field.value == ""
    assert secret not in shown(field)
    host = good.removeprefix("HostName=").removeprefix("https://")[:7]
    assert f"Set for this kernel: {host}" in field.text.replace("https://", "")


@each_field
@pytest.mark.parametrize("is_cut", [True, False])
def test_what_cannot_be_right_is_refused_and_not_set(
    ask: Callable[[], Any],
    variable: str,
    good: str,
    secret: str,
    is_cut: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, "as before")
    field = ask()
    misspelt = good.replace("HostName", "Host").replace("sig=", "sg=")
    enter(field, good[8:] if is_cut else misspelt)
    assert os.environ[variable] == "as before"
    assert field.field.value == "" and secret not in shown(field)
    assert "⚠" in field.message.value and field.text


def test_an_empty_field_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTION_STRING_VARIABLE, "as before")
    field = ask_connection_string()
    enter(field, "   ")
    assert (os.environ[CONNECTION_STRING_VARIABLE], field.text) == ("as before", "")


def test_the_field_is_masked_and_tells_its_label() -> None:
    state = ask_connection_string().field.get_state()
    assert state["_view_name"] == "PasswordView"
    assert state["description"] == "Connection string:"
    assert state["continuous_update"] is False, (
        "a key goes to the kernel once, not letter by letter"
    )
