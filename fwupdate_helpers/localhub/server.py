"""One running local hub: its sockets, its parts and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Any

from aiohttp import web
from filelock import FileLock, Timeout

from fwupdate_helpers.localhub import leases, ports, tls
from fwupdate_helpers.localhub.authentication import Authenticator
from fwupdate_helpers.localhub.config import load_config
from fwupdate_helpers.localhub.configuration_route import ConfigurationRoute
from fwupdate_helpers.localhub.configurations.evaluation import Evaluation
from fwupdate_helpers.localhub.configurations.loop import DEFAULT_SECONDS, ConfigurationLoop
from fwupdate_helpers.localhub.configurations.store import MAX_CONFIGURATIONS, ConfigurationStore
from fwupdate_helpers.localhub.database import Database
from fwupdate_helpers.localhub.device_endpoint import DeviceEndpoint
from fwupdate_helpers.localhub.errors import LocalHubError
from fwupdate_helpers.localhub.fault_wire import WireFaults
from fwupdate_helpers.localhub.images import ImageStore
from fwupdate_helpers.localhub.job_route import JobRoute
from fwupdate_helpers.localhub.jobs.pace import Pace
from fwupdate_helpers.localhub.jobs.scheduler import JobLimits, JobScheduler
from fwupdate_helpers.localhub.jobs.store import JobStore
from fwupdate_helpers.localhub.jobs.work import Tools
from fwupdate_helpers.localhub.methods import DirectMethods
from fwupdate_helpers.localhub.query_route import QueryRoute
from fwupdate_helpers.localhub.service_endpoint import ServiceEndpoint
from fwupdate_helpers.localhub.statedir import StateDir, write_json
from fwupdate_helpers.localhub.store import Store
from fwupdate_helpers.localhub.throttle import Throttle
from fwupdate_helpers.localhub.tiers import Tier
from fwupdate_helpers.localhub.twin_changes import TwinChanges
from fwupdate_helpers.localhub.wiretrace import WireTrace

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_KEEP_ALIVE = 3600.0
"""Seconds that an idle HTTPS connection stays open: closing first would race with a request."""


def run(
    state: StateDir,
    *,
    address: str | None = None,
    service_port: int | None = None,
    idle_timeout: float | None = None,
    trace: bool = True,
    faults: bool = True,
    job_limits: JobLimits | None = None,
    tier: Tier | None = None,
    configuration_seconds: float = DEFAULT_SECONDS,
    on_ready: Callable[[Json], None] = lambda ready: None,
) -> None:
    """Run a hub until it is told to stop.

    Args:
        state: Where it keeps its state; one hub at a time may use it.
        address: The loopback address; None takes that of the last run or a free one.
        service_port: The service port; None takes that of the last run or a free one.
        idle_timeout: Stop so many seconds after the last use; None never does.
        trace: Whether the last messages are kept for ``GET /$localhub/trace``.
        faults: Whether faults can be asked for with ``POST /$localhub/faults``.
        job_limits: How many jobs may be active, and how fast they work; None means those of the
            tier.
        tier: Whose throttles and quotas hold; None means none.
        configuration_seconds: Between two evaluations of the automatic device configurations.
        on_ready: Called with address, ports and files when the hub answers.

    Raises:
        LocalHubError: It cannot start; the message tells what to do.
    """
    state.prepare()
    lock = FileLock(state.hub_lock, mode=0o600)
    try:
        # A hub that was told to stop may need a moment to let go.
        lock.acquire(timeout=2)
    except Timeout:
        raise LocalHubError(
            f"A local hub already runs with the folder {state.path}. Use that one, stop it with "
            "'python -m fwupdate_helpers.localhub stop', or give another --state-dir."
        ) from None
    try:
        hub = _LocalHub(
            state,
            idle_timeout,
            WireTrace(_utc_now, defer=_a_moment_later, on=trace),
            WireFaults(_utc_now, on=faults),
            job_limits or JobLimits.of(tier),
            tier=tier,
            configuration_seconds=configuration_seconds,
        )
        asyncio.run(hub.run(address, service_port, on_ready))
    finally:
        lock.release()


class _LocalHub:
    def __init__(
        self,
        state: StateDir,
        idle_timeout: float | None,
        trace: WireTrace,
        faults: WireFaults,
        job_limits: JobLimits,
        *,
        tier: Tier | None,
        configuration_seconds: float,
    ) -> None:
        self._state = state
        self._tier = tier
        self._configuration_seconds = configuration_seconds
        self._trace = trace
        self._faults = faults
        self._job_limits = job_limits
        self._idle_timeout = idle_timeout
        self._last_use = time.monotonic()
        self._stopping = asyncio.Event()
        self._ready: Json = {}

    async def run(
        self, address: str | None, service_port: int | None, on_ready: Callable[[Json], None]
    ) -> None:
        config = load_config(self._state)
        listeners = ports.bind(
            address=address,
            service_port=service_port,
            known_address=config.get("address"),
            known_port=config.get("service_port"),
        )
        config |= {"address": listeners.address, "service_port": listeners.service_port}
        write_json(self._state.config_file, config)
        tls.ensure_certificates(self._state, listeners.address)
        context = tls.server_context(self._state)
        images = ImageStore(self._state.images, _utc_now)
        self._trace.hide_images(images.names_one)
        database = Database(self._state.database, _utc_now)
        try:
            await self._serve(listeners, config, database, images, context, on_ready)
        finally:
            self._state.running_file.unlink(missing_ok=True)
            images.close()
            database.close()
            listeners.close()

    async def _serve(
        self,
        listeners: ports.Listeners,
        config: Json,
        database: Database,
        images: ImageStore,
        context: ssl.SSLContext,
        on_ready: Callable[[Json], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_loop_error)
        tier = self._tier
        throttle = Throttle(tier, database, _utc_now)
        store = Store(database, max_devices=tier.devices if tier else None)
        authenticator = Authenticator(
            config["policies"],
            host_names=_host_names(listeners),
            store=store,
            clock=_utc_now,
        )
        methods = DirectMethods(throttle)
        devices = DeviceEndpoint(
            store, authenticator, methods, _utc_now, self._trace, self._faults, throttle
        )
        jobs = self._job_scheduler(database, store, devices, methods)
        most = tier.configurations if tier else MAX_CONFIGURATIONS
        configurations = ConfigurationStore(database, most=most)
        evaluation = Evaluation(configurations, TwinChanges(store, devices))
        evaluations = ConfigurationLoop(evaluation.run, seconds=self._configuration_seconds)
        services = ServiceEndpoint(
            store,
            devices,
            methods,
            images,
            authenticator,
            jobs=JobRoute(jobs),
            configurations=ConfigurationRoute(
                configurations, changed=evaluations.configurations_changed
            ),
            queries=QueryRoute(database),
            trace=self._trace,
            faults=self._faults,
            about=lambda: self._about(devices, store, database),
            stop=self._stopping.set,
            used=self._note_use,
        )
        jobs.resume()  # before anybody can add one
        runner = web.AppRunner(
            services.application(),
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_KEEP_ALIVE,
            shutdown_timeout=0.5,
        )
        await runner.setup()
        device_server = await loop.create_server(
            devices.new_connection, sock=listeners.device, ssl=context, ssl_handshake_timeout=10
        )
        for listener in filter(None, (listeners.service, listeners.websocket)):
            await web.SockSite(runner, listener, ssl_context=context).start()
        try:
            with _stop_signals(loop, self._stopping):
                self._announce(listeners, on_ready)
                async with _in_background(evaluations.run(), "configurations"):
                    await self._wait_for_end(devices)
        finally:
            logger.info("stopping")
            await jobs.close()
            device_server.close()
            devices.close()
            await runner.cleanup()

    def _job_scheduler(
        self, database: Database, store: Store, devices: DeviceEndpoint, methods: DirectMethods
    ) -> JobScheduler:
        pace = Pace(self._job_limits.devices_per_second)
        tools = Tools(database, JobStore(database), store, devices, methods, pace)
        return JobScheduler(tools, self._job_limits, _utc_now)

    def _announce(self, listeners: ports.Listeners, on_ready: Callable[[Json], None]) -> None:
        problem = listeners.websocket_problem
        self._ready = {
            "pid": os.getpid(),
            "device_host": listeners.address,
            "device_port": ports.DEVICE_PORT,
            "service_port": listeners.service_port,
            "websocket_port": None if problem else ports.HTTPS_PORT,
            "websocket_problem": str(problem) if problem else None,
            "ca_file": str(self._state.ca_file),
        }
        write_json(self._state.running_file, self._ready)
        logger.info("ready on %s", _service_host(listeners))
        on_ready(self._ready)

    def _about(self, devices: DeviceEndpoint, store: Store, database: Database) -> Json:
        return {
            **self._ready,
            "connected_devices": devices.connected_count,
            "telemetry_messages": store.telemetry_count(),
            "open_hubs": len(leases.alive(self._state)),
            "journal_mode": database.journal_mode,
            "idle_timeout": self._idle_timeout,
            **devices.throttle.about(),
        }

    def _note_use(self) -> None:
        self._last_use = time.monotonic()

    async def _wait_for_end(self, devices: DeviceEndpoint) -> None:
        if self._idle_timeout is None:
            await self._stopping.wait()
            return
        while not self._stopping.is_set():
            if devices.connected_count or leases.alive(self._state):
                self._note_use()
            left = self._idle_timeout - (time.monotonic() - self._last_use)
            if left <= 0:
                logger.info("nobody has used the hub for %.0f s", self._idle_timeout)
                return
            try:
                await asyncio.wait_for(self._stopping.wait(), min(left, 60.0))
            except asyncio.TimeoutError:
                continue


@asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Have endless work done while the block runs."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _service_host(listeners: ports.Listeners) -> str:
    return f"{listeners.address}:{listeners.service_port}"


def _host_names(listeners: ports.Listeners) -> frozenset[str]:
    hosts = (listeners.address, "localhost")
    return frozenset(hosts) | {f"{host}:{listeners.service_port}" for host in hosts}


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


def _a_moment_later(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(0.05, call)


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: Json) -> None:
    error = context.get("exception")
    if isinstance(error, (ssl.SSLError, ConnectionError, TimeoutError)):
        # A client that does not trust the CA, or hangs up early, is no fault of the hub.
        logger.info("a client gave up: %s", type(error).__name__)
        return
    logger.error("%s", context.get("message"), exc_info=error)


class _stop_signals:
    """Let SIGINT and SIGTERM set an event while the block runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        self._loop = loop
        self._event = event
        self._names = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            self._names = [signal.SIGINT, signal.SIGBREAK]
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for name in self._names:
            self._before[name] = signal.signal(name, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self._loop.call_soon_threadsafe(self._event.set)

    def __exit__(self, *error: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)
