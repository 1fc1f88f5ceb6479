"""What a rollout is to do and how far it is, in the tags of twins; and what people see of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.localhub.twins import check_limits, merge
from fwupdate_helpers.rollout import Outcome, Result, Rollout, RolloutReport, Status, WaveReport
from fwupdate_helpers.rollout.report import RolloutPlan
from fwupdate_helpers.rollout.sealing import seal, unseal
from fwupdate_helpers.rollout.terms import (
    WAYS,
    Image,
    Limits,
    Progress,
    Terms,
    Way,
    check_id,
    member_patch,
    progress_patch,
    read_tag,
    result_patch,
    terms_from_json,
    terms_to_json,
)
from fwupdate_helpers.rollout.waves import PlannedWave

NOW = datetime(2026, 5, 4, 12, 30, tzinfo=timezone.utc)
SECRET = "https://acme.example.com/images/edge.fw?sig=topsecret"


def hub(key: str = "c2VjcmV0") -> Hub:
    string = f"HostName=hub.example.com;SharedAccessKeyName=service;SharedAccessKey={key}"
    return Hub(kind="azure", connection_string=string)


def terms(**changes: Any) -> Terms:
    values: dict[str, Any] = {
        "rollout_id": "fw-2-0-0",
        "run": "0123abcd",
        "way": "method",
        "image": Image(SECRET, "2.0.0", "ab" * 32, allow_downgrade=True),
        "limits": Limits(0.1, 5, 600, 60),
        "sizes": (("1", 1), ("rest", 199)),
        "keepers": ("device-1", "device-2", "device-3"),
        "began_at": NOW,
    }
    return Terms(**(values | changes))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("image", [Image(SECRET), Image(SECRET, "2.0.0", "ab" * 32, True)])
def test_terms_come_back_from_a_tag_as_they_were(way: Way, image: Image) -> None:
    one = terms(way=way, image=image)
    # A twin keeps no null.
    kept = merge({}, json.loads(json.dumps(terms_to_json(one, "sealed"))))
    assert terms_from_json("fw-2-0-0", "0123abcd", kept, SECRET) == one


def test_the_longest_plan_fits_in_the_tags_of_a_twin() -> None:
    longest = Image("https://" + "x" * 2040, "2.0.0", "ab" * 32)
    one = terms(
        rollout_id="f" * 63,
        image=longest,
        keepers=tuple(str(number) * 128 for number in range(3)),
        sizes=(("12.345678 %", 100_000),) * 20,
    )
    progress = Progress(Status.STOPPED, 20, NOW, "x" * 100, "0123456789ab", 10**9)
    tag = member_patch("f" * 63, "0123abcd", 1) | {
        "terms": terms_to_json(one, seal(hub(), longest.uri)),
        "progress": progress_patch(progress),
    }
    check_limits("tags", {"rollout": merge({}, tag)})


def test_a_tag_tells_the_wave_the_end_and_the_progress() -> None:
    progress = Progress(Status.PAUSED, 2, NOW + timedelta(milliseconds=5), "why", "owner", 7)
    tag = merge(member_patch("fw", "run", 2), result_patch(Result(Outcome.FAILED, "downgrade")))
    read = read_tag({"rollout": merge(tag, {"progress": progress_patch(progress)})})
    assert read is not None
    assert (read.rollout_id, read.run, read.wave) == ("fw", "run", 2)
    assert (read.result, read.progress) == (Result(Outcome.FAILED, "downgrade"), progress)


@pytest.mark.parametrize(
    "tags",
    [
        None,
        {},
        {"rollout": None},
        {"rollout": "fw"},
        {"rollout": {"id": "fw"}},
        {"rollout": {"id": 1, "run": "r", "wave": 1}},
        {"rollout": {"id": "fw", "run": "r", "wave": "1"}},
    ],
)
def test_what_is_no_tag_of_a_rollout_is_none(tags: Any) -> None:
    assert read_tag(tags) is None


def test_a_new_rollout_clears_what_an_earlier_one_left() -> None:
    left = merge(member_patch("old", "run", 4), result_patch(Result(Outcome.FAILED, "downgrade")))
    left |= {"terms": {"way": "method"}, "progress": {"status": "completed"}}
    assert merge(left, member_patch("new", "r2", 1)) == {"id": "new", "run": "r2", "wave": 1}


def test_the_address_of_the_image_is_read_with_the_key_of_the_hub_alone() -> None:
    sealed = seal(hub(), SECRET)
    assert "topsecret" not in sealed
    assert unseal(hub(), sealed) == SECRET
    with pytest.raises(FirmwareUpdateError, match="pass the address again"):
        unseal(hub("b3RoZXI="), sealed)


def test_neither_terms_nor_an_image_shows_the_address() -> None:
    assert "topsecret" not in repr(terms())
    assert "topsecret" not in repr(Rollout(hub(), "fw", image=SECRET, devices=["a"]))


@pytest.mark.parametrize("bad", ["", "Fw-2", "fw 2", "fw.2", "-fw", "f" * 64, "fw'2", "fw\n", None])
def test_an_id_that_would_not_do_in_a_query_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="cannot be the id of a rollout"):
        check_id(bad)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"abort_at": 1.5}, "abort_at"),
        ({"abort_at": -0.1}, "abort_at"),
        ({"abort_at": float("nan")}, "abort_at"),
        ({"pause_seconds": -1}, "pause_seconds"),
        ({"reach_seconds": 0}, "reach_seconds"),
        ({"wave_seconds": 5, "reach_seconds": 6}, "wave_seconds"),
        ({"by": "mail"}, "by must be one of method, job, configuration"),
        ({"version": "two"}, "no version"),
        ({"waves": ()}, "one wave"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Rollout(hub(), "fw", image=SECRET, devices=["a"], **options)


def plan() -> RolloutPlan:
    rest = tuple(f"device-{number}" for number in range(2, 8))
    waves = (PlannedWave(1, "1", ("device-1",)), PlannedWave(2, "rest", rest))
    return RolloutPlan("fw-2-0-0", "method", "2.0.0", 0.1, 60, waves)


def test_a_plan_tells_which_device_goes_in_which_wave() -> None:
    assert str(plan()).splitlines() == [
        "Rollout fw-2-0-0: 7 devices to version 2.0.0, by method, in 2 waves, with a pause of "
        "60 s between two. More than 10 % failures in a wave stop it.",
        "  wave 1 · 1 · 1 · device-1",
        "  wave 2 · rest · 6 · device-2, device-3, device-4, device-5 and 2 more",
    ]
    assert plan()._repr_html_().count("<tr>") == 3


def test_a_report_tells_how_each_wave_ended_and_why_it_was_stopped() -> None:
    results = {
        "a": Result(Outcome.COMPLETED),
        "b": Result(Outcome.FAILED, "<b>"),
        "c": Result(Outcome.NOT_REACHED, "offline"),
        "d": Result(Outcome.LATE),
    }
    waves = (
        WaveReport(1, "4", tuple(results), results, lost=1),
        WaveReport(2, "rest", ("e", "f"), {}),
    )
    report = RolloutReport("fw", Status.STOPPED, 1, "2 of 3 <updates> failed", waves)
    assert str(report).splitlines() == [
        "Rollout fw stopped after wave 1: 2 of 3 <updates> failed. 1 of 6 devices run the version.",
        "  wave 1: 1 completed, 1 failed, 1 late, 1 not reached, 1 gone",
        "  wave 2: 2 not begun",
    ]
    assert (report.failed, report.untouched, report.not_reached) == (("b", "d"), ("e", "f"), ("c",))
    assert report.causes == {"<b>": 1, "late": 1}
    assert "&lt;updates&gt;" in report._repr_html_()
    assert "<updates>" not in report._repr_html_()
