"""A hundred updates in a row while the hub refuses a third of the calls and drops the device."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.retries import Operation, RetryPolicy
from tests.fault_bench import FACTORY, KINDS, Bench, Images
from tests.images import hub_of
from tests.support import HubProcess

UPDATES = 100
SEED = 2026
REFUSED = 0.3
"""The part of the service's calls that is refused; half of it with 429, the other with 503."""


@pytest.fixture
def bench(hub_process: HubProcess, tmp_path: Path, device_id: str) -> Iterator[Bench]:
    with hub_of(hub_process) as hub:
        images = Images(hub, tmp_path)
    bench = Bench(hub_process, images, folder=tmp_path / "board", name=device_id)
    yield bench
    bench.close()


def patient() -> RetryPolicy:
    """Return a policy with small waits, which are the same in every run."""
    return RetryPolicy(
        attempts=40,
        base_seconds=0.005,
        cap_seconds=0.02,
        settle_seconds=0.5,
        retry_offline=True,
        random=random.Random(SEED).random,
    )


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_hundred_updates_reach_a_truthful_end_while_calls_fail_and_connections_drop(
    bench: Bench,
) -> None:
    bench.start()
    faults = bench.faults
    one = 1 - (1 - REFUSED) ** 0.5  # both together: 1 - (1 - one)² of the calls
    about: dict[str, Any] = {"device_id": bench.device_id, "share": one}
    throttled = faults.refuse_service_calls(429, **about, seed=SEED)
    busy = faults.refuse_service_calls(503, **about, seed=SEED + 1)
    drops = faults.drop_connection(bench.device_id, every=(0.1, 0.6), seed=SEED)

    policy, before = patient(), FACTORY
    for number in range(UPDATES):
        image = ("good", "next")[number % 2]
        version = KINDS[image]["version"]
        options: dict[str, Any] = {"update_id": f"soak-{number}", "allow_downgrade": True}
        update_id = bench.order(image, policy=policy, connect_timeout=20, **options)
        assert update_id == f"soak-{number}"
        bench.check_end(update_id, image=image, before=before, policy=policy)
        before = version

    for fault in (throttled, busy, drops):
        fault.refresh()
        assert fault.acted > 20, fault
        fault.clear()
    starts = [event.kind for event in bench.device.events].count("starting")
    assert starts <= UPDATES
    assert bench.device.error is None
    assert {retry.operation for retry in bench.retries} == {Operation.TWIN, Operation.METHOD}
    assert bench.twin[contract.FIRMWARE][contract.CURRENT_VERSION] == before
    bench.device.stop()
    assert bench.board.power_up().version == before
