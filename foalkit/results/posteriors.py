"""What an audio and a video network answered for all RAVDESS speech takes, as published: read, checked and scored.

Luna-Jiménez et al., "A Proposal for Multimodal Emotion Recognition Using Aural Transformers and Action Units on RAVDESS
Dataset", Applied Sciences 12(1):327, 2022. Their repository (MIT licence) has the posteriors, and so it may be asked
what their printed 86.70 is worth without training anything.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from foalkit import UserError
from foalkit.params.load import expand, read_published
from foalkit.results import scoring
from foalkit.results.tables import METRICS, percent, with_interval

CLASSES = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
SYSTEMS = {  # column of answers: its name, modality
    "video": ("video network", "V"),
    "audio": ("audio network", "A"),
    "fusion": ("their fusion, as printed", "A+V"),
    "product": ("plain product", "A+V"),
}
MISSING = (
    "The posteriors are not here: git clone https://github.com/cristinalunaj/MMEmotionRecognition, "
    "then export RAVDESS_POSTERIORS=<that folder> and start again."
)
FILES = {  # in a checkout; the folds count from 0, but for the video
    "audio": "wav2Vec/posteriors/20211020_094500/fold{}/posteriors_test.csv",
    "video": "AUs_biLSTM_6213/posteriorsv2/RAVDESS_AUs-val--fold_{}_outof_5-posteriors.csv",
    "fusion": "Fusion/posteriors/test_fold{}.csv",
}


def read(folder: str) -> tuple[pd.DataFrame, dict[str, np.ndarray]] | None:
    """All takes of the test sides, and the probabilities `(N, 8)` of "audio", "video" and "fusion", columns `CLASSES`.

    The table has utterance, speaker, fold (1-5) and true (class number). `folder` is a checkout of the authors'
    repository, or holds audio.csv, video.csv and fusion.csv: take, fold, side, a column per class (logits; fusion:
    probabilities). None where it names a variable that is not set. Raises UserError for a file that is missing or not
    such a table, and unless all three answer the same takes once, each actor in one fold.
    """
    try:
        place = expand(folder, "folder")
    except UserError:
        return None
    checkout = place / "data" / "posteriors"
    tables = {}
    for name in FILES:
        try:
            table = _of_checkout(checkout, name) if checkout.is_dir() else _of_table(place / f"{name}.csv")
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: there is no such file. {MISSING}") from None
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{place}: not the posteriors of {name} ({type(error).__name__}: {error})") from None
        tables[name] = table = table.sort_index()
        first = tables["audio"]
        if not (table.index.is_unique and table["fold"].equals(first["fold"])):
            raise UserError(f"{place}: audio and {name} do not answer the same takes once, in the same folds")
        if not np.isfinite(table.to_numpy(float)).all():
            raise UserError(f"{place}: {name} has answers that are no numbers")
    takes = first[["fold"]].rename_axis("utterance").reset_index()
    takes["speaker"] = "Actor_" + takes["utterance"].str[-2:]
    takes["true"] = takes["utterance"].str[6:8].astype(int) - 1  # the third of a take's seven fields
    if (takes.groupby("speaker")["fold"].nunique() > 1).any():
        raise UserError(f"{place}: an actor is tested in two folds")
    return takes, {name: _probabilities(table[CLASSES].to_numpy(float), name) for name, table in tables.items()}


def _of_table(file: Path) -> pd.DataFrame:
    """fold and a column per class, by take, of the test sides."""
    table = pd.read_csv(file)
    table = table[table["side"] == "test"] if "side" in table else table
    return table.set_index("take")[["fold", *CLASSES]]


def _of_checkout(place: Path, name: str) -> pd.DataFrame:
    """The same from the authors' files, in which all but the fusion's columns are in the order of the alphabet."""
    parts = []
    for fold in range(1, 6):
        if name == "video":  # a take's file, and its logits as a list in quotes
            table = pd.read_csv(place / FILES[name].format(fold), header=None)
            takes, numbers = table[0].str.removesuffix(".csv"), [json.loads(row) for row in table[1]]
        else:
            table = pd.read_csv(place / FILES[name].format(fold - 1), sep=";")
            takes, numbers = table.iloc[:, 8], table.iloc[:, :8].to_numpy(float)
        columns = CLASSES if name == "fusion" else sorted(CLASSES)
        parts.append(pd.DataFrame(numbers, takes.to_numpy(), columns)[CLASSES].assign(fold=fold))
    return pd.concat(parts)


def _probabilities(numbers: np.ndarray, name: str) -> np.ndarray:
    from scipy.special import softmax

    return numbers if name == "fusion" else softmax(numbers, axis=1)


def by_fold(takes: pd.DataFrame) -> pd.DataFrame:
    """UA and WA (fractions) of each system and fold: columns variant, fold, ua, wa.

    `takes` are `read`'s, with a column of answers (class numbers) for some of `SYSTEMS`.
    """
    return pd.DataFrame(
        {"variant": name, "fold": fold, **{m: metric(part["true"], part[name]) for m, metric in METRICS.items()}}
        for name in _systems(takes)
        for fold, part in takes.groupby("fold")
    )


def pooled(takes: pd.DataFrame) -> pd.DataFrame:
    """UA and WA (fractions) of each system over all takes with their intervals by actor, as `figures.ablation` reads.

    Columns variant, label, modality and <metric>_pooled, _low, _high; `takes` as for `by_fold`.
    """
    rows = []
    for name in _systems(takes):
        row = dict(zip(("variant", "label", "modality"), (name, *SYSTEMS[name]), strict=True))
        for m, metric in METRICS.items():
            ends = scoring.interval(takes["true"], takes[name], takes["speaker"], metric)
            row |= {f"{m}_pooled": metric(takes["true"], takes[name]), f"{m}_low": ends[0], f"{m}_high": ends[1]}
        rows.append(row)
    return pd.DataFrame(rows)


def recomputed_table(takes: pd.DataFrame) -> pd.DataFrame:
    """Accuracy (WA) in percent of each system on each fold, its mean over the folds, and the number printed for it."""
    printed = {r.modality: r.wa for r in read_published() if r.system.startswith("Luna-Jiménez")}
    folds = by_fold(takes).pivot(index="variant", columns="fold", values="wa")
    table = folds.rename(columns="fold {}".format).assign(**{"mean of folds": folds.mean(axis=1)})
    table = table.map(percent).loc[_systems(takes)]
    table["printed"] = [
        "–" if name == "product" else f"{printed[modality]:.2f}"
        for name, modality in ((name, SYSTEMS[name][1]) for name in table.index)
    ]
    return table.rename(index=lambda name: SYSTEMS[name][0]).rename_axis(index=None, columns=None)


def score_table(takes: pd.DataFrame) -> pd.DataFrame:
    """WA and UA in percent over all takes, with the 95 % interval that resamples actors (`scoring.interval`)."""
    rows = pooled(takes)
    table = {
        m.upper(): [with_interval(*row) for row in rows[[f"{m}_pooled", f"{m}_low", f"{m}_high"]].to_numpy()]
        for m in ("wa", "ua")
    }
    return pd.DataFrame(table, rows["label"].to_list())


def difference_table(takes: pd.DataFrame, *pairs: tuple[str, str]) -> pd.DataFrame:
    """WA and UA of one system minus those of another on the same takes, in points, intervals as in `score_table`.

    p exchanges the two systems' answers actor by actor (`scoring.paired_p`).
    """
    rows = {}
    for one, other in pairs:
        args = [takes[c].to_numpy() for c in ("true", one, other, "speaker")]
        row = {}
        for m in ("wa", "ua"):
            value = METRICS[m](args[0], args[1]) - METRICS[m](args[0], args[2])
            row[m.upper()] = with_interval(value, *scoring.paired_interval(*args, METRICS[m]), "+.2f")
        rows[f"{SYSTEMS[one][0]} − {SYSTEMS[other][0]}"] = {**row, "p (UA)": f"{scoring.paired_p(*args):.4f}"}
    return pd.DataFrame(rows).T


def _systems(takes: pd.DataFrame) -> list[str]:
    return [name for name in SYSTEMS if name in takes]
