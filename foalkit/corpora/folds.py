"""Explicit folds: leave one session (or a group of actors) out, the validation choice, and the checks.

Beside them the folds of `random-split`, which put every speaker on both sides: they show what that leak is worth.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from foalkit import UserError
from foalkit.files import digest, write_csv
from foalkit.params import Params
from foalkit.params.folds import Folds

RANDOM_SEED = 0  # of the parts under random-split, whatever the seeds of training are


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


def split(table: pd.DataFrame, params: Params, fold: int, protocol: str, variant: str | None = None) -> Split:
    """The utterances of fold `fold` (1-based), checked for leaks; with `variant` those that it can use (`usable`).

    honest: the next fold's groups validate, or a corpus's own validation side (`folds.by: split`); published: no
    validation, all the others train (protocol.md); random-split: as honest, but the groups are `random_parts`, which
    hold utterances of every speaker. Raises UserError for a fold that does not exist, for random-split where the row
    reads features that are made for each fold, and, but under random-split, for any dialogue or (unless `folds.shared`)
    speaker on two sides.
    """
    column, groups = table[params.folds.column], params.folds.groups
    apart = tuple(what for what in ("speaker", "dialogue") if what not in params.folds.shared)
    if fold not in (folds := params.fold_numbers(protocol)):
        raise UserError(f"fold {fold} does not exist; folds are 1 to {folds[-1]} ({protocol})")
    if variant and (why := params.made_for_others(protocol, variant)):
        raise UserError(why)
    if protocol == "random-split":
        column, apart = random_parts(table, len(groups)), ()
        groups = [[f"part {n}"] for n in range(1, len(groups) + 1)]
    test = groups[fold - 1]
    validation = groups[fold % len(groups)] if protocol != "published" else []
    train = [g for group in groups for g in group if g not in test and g not in validation]
    sides = {"train": train, "validation": validation, "test": test}
    used = usable(table, params, variant) if variant else pd.Series(True, table.index)
    result = Split(
        **{s: table.loc[column.isin(g) & used, "utterance"].tolist() for s, g in sides.items()}, groups=sides
    )
    check_split(table, result, apart)
    return result


def usable(table: pd.DataFrame, params: Params, variant: str) -> pd.Series:
    """Whether a row of the ablation can use each of the table's rows, whose column `lacks` names missing streams.

    Foal-Net's fusion and the late product do with one of their streams; other networks need all of theirs.
    """
    v = params.variants[variant]
    if "lacks" not in table:
        return pd.Series(True, table.index)
    enough = any if v.network in ("foal-net", "late-product") else all
    return table["lacks"].map(lambda lacks: enough(stream not in lacks.split() for stream in v.streams))


def deal(table: pd.DataFrame, folds: Folds) -> pd.DataFrame:
    """The table with a column `fold` ("fold 1" to "fold <count>"), in which every class has its share of each fold.

    What `folds.by` names, a speaker and a dialogue stay whole: those that meet in an utterance are in one fold
    (scikit-learn's StratifiedGroupKFold, shuffled by `folds.seed`). Raises UserError where that leaves a fold empty.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    together = _together([table[column] for column in (folds.by, "speaker", "dialogue")])
    number = together.max() + 1
    if number < folds.count:
        fewer = number < table[folds.by].nunique()
        why = ", since those that share a speaker or a dialogue stay together" if fewer else ""
        raise UserError(f"folds.count: {folds.count} folds cannot be dealt from {number} groups by {folds.by}{why}")
    dealer = StratifiedGroupKFold(folds.count, shuffle=True, random_state=folds.seed)
    fold = pd.Series("", table.index)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a class with fewer utterances than folds: check-corpus says which
            for n, (_, rows) in enumerate(dealer.split(table, table["emotion"], together), 1):
                fold.iloc[rows] = f"fold {n}"
    except ValueError as error:
        raise UserError(f"folds.count: {error}") from None
    if fold.nunique() < folds.count:
        raise UserError(f"folds.count: {folds.count} folds of {number} groups leave one empty; ask for fewer")
    return table.assign(fold=fold)


def _together(columns: list[pd.Series]) -> np.ndarray:
    """A number for each row `(N,)`, the same for rows that have a value of some column in common, by any way."""
    rows, edges = np.arange(len(columns[0])), []
    for column in columns:
        first = column.map({value: n for n, value in reversed(list(enumerate(column)))}).to_numpy()
        edges.append(coo_array((np.ones(len(rows)), (rows, first)), shape=(len(rows), len(rows))))
    return connected_components(sum(edges), directed=False)[1]


def write_folds(table: pd.DataFrame, params: Params) -> None:
    """outputs/<params>/folds.csv, where folds are dealt: utterance, speaker, emotion and fold."""
    if params.folds.count:
        write_csv(params.folder / "folds.csv", table[["utterance", "speaker", "emotion", "fold"]])


def random_parts(table: pd.DataFrame, count: int) -> pd.Series:
    """The part ("part 1" to "part <count>") of each of the table's rows, dealt at random, emotion by emotion.

    Parts hold the same number of utterances, and of each emotion's, but for one; a copy of another utterance's sound
    (the manifest's `copy_of`, where there is any) lies where that one does. The draw is a digest of the utterance with
    `RANDOM_SEED`: the same on every machine, whatever the order of the table.
    """
    copy_of = table["copy_of"] if "copy_of" in table else pd.Series("", table.index)
    first = table[copy_of == ""]
    drawn = first["utterance"].map(lambda u: digest([RANDOM_SEED, u]))
    order = first.assign(drawn=drawn).sort_values(["emotion", "drawn", "utterance"])["utterance"]
    part = {u: f"part {n % count + 1}" for n, u in enumerate(order)}
    return table["utterance"].where(copy_of == "", copy_of).map(part)


def write_random_parts(table: pd.DataFrame, params: Params) -> Path:
    """outputs/<params>/random-split.csv: utterance, speaker, emotion and part (`random_parts`); returns the path."""
    file = params.folder / "random-split.csv"
    parts = random_parts(table, len(params.folds.groups))
    write_csv(file, table[["utterance", "speaker", "emotion"]].assign(part=parts))
    return file


def check_split(table: pd.DataFrame, split: Split, apart: tuple[str, ...] = ("speaker", "dialogue")) -> None:
    """Raise UserError naming the first utterance, or name in the columns `apart`, on two sides; or an empty side."""
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
    for column in apart:
        spread = sides.groupby(column)["side"].unique()
        for name, found in spread[spread.map(len) > 1].items():
            raise UserError(f"{column} {name} is on two sides of the split: {' and '.join(sorted(found))}")


def check_coverage(table: pd.DataFrame, params: Params) -> None:
    """Raise UserError unless every utterance is tested exactly once over all folds."""
    groups = pd.Series([g for group in params.folds.groups for g in group])
    if groups.duplicated().any():
        raise UserError(f"folds.groups: {groups[groups.duplicated()].iloc[0]} is tested twice")
    column = table[params.folds.column]
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
