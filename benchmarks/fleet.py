"""What a fleet costs: time and memory for 10, 100, 300 and 1,000 devices.

    python benchmarks/fleet.py [--sizes 10,100,300,1000]

Each size gets a local hub in a process of its own. The fleet connects, every device is updated by
direct method (a simulated transfer, stages of 0 s) from a pool of threads, and the fleet stops.
Memory is that of the hub and the workers, without what processes share (USS). The exit status is 1
when a device fails, or when a device costs more than 1.5 times as much in the largest fleet as in
the one of 100 devices.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from fwupdate_helpers import Fleet, Hub, invoke_firmware_update, wait_for_update
from tests.support import HubProcess

RATIO = 1.5
REFERENCE = 100
THREADS = 16
MB = 1e6


@dataclass(frozen=True)
class Cost:
    """What a fleet of one size took."""

    size: int
    workers: int
    connect: float
    update: float
    stop: float
    cpu: float
    hub_mb: float
    workers_mb: float

    @property
    def seconds_each(self) -> float:
        return (self.connect + self.update + self.stop) / self.size

    @property
    def mb_each(self) -> float:
        return (self.hub_mb + self.workers_mb) / self.size

    def row(self) -> str:
        return (
            f"{self.size:7d} {self.workers:7d} {self.connect:8.1f} {self.update:8.1f} "
            f"{self.stop:6.1f} {1000 * self.seconds_each:9.1f} {1000 * self.cpu / self.size:9.1f} "
            f"{self.hub_mb:7.0f} {self.workers_mb:9.0f} {self.mb_each:9.2f}"
        )


HEAD = """\
                       seconds            ms a device        MB            MB
devices workers  connect   update   stop      wall       CPU     hub   workers  a device"""


class Clock:
    """Tells the seconds since it was asked the last time."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        last, self._last = self._last, time.perf_counter()
        return self._last - last


def measure(size: int, folder: Path) -> Cost:
    with HubProcess(folder) as process, hub_of(process) as hub:
        fleet = Fleet(hub, size, name="bench", stage_seconds=0.0)
        own_cpu, clock = cpu_seconds([psutil.Process()]), Clock()
        with fleet:
            connect = clock.lap()
            update_all(hub, fleet)
            update = clock.lap()
            hub_process = psutil.Process(process.process.pid)
            workers = psutil.Process().children(recursive=True)
            workers.remove(hub_process)
            hub_mb, workers_mb = megabytes([hub_process]), megabytes(workers)
            cpu = cpu_seconds([psutil.Process(), hub_process, *workers]) - own_cpu
            clock.lap()
        stop = clock.lap()
        return Cost(size, len(workers), connect, update, stop, cpu, hub_mb, workers_mb)


def hub_of(process: HubProcess) -> Hub:
    return Hub(
        kind="local",
        connection_string=process.connection_string,
        device_host=process.ready["device_host"],
        ca_file=Path(process.ca_file),
    )


def update_all(hub: Hub, fleet: Fleet) -> None:
    """Update every device; the first one that fails ends the benchmark."""

    def update(device_id: str) -> None:
        begun = invoke_firmware_update(hub.registry, device_id)
        wait_for_update(hub.registry, device_id, begun.update_id, interval=0.2, timeout=120)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(update, fleet.device_ids))


def megabytes(processes: list[psutil.Process]) -> float:
    return sum(one.memory_full_info().uss for one in processes) / MB


def cpu_seconds(processes: list[psutil.Process]) -> float:
    times = [one.cpu_times() for one in processes]
    return sum(one.user + one.system for one in times)


def judge(costs: dict[int, Cost]) -> int:
    """Print how the costs of a device compare; return the exit status."""
    largest = max(costs)
    if REFERENCE not in costs or largest <= REFERENCE:
        return 0
    large, small = costs[largest], costs[REFERENCE]
    ratios = {
        "time": large.seconds_each / small.seconds_each,
        "memory": large.mb_each / small.mb_each,
    }
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    print(f"cost of a device, {largest} against {REFERENCE}: {told} (wanted: at most {RATIO})")
    return int(max(ratios.values()) > RATIO)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="10,100,300,1000", help="numbers, with commas between")
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    costs: dict[int, Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FWUPDATE_DEVICE_DIR"] = str(Path(folder) / "devices")
        print(HEAD)
        for size in sizes:
            costs[size] = measure(size, Path(folder) / f"hub-{size}")
            print(costs[size].row(), flush=True)
    print("every device connected, was updated and said goodbye")
    return judge(costs)


if __name__ == "__main__":
    sys.exit(main())
