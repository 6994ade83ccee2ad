"""Tables, figures and the HTML report from records and predictions alone."""

import argparse
import base64
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from foalkit import UserError, records, scoring
from foalkit.params import Params, PublishedRow, Selected, load, read_ledger, read_published

FEW = 20  # utterances: a stratum of fewer says little


@dataclass(frozen=True)
class VariantResult:
    """All runs of one variant under one protocol: the table row, the folds' scores, the pooled predictions."""

    row: dict
    folds: pd.DataFrame  # fold, seed, selection, ua, wa, epoch
    pooled: pd.DataFrame  # utterance, speaker, fold, seed, true, predicted (the protocol's selection)
    runs: list[dict]  # the records, each with its folder


def variant_result(params: Params, protocol: str, variant: str) -> VariantResult:
    """Scores of a variant over all folds and seeds from its runs' records and predictions.

    Raises UserError when a run is missing, naming it: a five-fold number over four folds is none.
    """
    missing = [f"fold {f} seed {s}" for _, _, f, s in records.missing_runs(params, [(protocol, variant)])]
    if missing:
        raise UserError(
            f"{params.name}/{protocol}/{variant}: no run for {', '.join(missing)}; train it first"
        )
    runs = records.read_runs(params, protocol, variant)
    rule = scoring.SELECTION[protocol]
    folds = pd.DataFrame(
        {"fold": r["fold"], "seed": r["seed"], "selection": name, **scores}
        for r in runs
        for name, scores in r["scores"].items()
    )
    parts = []
    for r in runs:
        p = records.read_predictions(r["folder"])
        p = p[(p["split"] == "test") & (p["epoch"] == r["scores"][rule]["epoch"])]
        predicted = p.filter(like="logit_").to_numpy().argmax(1)
        parts.append(
            p[["utterance", "speaker", "true"]].assign(fold=r["fold"], seed=r["seed"], predicted=predicted)
        )
    pooled = pd.concat(parts, ignore_index=True)
    if pooled.duplicated(["utterance", "seed"]).any():
        raise UserError(
            f"{params.name}/{protocol}/{variant}: an utterance is tested twice; the folds overlap"
        )
    true, predicted, speakers = (pooled[c].to_numpy() for c in ("true", "predicted", "speaker"))
    chosen = folds[folds["selection"] == rule]
    by_seed = chosen.groupby("seed")[["ua", "wa"]].mean()
    ua_low, ua_high = scoring.interval(true, predicted, speakers, scoring.ua)
    wa_low, wa_high = scoring.interval(true, predicted, speakers, scoring.wa)
    v = params.variants[variant]
    means = folds.groupby("selection")[["ua", "wa"]].mean()
    row = {
        "variant": variant,
        "label": v.label,
        "modality": v.modality,
        "protocol": protocol,
        "selection": rule,
        "folds": len(params.folds.groups),
        "seeds": len(params.seeds),
        "utterances": pooled["utterance"].nunique(),
        "ua_folds": chosen["ua"].mean(),
        "wa_folds": chosen["wa"].mean(),
        "ua_seed_sd": by_seed["ua"].std() if len(by_seed) > 1 else None,
        "ua_pooled": scoring.ua(true, predicted),
        "ua_low": ua_low,
        "ua_high": ua_high,
        "wa_pooled": scoring.wa(true, predicted),
        "wa_low": wa_low,
        "wa_high": wa_high,
        "ua_last": means.loc["last", "ua"],
        "ua_test": means.loc["test", "ua"],
        # the published protocol has no other rule than the test fold to compare with
        "peeking": means.loc["test", "ua"] - means.loc[rule, "ua"] if protocol == "honest" else None,
        "parameters": runs[0]["parameters"],
        "seconds": sum(r["seconds"] for r in runs),
    }
    return VariantResult(row, folds, pooled, runs)


