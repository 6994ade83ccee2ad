"""Which streams each utterance has: a corpus may lack the sound, the picture or the features of some utterances."""

from pathlib import Path

import numpy as np
import pandas as pd

from foalkit import UserError
from foalkit.features import media
from foalkit.features.encoders import make_encoder
from foalkit.features.reader import FILE
from foalkit.features.reasons import Reason, or_reason
from foalkit.features.store import FeatureStore
from foalkit.params import Params
from foalkit.params.encoders import Kind
from foalkit.progress import progress
from foalkit.results import records


def lacking(params: Params, table: pd.DataFrame) -> pd.DataFrame:
    """Whether an utterance (index) lacks the files of a stream (columns): True where there is nothing to make it from.

    No file is opened, but for those of imported features that hold many utterances. Raises UserError for imported
    features whose folder is not there. Of features that are made for each fold an utterance must be in all sets.
    """
    found = {}
    for stream, kind in params.kinds.items():
        if kind in FILE:
            found[stream] = (table[FILE[kind]] == "").tolist()
        else:
            rows, lacks = table.to_dict("records"), np.zeros(len(table), bool)
            for fold, own in params.sets(stream).items():
                encoder = make_encoder(own.features[stream], params.weights_folder, params.set_key(stream, fold))
                lacks |= [not encoder.has(row) for row in rows]
            found[stream] = lacks
    return pd.DataFrame(found, index=pd.Index(table["utterance"]), dtype=bool)


def without_files(params: Params, table: pd.DataFrame, lacks: pd.DataFrame | None = None) -> dict[str, str]:
    """The streams that cannot be tested, and why: all utterances of the table that some fold tests lack their files.

    `lacks` is what `lacking` says of the table. Raises UserError where no row of the ablation is left.
    """
    lacks = lacking(params, table) if lacks is None else lacks
    found = {}
    for stream in params.features:
        have = ~lacks[stream].to_numpy()
        tested = [table[params.folds.column].isin(groups) for groups in params.folds.groups]
        none = [
            groups
            for groups, rows in zip(params.folds.groups, tested, strict=True)
            if (rows & ~have).any() and not (rows & have).any()
        ]
        if none:
            words = f"{len(table) - have.sum()} of {len(table)} utterances have no {_needed(params, stream)}"
            found[stream] = f"{words}, among them all of {', '.join(none[0])}"
    if found and not any(records.runnable(params, found).ablation.values()):
        raise UserError(f"no row can be run: {'; '.join(f'{stream}: {why}' for stream, why in found.items())}")
    return found


def media_of(params: Params) -> list[str]:
    """The manifest's columns of the media that the params' streams are made from."""
    return sorted({FILE[kind] for kind in params.kinds.values() if kind in FILE})


def some_lack(params: Params, lacks: pd.DataFrame) -> dict[str, str]:
    """What to say of the streams that some utterances, the index of `lacks`, have no files of."""
    counts = lacks.sum()
    return {
        stream: f"{n} of {len(lacks)} utterances have no {_needed(params, stream)}" for stream, n in counts.items() if n
    }


def has_nothing(params: Params, lacks: pd.DataFrame) -> dict[str, str]:
    """The utterances that lack all streams of `lacks`, with the reason why they are left out."""
    nothing = lacks.index[lacks.all(axis=1)]
    why = " and ".join(dict.fromkeys(f"no {_needed(params, stream)}" for stream in lacks))
    return {utterance: f"has {why}" for utterance in nothing}


def with_lengths(
    table: pd.DataFrame, root: Path, kinds: tuple[Kind, ...] = ("picture", "sound")
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with the ends that its reader does not know, from the files' headers, and what has none.

    Only files that streams of these `kinds` are made from are opened; without any, the end stays unknown (NaN).
    """
    ends, bad, unknown = table["end"].to_dict(), {}, table[table["end"].isna()]
    used = [FILE[kind] for kind in ("picture", "sound") if kind in kinds]
    for at, turn in progress(unknown.to_dict("index").items(), "lengths") if len(unknown) and used else ():
        file = next((turn[column] for column in used if turn[column]), None)
        found = or_reason(file, media.seconds, root / file) if file else None
        if isinstance(found, Reason):
            bad[turn["utterance"]] = str(found)
        else:
            ends[at] = found
    table = table.assign(end=pd.Series(ends, dtype=float))
    return table[~table["utterance"].isin(bad)].reset_index(drop=True), bad


def ends_of_features(params: Params, table: pd.DataFrame, stores: dict[str, FeatureStore]) -> pd.Series:
    """The table's ends; those that are not known from the longest of the imported features that say their `step`.

    `stores` are by the names of the sets (`Params.set_name`).
    """
    steps = {
        name: step
        for s, kind in params.kinds.items()
        for fold in params.sets(s)
        if kind == "numbers" and (step := params.features[s].step) and (name := params.set_name(s, fold)) in stores
    }
    if not steps or table["end"].notna().all():
        return table["end"]
    longest = table["utterance"].map(lambda u: max(stores[s].lengths.get(u, 0) * step for s, step in steps.items()))
    return table["end"].fillna((table["start"] + longest.round(4)).where(longest > 0))


def _needed(params: Params, stream: str) -> str:
    kind, spec = params.kinds[stream], params.features[stream]
    return f"{FILE[kind]} file" if kind in FILE else f"features of {stream} ({spec.folder}/{spec.pattern})"
