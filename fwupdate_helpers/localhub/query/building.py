"""Makes a query's tree while lark parses it."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from lark import Token, Transformer, v_args

from fwupdate_helpers.localhub.errors import NOT_IMPLEMENTED, HubError
from fwupdate_helpers.localhub.query.errors import QuerySyntaxError
from fwupdate_helpers.localhub.query.nodes import (
    UNDEFINED,
    Aggregate,
    Chain,
    Column,
    Comparison,
    Constant,
    Expression,
    IsDefined,
    Joined,
    ListOf,
    Literal,
    Membership,
    Minus,
    Not,
    Path,
    Place,
    Query,
    StartsWith,
)

_ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.)|$)", re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONSTANTS: Final[dict[str, Constant]] = {
    "TRUE": True,
    "FALSE": False,
    "NULL": None,
    "UNDEFINED": UNDEFINED,
}


@v_args(inline=True)
class Builder(Transformer[Token, Any]):
    """Each method makes the node of the rule that has its name."""

    def query(
        self,
        _select: Token,
        top: int | None,
        columns: tuple[Column, ...] | None,
        _from: Token,
        collection: str,
        condition: Expression | None,
        groups: tuple[Path, ...] | None,
    ) -> Query:
        if collection == "devices.jobs" and (columns is not None or groups is not None):
            raise QuerySyntaxError(
                "IoT Hub answers SELECT * only FROM devices.jobs: no columns, aggregates or "
                "GROUP BY.",
                columns[0].source.place if columns else None,
            )
        return Query(collection, columns, top, condition, groups or ())

    def top(self, _top: Token, number: Token) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", number) or int(number) == 0:
            raise QuerySyntaxError("TOP takes a whole number from 1 to 999999999.", _place(number))
        return int(number)

    def everything(self, _star: Token) -> None:
        return None

    def columns(self, *columns: Column) -> tuple[Column, ...]:
        return columns

    def column(
        self, source: Path | Aggregate, _as: Token | None = None, alias: Token | None = None
    ) -> Column:
        return Column(source, None if alias is None else _name(alias))

    def aggregate(self, name: Token, path: Path | None) -> Aggregate:
        function = name.upper()
        if (function == "COUNT") != (path is None):
            problem = (
                "COUNT takes nothing between its parentheses; to count where a path is there, "
                "add WHERE IS_DEFINED(path)."
                if path is not None
                else f"{function} takes a path between its parentheses."
            )
            raise QuerySyntaxError(problem, _place(name))
        return Aggregate(function, path, _place(name))

    def collection(self, *names: Token) -> str:
        collection = ".".join(names).lower()
        if collection == "devices.modules":
            raise HubError(
                NOT_IMPLEMENTED,
                "The local hub does not offer modules (FROM devices.modules); a real IoT Hub does.",
            )
        if collection not in ("devices", "devices.jobs"):
            raise QuerySyntaxError(
                "FROM takes devices, devices.jobs or devices.modules.", _place(names[0])
            )
        return collection

    def where(self, _where: Token, condition: Expression) -> Expression:
        return condition

    def group(self, _group: Token, _by: Token, *paths: Path) -> tuple[Path, ...]:
        return paths

    def any_of(self, *terms: Any) -> Joined:
        return Joined("OR", terms[::2])

    def all_of(self, *terms: Any) -> Joined:
        return Joined("AND", terms[::2])

    def negated(self, _not: Token, operand: Expression) -> Not:
        return Not(operand)

    def compared(self, left: Expression, operator: Token, right: Expression) -> Comparison:
        return Comparison("!=" if operator == "<>" else str(operator), left, right)

    def member(self, operand: Expression, operator: Token, values: ListOf) -> Membership:
        return Membership(operand, values.values, negated=operator.type == "NIN")

    def chain(self, first: Expression, *rest: Any) -> Chain:
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return Chain(first, tuple((str(operator), operand) for operator, operand in pairs))

    def minus(self, _minus: Token, operand: Expression) -> Expression:
        if isinstance(operand, Literal) and type(operand.value) is float:
            return Literal(-operand.value)
        return Minus(operand)

    def negative(self, _minus: Token, number: Token) -> Literal:
        return Literal(-_number(number))

    def is_defined(self, _function: Token, path: Path) -> IsDefined:
        return IsDefined(path)

    def starts_with(self, _function: Token, text: Expression, prefix: Expression) -> StartsWith:
        return StartsWith(text, prefix)

    def list(self, *items: Literal) -> ListOf:
        return ListOf(tuple(item.value for item in items))

    def constant(self, token: Token) -> Literal:
        if token.type == "STRING":
            return Literal(_text(token))
        if token.type in _CONSTANTS:
            return Literal(_CONSTANTS[token.type])
        return Literal(_number(token))

    def path(self, *names: Token) -> Path:
        return Path(tuple(_name(name) for name in names), _place(names[0]))


def _place(token: Token, offset: int = 0) -> Place:
    before = token[:offset]
    line, column = token.line or 1, token.column or 1
    if "\n" not in before:
        return Place(line, column + offset)
    return Place(line + before.count("\n"), offset - before.rfind("\n"))


def _name(token: Token) -> str:
    name = token[2:-2] if token.type == "ESCAPED" else str(token)
    if _CONTROL.search(name):
        raise QuerySyntaxError("a name cannot hold a control character.", _place(token))
    return name


def _number(token: Token) -> float:
    try:
        number = float(int(token, 16) if token.type == "HEXADECIMAL" else token)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise QuerySyntaxError("the number is too large.", _place(token))
    return number


def _text(token: Token) -> str:
    def character(found: re.Match[str]) -> str:
        code, sign = found.groups()
        if code is not None:
            return chr(int(code, 16))
        if sign not in ("'", '"', "\\"):
            raise QuerySyntaxError(
                f"the escape \\{sign} is unknown; there are \\' \\\" \\\\ and \\uXXXX.",
                _place(token, found.start() + 1),
            )
        return str(sign)

    text = _ESCAPE.sub(character, token[1:-1])
    try:
        # Two escapes may stand for one character beyond U+FFFF.
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise QuerySyntaxError("the text holds half a surrogate pair.", _place(token)) from None
