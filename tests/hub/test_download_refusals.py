"""Which images a device does not download, where it does not go, and through which proxy."""

from __future__ import annotations

import asyncio
import errno
import socket
import traceback

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.errors import DownloadError
from fwupdate_helpers.firmware.download import DownloadPolicy, download, tls_context
from tests.downloads import (
    SMALL,
    MemorySink,
    Run,
    address,
    check_no_secrets,
    failure,
    fetch,
    partial_sink,
    use_proxy,
)
from tests.image_server import ConnectProxy, Fault, ImageServer

# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418, 451, 501])
def test_a_refused_image_is_not_tried_again(server: ImageServer, status: int) -> None:
    server.always = Fault(status=status)
    error = failure(server, MemorySink())
    assert error.code == contract.CODE_DOWNLOAD_REFUSED
    assert str(status) in str(error)
    assert "edge-2.0.0.fw" in str(error)
    assert len(server.requests) == 1


def test_a_compressed_image_is_refused(server: ImageServer) -> None:
    server.always = Fault(compressed=True)
    sink = MemorySink()
    assert failure(server, sink).code == contract.CODE_DOWNLOAD_REFUSED
    assert sink.data == b""


def test_a_server_with_an_unknown_authority_is_not_trusted(server: ImageServer) -> None:
    with pytest.raises(DownloadError) as caught:
        asyncio.run(Run().download(address(server), MemorySink(), None))
    assert caught.value.code == contract.CODE_NOT_TRUSTED
    assert server.requests == []
    check_no_secrets("".join(traceback.format_exception(caught.value)))


def test_a_server_with_the_certificate_of_another_is_not_trusted() -> None:
    with ImageServer(SMALL, address="127.0.0.200") as server:
        error = failure(server, MemorySink())
        assert error.code == contract.CODE_NOT_TRUSTED
        assert "127.0.0.200" in str(error)
        assert server.requests == []


def test_an_image_over_the_limit_is_refused_before_it_is_read(server: ImageServer) -> None:
    sink = MemorySink()
    error = failure(server, sink, size_limit=299_999)
    assert error.code == contract.CODE_TOO_LARGE
    assert "300,000 bytes" in str(error)
    assert (sink.size, sink.start_overs) == (0, 0)
    fetch(server, sink, size_limit=300_000)


def test_the_rest_of_an_image_over_the_limit_is_refused(server: ImageServer) -> None:
    sink = partial_sink(server, 100_000)
    assert failure(server, sink, size_limit=299_999).code == contract.CODE_TOO_LARGE
    assert sink.size == 100_000


def test_an_image_without_a_length_is_counted(server: ImageServer) -> None:
    server.always = Fault(chunked=True)
    sink = MemorySink()
    assert failure(server, sink, size_limit=150_000).code == contract.CODE_TOO_LARGE
    assert sink.size <= 150_000


def test_a_full_flash_is_told(server: ImageServer) -> None:
    sink = MemorySink(capacity=200_000)
    error = failure(server, sink, bytes_per_second=1_000_000)
    assert error.code == contract.CODE_DISK_FULL
    assert f"{sink.size:,} of 300,000 bytes" in str(error)
    assert 100_000 < sink.size <= 200_000
    assert len(server.requests) == 1


def test_a_broken_flash_is_not_taken_for_a_broken_network(server: ImageServer) -> None:
    class BrokenSink(MemorySink):
        def append(self, data: bytes) -> None:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        fetch(server, BrokenSink())
    assert len(server.requests) == 1


# -- redirects ------------------------------------------------------------------------------------