def write_five_fold(params: Params, result: VariantResult, into: Path | None = None) -> Path:
    """five_fold/<protocol>-<variant>.json in outputs/<params>/ (or `into`); returns the path.

    It holds the variant's row, its folds' scores and, relative to outputs/<params>/, the runs behind them.
    """
    file = (into or params.folder) / "five_fold" / f"{result.row['protocol']}-{result.row['variant']}.json"
    plain = json.loads(result.folds.to_json(orient="records"))
    runs = []
    for r in result.runs:
        folder = r["folder"].relative_to(params.folder).as_posix()
        runs.append(
            {"fold": r["fold"], "seed": r["seed"], "folder": folder, "record": f"{folder}/record.json"}
        )
    content = {"schema": records.SCHEMA, "row": _plain(result.row), "folds": plain, "runs": runs}
    records.write_json(file, content)
    return file


def ablation_rows(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """One row per variant and protocol in the params' order, with the paper's printed UA and WA (fractions).

    The ledger's variants have no printed numbers: they stand in `ledger_table`.
    """
    rows = []
    for result in results:
        if params.variants[result.row["variant"]].ledger:
            continue
        printed = params.variants[result.row["variant"]].published
        method, percent = next(reversed(printed.items()), ("", (None, None)))
        ua, wa = (v and round(v / 100, 4) for v in percent)
        rows.append({**result.row, "method": method, "ua_printed": ua, "wa_printed": wa})
    return pd.DataFrame(rows)


def printed_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The ablation table as it is read: percentages, intervals in brackets, the paper's numbers beside ours."""

    def percent(value, form=".2f"):
        return "–" if value is None or pd.isna(value) else f"{100 * value:{form}}"

    def pooled(row, metric):
        low, high = row[f"{metric}_low"], row[f"{metric}_high"]
        return f"{percent(row[f'{metric}_pooled'])} [{percent(low, '.1f')}, {percent(high, '.1f')}]"

    return pd.DataFrame(
        {
            "modality": r["modality"],
            "variant": r["label"],
            "protocol, epoch by": f"{r['protocol']}, {r['selection']}",
            "UA": pooled(r, "ua"),
            "WA": pooled(r, "wa"),
            "mean of folds, UA / WA": f"{percent(r['ua_folds'])} / {percent(r['wa_folds'])}",
            "price of peeking": percent(r["peeking"], "+.2f"),
            "seeds": r["seeds"],
            "paper, UA / WA": f"{r['method']} {percent(r['ua_printed'])}\u00a0/\u00a0{percent(r['wa_printed'])}",
        }
        for r in rows.to_dict("records")
    )


def write_tables(params: Params, rows: pd.DataFrame, into: Path | None = None) -> list[Path]:
    """tables/ablation.csv (fractions, all columns) and tables/ablation.tex (booktabs); returns the paths."""
    folder = (into or params.folder) / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "ablation.csv", index=False)
    table = printed_table(rows)
    style = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    (folder / "ablation.tex").write_text(style.to_latex(hrules=True, column_format="lllrrrrrl"))
    return [folder / "ablation.csv", folder / "ablation.tex"]


def paired_differences(
    params: Params, results: list[VariantResult], against: str = "baseline"
) -> pd.DataFrame:
    """UA of each fused variant minus `against` on the same utterances, 95 % interval resampling speakers, p-values.

    `p` exchanges the two variants' answers speaker by speaker (`scoring.paired_p`); Holm's is over the rows of a
    protocol.
    """
    by_name = {(r.row["protocol"], r.row["variant"]): r for r in results}
    rows = []
    for (protocol, variant), result in by_name.items():
        other, v = by_name.get((protocol, against)), params.variants[variant]
        if other is None or variant == against or v.modality != other.row["modality"] or v.ledger:
            continue
        p = scoring.paired_p(*_paired(result, other))
        rows.append({"variant": v.label, "protocol": protocol, **_difference(result, other), "p": p})
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    adjusted = table.groupby("protocol")["p"].transform(scoring.holm)
    return table.assign(**{"p": table["p"].map("{:.4f}".format), "p (Holm)": adjusted.map("{:.4f}".format)})


