"""YAML as its writer means it: plain values only, each key once, and one line for what is wrong, with its place.

Words are text, dates, `yes` and `010` too: `true` and `false`, `null`, and numbers in decimal notation (1e-4) are not.
"""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from foalkit import ROOT, UserError

LARGEST = 200_000  # bytes of a file: the longest of this kit has 10 000
DEEPEST = 20  # values within values
_KINDS = {  # what a word without quotes means, by YAML 1.2's core schema; YAML 1.1 reads 1:30 as 90 and 010 as 8
    "null": (r"~|null|Null|NULL|", [*"~nN", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9]{0,17})", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


class _Loader(yaml.SafeLoader):
    """Values that are written out: no tags, anchors or merged keys, nothing twice, nothing too deep."""

    yaml_implicit_resolvers: dict = {}
    depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if getattr(event, "anchor", None):
            raise _wrong("anchors and aliases (& and *) are not read: write the value out, or name a `base:`", event)
        if getattr(event, "tag", None):
            raise _wrong(f"tags are not read: write the value without {event.tag!r}", event)
        if self.depth == DEEPEST:
            raise _wrong(f"more than {DEEPEST} values within each other", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong("a list or a mapping cannot be a key", key)
            if key.value == "<<":
                raise _wrong("merged keys (<<) are not read: write the keys out, or name a `base:`", key)
            if key.value in seen:
                raise _wrong(f"the key {key.value!r} stands twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node):
        value = super().construct_scalar(node)
        if re.search("[\ud800-\udfff]", value):  # JSON writes a character beyond 16 bits as two halves
            value = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if strange := re.search("[^\t\n\x20-\x7e\xa0-\ufffc\U00010000-\U0010ffff]", value):
            raise _wrong(f"the character {strange[0]!r} cannot be shown", node)
        return value


for _name, (_pattern, _first) in _KINDS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def read_value(text: str, where: str) -> Any:
    """A YAML text as a value; raises UserError for one that is not valid or not plain, with `where` and the line."""
    if len(text) > LARGEST:
        raise UserError(f"{where}: longer than {LARGEST} characters, which no settings are")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{where}: line {line}: the character {chr(error.character)!r} cannot be read") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem if isinstance(error, _NotPlain) else f"not valid YAML: {error.problem}"
        if "\\t" in said:
            said += "; indent with spaces"
        elif "another document" in said:
            said += "; a file is one document, without --- in it"
        raise UserError(f"{where}: line {mark.line + 1}: {said}") from None


def read_file(file: Path) -> dict:
    """The mapping that a YAML file holds; raises UserError for another, naming the file and the line."""
    try:
        with file.open("rb") as handle:
            data = handle.read(LARGEST + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file}: no such params file") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no name of a file at all
        line = f" in line {data[: error.start].count(10) + 1}" if isinstance(error, UnicodeDecodeError) else ""
        raise UserError(f"{file}: not a UTF-8 text file ({type(error).__name__}{line})") from None
    value = read_value(text, str(file))
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected `key: value` lines at the top level")
    return value


def expand(path: str, what: str) -> Path:
    """An absolute path from one that may start in the project and name $VARIABLES.

    What is there as it is written is meant. Raises UserError when a variable is not set or ~ names nobody.
    """
    if os.path.exists(ROOT / path):
        return ROOT / path
    missing = [n for n in re.findall(r"\$\{?(\w+)", path) if n not in os.environ]
    if missing:
        raise UserError(f"{what} is {path}, but ${missing[0]} is not set: export {missing[0]}=<folder>")
    try:
        return ROOT / Path(os.path.expandvars(path)).expanduser()
    except RuntimeError:
        raise UserError(f"{what} is {path}, but there is no such user here; write the whole path") from None


class _NotPlain(yaml.MarkedYAMLError):
    """Valid YAML that is not plain."""


def _wrong(problem: str, at) -> _NotPlain:
    return _NotPlain(problem=problem, problem_mark=at.start_mark)