def redirect(location: str | None, status: int = 302) -> Fault:
    return Fault(status=status, headers={"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(server: ImageServer, status: int) -> None:
    server.script.append(redirect(f"{server.url}?sig=sig-SECRET", status))
    sink = MemorySink()
    fetch(server, sink)
    assert sink.data == SMALL
    assert server.requests[1].target == "/edge-2.0.0.fw?sig=sig-SECRET"


def test_a_resumed_download_goes_through_the_redirect_again(server: ImageServer) -> None:
    server.script.extend([redirect("/elsewhere"), Fault(drop_after=1000), redirect("/here")])
    sink = MemorySink()
    fetch(server, sink)
    assert sink.data == SMALL
    assert server.ranges == [None, None, "bytes=1000-", "bytes=1000-"]


def test_a_chain_of_redirects_has_an_end(server: ImageServer) -> None:
    server.script.extend([redirect("/again?sig=sig-SECRET")] * 5)
    fetch(server, MemorySink(), redirects=5)
    server.always = redirect("/again")
    error = failure(server, MemorySink(), redirects=5)
    assert error.code == contract.CODE_URI_REFUSED
    assert "more than 5 times" in str(error)


@pytest.mark.parametrize("allow_http", [False, True])
@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/sig-SECRET/edge.fw",
        "file:///etc/passwd",
        "ftp://127.0.0.1/edge.fw",
        "https://user:sig-SECRET@127.0.0.1/edge.fw",
        "https://:443/edge.fw",
        "https://127.0.0.1/" + "a" * 5000,
        "",
        None,
    ],
)
def test_a_redirect_to_where_a_device_may_not_go_is_refused(
    server: ImageServer, location: str | None, allow_http: bool
) -> None:
    server.always = redirect(location)
    error = failure(server, MemorySink(), allow_http=allow_http)
    assert error.code == contract.CODE_URI_REFUSED
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "uri", ["file:///etc/passwd", "https://u:sig-SECRET@127.0.0.1/", "data:,hello", "edge.fw"]
)
def test_an_address_that_is_refused_is_not_asked(server: ImageServer, uri: str) -> None:
    assert failure(server, MemorySink(), uri=uri).code == contract.CODE_URI_REFUSED


# -- proxies --------------------------------------------------------------------------------------


def test_the_own_computer_is_reached_without_the_proxy(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    use_proxy(monkeypatch, HTTPS_PROXY=closed, HTTP_PROXY=closed, ALL_PROXY=closed)
    for host in ("127.0.0.1", "localhost"):
        sink = MemorySink()
        fetch(server, sink, uri=f"https://{host}:{server.port}/edge.fw")
        assert sink.data == SMALL


def test_another_host_is_asked_for_at_the_proxy(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "https://images.example.invalid/token-SECRET-in-the-path/edge.fw?sig=sig-SECRET"
    with ConnectProxy(403) as proxy:
        use_proxy(monkeypatch, HTTPS_PROXY=proxy.address)
        error = failure(server, MemorySink(), uri=uri)
    assert proxy.targets == ["images.example.invalid:443"]
    assert error.code == contract.CODE_DOWNLOAD_REFUSED
    assert "proxy" in str(error)


def test_a_proxy_that_is_busy_or_gone_is_tried_again(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "https://images.example.invalid/edge.fw"
    with ConnectProxy(502) as proxy:
        use_proxy(monkeypatch, HTTPS_PROXY=proxy.address)
        error = failure(server, MemorySink(), uri=uri, attempts=3)
    assert len(proxy.targets) == 3
    assert error.code == contract.CODE_DOWNLOAD_FAILED
    assert "the proxy answered 502" in str(error)
    error = failure(server, MemorySink(), uri=uri, attempts=2)
    assert "the proxy cannot be reached" in str(error)


def test_an_image_arrives_through_a_proxy(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = MemorySink()
    tls = tls_context(server.ca_pem)  # not the one of the other tests
    tls.check_hostname = False  # the certificate is one for this computer
    run = Run()
    server.script.append(Fault(drop_after=100_000))
    with ConnectProxy(200, server.port) as proxy:
        use_proxy(monkeypatch, HTTPS_PROXY=proxy.address)
        asyncio.run(
            download(
                "https://images.example.invalid/edge.fw",
                sink,
                DownloadPolicy(),
                tls=tls,
                on_progress=lambda size, total: None,
                on_retry=run.told.append,
                sleep=run.sleep,
            )
        )
    assert sink.data == SMALL
    assert server.ranges == [None, "bytes=100000-"]
    assert len(proxy.targets) == 2
