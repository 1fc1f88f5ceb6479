"""Downloads from a server on real sockets, whose faults happen on the wire."""

from __future__ import annotations

import asyncio
import re
import socket
import tracemalloc
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import psutil
import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.firmware.download import DownloadPolicy, download, tls_context
from tests.downloads import (
    BUSY,
    DROPPED,
    MIB,
    SMALL,
    MemorySink,
    Run,
    address,
    failure,
    fetch,
    fetch_slowly,
    image,
    nothing_left_open,
    partial_sink,
    trust,
    use_proxy,
)
from tests.image_server import Fault, ImageServer

# -- the plain way --------------------------------------------------------------------------------


def test_an_image_arrives(server: ImageServer) -> None:
    sink = MemorySink()
    run = fetch(server, sink)
    assert sink.data == SMALL
    assert sink.validator == server.etag
    assert sink.synced == len(SMALL)
    assert run.progress[0][1:] == (0, len(SMALL))
    assert run.progress[-1][1:] == (len(SMALL), len(SMALL))
    assert not run.told
    assert not run.waits


def test_a_request_holds_nothing_that_identifies_the_device(
    server: ImageServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login someone password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.script.append(Fault(drop_after=10, headers={"Set-Cookie": "a=b"}))
    fetch(server, MemorySink(), uri=f"https://localhost:{server.port}/edge.fw")
    for request in server.requests:
        names = {"host", "accept", "accept-encoding", "user-agent", "connection"}
        names |= {"range", "if-range"}
        assert set(request.headers) <= names
        assert request.headers["accept-encoding"] == "identity"


def test_the_signature_goes_over_the_wire_as_it_was_given(server: ImageServer) -> None:
    query = "sig=a%2Fb%3d+c%20d:@!$'()*,;~"
    fetch(server, MemorySink(), uri=f"{server.url}?{query}")
    assert server.requests[0].target.endswith(f"?{query}")


@pytest.mark.parametrize("chunked", [False, True])
def test_an_empty_image_is_no_error(server: ImageServer, chunked: bool) -> None:
    server.image, server.always = b"", Fault(chunked=chunked)
    sink = MemorySink()
    assert fetch(server, sink).progress[-1][1:] == (0, 0)
    assert sink.data == b""
    assert sink.validator == server.etag


def test_an_image_without_a_length_arrives(server: ImageServer) -> None:
    server.always = Fault(chunked=True)
    sink = MemorySink()
    run = fetch(server, sink)
    assert sink.data == SMALL
    assert run.progress[0][2] is None
    assert run.progress[-1][1:] == (len(SMALL), len(SMALL))


def test_plain_http_serves_where_it_is_allowed() -> None:
    sink = MemorySink()
    with ImageServer(SMALL, tls=False) as server:
        assert failure(server, sink).code == contract.CODE_URI_REFUSED
        fetch(server, sink, allow_http=True)
    assert sink.data == SMALL


def test_what_is_not_synced_stays_small() -> None:
    sink = MemorySink()
    with ImageServer(image(4 * MIB)) as server:
        fetch(server, sink, sync_bytes=MIB)
        assert sink.data == server.image
    assert 4 <= len(sink.syncs) <= 6
    assert sink.largest_unsynced < MIB + sink.largest_piece


def test_the_memory_that_a_download_takes_does_not_grow_with_the_image() -> None:
    class CountingSink(MemorySink):
        count = 0

        def append(self, data: bytes) -> None:
            self.count += len(data)

        @property
        def size(self) -> int:
            return self.count

    with ImageServer(image(24 * MIB)) as server:
        sink = CountingSink()
        tracemalloc.start()
        try:
            fetch(server, sink)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert sink.count == 24 * MIB
    assert peak < 6 * MIB


# -- dropped connections --------------------------------------------------------------------------


def test_twenty_mebibytes_arrive_over_ten_dropped_connections() -> None:
    sink = MemorySink()
    with ImageServer(image(20 * MIB)) as server:
        server.script.extend(Fault(drop_after=(n + 1) * 300_000 + n) for n in range(10))
        run = fetch(server, sink)
        assert sink.data == server.image
        assert len(server.requests) == 11
        assert server.sent < 1.2 * len(server.image)
        assert sink.start_overs == 1
    assert len(run.told) == 10
    assert "the connection was lost" in run.told[0]
    assert re.search(r"after [\d,]+ of 20,971,520 bytes", run.told[0])


def test_a_connection_that_is_reset_costs_what_was_on_its_way(server: ImageServer) -> None:
    server.script.extend(Fault(drop_after=50_000, reset=True) for _ in range(4))
    sink = MemorySink()
    fetch(server, sink)
    assert sink.data == SMALL
    assert server.sent <= len(SMALL) + 4 * 50_000


def test_a_download_goes_on_from_the_byte_where_it_stopped(server: ImageServer) -> None:
    server.script.extend([Fault(drop_after=100_000), Fault(drop_after=1)])
    sink = MemorySink()
    fetch(server, sink)
    assert sink.data == SMALL
    assert server.ranges == [None, "bytes=100000-", "bytes=100001-"]
    assert {request.headers.get("if-range") for request in server.requests[1:]} == {server.etag}
    assert server.sent == len(SMALL)


def test_after_a_restart_only_the_rest_is_transferred(server: ImageServer) -> None:
    sink = MemorySink()
    server.script.append(Fault(drop_after=200_000))
    server.always = DROPPED
    error = failure(server, sink, attempts=2)
    assert error.code == contract.CODE_DOWNLOAD_FAILED
    server.always = Fault()
    sent = server.sent
    after = sink.restarted()
    assert fetch(server, after).progress[0][1:] == (200_000, len(SMALL))
    assert after.data == SMALL
    assert server.sent - sent == 100_000


def test_what_was_not_synced_before_a_power_cut_comes_again(server: ImageServer) -> None:
    sink = partial_sink(server, 100_000)
    sink.append(SMALL[100_000:150_000])
    after = sink.restarted()
    fetch(server, after)
    assert after.data == SMALL
    assert server.ranges == ["bytes=100000-"]


def connections_to(server: ImageServer) -> int:
    """Return how many connections to the server this process holds."""
    ours = psutil.Process().net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port == server.port for one in ours)


