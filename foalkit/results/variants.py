"""A variant's runs put together from their records and predictions: what every table and figure is made of."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd

from foalkit import UserError
from foalkit.files import file_digest, write_sealed
from foalkit.params import Params
from foalkit.results import records, scoring

# the variant that stands for each system, and its plain fusion, which the others are compared with
SYSTEMS = {"foal-net": "Foal-Net", "cfn-sr": "CFN-SR"}
PLAIN = {"foal-net": "baseline", "cfn-sr": "concat", "late-product": "baseline"}
PRINTED_ON = {"foal-net": "IEMOCAP", "cfn-sr": "RAVDESS"}  # the corpus of each paper's numbers


@dataclass(frozen=True)
class VariantResult:
    """All runs of one variant under one protocol: the table row, the folds' scores, the pooled predictions."""

    row: dict
    folds: pd.DataFrame  # fold, seed, selection, ua, wa, epoch
    epochs: pd.DataFrame  # fold, seed, epoch, ua, wa, loss of the test side
    pooled: pd.DataFrame  # utterance, speaker, true, fold, seed, predicted, confidence (the protocol's selection)
    runs: list[dict]  # the records, each with its folder


def variant_result(params: Params, protocol: str, variant: str) -> VariantResult:
    """Scores of a variant over the protocol's folds and all seeds from its runs' records and predictions.

    Pooled scores stack the answers of all seeds: every seed answers the same utterances, so they are the means over
    seeds of the scores pooled over folds, and the row's sd is of those. Raises UserError when a run is missing,
    naming it: a five-fold number over four folds is none.
    """
    missing = [f"fold {f} seed {s}" for _, _, f, s in records.missing_runs(params, [(protocol, variant)])]
    if missing:
        raise UserError(f"{params.name}/{protocol}/{variant}: no run for {', '.join(missing)}; train it first")
    runs = records.read_runs(params, protocol, variant)
    rule = scoring.SELECTION[protocol]
    folds = pd.DataFrame(
        {"fold": r["fold"], "seed": r["seed"], "selection": name, **scores}
        for r in runs
        for name, scores in r["scores"].items()
    )
    parts, epochs = [], []
    for r in runs:
        test = records.read_predictions(r["folder"]).query("split == 'test'")
        by_epoch = scoring.scores_by_epoch(test).drop(columns="split")
        epochs.append(by_epoch.assign(fold=r["fold"], seed=r["seed"]))
        parts.append(run_answers(r, test))
    pooled = pd.concat(parts, ignore_index=True)
    if pooled.duplicated(["utterance", "seed"]).any():
        raise UserError(f"{params.name}/{protocol}/{variant}: an utterance is tested twice; the folds overlap")
    v, row = params.variants[variant], {}
    chosen = folds[folds["selection"] == rule]
    means = folds.groupby("selection")[["ua", "wa"]].mean()
    columns = tuple(pooled[c].to_numpy() for c in ("true", "predicted", "speaker"))
    for name, metric in {"ua": scoring.ua, "wa": scoring.wa}.items():
        by_seed = [metric(part["true"], part["predicted"]) for _, part in pooled.groupby("seed")]
        low, high = scoring.interval(*columns, metric)
        row |= {
            f"{name}_pooled": metric(*columns[:2]),
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_seed_sd": np.std(by_seed, ddof=1) if len(by_seed) > 1 else None,
            f"{name}_folds": chosen[name].mean(),
        }
    row = {
        "variant": variant,
        "label": v.label,
        "modality": v.modality,
        "protocol": protocol,
        "selection": rule,
        "folds": len(params.fold_numbers(protocol)),
        "seeds": len(params.seeds),
        "utterances": pooled["utterance"].nunique(),
        "speakers": pooled["speaker"].nunique(),
        **row,
        "ua_validation": _validation_ua(runs) if rule == "validation" else None,
        "ua_last": means.loc["last", "ua"],
        "ua_test": means.loc["test", "ua"],
        "peeking": means.loc["test", "ua"] - means.loc[scoring.FAIR[protocol], "ua"],
        "parameters": runs[0]["parameters"],
        "seconds": sum(r["seconds"] for r in runs),
    }
    return VariantResult(row, folds, pd.concat(epochs, ignore_index=True), pooled, runs)


