"""One line for what a person got wrong in the params: which file or key, and the nearest valid one."""

import difflib
import typing
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from foalkit import UserError

TAGS = ("encoder", "kind", "reader")  # the keys that say which of several models a mapping is


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'fold'?` for the closest of `known`, or a list of all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown variant 'foalnet'; did you mean 'foal-net'?`"""
    return f"unknown {what} {name!r}; {nearest(name, known)}"


def validate(kind: type[BaseModel], data: dict, where: str):
    """`data` as the model `kind`; raises UserError for the first key that is wrong, naming it and `where`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        loc = [str(part) for part in first["loc"]]
        key = ".".join(_walk(kind, loc)[1])
        if first["type"] == "extra_forbidden":
            # a key may be right in another kind of the same place
            hint = nearest(loc[-1], set(_walk(kind, loc[:-1])[0]) - {loc[-1]})
            raise UserError(f"{where}: unknown key {key!r}; {hint}") from None
        if first["type"] == "missing":
            raise UserError(f"{where}: the key {key!r} is missing") from None
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_pattern_mismatch":
            message = (
                "a name is made of letters, digits, dots, hyphens and underscores, beginning with one of the first two"
            )
        got = "" if isinstance(first["input"], dict | BaseModel) else f", got {first['input']!r}"
        raise UserError(f"{where}: {key + ': ' if key else ''}{message}{got}{more}") from None


def _walk(kind: Any, loc: list[str]) -> tuple[list[str], list[str]]:
    """Of a location in a model: the valid keys there, and the location as a person writes it.

    Of several models in one place pydantic names the one that was meant, as a part of the location.
    """
    args = typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not loc:
            return list(kind.model_fields), []
        field = kind.model_fields.get(loc[0])
        inner = field.annotation if field else None
    elif typing.get_origin(kind) is Annotated:
        return _walk(args[0], loc)
    elif typing.get_origin(kind) is dict:
        if not loc:
            return list(typing.get_args(args[0])), []
        inner = args[1]
    elif models := [a for a in args if isinstance(a, type) and issubclass(a, BaseModel)]:
        if loc and (tagged := [m for m in models if loc[0] in _tags_of(m)]):
            return _walk(tagged[0], loc[1:])
        walked = [_walk(m, loc) for m in models]
        return sorted({key for keys, _ in walked for key in keys}), walked[0][1]
    else:
        return [], loc
    keys, rest = _walk(inner, loc[1:])
    return keys, [loc[0], *rest]


def _tags_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The values of the key that tells this model from others of its place: `log-mel` of LogMel."""
    return next((typing.get_args(model.model_fields[t].annotation) for t in TAGS if t in model.model_fields), ())
