"""What the wire trace costs: the round trip of a direct method with it and without it.

    python benchmarks/trace.py [--calls 400] [--rounds 8]

Two local hubs in processes of their own, one with its trace and one without; a device of the
unmodified SDK is connected to each. The two take turns in one run, and the medians are compared.
The exit status is 1 when the trace costs more than is wanted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from azure.iot.device import IoTHubDeviceClient, MethodResponse
from azure.iot.hub.models import CloudToDeviceMethod

from fwupdate_helpers.hub import Hub
from tests.support import HubProcess

RATIO = 1.05
DEVICE_ID = "bench-device"


@contextmanager
def caller(folder: Path, trace: str) -> Iterator[Callable[[], float]]:
    """Run a hub and a device; yield a function that makes a call and returns its seconds."""
    with HubProcess(folder, "--trace", trace) as process:
        ready = process.ready
        with Hub(
            kind="local",
            connection_string=process.connection_string,
            device_host=ready["device_host"],
            ca_file=Path(process.ca_file),
        ) as hub:
            client = connected_client(hub)
            method = CloudToDeviceMethod(method_name="ping", payload={"why": "benchmark"})

            def call() -> float:
                began = time.perf_counter()
                hub.registry.invoke_device_method(DEVICE_ID, method)
                return time.perf_counter() - began

            yield call
            client.shutdown()


def connected_client(hub: Hub) -> Any:
    string = hub.device_connection_string(DEVICE_ID)
    client = IoTHubDeviceClient.create_from_connection_string(string, **hub.device_options)

    def answer(request: Any) -> None:
        response = MethodResponse.create_from_method_request(request, 200, {"pong": True})
        client.send_method_response(response)

    client.on_method_request_received = answer
    return client


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=400, help="calls of a round")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        calls = {trace: stack.enter_context(caller(folder / trace, trace)) for trace in seconds}
        for call in calls.values():
            for _ in range(50):
                call()
        # One call of each in turn: what else the machine does meets both alike.
        for _ in range(options.rounds * options.calls):
            for trace, call in calls.items():
                seconds[trace].append(call())
    medians = {trace: 1000 * statistics.median(times) for trace, times in seconds.items()}
    ratio = medians["on"] / medians["off"]
    print("median round trip of a direct method:")
    print(f"{medians['off']:.2f} ms without the trace, {medians['on']:.2f} ms with it")
    print(f"ratio {ratio:.3f} (wanted: at most {RATIO})")
    return int(ratio > RATIO)


if __name__ == "__main__":
    sys.exit(main())
