"""Checks behind the notebooks' exercises: ``check("01-a")`` tells how far a learner has come.

A check looks at the device twin and calls the device through the hub; what a variable holds is not
enough. It never raises, so that *Run All* passes over exercises that nobody has solved yet.

The checks of a notebook are functions in a module ``nbNN`` of this folder: `Learner` in, `Card`
out. `Learner.need` and `Learner.attempt` tell what was not run or not tried; a hub that does not
answer needs no care, because every `FirmwareUpdateError` makes an exercise not checkable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

from fwupdate_helpers.errors import FirmwareUpdateError
from fwupdate_helpers.exercises import nb00, nb01, nb02, nb03, nb04
from fwupdate_helpers.exercises.card import Card, Outcome, not_attempted, not_checkable
from fwupdate_helpers.exercises.learner import Learner, NotAttempted, StepMissing

CHECKS: Final[Mapping[str, Callable[[Learner], Card]]] = {
    **nb00.CHECKS,
    **nb01.CHECKS,
    **nb02.CHECKS,
    **nb03.CHECKS,
    **nb04.CHECKS,
}
"""The check of each exercise, by its id."""


def check(exercise: str, namespace: MutableMapping[str, Any] | None = None) -> Card:
    """Check an exercise, and return a card with one of four outcomes; never raises.

    Args:
        exercise: Its id, for example ``"02-a"``.
        namespace: The learner's names; those of this kernel when it is None.

    Returns:
        A card that tells what was seen, what was expected, and where to look.

    Example:
        >>> check("99-a").outcome
        <Outcome.NOT_CHECKABLE: 'not checkable'>
    """
    known = known_ids()
    if exercise not in known:
        look = f"The ids are {', '.join(known)}."
        return not_checkable(f"There is no exercise {exercise!r}.", look=look)
    learner = Learner(_kernel_names() if namespace is None else namespace)
    with _line(f"checking {exercise} …"):
        return _checked(CHECKS[exercise], learner)


def _checked(look: Callable[[Learner], Card], learner: Learner) -> Card:
    try:
        return look(learner)
    except NotAttempted as error:
        return not_attempted(str(error))
    except StepMissing as error:
        return not_checkable(str(error))
    except FirmwareUpdateError as error:
        return not_checkable(f"The hub or the device could not be asked. {error}")
    except KeyboardInterrupt:
        return not_checkable("The check was interrupted.", look="Run it again when you like.")
    except (
        Exception,
        SystemExit,
    ) as error:  # the check itself is broken: never the learner's fault
        told = f"The check ended with an error of its own: {type(error).__name__}."
        return not_checkable(
            told, look="Run the notebook's steps in their order, then check again."
        )


def known_ids() -> list[str]:
    """Return the ids of all exercises that can be checked."""
    return sorted(CHECKS)


def _kernel_names() -> MutableMapping[str, Any]:
    from IPython import get_ipython

    shell = get_ipython()
    return shell.user_ns if shell is not None else {}


@contextmanager
def _line(text: str) -> Iterator[None]:
    """Show a line in the notebook for as long as a check runs; the card takes its place."""
    from IPython import get_ipython
    from IPython.display import Markdown, clear_output, display

    if get_ipython() is None:
        yield
        return
    display(Markdown(text))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        clear_output(wait=True)  # type: ignore[no-untyped-call]


__all__ = ["CHECKS", "Card", "Outcome", "check", "known_ids"]
