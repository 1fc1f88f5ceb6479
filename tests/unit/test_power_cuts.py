"""A power cut at any moment of an update: the board starts, and the twin tells the truth."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fwupdate_helpers import contract
from fwupdate_helpers.contract_firmware import (
    desired_firmware,
    desired_outcome,
    desired_update_id,
)
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.firmware import board as board_module
from fwupdate_helpers.firmware.board import DOWNLOAD_FILE
from fwupdate_helpers.firmware.flash import Flash
from fwupdate_helpers.reported import update_outcome
from tests.power import NEW, OLD, ORDER, Json, World, image

GOOD, BAD, HANGING, CORRUPTED = "good", "fails its self-test", "hangs", "corrupted"


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Iterator[None]:
    """Let small images take several pieces, as large ones do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board_module, "PIECE", 16 * 1024)
        patch.setattr(board_module, "SYNC_BYTES", 32 * 1024)
        # What this computer's own disk does at a power cut of this computer is not the question.
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


class Shop:
    """Makes worlds: a board fresh from the factory, copied, and an image on the server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.factory = image(folder, OLD)
        corrupted = bytearray(image(folder, NEW).read_bytes())
        corrupted[-1] ^= 1
        self.images = {
            GOOD: image(folder, NEW).read_bytes(),
            BAD: image(folder, NEW, behaviour="failsSelfTest").read_bytes(),
            HANGING: image(folder, NEW, behaviour="hangs").read_bytes(),
            CORRUPTED: bytes(corrupted),
        }
        self._made = 0
        self.blank = folder / "blank"
        self.new = folder / "new"
        World(self.new, self.factory, b"").live()

    def world(self, kind: str = GOOD, *, blank: bool = False) -> World:
        self._made += 1
        place = self.folder / f"board-{self._made}"
        if not blank:
            shutil.copytree(self.new, place)
        return World(place, self.factory, self.images[kind])

    def scrap(self, world: World) -> None:
        shutil.rmtree(world.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


def check(world: World, kind: str) -> None:
    """Check what must hold once the device has done all that it does by itself after a start."""
    boot = world.board.power_up()  # verifies signature and hash of what it starts
    twin = world.twin
    assert boot.version in (OLD, NEW)
    assert twin["firmware"]["currentFwVersion"] == boot.version
    assert twin["firmware"]["slots"]["active"] == boot.slot
    assert "pendingFwVersion" not in twin["firmware"]
    assert contract.open_stage(twin) is None
    assert not (world.folder / DOWNLOAD_FILE).exists()
    update = twin.get("firmwareUpdate")
    if update is None:
        assert (boot.version, world.answers) == (OLD, []), "an accepted update is forgotten"
        return
    assert update["updateId"] == ORDER.update_id
    outcome, code = update_outcome(twin), update.get("error", {}).get("code")
    if boot.version == NEW:
        assert (kind, outcome, code) == (GOOD, "completed", None)
        return
    ends = {
        GOOD: {("rolledback", "notConfirmed")},
        BAD: {("rolledback", "notConfirmed"), ("rolledback", "selfTestFailed")},
        HANGING: {("rolledback", "notConfirmed")},
        CORRUPTED: {("error", "hashMismatch")},
    }
    assert (outcome, code) in ends[kind]
    if kind == GOOD:
        assert "recovery" in update, "only a power cut stops a good image"


def calls_of(shop: Shop, kind: str, *, blank: bool = False) -> list[str]:
    world = shop.world(kind, blank=blank)
    assert world.live(ORDER)
    calls = list(world.calls)
    check(world, kind)
    shop.scrap(world)
    return calls


def try_every_cut(
    shop: Shop, kind: str, *, blank: bool = False, calls: list[str] | None = None
) -> int:
    """Cut the power before every call of an update, once each; return how many there were."""
    calls = calls or calls_of(shop, kind, blank=blank)
    for number in range(len(calls)):
        world = shop.world(kind, blank=blank)
        assert not world.live(ORDER, cut_at=number), calls[number]
        assert world.live(), calls[number]
        check(world, kind)
        shop.scrap(world)
    return len(calls)


@pytest.mark.parametrize("kind", [GOOD, BAD, HANGING, CORRUPTED])
def test_after_a_power_cut_at_any_call_a_verified_image_runs_and_the_twin_is_true(
    shop: Shop, kind: str, record_property: Callable[[str, object], None]
) -> None:
    count = try_every_cut(shop, kind)
    record_property("cuts", count)
    assert count > 60


@pytest.mark.long
def test_after_a_power_cut_at_the_factory_the_board_is_made_all_the_same(shop: Shop) -> None:
    assert try_every_cut(shop, GOOD, blank=True) > 80


@pytest.mark.long
def test_a_service_that_asks_again_after_any_cut_gets_its_update(shop: Shop) -> None:
    for number in range(len(calls_of(shop, GOOD))):
        world = shop.world()
        world.live(ORDER, cut_at=number)
        assert world.live(ORDER)
        if update_outcome(world.twin) == "rolledback":  # the cut hit the trial: a new update
            assert world.live(replace(ORDER, update_id="update-2"))
        assert update_outcome(world.twin) == "completed"
        assert world.board.power_up().version == NEW
        shop.scrap(world)


def test_a_download_goes_on_where_the_power_was_cut(shop: Shop) -> None:
    calls = calls_of(shop, GOOD)
    for number in [n for n, call in enumerate(calls) if call == "receive"]:
        world = shop.world()
        world.live(ORDER, cut_at=number)
        assert world.live()
        assert world.received == len(world.served), "bytes were fetched twice"
        assert world.twin["firmwareUpdate"]["recovery"]["action"] == "resumed"
        shop.scrap(world)


def test_an_image_that_changes_behind_a_power_cut_is_never_mixed(shop: Shop) -> None:
    calls = calls_of(shop, GOOD)
    other = image(shop.folder, NEW, firmware=shop.factory).read_bytes()
    for number, call in enumerate(calls):
        if "download.img" not in call and call != "receive":
            continue
        world = shop.world()
        world.live(ORDER, cut_at=number)
        world.served = other
        assert world.live()
        check(world, GOOD)
        shop.scrap(world)


CUT = st.tuples(st.integers(0, 150), st.none() | st.integers(0, 2**32))


@pytest.mark.long
@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from([GOOD, GOOD, BAD, HANGING, CORRUPTED]),
    cuts=st.lists(CUT, min_size=1, max_size=4),
)
def test_after_any_power_cuts_one_after_another_the_board_works_and_the_twin_is_true(
    shop: Shop, kind: str, cuts: list[tuple[int, int | None]]
) -> None:
    """Cuts hit the recovery of the cut before, and parts of the cache may reach the chip."""
    world = shop.world(kind)
    for life, (number, seed) in enumerate(cuts):
        survivors = None if seed is None else random.Random(seed)
        world.live(None if life else ORDER, cut_at=number, survivors=survivors)
    assert world.live()
    check(world, kind)
    world.served = shop.images[GOOD]
    assert world.live(replace(ORDER, update_id="update-2", allow_downgrade=True))
    assert update_outcome(world.twin) == "completed"
    assert world.board.power_up().version == NEW
    shop.scrap(world)


@pytest.mark.parametrize(
    "broken",
    ["sync update.new", "sync boot.new", "sync slot-b.img", "sync download.img", "sync_directory"],
)
def test_without_one_of_its_fsyncs_an_update_does_not_survive_every_cut(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The tests above can fail: each kind of fsync that is left out breaks one of them."""
    sync, sync_directory = Flash.sync, Flash.sync_directory
    calls = calls_of(shop, GOOD)

    def lazy_sync(flash: Flash, name: str) -> None:
        if broken != f"sync {name}":
            sync(flash, name)

    monkeypatch.setattr(Flash, "sync", lazy_sync)
    if broken == "sync_directory":
        monkeypatch.setattr(Flash, "sync_directory", lambda flash: None)
    else:
        monkeypatch.setattr(Flash, "sync_directory", sync_directory)

    with pytest.raises((AssertionError, ValueError, KeyError, FirmwareUpdateError)):
        try_every_cut(shop, GOOD, calls=calls)


