"""The rules of automatic device configurations: content, conflicts, what is written and removed."""

from __future__ import annotations

from typing import Any

import pytest

from fwupdate_helpers.localhub.configurations.content import (
    patch_towards,
    read_content,
    share_out,
)
from fwupdate_helpers.localhub.configurations.specification import (
    Configuration,
    Specification,
    check_id,
    read_specification,
)
from fwupdate_helpers.localhub.errors import HubError
from fwupdate_helpers.localhub.twins import (
    Writer,
    merge,
    new_twin,
    patch_by_configurations,
    patch_by_service,
)

Json = dict[str, Any]
CONTENT = {"deviceContent": {"properties.desired.firmware": {"fwVersion": "2"}}}


def refused(code: int, call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(HubError) as error:
        call(*arguments, **options)
    assert error.value.code == code
    return error.value.message


# -- content ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ({"properties.desired.a": 1}, {("a",): 1}),
        ({"properties.desired.a.b": {"c": [1]}}, {("a", "b"): {"c": [1]}}),
        ({"properties.desired": {"a": 1, "b": {}}}, {("a",): 1, ("b",): {}}),
        (
            {"properties.desired.a.b": "x", "properties.desired.a.c": True},
            {("a", "b"): "x", ("a", "c"): True},
        ),
        ({"properties.desired.json": '{"a": 1}'}, {("json",): '{"a": 1}'}),
        ({"properties.desired.text": "{not a set}"}, {("text",): "{not a set}"}),
    ],
)
def test_the_keys_of_a_content_are_twin_paths(content: Json, values: Json) -> None:
    assert read_content(content) == values


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "writes nothing"),
        ({"properties.desired": {}}, "writes nothing"),
        ({"firmware": 1}, "not 'firmware'"),
        ({"properties.reported.a": 1}, "not 'properties.reported.a'"),
        ({"properties.desired": 1}, "not 'properties.desired'"),
        ({"tags.site": "A"}, "not 'tags.site'"),
        ({"properties.desired.": 1}, "empty"),
        ({"properties.desired.a..b": 1}, "empty"),
        ({"properties.desired.$metadata.a": 1}, "$metadata"),
        ({"properties.desired": {"a.b": 1}}, "a.b"),
        ({"properties.desired.a": {"b": None}}, "properties.desired.a.b is null"),
        ({"properties.desired.a": "{'v-1'}"}, "text of a Python set"),
        ({"properties.desired.a": {"b": "{1, 2}"}}, "properties.desired.a.b is the text of"),
        ({"properties.desired.a": "set()"}, "a Python set"),
        ({"properties.desired.a": 1, "properties.desired.a.b": 1}, "overlaps"),
        ({"properties.desired.a": 1, "properties.desired": {"a": 2}}, "overlaps"),
        ({"properties.desired.a": ["x" * 4000] * 9}, "over 32768 bytes"),
        ({"properties.desired.a": "x" * 4097}, "4096"),
        ({"properties.desired.a": "{" * 4000}, None),
    ],
)
def test_a_content_that_no_twin_can_hold_is_refused(content: Json, problem: str | None) -> None:
    if problem is None:
        assert read_content(content)
    else:
        assert problem in refused(400402, read_content, content)


# -- conflicts ----------------------------------------------------------------------------------

A, AB, AC, B = ("a",), ("a", "b"), ("a", "c"), ("b",)


@pytest.mark.parametrize(
    ("rivals", "shares"),
    [
        ([], {}),
        ([("x", {A: 1, B: 2})], {"x": {"a": 1, "b": 2}}),
        ([("x", {A: 1}), ("y", {A: 2, B: 2})], {"x": {"a": 1}, "y": {"b": 2}}),
        ([("x", {A: 1}), ("y", {A: 2})], {"x": {"a": 1}, "y": {}}),
        ([("x", {AB: 1}), ("y", {AC: 2})], {"x": {"a": {"b": 1}}, "y": {"a": {"c": 2}}}),
        ([("x", {A: {"c": 1}}), ("y", {AB: 2})], {"x": {"a": {"c": 1}}, "y": {}}),
        ([("x", {AB: 1}), ("y", {A: {"c": 2}})], {"x": {"a": {"b": 1}}, "y": {}}),
        (
            [("x", {A: 1}), ("y", {A: 2, B: 2}), ("z", {B: 3})],
            {"x": {"a": 1}, "y": {"b": 2}, "z": {}},
        ),
    ],
)
def test_the_strongest_writes_a_path_and_all_that_overlaps_it(rivals: Any, shares: Json) -> None:
    assert share_out(rivals) == shares