def ledger_table(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """The ledger, a line per row and variant: what paper and code say, our default, and its effect where measured.

    The effect is UA of the row's variant minus foal-net's on the same utterances, in points, with the 95 % interval
    that resamples speakers.
    """
    by_name = {(r.row["protocol"], r.row["variant"]): r for r in results}
    lines = []
    for number, row in read_ledger().items():
        said = {
            "#": number,
            "topic": row.topic,
            "paper": row.paper,
            "released code": row.code,
            "ours": row.ours,
        }
        for name in row.variants or [None]:
            effects = [
                {"protocol": p, **_difference(result, by_name[p, "foal-net"])}
                for (p, variant), result in by_name.items()
                if variant == name
            ] or [{"UA difference (points)": "not measured here" if name else row.see}]
            label = params.variants[name].label if name else ""
            for effect in effects:
                lines.append({**said, "variant": label, **effect})
                said, label = dict.fromkeys(said, ""), ""
    columns = [*said, "variant", "protocol", "UA difference (points)", "95 % interval"]
    return pd.DataFrame([{c: line.get(c, "") for c in columns} for line in lines])


def _paired(result: VariantResult, other: VariantResult) -> tuple[np.ndarray, ...]:
    """Truth, answers, the other's answers and speakers of the same utterances and seeds, each `(N,)`."""
    both = result.pooled.merge(other.pooled, on=["utterance", "seed"], suffixes=("", "_other"))
    return tuple(both[c].to_numpy() for c in ("true", "predicted", "predicted_other", "speaker"))


def _difference(result: VariantResult, other: VariantResult) -> dict[str, str]:
    true, a, b, speakers = _paired(result, other)
    low, high = scoring.paired_interval(true, a, b, speakers)
    return {
        "UA difference (points)": f"{100 * (scoring.ua(true, a) - scoring.ua(true, b)):+.2f}",
        "95 % interval": f"[{100 * low:+.1f}, {100 * high:+.1f}]",
    }


def read_absent(result: VariantResult) -> pd.DataFrame | None:
    """The test side's answers with one modality hidden, all runs: utterance, speaker, condition, true, predicted.

    `condition` is "no audio" or "no video". None where a run has no absent.parquet (one modality, or an older run).
    """
    if not all("absent_digest" in r for r in result.runs):
        return None
    parts = [records.read_predictions(r["folder"], "absent") for r in result.runs]
    table = pd.concat(parts, ignore_index=True)
    predicted = table.filter(like="logit_").to_numpy().argmax(1)
    return table[["utterance", "speaker", "condition", "true"]].assign(predicted=predicted)


def absent_table(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """UA in percent of the honest rows when all is there, and when the picture or the sound is missing in the test.

    Fused variants answer with what is left, without having been trained for it; beside them stand the rows that
    were trained on that modality alone. Empty where no run has tried it.
    """

    def shown(answers: pd.DataFrame) -> str:
        columns = (answers[c].to_numpy() for c in ("true", "predicted", "speaker"))
        true, predicted, speakers = columns
        low, high = scoring.interval(true, predicted, speakers)
        return f"{100 * scoring.ua(true, predicted):.2f} [{100 * low:.1f}, {100 * high:.1f}]"

    rows, fused = [], False
    for result in (r for r in results if r.row["protocol"] == "honest"):
        v = params.variants[result.row["variant"]]
        if v.ledger:
            continue
        absent = read_absent(result)
        row = {"variant": v.label, "both": "–", "sound only": "–", "picture only": "–"}
        if absent is not None:
            fused = True
            row["both"] = shown(result.pooled)
            for column, condition in (("sound only", "no video"), ("picture only", "no audio")):
                row[column] = shown(absent[absent["condition"] == condition])
        elif len(v.streams) == 1:
            row["sound only" if v.streams == ["audio"] else "picture only"] = shown(result.pooled)
        else:
            continue
        rows.append(row)
    return pd.DataFrame(rows if fused else [])


def strata_table(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """UA and accuracy (percent, pooled) of the best-known honest row and the baseline, stratum by stratum.

    Strata are emotions, speakers, genders, kinds, clips cut or whole, and how often the face was found. A count
    below `FEW` utterances says so. Empty where no row is honest.
    """
    honest = {r.row["variant"]: r for r in results if r.row["protocol"] == "honest"}
    honest = {name: r for name, r in honest.items() if not params.variants[name].ledger}
    if not honest:
        return pd.DataFrame()
    best = _best(pd.DataFrame([r.row for r in honest.values()]).set_index("variant"))
    shown = [honest[name] for name in dict.fromkeys([best, "baseline"]) if name in honest]
    strata, rows = _strata(params).loc[shown[0].pooled["utterance"].unique()], []
    for by in strata:
        for stratum, utterances in strata.groupby(by, observed=True).groups.items():
            few = " (few)" if len(utterances) < FEW else ""
            row = {"by": by, "stratum": stratum, "utterances": f"{len(utterances)}{few}"}
            for result in shown:
                part = result.pooled[result.pooled["utterance"].isin(utterances)]
                answers, label = (part["true"], part["predicted"]), result.row["label"]
                # one emotion's accuracy is its recall, and its UA the same number
                row[f"UA, {label}"] = "–" if by == "emotion" else f"{100 * scoring.ua(*answers):.1f}"
                row[f"accuracy, {label}"] = f"{100 * scoring.wa(*answers):.1f}"
            rows.append(row)
    return pd.DataFrame(rows)


def _strata(params: Params) -> pd.DataFrame:
    """The stratum of each utterance of the manifest (index), a column per kind of stratum."""
    table = pd.read_parquet(params.folder / "manifest.parquet").set_index("utterance")
    strata = pd.DataFrame(index=table.index)
    strata["emotion"] = pd.Categorical(table["emotion"], params.corpus.classes)
    for column in ("speaker", "gender", "kind"):
        strata[column] = table[column]
    if params.clip.part != "all":
        cut = table["end"] - table["start"] > params.clip.seconds
        strata["clip"] = np.where(cut, f"cut at {params.clip.seconds:g} s", "whole")
    found = pd.Series(np.nan, table.index)
    for stream in params.features:
        file = params.folder / "features" / stream / "index.parquet"
        if file.exists():  # the store may be gone by now: training is done with it
            index = pd.read_parquet(file).set_index("utterance")
            found = found.fillna(index.get("found", found))
    often = np.where(found >= 0.9, "in 90 % of frames or more", "in fewer than 90 % of frames")
    strata["face found"] = np.where(found.isna(), "not measured", often)
    return strata


def _best(honest: pd.DataFrame) -> str:
    """The honest row (index: variant) that stands for the rest: foal-net, or the one of the best UA without it."""
    return "foal-net" if "foal-net" in honest.index else honest["ua_pooled"].idxmax()


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
    if params.corpus.generate:
        return (
            "The corpus in use is generated, in IEMOCAP's layout only. Ours are numbers of another corpus than "
            "the published ones, so none of our rows stands among them."
        )
    classes = {"iemocap": 4, "ravdess": 8}[params.corpus.reader]
    if len(params.corpus.classes) != classes:
        return (
            f"The published numbers are of {classes} classes and ours of {len(params.corpus.classes)}, so none "
            "of our rows stands among them."
        )
    return ""


def published_tables(params: Params, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """{protocol: ranked table} of the registry's rows of the params' corpus, percentages.

    Ours stand where the epoch was chosen in the same way, as pooled over the folds, or nowhere (`why_apart`).
    """
    corpus = params.corpus.reader.upper()
    kept = [r for r in read_published() if r.corpus == corpus]
    for r in [] if why_apart(params) else rows.to_dict("records"):
        kept.append(
            PublishedRow(
                system=f"ours: {r['label']}",
                corpus=corpus,
                modality=r["modality"],
                ua=100 * r["ua_pooled"],
                wa=100 * r["wa_pooled"],
                protocol=f"{r['selection']}-selected",
                folds=str(r["folds"]),
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


def _published_group(table: pd.DataFrame) -> dict:
    """A group as the page shows it: the table without empty columns, and each note once with its sources."""
    noted = table[table["note"] != ""].groupby("note", sort=False)["source"]
    shown = table.drop(columns="note").loc[:, lambda t: (t != "–").any()]
    return {
        "table": _html(shown),
        "ours": table["system"].str.startswith("ours: ").any(),
        "notes": {note: list(dict.fromkeys(sources)) for note, sources in noted},
    }


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


def write_report(params: Params, results: list[VariantResult], into: Path | None = None) -> Path:
    """outputs/<params>/report.html with every figure inside it, and the same figures and tables beside it.

    Everything is written below `into` instead where that is given. Returns the report's path.
    """
    from foalkit import figures

    into = into or params.folder
    info = json.loads((params.folder / "preprocess.json").read_text())
    rows = ablation_rows(params, results)
    write_tables(params, rows, into)
    ledger = ledger_table(params, results)
    ledger.to_csv(into / "tables" / "ledger.csv", index=False)
    strata = strata_table(params, results)
    strata.to_csv(into / "tables" / "strata.csv", index=False)
    honest = rows[rows["protocol"] == "honest"]
    folder = into / "figures"
    folder.mkdir(exist_ok=True)
    drawn = {}

    def add(name: str, figure, alt: str, caption: str) -> None:
        data = figures.png(figure, dpi=130)
        (folder / f"{name}.png").write_bytes(data)
        drawn[name] = {"data": base64.b64encode(data).decode(), "alt": alt, "caption": caption}

    by_name = {(r.row["protocol"], r.row["variant"]): r for r in results}
    chance = 1 / len(params.corpus.classes)
    add("ablation", *ablation_figure(params, results, rows, info["ceilings"], chance))
    for variant in ("baseline", "foal-net"):
        r = by_name.get(("honest", variant))
        if r:
            counts = scoring.confusion(r.pooled["true"], r.pooled["predicted"], params.corpus.classes)
            add(
                f"confusion-{variant}",
                figures.confusion(counts, params.variants[variant].label),
                f"Confusion matrix of {params.variants[variant].label}, row percentages.",
                f"{params.variants[variant].label}: true emotions in rows, percentages of the row, honest.",
            )
    for name, file in {
        "corpus-contact-sheet": "What training sees of the speakers, by emotion.",
        "corpus-waveforms": "One utterance per emotion: waveform and log-mel spectrum.",
    }.items():
        picture = params.folder / "figures" / f"{name}.png"
        if picture.exists():  # drawn by 01_preprocess
            drawn[name] = {
                "data": base64.b64encode(picture.read_bytes()).decode(),
                "alt": file,
                "caption": file,
            }
    last = by_name.get(("honest", "foal-net")) or results[-1]
    run = last.runs[0]
    history = pd.DataFrame(run["history"])
    add(
        "curves",
        figures.score_curves(history, run["scores"]),
        f"WA and UA over epochs of run {run['run']}, with the epochs chosen by each rule.",
        f"Run {run['run']}: WA and UA over epochs, and the epoch each selection rule takes.",
    )
    html = _template().render(
        params=params,
        params_json=params.model_dump_json(indent=1, exclude={"variants"}),
        info=info,
        figures=drawn,
        questions=[params.variants[v] for v in honest["variant"]],
        headline=_headline(params, rows, info),
        table=_html(printed_table(rows), rows),
        differences=_html(paired_differences(params, results)),
        speakers=results[0].pooled["speaker"].nunique(),
        coverage=scoring.COVERAGE,
        absent=_html(absent_table(params, results)),
        strata=_html(strata),
        few=FEW,
        published={tag: _published_group(t) for tag, t in published_tables(params, rows).items()},
        why_apart=why_apart(params),
        ledger=_html(ledger),
        ledger_questions=[v for v in params.variants.values() if v.ledger],
        ledger_measured=any(params.variants[r.row["variant"]].ledger for r in results),
        counts=pd.DataFrame([info["counts"]]).to_html(index=False, border=0),
        runs=[_run_line(params, r) for res in results for r in res.runs],
        provenance=run["provenance"],
        encoders={s: f["encoder"] for s, f in info["features"].items()},
        minutes=sum(r.row["seconds"] for r in results) / 60,
    )
    target = into / "report.html"
    partial = target.with_name(".report.html.partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(target)
    return target


def ablation_figure(
    params: Params, results: list[VariantResult], rows: pd.DataFrame, ceilings, chance: float
):
    """The ablation figure of the honest rows (or all, where there are none), its alternative text and caption."""
    from foalkit import figures

    kept = rows[rows["protocol"] == "honest"] if (rows["protocol"] == "honest").any() else rows
    protocol = kept["protocol"].iloc[0]
    points = pd.concat(
        r.folds[r.folds["selection"] == r.row["selection"]].assign(variant=r.row["variant"])
        for r in results
        if r.row["protocol"] == protocol
    )
    listing = "; ".join(f"{r['label']} {r['ua_pooled']:.1%}" for r in kept.to_dict("records"))
    alt = f"UA per variant under the {protocol} protocol, with speaker-clustered intervals: {listing}."
    caption = (
        f"UA on unseen speakers, {protocol} protocol, {kept['folds'].iloc[0]} folds, "
        f"{kept['seeds'].iloc[0]} seed(s); small dots are folds."
    )
    return figures.ablation(kept, points, ceilings, chance), alt, caption


def _headline(params: Params, rows: pd.DataFrame, info: dict) -> list[dict]:
    """The few numbers a reader wants first."""
    honest = rows[rows["protocol"] == "honest"].set_index("variant")
    published = rows[rows["protocol"] == "published"].set_index("variant")
    best = _best(honest) if len(honest) else None
    out = []
    if best in published.index:
        p = published.loc[best]
        out.append(
            {
                "value": f"{p['ua_pooled']:.1%}",
                "name": f"UA of {best}, protocol as published",
                "note": f"epoch chosen on the test fold, [{p['ua_low']:.1%}, {p['ua_high']:.1%}]",
            }
        )
    if best is not None:
        h = honest.loc[best]
        out.append(
            {
                "value": f"{h['ua_pooled']:.1%}",
                "name": f"UA of {best} that can be trusted",
                "note": f"epoch chosen on validation, [{h['ua_low']:.1%}, {h['ua_high']:.1%}]",
            }
        )
        if best in published.index:
            gap = published.loc[best, "ua_pooled"] - h["ua_pooled"]
            out.append(
                {
                    "value": f"{100 * gap:+.1f} points",
                    "name": "the gap between the two",
                    "note": "selection on the test fold, and one session more to train on",
                }
            )
        single = honest[honest["modality"] != "A+V"]
        if len(single):
            out.append(
                {
                    "value": f"{100 * (h['ua_pooled'] - single['ua_pooled'].max()):+.1f} points",
                    "name": "over the better single modality",
                    "note": f"{single['ua_pooled'].idxmax()}, honest",
                }
            )
    if info["ceilings"]:
        c = info["ceilings"]
        out.append(
            {
                "value": f"{c['both']:.0%}",
                "name": "known ceiling with both modalities",
                "note": f"audio {c['audio']:.0%}, video {c['video']:.0%}",
            }
        )
    return out


def _run_line(params: Params, run: dict) -> dict:
    chosen = run["scores"][run["selection"]]
    return {
        "run": run["run"],
        "href": (run["folder"] / "record.json").relative_to(params.folder).as_posix(),
        "ua": f"{chosen['ua']:.1%}",
        "wa": f"{chosen['wa']:.1%}",
        "epoch": chosen["epoch"],
        "sizes": " / ".join(str(run["sizes"][s]) for s in ("train", "validation", "test")),
        "seconds": f"{run['seconds']:.0f}",
        "commit": (run["provenance"]["commit"] or "–")[:7],
    }


def _html(table: pd.DataFrame, rows: pd.DataFrame | None = None) -> str:
    # no Styler: its ids are random, and the same records should give the same report
    if table.empty:
        return ""
    shown = table.copy()
    if rows is not None:
        shown["UA"] = [
            f'<a href="five_fold/{p}-{v}.json" title="the folds behind this number">{ua}</a>'
            for p, v, ua in zip(rows["protocol"], rows["variant"], shown["UA"], strict=True)
        ]
    return shown.to_html(index=False, border=0, escape=rows is None, na_rep="–")


def _template():
    from jinja2 import Environment, FileSystemLoader

    return Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template(
        "report.html.jinja"
    )


def _plain(row: dict) -> dict:
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()}


def main() -> int:
    """`python -m foalkit.report --check <params> [key=value ...]`: 0 where every printed number agrees, else 1."""
    from foalkit.report_check import check

    parser = argparse.ArgumentParser(
        prog="python -m foalkit.report", description=check.__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--check", metavar="PARAMS", required=True, help="a file in params/, or a path to one"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as the runs were trained with")
    args = parser.parse_args()
    differences, numbers = check(load(args.check, args.overrides))
    print("\n".join(differences) or f"{numbers} numbers agree")
    return 1 if differences else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
