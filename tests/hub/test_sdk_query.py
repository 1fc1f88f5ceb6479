"""Queries with the unmodified SDK, over HTTPS: twins, columns, pages, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import QuerySpecification, Twin, TwinProperties
from msrest.exceptions import HttpOperationError

from tests.rest import assert_error, call
from tests.sdk import refusal
from tests.support import HubProcess

Json = dict[str, Any]
SIZE = 25


@pytest.fixture(scope="module")
def registry(hub_process: HubProcess) -> Iterator[IoTHubRegistryManager]:
    manager = hub_process.registry()
    manager.protocol.config.keep_alive = True
    yield manager


@pytest.fixture(scope="module")
def fleet(registry: IoTHubRegistryManager) -> str:
    """Create devices whose tag `fleet` is what is returned."""
    name = uuid4().hex[:12]
    for number in range(SIZE):
        device_id = f"{name}-{number:02}"
        registry.create_device_with_sas(device_id, None, None, "enabled")
        tags = {"fleet": name, "number": number, "wave": number % 3}
        firmware = {"version": "2.0" if number % 2 else "1.0"}
        properties = TwinProperties(desired={"firmware": firmware})
        registry.update_twin(device_id, Twin(tags=tags, properties=properties))
    return name


def ask(
    registry: IoTHubRegistryManager, text: str, token: str | None = None, size: int | None = None
) -> Any:
    return registry.query_iot_hub(QuerySpecification(query=text), token, size)


def test_whole_twins_come_as_twins(registry: IoTHubRegistryManager, fleet: str) -> None:
    result = ask(registry, f"SELECT * FROM devices WHERE tags.fleet = '{fleet}'")

    assert (result.type, result.continuation_token) == ("twin", None)
    assert [twin.device_id for twin in result.items] == [f"{fleet}-{n:02}" for n in range(SIZE)]
    assert result.items[7] == registry.get_twin(f"{fleet}-07")


def test_several_pages_hold_every_device_once(registry: IoTHubRegistryManager, fleet: str) -> None:
    text = f"SELECT deviceId FROM devices WHERE tags.fleet = '{fleet}'"
    found: list[list[str]] = []
    token = None
    while not found or token is not None:
        result = ask(registry, text, token, 10)
        found.append([row.device_id for row in result.items])
        token = result.continuation_token

    assert [len(page) for page in found] == [10, 10, 5]
    assert [one for page in found for one in page] == [f"{fleet}-{n:02}" for n in range(SIZE)]


def test_other_columns_are_among_the_additional_properties(
    registry: IoTHubRegistryManager, fleet: str
) -> None:
    result = ask(
        registry,
        "SELECT tags.wave AS wave, COUNT() AS numberOfDevices FROM devices "
        f"WHERE tags.fleet = '{fleet}' GROUP BY tags.wave",
    )

    assert result.type == "raw"
    assert [row.additional_properties for row in result.items] == [
        {"wave": 0, "numberOfDevices": 9},
        {"wave": 1, "numberOfDevices": 8},
        {"wave": 2, "numberOfDevices": 8},
    ]
    assert all(not row.as_dict() for row in result.items)  # the trap: it drops them


def test_an_alias_that_a_twin_knows_fills_that_field(
    registry: IoTHubRegistryManager, fleet: str
) -> None:
    text = f"SELECT tags.wave AS status FROM devices WHERE deviceId = '{fleet}-04'"

    (row,) = ask(registry, text).items

    assert (row.status, row.additional_properties) == ("1", {})


def test_no_device_gives_an_empty_page(registry: IoTHubRegistryManager) -> None:
    result = ask(registry, "SELECT * FROM devices WHERE tags.fleet = 'nowhere'")

    assert (result.items, result.type, result.continuation_token) == ([], "twin", None)


def test_a_change_is_seen_by_the_next_query(registry: IoTHubRegistryManager, fleet: str) -> None:
    text = f"SELECT * FROM devices WHERE tags.fleet = '{fleet}' AND tags.seen = true"
    assert ask(registry, text).items == []

    registry.update_twin(f"{fleet}-03", Twin(tags={"seen": True}))

    assert [twin.device_id for twin in ask(registry, text).items] == [f"{fleet}-03"]


def test_a_bad_query_is_a_400_that_tells_where(registry: IoTHubRegistryManager) -> None:
    with pytest.raises(HttpOperationError) as error:
        ask(registry, "SELECT * FROM devices WHERE tags.site == 'A'")

    assert error.value.response.status_code == 400
    assert "ErrorCode:ArgumentInvalid;The query is invalid at line 1, column 40" in (
        error.value.response.text
    )


def test_a_token_of_another_query_is_refused(registry: IoTHubRegistryManager, fleet: str) -> None:
    token = ask(registry, f"SELECT * FROM devices WHERE tags.fleet = '{fleet}'", None, 5)
    other = "SELECT * FROM devices"

    assert refusal(ask, registry, other, token.continuation_token, 5) == (400, "ArgumentInvalid")


def test_modules_are_not_offered(registry: IoTHubRegistryManager) -> None:
    assert refusal(ask, registry, "SELECT * FROM devices.modules") == (501, "NotImplemented")


# -- what the SDK does not send -----------------------------------------------------------------


def post(hub: HubProcess, body: Any, **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return call(hub, "POST", "/devices/query", body, headers=sent)


@pytest.mark.parametrize("body", [{}, {"query": 1}, {"query": None}, {"Query": "SELECT"}])
def test_a_body_without_a_query_is_refused(hub_process: HubProcess, body: Json) -> None:
    assert_error(post(hub_process, body), 400004, "ArgumentInvalid")


@pytest.mark.parametrize("size", ["0", "-1", "x", "1.5", "", "1e3", "9" * 30])
def test_a_page_size_that_is_none_is_refused(hub_process: HubProcess, size: str) -> None:
    reply = post(hub_process, {"query": "SELECT * FROM devices"}, x_ms_max_item_count=size)

    assert_error(reply, 400004, "ArgumentInvalid")
    assert "x-ms-max-item-count" in reply.content["Message"]


def test_a_page_has_as_many_items_as_asked_for(hub_process: HubProcess, fleet: str) -> None:
    body = {"query": f"SELECT deviceId FROM devices WHERE tags.fleet = '{fleet}'"}

    for size, count in (("1", 1), ("24", 24), ("25", 25), ("1000", 25), ("5000", 25)):
        reply = post(hub_process, body, x_ms_max_item_count=size)
        assert len(reply.content) == count
        assert ("x-ms-continuation" in reply.headers) == (count < SIZE)
        assert reply.headers["x-ms-item-type"] == "raw"


def test_the_trace_shows_what_was_asked(hub_process: HubProcess) -> None:
    text = f"SELECT deviceId FROM devices WHERE tags.mark = '{uuid4().hex[:8]}'"
    assert post(hub_process, {"query": text}).content == []

    rows = call(hub_process, "GET", "/$localhub/trace", query="").content["rows"]

    number = next(row["number"] for row in rows if text in row["body"])
    request, answer = (row for row in rows if number in (row["number"], row["answers"]))
    assert (request["kind"], request["what"]) == ("query", "POST /devices/query")
    assert (answer["kind"], answer["status"], answer["body"]) == ("query", 200, "[]")
