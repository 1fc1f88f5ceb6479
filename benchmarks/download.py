"""How fast a device downloads, against curl, and how much memory a large update takes.

    python benchmarks/download.py [--mib 200] [--rounds 5]

A local hub in a process of its own serves the image. Throughput: the device's download onto its
flash chip and ``curl`` into a file take turns, in one run, from the same server. Memory: a device
in a process of its own walks a whole update; its peak is compared with what it takes when idle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fwupdate_helpers.firmware import Board, DownloadPolicy, build_image, publish_image
from fwupdate_helpers.firmware.download import download, tls_context
from fwupdate_helpers.firmware.download_file import DownloadFile
from fwupdate_helpers.hub import Hub
from fwupdate_helpers.localhub import background
from fwupdate_helpers.localhub.statedir import StateDir
from fwupdate_helpers.service import invoke_firmware_update, wait_for_update

MIB = 1024 * 1024
LIMIT = DownloadPolicy(size_limit=2**40)

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
time.sleep(1)
idle = process.memory_info().rss
print("ready", flush=True)

def watch():
    global peak
    while True:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.005)

threading.Thread(target=watch, daemon=True).start()
device.events.wait_for("completed")
print(json.dumps({"idle": idle, "peak": peak}), flush=True)
device.stop()
"""


def main() -> None:
    """Measure, and print what was measured."""
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
                _measure(hub, running.ca_file, folder, options.mib * MIB, options.rounds)
        finally:
            background.stop(state)


def _measure(hub: Hub, ca_file: Path, folder: Path, size: int, rounds: int) -> None:
    key = Ed25519PrivateKey.generate()
    build_image(folder / "1.0.0.img", version="1.0.0", signing_key=key)
    build_image(folder / "2.0.0.img", version="2.0.0", signing_key=key, size=size)
    url = publish_image(hub, folder / "2.0.0.img")
    print(f"image of {size // MIB} MiB, Python {sys.version.split()[0]}")
    _throughput(url, ca_file, folder, key, size, rounds)
    _memory(hub, url, folder, key)


def _throughput(
    url: str, ca_file: Path, folder: Path, key: Ed25519PrivateKey, size: int, rounds: int
) -> None:
    times: dict[str, list[float]] = {"device": [], "curl": []}
    if shutil.which("curl") is None:
        print("curl is not installed, so there is nothing to compare with")
        rounds = 0
    for _ in range(rounds):
        times["device"].append(_device_seconds(url, ca_file, folder, key))
        times["curl"].append(_curl_seconds(url, ca_file, folder))
    if rounds:
        rates = {who: size / MIB / statistics.median(all_) for who, all_ in times.items()}
        for who, rate in rates.items():
            spread = f"{min(times[who]):.2f} to {max(times[who]):.2f} s"
            print(f"{who:8}{rate:8.0f} MiB/s  (median of {rounds}; {spread})")
        print(f"ratio   {rates['device'] / rates['curl']:8.2f}  device / curl; wanted: 0.5 or more")


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


def _curl_seconds(url: str, ca_file: Path, folder: Path) -> float:
    begin = time.perf_counter()
    subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail", "--noproxy", "*"),
            *("--cacert", str(ca_file), "--output", str(folder / "curl.img"), url),
        ],
        check=True,
    )
    return time.perf_counter() - begin


def _memory(hub: Hub, url: str, folder: Path, key: Ed25519PrivateKey) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    given: dict[str, Any] = {
        "factory": str(folder / "1.0.0.img"),
        "key": public.decode(),
        "chip": str(folder / "chip"),
        "string": str.__str__(hub.device_connection_string("bench-device")),
        "ca": hub.device_options["server_verification_cert"],
    }
    device = subprocess.Popen(
        [sys.executable, "-c", DEVICE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if device.stdin is None or device.stdout is None:
        raise RuntimeError("no pipes to the device")
    device.stdin.write(json.dumps(given) + "\n")
    device.stdin.flush()
    device.stdout.readline()
    server = psutil.Process(int(hub.local_request("GET", "/$localhub/status").json()["pid"]))
    before = server.memory_info().rss
    update = invoke_firmware_update(hub.registry, "bench-device", package_uri=url)
    wait_for_update(hub.registry, "bench-device", update.update_id)
    memory = json.loads(device.stdout.readline())
    device.wait()
    growth = (memory["peak"] - memory["idle"]) / MIB
    print(f"memory  {growth:8.1f} MiB above idle ({memory['idle'] / MIB:.0f}); wanted: under 50")
    print(f"hub     {(server.memory_info().rss - before) / MIB:8.1f} MiB more than before")


if __name__ == "__main__":
    main()
