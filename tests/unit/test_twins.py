"""The rules of a device twin: merge patches, metadata, versions, limits and replacing."""

from __future__ import annotations

import base64
import copy
import json
import random
from typing import Any

import pytest

from fwupdate_helpers.localhub.errors import HubError
from fwupdate_helpers.localhub.twins import (
    MAX_INTEGER,
    MIN_INTEGER,
    Twin,
    check_limits,
    desired_patch,
    difference,
    merge,
    new_twin,
    patch_by_service,
    patch_reported,
    replace_by_service,
    without_nulls,
)

Json = dict[str, Any]
T1, T2, T3 = (f"2026-05-04T12:30:0{second}.0000000Z" for second in (1, 2, 3))


def nested(levels: int, innermost: Any = 1) -> Any:
    """An object with so many objects inside one another: the form of the example in the docs."""
    content = innermost
    for level in reversed(range(levels)):
        content = {f"level{level}": content}
    return content


def nested_array(levels: int) -> Any:
    content: Any = 1
    for _ in range(levels):
        content = [content]
    return content


# -- merging ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        # The test cases of RFC 7396, appendix A, that have objects on both sides.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        # A value becomes an object, an object a value, and an empty patch changes nothing.
        ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
        ({"a": {"b": 2}}, {"a": 1}, {"a": 1}),
        ({"a": {"b": 2}}, {}, {"a": {"b": 2}}),
        ({"a": {"b": 2}}, {"a": {}}, {"a": {"b": 2}}),
        ({"a": False}, {"a": 0}, {"a": 0}),
    ],
)
def test_a_patch_merges_as_rfc_7396_says(target: Json, patch: Json, result: Json) -> None:
    before = copy.deepcopy((target, patch))

    assert json.dumps(merge(target, patch)) == json.dumps(result)

    assert (target, patch) == before, "merging must leave its arguments alone"


def random_value(rng: random.Random, depth: int) -> Any:
    if depth and rng.random() < 0.4:
        return random_object(rng, depth - 1)
    return rng.choice([0, 1, True, False, 1.0, "", "text", [], [1, {"b": 2}], [True], {}])


def random_object(rng: random.Random, depth: int = 4) -> Json:
    return {key: random_value(rng, depth) for key in rng.sample("abcde", rng.randint(0, 4))}


def test_the_difference_of_two_objects_leads_from_one_to_the_other() -> None:
    rng = random.Random(7396)
    for _ in range(3000):
        old, new = random_object(rng), random_object(rng)
        # As JSON text: for Python True == 1 == 1.0, for a device they differ.
        reached = json.dumps(merge(old, difference(old, new)), sort_keys=True)
        assert reached == json.dumps(new, sort_keys=True)


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({}, {}, {}),
        ({"a": {"b": 1}}, {"a": {"b": 1}}, {}),
        ({"a": 1, "b": 2}, {"b": 2}, {"a": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": None, "c": 3}}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": None}}),
        ({"a": 1}, {"a": True}, {"a": True}),
        ({"a": [0]}, {"a": [False]}, {"a": [False]}),
    ],
)
def test_the_difference_names_only_what_differs(old: Json, new: Json, patch: Json) -> None:
    assert json.dumps(difference(old, new)) == json.dumps(patch)


def test_null_members_are_not_stored() -> None:
    assert without_nulls({"a": None, "b": {"c": None, "d": 1}}) == {"b": {"d": 1}}


# -- versions, metadata, ETag -------------------------------------------------------------------


def test_a_new_twin_is_empty_and_at_version_one() -> None:
    twin = new_twin(T1)

    assert twin.desired.for_service() == {
        "$metadata": {"$lastUpdated": T1, "$lastUpdatedVersion": 1},
        "$version": 1,
    }
    assert twin.reported.for_service() == {"$metadata": {"$lastUpdated": T1}, "$version": 1}
    assert (twin.tags, twin.version) == ({}, 1)


def test_desired_metadata_mirrors_the_section_and_old_nodes_keep_their_stamp() -> None:
    twin = patch_by_service(new_twin(T1), {"properties": {"desired": {"a": {"b": 1, "c": 2}}}}, T2)
    twin = patch_by_service(twin, {"properties": {"desired": {"a": {"c": 3}, "d": [1]}}}, T3)

    assert twin.desired.properties == {"a": {"b": 1, "c": 3}, "d": [1]}
    stamp2 = {"$lastUpdated": T2, "$lastUpdatedVersion": 2}
    stamp3 = {"$lastUpdated": T3, "$lastUpdatedVersion": 3}
    assert twin.desired.metadata == {
        **stamp3,
        "a": {**stamp3, "b": stamp2, "c": stamp3},
        "d": stamp3,
    }


def test_reported_metadata_has_times_and_no_versions() -> None:
    twin = patch_reported(new_twin(T1), {"a": {"b": 1}}, T2)

    stamp = {"$lastUpdated": T2}
    assert twin.reported.metadata == {**stamp, "a": {**stamp, "b": stamp}}


