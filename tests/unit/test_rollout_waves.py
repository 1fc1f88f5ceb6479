"""Which device goes in which wave."""

from __future__ import annotations

from typing import Any

import pytest

from fwupdate_helpers.rollout.waves import plan_waves, read_waves

USUAL = (1, "10 %", "50 %", "rest")


@pytest.mark.parametrize(
    ("total", "waves", "sizes"),
    [
        (1000, USUAL, [1, 100, 500, 399]),
        (200, USUAL, [1, 20, 100, 79]),
        (10, USUAL, [1, 1, 5, 3]),
        (3, USUAL, [1, 1, 1]),  # half of three is two, and one is left
        (2, USUAL, [1, 1]),
        (1, USUAL, [1]),
        (0, USUAL, []),
        (5, ("rest",), [5]),
        (5, ("100 %",), [5]),
        (5, (2, 3), [2, 3]),
        (5, (2, 9), [2, 3]),
        (5, (9, "rest"), [5]),
        (100, ("50%", "50 %"), [50, 50]),
        (3, ("50 %", "50 %"), [2, 1]),  # half a device counts as one
        (25, ("10 %", "rest"), [3, 22]),
        (24, ("10 %", "rest"), [2, 22]),
        (1000, ("0.1 %", "rest"), [1, 999]),
        (100, ("0.1 %", "rest"), [1, 99]),  # a share of anything is one device at least
        (200, ("0.5 %", "12.5 %", "rest"), [1, 25, 174]),
        (100, ("29 %", "rest"), [29, 71]),
        (4, [1, " REST "], [1, 3]),
    ],
)
def test_the_sizes_of_waves(total: int, waves: Any, sizes: list[int]) -> None:
    ids = [f"device-{number}" for number in range(total)]
    planned = plan_waves(ids, read_waves(waves))
    assert [len(wave.device_ids) for wave in planned] == sizes
    assert [wave.number for wave in planned] == list(range(1, len(sizes) + 1))
    assert [each for wave in planned for each in wave.device_ids] == ids  # in their order


def test_a_device_that_is_named_twice_is_updated_once() -> None:
    first, second = plan_waves(["c", "a", "c", "b", "a"], read_waves((1, "rest")))
    assert (first.device_ids, second.device_ids) == (("c",), ("a", "b"))


@pytest.mark.parametrize(
    ("waves", "words"),
    [
        ((), "one wave at least"),
        ("rest", "must be a list"),
        (3, "must be a list"),
        (None, "must be a list"),
        ((0, "rest"), "0 devices is none"),
        ((-1, "rest"), "-1 devices is none"),
        ((True, "rest"), "no size of a wave"),
        ((0.1, "rest"), "no size of a wave"),
        (("ten", "rest"), "no size of a wave"),
        (("10", "rest"), "no size of a wave"),
        (("1e1 %", "rest"), "no size of a wave"),
        (("-5 %", "rest"), "no size of a wave"),
        (("٣ %", "rest"), "no size of a wave"),
        (("0 %", "rest"), "above 0 %"),
        (("101 %",), "at most 100 %"),
        (("rest", 1), "'rest' must be the last wave: wave 2"),
        ((1, "rest", "rest"), "'rest' must be the last wave: wave 3"),
    ],
)
def test_what_is_no_list_of_waves_is_refused(waves: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_waves(waves)


@pytest.mark.parametrize(("waves", "left"), [((1,), 9), (("50 %",), 5), ((1, "10 %"), 8)])
def test_waves_that_leave_devices_out_are_refused(waves: Any, left: int) -> None:
    with pytest.raises(ValueError, match=f"{left} of 10 devices would be in no wave"):
        plan_waves(map(str, range(10)), read_waves(waves))
