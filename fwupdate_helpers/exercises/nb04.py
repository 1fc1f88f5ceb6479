"""Checks of notebook 04."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.exercises.card import Card, correct, incorrect, not_checkable, short
from fwupdate_helpers.exercises.learner import Learner
from fwupdate_helpers.reported import section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fwupdate_helpers.fleet import Fleet

_PLACES: Final = ("berlin", "porto")
_FACTORY: Final = "1.0.0"
_GOOD, _BAD = contract.COMPLETED, contract.ROLLED_BACK
_WAVES: Final = (
    # How many completed, failed and rolled back; the threshold; whether to stop.
    (1, 0, 0, 0.1, False),
    (0, 0, 1, 0.1, True),
    (9, 1, 0, 0.1, False),
    (8, 1, 1, 0.1, True),
    (3, 1, 0, 0.0, True),
    (3, 0, 0, 0.0, False),
    (0, 2, 2, 1.0, False),
    (0, 0, 0, 0.1, False),
)
_NO_F: Final = 'The letter before the quotes: f"…" puts in what stands in braces.'
_WAYS: Final = {
    "tonight": ("job", "Only a job has a start time."),
    "every": ("configuration", "Only a configuration also reaches devices of next year."),
    "technician": ("method", "One call, and its answer at once."),
    "nobody": ("method", "Each wave must be over before the next order is given."),
}
"""For the first word that tells the cases apart, the way that fits, and why."""


def asks(learner: Learner) -> Card:
    """04-a: a condition that finds the right devices, and no others."""
    fleet: Fleet = learner.need("fleet", 2)
    learner.need("version", 3)
    condition = learner.attempt("condition", todo="Write the condition, what stands after WHERE.")
    fits = [twin for twin in _twins(learner, f"tags.fleet = '{fleet.name}'") if _is_meant(twin)]
    if not isinstance(condition, str):
        return incorrect(
            f"condition is {short(condition)}.",
            expected="A text.",
            look='The quotes: f"{mine} AND …"',
        )
    if len(fits) < 2:
        return not_checkable(
            f"{len(fits)} devices of your fleet are in Berlin or Porto and run {_FACTORY}.",
            look="Let the fleet begin anew: run step 2 again.",
        )
    # One of them goes off, or the part about the connection could be missing.
    with _switched_off(learner, fleet, fits[0].device_id):
        return _judge_condition(learner, fleet, condition)


def _judge_condition(learner: Learner, fleet: Fleet, condition: str) -> Card:
    from fwupdate_helpers.errors import QueryRefused

    twins = _twins(learner, f"tags.fleet = '{fleet.name}'")
    wanted = {twin.device_id for twin in twins if _is_meant(twin) and _is_connected(twin)}
    try:
        found = {twin.device_id for twin in _twins(learner, condition)}
    except QueryRefused as error:
        return incorrect(
            str(error),
            expected="A condition of the query language.",
            look=_NO_F if "{" in condition else "The place that the hub names.",
        )
    if found == wanted:
        return correct(f"{len(found)} devices, and no other; the one that I switched off is out.")
    known = {twin.device_id: twin for twin in twins}
    return incorrect(
        f"It finds {len(found)} devices, {len(found - wanted)} of them wrongly, and misses "
        f"{len(wanted - found)}.{_example(found - wanted, known)}",
        expected=f"{len(wanted)} devices.",
        look="The four parts: the fleet, the place, the version, the connection.",
    )


def _example(wrong: Iterable[str], known: dict[str, Any]) -> str:
    device_id = min(wrong, default=None)
    if device_id is None:
        return ""
    twin = known.get(device_id)
    if twin is None:
        return f" {device_id} is of another fleet."
    return (
        f" {device_id} is in {twin.tags.get('site')}, runs {_version(twin)}, and is "
        f"{str(twin.connection_state).lower()}."
    )


def _is_meant(twin: Any) -> bool:
    return twin.tags.get("site") in _PLACES and _version(twin) == _FACTORY


def _is_connected(twin: Any) -> bool:
    return bool(twin.connection_state == "Connected")


def _version(twin: Any) -> Any:
    return section(twin.properties.reported, contract.FIRMWARE).get(contract.CURRENT_VERSION)


def _twins(learner: Learner, condition: str) -> list[Any]:
    from fwupdate_helpers.queries import query_twins, twins_query

    return list(query_twins(learner.hub().registry, twins_query(condition)))


@contextmanager
def _switched_off(learner: Learner, fleet: Fleet, device_id: str) -> Iterator[None]:
    from fwupdate_helpers.queries import query_twins, twins_query

    fleet.switch_off(device_id)
    try:
        gone = twins_query(f"deviceId = '{device_id}' AND connectionState = 'Connected'")
        while list(query_twins(learner.hub().registry, gone)):
            pass  # the hub hears of the end of the connection a moment later
        yield
    finally:
        fleet.switch_on(device_id)


def stops(learner: Learner) -> Card:
    """04-b: the decision between two waves."""
    learner.need("update_wave", 7)
    should_stop = learner.attempt("should_stop", todo="Return True or False.")
    for completed, failed, rolled_back, abort_at, wanted in _WAVES:
        outcomes = [_GOOD] * completed + [contract.ERROR] * failed + [_BAD] * rolled_back
        ends = {f"device-{number}": end for number, end in enumerate(outcomes)}
        wave = (
            f"Of {len(ends)} devices {completed} completed, {failed} failed and {rolled_back} "
            f"rolled back; abort_at is {abort_at:g}"
        )
        try:
            found = should_stop(ends, abort_at)
        except Exception as error:
            return incorrect(
                f"{wave}: it ended with {type(error).__name__}.",
                expected=str(wanted),
                look="A wave of no device, if it is a division by zero; else the names.",
            )
        if bool(found) is not wanted or found is None:
            return incorrect(
                f"{wave}: it returned {short(found)}.",
                expected=str(wanted),
                look="The share of all that did not complete, and > rather than >=.",
            )
    return correct(f"Right for {len(_WAVES)} waves. Now it only has to be asked.")


def chooses(learner: Learner) -> Card:
    """04-c: the way that fits a case."""
    learner.need("Rollout", 8)
    way = learner.get("way")
    if not isinstance(way, dict) or all(answer is ... for answer in way.values()):
        way = learner.attempt("way", todo="Write job, configuration or method behind each case.")
    if not isinstance(way, dict):
        return incorrect(
            f"way is {short(way)}.",
            expected="The dictionary of the stub, with a word behind each case.",
            look="The braces.",
        )
    for word, (wanted, why) in _WAYS.items():
        case = next((case for case in way if str(case).find(word) >= 0), None)
        if case is None:
            return incorrect(
                f"The case with the word {word!r} is missing.",
                expected="The four cases of the stub.",
                look="The stub.",
            )
        found = way[case]
        if found is ... or str(found).strip().lower() != wanted:
            told = "it is not decided yet" if found is ... else short(found)
            if not isinstance(found, str) and found is not ...:
                told = "it is no text; the quotes are missing"
            return incorrect(
                f"{case}: {told}.", expected="Another word of the three.", look=f"Hint: {why}"
            )
    return correct("As the table above has it.")


CHECKS: Final = {"04-a": asks, "04-b": stops, "04-c": chooses}
