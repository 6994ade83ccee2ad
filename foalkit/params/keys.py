"""Every valid key of a params file, with its type, default, meaning and the value that a file gives it."""

import json
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel

from foalkit.params.schema import Params

HIDDEN = ("differs", "variants")  # not a file's, and the rows of params/variants.yaml


def lines(params: Params) -> Iterator[str]:
    """Two lines per key that `params` sets or leaves at its default, then those of the kinds that it does not use."""
    yield from _of(params, "")
    used = {type(m) for m in (params.corpus, *params.features.values(), *params.model.inputs.values())}
    places = {"corpus": "corpus", "features": "features.<stream>", "inputs": "model.inputs.<stream>"}
    for name, place in places.items():
        owner = params.model if name == "inputs" else params
        for kind in _models(type(owner).model_fields[name].annotation):
            if kind not in used:
                yield f"\n{place}, another kind: {_summary(kind)}"
                for key, field in kind.model_fields.items():
                    yield from _key(f"{place}.{key}", field, kind)


def _of(model: BaseModel, prefix: str) -> Iterator[str]:
    for name, field in type(model).model_fields.items():
        key, value = f"{prefix}{name}", getattr(model, name)
        if key in HIDDEN:
            continue
        if isinstance(value, BaseModel):
            yield from _of(value, f"{key}.")
        elif isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
            for inner, settings in value.items():
                yield from _of(settings, f"{key}.{inner}.")
        else:
            yield from _key(key, field, type(model), value)


def _key(key: str, field, model: type[BaseModel], *value: Any) -> Iterator[str]:
    """The lines of one key; `value` is what a file gives it, none where the key is not used."""
    words = in_words(field.annotation)
    if not field.is_required():
        words += f", default {_text(field.default)}"
    changed = value and (field.is_required() or value[0] != field.default)
    yield f"{'*' if changed else ' '} {key}" + (f" = {_text(value[0])}" if value else "")
    yield f"      {words}: {field.description or _summary(model)}"


def _text(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump()
    return json.dumps(value, ensure_ascii=False, default=str)


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").split("\n")[0]


def _models(kind: Any) -> list[type[BaseModel]]:
    """The models that a field may hold, in unions, mappings and annotations."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for inner in typing.get_args(kind) for model in _models(inner)]


def in_words(kind: Any) -> str:
    """A type as a person would say it: `int`, `one of auto, cpu, cuda`, `list of str`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return in_words(args[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}" if len(args) > 1 else str(args[0])
    if origin in (list, tuple):
        return f"{'list' if origin is list else len(args)} of {in_words(args[0])}"
    if origin is dict:
        return f"mapping of {in_words(args[0])} to {in_words(args[1])}"
    if args:  # a union
        return " or ".join("null" if a is type(None) else in_words(a) for a in args)
    return getattr(kind, "__name__", str(kind))
