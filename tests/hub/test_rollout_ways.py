"""Rollouts by job and by configuration: the hub gives the orders, and the same things count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msrest.exceptions import HttpOperationError

from fwupdate_helpers.rollout import Outcome, RolloutReport, Status
from fwupdate_helpers.rollout.terms import Way
from fwupdate_helpers.watching import reported_of
from tests.rollouts import Bench

BY_HUB: tuple[Way, ...] = ("job", "configuration")


@pytest.fixture
def cleaned(bench: Bench) -> Iterator[Bench]:
    """A bench whose rollout is taken off the hub at the end: its configuration would stay."""
    yield bench
    bench.load().forget()


@pytest.mark.parametrize("by", BY_HUB)
def test_the_hub_gives_the_orders_wave_after_wave_and_to_nobody_twice(
    cleaned: Bench, by: Way
) -> None:
    ids = cleaned.online(3)

    def interrupt(report: RolloutReport) -> None:
        if report.wave == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cleaned.rollout(ids, by=by, version="2.0.0", waves=(1, "rest")).run(on_change=interrupt)
    report = cleaned.load().resume()

    assert (report.status, report.updated) == (Status.COMPLETED, tuple(ids))
    assert cleaned.outcomes(ids) == ["completed"] * 3
    assert [cleaned.starts(device_id) for device_id in ids] == [1] * 3
    began = [_began(cleaned, device_id) for device_id in ids]
    assert began[0] < min(began[1:])


def _began(bench: Bench, device_id: str) -> str:
    reported = reported_of(bench.hub.registry.get_twin(device_id))
    return str(reported["firmwareUpdate"]["stages"]["waiting"]["startedAt"])


@pytest.mark.parametrize("by", BY_HUB)
def test_a_device_that_runs_the_version_starts_nothing(cleaned: Bench, by: Way) -> None:
    ids = cleaned.online(1, boards=True)
    report = cleaned.rollout(ids, "https://example.com/x.fw", by=by, version="1.0.0").run()
    assert (report.status, report.ids(Outcome.UP_TO_DATE)) == (Status.COMPLETED, tuple(ids))
    assert cleaned.starts(ids[0]) == 0


@pytest.mark.parametrize("by", BY_HUB)
def test_the_hub_stops_where_the_canary_fails(cleaned: Bench, by: Way) -> None:
    ids = cleaned.online(2)
    refused = "https://images.example.com/edge.fw"  # these devices have no board
    report = cleaned.rollout(ids, refused, by=by, version="2.0.0", waves=(1, "rest")).run()
    assert (report.status, report.failed) == (Status.STOPPED, (ids[0],))
    assert (report.causes, report.untouched) == ({"noBoard": 1}, (ids[1],))
    with pytest.raises(HttpOperationError):  # nobody may catch up with a bad image
        cleaned.hub.configurations.get_configuration(_configuration(cleaned, ids[0]))


def _configuration(bench: Bench, device_id: str) -> str:
    return f"{bench.rollout_id}-{bench.tag(device_id)['run']}"


def test_a_job_leaves_out_who_is_offline(cleaned: Bench) -> None:
    ids = cleaned.ids(1)
    report = cleaned.rollout(ids, by="job", reach_seconds=1).run()
    assert (report.status, report.not_reached) == (Status.STOPPED, tuple(ids))
    assert report.waves[0].results[ids[0]].code == "offline"
    cleaned.start(ids)
    assert cleaned.load().resume(past_failures=True).status is Status.COMPLETED
    assert cleaned.starts(ids[0]) == 0


def test_a_device_that_was_offline_catches_up_with_a_configuration(cleaned: Bench) -> None:
    here, away = ids = [*cleaned.online(1), *cleaned.ids(1)]
    rollout = cleaned.rollout(ids, by="configuration", version="2.0.0", waves=(1, "rest"))

    def come_back(report: RolloutReport) -> None:
        if report.wave == 2 and away not in cleaned.devices:
            cleaned.start([away])

    assert rollout.run(on_change=come_back).updated == (here, away)
    # It stays, so that those who were not reached catch up later.
    kept = cleaned.hub.configurations.get_configuration(_configuration(cleaned, here))
    assert "tags.rollout.wave <= 2" in kept.target_condition


def test_a_configuration_needs_the_version(bench: Bench) -> None:
    with pytest.raises(ValueError, match="needs the version"):
        bench.rollout(["device"], by="configuration")
