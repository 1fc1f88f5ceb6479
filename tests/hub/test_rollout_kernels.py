"""Rollouts whose kernel dies, is interrupted or not alone; a hub that refuses and fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers.errors import HubUnauthorized
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.retries import RetryLog, RetryPolicy
from fwupdate_helpers.rollout import (
    RolloutBusy,
    RolloutNotFound,
    RolloutOver,
    RolloutReport,
    Status,
)
from tests.rollouts import SIMULATED, Bench
from tests.support import HubProcess
from tests.unruly_hub import BUSY, LOST_ANSWER, LOST_REQUEST, THROTTLED, Fault, UnrulyHub

REFUSED = Fault(401, "IotHubUnauthorized")
WAVES = (1, "rest")
NO_BOARD = "https://images.example.com/edge.fw"
"""An image that the devices refuse: they have no board."""
BY_CONFIGURATION: dict[str, Any] = {"by": "configuration", "version": "2.0.0"}


@pytest.fixture
def service(unruly: UnrulyHub, hub_process: HubProcess) -> Iterator[Hub]:
    """A hub whose service client goes the unruly way."""
    ca_file = Path(hub_process.ca_file)
    with Hub(kind="azure", connection_string=unruly.connection_string, ca_file=ca_file) as hub:
        yield hub


def go_on(bench: Bench, rollout_id: str, ids: list[str]) -> RolloutReport:
    """Do what a person does whose kernel died: go on with it, or begin where nothing had begun."""
    try:
        return bench.load(rollout_id, lease_seconds=0.2).resume()
    except (RolloutNotFound, RolloutOver):
        rollout = bench.rollout(ids, rollout_id=rollout_id, waves=WAVES, lease_seconds=0.2)
        return rollout.run()


def test_whichever_request_is_the_last_one_another_kernel_ends_the_rollout(
    bench: Bench, unruly: UnrulyHub, service: Hub
) -> None:
    ids = bench.online(3)
    # While it is planned, before and within the first wave, and within the second one.
    for lived, number in enumerate((4, 15, 29)):
        rollout_id = f"{bench.rollout_id}-{number}"
        unruly.faults = [None] * number + [REFUSED] * 1000
        rollout = bench.rollout(ids, hub=service, rollout_id=rollout_id, waves=WAVES)
        with pytest.raises(HubUnauthorized):
            rollout.run()
        report = go_on(bench, rollout_id, ids)
        assert (report.status, report.updated) == (Status.COMPLETED, tuple(ids))
        # Nobody is updated twice, whatever the first kernel had done.
        assert [bench.starts(device_id) for device_id in ids] == [lived + 1] * 3


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_rollout_goes_on_in_another_kernel_after_kill_9(
    bench: Bench, hub_process: HubProcess
) -> None:
    ids = bench.online(4)
    code = f"""
import json, os, signal, sys
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.rollout import Rollout
from pathlib import Path
def die(report):
    if report.wave == 2:
        os.kill(os.getpid(), signal.SIGKILL)
string, host, ca_file = json.load(sys.stdin)
hub = Hub(kind="local", connection_string=string, device_host=host, ca_file=Path(ca_file))
Rollout(hub, {bench.rollout_id!r}, image={SIMULATED!r}, devices={ids!r}, look_seconds=0.05,
        waves=(1, 2, "rest")).run(on_change=die)
