"""Every valid key of a params file, with its type, default, meaning and the value that a file gives it."""

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from foalkit.params.schema import Params


@dataclass(frozen=True)
class Key:
    """One setting: dotted key, type in words, default as text (None: it must be given), meaning, value."""

    key: str
    type: str
    default: str | None
    meaning: str
    value: Any
    set: bool
    """whether the value is another than the default"""


def keys(params: Params) -> list[Key]:
    """The keys that `params` may set, in the file's order; a variant's own are in params/variants.yaml."""
    return [k for k in _keys(params, "") if k.key not in ("differs", "variants")]


def _keys(model: BaseModel, prefix: str) -> Iterator[Key]:
    for name, field in type(model).model_fields.items():
        key, value = f"{prefix}{name}", getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _keys(value, f"{key}.")
        elif isinstance(value, dict) and value and all(isinstance(v, BaseModel) for v in value.values()):
            if name == "variants":
                continue
            for inner, settings in value.items():
                yield from _keys(settings, f"{key}.{inner}.")
        else:
            default = None if field.default is PydanticUndefined else field.default
            required = field.is_required()
            shown = value.model_dump() if isinstance(value, BaseModel) else value
            meaning = field.description or (type(model).__doc__ or "").split("\n")[0]
            yield Key(
                key,
                in_words(field.annotation),
                None if required else str(default),
                meaning,
                shown,
                required or value != default,
            )


def in_words(kind: Any) -> str:
    """A type as a person would say it: `int`, `one of auto, cpu, cuda`, `list of str`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return in_words(args[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}" if len(args) > 1 else str(args[0])
    if origin is list:
        return f"list of {in_words(args[0])}"
    if origin is tuple:
        return f"{len(args)} of {in_words(args[0])}"
    if origin is dict:
        return f"mapping of {in_words(args[0])} to {in_words(args[1])}"
    if args:  # a union
        words = [in_words(a) for a in args if a is not type(None)]
        return " or ".join(words) + (" or null" if type(None) in args else "")
    return getattr(kind, "__name__", str(kind))
