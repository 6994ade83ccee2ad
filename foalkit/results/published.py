"""What others printed (params/published.yaml), ranked where it may be, with ours among them where they belong."""

from typing import get_args

import pandas as pd

from foalkit import UserError
from foalkit.params import Params
from foalkit.params.load import read_published
from foalkit.params.rows import PublishedRow, Selected
from foalkit.results import scoring


def rank(rows: list[PublishedRow]) -> list[tuple[int | None, PublishedRow]]:
    """The rows with their places, best first, by the metric that most of them print (UA where both do).

    Rows without that metric follow without a place. Raises UserError for rows of different corpora or protocols,
    naming both: such numbers were not earned in the same way.
    """
    for key in ("corpus", "protocol"):
        kinds = list(dict.fromkeys(getattr(r, key) for r in rows))
        if len(kinds) > 1:
            raise UserError(f"not to be ranked together: rows of {key} {kinds[0]!r} and {kinds[1]!r}")
    metric = max(("ua", "wa"), key=lambda m: sum(getattr(r, m) is not None for r in rows))
    placed = sorted((r for r in rows if getattr(r, metric) is not None), key=lambda r: -getattr(r, metric))
    places = [1 + sum(getattr(o, metric) > getattr(r, metric) for o in placed) for r in placed]
    return [*zip(places, placed, strict=True), *((None, r) for r in rows if getattr(r, metric) is None)]


def why_apart(params: Params) -> str:
    """Why our rows cannot stand among the published ones, in a sentence; empty where they can."""
    if params.corpus.printed is None:
        return "No printed numbers of the corpus in use are known to this kit."
    corpus, classes = params.corpus.printed
    if params.corpus.generate:
        return (
            f"The corpus in use is generated, in {corpus}'s layout only. Ours are numbers of "
            "another corpus than the published ones, so none of our rows stands among them."
        )
    if len(params.corpus.classes) != classes:
        return (
            f"The published numbers are of {classes} classes and ours of {len(params.corpus.classes)}, so none "
            "of our rows stands among them."
        )
    return ""


def published_tables(params: Params, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """{protocol: ranked table} of the registry's rows of the params' corpus, percentages.

    Ours stand where the epoch was chosen, or the split made, in the same way, as pooled over the folds, or nowhere
    (`why_apart`).
    """
    corpus = params.corpus.printed[0] if params.corpus.printed else None
    kept = [r for r in read_published() if r.corpus == corpus]
    for r in [] if why_apart(params) else rows.to_dict("records"):
        kept.append(
            PublishedRow(
                system=f"ours: {r['label']}",
                corpus=corpus,
                modality=r["modality"],
                ua=100 * r["ua_pooled"],
                wa=100 * r["wa_pooled"],
                protocol=r["protocol"] if r["protocol"] in scoring.MARKED else f"{r['selection']}-selected",
                folds=_folds(params, r),
                parameters=r["parameters"] / 1e6,
                source=f"five_fold/{r['protocol']}-{r['variant']}.json",
            )
        )
    tables = {}
    for tag in get_args(Selected):
        ranked = rank([r for r in kept if r.protocol == tag])
        if ranked:
            tables[tag] = pd.DataFrame([_published_line(place, r) for place, r in ranked])
    return tables


def _folds(params: Params, row: dict) -> str:
    never = params.never_tested(row["protocol"])
    return f"{row['folds']}{'; never tested: ' + ', '.join(never) if never else ''}"


def _published_line(place: int | None, row: PublishedRow) -> dict[str, str]:
    def shown(value, form=""):
        return "–" if value is None else f"{value:{form}}"

    return {
        "place": shown(place),
        "system": row.system,
        "year": shown(row.year),
        "modality": row.modality,
        "UA": shown(row.ua, ".2f"),
        "WA": shown(row.wa, ".2f"),
        "folds": row.folds or "–",
        "parameters (M)": shown(row.parameters, ".2f"),
        "source": row.source,
        "note": row.note,
    }