@pytest.mark.parametrize(
    ("first", "second", "mirror"),
    [
        ({"a": {"b": 1}}, {"a": None}, {}),
        ({"a": {"b": 1, "c": 1}}, {"a": {"b": None}}, {"a": {"c": {}}}),
        ({"a": {"b": 1}}, {"a": 5}, {"a": {}}),
        ({"a": {"b": 1}}, {"a": [5]}, {"a": {}}),
        ({"a": 5}, {"a": {"b": 1}}, {"a": {"b": {}}}),
        ({"a": 5}, {"b": None}, {"a": {}}),
        ({}, {"a": {"b": None}}, {"a": {}}),
    ],
)
def test_metadata_has_no_node_without_a_property(first: Json, second: Json, mirror: Json) -> None:
    def keys(metadata: Json) -> Json:
        return {key: keys(node) for key, node in metadata.items() if not key.startswith("$")}

    twin = patch_reported(patch_reported(new_twin(T1), first, T2), second, T3)

    assert keys(twin.reported.metadata) == mirror


def test_each_writer_has_a_version_of_its_own() -> None:
    twin = patch_reported(new_twin(T1), {"a": 1}, T2)
    assert (twin.reported.version, twin.desired.version, twin.version) == (2, 1, 1)

    twin = patch_by_service(twin, {"tags": {"site": "A"}}, T2)
    assert (twin.reported.version, twin.desired.version, twin.version) == (2, 1, 2)

    twin = patch_by_service(twin, {"properties": {"desired": {"a": 1}}}, T2)
    assert (twin.reported.version, twin.desired.version, twin.version) == (2, 2, 3)


def test_the_etag_is_base64_of_the_version_and_the_device_does_not_change_it() -> None:
    twin = patch_by_service(new_twin(T1), {"tags": {"a": 1}}, T2)

    assert base64.b64decode(twin.etag) == (2).to_bytes(8, "big")
    assert patch_reported(twin, {"a": 1}, T3).etag == twin.etag


def test_a_service_writes_tags_and_desired_and_nothing_else() -> None:
    patch = {
        "deviceId": "other",
        "tags": {"a": 1},
        "properties": {"desired": {"b": 2, "$version": 9, "$metadata": {}}, "reported": {"c": 3}},
    }

    twin = patch_by_service(new_twin(T1), patch, T2)

    assert (twin.tags, twin.desired.properties, twin.reported.properties) == (
        {"a": 1},
        {"b": 2},
        {},
    )
    assert twin.desired.version == 2
    assert desired_patch(patch) == {"b": 2}


def test_the_device_is_told_of_nulls() -> None:
    assert desired_patch({"properties": {"desired": {"a": None}}}) == {"a": None}
    assert desired_patch({"tags": {"a": None}}) is None


@pytest.mark.parametrize(
    "patch", [{"tags": 1}, {"tags": []}, {"properties": "x"}, {"properties": {"desired": [1]}}]
)
def test_a_part_of_the_wrong_type_is_refused(patch: Json) -> None:
    with pytest.raises(HubError) as error:
        patch_by_service(new_twin(T1), patch, T2)
    assert error.value.code == 400004


# -- replacing ----------------------------------------------------------------------------------


def test_replacing_drops_what_is_not_given_and_tells_the_device_the_difference() -> None:
    twin = patch_by_service(
        new_twin(T1), {"tags": {"a": 1}, "properties": {"desired": {"b": 1, "c": {"d": 1}}}}, T2
    )

    twin, patch = replace_by_service(
        twin, {"tags": {"e": 1}, "properties": {"desired": {"c": {"f": 1}}}}, T3
    )

    assert (twin.tags, twin.desired.properties) == ({"e": 1}, {"c": {"f": 1}})
    assert patch == {"b": None, "c": {"d": None, "f": 1}}
    stamp = {"$lastUpdated": T3, "$lastUpdatedVersion": 3}
    assert twin.desired.metadata == {**stamp, "c": {**stamp, "f": stamp}}


def test_replacing_leaves_a_part_that_is_not_given() -> None:
    before = patch_by_service(
        new_twin(T1), {"tags": {"a": 1}, "properties": {"desired": {"b": 1}}}, T2
    )

    after, patch = replace_by_service(before, {"tags": {}}, T3)

    assert (after.tags, after.desired, patch) == ({}, before.desired, None)
    assert after.version == before.version + 1


