"""What a server may do to a resumed download, and what the device makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from fwupdate_helpers import contract
from tests.downloads import (
    OTHER,
    SMALL,
    MemorySink,
    failure,
    fetch,
    image,
    partial_sink,
)
from tests.image_server import Fault, ImageServer

# -- what the server may do to a resumed download -------------------------------------------------


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "no quotes"])
def test_without_a_strong_etag_a_download_starts_over(
    server: ImageServer, etag: str | None
) -> None:
    headers = {"ETag": etag}
    server.script.append(Fault(drop_after=100_000, headers=headers))
    server.always = Fault(headers=headers)
    sink = MemorySink()
    run = fetch(server, sink)
    assert sink.data == SMALL
    assert sink.validator is None
    assert server.ranges == [None, None]
    assert "no strong ETag" in run.told[1]


def test_bytes_of_an_unknown_image_are_dropped(server: ImageServer) -> None:
    sink = MemorySink()
    sink.data += bytes(100_000)
    server.script.extend(Fault(drop_after=20_000) for _ in range(4))
    fetch(server, sink, attempts=1)
    assert sink.data == SMALL
    assert server.ranges[:2] == [None, "bytes=20000-"]


def test_a_server_that_does_not_resume_is_read_from_the_start(server: ImageServer) -> None:
    server.script.append(Fault(drop_after=100_000))
    server.always = Fault(ignore_range=True)
    sink = MemorySink()
    run = fetch(server, sink)
    assert sink.data == SMALL
    assert "does not resume" in run.told[1]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-299999/300000"},
        {"Content-Range": "bytes 99999-299999/300000"},
        {"Content-Range": "bytes 100000-299999/300001"},
        {"Content-Range": "bytes 100000-299999/*"},
        {"Content-Range": "rubbish"},
        {"Content-Range": None},
        {"ETag": '"another"'},
        {"ETag": None},
    ],
)
def test_a_part_that_does_not_fit_is_not_believed(
    server: ImageServer, headers: dict[str, str | None]
) -> None:
    server.script.extend([Fault(drop_after=100_000), Fault(headers=headers)])
    sink = MemorySink()
    fetch(server, sink)
    assert sink.data == SMALL
    assert server.ranges == [None, "bytes=100000-", None]


def test_more_than_was_announced_is_not_believed(server: ImageServer) -> None:
    too_much = Fault(body=SMALL[100_000:] + b"more", chunked=True)
    server.script.extend([Fault(drop_after=100_000), too_much])
    sink = MemorySink()
    fetch(server, sink)
    assert sink.data == SMALL
    assert server.ranges == [None, "bytes=100000-", None]


def test_a_server_may_send_the_rest_in_slices(server: ImageServer) -> None:
    server.script.append(Fault(drop_after=100_000))
    for start in (100_000, 150_000):
        headers = {
            "Content-Range": f"bytes {start}-{start + 49_999}/300000",
            "Content-Length": "50000",
        }
        server.script.append(Fault(headers=headers, body=SMALL[start : start + 50_000]))
    sink = MemorySink()
    run = fetch(server, sink)
    assert sink.data == SMALL
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=200000-"]
    assert len(run.waits) == 1


def changed_to(data: bytes, **fault: Any) -> Fault:
    """Return a fault before which the image changes."""
    return Fault(before=lambda server: setattr(server, "image", data), **fault)


@pytest.mark.parametrize("ignore_if_range", [False, True])
@pytest.mark.parametrize("size", [50_000, 300_000, 400_000])
def test_an_image_that_changes_starts_over_and_ends_right(
    server: ImageServer, ignore_if_range: bool, size: int
) -> None:
    new = image(size, seed=3)
    server.script.extend(
        [Fault(drop_after=100_000), changed_to(new, ignore_if_range=ignore_if_range)]
    )
    sink = MemorySink()
    run = fetch(server, sink)
    assert sink.data == new
    assert sink.validator == server.etag
    assert any("changed" in text for text in run.told)


def test_an_image_that_changes_again_and_again_is_given_up(server: ImageServer) -> None:
    images = [image(300_000, seed=seed) for seed in range(10)]
    server.script.extend(changed_to(one, drop_after=100_000) for one in images)
    error = failure(server, MemorySink(), start_overs=3)
    assert error.code == contract.CODE_IMAGE_CHANGED
    assert "4 times" in str(error)
    assert len(server.requests) == 5


def test_an_image_may_change_as_often_as_the_policy_says(server: ImageServer) -> None:
    images = [image(300_000, seed=seed) for seed in range(4)]
    server.script.extend(changed_to(one, drop_after=100_000) for one in images)
    sink = MemorySink()
    fetch(server, sink, start_overs=3)
    assert sink.data == images[3]


def test_the_first_bytes_of_a_changed_image_are_progress(server: ImageServer) -> None:
    server.script.extend([Fault(drop_after=100_000), changed_to(OTHER, drop_after=20_000)])
    sink = MemorySink()
    fetch(server, sink, attempts=1)
    assert sink.data == OTHER


def test_an_image_that_changed_during_a_restart_starts_over(server: ImageServer) -> None:
    sink = partial_sink(server, 100_000)
    server.image = OTHER
    fetch(server, sink)
    assert sink.data == OTHER


# -- nothing is missing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "requests"),
    [
        ({}, 1),
        ({"ETag": None}, 2),
        ({"Content-Range": None}, 2),
        ({"ETag": None, "Content-Range": None}, 2),
    ],
)
def test_a_complete_image_is_not_transferred_again(
    server: ImageServer, headers: dict[str, str | None], requests: int
) -> None:
    sink = partial_sink(server, len(SMALL))
    server.script.append(Fault(headers=headers))
    run = fetch(server, sink)
    assert sink.data == SMALL
    assert [request.status for request in server.requests] == [416, 206][:requests]
    assert server.sent == requests - 1
    assert run.progress[-1][1:] == (len(SMALL), len(SMALL))
    assert not run.told
    assert not run.waits


@pytest.mark.parametrize("ignore_if_range", [False, True])
def test_a_complete_image_that_changed_starts_over(
    server: ImageServer, ignore_if_range: bool
) -> None:
    sink = partial_sink(server, len(SMALL))
    server.image = OTHER
    server.always = Fault(ignore_if_range=ignore_if_range)
    fetch(server, sink)
    assert sink.data == OTHER


def test_a_complete_image_that_the_server_does_not_confirm_starts_over(
    server: ImageServer,
) -> None:
    sink = partial_sink(server, len(SMALL))
    server.script.extend([Fault(headers={"ETag": None}), Fault(headers={"ETag": None})])
    fetch(server, sink)
    assert sink.data == SMALL
    assert [request.status for request in server.requests] == [416, 206, 200]
