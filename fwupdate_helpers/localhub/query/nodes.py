"""What a query says, as a tree: the result of parsing, and the input of the translation to SQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias


@dataclass(frozen=True)
class Place:
    """Where something stands in the text of a query; lines and columns count from 1."""

    line: int
    column: int


class Undefined(Enum):
    """The constant ``undefined``: the value of what is not there."""

    UNDEFINED = "undefined"


UNDEFINED: Final = Undefined.UNDEFINED
Constant: TypeAlias = str | float | bool | Undefined | None


@dataclass(frozen=True)
class Path:
    """A way to a value, such as ``tags.site``."""

    names: tuple[str, ...]
    place: Place = field(compare=False)


@dataclass(frozen=True)
class Literal:
    """A constant."""

    value: Constant


@dataclass(frozen=True)
class ListOf:
    """An array of constants."""

    values: tuple[Constant, ...]


@dataclass(frozen=True)
class Minus:
    """A number with its sign turned."""

    operand: Expression


@dataclass(frozen=True)
class Chain:
    """Numbers joined by ``+ -`` or by ``* / %``, from left to right."""

    first: Expression
    rest: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True)
class Comparison:
    """``= != < > <= >=`` between two values."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Membership:
    """``IN`` or, when `negated`, ``NIN``."""

    operand: Expression
    values: tuple[Constant, ...]
    negated: bool


@dataclass(frozen=True)
class Not:
    """``NOT``."""

    operand: Expression


@dataclass(frozen=True)
class Joined:
    """Conditions joined by ``AND`` or by ``OR``."""

    operator: str
    terms: tuple[Expression, ...]


@dataclass(frozen=True)
class IsDefined:
    """``IS_DEFINED(path)``."""

    path: Path


@dataclass(frozen=True)
class StartsWith:
    """``STARTSWITH(text, prefix)``."""

    text: Expression
    prefix: Expression


Expression: TypeAlias = (
    Path
    | Literal
    | ListOf
    | Minus
    | Chain
    | Comparison
    | Membership
    | Not
    | Joined
    | IsDefined
    | StartsWith
)


@dataclass(frozen=True)
class Aggregate:
    """``COUNT()``, ``AVG(path)``, ``SUM(path)``, ``MIN(path)`` or ``MAX(path)``."""

    function: str
    path: Path | None
    place: Place = field(compare=False)


@dataclass(frozen=True)
class Column:
    """One value of each row of the result, and its name when the query gives one."""

    source: Path | Aggregate
    alias: str | None = None


@dataclass(frozen=True)
class Query:
    """A whole query.

    Attributes:
        collection: ``devices`` or ``devices.jobs``.
        columns: What each row holds; None is ``SELECT *``.
        top: How many rows there are at most; None for all.
        condition: What a row must fulfil; None takes all.
        groups: The paths of ``GROUP BY``.
    """

    collection: str
    columns: tuple[Column, ...] | None
    top: int | None = None
    condition: Expression | None = None
    groups: tuple[Path, ...] = ()

    @property
    def is_grouped(self) -> bool:
        """Whether a row of the result stands for several rows of the collection."""
        found = self.columns or ()
        return bool(self.groups) or any(isinstance(one.source, Aggregate) for one in found)
