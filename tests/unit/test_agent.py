"""The update agent's decisions, with a hub in memory and no network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fwupdate_helpers import contract
from fwupdate_helpers.firmware.agent import UpdateAgent
from fwupdate_helpers.firmware.board import Board, Boot
from fwupdate_helpers.firmware.flash import Flash, PowerLost
from tests.power import KEY, NEW, OLD, ORDER, World, image

Json = dict[str, Any]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "chip", image(tmp_path, OLD), image(tmp_path, NEW).read_bytes())


async def started(world: World) -> UpdateAgent:
    world.on_call = lambda call: None
    world.board = Board(world.factory, KEY.public_key(), folder=world.folder)
    agent = UpdateAgent(world.board, world)
    await agent.start(await world.boot(), world.twin)
    return agent


def code(answer: tuple[int, Json]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


STAGES = [contract.WAITING, contract.DOWNLOADING, contract.VERIFYING, contract.APPLYING]


@pytest.mark.parametrize("stage", STAGES)
def test_an_update_is_cancelled_in_every_stage_before_the_switch(
    world: World, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        agent = await started(world)
        reached, forever = asyncio.Event(), asyncio.Event()
        pause: Callable[..., Awaitable[None]] = world.pause

        async def stop_here(*arguments: Any) -> None:
            if agent.stage == stage:
                reached.set()
                await forever.wait()
            await pause()

        if stage == contract.DOWNLOADING:
            monkeypatch.setattr(world, "download", stop_here)
        monkeypatch.setattr(world, "pause", stop_here)
        await agent.begin(ORDER)
        walk = asyncio.ensure_future(agent.run())
        await asyncio.wait_for(reached.wait(), 10)
        assert agent.cancel(ORDER.update_id) == (200, contract.RESPONSE_CANCELLED)
        await asyncio.wait_for(walk, 10)
        assert not agent.busy

    asyncio.run(scenario())
    update = world.twin["firmwareUpdate"]
    assert (update["error"]["code"], update["outcome"]) == ("cancelled", "error")
    assert "endedAt" in update["stages"][stage]
    assert contract.open_stage(world.twin) is None
    assert world.board.power_up().version == OLD


def test_the_switch_is_not_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []

    async def scenario() -> None:
        agent = await started(world)

        async def reboot() -> Boot:
            answers.append(agent.cancel(None))
            return await world.boot()

        monkeypatch.setattr(world, "reboot", reboot)
        await agent.begin(ORDER)
        await agent.run()
        answers.append(agent.cancel(None))

    asyncio.run(scenario())
    assert [code(answer) for answer in answers] == [(409, "tooLate"), (409, "noUpdate")]
    assert world.twin["firmwareUpdate"]["outcome"] == "completed"


def test_after_a_power_cut_in_the_switch_it_is_not_cancelled_either(world: World) -> None:
    assert world.live()
    assert not world.live(ORDER, cut_at=_calls_to_the_reboot(world))

    async def scenario() -> tuple[int, Json]:
        return (await started(world)).cancel(None)

    assert code(asyncio.run(scenario())) == (409, "tooLate")


def _calls_to_the_reboot(world: World) -> int:
    other = World(world.folder.with_name("other"), world.factory, world.served)
    assert other.live()
    assert other.live(ORDER)
    return other.calls.index("reboot")


def test_an_update_id_that_comes_back_after_another_update_is_an_update_of_its_own(
    world: World, tmp_path: Path
) -> None:
    """What the boot loader remembers of the first must not end the second one."""
    assert world.live(ORDER)
    assert world.live(replace(ORDER, update_id="update-2", check_value="0" * 64, version=None))
    world.served = image(tmp_path, "3.0.0").read_bytes()
    again = replace(ORDER, version="3.0.0")
    assert world.live(again)
    assert world.answers == [200, 200, 200]
    assert world.board.power_up().version == "3.0.0"
    assert world.twin["firmwareUpdate"]["version"] == "3.0.0"


def test_a_report_that_the_hub_refuses_leaves_the_device_free_for_the_next_update(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        agent = await started(world)

        async def refuse(patch: Json) -> None:
            raise RuntimeError("the hub refuses it")

        with monkeypatch.context() as patch:
            patch.setattr(world, "report", refuse)
            with pytest.raises(RuntimeError, match="refuses"):
                await agent.begin(ORDER)
        assert not agent.busy
        assert agent.answer_at_once(ORDER) is None, "the service may ask again"
        await agent.begin(ORDER)
        await agent.run()

    asyncio.run(scenario())
    assert world.twin["firmwareUpdate"]["outcome"] == "completed"


def test_the_uri_is_forgotten_when_the_update_has_ended(world: World) -> None:
    order = replace(ORDER, package_uri="https://images.test/firmware.img?sig=c2VjcmV0")
    assert world.live(order)
    kept = b"".join(file.read_bytes() for file in world.folder.glob("*.json"))
    assert b"c2VjcmV0" not in kept
    assert "c2VjcmV0" not in str(world.twin)


def test_a_twin_that_was_deleted_is_told_all_again(world: World) -> None:
    assert world.live(ORDER)
    before, world.twin = world.twin, {}
    assert world.live()
    assert world.twin == before


def test_a_board_whose_slots_are_both_damaged_says_what_to_do(world: World) -> None:
    assert world.live(ORDER)
    for slot in ("a", "b"):
        (world.folder / f"slot-{slot}.img").write_bytes(b"rubbish")
    with pytest.raises(Exception, match="Make a new Board"):
        world.board.power_up()


def test_a_board_whose_active_slot_is_damaged_starts_the_other_one(world: World) -> None:
    assert world.live(ORDER)
    (world.folder / "slot-b.img").write_bytes(b"rubbish")
    assert world.live()
    assert world.twin["firmware"]["currentFwVersion"] == OLD


def test_after_a_reboot_that_goes_wrong_the_next_start_judges_the_trial(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        agent = await started(world)

        async def reboot() -> Boot:
            raise RuntimeError("it does not connect again")

        monkeypatch.setattr(world, "reboot", reboot)
        await agent.begin(ORDER)
        await agent.run()

    asyncio.run(scenario())
    assert contract.open_stage(world.twin) == contract.REBOOTING
    assert "outcome" not in world.twin["firmwareUpdate"]
    monkeypatch.undo()
    assert world.live()
    assert world.twin["firmwareUpdate"]["outcome"] == "completed"
    assert world.twin["firmware"]["currentFwVersion"] == NEW


@pytest.mark.parametrize("which", ["every progress report", "the last report"])
def test_a_report_that_is_refused_turns_no_success_into_an_error(
    world: World, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fwupdate_helpers.firmware.stages.PROGRESS_SECONDS", 0.001)

    async def scenario() -> None:
        agent = await started(world)
        report, download = world.report, world.download

        async def refuse_some(patch: Json) -> None:
            progress = agent.stage == contract.DOWNLOADING and "firmwareStatus" not in patch
            last = patch.get("firmwareStatus") == "completed"
            if (which == "the last report" and last) or (which != "the last report" and progress):
                if progress and "stages" in patch["firmwareUpdate"]:
                    return await report(patch)
                raise RuntimeError("429")
            await report(patch)

        async def slow_download(*arguments: Any) -> None:
            await download(*arguments)
            await asyncio.sleep(0.05)

        monkeypatch.setattr(world, "report", refuse_some)
        monkeypatch.setattr(world, "download", slow_download)
        await agent.begin(ORDER)
        await agent.run()

    asyncio.run(scenario())
    monkeypatch.undo()
    assert world.live()
    update = world.twin["firmwareUpdate"]
    assert (update["outcome"], "error" in update) == ("completed", False)
    assert world.twin["firmware"]["currentFwVersion"] == NEW


def test_a_rollback_after_a_damaged_slot_leads_to_the_image_that_ran(
    world: World, tmp_path: Path
) -> None:
    assert world.live(ORDER)
    (world.folder / "slot-b.img").write_bytes(b"rubbish")
    world.served = image(tmp_path, "3.0.0", behaviour="failsSelfTest").read_bytes()
    assert world.live(replace(ORDER, update_id="update-2", version="3.0.0"))
    assert world.twin["firmwareUpdate"]["outcome"] == "rolledback"
    assert world.board.power_up().version == OLD


@pytest.mark.parametrize(
    "order",
    [
        replace(ORDER, package_uri="images.test/firmware.img?sig=c2VjcmV0", version=None),
        replace(ORDER, package_uri="../../x", version=None),
        replace(ORDER, package_uri="test.com"),
    ],
)
def test_an_image_without_a_scheme_is_refused_by_a_device_with_a_board(
    world: World, order: contract.UpdateOrder
) -> None:
    async def scenario() -> tuple[int, Json] | None:
        return (await started(world)).answer_at_once(order)

    answer = asyncio.run(scenario())
    assert answer is not None
    assert code(answer) == (400, "uriRefused")
    assert "c2VjcmV0" not in str(answer)


def test_a_chip_that_fails_to_sync_writes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash = Flash(tmp_path)
    flash.create("a.img")
    flash.append("a.img", b"content")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="No space"):
            flash.sync("a.img")
    flash.sync("a.img")
    flash.sync_directory()
    assert flash.read("a.img") == b"content"


def test_a_board_without_power_does_not_start_by_itself(world: World) -> None:
    assert world.live()
    world.board.cut_power()
    assert repr(world.board) == "Board(demo-board, no power)"
    with pytest.raises(PowerLost):
        world.board.reset()
    assert world.board.power_up().version == OLD


def test_a_second_board_object_on_the_same_chip_does_not_harm_it(world: World) -> None:
    assert world.live()
    flash = world.board.flash
    flash.create("boot.new")
    flash.append("boot.new", flash.read("boot.json"))
    flash.sync("boot.new")
    Board(world.factory, KEY.public_key(), folder=world.folder)
    flash.rename("boot.new", "boot.json")
    flash.sync_directory()
    assert world.board.power_up().version == OLD
