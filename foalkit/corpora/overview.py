"""`foalkit check-corpus`: what was found, used and left out, the counts that matter, and three things to look at."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from foalkit.corpora.folds import check_coverage, split
from foalkit.corpora.manifest import corpus_root, counts, read_manifest, share_columns
from foalkit.files import digest
from foalkit.params import Params

FEW = 10  # utterances of a class in a fold, below which its recall moves by more than 10 points with each
SPEAKERS = 6  # below, the report gives no interval (protocol.md)
FILE = {"sound": "audio", "picture": "video"}
UNMAPPED = r"label (.*) is not among the classes"
LISTED = 40  # speakers that are listed one by one


def check(params: Params) -> Iterator[str]:
    """The lines of the report; no recording is opened.

    Raises UserError for a corpus that cannot be read, and for folds that it does not have.
    """
    root = corpus_root(params)
    table, left_out = read_manifest(params.corpus, root, params.folds, shares=params.corpus.has_votes)
    classes = params.corpus.classes
    yield f"{params.name}: {params.corpus.reader}, {root}"
    yield f"used: {len(table)} utterances of {table['speaker'].nunique()} speakers; left out: {len(left_out)}"
    have = {kind: int((table[kind] != "").sum()) for kind in ("audio", "video")}
    yield f"with a sound file: {have['audio']}; with a film: {have['video']}"
    if params.corpus.has_votes:
        shares = table[share_columns(classes)].to_numpy()
        of_label = shares[range(len(table)), table["emotion"].map(classes.index)]
        whole = f"all votes for a class agree in {(of_label == 1).mean():.0%} of the utterances"
        yield f"raters: {whole}; the label has {of_label.mean():.0%} of them on average"
    yield ""
    yield from _left_out(left_out)
    yield f"utterances by {'side' if params.folds.by == 'split' else 'fold'} and class"
    yield _shown(_by_fold(table, params))
    yield ""
    yield from _speakers(table, classes)
    yield from _sides(table, params)
    yield "three things to look at"
    for n, thing in enumerate(_things(table, left_out, params, root)[:3], 1):
        yield f"  {n}. {thing}"


def _left_out(left_out: pd.DataFrame) -> Iterator[str]:
    """Each kind of reason with its count and up to three examples."""
    if left_out.empty:
        return
    yield "left out"
    kinds = left_out["reason"].map(_kind)
    for kind, count in kinds.value_counts().items():
        examples = left_out.loc[kinds == kind]
        names = ", ".join(examples["utterance"].head(3)) + (" …" if count > 3 else "")
        yield f"  {count:6}  {kind if examples['reason'].nunique() > 1 else examples['reason'].iloc[0]}: {names}"
    yield ""


def _kind(reason: str) -> str:
    """A reason without the names and numbers of one utterance; a label stays."""
    if re.match(UNMAPPED, reason):
        return reason
    reason = re.sub(r"^.* (line|row) \d+:? ", "", reason)
    return re.sub(r"'[^']*'|\S*[/\\]\S*|\S+\.\w{2,4}\b|\S*\d\S*", "…", reason)


def _by_fold(table: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Utterances per class and the fold that tests them, or the side of the corpus's own split."""
    names = {
        g: g if params.folds.by == "split" else f"fold {n}" for n, gs in enumerate(params.folds.groups, 1) for g in gs
    }
    fold = table[params.folds.column].map(names).fillna("never tested")
    return counts(table.assign(fold=fold), params.corpus.classes, by="fold")


def _speakers(table: pd.DataFrame, classes: list[str]) -> Iterator[str]:
    by_speaker = counts(table, classes, by="speaker").drop(index="all")
    if len(by_speaker) <= LISTED:
        yield "utterances by speaker and class"
        yield _shown(by_speaker)
    else:
        yield f"utterances of a speaker ({len(by_speaker)} speakers): fewest, median, most"
        yield _shown(by_speaker.agg(["min", "median", "max"]).astype(int))
    yield ""


