"""What the SDK has no call for: a cut connection, a clock that is wrong, and three gaps to close.

No program on a real device wants the first two. The gaps: the SDK subscribes once per client and
trusts the hub to remember it; it repeats an old report behind newer ones; and it can wait for ever
when the connection is lost while it disconnects. So this is the one place that reaches into
azure-iot-device (measured with 2.14) and paho-mqtt (1.6), and tests watch what comes of it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

METHODS: Final = "methods"
TWIN: Final = "twin"
_REPORTS: Final = "$iothub/twin/PATCH/properties/reported/"


def sever(client: Any) -> None:
    """Close the TCP connection under an SDK client: no MQTT DISCONNECT, no TLS closure alert.

    Args:
        client: An ``IoTHubDeviceClient``, synchronous or asynchronous. ``shutdown`` it afterwards:
            it has threads to end.
    """
    client._mqtt_pipeline.pipeline_configuration.connection_retry = False
    paho = _paho(client)
    link = paho.socket() if paho is not None else None
    link = getattr(link, "_socket", link)  # within paho's wrapper for websockets
    if link is not None:
        with suppress(OSError):  # it was closed already
            # The method of ssl.SSLSocket would say goodbye first.
            socket.socket.shutdown(link, socket.SHUT_RDWR)


def _paho(client: Any) -> Any:
    """Return the MQTT client under an SDK client; None before its first connect."""
    stage = client._mqtt_pipeline._pipeline
    while stage is not None and getattr(stage, "transport", None) is None:
        stage = stage.next
    return None if stage is None else stage.transport._mqtt_client


def forget_reports(client: Any) -> None:
    """Let a client not repeat the reports that were never acknowledged.

    MQTT repeats them after the next connect, which may be hours later: an old report then comes
    behind newer ones, and the twin tells of the past again. Whoever sends what a report said anew
    must call this before.

    Args:
        client: An ``IoTHubDeviceClient``.
    """
    paho = _paho(client)
    if paho is None:
        return
    in_flight = import_module("paho.mqtt.client").mqtt_ms_wait_for_puback
    with paho._out_message_mutex:
        for number, message in list(paho._out_messages.items()):
            if message.topic.startswith(_REPORTS):
                del paho._out_messages[number]
                if message.state == in_flight:
                    paho._inflight_messages -= 1


def keep_method_requests(client: Any) -> None:
    """Let a client keep the method requests that it has received when the connection is lost.

    The SDK deletes them, and what tells their handler to end lies among them: a `disconnect` at
    that moment then waits for the handler for ever, and stops the caller's whole loop.

    Args:
        client: An ``IoTHubDeviceClient``.
    """
    client._inbox_manager.clear_all_method_requests = lambda: None


async def subscribe(client: Any, feature: str) -> None:
    """Subscribe to the topic of a feature, also when the SDK believes that it has done so.

    Unlike the SDK's setters, it can be cancelled when the hub's answer does not come.

    Args:
        client: An asynchronous ``IoTHubDeviceClient``.
        feature: `METHODS` or `TWIN`.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def on_complete(error: Exception | None = None) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(finish, error)

    client._mqtt_pipeline.enable_feature(feature, on_complete)
    await done


def sign_by_clock(client: Any, offset: Callable[[], float]) -> None:
    """Let a client sign its tokens by a clock that is wrong; when it renews them stays right.

    Args:
        client: An ``IoTHubDeviceClient`` that has not connected yet.
        offset: Tells by how many seconds the device's clock is ahead of this computer's.
    """
    sastoken: Any = import_module("azure.iot.device.common.auth.sastoken")
    configuration = client._mqtt_pipeline.pipeline_configuration
    token = configuration.sastoken
    if not isinstance(token, sastoken.RenewableSasToken):
        return
    renew = token.refresh

    def refresh() -> None:
        renew()
        right = token._expiry_time
        token._expiry_time = right + round(offset())
        token._token = token._build_token()
        token._expiry_time = right  # the SDK's alarm goes by this computer's clock

    token.refresh = refresh
    refresh()
