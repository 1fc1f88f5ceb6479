"""The flash chip: what is synced stays, what is not is gone, and names lead nowhere else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwupdate_helpers.firmware.flash import Flash, PowerLost, write_in_one_step


def restarted(flash: Flash) -> Flash:
    flash.lose_power()
    return Flash(flash.folder)


def test_what_is_synced_survives_a_power_cut(tmp_path: Path) -> None:
    flash = Flash(tmp_path / "chip")
    flash.create("a.img")
    flash.append("a.img", b"kept")
    flash.sync("a.img")
    flash.sync_directory()
    flash.append("a.img", b" and lost")
    assert flash.read("a.img") == b"kept and lost"
    assert restarted(flash).read("a.img") == b"kept"


def test_a_name_that_is_not_synced_is_gone_with_its_content(tmp_path: Path) -> None:
    flash = Flash(tmp_path)
    flash.create("a.img")
    flash.append("a.img", b"content")
    flash.sync("a.img")
    flash = restarted(flash)
    assert not flash.exists("a.img")
    flash.drop_orphans()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_synced_before_its_content_leads_to_an_empty_file(tmp_path: Path) -> None:
    flash = Flash(tmp_path)
    flash.create("a.img")
    flash.append("a.img", b"content")
    flash.sync_directory()
    flash = restarted(flash)
    assert (flash.exists("a.img"), flash.read("a.img")) == (True, b"")


@pytest.mark.parametrize("change", ["rename", "remove", "create"])
def test_a_change_of_names_needs_a_sync_of_the_directory(tmp_path: Path, change: str) -> None:
    flash = Flash(tmp_path)
    write_in_one_step(flash, "a.img", b"old")
    if change == "rename":
        flash.rename("a.img", "b.img")
    elif change == "remove":
        flash.remove("a.img")
    else:
        flash.create("a.img")
    assert restarted(flash).read("a.img") == b"old"


def test_reading_goes_across_chip_and_cache(tmp_path: Path) -> None:
    flash = Flash(tmp_path)
    flash.create("a.img")
    flash.append("a.img", b"0123")
    flash.sync("a.img")
    flash.append("a.img", b"4567")
    whole = b"01234567"
    for start in range(10):
        for length in range(10):
            assert flash.read("a.img", start, length) == whole[start : start + length]
    assert (flash.size("a.img"), flash.size("b.img"), flash.read("b.img")) == (8, 0, b"")


def test_a_full_chip_refuses_more_and_keeps_what_it_has(tmp_path: Path) -> None:
    flash = Flash(tmp_path, capacity=10)
    flash.create("a.img")
    flash.append("a.img", b"12345678")
    with pytest.raises(OSError, match="No space") as full:
        flash.append("a.img", b"123")
    assert full.value.errno == 28
    assert (flash.read("a.img"), flash.free) == (b"12345678", 2)


def test_a_removed_file_takes_its_space_until_the_directory_is_synced(tmp_path: Path) -> None:
    flash = Flash(tmp_path, capacity=10)
    write_in_one_step(flash, "a.img", b"12345678")
    flash.remove("a.img")
    assert flash.free == 2
    flash.sync_directory()
    assert flash.free == 10


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc/passwd", "..", ".", "a.img/..", "A", "a b", "a\0", "x" * 40, "\\"]
)
def test_no_name_leads_out_of_the_chip(tmp_path: Path, name: str) -> None:
    flash = Flash(tmp_path / "chip")
    flash.create("a.img")
    for call in (flash.create, flash.read, flash.size, flash.remove, flash.exists, flash.sync):
        with pytest.raises(ValueError, match="no name"):
            call(name)
    with pytest.raises(ValueError, match="no name"):
        flash.rename("a.img", name)
    assert [file.name for file in tmp_path.iterdir()] == ["chip"]


def test_nothing_works_without_power_and_no_handler_catches_it(tmp_path: Path) -> None:
    flash = Flash(tmp_path)
    flash.create("a.img")
    flash.lose_power()
    with pytest.raises(PowerLost):
        flash.append("a.img", b"x")
    assert not issubclass(PowerLost, Exception)


def test_files_on_the_chip_are_private(tmp_path: Path) -> None:
    flash = Flash(tmp_path / "chip")
    write_in_one_step(flash, "update.json", b"{}")
    assert (tmp_path / "chip" / "update.json").stat().st_mode & 0o077 == 0
    assert (tmp_path / "chip").stat().st_mode & 0o077 == 0


NAMES = st.sampled_from(["a.img", "b.img", "c.img"])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "append", "sync", "rename", "remove", "directory"]), NAMES, NAMES
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(steps=STEPS, seed=st.integers(0, 2**32))
def test_a_chip_keeps_to_its_model(
    steps: list[tuple[str, str, str]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against a model in memory: inodes with synced and cached bytes, and two tables of names."""
    flash = Flash(tmp_path_factory.mktemp("chip"))
    names: dict[str, list[bytes]] = {}  # name -> [synced content, all content]
    synced: dict[str, list[bytes]] = {}
    for number, (step, one, other) in enumerate(steps):
        data = bytes([number])
        if step == "create":
            flash.create(one)
            names[one] = [b"", b""]
        elif step == "append" and one in names:
            flash.append(one, data)
            names[one][1] += data
        elif step == "sync" and one in names:
            flash.sync(one)
            names[one][0] = names[one][1]
        elif step == "rename" and one in names and one != other:
            flash.rename(one, other)
            names[other] = names.pop(one)
        elif step == "remove":
            flash.remove(one)
            names.pop(one, None)
        elif step == "directory":
            flash.sync_directory()
            synced = dict(names)
        for name in ("a.img", "b.img", "c.img"):
            assert flash.exists(name) == (name in names)
            assert flash.read(name) == (names[name][1] if name in names else b"")
    after = restarted(flash)
    for name in ("a.img", "b.img", "c.img"):
        assert after.exists(name) == (name in synced)
        assert after.read(name) == (synced[name][0] if name in synced else b"")


def test_parts_of_the_cache_may_reach_the_chip_all_the_same(tmp_path: Path) -> None:
    ends = set()
    for seed in range(60):
        flash = Flash(tmp_path / str(seed))
        flash.create("a.img")
        flash.append("a.img", b"123")
        flash.lose_power(random.Random(seed))
        after = Flash(tmp_path / str(seed))
        ends.add(after.read("a.img") if after.exists("a.img") else None)
    assert ends == {None, b"", b"1", b"12", b"123"}
