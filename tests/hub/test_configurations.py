"""Automatic device configurations, through the unmodified SDKs on a hub that evaluates often."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub.models import (
    Configuration,
    ConfigurationContent,
    ConfigurationMetrics,
    ConfigurationQueriesTestInput,
    ExportImportDevice,
    QuerySpecification,
    Twin,
    TwinProperties,
)
from msrest.exceptions import HttpOperationError

from tests.rest import call, wait_for
from tests.sdk import refusal
from tests.support import HubProcess, device_connection_string, localhub

Json = dict[str, Any]
FIRMWARE = {"fwVersion": "2.0.0", "fwPackageURI": "https://example.org/fw"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """Return a hub that evaluates configurations five times in a second."""
    folder = tmp_path_factory.mktemp("hub")
    with HubProcess(folder, "--configuration-seconds", "0.2") as one:
        yield one


@pytest.fixture
def registry(hub: HubProcess) -> Any:
    return hub.registry()


@pytest.fixture
def manager(hub: HubProcess) -> Iterator[Any]:
    """Return a configuration manager; what is left of configurations is deleted at the end."""
    one = hub.configurations()
    yield one
    for left in one.get_configurations():
        one.delete_configuration(left.id)


def make(name: str, condition: str = "", content: Json | None = None, **fields: Any) -> Any:
    """Make a configuration; the keys of `content` are below ``properties.desired``."""
    content = {"firmware": FIRMWARE} if content is None else content
    paths = {f"properties.desired.{path}": value for path, value in content.items()}
    return Configuration(
        id=name,
        content=ConfigurationContent(device_content=paths),
        target_condition=condition,
        **fields,
    )


def create_devices(registry: Any, site: str, *device_ids: str) -> None:
    items = [
        ExportImportDevice(id=one, import_mode="create", tags={"s": site}) for one in device_ids
    ]
    assert registry.bulk_create_or_update_devices(items).is_successful


def move(registry: Any, device_id: str, site: str) -> None:
    registry.update_twin(device_id, Twin(tags={"s": site}))


def change(registry: Any, device_id: str, desired: Json) -> None:
    registry.update_twin(device_id, Twin(properties=TwinProperties(desired=desired)))


def desired(registry: Any, device_id: str) -> Json:
    found = registry.get_twin(device_id).properties.desired
    return {name: value for name, value in found.items() if not name.startswith("$")}


def statuses(registry: Any, device_id: str) -> dict[str, str]:
    twin = registry.get_twin(device_id)
    found = twin.additional_properties.get("configurations", {})
    return {name: one["status"] for name, one in found.items()}


def counts(manager: Any, name: str) -> tuple[int | None, int | None]:
    """Return targetedCount and appliedCount of the last evaluation."""
    results = manager.get_configuration(name).system_metrics.results
    return results.get("targetedCount"), results.get("appliedCount")


def wait(condition: Callable[[], bool]) -> None:
    wait_for(condition, seconds=30)


def wait_for_counts(manager: Any, name: str, targeted: int, applied: int) -> None:
    wait(lambda: counts(manager, name) == (targeted, applied))


class Listener:
    """An SDK client, and the desired patches that it heard."""

    def __init__(self, hub: HubProcess, connection_string: str) -> None:
        self.heard: queue.Queue[Json] = queue.Queue()
        self.client = IoTHubDeviceClient.create_from_connection_string(
            connection_string, **hub.device_options
        )
        self.client.on_twin_desired_properties_patch_received = self.heard.put

    def next_patch(self) -> Json:
        return self.heard.get(timeout=30)


@pytest.fixture
def listen(hub: HubProcess) -> Iterator[Callable[[str], Listener]]:
    """Return a function that creates a device and connects a client in its name."""
    with ExitStack() as stack:

        def listen_as(connection_string: str) -> Listener:
            listener = Listener(hub, connection_string)
            stack.callback(listener.client.shutdown)
            return listener

        yield listen_as


# -- life cycles -----------------------------------------------------------------------------------


def test_a_configuration_lives_from_its_creation_to_its_deletion(
    hub: HubProcess, registry: Any, manager: Any, listen: Callable[[str], Listener], device_id: str
) -> None:
    site, offline, late = f"site-{device_id}", f"{device_id}-offline", f"{device_id}-late"
    online = listen(device_connection_string(hub, device_id))
    assert online.next_patch() == {"$version": 1}
    string = device_connection_string(hub, offline)
    create_devices(registry, "elsewhere", late)
    for one in (device_id, offline):
        move(registry, one, site)

    made = manager.create_configuration(
        make(
            "life",
            f"tags.s = '{site}'",
            priority=10,
            labels={"app": "fw"},
            metrics=ConfigurationMetrics(
                queries={"current": "SELECT deviceId FROM devices WHERE properties.reported.v = 2"}
            ),
        )
    )
    assert (made.priority, made.labels, made.schema_version) == (10, {"app": "fw"}, "1.0")
    assert made.content.device_content == {"properties.desired.firmware": FIRMWARE}
    assert made.created_time_utc == made.last_updated_time_utc

    # the device that is online hears of it, the other one when it returns
    assert online.next_patch() == {"firmware": FIRMWARE, "$version": 2}
    wait_for_counts(manager, "life", 2, 2)
    assert (desired(registry, offline), desired(registry, late)) == ({"firmware": FIRMWARE}, {})
    back = listen(string)
    assert back.next_patch() == {"firmware": FIRMWARE, "$version": 2}
    twin = registry.get_twin(device_id)
    assert twin.additional_properties["configurations"] == {"life": {"status": "Applied"}}
    by = twin.properties.desired["$metadata"]["firmware"]["fwVersion"]
    assert (by["$lastUpdatedBy"], len(by["$lastUpdatedByDigest"])) == ("life", 64)

    for text in manager.get_configuration("life").system_metrics.queries.values():
        found = registry.query_iot_hub(QuerySpecification(query=text)).items
        assert {item.device_id for item in found} == {device_id, offline}

    # what devices report is counted, new devices are found, who leaves loses what it had
    online.client.patch_twin_reported_properties({"v": 2})
    wait(lambda: manager.get_configuration("life").metrics.results == {"current": 1})
    move(registry, late, site)
    wait_for_counts(manager, "life", 3, 3)
    assert desired(registry, late) == {"firmware": FIRMWARE}
    move(registry, device_id, "elsewhere")
    assert online.next_patch() == {"firmware": None, "$version": 3}
    wait_for_counts(manager, "life", 2, 2)
    assert (desired(registry, device_id), statuses(registry, device_id)) == ({}, {})

    manager.delete_configuration("life")
    assert back.next_patch() == {"firmware": None, "$version": 3}
    wait(lambda: desired(registry, late) == {})
    assert statuses(registry, late) == {}
    assert refusal(manager.get_configuration, "life") == (404, "ConfigurationNotFound")


def test_where_two_are_in_conflict_the_priority_decides_path_by_path(
    registry: Any, manager: Any, device_id: str
) -> None:
    create_devices(registry, device_id, device_id)
    condition = f"tags.s = '{device_id}'"
    manager.create_configuration(
        make("low", condition, {"firmware.fwVersion": "1", "interval": 5}, priority=1)
    )
    wait_for_counts(manager, "low", 1, 1)

    manager.create_configuration(
        make("high", condition, {"firmware": {"fwVersion": "2"}}, priority=2)
    )
    wait_for_counts(manager, "high", 1, 1)
    assert desired(registry, device_id) == {"firmware": {"fwVersion": "2"}, "interval": 5}
    assert statuses(registry, device_id) == {"high": "Applied", "low": "Applied"}

    manager.create_configuration(make("beaten", condition, {"interval": 9}, priority=0))
    wait_for_counts(manager, "beaten", 1, 0)
    assert statuses(registry, device_id)["beaten"] == "Targeted"
    assert desired(registry, device_id)["interval"] == 5

    low = manager.get_configuration("low")
    low.priority = 3
    manager.update_configuration(low, low.etag)
    wait_for_counts(manager, "high", 1, 0)
    assert desired(registry, device_id) == {"firmware": {"fwVersion": "1"}, "interval": 5}
    manager.delete_configuration("low")
    wait_for_counts(manager, "high", 1, 1)
    assert desired(registry, device_id) == {"firmware": {"fwVersion": "2"}, "interval": 9}


def test_of_equal_priorities_the_latest_creation_wins(
    registry: Any, manager: Any, device_id: str
) -> None:
    create_devices(registry, device_id, device_id)
    for name in ("b-first", "a-second"):
        manager.create_configuration(make(name, f"tags.s = '{device_id}'", {"by": name}))
    wait_for_counts(manager, "a-second", 1, 1)
    assert counts(manager, "b-first") == (1, 0)

    first = manager.get_configuration("b-first")
    every = "SELECT deviceId FROM devices WHERE IS_DEFINED(deviceId)"
    first.metrics = ConfigurationMetrics(queries={"all": every})
    manager.update_configuration(first, first.etag)  # later, but created before
    wait(lambda: "all" in manager.get_configuration("b-first").metrics.results)
    assert counts(manager, "b-first") == (1, 0)
    assert desired(registry, device_id) == {"by": "a-second"}
    manager.delete_configuration("a-second")
    wait(lambda: desired(registry, device_id) == {"by": "b-first"})


def test_what_is_changed_by_hand_is_written_again_and_other_values_stay(
    registry: Any, manager: Any, device_id: str
) -> None:
    create_devices(registry, device_id, device_id)
    change(registry, device_id, {"firmware": {"own": 1}, "mine": {"a": 1}})
    manager.create_configuration(make("again", f"tags.s = '{device_id}'"))
    wait_for_counts(manager, "again", 1, 1)

    change(registry, device_id, {"firmware": {"fwVersion": "0.1"}})
    kept = {"firmware": {**FIRMWARE, "own": 1}, "mine": {"a": 1}}
    wait(lambda: desired(registry, device_id) == kept)

    manager.delete_configuration("again")
    left = {"firmware": {"own": 1}, "mine": {"a": 1}}
    wait(lambda: desired(registry, device_id) == left)


def test_a_twin_without_room_is_left_alone_until_there_is(
    registry: Any, manager: Any, device_id: str
) -> None:
    full = f"{device_id}-full"
    create_devices(registry, device_id, device_id, full)
    change(registry, full, {f"k{n}": "x" * 4000 for n in range(8)})
    manager.create_configuration(make("big", f"tags.s = '{device_id}'", {"a": "y" * 1000}))

    wait_for_counts(manager, "big", 2, 1)
    assert statuses(registry, full) == {"big": "Targeted"}
    assert "a" not in desired(registry, full)
    change(registry, full, {"k0": None})
    wait_for_counts(manager, "big", 2, 2)
    assert desired(registry, full)["a"] == "y" * 1000


def test_a_deleted_device_is_counted_no_more_and_a_new_one_of_its_name_is_served(
    registry: Any, manager: Any, device_id: str
) -> None:
    create_devices(registry, device_id, device_id)
    manager.create_configuration(make("gone", f"tags.s = '{device_id}'"))
    wait_for_counts(manager, "gone", 1, 1)

    registry.delete_device(device_id)
    wait_for_counts(manager, "gone", 0, 0)
    create_devices(registry, device_id, device_id)
    wait_for_counts(manager, "gone", 1, 1)
    assert desired(registry, device_id) == {"firmware": FIRMWARE}


def test_an_empty_target_condition_targets_nothing_and_a_star_all(
    registry: Any, manager: Any, device_id: str
) -> None:
    create_devices(registry, device_id, device_id)
    made = manager.create_configuration(make("none", content={"all": 1}))
    wait_for_counts(manager, "none", 0, 0)

    made.target_condition = "*"
    made = manager.update_configuration(made, made.etag)
    total = registry.get_device_registry_statistics().total_device_count
    wait_for_counts(manager, "none", total, total)
    made.target_condition = ""
    manager.update_configuration(made, made.etag)
    wait_for_counts(manager, "none", 0, 0)
    assert desired(registry, device_id) == {}


# -- two at once, and what is refused --------------------------------------------------------------


def test_of_two_managers_the_one_with_the_old_etag_is_refused(
    hub: HubProcess, manager: Any
) -> None:
    other = hub.configurations()
    first = manager.create_configuration(make("shared", priority=1))
    second = other.get_configuration("shared")
    assert second.etag == first.etag
    first.priority, first.labels = 2, {"by": "first"}
    updated = manager.update_configuration(first, first.etag)
    assert updated.etag != first.etag
    assert updated.last_updated_time_utc > updated.created_time_utc == first.created_time_utc

    second.priority = 3
    stale = (412, "PreconditionFailed")
    assert refusal(other.update_configuration, second, second.etag) == stale
    assert refusal(other.delete_configuration, "shared", second.etag) == stale
    assert other.get_configuration("shared").priority == 2
    second = other.update_configuration(second, "*")
    assert (second.priority, second.labels) == (3, {})
    other.delete_configuration("shared", second.etag)
    assert refusal(manager.delete_configuration, "shared") == (404, "ConfigurationNotFound")
    assert refusal(manager.update_configuration, first, "*") == (404, "ConfigurationNotFound")


def test_what_is_wrong_is_refused_by_name_and_changes_nothing(manager: Any) -> None:
    manager.create_configuration(make("mine"))
    six = ConfigurationMetrics(queries={f"m{n}": "SELECT deviceId FROM devices" for n in range(6)})
    bad_metric = ConfigurationMetrics(queries={"m": "SELECT WHERE"})
    for configuration, status, name in (
        (make("mine"), 409, "ConfigurationAlreadyExists"),
        (make("Mine"), 400, "ArgumentInvalid"),
        (make("other", "tags.s = "), 400, "InvalidConfigurationTargetCondition"),
        (
            make("other", "FROM devices.modules WHERE tags.s = 1"),
            400,
            "InvalidConfigurationTargetCondition",
        ),
        (make("other", content={}), 400, "InvalidConfigurationContent"),
        (make("other", metrics=six), 400, "InvalidConfigurationCustomMetricsQuery"),
        (make("other", metrics=bad_metric), 400, "InvalidConfigurationCustomMetricsQuery"),
        (make("other", priority=-1), 400, "ArgumentInvalid"),
    ):
        assert refusal(manager.create_configuration, configuration) == (status, name)
    assert [one.id for one in manager.get_configurations()] == ["mine"]

    changed = make("mine", content={"firmware": {"fwVersion": "3"}})
    immutable = (400, "CannotModifyImmutableConfigurationContent")
    assert refusal(manager.update_configuration, changed, "*") == immutable


def test_the_set_of_an_old_sample_is_refused_with_the_reason(manager: Any) -> None:
    # what the SDK makes of a set: the text "{'deviceContent_value-1'}"
    with pytest.raises(HttpOperationError) as error:
        manager.create_configuration(make("sample", content={"key": {"deviceContent_value-1"}}))

    message = json.loads(error.value.response.text)["Message"]
    assert message.startswith("ErrorCode:InvalidConfigurationContent;")
    assert "properties.desired.key is the text of a Python set" in message
    assert "write a dict" in message


def test_queries_can_be_tested_before(manager: Any) -> None:
    def test(condition: str | None, **queries: str) -> tuple[str | None, Json]:
        tested = manager.test_configuration_queries(
            ConfigurationQueriesTestInput(
                target_condition=condition, custom_metric_queries=queries or None
            )
        )
        return tested.target_condition_error, tested.custom_metric_query_errors

    assert test("tags.s = 'A'", m="SELECT deviceId FROM devices") == (None, {})
    assert test(None) == (None, {})
    jobs = test(None, jobs="SELECT * FROM devices.jobs")[1]["jobs"]
    assert "counts devices" in jobs
    error, errors = test("tags.s =", good="SELECT deviceId FROM devices", bad="SELECT")
    assert error
    assert list(errors) == ["bad"]


def test_content_for_edge_devices_is_refused_as_not_offered(manager: Any, device_id: str) -> None:
    content = ConfigurationContent(modules_content={"$edgeAgent": {"properties.desired": {"a": 1}}})
    edge = Configuration(id="edge", content=content)

    not_built = (501, "NotImplemented")
    assert refusal(manager.apply_configuration_on_edge_device, device_id, content) == not_built
    assert refusal(manager.create_configuration, edge) == not_built


def test_a_hub_has_at_most_a_hundred_configurations(hub: HubProcess, manager: Any) -> None:
    names = [f"many-{number:03}" for number in range(100)]
    for name in names:
        manager.create_configuration(make(name))

    assert [one.id for one in manager.get_configurations()] == names
    assert [one.id for one in manager.get_configurations(2)] == names[:2]
    too_many = (413, "ConfigurationCountLimitExceeded")
    assert refusal(manager.create_configuration, make("one-more")) == too_many
    for top in ("0", "-1", "x", "101"):
        reply = call(hub, "GET", "/configurations", query=f"api-version=2021-04-12&top={top}")
        assert (reply.status, reply.error) == (400, "ArgumentInvalid")


def test_the_id_of_path_and_body_must_be_one(hub: HubProcess) -> None:
    content = {"deviceContent": {"properties.desired.a": 1}}
    body = {"id": "other", "content": content}

    reply = call(hub, "PUT", "/configurations/one", body)

    assert (reply.status, reply.error) == (400, "ArgumentInvalid")
    assert call(hub, "GET", "/configurations/one").status == 404


@pytest.mark.parametrize("seconds", ["0", "4000", "nan", "soon"])
def test_a_time_between_evaluations_that_is_none_is_refused(tmp_path: Any, seconds: str) -> None:
    done = localhub("run", tmp_path, "--configuration-seconds", seconds)

    assert done.returncode == 2
    assert "--configuration-seconds" in done.stderr


# -- restarts --------------------------------------------------------------------------------------


def test_a_hub_that_is_killed_in_the_middle_goes_on_where_it_was(own_hub_process: Any) -> None:
    hub = own_hub_process
    registry, manager = hub.registry(), hub.configurations()
    ids = [f"d-{number:03}" for number in range(400)]
    for start in range(0, 400, 100):
        create_devices(registry, "A", *ids[start : start + 100])

    manager.create_configuration(make("restart", "tags.s = 'A'"))
    hub.kill()
    hub.start()
    manager, registry = hub.configurations(), hub.registry()
    wait_for_counts(manager, "restart", 400, 400)
    assert [desired(registry, one) for one in (ids[0], ids[-1])] == [{"firmware": FIRMWARE}] * 2
    assert registry.get_twin(ids[-1]).properties.desired["$version"] == 2

    manager.delete_configuration("restart")
    hub.kill()
    hub.start()
    registry = hub.registry()
    wait(lambda: all(desired(registry, one) == {} for one in (ids[0], ids[-1])))
    assert statuses(registry, ids[-1]) == {}
    assert registry.get_twin(ids[-1]).properties.desired["$version"] == 3