def test_a_download_that_fails_has_closed_its_connection(server: ImageServer) -> None:
    async def fail() -> None:
        with pytest.raises(DownloadError):
            await Run().download(server.url, MemorySink(), server.ca_pem, size_limit=1)
        assert connections_to(server) == 0

    server.image = image(8 * MIB)
    asyncio.run(fail())


@pytest.mark.parametrize(
    ("fault", "policy"),
    [(Fault(stall_after=150_000), {}), (Fault(), {"bytes_per_second": 3_000_000})],
)
def test_a_cancelled_download_closes_its_connection_and_keeps_what_came(
    fault: Fault, policy: dict[str, Any]
) -> None:
    sink = MemorySink()

    async def cancel(run: Run, server: ImageServer) -> None:
        task = asyncio.ensure_future(run.download(server.url, sink, server.ca_pem, **policy))
        while sink.size < 150_000:
            await asyncio.sleep(0.005)
        assert connections_to(server) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connections_to(server) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    class SlowRun(Run):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(0.002)

    with ImageServer(image(8 * MIB)) as server:
        server.script.append(fault)
        with nothing_left_open():
            asyncio.run(cancel(SlowRun(), server))
        assert 150_000 <= sink.size < 8 * MIB
        assert sink.synced == sink.size
        stopped_at = sink.size
        fetch(server, sink)
        assert sink.data == server.image
        assert server.ranges == [None, f"bytes={stopped_at}-"]


def test_a_cancelled_wait_ends_the_download(server: ImageServer) -> None:
    server.always = BUSY

    async def cancel_the_wait() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(
                download(
                    address(server),
                    MemorySink(),
                    DownloadPolicy(first_wait=1000, longest_wait=1000),
                    tls=tls_context(server.ca_pem),
                    on_progress=lambda size, total: None,
                    on_retry=lambda text: None,
                ),
                0.2,
            )

    asyncio.run(cancel_the_wait())


