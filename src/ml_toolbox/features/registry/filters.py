"""The search language: parsing and evaluation. Pure.

::

    filter     := or
    or         := and ("or" and)*
    and        := not ("and" not)*
    not        := "not" not | "(" or ")" | comparison
    comparison := field ("=" | "!=" | "<" | "<=" | ">" | ">=") literal
                | field ["not"] ("like" | "ilike") string          % any text, _ one character
                | field ["not"] "in" "(" literal ("," literal)* ")"
                | field "is" ["not"] "null"
    field      := name | version | stage | alias | description | flavour | created_at | created_by | job | size | digest
                | metrics.KEY | parameters.KEY | tags.KEY          KEY: a word, or anything in `backquotes`
    literal    := number | 'string' | "string" | true | false      a quote inside is written twice

A comparison with something that a version does not have is false, whatever the operator (``!=`` too); ``is null`` asks
for absence. A version has each of its aliases: ``alias = 'champion'`` asks whether one of them is it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ml_toolbox.base.clock import from_iso
from ml_toolbox.base.errors import Invalid
from ml_toolbox.domain.models import Stage

STRING_FIELDS = ("name", "stage", "alias", "description", "flavour", "created_by", "job", "digest")
NUMBER_FIELDS = ("version", "size")
TIME_FIELDS = ("created_at",)
MAP_FIELDS = {"metrics": "metrics", "parameters": "parameters", "params": "parameters", "tags": "tags"}
_KNOWN = (*STRING_FIELDS, *NUMBER_FIELDS, *TIME_FIELDS, *(f"{name}.KEY" for name in ("metrics", "parameters", "tags")))
_MAX_LENGTH = 10_000
_MAX_DEPTH = 50

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<field>[A-Za-z_]\w*(?:\.(?:`[^`]+`|[\w./-]*\w))?)
    | (?P<operator><=|>=|!=|=|<|>)
    | (?P<mark>[(),])
    )""",
    re.VERBOSE,
)
_WORDS = {"and", "or", "not", "like", "ilike", "in", "is", "null", "true", "false"}


class Row(Protocol):
    """What a filter looks at. Absent values are ``None``."""

    def value(self, group: str, key: str) -> Any:
        """``group`` "" for plain fields, else ``metrics``, ``parameters`` or ``tags``."""


Predicate = Callable[[Row], bool]


@dataclass(frozen=True, slots=True)
class Field:
    """One field: ``group`` as in ``Row.value``."""

    group: str
    key: str

    @property
    def kind(self) -> Literal["text", "number", "time", "any"]:
        if self.group:
            return {"metrics": "number", "tags": "text"}.get(self.group, "any")  # type: ignore[return-value]
        if self.key in NUMBER_FIELDS:
            return "number"
        return "time" if self.key in TIME_FIELDS else "text"


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter."""

    matches: Predicate
    model_names: Callable[[str], bool]
    """Whether versions of the model of this name can match at all: spares reading the others."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def parse_filter(text: str) -> Filter:
    """``Invalid`` (field ``filter``) says at which character the text stops making sense, and what was expected."""
    if len(text) > _MAX_LENGTH:
        raise Invalid(f"filter: longer than {_MAX_LENGTH} characters", field="filter")
    if not text.strip():
        return Filter(lambda row: True, lambda name: True)
    parser = _Parser(text)
    expression = parser.parse()
    return Filter(expression.matches, expression.names)


def parse_field(text: str, *, where: str) -> Field:
    """A field by its name, as in ``order_by``."""
    match = _TOKEN.fullmatch(text)
    if not match or not match["field"]:
        raise Invalid.choice(where, text, _KNOWN)
    return _field(match["field"], lambda message, hint: Invalid(f"{where}: {message}", hint=hint, field=where))


