"""params/<name>.yaml, what it stands on and what overrides it, as one validated `Params` object."""

import copy
import json
import os
import re
import typing
from pathlib import Path
from typing import Any

import yaml

from foalkit import ROOT, UserError, arithmetic
from foalkit.files import digest
from foalkit.params.errors import unknown, validate
from foalkit.params.merge import difference, over, put, without_nulls
from foalkit.params.rows import LedgerRow, PublishedRow
from foalkit.params.schema import Params

NOT_SETTINGS = ("variants", "ledger", "published")  # the files in params/ that are no params files
LONGEST = 80  # characters of a folder's name; a longer one is given by a digest


def load(params: str | Path, overrides: str | typing.Sequence[str] = ()) -> Params:
    """Read params/<name>.yaml (or a path to such a file) and the ablation variants, apply `key=value` overrides.

    A file that says `base: <name>` stands over that file in params/, key by key, with outputs of its own; `null`
    drops a key. The ledger's preset stands under both and under the overrides. Overrides that change anything give
    the params a name and outputs of their own, `demo,training.epochs=5`, so that no run of the file's own settings
    is overwritten. Raises UserError for a missing file, an unknown key (naming the nearest valid one) or a bad value.
    """
    path = Path(params)
    if path.suffix not in {".yaml", ".yml"}:
        path = _known_file(str(params), "params file")
    elif not path.is_absolute():
        path = ROOT / path
    ledger = read_ledger()
    data = _file(path, ledger)
    where = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    changes = _changes(overrides)
    changed = copy.deepcopy(data)
    for key, value in changes.items():
        put(changed, key, value, where="overrides")
    result = _validated(changed, ledger, where)
    result = result.model_copy(update={"file": where})
    if result.training.reproducible == "everywhere":
        arithmetic.limit_torch()
    for variant in {v for names in result.ablation.values() for v in names}:
        result.for_variant(variant)  # a wrong setting of a row is refused before any work
    if not changes:
        return result
    try:
        plain = _validated(data, ledger, where)
    except UserError:  # a file that is whole only with its overrides
        plain = None
    before = plain.model_dump(exclude={"name", "outputs"}) if plain else {}
    after = result.model_dump(exclude={"name", "outputs"})
    differs = difference(before, after) if plain else dict(changes)
    if not differs:
        return result
    what, outputs = _short(changes, differs), Path(result.outputs)
    if plain is None or result.outputs == plain.outputs:  # else given by an override: that folder and no other
        outputs = outputs.with_name(f"{outputs.name},{what}")
    return result.model_copy(update={"name": f"{result.name},{what}", "differs": differs, "outputs": str(outputs)})


def params_files() -> list[str]:
    """The names of the params files in params/."""
    return sorted(p.stem for p in (ROOT / "params").glob("*.yaml") if p.stem not in NOT_SETTINGS)


def read_ledger() -> dict[int, LedgerRow]:
    """The ledger's rows by number, from params/ledger.yaml."""
    return {
        number: LedgerRow.model_validate(row) for number, row in _read_yaml(ROOT / "params" / "ledger.yaml").items()
    }


def read_published(file: Path = ROOT / "params" / "published.yaml") -> list[PublishedRow]:
    """The registry of printed results, in the file's order.

    Raises UserError naming corpus, system and key of a row that is not whole.
    """
    rows = []
    for corpus, blocks in _read_yaml(file).items():
        for block in blocks:
            common = {k: v for k, v in block.items() if k != "rows"}
            for row in block["rows"]:
                where = f"{file.name}: {corpus}: {row.get('system', 'a row without system')}"
                rows.append(validate(PublishedRow, {"corpus": corpus, **common, **row}, where))
    return rows


def expand(path: str, what: str) -> Path:
    """An absolute path from one that may start in the project and name $VARIABLES.

    Raises UserError when a variable is not set.
    """
    missing = [n for n in re.findall(r"\$\{?(\w+)", path) if n not in os.environ]
    if missing:
        raise UserError(f"{what} is {path}, but ${missing[0]} is not set: export {missing[0]}=<folder>")
    return ROOT / Path(os.path.expandvars(path)).expanduser()