# -- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "size"), [("tags", 8 * 1024), ("desired", 32 * 1024), ("reported", 32 * 1024)]
)
def test_a_section_may_have_its_size_and_not_one_byte_more(section: str, size: int) -> None:
    full = {f"{n:04}": "x" * 508 for n in range(size // 512)}
    check_limits(section, full)

    with pytest.raises(HubError) as error:
        check_limits(section, {**full, "0000": "x" * 509})
    assert error.value.code == 400004
    assert str(size) in error.value.message


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("abc", 3),
        ("é", 2),
        ("😀", 4),
        ("a\tb\nc\x00\x1f", 3),
        ("a\x7fb\x80\x9f", 2),
        ("\xa0", 2),
        (1, 8),
        (-1.5, 8),
        (True, 4),
        (False, 4),
        ({"ab": 1}, 10),
        ([1, "ab", True], 14),
        ([], 0),
    ],
)
def test_the_size_counts_utf8_and_numbers_and_no_control_characters(value: Any, size: int) -> None:
    filler = {f"{n:04}": "x" * 4092 for n in range(7)}  # 4096 bytes each
    rest = 4 * 1024 - size - len("v") - len("rest")

    check_limits("reported", {**filler, "v": value, "rest": "x" * rest})
    with pytest.raises(HubError):
        check_limits("reported", {**filler, "v": value, "rest": "x" * (rest + 1)})


GOOD_VALUES = {
    "the deepest object of the docs' example": nested(10, {"property": "value"}),
    "ten arrays inside one another": {"a": nested_array(10)},
    "the longest key": {"k" * 1024: 1},
    "the longest key, two bytes a character": {"é" * 512: 1},
    "the longest string": {"a": "x" * 4096},
    "the longest string, four bytes a character": {"a": "😀" * 1024},
    "the largest integers": {"a": MAX_INTEGER, "b": MIN_INTEGER},
    "a large float": {"a": 1e300},
    "booleans in an array": {"a": [True, False]},
    "objects in an array": {"a": [{"b": [1, "two"]}]},
    "other punctuation in a key": {"a-b_c/d:e#f": 1},
    "keys that differ in case": {"a": 1, "A": 2},
}
BAD_VALUES = {
    "eleven levels": nested(11, {"property": "value"}),
    "eleven arrays inside one another": {"a": nested_array(11)},
    "thousands of arrays inside one another": {"a": nested_array(5000)},
    "thousands of objects inside one another": nested(5000),
    "an object too deep in an array": {"a": [nested(9, {"property": 1})]},
    "an empty key": {"": 1},
    "a key too long": {"k" * 1025: 1},
    "a key too long in UTF-8": {"é" * 513: 1},
    "a dot in a key": {"a.b": 1},
    "a dollar sign in a key": {"$version": 1},
    "a dollar sign in an inner key": {"a": {"$metadata": {}}},
    "a space in a key": {"a b": 1},
    "a C0 control character in a key": {"a\tb": 1},
    "a C1 control character in a key": {"a\x85b": 1},
    "a bad key that is to be deleted": {"a": {"b.c": None}},
    "a bad key in an array": {"a": [{"b.c": 1}]},
    "a string too long": {"a": "x" * 4097},
    "a string too long in UTF-8": {"a": "é" * 2049},
    "a string too long in an array": {"a": ["x" * 4097]},
    "an integer too large": {"a": MAX_INTEGER + 1},
    "an integer too small": {"a": MIN_INTEGER - 1},
    "an integer too large in an array": {"a": [MAX_INTEGER + 1]},
    "a null in an array": {"a": [1, None]},
    "a null in an array in an array": {"a": [[None]]},
    "a null in an object in an array": {"a": [{"b": None}]},
}


@pytest.mark.parametrize("properties", GOOD_VALUES.values(), ids=GOOD_VALUES)
def test_a_twin_may_hold(properties: Json) -> None:
    patch = {"tags": properties, "properties": {"desired": properties}}

    assert patch_by_service(new_twin(T1), patch, T2).tags == properties
    assert replace_by_service(new_twin(T1), patch, T2)[0].desired.properties == properties
    assert patch_reported(new_twin(T1), properties, T2).reported.properties == properties


@pytest.mark.parametrize("properties", BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_twin_may_not_hold(properties: Json) -> None:
    tags, desired = {"tags": properties}, {"properties": {"desired": properties}}
    if any(key.startswith("$") for key in properties):
        desired = {"properties": {"desired": {"a": properties}}}  # at the root it is read-only
    twin = new_twin(T1)
    for write in (
        lambda: patch_reported(twin, properties, T2),
        lambda: patch_by_service(twin, tags, T2),
        lambda: patch_by_service(twin, desired, T2),
        lambda: replace_by_service(twin, tags, T2),
        lambda: replace_by_service(twin, desired, T2),
    ):
        with pytest.raises(HubError) as error:
            write()
        assert error.value.code == 400004


def test_the_limits_hold_for_what_a_patch_leads_to() -> None:
    twin = Twin()
    for n in range(7):
        twin = patch_reported(twin, {f"key{n}": "x" * 4092}, T1)
    full = patch_reported(twin, {"key7": "x" * 4092}, T1)

    with pytest.raises(HubError):
        patch_reported(full, {"k": 1}, T2)
    assert patch_reported(full, {"key0": None, "k": 1}, T2).reported.properties["k"] == 1