def test_the_priority_decides_then_the_time_of_creation() -> None:
    def made(name: str, priority: int, created: str) -> Configuration:
        return Configuration(name, Specification({}, priority=priority), "", created, "")

    old, new, strong = made("b", 1, "2026-01-01"), made("a", 1, "2026-01-02"), made("c", 2, "2025")

    assert sorted([old, strong, new], key=lambda one: one.rank, reverse=True) == [strong, new, old]


# -- what is written and removed ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "wanted", "written", "patch"),
    [
        ({}, {"a": 1}, {}, {"a": 1}),
        ({"a": 1}, {"a": 1}, {"a": 1}, {}),
        ({"a": True}, {"a": 1}, {}, {"a": 1}),
        ({"a": 5}, {"a": 1}, {"a": 1}, {"a": 1}),  # changed by hand: written again
        ({"a": {"own": 1}}, {"a": {"b": 2}}, {}, {"a": {"b": 2}}),  # merged, not replaced
        ({"a": "text"}, {"a": {"b": 2}}, {}, {"a": {"b": 2}}),
        ({"a": {"b": 2}}, {"a": 3}, {"a": {"b": 2}}, {"a": 3}),
        ({"a": 3}, {"a": {"b": 2}}, {"a": 3}, {"a": {"b": 2}}),
        ({"a": [1]}, {"a": [1, 2]}, {}, {"a": [1, 2]}),
        ({}, {"a": {}}, {}, {"a": {}}),
        ({"a": {"b": 1}}, {"a": {}}, {}, {}),
        # leaving
        ({"a": 1, "b": 2}, {}, {"a": 1}, {"a": None}),
        ({"a": {"b": 1}}, {}, {"a": {"b": 1}}, {"a": None}),  # no empty object stays
        ({"a": {"b": {"c": 1}}}, {}, {"a": {"b": {"c": 1}}}, {"a": None}),
        ({"a": {"b": 1, "own": 2}}, {}, {"a": {"b": 1}}, {"a": {"b": None}}),
        ({"a": 5}, {}, {"a": 1}, {}),  # changed by hand meanwhile: not ours any more
        ({}, {}, {"a": 1}, {}),
        ({"a": {}}, {}, {"a": {}}, {"a": None}),
        # the next one takes over
        (
            {"a": {"b": 1, "c": 1}},
            {"a": {"b": 2}},
            {"a": {"b": 1, "c": 1}},
            {"a": {"b": 2, "c": None}},
        ),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1}}, {"a": {"b": None, "c": 2}}),
        ({"a": 1}, {"b": 2}, {"a": 1}, {"b": 2, "a": None}),
    ],
)
def test_a_twin_is_brought_in_line_and_other_values_stay(
    properties: Json, wanted: Json, written: Json, patch: Json
) -> None:
    assert patch_towards(properties, wanted, written) == patch

    after = merge(properties, patch)
    assert patch_towards(after, wanted, wanted) == {}