def test_a_server_that_falls_silent_counts_as_a_lost_connection(server: ImageServer) -> None:
    server.script.append(Fault(stall_after=100_000))
    sink = MemorySink()
    run = fetch(server, sink, idle_seconds=0.4)
    assert sink.data == SMALL
    assert server.ranges[:2] == [None, "bytes=100000-"]
    assert "for too long" in run.told[0]


@pytest.mark.parametrize("fetch_it", [fetch, fetch_slowly])
def test_broken_chunks_count_as_a_lost_connection(server: ImageServer, fetch_it: Any) -> None:
    server.image = SMALL[:200_000]  # the slow one does not wait when the chunk comes, and then does
    server.script.append(Fault(broken_chunks=True))
    sink = MemorySink()
    fetch_it(server, sink, idle_seconds=0.4)
    assert sink.data == server.image


def test_what_came_before_a_connection_was_lost_is_kept(server: ImageServer) -> None:
    server.script.append(Fault(drop_after=200_000))
    sink = MemorySink()
    fetch_slowly(server, sink)
    assert sink.data == SMALL
    assert server.ranges == [None, "bytes=200000-"]


def test_the_time_for_a_download_ends_a_request(server: ImageServer) -> None:
    server.always = Fault(stall_after=0)
    with pytest.raises(DownloadError, match=r"0\.3 s at most"):
        asyncio.run(
            download(
                server.url,
                MemorySink(),
                DownloadPolicy(total_seconds=0.3, idle_seconds=20),
                tls=trust(server.ca_pem),
                on_progress=lambda size, total: None,
                on_retry=lambda text: None,
            )
        )


