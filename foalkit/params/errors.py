"""One line for what a person got wrong in the params: which file or key, and the nearest valid one."""

import difflib
import re
import typing
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from foalkit import UserError

TAGS = ("encoder", "kind", "reader")  # the keys that say which of several models a mapping is
NO_KEYS = ("differs", "file")  # of Params, but not a file's to set
LONGEST, MOST = 60, 40  # characters of a value that is quoted, and names of a list
COMPARED = 10_000  # names among which the nearest is looked for
QUOTED = r"'([^']*)'"  # pydantic's lists of what is known
WORDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "list_type": "must be a list, as [a, b]",
    "tuple_type": "must be a list of two, as [a, b]",
    "dict_type": "must be a mapping, with a line `key: value` for each",
    "model_type": "must be a mapping, with a line `key: value` for each",
    "model_attributes_type": "must be a mapping, with a line `key: value` for each",
    "invalid_key": "a key must be text; put it in quotes",
    "too_short": "must hold at least {min_length}",
    "too_long": "must hold {max_length} at most",
    "string_pattern_mismatch": "must be a place that names columns in braces, as {{utterance}}.npy",
    "string_too_short": "must not be empty",
    "string_too_long": "must have {max_length} characters at most",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'fold'?` for the closest of `known`, or a list of them."""
    known = list(known)
    # its time grows with their number, and the length of each
    close = difflib.get_close_matches(name[:100], [k for k in known[:COMPARED] if len(k) <= 300], 1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {few(known)}"


def few(names: Iterable[str]) -> str:
    """Names with commas between, of many the first ones and how many there are more."""
    names = list(names)
    shown = ", ".join(name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in names[:MOST])
    return f"{shown} and {len(names) - MOST} more" if len(names) > MOST else shown


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown variant 'foalnet'; did you mean 'foal-net'?`"""
    return f"unknown {what} {_short(name)}; {nearest(name, known)}"


def validate(kind: type[BaseModel], data: Any, where: str):
    """`data` as the model `kind`; raises UserError for the first key that is wrong, naming it and `where`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first, *others = error.errors()
        loc = [str(part) for part in first["loc"]]
        key = ".".join(_walk(kind, loc)[1])
        if first["type"] == "extra_forbidden":
            # a key may be right in another kind of the same place
            known = [k for k in _walk(kind, loc[:-1])[0] if k not in (loc[-1], *NO_KEYS)]
            hint = nearest(loc[-1], dict.fromkeys(known))
            raise UserError(f"{where}: unknown key {_short(key)}; {hint}") from None
        if first["type"] == "missing":
            raise UserError(f"{where}: the key {key!r} is missing") from None
        if loc[-1:] == ["bool"]:  # or a word: pydantic says both
            word = next((e for e in others if e["loc"][:-1] == first["loc"][:-1]), first)
            first, others = word, [e for e in others if e is not word]
        if first["type"] == "union_tag_not_found":
            raise UserError(f"{where}: the key '{key}.{_tag(first)}' is missing") from None
        more = f" (and {len(others)} more)" if others else ""
        got = "" if isinstance(first["input"], dict | BaseModel) else f", got {_short(first['input'])}"
        said, of_model = _said(first), isinstance(first["input"], dict | BaseModel) and first["type"] == "value_error"
        if first["type"] == "union_tag_invalid":
            key, got = f"{key}.{_tag(first)}", ""
        # what a model says of itself begins with the key within it
        place = f"{key}{'.' if of_model else ': '}" if key else ""
        raise UserError(f"{where}: {place}{said}{got}{_hint(first)}{more}") from None


def _tag(error: Any) -> str:
    return error["ctx"]["discriminator"].strip("'")


def _said(error: Any) -> str:
    """What pydantic says of a value, as a person would say it."""
    about = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        return f"unknown {_tag(error)} {_short(about['tag'])}"
    if error["type"] == "literal_error":
        also = "true, false or " if str(error["loc"][-1]).startswith("literal[") else ""  # of a union with bool
        return f"must be {also}{about['expected']}"
    if error["type"] in WORDS:
        return WORDS[error["type"]].format(**about)
    return error["msg"].removeprefix("Value error, ").replace("Input should", "must")


def _hint(error: Any) -> str:
    """The nearest of the words that may stand there."""
    known = {"union_tag_invalid": "expected_tags", "literal_error": "expected"}.get(error["type"])
    value = error["ctx"].get("tag", error["input"]) if known else None
    return f"; {nearest(value, re.findall(QUOTED, error['ctx'][known]))}" if isinstance(value, str) else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"


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
    else:  # a list's places count, the kinds of a union do not
        return [], [part for part in loc if part.isdigit()]
    keys, rest = _walk(inner, loc[1:])
    return keys, [loc[0], *rest]


def _tags_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The values of the key that tells this model from others of its place: `log-mel` of LogMel."""
    return next((typing.get_args(model.model_fields[t].annotation) for t in TAGS if t in model.model_fields), ())
