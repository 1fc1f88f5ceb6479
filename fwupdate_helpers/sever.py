"""Cut a device's connection as a loss of power does: no farewell, and no reconnect.

azure-iot-device has no call for that, because no program wants it. So this is the one place that
reaches into its inside (measured with 2.14); a test watches on the hub's side that nothing is said.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any


def sever(client: Any) -> None:
    """Close the TCP connection under an SDK client: no MQTT DISCONNECT, no TLS closure alert.

    Args:
        client: An ``IoTHubDeviceClient``, synchronous or asynchronous. ``shutdown`` it afterwards:
            it has threads to end.
    """
    pipeline = client._mqtt_pipeline
    pipeline.pipeline_configuration.connection_retry = False
    stage = pipeline._pipeline
    while stage is not None and getattr(stage, "transport", None) is None:
        stage = stage.next
    link = stage.transport._mqtt_client.socket() if stage is not None else None
    link = getattr(link, "_socket", link)  # within paho's wrapper for websockets
    if link is not None:
        with suppress(OSError):  # it was closed already
            # The method of ssl.SSLSocket would say goodbye first.
            socket.socket.shutdown(link, socket.SHUT_RDWR)
