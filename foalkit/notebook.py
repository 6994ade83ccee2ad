"""What a notebook's first cells need: checked parameters, and a look at what they mean."""

import ast
import sys
from dataclasses import dataclass
from typing import get_args

from foalkit import ROOT, UserError
from foalkit.files import refusal
from foalkit.params import Params, keys, load
from foalkit.params.errors import nearest
from foalkit.params.schema import Protocol
from foalkit.results import records


@dataclass(frozen=True)
class Job:
    """A notebook's validated parameters."""

    params: Params
    variant: str | None = None
    fold: int | None = None
    seed: int | None = None
    protocol: Protocol = "honest"
    retrain: bool = False


def settings(params: Params, *sections: str, variant: str | None = None):
    """The settings of some sections of the params as a table to be read: what changed each, what paper and code say.

    With `variant` those of its runs (`params.keys.settings`), its network's sections where none are named.
    """
    import pandas as pd
    from IPython.display import HTML

    if not sections:
        own = {"cfn-sr": ("cfn_sr",), "late-product": ()}.get(params.variants[variant].network, ("model", "loss"))
        sections = (*own, "training")
    table = pd.DataFrame(keys.settings(params, *sections, variant=variant)).set_index("setting")
    table = table.drop(columns=[c for c in ("paper", "released code") if not table[c].any()])
    table.index.name, table.columns.name = None, "setting"
    changed = [["font-weight: bold" if by else ""] for by in table["changed by"]]
    shown = table.style.set_uuid("settings").format(escape="html").format_index(escape="html")
    shown = shown.apply(lambda _: pd.DataFrame(changed, table.index, ["value"]), axis=None, subset=["value"])
    shown = shown.map_index(lambda _: "font-weight: normal", axis="index")
    left = [{"selector": "th, td", "props": "text-align: left; vertical-align: top"}]
    return HTML(shown.set_table_styles(left).to_html())


def start(*, params: str, overrides: str = "", **chosen) -> Job:
    """Validate a notebook's parameters before any work.

    Raises UserError for a parameter that papermill injected but the notebook does not have (papermill itself
    only warns), for an unknown params file, variant or protocol (naming the nearest), for a protocol that the
    row's features were not made for, and for a fold that does not exist.
    """
    if (code := sys.getfilesystemencoding()) != "utf-8" and not str(ROOT).isascii():
        raise UserError(f"the project's folder has letters that this locale reads as {code}: export PYTHONUTF8=1")
    if (shell := _shell()) is not None:
        shell.set_custom_exc((OSError,), _say_in_one_line)
    check_parameters("params", "overrides", *chosen)
    loaded = load(params, overrides)
    if chosen.get("variant") is not None:
        loaded.for_variant(chosen["variant"])
    protocol = chosen.get("protocol", "honest")
    if protocol not in (known := list(get_args(Protocol))):
        raise UserError(f"unknown protocol {protocol!r}; {nearest(str(protocol), known)}")
    if chosen.get("variant") is not None and (why := loaded.made_for_others(protocol, chosen["variant"])):
        raise UserError(why)
    for name in ("fold", "seed"):
        value = chosen.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise UserError(f"{name} must be a whole number, got {value!r}")
    if not isinstance(chosen.get("retrain", False), bool):
        raise UserError(f"retrain must be True or False, got {chosen['retrain']!r}")
    fold, folds = chosen.get("fold"), loaded.fold_numbers(protocol)
    if fold is not None and fold not in folds:
        raise UserError(f"fold {fold} does not exist; params {loaded.name}, {protocol}, has folds 1 to {folds[-1]}")
    records.claim(loaded)
    return Job(records.runnable(loaded), **chosen)


def check_parameters(*known: str) -> None:
    """Raise UserError for a parameter that papermill injected and that is none of these, naming the nearest."""
    for name in _injected() - set(known):
        raise UserError(f"unknown notebook parameter {name!r}; {nearest(name, sorted(known))}")


def _shell():
    """IPython's shell, None outside of it."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def _say_in_one_line(shell, kind, error, trace, tb_offset=None) -> None:
    """A full disk or a folder of another's is no fault of the code: as UserError, without a traceback."""
    shell.showtraceback((UserError, UserError(refusal(error)), None))


def _injected() -> set[str]:
    """The names that papermill's injected cell assigned, found among the cells this kernel has run."""
    shell = _shell()
    cells = shell.user_ns.get("In", []) if shell is not None else []
    names = set()
    for cell in cells:
        if cell.startswith("# Parameters\n"):
            for node in ast.parse(cell).body:
                names |= {t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)}
    return names
