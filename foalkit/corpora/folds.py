"""Explicit folds: leave one session (or a group of actors) out, the validation choice, and the checks."""

from dataclasses import dataclass

import pandas as pd

from foalkit import UserError
from foalkit.files import digest
from foalkit.params import Params


@dataclass(frozen=True)
class Split:
    """One fold's utterances by side, and the groups (sessions or speakers) that each side holds."""

    train: list[str]
    validation: list[str]
    test: list[str]
    groups: dict[str, list[str]]

    @property
    def digest(self) -> str:
        return digest([self.train, self.validation, self.test])


def split(table: pd.DataFrame, params: Params, fold: int, protocol: str) -> Split:
    """The utterances of fold `fold` (1-based), checked for leaks.

    honest: the next fold's groups validate; published: no validation, all the others train (protocol.md).
    Raises UserError for a fold that does not exist and for any speaker or dialogue on two sides.
    """
    groups, count = params.folds.groups, len(params.folds.groups)
    if fold not in (folds := params.fold_numbers(protocol)):
        raise UserError(f"fold {fold} does not exist; folds are 1 to {folds[-1]} ({protocol})")
    test = groups[fold - 1]
    validation = groups[fold % count] if protocol == "honest" else []
    train = [g for group in groups for g in group if g not in test and g not in validation]
    sides = {"train": train, "validation": validation, "test": test}
    column = table[params.folds.by]
    result = Split(**{s: table.loc[column.isin(g), "utterance"].tolist() for s, g in sides.items()}, groups=sides)
    check_split(table, result)
    return result


def check_split(table: pd.DataFrame, split: Split) -> None:
    """Raise UserError naming the first speaker or dialogue found on two sides, or an empty side."""
    side = {u: s for s in ("train", "validation", "test") for u in getattr(split, s)}
    unwanted = not split.groups.get("validation")  # the published protocol has none
    empty = (
        "training"
        if not split.train
        else "test"
        if not split.test
        else "validation"
        if not (split.validation or unwanted)
        else None
    )
    if empty:
        raise UserError(f"the {empty} side of the fold is empty ({split.groups}): are all groups in the corpus?")
    if len(side) != len(split.train) + len(split.validation) + len(split.test):
        every = pd.Series(split.train + split.validation + split.test)
        raise UserError(f"utterance {every[every.duplicated()].iloc[0]} is on two sides of the split")
    sides = table.assign(side=table["utterance"].map(side)).dropna(subset="side")
    for column in ("speaker", "dialogue"):
        spread = sides.groupby(column)["side"].unique()
        for name, found in spread[spread.map(len) > 1].items():
            raise UserError(f"{column} {name} is on two sides of the split: {' and '.join(sorted(found))}")


def check_coverage(table: pd.DataFrame, params: Params) -> None:
    """Raise UserError unless every utterance is tested exactly once over all folds."""
    groups = pd.Series([g for group in params.folds.groups for g in group])
    if groups.duplicated().any():
        raise UserError(f"folds.groups: {groups[groups.duplicated()].iloc[0]} is tested twice")
    column = table[params.folds.by]
    never = sorted(set(column) - set(groups))
    if never:
        raise UserError(f"folds.groups: {', '.join(never)} would never be tested")


def summary(table: pd.DataFrame, params: Params, protocol: str) -> pd.DataFrame:
    """Utterances per side of every fold, what it tests, and the split's digest."""
    rows = []
    for fold in params.fold_numbers(protocol):
        s = split(table, params, fold, protocol)
        sizes = {side: len(getattr(s, side)) for side in ("train", "validation", "test")}
        rows.append({"fold": fold, **sizes, "tested": ", ".join(s.groups["test"]), "digest": s.digest})
    return pd.DataFrame(rows).set_index("fold")