def _file(path: Path, ledger: dict[int, LedgerRow]) -> dict:
    """What the file says, over its base, with the variants it may name."""
    data = _read_yaml(path)
    if data.get("base") is not None:
        base = _read_yaml(_known_file(str(data["base"]), f"{path.name}: base"))
        if "base" in base:
            raise UserError(f"{path.name}: base {data['base']!r} has a base itself; one level is enough")
        data = over({k: v for k, v in base.items() if k not in ("name", "outputs")}, data)
    data.pop("base", None)
    for own in ("differs", "file"):
        if own in data:
            raise UserError(f"{path.name}: unknown key {own!r}")
    data = {"name": path.stem, "outputs": f"outputs/{path.stem}", **data}
    known = {**_read_yaml(ROOT / "params" / "variants.yaml"), **_ledger_variants(ledger)}
    data["variants"] = over(known, data.get("variants") or {})
    return data


def _changes(overrides: str | typing.Sequence[str]) -> dict[str, Any]:
    """The overrides by dotted key."""
    changes = {}
    if isinstance(overrides, str):  # at the spaces before a key; others stand in a value
        overrides = re.split(r"\s+(?=[A-Za-z_][\w.-]*=)", overrides.strip()) if overrides.strip() else []
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not value.strip():
            raise UserError(f"override {item!r}: write key=value, for example training.epochs=2; null drops a key")
        if key.split(".")[0] in ("name", "differs", "base", "file"):
            raise UserError(f"override {item!r}: {key} cannot be overridden")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"override {item!r}: {value!r} is not a value") from None
    return changes


def _validated(data: dict, ledger: dict[int, LedgerRow], where: str) -> Params:
    data = over(_preset(ledger, data.get("ledger", "ours")), data)
    return validate(Params, without_nulls(data), where)


def _short(changes: dict[str, Any], differs: dict[str, Any]) -> str:
    """The overrides that change something, `training.epochs=5`, or a digest where that is no short name of a folder."""
    parts = []
    for key in sorted(changes):
        if any(k == key or k.startswith(f"{key}.") for k in differs):
            value = differs.get(key, changes[key])
            words = [json.dumps(v).strip('"') for v in (value if isinstance(value, list) else [value])]
            parts.append((key, words))
    plain = all(re.fullmatch(r"[A-Za-z0-9._-]+", word) for key, words in parts for word in (key, *words))
    name = ",".join(f"{key}={'+'.join(words)}" for key, words in parts)
    return name if plain and len(name) <= LONGEST else digest(differs)[:8]


def _known_file(name: str, what: str) -> Path:
    """params/<name>.yaml; raises UserError, naming the nearest, where there is none."""
    if name not in (known := params_files()):
        raise UserError(unknown(what, name, known))
    return ROOT / "params" / f"{name}.yaml"


def _ledger_variants(ledger: dict[int, LedgerRow]) -> dict[str, dict]:
    """The ledger's variants: foal-net's streams under another setting."""
    common = {"modality": "A+V", "streams": ["audio", "video"]}
    return {
        name: {**common, "ledger": number, **variant}
        for number, row in ledger.items()
        for name, variant in row.variants.items()
    }


def _preset(ledger: dict[int, LedgerRow], name: Any) -> dict:
    """The nested settings of one column of the ledger; where it has none the defaults stand, which are ours.

    An unknown name gives none: the validation that follows refuses it.
    """
    settings: dict[str, Any] = {}
    for row in ledger.values():
        for key, value in row.set.get(str(name), {}).items():
            put(settings, key, value, where="ledger")
    return settings


def _read_yaml(path: Path) -> dict:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such params file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text file ({type(error).__name__})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected `key: value` lines at the top level")
    return data
