"""What the SDK has no call for: to cut a connection, to leave a dead client, to set its clock.

This is the one place that reaches into azure-iot-device (measured with 2.14), and tests watch on
the hub's side what comes of it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from traceback import clear_frames
from typing import Any, Final

METHODS: Final = "methods"
TWIN_PATCHES: Final = "twin_patches"


def sever(client: Any) -> None:
    """Close the TCP connection under an SDK client: no MQTT DISCONNECT, no TLS closure alert.

    Args:
        client: An ``IoTHubDeviceClient``, synchronous or asynchronous. ``shutdown`` it afterwards:
            it has threads to end.
    """
    client._mqtt_pipeline.pipeline_configuration.connection_retry = False
    paho = _paho_of(client)
    link = paho.socket() if paho is not None else None
    link = getattr(link, "_socket", link)  # within paho's wrapper for websockets
    if link is not None:
        with suppress(OSError):  # it was closed already
            # The method of ssl.SSLSocket would say goodbye first.
            socket.socket.shutdown(link, socket.SHUT_RDWR)


def keep_quiet(client: Any) -> None:
    """Let the network thread of a client that has not connected yet end without a word.

    When a connection ends in the middle of a write, the thread dies of it, and Python would print
    its traceback to standard error: in a notebook, under whatever cell runs then. Who waits for the
    hub finds out by itself.

    Args:
        client: An ``IoTHubDeviceClient``.
    """
    paho = _paho_of(client)
    if paho is None:
        return
    run = paho._thread_main

    def run_quietly() -> None:
        with suppress(OSError):
            run()

    paho._thread_main = run_quietly


def _paho_of(client: Any) -> Any:
    """Return the MQTT client inside an SDK client."""
    stage = client._mqtt_pipeline._pipeline
    while stage is not None and getattr(stage, "transport", None) is None:
        stage = stage.next
    return stage.transport._mqtt_client if stage is not None else None


def keep_method_requests(client: Any) -> None:
    """Let a client keep the method requests that it has received when the connection is lost.

    The SDK deletes them, and what tells their handler to end lies among them: a ``disconnect`` at
    that moment then waits for the handler for ever, and stops the caller's whole loop.

    Args:
        client: An ``IoTHubDeviceClient``.
    """
    client._inbox_manager.clear_all_method_requests = lambda: None


async def subscribe(client: Any, feature: str) -> None:
    """Subscribe to the topic of a feature, `METHODS` or `TWIN_PATCHES`.

    Unlike the SDK's setters, it can be cancelled when the hub's answer does not come. A setter
    that comes afterwards has nothing to wait for.
    """
    await _called_back(lambda done: client._mqtt_pipeline.enable_feature(feature, done))


async def discard(client: Any) -> None:
    """End a client whose connection is of no use any more: no farewell, and its threads end.

    ``shutdown`` says goodbye first, and waits for ever where the SDK's network thread has died (it
    does when a connection ends in the middle of a write).
    """
    sever(client)
    await _called_back(client._mqtt_pipeline.shutdown)
    await _stop_handlers(client._handler_manager)
    release(client)


def release(client: Any) -> None:
    """Close the two sockets that a client keeps after its ``shutdown``, until it is collected.

    Devices by the hundred would run out of descriptors before the garbage collector comes.
    """
    paho = _paho_of(client)
    if paho is not None and paho._thread is None:  # else its thread still waits on them
        paho._reset_sockets(sockpair_only=True)


async def _stop_handlers(manager: Any) -> None:
    """End the tasks that call the handlers.

    The manager's own ``stop`` waits for ever when the SDK, as it notices the lost connection,
    clears the queue in which the order to stop lies. So the order is given again.
    """
    order = import_module(
        "azure.iot.device.iothub.sync_handler_manager"
    ).HandlerRunnerKillerSentinel
    runners = [(manager._client_event_runner, manager._inbox_manager.get_client_event_inbox())]
    for name, runner in manager._receiver_handler_runners.items():
        if runner is not None:
            runners.append((runner, manager._get_inbox_for_receive_handler(name)))
    while alive := [inbox for runner, inbox in runners if runner and not runner.done()]:
        for inbox in alive:
            inbox.put(order())
        await asyncio.sleep(0.01)


def drop_socket(error: BaseException) -> None:
    """Close the socket of a connect that failed, which lives on in the error's traceback.

    A client that begins its handshake over WebSockets has not taken its socket yet: when the hub,
    or a proxy before it, turns it away, nobody closes it until the garbage collector comes.
    """
    found: BaseException | None = error
    while found is not None:
        clear_frames(found.__traceback__)
        found = found.__cause__


def is_renewing(client: Any) -> bool:
    """Tell whether the SDK reconnects by itself just now, with a new token."""
    return str(client._mqtt_pipeline._nucleus.connection_state).endswith("REAUTHORIZING")


async def _called_back(call: Callable[[Callable[..., None]], None]) -> None:
    """Make a call of the SDK's inside that ends in a callback, in another thread."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)
            done.exception()  # nobody may wait any more

    def on_complete(error: Exception | None = None) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(finish, error)

    call(on_complete)
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
