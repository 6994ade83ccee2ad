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
        key = ".".join(_without_tags(kind, loc))
        if first["type"] == "extra_forbidden":
            # a key may be right in another kind of the same place
            hint = nearest(loc[-1], set(_keys_at(kind, loc[:-1])) - {loc[-1]})
            raise UserError(f"{where}: unknown key {key!r}; {hint}") from None
        if first["type"] == "missing":
            raise UserError(f"{where}: the key {key!r} is missing") from None
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "string_pattern_mismatch":
            message = "a name is made of letters, digits, dots, hyphens and underscores, beginning with one of the first two"
        got = "" if isinstance(first["input"], dict | BaseModel) else f", got {first['input']!r}"
        raise UserError(f"{where}: {key + ': ' if key else ''}{message}{got}{more}") from None


def _keys_at(kind: Any, loc: list[str]) -> list[str]:
    """The valid keys at a location of a validation error, following fields, dictionaries and tagged unions."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not loc:
            return list(kind.model_fields)
        return _keys_at(kind.model_fields[loc[0]].annotation, loc[1:])
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _keys_at(args[0], loc)
    if origin is dict:
        return _keys_at(args[1], loc[1:]) if loc else list(typing.get_args(args[0]))
    models = [a for a in args if isinstance(a, type) and issubclass(a, BaseModel)]
    if loc and (tagged := [m for m in models if loc[0] in tags_of(m)]):
        return _keys_at(tagged[0], loc[1:])
    return sorted({key for m in models for key in _keys_at(m, loc)})


def _without_tags(kind: Any, loc: list[str]) -> list[str]:
    """The location as a person writes it: pydantic names, of several models in one place, the one that was meant."""
    if not loc:
        return []
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        inner = kind.model_fields.get(loc[0])
        return [loc[0], *_without_tags(inner.annotation if inner else None, loc[1:])]
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _without_tags(args[0], loc)
    if origin is dict:
        return [loc[0], *_without_tags(args[1], loc[1:])]
    models = [a for a in args if isinstance(a, type) and issubclass(a, BaseModel)]
    if tagged := [m for m in models if loc[0] in tags_of(m)]:
        return _without_tags(tagged[0], loc[1:])
    return _without_tags(models[0], loc) if models else loc


def tags_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The values of the key that tells this model from others of its place: `log-mel` of LogMel."""
    return next((typing.get_args(model.model_fields[t].annotation) for t in TAGS if t in model.model_fields), ())
