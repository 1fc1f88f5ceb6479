"""Updates by desired properties: ids, verdicts, status and versions, without any I/O."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.contract_firmware import (
    CODE_BAD_DESIRED,
    desired_firmware,
    desired_order,
    desired_outcome,
    desired_update_id,
    heeded_patch,
    status_patch,
)
from fwupdate_helpers.device.desired import DesiredProperties
from fwupdate_helpers.firmware.board import Board, Boot
from fwupdate_helpers.firmware.desired import Verdict, judge
from fwupdate_helpers.localhub.twins import merge
from tests.power import KEY, image

Json = dict[str, Any]
BEGIN = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)
URI = "https://images.test/firmware.img?sig=c2VjcmV0"
SIMULATED = desired_firmware("test.com", "2.0.0")
ID = desired_update_id(SIMULATED)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def wire(seconds: float) -> str:
    return contract.to_wire(at(seconds))


# -- the content and its id -----------------------------------------------------------------------


def test_the_id_is_that_of_the_content_in_whatever_order_and_shows_no_address() -> None:
    content = desired_firmware(URI, "2.0.0", check_value="ab" * 32, allow_downgrade=True)
    assert content == {
        "fwVersion": "2.0.0",
        "fwPackageURI": URI,
        "fwPackageCheckValue": "ab" * 32,
        "allowDowngrade": True,
    }
    same = {name: content[name] for name in reversed(content)} | {"note": None}
    assert desired_update_id(same) == desired_update_id(content)
    assert "sig" not in desired_update_id(content)


def test_each_change_of_the_content_makes_another_id() -> None:
    contents: list[Any] = [
        *(SIMULATED, SIMULATED | {"attempt": 2}, SIMULATED | {"fwVersion": "2.0.1"}),
        *(SIMULATED | {"fwPackageURI": URI}, {}, "2.0.0", 2, [SIMULATED]),
    ]
    assert len({desired_update_id(content) for content in contents}) == len(contents)


def test_an_order_is_read_from_the_content() -> None:
    content = desired_firmware(URI, " 2.0.0 ", check_value="AB" * 32)
    order = desired_order(content | {"more": 1})
    assert (order.package_uri, order.version, order.check_value) == (URI, "2.0.0", "AB" * 32)
    assert order.update_id == desired_update_id(content | {"more": 1})
    assert not order.allow_downgrade


# -- the verdict ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Boot:
    """Return what a board with version 1.0.0 has started."""
    folder = tmp_path_factory.mktemp("board")
    return Board(image(folder, "1.0.0"), KEY.public_key(), folder=folder / "chip").power_up()


def verdict(content: Any, **state: Any) -> Verdict | None:
    nothing_yet = {"heeded": None, "interrupted": False, "is_current": False, "boot": None}
    return judge(content, **{**nothing_yet, "running": None, "allow_http": False, **state})


BAD: dict[str, tuple[Any, str, str]] = {
    "a text": ("2.0.0", CODE_BAD_DESIRED, "must be an object"),
    "a list": ([SIMULATED], CODE_BAD_DESIRED, "must be an object"),
    "false": (False, CODE_BAD_DESIRED, "must be an object"),
    "no version": ({"fwPackageURI": URI}, CODE_BAD_DESIRED, "'fwVersion' is missing"),
    "no address": ({"fwVersion": "2.0.0"}, CODE_BAD_DESIRED, "'fwPackageURI' is missing"),
    "other names": ({"fwPackageUri": URI, "version": "2"}, CODE_BAD_DESIRED, "is missing"),
    "a version of a wrong type": (SIMULATED | {"fwVersion": 2}, CODE_BAD_DESIRED, "'fwVersion'"),
    "a version that is none": (SIMULATED | {"fwVersion": "new"}, CODE_BAD_DESIRED, "no version"),
    "an address of a wrong type": (SIMULATED | {"fwPackageURI": {}}, CODE_BAD_DESIRED, "a text"),
    "an empty address": (SIMULATED | {"fwPackageURI": " "}, CODE_BAD_DESIRED, "not empty"),
    "a bad check value": (SIMULATED | {"fwPackageCheckValue": "abc"}, CODE_BAD_DESIRED, "SHA-256"),
    "allowDowngrade: 1": (SIMULATED | {"allowDowngrade": 1}, CODE_BAD_DESIRED, "true or false"),
    "plain HTTP": (desired_firmware("http://h/x.img?k=s3cret", "2"), "uriRefused", "https://"),
    "a file": (desired_firmware("file:///etc/passwd", "2"), "uriRefused", "https://"),
    "an image, and no board": (desired_firmware(URI, "2.0.0"), "noBoard", "no board"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_content_is_refused_with_a_code_and_a_sentence_and_starts_nothing(name: str) -> None:
    content, code, words = BAD[name]
    found = verdict(content)
    assert found is not None and found.order is None
    assert (found.update_id, found.code) == (desired_update_id(content), code)
    assert words in found.message and found.message.endswith(".")
    assert "s3cret" not in found.message and "c2VjcmV0" not in found.message
    assert verdict(content, heeded=found.update_id) is None, "it is refused once"


@pytest.mark.parametrize(
    ("version", "running", "allowed", "expected"),
    [
        ("2.0.0", None, False, "begins"),
        ("2.0.0", "anything", False, "begins"),
        ("2.0.0", "1.9", False, "begins"),
        ("2.0.0", "2.0.0", False, "current"),
        ("2.0.0", "2.0", True, "current"),
        ("2.0.0", "10.0.0", False, "downgrade"),
        ("2.0.0", "2.0.1", True, "begins"),
        ("2.0.0", "2.0.0rc1", False, "begins"),
    ],
)
def test_the_version_that_runs_decides(
    version: str, running: str | None, allowed: bool, expected: str
) -> None:
    content = desired_firmware("test.com", version, allow_downgrade=allowed)
    found = verdict(content, running=running)
    assert found is not None
    assert (found.order is not None) == (expected == "begins")
    assert found.code == ("downgrade" if expected == "downgrade" else None)
    assert found.version == version


def test_a_board_takes_images_only_and_http_only_where_it_is_allowed(boot: Boot) -> None:
    simulated = verdict(SIMULATED, boot=boot, running="1.0.0")
    assert simulated is not None and simulated.code == "uriRefused"
    content = desired_firmware("http://images.test/firmware.img", "2.0.0")
    for allow_http, code in ((False, "uriRefused"), (True, None)):
        found = verdict(content, boot=boot, running="1.0.0", allow_http=allow_http)
        assert found is not None and found.code == code


def test_what_has_been_heeded_is_heeded_again_only_when_it_was_lost_on_its_way() -> None:
    assert verdict(SIMULATED, heeded=ID) is None
    again = verdict(SIMULATED, heeded=ID, interrupted=True)
    assert again is not None and again.order is not None
    changed = verdict(SIMULATED | {"attempt": 2}, heeded=ID)
    assert changed is not None and changed.order is not None


def test_a_version_that_failed_and_runs_all_the_same_is_told_once() -> None:
    told = verdict(SIMULATED, heeded=ID, running="2.0.0")
    assert told == Verdict(ID, version="2.0.0")
    assert verdict(SIMULATED, heeded=ID, running="2.0.0", is_current=True) is None


@pytest.mark.parametrize("content", [None, {}])
def test_a_removal_is_noted_once(content: Any) -> None:
    assert verdict(content, heeded=ID) == Verdict(None)
    assert verdict(content) is None


# -- the status -----------------------------------------------------------------------------------


def walk(update_id: str = ID, version: str | None = "2.0.0") -> list[Json]:
    """Return the patches of an update of an image."""
    stages = contract.STAGES
    return [
        contract.opening_patch(update_id, at(0), version),
        *(contract.stage_patch(at(n + 1), stages[n], stages[n + 1]) for n in range(4)),
        contract.completed_patch(at(9), contract.REBOOTING),
    ]


def told_after(*patches: Json, keeps_version: bool = False) -> Json:
    told = merge({}, heeded_patch(ID))
    for patch in patches:
        told = merge(told, patch)
        told = merge(told, status_patch(told, keeps_version=keeps_version))
    return told


def test_the_status_follows_the_stages_of_the_update() -> None:
    seen = [told_after(*walk()[:count])["firmware"] for count in range(1, 7)]
    assert [firmware["fwUpdateStatus"] for firmware in seen] == [
        *("downloading", "downloading", "verifying", "applying", "rebooting", "current")
    ]
    assert {firmware["lastFwUpdateStartTime"] for firmware in seen} == {wire(0)}
    assert [firmware.get("pendingFwVersion") for firmware in seen] == ["2.0.0"] * 5 + [None]
    assert [firmware.get("lastFwUpdateEndTime") for firmware in seen] == [None] * 5 + [wire(9)]


def test_the_substatus_tells_the_wait_the_progress_and_the_error() -> None:
    opening, downloading = walk()[:2]
    error = contract.error_patch(at(5), "downloading", "hashMismatch", "It is wrong.")
    patches = [
        (opening, "waiting"),
        (downloading, "0%"),
        (contract.progress_patch(0.374), "37%"),
        (error, "hashMismatch: It is wrong."),
    ]
    for count, (_, expected) in enumerate(patches, 1):
        firmware = told_after(*(patch for patch, _ in patches[:count]))["firmware"]
        assert firmware["fwUpdateSubstatus"] == expected
    assert firmware["lastFwUpdateEndTime"] == wire(5)
    again = told_after(*(patch for patch, _ in patches), opening)["firmware"]
    assert "lastFwUpdateEndTime" not in again


@pytest.mark.parametrize(("outcome", "status"), [("error", "error"), ("rolledback", "rolledback")])
def test_a_bad_end_is_told_as_what_it_is(outcome: str, status: str) -> None:
    end = contract.error_patch(at(9), "rebooting", "selfTestFailed", "No.", outcome)
    firmware = told_after(*walk()[:-1], end)["firmware"]
    assert firmware["fwUpdateStatus"] == status
    assert desired_outcome({"firmware": firmware}, ID) == status


def test_an_update_by_the_method_leaves_the_status_of_the_desired_firmware_alone() -> None:
    before = told_after(*walk())
    after = told_after(*walk(), *walk("by-method", "3.0.0"))
    assert after["firmware"] == before["firmware"]
    assert status_patch(merge({}, walk()[0]), keeps_version=False) == {}


def test_a_device_without_a_board_keeps_its_version_in_the_twin() -> None:
    by_desired = told_after(*walk(), keeps_version=True)
    assert by_desired["firmware"]["currentFwVersion"] == "2.0.0"
    by_method = told_after(*walk("by-method", "3.0.0"), keeps_version=True)
    assert by_method["firmware"]["currentFwVersion"] == "3.0.0"
    unknown = told_after(*walk("by-method", None), keeps_version=True)
    assert "currentFwVersion" not in unknown["firmware"]


@pytest.mark.parametrize(
    "reported", [{}, {"firmware": None}, {"firmware": "2.0.0"}, {"firmware": {"fwUpdateId": "x"}}]
)
def test_a_twin_that_does_not_tell_of_the_desired_firmware_has_no_outcome_of_it(
    reported: Json,
) -> None:
    assert desired_outcome(reported, ID) is None


def test_an_update_on_its_way_has_no_outcome_yet() -> None:
    assert desired_outcome(told_after(walk()[0]), ID) is None
    assert desired_outcome(told_after(), ID) == "current"
    assert desired_outcome(told_after(), "another") is None


# -- versions of the desired properties -----------------------------------------------------------


def test_patches_are_merged_in_their_order_and_a_repeated_one_does_no_harm() -> None:
    known = DesiredProperties()
    assert known.take_all({"a": 1, "b": {"c": 2}, "$version": 4})
    assert known.take_patch({"b": {"c": None, "d": 3}, "$version": 5})
    assert known.take_patch({"a": None, "$version": 6})
    assert known.take_patch({"b": {"d": 9}, "$version": 5})
    assert (known.properties, known.version) == ({"b": {"d": 3}}, 6)


def test_a_patch_after_a_missing_one_or_before_the_first_look_asks_for_the_whole() -> None:
    known = DesiredProperties()
    assert not known.take_patch({"a": 1, "$version": 2})
    assert known.take_all({"a": 1, "$version": 2})
    assert not known.take_patch({"a": 2, "$version": 4})
    assert (known.properties, known.version) == ({"a": 1}, 2)


def test_a_whole_that_is_older_is_read_again_and_then_believed() -> None:
    """It was overtaken by a patch, or the identity was made anew and counts from 1 again."""
    known = DesiredProperties()
    assert known.take_all({"a": 7, "$version": 7})
    assert not known.take_all({"a": 1, "$version": 1})
    assert known.take_all({"a": 1, "$version": 1})
    assert known.properties == {"a": 1}
