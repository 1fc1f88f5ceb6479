"""Checks of notebook 03."""

from __future__ import annotations

import uuid
from typing import Any, Final

from fwupdate_helpers import contract
from fwupdate_helpers.exercises.card import Card, correct, incorrect, short
from fwupdate_helpers.exercises.learner import Learner
from fwupdate_helpers.retry_rules import RETRY_RULES, Operation, Verdict

_FIRST, _CAP, _DRAWS = 0.2, 8.0, 200
_ATTEMPTS: Final = (*range(10), 40)
_IN_WORDS: Final = {
    Verdict.RETRY: "again",
    Verdict.IF_OFFLINE_ALLOWED: "again",
    Verdict.LOOK: "look",
    Verdict.GIVE_UP: "never",
}
_CODES: Final = (401, 429, 504101, "answerLost")
_UPDATE_SECONDS: Final = 60.0
_LOOK_RETURN: Final = "The return: a function without one gives None."
_LOOK_TWIN: Final = "Whether the twin is read inside the function, each time, and what is compared."


def backs_off(learner: Learner) -> Card:
    """03-a: exponential back-off with full jitter and a cap."""
    learner.need("call_again", 3)
    backoff = learner.attempt("backoff", todo="Return the seconds to wait, drawn at random.")
    for attempt in _ATTEMPTS:
        most = min(_CAP, _FIRST * 2**attempt)
        try:
            drawn = [float(backoff(attempt)) for _ in range(_DRAWS)]
        except Exception as error:
            return incorrect(
                f"backoff({attempt}) ended with {type(error).__name__}.",
                expected="A number of seconds.",
                look="The return, and the names in the formula.",
            )
        if card := _judge_waits(attempt, most, drawn):
            return card
    return correct(
        "Up to twice as long after each failure, never the same, and never more than 8 s."
    )


def _judge_waits(attempt: int, most: float, drawn: list[float]) -> Card | None:
    seen = f"backoff({attempt}) gave {min(drawn):.2f} to {max(drawn):.2f} s in {_DRAWS} draws."
    if min(drawn) < 0 or max(drawn) > most * 1.000001:
        return incorrect(
            seen,
            expected=f"From 0 to {most:g} s.",
            look="The smaller one of 8 and 0.2 times two to the power of attempt.",
        )
    # Of 200 draws, one in a billion times none lies in the last tenth of the range, and even less
    # often lie so few or so many in its middle half.
    middle = sum(most * 0.25 < one < most * 0.75 for one in drawn) / _DRAWS
    if min(drawn) > most * 0.1 or max(drawn) < most * 0.9 or not 0.25 < middle < 0.75:
        return incorrect(
            seen,
            expected=f"Drawn from all between 0 and {most:g} s.",
            look="random.uniform, from 0 to the most.",
        )
    return None


def looks_first(learner: Learner) -> Card:
    """03-b: the twin tells whether an order was heard."""
    hub = learner.hub()
    thermostat, uris = learner.need("thermostat", 2), learner.need("uris", 2)
    was_heard = learner.attempt("was_heard", todo="Read the twin, and compare the update's id.")
    from fwupdate_helpers.service import invoke_firmware_update, watch_update

    running = learner.reported(thermostat.device_id).get(contract.UPDATE) or {}
    if running and not running.get(contract.OUTCOME):
        for _ in watch_update(hub.registry, thermostat.device_id, timeout=_UPDATE_SECONDS):
            pass  # the update that still runs has an end
    order: dict[str, Any] = {"package_uri": uris["1.0.0"], "version": "1.0.0"}
    heard, lost = (f"check-{uuid.uuid4().hex[:8]}" for _ in range(2))
    # A twin without an update has no id to compare: nothing is asked before there is one.
    invoke_firmware_update(
        hub.registry, thermostat.device_id, update_id=heard, allow_downgrade=True, **order
    )
    told = [_answer(was_heard, update_id) for update_id in (heard, lost)]
    for _ in watch_update(
        hub.registry, thermostat.device_id, update_id=heard, timeout=_UPDATE_SECONDS
    ):
        pass
    if all(found is wanted for found, wanted in zip(told, (True, False), strict=True)):
        return correct("One was heard and the other was not: now a service can decide.")
    return incorrect(
        f"Of an order that was heard, was_heard {_in_words(told[0])}; of another one that never "
        f"was, it {_in_words(told[1])}.",
        expected="True for the one, False for the other.",
        look=_LOOK_RETURN if None in told else _LOOK_TWIN,
    )


def _answer(was_heard: Any, update_id: str) -> Any:
    try:
        return was_heard(update_id)
    except Exception as error:
        return error


def _in_words(told: Any) -> str:
    if isinstance(told, Exception):
        return f"ended with {type(told).__name__}"
    return "returned nothing" if told is None else f"said {short(told)}"


def decides(learner: Learner) -> Card:
    """03-c: what to do after each error."""
    learner.need("RETRY_RULES", 13)
    decision = learner.need("decision", 13)
    if not isinstance(decision, dict) or set(map(id, decision.values())) == {id(...)}:
        decision = learner.attempt("decision", todo="Write again, look or never beside each code.")
    if not isinstance(decision, dict):
        return incorrect(
            f"decision is {short(decision)}.",
            expected="The dictionary of the stub, with a word beside each code.",
            look="The braces.",
        )
    for code in _CODES:
        rule = RETRY_RULES.find(code)
        wanted, found = _IN_WORDS[rule.verdict(Operation.METHOD)], decision.get(code)
        if str(found).strip().lower() != wanted:
            return incorrect(
                f"{code} ({rule.name}): {_decided(decision, code)}.",
                expected="Another word of the three.",
                look=f"What the table says about it: {rule.why}",
            )
    return correct("All as the policy decides.")


def _decided(decision: dict[Any, Any], code: int | str) -> str:
    if code not in decision:
        return "decision does not have it"
    return "it is not decided yet" if decision[code] is ... else short(decision[code])


CHECKS: Final = {"03-a": backs_off, "03-b": looks_first, "03-c": decides}
