"""What `connect_hub` does with a connection string, against a hub that the kit did not start.

The hub stands in for Azure: it is trusted through the environment alone, as a public one would be
through the system's certificates, and nothing of the shared local hub is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import HubProcess

UPDATE = """
from fwupdate_helpers import *

hub = connect_hub()
print(hub.kind, hub.device_options, "an IoT Hub on Azure" in hub._repr_html_())
device_id = hub.device_id("azure-path")
string = hub.device_connection_string(device_id)
with SimulatedDevice(string, stage_seconds=0.05, **hub.device_options):
    update = invoke_firmware_update(hub.registry, device_id)
    twin = wait_for_update(hub.registry, device_id, update.update_id, timeout=30, interval=0.05)
print(twin.properties.reported["firmwareStatus"])
hub.delete_device(device_id)
hub.close()
"""


def test_an_update_runs_on_a_hub_that_is_only_known_by_its_connection_string(
    hub_process: HubProcess, tmp_path: Path
) -> None:
    unused = tmp_path / "no-local-hub"
    done = subprocess.run(
        [sys.executable, "-c", UPDATE],
        env={
            **os.environ,
            "FWUPDATE_IOTHUB_CONNECTION_STRING": hub_process.connection_string,
            "FWUPDATE_STATE_DIR": str(unused),
            "REQUESTS_CA_BUNDLE": hub_process.ca_file,
            "SSL_CERT_FILE": hub_process.ca_file,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["azure {} True", "completed"]
    assert not unused.exists(), "no local hub was started"
