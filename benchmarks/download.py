"""How fast a device downloads, against curl, and how much memory a large update takes.

    python benchmarks/download.py [--mib 200] [--rounds 5]

A local hub in a process of its own serves the image. Throughput: the device's download onto its
flash chip, ``curl`` into a file and ``curl`` into nothing take turns, in one run, from the same
server. Memory: a device
in a process of its own walks a whole update; its peak is compared with what it takes when idle.
The exit status is 1 when a figure is not as it is wanted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fwupdate_helpers.firmware import Board, DownloadPolicy, build_image, publish_image
from fwupdate_helpers.firmware.download import download, tls_context
from fwupdate_helpers.firmware.download_file import DownloadFile
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.localhub import background
from fwupdate_helpers.localhub.statedir import StateDir
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update

MIB = 1024 * 1024
LIMIT = DownloadPolicy(size_limit=2**40)
RATIO = 0.5
MEMORY = 50
DEVICE_ID = "bench-device"

DEVICE = """
import json, sys, threading, time
from pathlib import Path
import psutil
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fwupdate_helpers.device import SimulatedDevice
from fwupdate_helpers.firmware import Board, DownloadPolicy

given = json.loads(sys.stdin.readline())
board = Board(
    Path(given["factory"]), load_pem_public_key(given["key"].encode()), folder=Path(given["chip"])
)
device = SimulatedDevice(
    given["string"], stage_seconds=0, board=board, policy=DownloadPolicy(size_limit=2**40),
    server_verification_cert=given["ca"],
).start()
process, peak = psutil.Process(), 0

def high_water_mark():  # the kernel misses no peak, as sampling may; Linux has it
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(text.partition("VmHWM:")[2].split()[0]) * 1024

time.sleep(1)
idle, before = process.memory_info().rss, high_water_mark()
print("ready", flush=True)

def watch():
    global peak
    while True:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.005)

threading.Thread(target=watch, daemon=True).start()
device.events.wait_for("completed")
after = high_water_mark()  # what it was at the start already tells nothing of the update
print(json.dumps({"idle": idle, "peak": max(peak, after if after > before else 0)}), flush=True)
device.stop()
"""


def main() -> int:
    """Measure, and print what was measured; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=200, help="size of the image (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="downloads of each kind (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fwupdate-bench-") as name:
        folder = Path(name)
        state = StateDir(folder / "hub")
        running = background.ensure_running(state)
        try:
            hub = Hub(
                kind="local",
                connection_string=running.connection_string,
                device_host=running.device_host,
                ca_file=running.ca_file,
            )
            with closing(hub):
                size, rounds = options.mib * MIB, options.rounds
                return 0 if _measure(hub, running.ca_file, folder, size, rounds) else 1
        finally:
            background.stop(state)


def _measure(hub: Hub, ca_file: Path, folder: Path, size: int, rounds: int) -> bool:
    key = Ed25519PrivateKey.generate()
    build_image(folder / "1.0.0.img", version="1.0.0", signing_key=key)
    build_image(folder / "2.0.0.img", version="2.0.0", signing_key=key, size=size)
    url = publish_image(hub, folder / "2.0.0.img")
    print(f"image of {size // MIB} MiB, Python {sys.version.split()[0]}")
    fast = _throughput(url, ca_file, folder, key, size, rounds)
    small = _memory(hub, url, folder, key)
    return fast and small


def _throughput(
    url: str, ca_file: Path, folder: Path, key: Ed25519PrivateKey, size: int, rounds: int
) -> bool:
    if shutil.which("curl") is None:
        print("curl is not installed, so there is nothing to compare with")
        return True
    runs: dict[str, Callable[[], float]] = {
        "device": lambda: _device_seconds(url, ca_file, folder, key),
        "curl, into a file": lambda: _curl_seconds(url, ca_file, folder / "curl.img"),
        "curl, into nothing": lambda: _curl_seconds(url, ca_file, Path(os.devnull)),
    }
    times: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(rounds):
        for who, run in runs.items():
            times[who].append(run())
    seconds = {who: statistics.median(all_) for who, all_ in times.items()}
    for who, all_ in times.items():
        spread = f"{min(all_):.2f} to {max(all_):.2f} s"
        rate = size / MIB / seconds[who]
        print(f"{who:20}{rate:6.0f} MiB/s  (median of {rounds}; {spread})")
    ratio, ceiling = (seconds[who] / seconds["device"] for who in list(runs)[1:])
    print(f"{'ratio':20}{ratio:6.2f}  device / curl into a file; wanted: {RATIO} or more")
    print(f"{'':20}{ceiling:6.2f}  device / curl into nothing")
    return ratio >= RATIO


def _device_seconds(url: str, ca_file: Path, folder: Path, key: Ed25519PrivateKey) -> float:
    board = Board(folder / "1.0.0.img", key.public_key())
    board.power_up()
    sink = DownloadFile(board, {})
    begin = time.perf_counter()
    asyncio.run(
        download(
            url,
            sink,
            LIMIT,
            tls=tls_context(ca_file.read_text(encoding="ascii")),
            on_progress=lambda received, total: None,
            on_retry=lambda text: print(f"retry: {text}"),
        )
    )
    return time.perf_counter() - begin


def _curl_seconds(url: str, ca_file: Path, target: Path) -> float:
    begin = time.perf_counter()
    subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail", "--noproxy", "*"),
            *("--cacert", str(ca_file), "--output", str(target), url),
        ],
        check=True,
    )
    return time.perf_counter() - begin


def _memory(hub: Hub, url: str, folder: Path, key: Ed25519PrivateKey) -> bool:
    server = psutil.Process(int(hub.local_request("GET", "/$localhub/status").json()["pid"]))
    with _device_process(hub, folder, key) as device:
        before = server.memory_info().rss
        with _peak_of(server) as peak:
            update = invoke_firmware_update(hub.registry, DEVICE_ID, package_uri=url)
            wait_for_update(hub.registry, DEVICE_ID, update.update_id)
        memory = json.loads(_line(device))
    growth = (memory["peak"] - memory["idle"]) / MIB
    idle, kept = memory["idle"] / MIB, (server.memory_info().rss - before) / MIB
    print(f"{'memory':20}{growth:6.1f} MiB above idle ({idle:.0f}); wanted: under {MEMORY}")
    print(
        f"{'memory of the hub':20}{(peak[0] - before) / MIB:6.1f} MiB above idle; keeps {kept:.1f}"
    )
    return bool(growth < MEMORY)


@contextmanager
def _device_process(
    hub: Hub, folder: Path, key: Ed25519PrivateKey
) -> Iterator[subprocess.Popen[str]]:
    """Start a device in a process of its own; it ends by itself after an update."""
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    given: dict[str, Any] = {
        "factory": str(folder / "1.0.0.img"),
        "key": public.decode(),
        "chip": str(folder / "chip"),
        "string": str.__str__(hub.device_connection_string(DEVICE_ID)),
        "ca": hub.device_options["server_verification_cert"],
    }
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", DEVICE], stdin=pipe, stdout=pipe, text=True) as it:
        try:
            if it.stdin is not None:
                it.stdin.write(json.dumps(given) + "\n")
                it.stdin.flush()
            _line(it)
            yield it
            it.wait()
        except BaseException:
            it.kill()
            raise


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError("the device's process has ended; see its message above")
    return line


@contextmanager
def _peak_of(process: psutil.Process) -> Iterator[list[int]]:
    """Sample a process's memory meanwhile; the list's one item is the peak in bytes."""
    peak, over = [process.memory_info().rss], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, name="memory-watch")
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