def test_the_metadata_tells_which_configuration_wrote_what() -> None:
    twin = patch_by_service(new_twin("t1"), {"properties": {"desired": {"own": 1}}}, "t2")
    weak = Writer("weak", "d1", {"a": {"b": 1, "same": 1}})
    strong = Writer("strong", "d2", {"c": {}})
    patch = {"a": {"b": 1, "gone": None}, "c": {}}

    twin = patch_by_configurations(twin, patch, [weak, strong], "t3")

    weakly = {"$lastUpdatedBy": "weak", "$lastUpdatedByDigest": "d1"}
    strongly = {"$lastUpdatedBy": "strong", "$lastUpdatedByDigest": "d2"}
    third = {"$lastUpdated": "t3", "$lastUpdatedVersion": 3}
    assert (twin.desired.version, twin.version) == (3, 3)
    assert twin.desired.metadata == {
        **third,
        **strongly,
        "own": {"$lastUpdated": "t2", "$lastUpdatedVersion": 2},
        "a": {**third, **weakly, "b": {**third, **weakly}},
        "c": {**third, **strongly},
    }

    by_hand = patch_by_service(twin, {"properties": {"desired": {"a": {"b": 2}}}}, "t4")

    fourth = {"$lastUpdated": "t4", "$lastUpdatedVersion": 4}
    assert by_hand.desired.metadata == {
        **fourth,
        "own": {"$lastUpdated": "t2", "$lastUpdatedVersion": 2},
        "a": {**fourth, "b": fourth},
        "c": {**third, **strongly},
    }


# -- what a service sends ------------------------------------------------------------------------


def check(text: str) -> None:
    """Stand for the query language, which has tests of its own."""
    if "bad" in text:
        raise HubError(400004, f"no query: {text}")


def read(body: Json, before: Specification | None = None) -> Specification:
    return read_specification(body, before, check_condition=check, check_query=check)


def test_a_configuration_needs_its_content_alone() -> None:
    specification = read({"content": CONTENT})

    assert specification == Specification({"properties.desired.firmware": {"fwVersion": "2"}})
    assert (specification.target_condition, specification.priority) == ("", 0)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"content": None}, 400402),
        ({"content": {}}, 400402),
        ({"content": {"deviceContent": [1]}}, 400402),
        ({"content": {"deviceContent": {"a": 1}}}, 400402),
        ({"content": {"modulesContent": {"$edgeAgent": {}}}}, 501000),
        ({"content": {"moduleContent": {"properties.desired.a": 1}}}, 501000),
        ({"targetCondition": "bad"}, 400401),
        ({"targetCondition": 7}, 400401),
        ({"priority": -1}, 400004),
        ({"priority": 2**31}, 400004),
        ({"priority": True}, 400004),
        ({"priority": 1.5}, 400004),
        ({"labels": {"a": 1}}, 400004),
        ({"labels": ["a"]}, 400004),
        ({"schemaVersion": "2.0"}, 400004),
        ({"metrics": []}, 400404),
        ({"metrics": {"queries": {"m": "bad"}}}, 400404),
        ({"metrics": {"queries": {"m": 1}}}, 400404),
        ({"metrics": {"queries": {f"m{n}": "SELECT" for n in range(6)}}}, 400404),
    ],
)
def test_a_field_that_is_wrong_is_refused_with_its_code(change: Json, code: int) -> None:
    refused(code, read, {"content": CONTENT, **change})


def test_an_update_may_change_all_but_the_content() -> None:
    before = read({"content": CONTENT, "priority": 1, "labels": {"a": "b"}, "targetCondition": "*"})

    after = read({"content": CONTENT, "priority": 2, "metrics": {"queries": {"m": "S"}}}, before)

    assert after == Specification(before.device_content, priority=2, metrics={"m": "S"})
    assert read({"priority": 3}, before).device_content == before.device_content
    other = {"deviceContent": {"properties.desired.firmware": {"fwVersion": "3"}}}
    assert "create another" in refused(400403, read, {"content": other}, before)
    assert after.digest == before.digest


@pytest.mark.parametrize("name", ["a", "fw-1", "a+b%c_d*e!f'g", "x" * 128])
def test_an_id_of_a_configuration(name: str) -> None:
    assert check_id(name) == name


@pytest.mark.parametrize("name", ["", "A", "a b", "a.b", "ä", "x" * 129, "a\n"])
def test_what_is_no_id_of_a_configuration(name: str) -> None:
    refused(400004, check_id, name)