@pytest.mark.parametrize(
    "fault",
    [
        DROPPED,
        Fault(drop_at_once=True, reset=True),
        Fault(drop_after=0),
        Fault(raw=b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        Fault(raw=b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"),
        *(Fault(status=status) for status in (408, 425, 429, 500, 502, 503, 504)),
    ],
)
def test_what_may_pass_is_tried_again(server: ImageServer, fault: Fault) -> None:
    server.script.append(fault)
    sink = MemorySink()
    run = fetch(server, sink)
    assert sink.data == SMALL
    assert len(run.told) == len(run.waits) == 1
    assert len(server.requests) == 2  # no third that nobody knows of


def test_a_server_that_is_not_there_is_tried_again(server: ImageServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = failure(server, MemorySink(), uri=f"https://127.0.0.1:{port}/edge.fw", attempts=3)
    assert error.code == contract.CODE_DOWNLOAD_FAILED
    assert "3 tries" in str(error)
    assert "cannot be reached" in str(error)


def test_a_server_that_does_not_speak_tls_is_tried_again() -> None:
    with ImageServer(SMALL, tls=False) as server:
        uri = server.url.replace("http:", "https:")
        server.ca_pem = ""
        error = failure(server, MemorySink(), uri=uri, attempts=2)
    assert error.code == contract.CODE_DOWNLOAD_FAILED
    assert "TLS handshake failed" in str(error)


def test_a_name_that_nobody_knows_is_tried_again(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_found(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    use_proxy(monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", not_found)
    error = failure(server, MemorySink(), uri="https://no-such-host.invalid/edge.fw", attempts=2)
    assert error.code == contract.CODE_DOWNLOAD_FAILED
    assert "name was not found" in str(error)


# -- back-off -------------------------------------------------------------------------------------


def test_the_waits_grow_between_zero_and_the_longest(server: ImageServer) -> None:
    server.always = BUSY
    waits: list[list[float]] = []
    for _ in range(8):
        run = Run()
        with pytest.raises(DownloadError):
            asyncio.run(
                run.download(
                    server.url, MemorySink(), server.ca_pem, first_wait=0.5, longest_wait=5.0
                )
            )
        waits.append(run.waits)
    assert {len(run_waits) for run_waits in waits} == {7}
    for n, column in enumerate(zip(*waits, strict=True)):
        assert all(0 <= wait <= min(5.0, 0.5 * 2**n) for wait in column)
        assert len(set(column)) > 1  # drawn anew for every device
    assert max(max(column) for column in waits) > 1.0


def test_tries_are_counted_anew_when_something_came(server: ImageServer) -> None:
    for n in range(10):
        server.script.extend([BUSY, BUSY, Fault(drop_after=10_000 + n)])
    run = fetch(server, MemorySink(), attempts=3, first_wait=1.0, longest_wait=60.0)
    assert len(run.told) == 30
    assert all(wait <= 4.0 for wait in run.waits)


def test_giving_up_tells_how_often_it_was_tried_and_why(server: ImageServer) -> None:
    server.script.append(Fault(drop_after=1000))
    server.always = BUSY
    error = failure(server, MemorySink(), attempts=4)
    assert error.code == contract.CODE_DOWNLOAD_FAILED
    assert "5 tries and 1,000 of 300,000 bytes" in str(error)
    assert "503 (Service Unavailable)" in str(error)
    assert "the last 4 of them" in str(error)
    assert len(server.requests) == 5


def test_the_same_bytes_again_are_no_progress(server: ImageServer) -> None:
    server.always = Fault(drop_after=1000, ignore_range=True)
    error = failure(server, MemorySink(), attempts=4)
    assert error.code == contract.CODE_DOWNLOAD_FAILED
    assert len(server.requests) == 5


def test_a_download_has_an_end(server: ImageServer) -> None:
    server.always = Fault(drop_after=1)
    error = failure(server, MemorySink(), first_wait=4.0, longest_wait=4.0, total_seconds=30.0)
    assert error.code == contract.CODE_DOWNLOAD_FAILED
    assert "30 s at most" in str(error)


def test_a_slow_download_has_an_end(server: ImageServer) -> None:
    sink = MemorySink()
    error = failure(server, sink, bytes_per_second=10_000, total_seconds=5.0)
    assert error.code == contract.CODE_DOWNLOAD_FAILED
    assert 45_000 <= sink.synced <= 55_000


def test_a_wait_that_the_server_asks_for_comes_before_the_back_off(server: ImageServer) -> None:
    server.script.append(Fault(status=429, headers={"Retry-After": "17"}))
    run = fetch(server, MemorySink(), first_wait=0.5)
    assert 17.0 <= run.waits[0] <= 17.5


def test_a_date_in_retry_after_is_understood(server: ImageServer) -> None:
    moment = datetime.now(timezone.utc) + timedelta(seconds=60)
    server.script.append(
        Fault(status=503, headers={"Retry-After": format_datetime(moment, usegmt=True)})
    )
    run = fetch(server, MemorySink(), first_wait=0.0)
    assert 50.0 <= run.waits[0] <= 60.0


def test_a_server_cannot_ask_for_too_long_a_wait(server: ImageServer) -> None:
    server.script.append(Fault(status=503, headers={"Retry-After": "999999"}))
    run = fetch(server, MemorySink(), first_wait=0.5, longest_asked_wait=20.0)
    assert 20.0 <= run.waits[0] <= 20.5


# -- bandwidth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [30_000, 100_000])
def test_the_bandwidth_is_kept_over_the_whole_and_over_every_second(
    server: ImageServer, rate: int
) -> None:
    server.script.append(Fault(drop_after=100_000))
    run = fetch(server, MemorySink(), bytes_per_second=rate, first_wait=0.0)
    assert run.now == pytest.approx(len(SMALL) / rate, rel=0.02)
    for second in range(int(run.now)):
        moved = [size for now, size, _ in run.progress if second <= now < second + 1]
        assert len(moved) >= 4
        before = max(size for now, size, _ in run.progress if now < second) if second else 0
        assert moved[-1] - before == pytest.approx(rate, rel=0.1)


def test_without_a_limit_the_pieces_are_large() -> None:
    sink = MemorySink()
    with ImageServer(image(8 * MIB)) as server:
        run = fetch(server, sink)
    assert run.waits == []
    assert len(run.progress) < 8 * MIB / (48 * 1024)
