"""The engine behind ``check``: four outcomes, whatever the learner did; it never raises."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fwupdate_helpers import exercises
from fwupdate_helpers.errors import HubUnavailable
from fwupdate_helpers.exercises import Card, Outcome, check, known_ids
from fwupdate_helpers.exercises.card import correct, incorrect
from fwupdate_helpers.exercises.learner import Learner, is_stub
from fwupdate_helpers.hub import Hub


@pytest.fixture(autouse=True)
def an_exercise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the exercise 99-a: a function that doubles what step 3 has made."""

    def look(learner: Learner) -> Card:
        given = learner.need("given", 3)
        double = learner.attempt("double", todo="Write the body of double.")
        found = double(given)
        if found != 2 * given:
            return incorrect(f"It is {found}.", expected="The double.", look="Is it <added>?")
        return correct("It is the double.")

    monkeypatch.setattr(exercises, "CHECKS", {**exercises.CHECKS, "99-a": look})


def dots_alone(number: int) -> None:
    # TODO: double it
    ...


def dots_in_between(number: int) -> int:
    doubled = number * 2
    ...
    return doubled


def same(number: int) -> int:
    return number


def takes(anything: Callable[..., int]) -> None:
    return None


def raises(error: BaseException) -> Callable[[int], int]:
    def double(number: int) -> int:
        raise error

    return double


THOUGHT_ONLY = {"03-a", "03-c", "04-b", "04-c"}
"""Exercises about a formula and about decisions: there is nothing to ask a hub."""
NO_HUB = HubUnavailable("The hub does not answer. Run the set-up cell again.")


@pytest.mark.parametrize(
    ("names", "outcome", "words"),
    [
        ({"double": lambda number: number * 2}, Outcome.CORRECT, "It is the double."),
        ({"double": same}, Outcome.INCORRECT, "It is 4."),
        ({"double": ...}, Outcome.NOT_ATTEMPTED, "Write the body of double."),
        ({"double": dots_alone}, Outcome.NOT_ATTEMPTED, "Write the body of double."),
        ({"double": dots_in_between}, Outcome.NOT_ATTEMPTED, "Write the body of double."),
        ({}, Outcome.NOT_CHECKABLE, "The exercise's own cell has not been run."),
        ({"double": raises(NO_HUB)}, Outcome.NOT_CHECKABLE, "Run the set-up cell again."),
        ({"double": raises(LookupError("SharedAccessKey=abc"))}, Outcome.NOT_CHECKABLE, "LookupEr"),
        ({"double": 4}, Outcome.NOT_CHECKABLE, "TypeError"),
        ({"double": raises(KeyboardInterrupt())}, Outcome.NOT_CHECKABLE, "was interrupted"),
    ],
)
def test_a_check_has_four_outcomes_and_never_raises(
    names: dict[str, Any], outcome: Outcome, words: str
) -> None:
    card = check("99-a", {"given": 4, **names})
    assert card.outcome is outcome
    assert words in repr(card)
    assert "SharedAccessKey" not in repr(card), "the text of an unknown error is not shown"


@pytest.mark.parametrize("names", [{}, {"double": same}, {"double": ...}])
def test_a_step_that_was_not_run_is_named(names: dict[str, Any]) -> None:
    card = check("99-a", names)
    assert card.outcome is Outcome.NOT_CHECKABLE
    assert "Run step 3 first" in repr(card)


@pytest.mark.parametrize("exercise", sorted({*known_ids()} - THOUGHT_ONLY))
def test_a_hub_that_is_not_reached_is_no_mistake_of_the_learners(exercise: str) -> None:
    closed = "HostName=127.0.0.1:9;SharedAccessKeyName=iothubowner;SharedAccessKey=c2VjcmV0"
    device = SimpleNamespace(device_id="device")
    fleet = SimpleNamespace(name="fleet")
    names = Everything(device_id="device", device=device, thermostat=device, fleet=fleet)
    names["hub"] = Hub(kind="local", connection_string=closed)
    card = check(exercise, names)
    assert card.outcome is Outcome.NOT_CHECKABLE
    assert "The hub is not reached." in card.seen
    assert "c2VjcmV0" not in repr(card)


class Everything(dict[str, Any]):
    """The names of somebody who has run all steps and tried all exercises."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Any:
        return same


@pytest.mark.parametrize("unknown", ["99-z", "", None, 7, ["02-a"], {}])
def test_an_unknown_exercise_is_not_checkable_and_the_known_ones_are_listed(unknown: Any) -> None:
    card = check(unknown, {})
    assert card.outcome is Outcome.NOT_CHECKABLE
    assert repr(unknown) in card.seen
    assert ", ".join(known_ids()) in card.look and "99-a" in known_ids()


def test_outside_a_notebook_a_check_says_what_is_missing_and_prints_nothing_else() -> None:
    code = "from fwupdate_helpers.exercises import check; print(check('02-a'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("– not checkable\n  Seen: Step 1 makes 'hub'. Run step 1 first")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., True),
        ({"firmware": {"version": ...}}, True),
        (dots_in_between, True),
        (eval("lambda number: ..."), True),  # without a source
        (same, False),
        (takes, False),  # dots in its signature alone
        (eval("lambda number: number"), False),
        ({}, False),
        (None, False),
        (len, False),
    ],
)
def test_a_stub_is_told_by_its_three_dots(answer: Any, expected: bool) -> None:
    assert is_stub(answer) is expected


@pytest.mark.parametrize("outcome", Outcome)
def test_a_card_tells_in_text_and_html_what_was_seen_expected_and_where_to_look(
    outcome: Outcome,
) -> None:
    card = Card(outcome, "It is <b>4</b>.", "The double.", "The operator.")
    for shown in (repr(card), card._repr_html_()):
        assert outcome.value in shown
        for part in ("Seen", "Expected", "Look at", "The double.", "The operator."):
            assert part in shown
    assert "It is &lt;b&gt;4&lt;/b&gt;." in card._repr_html_(), "shown, not run"


def test_no_two_outcomes_share_a_word_a_marker_or_a_colour() -> None:
    cards = [Card(outcome, "") for outcome in Outcome]
    assert len({repr(card)[0] for card in cards}) == 4
    colours = {card._repr_html_().partition("background:")[2].partition(";")[0] for card in cards}
    assert len(colours) == 4
    assert not colours & {"#009E73", "#D55E00"}, "no pair of green and red"


def test_names_that_a_check_changes_for_a_while_come_back() -> None:
    names: dict[str, Any] = {"stage_seconds": 5.0}
    with pytest.raises(ZeroDivisionError), Learner(names).changed(stage_seconds=0.1, other=1):
        assert names == {"stage_seconds": 0.1, "other": 1}
        raise ZeroDivisionError
    assert names == {"stage_seconds": 5.0}