def _field(text: str, error: Callable[[str, str], Invalid]) -> Field:
    group, dot, key = text.partition(".")
    if dot:
        if group not in MAP_FIELDS:
            raise error(f"{group!r} has no parts", "dotted fields are metrics.KEY, parameters.KEY and tags.KEY")
        return Field(MAP_FIELDS[group], key.strip("`"))
    if group not in STRING_FIELDS + NUMBER_FIELDS + TIME_FIELDS:
        choice = Invalid.choice("field", group, _KNOWN)
        raise error(f"there is no field {group!r}", choice.hint)
    return Field("", group)


@dataclass(frozen=True, slots=True)
class _Expression:
    matches: Predicate
    names: Callable[[str], bool]


def _any_name(name: str) -> bool:
    return True


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._scan())
        self._next = 0
        self._depth = 0

    def _scan(self) -> Any:
        at = 0
        while self._text[at:].strip():
            match = _TOKEN.match(self._text, at)
            if not match:
                start = at + len(self._text[at:]) - len(self._text[at:].lstrip())
                raise self._error(start, f"{self._text[start]!r} begins nothing that is known", "strings need quotes")
            kind = str(match.lastgroup)
            text = match[kind]
            if kind == "field" and text.lower() in _WORDS:
                kind, text = "word", text.lower()
            yield _Token(kind, text, match.start(match.lastgroup or 0))
            at = match.end()

    def parse(self) -> _Expression:
        expression = self._or()
        if token := self._peek():
            raise self._error(token.at, f"{token.text!r} is not expected here", "join comparisons with 'and' or 'or'")
        return expression

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, kind: str, *texts: str) -> _Token | None:
        token = self._peek()
        if token and token.kind == kind and (not texts or token.text in texts):
            self._next += 1
            return token
        return None

    def _need(self, kind: str, *texts: str, what: str) -> _Token:
        if token := self._take(kind, *texts):
            return token
        found = self._peek()
        at = found.at if found else len(self._text)
        raise self._error(at, f"expected {what}, found {found.text if found else 'the end'!r}", "")

    def _error(self, at: int, message: str, hint: str) -> Invalid:
        around = self._text[max(0, at - 20) : at + 20]
        return Invalid(
            f"filter: {message} (at character {at + 1}, near {around!r})",
            hint=hint or "for example: metrics.accuracy > 0.9 and stage = 'Production' and name like 'churn%'",
            field="filter",
        )

    def _or(self) -> _Expression:
        parts = [self._and()]
        while self._take("word", "or"):
            parts.append(self._and())
        if len(parts) == 1:
            return parts[0]
        return _Expression(
            lambda row: any(part.matches(row) for part in parts), lambda name: any(part.names(name) for part in parts)
        )

    def _and(self) -> _Expression:
        parts = [self._not()]
        while self._take("word", "and"):
            parts.append(self._not())
        if len(parts) == 1:
            return parts[0]
        return _Expression(
            lambda row: all(part.matches(row) for part in parts), lambda name: all(part.names(name) for part in parts)
        )

    def _not(self) -> _Expression:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            token = self._peek()
            raise self._error(token.at if token else 0, f"nested deeper than {_MAX_DEPTH}", "write it flatter")
        try:
            if self._take("word", "not"):
                inner = self._not()
                return _Expression(lambda row: not inner.matches(row), _any_name)
            if self._take("mark", "("):
                inner = self._or()
                self._need("mark", ")", what="')'")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> _Expression:
        token = self._need("field", what="a field")
        field = _field(token.text, lambda message, hint: self._error(token.at, message, hint))
        test = self._test(field)
        group, key = field.group, field.key
        if field == Field("", "alias"):
            return _Expression(lambda row: any(test(alias) for alias in row.value("", "alias") or (None,)), _any_name)
        names = test if field == Field("", "name") else _any_name
        return _Expression(lambda row: test(row.value(group, key)), names)

    def _test(self, field: Field) -> Callable[[Any], bool]:
        if operator := self._take("operator"):
            return _COMPARE[operator.text](self._literal(field))
        if self._take("word", "is"):
            wanted = not self._take("word", "not")
            self._need("word", "null", what="'null'")
            return lambda value: (value is None) is wanted
        negated = bool(self._take("word", "not"))
        if word := self._take("word", "like", "ilike"):
            if field.kind not in ("text", "any"):
                raise self._error(word.at, f"{word.text!r} compares text, and {field.key!r} is none", "use < or >")
            like = _like(self._string(), ignore_case=word.text == "ilike")
            return lambda value: isinstance(value, str) and like(value) is not negated
        if self._take("word", "in"):
            self._need("mark", "(", what="'('")
            choices = [self._literal(field)]
            while self._take("mark", ","):
                choices.append(self._literal(field))
            self._need("mark", ")", what="')' or ','")
            return lambda value: value is not None and any(_same(value, choice) for choice in choices) is not negated
        found = self._peek()
        at = found.at if found else len(self._text)
        raise self._error(at, "expected a comparison", "one of = != < <= > >= like ilike in, is null, is not null")

    def _string(self) -> str:
        return _unquote(self._need("string", what="a quoted string").text)

    def _literal(self, field: Field) -> Any:
        token = self._peek()
        if token and token.kind == "word" and token.text in ("true", "false") and field.kind == "any":
            self._next += 1
            return token.text == "true"
        if field.kind == "number" or (field.kind == "any" and token and token.kind == "number"):
            text = self._need("number", what="a number").text
            return float(text) if not re.fullmatch(r"[+-]?\d+", text) else int(text)
        text = self._string()
        at = token.at if token else 0
        if field.kind == "time":
            try:
                return from_iso(
                    text if re.search(r"[+Z-]\d*:?\d*$", text[10:]) else f"{text}{'' if 'T' in text else 'T00:00:00'}Z"
                )
            except ValueError as error:
                raise self._error(
                    at, f"{text!r} is not a time", "write '2026-01-31' or '2026-01-31T12:00:00Z'"
                ) from error
        if field == Field("", "stage"):
            try:
                return Stage.parse(text).value
            except Invalid as error:
                raise self._error(at, f"{text!r} is no stage", error.hint) from error
        return text


