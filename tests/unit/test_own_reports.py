"""Whose reports the hub has counted: this client's, or another one's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwupdate_helpers.device.own_reports import OwnReports


class Hub:
    """A count of patches, and a client that knows of its own."""

    def __init__(self) -> None:
        self.count, self.own = 1, OwnReports()

    def report(self, *, taken: int = 1, answered: bool = True) -> None:
        try:
            with self.own.report():
                self.count += taken
                if not answered:
                    raise TimeoutError
        except TimeoutError:
            return

    def looks_foreign(self) -> bool:
        return self.own.is_foreign(self.count, self.own.look())


LINES = st.lists(
    st.sampled_from(["answered", "lost", "lost answer", "sent twice", "look", "overtaken look"])
)


@given(LINES)
def test_however_bad_a_line_is_nothing_looks_like_the_work_of_another_client(
    line: list[str],
) -> None:
    hub = Hub()
    assert not hub.looks_foreign()
    for what in line:
        ways = {"lost": (0, False), "lost answer": (1, False), "sent twice": (2, False)}
        if what == "look":
            assert not hub.looks_foreign()
        elif what == "overtaken look":  # the answer was on its way while more was reported
            look, told = hub.own.look(), hub.count
            hub.report()
            assert not hub.own.is_foreign(told, look)
        else:
            taken, answered = ways.get(what, (1, True))
            hub.report(taken=taken, answered=answered)
    assert not hub.looks_foreign()


@pytest.mark.parametrize("own", [0, 1, 20])
def test_a_report_of_another_client_is_known_by_the_hubs_count(own: int) -> None:
    hub = Hub()
    hub.looks_foreign()
    for _ in range(own):
        hub.report()
    assert not hub.looks_foreign()
    hub.count += 1
    assert hub.looks_foreign()
    assert not hub.looks_foreign(), "it is told once"


def test_a_report_that_is_taken_after_the_look_is_no_other_clients() -> None:
    hub = Hub()
    hub.looks_foreign()
    with hub.own.report():
        assert not hub.looks_foreign()
        hub.count += 1
    assert not hub.looks_foreign()


def test_doubt_about_a_report_hides_another_client_until_the_next_look_only() -> None:
    hub = Hub()
    hub.looks_foreign()
    hub.report(taken=0, answered=False)
    for _ in range(2):
        assert not hub.looks_foreign()
    hub.count += 1
    assert hub.looks_foreign()
