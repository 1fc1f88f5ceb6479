"""The checks of notebook 02: a nested property, an honest timestamp, a handler that refuses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.errors import UpdateTimeout
from fwupdate_helpers.exercise_checks import (
    ANSWER_SECONDS,
    Incorrect,
    Json,
    Learner,
    NotCheckable,
    exercise,
    threads_named,
)

WALK: Final = "firmware-update"
"""The name of the thread that walks an update in the notebook."""
QUICK: Final = 0.4
"""Seconds of a stage while a check runs."""


@exercise("02-a", answer="version_patch", needs={"hub": 1, "device_id": 2, "client": 2})
def the_version_is_in_the_twin(learner: Learner) -> str:
    """The twin has a version in the object `firmware`, and it is the one of the patch."""
    inside = '{"firmware": {"currentFwVersion": "1.0.0"}} in the twin, or another version.'
    firmware = learner.reported(learner["device_id"]).get(contract.FIRMWARE)
    patch = learner["version_patch"]
    own = patch.get(contract.FIRMWARE) if isinstance(patch, dict) else None
    if not isinstance(own, dict) or contract.CURRENT_VERSION not in own:
        raise Incorrect(
            f"The patch is {short(patch)}.",
            expected=inside,
            look="The value of 'firmware' is a dictionary of its own, and the version is in it.",
        )
    version = own[contract.CURRENT_VERSION]
    if not isinstance(firmware, dict) or firmware.get(contract.CURRENT_VERSION) != version:
        raise Incorrect(
            f"The twin has {short(firmware)} as its 'firmware', and your patch says {version!r}.",
            expected="The same in both.",
            look="Does the cell call report(version_patch)? Run it again.",
        )
    try:
        contract.parse_version(version)
    except ValueError:
        raise Incorrect(
            f"The version in the twin is {version!r}, a {type(version).__name__}.",
            expected="A text such as '1.0.0': as a number, 1.10 would be the same as 1.1.",
            look="The quotation marks around the version, and the digits and dots between them.",
        ) from None
    return f"The hub has it: version {version} runs on {learner['device_id']}."


@exercise(
    "02-b", answer="honest_walk", needs={"hub": 1, "device_id": 2, "client": 2, "on_method": 5}
)
def the_download_is_over_when_the_twin_says_so(learner: Learner) -> str:
    """An update is walked through the hub; the order of times in its twin is honest."""
    with quick_and_alone(learner):
        learner.say("invoking *honestUpdate* through the hub …")
        expect_status(learner, 200, "honestUpdate", HONEST_LOOK)
        seen = [told for told in follow_walk(learner) if told]
    statuses = list(dict.fromkeys(told.get(contract.STATUS) for told in seen))
    usual = [contract.STAND_BY, contract.DOWNLOADING, contract.APPLYING, contract.COMPLETED]
    if statuses[-1] != contract.COMPLETED or contract.DOWNLOADING not in statuses:
        raise Incorrect(
            f"firmwareStatus went through {', '.join(map(str, statuses))}.",
            expected=f"{', '.join(usual)}.",
            look="The lines of walk in step 4: yours may differ from them in one place only.",
        )
    return honest_times(seen[-1])


HONEST_LOOK: Final = "Does the cell end with methods['honestUpdate'] = honest_walk? Run it again."


def honest_times(reported: Json) -> str:
    """Compare the times in the twin; tell by how much the download was over too early or late."""
    names = (contract.DOWNLOAD_COMPLETE, contract.STARTED_APPLYING)
    times = [read_time(reported.get(name)) for name in names]
    if None in times:
        raise Incorrect(
            ", ".join(f"{name} is {reported.get(name)!r}" for name in names) + ".",
            expected="Two times, each as now() writes it.",
            look="Which call of report() writes each of the two names?",
        )
    over, applying = times
    early = (applying - over).total_seconds()  # type: ignore[operator]
    if early > QUICK / 2:
        raise Incorrect(
            f"downloadComplete was written {early:.1f} s before the image was applied: when the "
            "download began.",
            expected="That it is written when the download is over, just before applying begins.",
            look="Between 'downloading' and downloadComplete one stage has to pass.",
        )
    if early < -QUICK / 2:
        raise Incorrect(
            f"downloadComplete was written {-early:.1f} s after startedApplyingImage.",
            expected="That the download is over before the image is applied.",
            look="The order in which you write the two, and whether each calls now() itself.",
        )
    return f"downloadComplete came {early:.2f} s before startedApplyingImage: a name to rely on."


@exercise("02-c", answer="status_of", needs={"hub": 1, "device_id": 2, "client": 2, "on_method": 5})
def a_careful_device_refuses(learner: Learner) -> str:
    """The device answers 400, 200, 409 through the hub, and 200 again when it is free."""
    look = "The handler of the client is `careful`, if the exercise's cell ran last. Run it again."
    with quick_and_alone(learner):
        learner.say("calling without *fwPackageUri* …")
        expect_status(learner, 400, contract.METHOD, look, {contract.VERSION: "2.0.0"})
        for calls in ("the first call", "a call after the first update's end"):
            learner.say(f"{calls} …")
            expect_status(learner, 200, contract.METHOD, f"Is status_of right for {calls}?")
            learner.say("calling while the update runs …")
            expect_status(learner, 409, contract.METHOD, "How does status_of know of an update?")
            finish_walks(learner)
    return "400 without an address, 409 while busy, and 200 again afterwards."


@contextmanager
def quick_and_alone(learner: Learner) -> Iterator[None]:
    """Let the stages pass quickly, with no other update under way before or after."""
    if threads_named(WALK):
        raise NotCheckable(
            "An update of yours still runs. Wait until step 7 shows completed, then run the check "
            "again."
        )
    with learner.with_names(stage_seconds=QUICK):
        try:
            yield
        finally:
            finish_walks(learner)


def finish_walks(learner: Learner) -> None:
    """Wait for the end of the updates that a check has started."""
    for thread in threads_named(WALK):
        thread.join(LONGEST)


LONGEST: Final = 20.0
"""Seconds that a check waits for an update: one with waits of its own, 5 s each, ends in them."""


def follow_walk(learner: Learner) -> Iterator[Json]:
    """Yield the reported properties until the update has ended, or its thread has."""
    started = time.monotonic()
    for told in learner.watch(learner["device_id"], seconds=LONGEST):
        yield told
        learner.say(f"**{told.get(contract.STATUS)}** · {time.monotonic() - started:.1f} s")
        if told.get(contract.STATUS) == contract.COMPLETED:
            return
        if not threads_named(WALK):
            yield learner.reported(learner["device_id"])
            return


def expect_status(
    learner: Learner, status: int, method: str, look: str, payload: Any = None
) -> None:
    """Invoke a method of the learner's device; raise `Incorrect` for another status."""
    payload = payload or {contract.PACKAGE_URI: "test.com"}
    call = f"{method} with the payload {payload}"
    try:
        answer = learner.call(learner["device_id"], method, payload)
        told = f"{call} was answered with {answer.status}."
    except UpdateTimeout:
        answer, told = None, f"{call} was not answered in {ANSWER_SECONDS} seconds."
    if answer is None or answer.status != status:
        raise Incorrect(told, expected=f"The status {status}.", look=look)


def read_time(text: Any) -> datetime | None:
    """Read a time with its zone, as `now` writes it, or return None."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        return None
    return moment if moment.tzinfo else None


def short(value: Any) -> str:
    """Show a value, or its beginning."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