def interval_words(row: dict, metric: str = "ua") -> str:
    """A row's interval as "[58.0%, 68.9%]"; with the speakers where they are few; words where they are too few."""
    if row["speakers"] < scoring.INTERVAL_FROM:
        return f"no interval of {row['speakers']} speakers"
    few = f" ({row['speakers']} speakers)" if row["speakers"] < scoring.FEW_SPEAKERS else ""
    return f"[{row[f'{metric}_low']:.1%}, {row[f'{metric}_high']:.1%}]{few}"


def _validation_ua(runs: list[dict]) -> float:
    """The mean UA on the validation sides, at the epochs chosen there: what rows and settings may be chosen by."""
    chosen = ((r["history"], r["scores"]["validation"]["epoch"]) for r in runs)
    return fmean(next(h["validation_ua"] for h in history if h["epoch"] == epoch) for history, epoch in chosen)


def run_answers(run: dict, test: pd.DataFrame | None = None) -> pd.DataFrame:
    """A run's answers on its test side at its selected epoch, from its predictions (or their `test` part).

    Columns utterance, speaker, true, fold, seed, predicted (class numbers) and confidence (probability of predicted).
    """
    test = records.read_predictions(run["folder"]).query("split == 'test'") if test is None else test
    chosen = test[test["epoch"] == run["scores"][run["selection"]]["epoch"]]
    predicted, confidence = answers(chosen)
    return chosen[["utterance", "speaker", "true"]].assign(
        fold=run["fold"], seed=run["seed"], predicted=predicted, confidence=confidence
    )


def paired(result: VariantResult, other: VariantResult, *more: str) -> tuple[np.ndarray, ...]:
    """Truth, answers, the other's answers and speakers of the same utterances and seeds, each `(N,)`.

    `more` names further columns of the result's `pooled` that follow.
    """
    both = result.pooled.merge(other.pooled, on=["utterance", "seed"], suffixes=("", "_other"))
    return tuple(both[c].to_numpy() for c in ("true", "predicted", "predicted_other", "speaker", *more))


def answers(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The class of the largest logit and its softmax probability, each `(N,)`, of predictions' rows."""
    from scipy.special import softmax

    logits = predictions.filter(like="logit_").to_numpy(float)
    return logits.argmax(1), softmax(logits, axis=1).max(1)


def write_five_fold(params: Params, result: VariantResult, into: Path | None = None) -> Path:
    """five_fold/<protocol>-<variant>.json in outputs/<params>/ (or `into`); returns the path.

    It holds the variant's row, its folds' scores and the runs behind them: their folders in outputs/<params>/, and
    their records' digests.
    """
    file = (into or params.folder) / "five_fold" / f"{result.row['protocol']}-{result.row['variant']}.json"
    plain = json.loads(result.folds.to_json(orient="records"))
    runs = []
    for r in result.runs:
        folder = r["folder"].relative_to(params.folder).as_posix()
        about = {"fold": r["fold"], "seed": r["seed"], "folder": folder, "record": f"{folder}/record.json"}
        runs.append(about | {"digest": file_digest(r["folder"] / "record.json")})
    row = {k: v.item() if isinstance(v, np.generic) else v for k, v in result.row.items()}
    row = {k: None if v != v else v for k, v in row.items()}  # NaN: no interval of so few speakers
    write_sealed(file, {"schema": records.SCHEMA, "row": row, "folds": plain, "runs": runs})
    return file


def read_absent(result: VariantResult) -> pd.DataFrame | None:
    """The test side's answers with one modality hidden, all runs: utterance, speaker, condition, true, predicted.

    `condition` is "no audio" or "no video". None where a run has no absent.parquet (one modality, or an older run).
    """
    if not all("absent_digest" in r for r in result.runs):
        return None
    parts = [records.read_predictions(r["folder"], "absent") for r in result.runs]
    table = pd.concat(parts, ignore_index=True)
    return table[["utterance", "speaker", "condition", "true"]].assign(predicted=answers(table)[0])


def shown_rows(params: Params, results: list[VariantResult], protocol: str = "honest") -> list[VariantResult]:
    """A protocol's best-known row and its plain fusion, as far as they are among the results.

    The best known is foal-net, or cfn-sr, or without them the row of the best UA; the ledger's rows are left out.
    """
    rows = {
        r.row["variant"]: r
        for r in results
        if r.row["protocol"] == protocol and not params.variants[r.row["variant"]].ledger
    }
    if not rows:
        return []
    known = [name for name in SYSTEMS if name in rows]
    best = known[0] if known else max(rows, key=lambda name: rows[name].row["ua_pooled"])
    plain = PLAIN[params.variants[best].network]
    return [rows[name] for name in dict.fromkeys([best, plain]) if name in rows]
