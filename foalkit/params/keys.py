"""Every valid key of a params file, with its type, default, meaning and the value that a file gives it."""

import json
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel

from foalkit.params.load import read_ledger
from foalkit.params.rows import LedgerRow
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


def settings(params: Params, *sections: str, variant: str | None = None) -> list[dict[str, str]]:
    """The settings of some sections (`loss`, `training`), a row each, as a variant's runs have them where one is named.

    `changed by` is "overrides", "row" (the variant sets it), "file" or, at the default, empty. `paper` and `released
    code` are what the ledger says of them, empty where it has no row about a setting. Of `model.inputs` only those of
    the variant's streams are listed.
    """
    own = params.variants[variant].set if variant else {}
    streams = params.variants[variant].streams if variant else list(params.features)
    shown, ledger, rows = params.for_variant(variant) if variant else params, _by_key(), []
    for section in sections:
        for key, field, model, value in _leaves({section: getattr(shown, section)}, ""):
            if key.startswith("model.inputs.") and key.split(".")[2] not in streams:
                continue
            default = "–" if field.is_required() else _plain(field.default)
            by = "" if default == _plain(value) else "file"
            by = next((who for who, keys in {"overrides": params.differs, "row": own}.items() if key in keys), by)
            rows.append(
                {
                    "setting": key,
                    "value": _plain(value),
                    "default": default,
                    "changed by": by,
                    "paper": _said(ledger.get(key), "paper", key),
                    "released code": _said(ledger.get(key), "code", key),
                    "meaning": field.description or _summary(model),
                }
            )
    return rows


def _by_key() -> dict[str, LedgerRow]:
    """The ledger's row of each setting that it has a switch for."""
    return {
        key: row
        for row in read_ledger().values()
        for settings in (*row.set.values(), *(v["set"] for v in row.variants.values()))
        for key in settings
    }


def _said(row: LedgerRow | None, who: str, key: str) -> str:
    if row is None:
        return ""
    known = row.set.get(who, {})
    return _plain(known[key]) if key in known else getattr(row, who)


def _of(model: BaseModel, prefix: str) -> Iterator[str]:
    values = {name: getattr(model, name) for name in type(model).model_fields}
    for key, field, owner, value in _leaves(values, prefix, type(model)):
        yield from _key(key, field, owner, value)


def _leaves(values: dict[str, Any], prefix: str, model: type[BaseModel] = Params):
    """(dotted key, field, its model, value) of every setting below these fields of `model`."""
    for name, value in values.items():
        key, field = f"{prefix}{name}", model.model_fields[name]
        if key in HIDDEN:
            continue
        inner = value if isinstance(value, dict) else {"": value}
        if inner and any(isinstance(v, BaseModel) for v in inner.values()):
            for stream, settings in inner.items():
                below = {n: getattr(settings, n) for n in type(settings).model_fields}
                yield from _leaves(below, f"{key}.{stream}." if stream else f"{key}.", type(settings))
        else:
            yield key, field, model, value


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


def _plain(value: Any) -> str:
    """A value as a params file may say it."""
    return value if isinstance(value, str) and value else _text(value)


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
