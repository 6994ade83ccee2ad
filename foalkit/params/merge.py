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


def at(data: Any, key: str) -> Any:
    """The value of a dotted key, None where there is none."""
    for part in key.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def put(data: dict, key: str, value: Any, where: str) -> None:
    """Set a dotted key; raises UserError where a part of it is a single value."""
    parts = key.split(".")
    if parts[0] == "variants" and parts[2:3] == ["set"] and len(parts) > 3:
        parts = [*parts[:3], ".".join(parts[3:])]  # what a variant sets has dotted keys of its own
    *parents, last = parts
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
        elif a != b or (key in old) != (key in new):
            found[f"{prefix}{key}"] = b
    return found
