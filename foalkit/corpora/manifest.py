"""The manifest: one row per usable utterance, and the list of those left out with the reason."""

import re
from collections.abc import Iterable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from foalkit import UserError, one_line, short
from foalkit.corpora.folds import deal
from foalkit.files import locked, refusal
from foalkit.params import Params
from foalkit.params.corpora import Corpus, Names, Table
from foalkit.params.folds import Folds
from foalkit.params.load import corpus_place

COLUMNS = {
    "utterance": "unique id",
    "speaker": "who speaks; never on two sides of a split",
    "session": "IEMOCAP's session, or RAVDESS's actor",
    "dialogue": "dialogue, or take for RAVDESS",
    "kind": "improvised, scripted or acted",
    "gender": "F or M",
    "label": "the corpus's own label",
    "emotion": "the class that label is mapped to",
    "start": "seconds in the video file (without one, in the audio file)",
    "end": "seconds in the same file (none: to its end, which preparing features finds out)",
    "audio": "audio file of this utterance alone, relative to the corpus root (empty: none)",
    "video": "video file, relative to the corpus root (empty: none)",
    "crop": "the speaker's picture in the video: x, y, width, height in pixels (none: all of it)",
    "face": "the speaker's face in the video: x, y, width, height in pixels (none: unknown)",
}

MORE = {  # of corpora that have it
    "audio_from": "seconds in the audio file at which the utterance begins, where the file may hold more than it",
    "transcript": "what is said",
    "split": "train, validation or test, as the corpus has it",
    "fold": "which fold tests it, where folds.count has them dealt",
}


def corpus_root(params: Params) -> Path:
    """The corpus folder, written first if it is the generated one and not there yet.

    Raises UserError when the folder does not exist or its environment variable is not set.
    """
    root = corpus_place(params)
    if params.corpus.generate is not None:
        puppets = import_module(f"foalkit.puppets.{params.corpus.reader}")
        try:
            there = (root / "card.json").exists()
            with nullcontext() if there else locked(root.with_name(f".{root.name}.lock")):
                puppets.write_corpus(root, **params.corpus.generate.model_dump())
        except FileExistsError as error:
            raise UserError(f"corpus.generate: {error}") from None
    try:
        if not root.is_dir():
            raise UserError(f"corpus.root: there is no folder {root}; lay the corpus out as the README says")
        next(root.iterdir(), None)
    except OSError as error:
        raise UserError(f"corpus.root: {refusal(error)}") from None
    return root


def read_manifest(
    corpus: Corpus,
    root: Path,
    folds: Folds | None = None,
    *,
    used: Iterable[str] = ("audio", "video"),
    shares: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest (columns `COLUMNS`, sorted by utterance) and the table of turns left out (utterance, reason).

    No recording is opened, and a row stands there without its files too; asserted counts are of rows with all media
    that are `used`. `folds` are dealt where they have a count. With `shares` the table has a column `share_<class>` for
    each class: how much of the raters' votes for any class it got. Raises UserError when nothing usable is found, an
    id stands twice, or asserted counts do not hold.
    """
    reader = import_module(f"foalkit.corpora.{corpus.reader}")
    rows, left_out = reader.read(root, corpus) if isinstance(corpus, Table | Names) else reader.read(root)
    # a name of other bytes than UTF-8 could stand in no table
    odd = [r for r in rows if not (r["audio"] + r["video"]).isprintable()]
    left_out += [
        (r["utterance"], f"the name of {r['video'] or r['audio']} has characters without a shape") for r in odd
    ]
    rows, left_out = (
        [r for r in rows if r not in odd],
        [(one_line(short(u, 300)), one_line(short(why, 300))) for u, why in left_out],
    )
    more = [c for c in MORE if any(c in r for r in rows)]
    table = pd.DataFrame(rows, columns=[*(c for c in COLUMNS if c != "emotion"), *more])
    table.insert(table.columns.get_loc("label") + 1, "emotion", table["label"].map(corpus.labels))
    unnamed = table[table["emotion"].isna()]
    left_out += [
        (u, short(f"label {label} is not among the classes", 300))
        for u, label in zip(unnamed["utterance"], unnamed["label"], strict=True)
    ]
    table = table[table["emotion"].notna()].sort_values("utterance", ignore_index=True)
    if table.empty:
        found = ", ".join(f"{label} {n}" for label, n in unnamed["label"].value_counts().head(20).items())
        why = f"; labels found: {found}" if found else _reasons(left_out)
        raise UserError(f"{root}: no utterance with a label of {sorted(corpus.labels)} can be used{why}")
    twice = table["utterance"][table["utterance"].duplicated()]
    if len(twice):
        raise UserError(f"{root}: utterance {twice.iloc[0]} stands twice; remove one copy")
    if getattr(corpus, "assert_counts", False):
        reader.assert_counts(table[(table[list(used)] != "").all(axis=1)])
    if shares:
        table = _with_shares(table, {row["utterance"]: row["votes"] for row in rows}, corpus)
    if folds and folds.count:
        table = deal(table, folds)
    return table, pd.DataFrame(sorted(left_out), columns=["utterance", "reason"])


def _with_shares(table: pd.DataFrame, votes: dict[str, dict[str, int]], corpus: Corpus) -> pd.DataFrame:
    """The table with the classes' shares of its utterances' votes; votes for labels of no class do not count."""
    counts = np.zeros((len(table), len(corpus.classes)))
    for row, utterance in enumerate(table["utterance"]):
        for label, count in votes[utterance].items():
            if label in corpus.labels:
                counts[row, corpus.classes.index(corpus.labels[label])] += count
    shares = counts / counts.sum(1, keepdims=True)  # the majority's label is one of a class, so no sum is 0
    return table.assign(**dict(zip(share_columns(corpus.classes), shares.T, strict=True)))


def share_columns(classes: list[str]) -> list[str]:
    """The manifest's columns of the classes' shares of the votes."""
    return [f"share_{name}" for name in classes]


def _reasons(left_out: list[tuple[str, str]]) -> str:
    """The three commonest reasons of what was left out, each with an example and how many there are like it."""
    alike: dict[str, list[str]] = {}
    for _, why in left_out:
        # a reason begins with a file's name
        alike.setdefault(re.sub(r"\S*\d\S*", "", why), []).append(why)
    commonest = sorted(alike.values(), key=len, reverse=True)[:3]
    said = "; ".join(f"{whys[0]} ({len(whys)} like it)" if len(whys) > 1 else whys[0] for whys in commonest)
    return f"; {len(left_out)} are left out: {said}" if said else ""


def counts(table: pd.DataFrame, classes: list[str], by: str = "session") -> pd.DataFrame:
    """Utterances per class (columns) and session (rows), with totals."""
    result = pd.crosstab(table[by], table["emotion"]).reindex(columns=classes, fill_value=0)
    result.loc["all"] = result.sum()
    result["all"] = result.sum(axis=1)
    return result.rename_axis(columns=None)