def _sides(table: pd.DataFrame, params: Params) -> Iterator[str]:
    """The sides of each fold under the protocols in use, and what keeps one from being trained."""
    check_coverage(table, params)
    for protocol in params.ablation:
        yield f"sides of each fold ({protocol}): utterances, and speakers"
        for fold in params.fold_numbers(protocol):
            sides = split(table, params, fold, protocol)
            told = []
            for side in ("train", "validation", "test"):
                rows = table[table["utterance"].isin(getattr(sides, side))]
                told.append(f"{side} {len(rows)} ({rows['speaker'].nunique()})")
            yield f"  fold {fold}: {', '.join(told)}; digest {sides.digest[:8]}"
    yield ""


def _things(table: pd.DataFrame, left_out: pd.DataFrame, params: Params, root: Path) -> list[str]:
    """What a person should look at first, the gravest first; there are always three."""
    found, classes = [], params.corpus.classes
    by_fold = _by_fold(table, params).drop(index="all", columns="all")
    rare = [(n, name, fold) for fold, row in by_fold.iterrows() for name, n in row.items() if n < FEW]
    for stream, kind in params.kinds.items():
        if (file := FILE.get(kind)) and (lack := int((table[file] == "").sum())):
            found.append(f"features.{stream} needs {file} files, and {lack} of {len(table)} utterances have none")
    if params.folds.shared:
        both = split(table, params, 1, "honest")
        trained = set(table.loc[table["utterance"].isin(both.train), "speaker"])
        tested = table.loc[table["utterance"].isin(both.test), "speaker"]
        found.append(
            f"{tested.isin(trained).mean():.0%} of the tested utterances are by speakers that are trained on, too "
            "(folds.shared): the number is not one of new speakers"
        )
    if rare:
        n, name, fold = min(rare)
        more = f", and {len(rare) - 1} more pairs of fold and class have fewer than {FEW}" if len(rare) > 1 else ""
        found.append(f"{fold} has {n} utterances of {name}{more}: too rare for a recall that can be trusted")
    if (speakers := table["speaker"].nunique()) < SPEAKERS:
        found.append(f"{speakers} speakers are too few: below {SPEAKERS} an interval over speakers is too narrow")
    unmapped = left_out["reason"].str.extract(UNMAPPED)[0].dropna()
    if len(unmapped):
        told = ", ".join(f"{label} {n}" for label, n in unmapped.value_counts().head(5).items())
        found.append(f"labels that corpus.labels does not map: {told}; are they left out on purpose?")
    other = left_out.drop(index=unmapped.index)
    if len(other):
        found.append(f"{len(other)} left out for another reason, {other['utterance'].iloc[0]} first: see above")
    one_class = table.groupby("speaker")["emotion"].nunique()
    if (one := one_class[one_class == 1]).size and len(classes) > 1:
        found.append(f"{len(one)} speakers have one class only, {one.index[0]} first: speaker and class are told alike")
    shares = table["emotion"].value_counts(normalize=True)
    if shares.iloc[0] > 2 / len(classes):
        found.append(
            f"{shares.index[0]} is {shares.iloc[0]:.0%} of all: WA alone rewards guessing it; UA (chance "
            f"{1 / len(classes):.0%}) does not"
        )
    files = table.loc[table["audio"] != "", "audio"]
    if files.duplicated().any() and "audio_from" not in table:
        found.append(f"{files[files.duplicated()].iloc[0]} is the sound of several utterances, each of them all of it")
    drawn = sorted(table["utterance"], key=lambda u: digest(["look", u]))
    rows = table.set_index("utterance").loc[drawn].reset_index().to_dict("records")
    for row in rows[: 3 - min(3, len(found))]:
        place = root / (row["video"] or row["audio"]) if row["video"] or row["audio"] else "features of it"
        found.append(f"play {row['utterance']}, {row['emotion']} by {row['speaker']}: is the label right? {place}")
    return found


def _shown(table: pd.DataFrame) -> str:
    return "\n".join(f"  {line}" for line in table.to_string(index_names=False).splitlines())