def _unquote(text: str) -> str:
    quote = text[0]
    return text[1:-1].replace(quote * 2, quote)


def _like(pattern: str, *, ignore_case: bool) -> Callable[[str], bool]:
    """SQL's LIKE. Each part between two ``%`` is searched for leftmost, which is complete and never backtracks: one regex
    with many ``.*`` would take exponential time on a hostile pattern."""
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    texts = ["".join("." if char == "_" else re.escape(char) for char in part) for part in pattern.split("%")]
    if len(texts) == 1:
        whole = re.compile(texts[0], flags)
        return lambda value: whole.fullmatch(value) is not None
    first, *middle, last = (re.compile(text, flags) for text in texts)
    tail = len(pattern.rpartition("%")[2])

    def matches(value: str) -> bool:
        start = first.match(value)
        at = start.end() if start else -1
        for part in middle:
            found = part.search(value, at) if at >= 0 else None
            at = found.end() if found else -1
        return at >= 0 and len(value) - tail >= at and last.fullmatch(value, len(value) - tail) is not None

    return matches


def _comparable(value: Any, literal: Any) -> bool:
    if isinstance(value, bool) or isinstance(literal, bool):
        return isinstance(value, bool) and isinstance(literal, bool)
    numbers = isinstance(value, int | float) and isinstance(literal, int | float)
    return numbers or (isinstance(value, str) and isinstance(literal, str))


def _same(value: Any, literal: Any) -> bool:
    return _comparable(value, literal) and bool(value == literal)


_COMPARE: Mapping[str, Callable[[Any], Callable[[Any], bool]]] = {
    "=": lambda literal: lambda value: _same(value, literal),
    "!=": lambda literal: lambda value: value is not None and not _same(value, literal),
    "<": lambda literal: lambda value: _comparable(value, literal) and value < literal,
    "<=": lambda literal: lambda value: _comparable(value, literal) and value <= literal,
    ">": lambda literal: lambda value: _comparable(value, literal) and value > literal,
    ">=": lambda literal: lambda value: _comparable(value, literal) and value >= literal,
}
