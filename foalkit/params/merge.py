"""Nested settings laid over each other, by key."""

from typing import Any

from foalkit import UserError
from foalkit.params.errors import TAGS


def over(under: Any, top: Any) -> Any:
    """`top` laid on `under`: mappings of one kind are joined key by key, anything else is replaced."""
    if not (isinstance(under, dict) and isinstance(top, dict)):
        return top
    if any(under[tag] != top[tag] for tag in TAGS if tag in under and tag in top):
        return top  # another encoder has other keys
    return {**under, **{k: over(under[k], v) if k in under else v for k, v in top.items()}}


def put(data: dict, key: str, value: Any, where: str) -> None:
    """Set a dotted key; raises UserError where a part of it is a single value."""
    *parents, last = key.split(".")
    for parent in parents:
        if data.get(parent) is None:  # absent, or dropped below
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise UserError(f"{where}: {key}: {parent} is a single value, it holds no keys")
    data[last] = value


def without_nulls(data: Any) -> Any:
    """The mappings without the keys that are null: a stream is dropped, a setting is its default again.

    What a variant sets is left as it is: there a null is the value to set.
    """
    if not isinstance(data, dict):
        return data
    return {k: v if k == "set" else without_nulls(v) for k, v in data.items() if v is not None}


def difference(old: dict, new: dict, prefix: str = "") -> dict[str, Any]:
    """What `new` sets to another value than `old`, by dotted key; None for what it does not have."""
    found: dict[str, Any] = {}
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= difference(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = b
    return found