def test_the_publisher_signs_what_the_board_starts(shop: Shop) -> None:
    world = shop.world()
    assert world.live()
    stranger = Ed25519PrivateKey.generate()
    foreign = image(shop.folder, NEW, signing_key=stranger).read_bytes()
    world.served = foreign
    assert world.live(ORDER)
    assert world.twin["firmwareUpdate"]["error"]["code"] == "badSignature"
    assert world.board.power_up().version == OLD


DESIRED = desired_firmware(ORDER.package_uri, NEW)


def live_by_desire(world: World, *, cut_at: int | None = None) -> list[str]:
    """Let the desired firmware drive the device, over a power cut; return the calls of it all."""
    world.desired = DESIRED
    whole = world.live(cut_at=cut_at)
    calls = list(world.calls)
    assert whole or world.live()
    return calls


@pytest.mark.parametrize("kind", [GOOD, BAD])
def test_a_desired_firmware_is_followed_once_over_a_power_cut_at_any_call(
    shop: Shop, kind: str
) -> None:
    world = shop.world(kind)
    calls = live_by_desire(world)
    shop.scrap(world)
    for number in range(0, len(calls), 2 if kind == GOOD else 5):
        world = shop.world(kind)
        live_by_desire(world, cut_at=number)
        update, firmware = world.twin["firmwareUpdate"], world.twin["firmware"]
        assert update["updateId"] == firmware["fwUpdateId"] == desired_update_id(DESIRED)
        version = world.board.power_up().version
        ended = desired_outcome(world.twin, desired_update_id(DESIRED))
        assert (version, ended) in {(NEW, "current"), (OLD, "rolledback")}
        assert kind == GOOD or version == OLD
        received, stages = world.received, update["stages"]
        assert world.live(), calls[number]
        assert world.received == received, "it was tried again"
        assert world.twin["firmwareUpdate"]["stages"] == stages
        shop.scrap(world)


def test_a_new_board_follows_what_the_twin_says_the_old_one_has_done(shop: Shop) -> None:
    first, second = shop.world(), shop.world()
    live_by_desire(first)
    second.twin = first.twin
    live_by_desire(second)
    assert second.board.power_up().version == NEW
    for world in (first, second):
        shop.scrap(world)


def test_the_end_of_an_update_is_heard_before_the_next_desired_one_begins(shop: Shop) -> None:
    """The power goes before the end is reported, and something else is desired by then."""
    world = shop.world(CORRUPTED)
    calls = live_by_desire(world)
    shop.scrap(world)
    world = shop.world(CORRUPTED)
    world.desired = DESIRED
    last_report = max(number for number, call in enumerate(calls) if call == "report")
    assert not world.live(cut_at=last_report)
    assert contract.open_stage(world.twin) is not None
    heard: list[tuple[str, str | None]] = []
    world.desired, world.served = DESIRED | {"attempt": 2}, shop.images[GOOD]
    merge_report = world.report

    async def listen(patch: Json) -> None:
        await merge_report(patch)
        heard.append((world.twin["firmwareUpdate"]["updateId"], update_outcome(world.twin)))

    world.report = listen  # type: ignore[method-assign]
    assert world.live()
    assert heard[0] == (desired_update_id(DESIRED), "error")
    assert heard[-1] == (desired_update_id(world.desired), "completed")
    shop.scrap(world)
