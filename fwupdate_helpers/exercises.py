"""Exercises that check themselves: ``check("02-a")`` in a notebook returns a card.

A check looks at what the device and the hub do, and never raises: *Run All* goes through a notebook
that nobody has solved. What is checked is in `fwupdate_helpers.exercise_checks`.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
import textwrap
from collections.abc import MutableMapping
from dataclasses import dataclass
from enum import Enum
from html import escape
from importlib import import_module
from typing import Any

from fwupdate_helpers import exercise_checks
from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.exercise_checks import Exercise, Incorrect, Learner, NotCheckable


class Outcome(Enum):
    """How a check ended: its word, marker and colour (Okabe and Ito's palette)."""

    NOT_ATTEMPTED = ("not attempted", "○", "#56B4E9")
    INCORRECT = ("incorrect", "✗", "#D55E00")
    CORRECT = ("correct", "✔", "#0072B2")
    NOT_CHECKABLE = ("not checkable", "?", "#CC79A7")

    def __init__(self, word: str, marker: str, colour: str) -> None:
        self.word = word
        self.marker = marker
        self.colour = colour


@dataclass(frozen=True, repr=False)
class Card:
    """What a check found; a notebook shows it as a card.

    Attributes:
        exercise_id: Such as ``02-a``.
        outcome: One of the four outcomes.
        message: What was seen, what was expected and where to look; or what to do first.
    """

    exercise_id: str
    outcome: Outcome
    message: str

    def __repr__(self) -> str:
        return f"{self.outcome.marker} {self.exercise_id} {self.outcome.word}\n{self.message}"

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{escape(line)}</div>" for line in self.message.splitlines())
        mark = f'<span style="color:{self.outcome.colour}" aria-hidden="true">'
        return (
            f'<div role="note" style="border-left:6px solid {self.outcome.colour};'
            f'padding:2px 0 2px 12px;font-size:14px">'
            f"<div>{mark}{self.outcome.marker}</span> "
            f"<strong>{escape(self.exercise_id)} · {self.outcome.word}</strong></div>{lines}</div>"
        )


def check(exercise_id: str, *, namespace: MutableMapping[str, Any] | None = None) -> Card:
    """Check an exercise; return a card and never raise.

    Args:
        exercise_id: Such as ``02-a``; see `known_ids`.
        namespace: Where the learner's names are; by default the notebook that this runs in.

    Example:
        >>> from fwupdate_helpers.exercises import check
        >>> check("02-a", namespace={"version_patch": ...}).outcome.word
        'not attempted'
    """
    progress = _Progress(hidden=namespace is not None)
    try:
        outcome, message = _look(exercise_id, namespace, progress)
    except Incorrect as found:
        outcome, message = Outcome.INCORRECT, str(found)
    except FirmwareUpdateError as reason:
        outcome, message = Outcome.NOT_CHECKABLE, str(reason)
    except KeyboardInterrupt:
        outcome, message = Outcome.NOT_CHECKABLE, "The check was interrupted. Run it again."
    except Exception as error:
        outcome, message = Outcome.NOT_CHECKABLE, _surprise(error)
    progress.clear()
    return Card(str(exercise_id), outcome, message)


def known_ids() -> list[str]:
    """Return the ids of all exercises, sorted."""
    for module in pkgutil.iter_modules(exercise_checks.__path__):
        if module.name.startswith("nb"):
            import_module(f"{exercise_checks.__name__}.{module.name}")
    return sorted(exercise_checks.registered)


def _look(
    exercise_id: str, namespace: MutableMapping[str, Any] | None, progress: _Progress
) -> tuple[Outcome, str]:
    known = known_ids()
    if exercise_id not in known:
        raise NotCheckable(f"There is no exercise {exercise_id!r}. There are {', '.join(known)}.")
    exercise = exercise_checks.registered[exercise_id]
    learner = Learner(_notebook_names() if namespace is None else namespace, progress.say)
    if exercise.answer in learner and is_untouched(learner[exercise.answer]):
        todo = f"The cell above this one still has a ... in {exercise.answer!r}: write your answer"
        return Outcome.NOT_ATTEMPTED, f"{todo} there, run that cell, then this one."
    _need(exercise, learner)
    return Outcome.CORRECT, exercise.look(learner)


def _need(exercise: Exercise, learner: Learner) -> None:
    for name, step in sorted(exercise.needs.items(), key=lambda item: item[1]):
        if name not in learner:
            raise NotCheckable(
                f"This needs {name!r}, which step {step} makes. Run step {step} first."
            )
    if exercise.answer not in learner:
        raise NotCheckable(
            f"This needs {exercise.answer!r}, which the exercise's own cell makes: run the cell "
            "above this one first."
        )


def is_untouched(answer: Any) -> bool:
    """Tell whether an answer still is the stub: ``...``, or something with a ``...`` in it."""
    if isinstance(answer, dict):
        return any(is_untouched(value) for value in answer.values())
    if isinstance(answer, list | tuple):
        return any(is_untouched(value) for value in answer)
    return answer is ... or (inspect.isfunction(answer) and _has_dots(answer))


def _has_dots(function: Any) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):  # no source: a notebook's cell has one
        return ... in function.__code__.co_consts
    body = getattr(tree.body[0], "body", tree.body)
    nodes = [node for line in body for node in ast.walk(line)] if isinstance(body, list) else []
    return any(isinstance(node, ast.Constant) and node.value is ... for node in nodes)


def _notebook_names() -> MutableMapping[str, Any]:
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise NotCheckable("There is no notebook here. Run the check in a cell of the notebook.")
    names: MutableMapping[str, Any] = shell.user_ns
    return names


def _surprise(error: Exception) -> str:
    # Its text is not shown: it may come from anywhere and hold anything.
    return (
        f"The check came upon a {type(error).__name__}, which it did not expect. Run the steps "
        "above again in their order, then the check."
    )


class _Progress:
    """A line below the cell while a check runs, gone when the card comes."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._handle: Any = None

    def say(self, text: str) -> None:
        """Show a line of text in place of the last one."""
        if self._hidden:
            return
        from IPython.display import DisplayHandle, Markdown

        shown = Markdown(text)  # type: ignore[no-untyped-call]
        if self._handle is None:
            self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
            self._handle.display(shown)
        else:
            self._handle.update(shown)

    def clear(self) -> None:
        """Take the line away with the next thing that the cell shows."""
        if self._handle is not None:
            from IPython.display import clear_output

            clear_output(wait=True)  # type: ignore[no-untyped-call]


__all__ = ["Card", "Outcome", "check", "known_ids"]
