"""What a notebook says when its cells are run out of order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def name_steps(names_of_steps: Mapping[int, str]) -> None:
    """Answer a missing name with the step that makes it, in place of a bare ``NameError``.

    Args:
        names_of_steps: For each step of the notebook, the names that its cells define for later
            ones, with spaces between.

    Example:
        >>> name_steps({2: "device_id client", 3: "report"})
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    step_of = {name: step for step, names in names_of_steps.items() for name in names.split()}

    def explain(shell: Any, kind: Any, error: NameError, trace: Any, tb_offset: Any = None) -> None:
        if error.name not in step_of:
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
            return
        step = f"step {step_of[error.name]}"
        sentence = f"This cell needs {error.name!r}, which {step} makes. Run {step} first."
        shell._showtraceback(kind, NameError(sentence), [sentence])

    shell.set_custom_exc((NameError,), explain)
