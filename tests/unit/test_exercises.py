"""The engine behind ``check``: four outcomes, whatever the learner did; it never raises."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fwupdate_helpers import exercise_checks
from fwupdate_helpers.errors import HubUnavailable
from fwupdate_helpers.exercise_checks import Incorrect, Learner, exercise
from fwupdate_helpers.exercises import Card, Outcome, check, is_untouched, known_ids


@pytest.fixture
def doubled() -> Iterator[str]:
    """Register an exercise that asks for the double of `given`; return its id."""

    @exercise("99-a", answer="double", needs={"hub": 1, "given": 3})
    def look(learner: Learner) -> str:
        found = learner["double"](learner["given"])
        if found != 2 * learner["given"]:
            raise Incorrect(f"It is {found}.", expected="The double.", look="Is it <b>added</b>?")
        return "It is the double."

    yield "99-a"
    del exercise_checks.registered["99-a"]


def untouched(number: int) -> int:
    return ...  # type: ignore[return-value]


def half_done(number: int) -> None:
    doubled = number * 2
    ...
    del doubled


def identity(number: int) -> int:
    return number


def fails(number: int) -> int:
    raise HubUnavailable("The hub does not answer. Run the set-up cell again.")


def breaks(number: int) -> int:
    raise LookupError("SharedAccessKey=abc")


def interrupted(number: int) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("names", "outcome", "words"),
    [
        ({"double": lambda number: number * 2}, Outcome.CORRECT, "It is the double."),
        ({"double": identity}, Outcome.INCORRECT, "Seen: It is 4.\nExpected: The double.\nWhere"),
        ({"double": ...}, Outcome.NOT_ATTEMPTED, "still has a ... in 'double'"),
        ({"double": untouched}, Outcome.NOT_ATTEMPTED, "still has a ... in 'double'"),
        ({"double": half_done}, Outcome.NOT_ATTEMPTED, "still has a ... in 'double'"),
        ({}, Outcome.NOT_CHECKABLE, "run the cell above this one first"),
        ({"double": fails}, Outcome.NOT_CHECKABLE, "The hub does not answer."),
        ({"double": breaks}, Outcome.NOT_CHECKABLE, "came upon a LookupError"),
        ({"double": 4}, Outcome.NOT_CHECKABLE, "came upon a TypeError"),
        ({"double": interrupted}, Outcome.NOT_CHECKABLE, "interrupted. Run it again."),
    ],
)
def test_a_check_has_four_outcomes_and_never_raises(
    doubled: str, names: dict[str, Any], outcome: Outcome, words: str
) -> None:
    card = check(doubled, namespace={"hub": None, "given": 4, **names})
    assert (card.exercise_id, card.outcome) == ("99-a", outcome)
    assert words in card.message
    assert "SharedAccessKey" not in repr(card), "the text of an unknown error is not shown"


@pytest.mark.parametrize(("there", "step"), [({}, 1), ({"hub": None}, 3), ({"given": 4}, 1)])
def test_a_check_before_its_steps_names_the_first_that_is_missing(
    doubled: str, there: dict[str, Any], step: int
) -> None:
    for names in ({}, {"double": identity}):
        card = check(doubled, namespace={**there, **names})
        assert card.outcome is Outcome.NOT_CHECKABLE
        assert f"Run step {step} first." in card.message


@pytest.mark.parametrize("unknown", ["99-z", "", None, 7, ["02-a"]])
def test_an_unknown_exercise_is_not_checkable_and_the_known_ones_are_listed(unknown: Any) -> None:
    card = check(unknown, namespace={})
    assert card.outcome is Outcome.NOT_CHECKABLE
    assert repr(unknown) in card.message and ", ".join(known_ids()) in card.message


def test_outside_a_notebook_a_check_says_so() -> None:
    code = "from fwupdate_helpers.exercises import check; print(check('02-a'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "in a cell of the notebook" in done.stdout, done.stderr


def test_the_known_exercises_come_from_the_modules_of_the_notebooks() -> None:
    assert {"02-a", "02-b", "02-c"} <= set(known_ids())
    assert known_ids() == sorted(known_ids())
    assert all(re.fullmatch(r"\d\d-[a-e]", exercise_id) for exercise_id in known_ids())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (..., True),
        ({"firmware": {"version": ...}}, True),
        ([1, ...], True),
        (half_done, True),
        (identity, False),
        ({}, False),
        (None, False),
        (0, False),
        (len, False),
        (eval("lambda number: ..."), True),  # a function without a source
        (eval("lambda number: number"), False),
    ],
)
def test_a_stub_is_told_by_its_dots(answer: Any, expected: bool) -> None:
    assert is_untouched(answer) is expected


@pytest.mark.parametrize("outcome", Outcome)
def test_a_card_tells_its_outcome_by_a_marker_a_word_and_a_colour(outcome: Outcome) -> None:
    card = Card("99-a", outcome, "Is it <b>added</b>?\nSecond line.")
    shown = card._repr_html_()
    assert repr(card) == f"{outcome.marker} 99-a {outcome.word}\nIs it <b>added</b>?\nSecond line."
    assert outcome.marker in shown and outcome.word in shown and outcome.colour in shown
    assert "Is it &lt;b&gt;added&lt;/b&gt;?" in shown, "what a learner wrote is shown, not run"


def test_no_two_outcomes_look_alike() -> None:
    for what in ("word", "marker", "colour"):
        assert len({getattr(outcome, what) for outcome in Outcome}) == 4
    green = {"#009E73"}
    assert not green & {outcome.colour for outcome in Outcome}, "no red and green pair"


def test_names_that_a_check_changes_for_a_moment_come_back() -> None:
    names: dict[str, Any] = {"stage_seconds": 5.0}
    with (
        pytest.raises(ZeroDivisionError),
        Learner(names).with_names(stage_seconds=0.1, other=1),
    ):
        assert names == {"stage_seconds": 0.1, "other": 1}
        raise ZeroDivisionError
    assert names == {"stage_seconds": 5.0}
