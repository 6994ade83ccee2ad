"""Answers of trained rows on a damaged test side: the records beside the runs, and the table made of them."""

import time
from pathlib import Path

import pandas as pd

from foalkit.files import digest, file_digest, read_sealed, write_parquet, write_sealed
from foalkit.params import Params
from foalkit.results import records, scoring
from foalkit.results.tables import percent, with_interval
from foalkit.results.variants import VariantResult, answers, run_answers

VERSION = 1  # raise it when a change elsewhere changes what a condition does to a clip


def record_file(params: Params, run: dict) -> Path:
    """Where a run's answers on the damaged test side lie, beside the run: a name for these weights and conditions."""
    made_of = [VERSION, run["weights_digest"], run.get("manifest_digest"), run.get("feature_digests")]
    return run["folder"] / f"robustness-{digest([*made_of, params.robustness.digest])}.json"


def tried_rows(params: Params) -> list[str]:
    """The rows of `robustness.rows` that the honest protocol has, in the params' order."""
    return [v for v in params.ablation.get("honest", []) if v in params.robustness.rows]


def write(params: Params, run: dict, answered: pd.DataFrame, **info) -> Path:
    """Write a run's answers (utterance, speaker, condition, true, logits) and, last, their record; returns its path.

    `info` has `left_out`, a reason for each (condition, utterance) that has no answer.
    """
    file = record_file(params, run)
    write_parquet(file.with_suffix(".parquet"), answered)
    conditions = {c.name: {"kind": c.kind, "level": c.level, "of": c.of} for c in params.robustness.conditions}
    about = {"run": run["run"], "version": VERSION, "seed": params.robustness.seed, "conditions": conditions}
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about |= {"answers_digest": file_digest(file.with_suffix(".parquet")), "finished": finished, **info}
    write_sealed(file, {"schema": records.SCHEMA, **about})
    return file


def read(params: Params, run: dict) -> tuple[pd.DataFrame, dict] | None:
    """A run's answers on the damaged test side, with `predicted`, and their record; None where there are none.

    Raises Damaged for a record that is not whole, and for answers that are not those that it was written with.
    """
    file = record_file(params, run)
    try:
        record = read_sealed(file)
    except FileNotFoundError:
        return None
    except (ValueError, IsADirectoryError) as error:
        raise records.Damaged(f"{file}: not a whole record ({error}); {records.AGAIN}") from None
    table = pd.read_parquet(records.compared(file.with_suffix(".parquet"), record["answers_digest"]))
    return table.assign(predicted=answers(table)[0] if len(table) else 0), record


def finished(params: Params, run: dict) -> bool:
    """Whether a run has its answers, none of them left out for want of a recording."""
    found = read(params, run)
    return found is not None and not found[1]["left_out"]


def measured(params: Params, results: list[VariantResult]) -> tuple[pd.DataFrame, list[str]]:
    """UA of the rows of `robustness.rows`, undamaged and under each condition, and in words what is not in it.

    Fractions: variant, label, modality, condition ("undamaged" first), utterances, ua, low, high (interval by speaker)
    and, but for the undamaged, difference, difference_low, difference_high, to the same row on the same utterances.
    A row without answers of all its runs is named in the words and left out.
    """
    rows, words = [], []
    wanted = tried_rows(params)
    for result in (r for r in results if r.row["protocol"] == "honest" and r.row["variant"] in wanted):
        found = [read(params, run) for run in result.runs]
        label = result.row["label"]
        if None in found:
            words.append(f"{label}: not measured; run `foalkit robustness` with these params, then 04_ablation again")
            continue
        left_out = {reason for _, record in found for reason in record["left_out"].values()}
        if left_out:
            count = sum(len(record["left_out"]) for _, record in found)
            words.append(f"{label}: {count} answers are missing, the first because of this: {min(left_out)}")
        for stream in found[0][1]["undamaged_streams"]:
            words.append(f"{label}: the stream {stream} has no recordings to damage (features made elsewhere)")
        table = pd.concat(
            answered.assign(seed=run["seed"]) for run, (answered, _) in zip(result.runs, found, strict=True)
        )
        plain = result.pooled[["utterance", "seed", "predicted"]].rename(columns={"predicted": "undamaged"})
        about = {k: result.row[k] for k in ("variant", "label", "modality")}
        whole = {"utterances": result.row["utterances"], "ua": result.row["ua_pooled"]}
        whole |= {"low": result.row["ua_low"], "high": result.row["ua_high"]}
        rows.append(about | {"condition": "undamaged"} | whole)
        for condition in params.robustness.conditions:
            part = table[table["condition"] == condition.name].merge(plain, on=["utterance", "seed"])
            if len(part):
                rows.append(about | {"condition": condition.name} | _scores(part))
    table = pd.DataFrame(rows)
    order = {name: i for i, name in enumerate(["undamaged", *(c.name for c in params.robustness.conditions)])}
    shown = table.sort_values("condition", key=lambda c: c.map(order), kind="stable") if rows else table
    return shown.reset_index(drop=True), words


def _scores(part: pd.DataFrame) -> dict:
    true, now, before, speakers = (part[c].to_numpy() for c in ("true", "predicted", "undamaged", "speaker"))
    low, high = scoring.interval(true, now, speakers)
    less, more = scoring.paired_interval(true, now, before, speakers)
    ua = scoring.ua(true, now)
    return {
        "utterances": part["utterance"].nunique(),
        "ua": ua,
        "low": low,
        "high": high,
        "difference": ua - scoring.ua(true, before),
        "difference_low": less,
        "difference_high": more,
    }


def robustness_table(rows: pd.DataFrame) -> pd.DataFrame:
    """`measured` as it is read: a line per condition; per row of the ablation UA and the change, with intervals."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows.to_dict("records"):
        line = lines.setdefault(row["condition"], {"test side": row["condition"]})
        line[f"{row['label']}: UA"] = with_interval(row["ua"], row["low"], row["high"])
        if row["condition"] != "undamaged":
            change = with_interval(*(row[f"difference{k}"] for k in ("", "_low", "_high")), "+.2f")
            line[f"{row['label']}: change"] = change
    if not lines:
        return pd.DataFrame()
    table = pd.DataFrame(lines.values())
    columns = [f"{label}: {what}" for label in rows["label"].unique() for what in ("UA", "change")]
    return table.reindex(columns=["test side", *columns]).fillna("–")


def one_run(params: Params, run: dict) -> pd.DataFrame | None:
    """UA in percent of one run on its damaged test side, and the change in points; None where it is not measured."""
    found = read(params, run)
    if found is None:
        return None
    plain = run_answers(run).set_index("utterance")
    lines = [{"test side": "undamaged", "UA": percent(scoring.ua(plain["true"], plain["predicted"]), ".1f")}]
    for condition, part in found[0].groupby("condition", sort=False):
        before = plain.loc[part["utterance"]]
        ua = scoring.ua(part["true"], part["predicted"])
        change = percent(ua - scoring.ua(before["true"], before["predicted"]), "+.1f")
        lines.append({"test side": condition, "UA": percent(ua, ".1f"), "change": change})
    return pd.DataFrame(lines).fillna("–").set_index("test side")