"""
    ready = hub_process.ready
    died = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([ready["connection_string"], ready["device_host"], ready["ca_file"]]),
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert died.returncode == -signal.SIGKILL
    rollout = bench.load()
    assert (rollout.report().status, rollout.report().wave) == (Status.RUNNING, 2)
    assert rollout.resume().updated == tuple(ids)
    assert [bench.starts(device_id) for device_id in ids] == [1] * 4


def test_a_bad_configuration_is_taken_back_whichever_request_is_the_last_one(
    bench: Bench, unruly: UnrulyHub, service: Hub
) -> None:
    ids = bench.online(2)
    # Around the moment at which the configuration is deleted, and the end is written on the twins.
    for number in (1, 2, 4):
        rollout_id = f"{bench.rollout_id}-{number}"

        def fail(report: RolloutReport, number: int = number) -> None:
            if report.waves[0].results and not unruly.faults:
                unruly.faults = [None] * number + [REFUSED] * 1000

        rollout = bench.rollout(
            ids, NO_BOARD, hub=service, rollout_id=rollout_id, waves=WAVES, **BY_CONFIGURATION
        )
        with pytest.raises(HubUnauthorized):
            rollout.run(on_change=fail)
        unruly.faults = []
        with suppress(RolloutOver):
            bench.load(rollout_id, lease_seconds=0.2).resume()
        assert bench.load(rollout_id).report().status is Status.STOPPED
        left = [one.labels for one in bench.hub.configurations.get_configurations()]
        assert {"rollout": rollout_id} not in left


def test_interrupt_ends_it_cleanly_and_resume_goes_on(bench: Bench) -> None:
    ids = bench.online(3)
    rollout = bench.rollout(ids, waves=WAVES)

    def interrupt(report: RolloutReport) -> None:
        if report.wave == 2 and not report.waves[1].results:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        rollout.run(on_change=interrupt)
    assert not [each for each in threading.enumerate() if each.name.startswith("rollout-")]
    assert [event.kind for event in rollout.events][-1] == "interrupted"
    # Nobody owns it now, so another kernel need not wait.
    report = bench.load(lease_seconds=3600).resume()
    assert (report.status, report.updated) == (Status.COMPLETED, tuple(ids))
    assert rollout.report() == rollout.resume() == report
    assert [bench.starts(device_id) for device_id in ids] == [1] * 3


def test_two_kernels_never_run_the_same_rollout(bench: Bench) -> None:
    ids = bench.online(2)
    in_pause, taken = threading.Event(), list[RolloutBusy]()

    def run() -> None:
        try:
            rollout.run(on_change=lambda report: report.status is Status.PAUSED and in_pause.set())
        except RolloutBusy as error:
            taken.append(error)

    rollout = bench.rollout(ids, waves=WAVES, pause_seconds=3600)
    first = threading.Thread(target=run)
    first.start()
    assert in_pause.wait(60)
    with pytest.raises(RolloutBusy, match="Another kernel runs the rollout"):
        bench.load(lease_seconds=600).resume()

    second = bench.load()
    with pytest.raises(KeyboardInterrupt):
        second.resume(take_over=True, on_change=_interrupt)
    first.join(60)
    assert [str(error) for error in taken] and "taken over" in str(taken[0])
    assert bench.starts(ids[1]) == 0


def _interrupt(report: RolloutReport) -> None:
    raise KeyboardInterrupt


def test_a_rollout_that_is_cancelled_elsewhere_ends_here(bench: Bench) -> None:
    ids = bench.online(2)
    cancelled: list[RolloutReport] = []

    def cancel(report: RolloutReport) -> None:
        if report.status is Status.PAUSED and not cancelled:
            cancelled.append(bench.load().cancel())

    report = bench.rollout(ids, waves=WAVES, pause_seconds=3600).run(on_change=cancel)
    assert (report.status, report.untouched) == (Status.CANCELLED, (ids[1],))
    assert bench.starts(ids[1]) == 0


def test_a_throttled_and_failing_hub_delays_a_rollout_and_no_more(
    bench: Bench, unruly: UnrulyHub, service: Hub
) -> None:
    ids = bench.online(3)
    log = RetryLog()
    unruly.faults = [THROTTLED, None, BUSY, None, LOST_ANSWER, LOST_REQUEST] * 4
    policy = RetryPolicy(settle_seconds=0.3, cap_seconds=0.01, attempts=20)
    report = bench.rollout(ids, hub=service, waves=WAVES, policy=policy, on_retry=log).run()
    assert (report.status, report.updated) == (Status.COMPLETED, tuple(ids))
    assert [bench.starts(device_id) for device_id in ids] == [1] * 3
    assert len(log) >= 8


def test_the_devices_that_hold_the_plan_may_be_deleted_one_after_the_other(bench: Bench) -> None:
    ids = bench.online(5)

    def delete(report: RolloutReport) -> None:
        done = report.waves[report.wave - 1] if report.wave else None
        if report.status is Status.PAUSED and done is not None and done.number < 3:
            bench.hub.delete_device(done.device_ids[0])

    report = bench.rollout(ids, waves=(1, 1, 1, "rest")).run(on_change=delete)
    assert (report.status, report.updated) == (Status.COMPLETED, tuple(ids))
    report = bench.load().report()
    assert (report.status, report.updated) == (Status.COMPLETED, tuple(ids[2:]))
    assert [wave.lost for wave in report.waves] == [1, 1, 0, 0]
    bench.hub.delete_device(ids[2])
    with pytest.raises(RolloutNotFound):
        bench.load()
