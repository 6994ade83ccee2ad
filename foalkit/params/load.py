"""params/<name>.yaml, what it stands on and what overrides it, as one validated `Params` object."""

import copy
import json
import re
import typing
from pathlib import Path
from typing import Any

from foalkit import ROOT, SHARED, UserError, arithmetic
from foalkit.files import digest
from foalkit.params.errors import unknown, validate
from foalkit.params.merge import difference, over, put, without_nulls
from foalkit.params.reading import expand as expand  # for other rooms, too
from foalkit.params.reading import read_file, read_value
from foalkit.params.rows import Claim, LedgerRow, PublishedRow, Variant
from foalkit.params.schema import Params
from foalkit.params.sizes import check_sizes

NOT_SETTINGS = ("variants", "ledger", "published", "claims")  # the files in params/ that are no params files
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
    where = str(next((path.relative_to(root) for root in (SHARED, ROOT) if path.is_relative_to(root)), path))
    changes = _changes(overrides)
    changed = copy.deepcopy(data)
    for key, value in changes.items():
        put(changed, key, value, where="overrides")
    result = _validated(changed, ledger, where)
    result = result.model_copy(update={"file": where})
    if result.training.reproducible == "everywhere":
        arithmetic.limit_torch()
    for variant in dict.fromkeys(v for names in result.ablation.values() for v in names):
        check_sizes(result.for_variant(variant), variant, where)  # a row's slip is refused before any work
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
    """The names of the params files in params/, the project's own and those that come with the package."""
    found = {p.stem for root in (ROOT, SHARED) for p in (root / "params").glob("*.yaml")}
    return sorted(found - set(NOT_SETTINGS))


def read_ledger() -> dict[int, LedgerRow]:
    """The ledger's rows by number, from params/ledger.yaml."""
    rows = read_file(_in_params("ledger"))
    return {number: validate(LedgerRow, row, f"ledger.yaml: {number}") for number, row in rows.items()}


def read_published(file: Path = SHARED / "params" / "published.yaml") -> list[PublishedRow]:
    """The registry of printed results, in the file's order.

    Raises UserError naming corpus, system and key of a row that is not whole.
    """
    rows = []
    for corpus, blocks in read_file(file).items():
        for block in blocks if isinstance(blocks, list) else [blocks]:
            if not isinstance(block, dict) or not isinstance(block.get("rows"), list):
                raise UserError(f"{file.name}: {corpus}: expected a list of blocks, each with a list of `rows:`")
            common = {k: v for k, v in block.items() if k != "rows"}
            for row in block["rows"]:
                name = row.get("system", "a row without system") if isinstance(row, dict) else "a row"
                whole = {"corpus": corpus, **common, **row} if isinstance(row, dict) else row
                rows.append(validate(PublishedRow, whole, f"{file.name}: {corpus}: {name}"))
    return rows


def read_claims(file: Path = SHARED / "params" / "claims.yaml") -> dict[str, Claim]:
    """What the papers claim, by name, in the file's order.

    Raises UserError naming the claim and the key that is wrong, a variant that there is not among them.
    """
    known = [*read_file(_in_params("variants")), *_ledger_variants(read_ledger())]
    claims = {}
    for name, row in read_file(file).items():
        where = f"{file.name}: {name}"
        claims[name] = claim = validate(Claim, row, where)
        for key, variants in (("row", [claim.row]), ("against", claim.against)):
            for variant in variants:
                if variant not in known:
                    raise UserError(f"{where}: {key}: {unknown('variant', variant, known)}")
    return claims


def corpus_place(params: Params) -> Path:
    """Where the corpus lies or will lie, absolute; raises UserError when a variable in `corpus.root` is not set."""
    return expand(params.corpus.root, "corpus.root") if params.corpus.root else Path(params.corpus_folder)


def _file(path: Path, ledger: dict[int, LedgerRow]) -> dict:
    """What the file says, over its base, with the variants it may name."""
    data = read_file(path)
    if data.get("base") is not None:
        base = read_file(_known_file(str(data["base"]), "base", f"{path.name}: "))
        if "base" in base:
            raise UserError(f"{path.name}: base {data['base']!r} has a base itself; one level is enough")
        data = over({k: v for k, v in base.items() if k not in ("name", "outputs")}, data)
    data.pop("base", None)
    for own in ("differs", "file"):
        if own in data:
            raise UserError(f"{path.name}: unknown key {own!r}")
    own = {"name": path.stem, "outputs": f"outputs/{path.stem}"}
    data = {**data, **{key: data[key] if data.get(key) is not None else value for key, value in own.items()}}
    known = read_file(_in_params("variants"))
    for name, variant in known.items():
        validate(Variant, variant, f"variants.yaml: {name}")
    known |= _ledger_variants(ledger)
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
        changes[key] = read_value(value, f"override {key}")
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


def _known_file(name: str, what: str, where: str = "") -> Path:
    """params/<name>.yaml; raises UserError, naming the nearest, where there is none."""
    if name not in (known := params_files()):
        raise UserError(where + unknown(what, name, known))
    return _in_params(name)


def _in_params(name: str) -> Path:
    """The project's own params/<name>.yaml, or else the one that comes with the package."""
    own = ROOT / "params" / f"{name}.yaml"
    return own if own.exists() else SHARED / "params" / f"{name}.yaml"


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
