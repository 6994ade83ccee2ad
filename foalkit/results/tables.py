"""The report's tables, each a DataFrame of what is printed, from variants' results (`results.variants`)."""

import os
from urllib.parse import quote

import numpy as np
import pandas as pd

from foalkit import UserError
from foalkit.params import Params
from foalkit.params.load import corpus_place, read_ledger
from foalkit.results import scoring
from foalkit.results.published import why_apart
from foalkit.results.terms import never_acts
from foalkit.results.variants import PLAIN, PRINTED_ON, SYSTEMS, VariantResult, paired, read_absent, shown_rows

FEW = 20  # utterances: a stratum of fewer says little
METRICS = {"ua": scoring.ua, "wa": scoring.wa}
NO_SPREAD = (
    "What a fold, a speaker and a seed each move cannot be told apart here: that takes two seeds or more, and folds of "
    "equally many speakers."
)


def percent(value: float | None, form: str = ".2f") -> str:
    """A fraction as a percentage, or as points with a form like "+.2f"; a dash where there is none."""
    return "–" if value is None or pd.isna(value) else f"{100 * value:{form}}"


def with_interval(value: float, low: float, high: float, form: str = ".2f") -> str:
    """A percentage with its interval in brackets, of one decimal place less; alone where the interval is no number."""
    if np.isnan(low):
        return percent(value, form)
    ends = form.replace(".2f", ".1f")
    return f"{percent(value, form)} [{percent(low, ends)}, {percent(high, ends)}]"


def ablation_rows(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """One row per variant and protocol in the params' order, with the paper's printed UA and WA (fractions).

    The ledger's variants have no printed numbers: they stand in `ledger_table`.
    """
    rows = []
    for result in results:
        if params.variants[result.row["variant"]].ledger:
            continue
        method, ua, wa = _printed(params, result.row["variant"])
        idle = " and ".join(n.upper() for n in ("avel", "mem") if never_acts(result.runs, n))
        rows.append({**result.row, "method": method, "ua_printed": ua, "wa_printed": wa, "idle": idle})
    return pd.DataFrame(rows)


def _printed(params: Params, variant: str) -> tuple[str, float | None, float | None]:
    """The paper's name for a variant (its last row), UA and WA as fractions; None: not printed."""
    printed = params.variants[variant].published
    method, numbers = next(reversed(printed.items()), ("", (None, None)))
    return method, *(n and round(n / 100, 4) for n in numbers)


def printed_table(params: Params, rows: pd.DataFrame) -> pd.DataFrame:
    """The ablation table as it is read: percentages, intervals in brackets, the paper's numbers beside ours.

    The price of peeking is of the same runs; beside it stands a published row's whole distance from its honest row.
    A column that says nothing is left out: folds where all protocols test as many, utterances where all rows of a
    protocol answer as many, the mean of folds where it is the pooled score, the seeds where there is one, and the
    paper's numbers where they are of another corpus.
    """
    honest = rows[rows["protocol"] == "honest"].set_index("variant")["ua_pooled"]
    means, pooled = (rows[[f"{m}_{kind}" for m in METRICS]].to_numpy(float) for kind in ("folds", "pooled"))
    apart, folds = np.abs(means - pooled).max() >= 5e-5, rows["folds"].nunique() > 1  # as far as printed
    unequal = (rows.groupby("protocol")["utterances"].nunique() > 1).any()  # some lack a stream
    corpus, lines = "" if why_apart(params) else params.corpus.printed[0], []
    for r in rows.to_dict("records"):
        few = f" ({r['speakers']} speakers)" if r["speakers"] < scoring.FEW_SPEAKERS else ""
        scores = {m.upper(): with_interval(*(r[f"{m}_{k}"] for k in ("pooled", "low", "high"))) + few for m in METRICS}
        beside = r["protocol"] == "published" and r["variant"] in honest
        sd = f"{r['seeds']}: ± {percent(r['ua_seed_sd'])} / {percent(r['wa_seed_sd'])}"
        of_paper = r["method"] and PRINTED_ON[params.variants[r["variant"]].network] == corpus
        paper = f"{r['method']} {percent(r['ua_printed'])}\u00a0/\u00a0{percent(r['wa_printed'])}"
        line = {
            "modality": r["modality"],
            "variant": f"{r['label']} ({r['idle']} cannot act here)" if r["idle"] else r["label"],
            "protocol, epoch by": f"{scoring.MARKED.get(r['protocol'], r['protocol'])}, {r['selection']}",
            "folds": f"{r['folds']} of {len(params.folds.groups)}" if folds else "–",
            "utterances": str(r["utterances"]) if unequal else "–",
            **scores,
            "mean of folds, UA / WA": f"{percent(r['ua_folds'])} / {percent(r['wa_folds'])}" if apart else "–",
            "price of peeking": percent(r["peeking"], "+.2f"),
            "published − honest": percent(r["ua_pooled"] - honest[r["variant"]], "+.2f") if beside else "–",
            "seeds: sd of UA / WA": sd if r["seeds"] > 1 else "–",
            "paper, UA / WA": paper if of_paper else "–",
        }
        lines.append(line)
    return pd.DataFrame(lines).loc[:, lambda table: (table != "–").any()]


# ---- the price of peeking ---------------------------------------------------------------------------


def selection_table(results: list[VariantResult]) -> pd.DataFrame:
    """Tidy: UA and WA (fractions) of every run's test side and the epoch, under each rule for choosing it."""
    parts = [
        r.folds.assign(protocol=r.row["protocol"], variant=r.row["variant"])[
            ["protocol", "variant", "fold", "seed", "selection", "ua", "wa", "epoch"]
        ]
        for r in results
    ]
    return pd.concat(parts, ignore_index=True)


def peeking_table(params: Params, results: list[VariantResult]) -> tuple[pd.DataFrame, dict]:
    """How much of the printed gain can selection alone give: the best-known row against its plain fusion.

    A row per protocol and rule for choosing the epoch: the mean of folds of both (percent) and the gain in points;
    below them what the test fold adds over an honest rule, on the same runs. Intervals are over folds
    (`scoring.fold_interval`, seeds averaged before). The metric is UA, or WA where the paper prints no UA. The
    second value holds the numbers for a sentence: metric, printed (where it was printed of this corpus, or of the one
    whose layout is generated), and {protocol: (price, low, high)} in points.
    Random-split is left out: its price is another (`protocols`). Empty without two honest or two published rows.
    """
    lines, said = [], {"price": {}}
    for protocol, fair in scoring.FAIR.items():
        rows = shown_rows(params, results, protocol)
        if len(rows) < 2 or protocol in scoring.MARKED:
            continue
        best, plain = rows
        printed = [dict(zip(METRICS, _printed(params, r.row["variant"])[1:], strict=True)) for r in rows]
        metric = "wa" if None in (p["ua"] for p in printed) and None not in (p["wa"] for p in printed) else "ua"
        labels = (plain.row["label"], best.row["label"])
        if not lines:
            ours, theirs = (p[metric] for p in printed)
            said |= {"metric": metric.upper(), "system": SYSTEMS.get(best.row["variant"], labels[1])}
            known = PRINTED_ON[params.variants[best.row["variant"]].network] in (params.corpus.printed or ())
            if known and None not in (ours, theirs):
                said["printed"] = 100 * (ours - theirs)
                lines.append(_gain_line("paper", labels, percent(theirs), percent(ours), f"{said['printed']:+.2f}"))
        tables = [r.folds.pivot_table(values=metric, index="fold", columns="selection") for r in (plain, best)]
        for rule in [r for r in ("validation", "last", "test") if r in tables[0]]:
            of_rule = [t[rule] for t in tables]
            gain = _over_folds(of_rule[1] - of_rule[0])
            lines.append(_gain_line(f"{protocol}, {rule}", labels, *(percent(t.mean()) for t in of_rule), gain))
        added = [t["test"] - t[fair] for t in tables]
        cells = [_over_folds(a) for a in (*added, added[1] - added[0])]
        lines.append(_gain_line(f"{protocol}, test − {fair}", labels, *cells))
        price = added[1]
        said["price"][protocol] = tuple(100 * v for v in (price.mean(), *scoring.fold_interval(price)))
    return pd.DataFrame(lines), said


def _over_folds(differences: pd.Series) -> str:
    return with_interval(differences.mean(), *scoring.fold_interval(differences), "+.2f")


def _gain_line(rule: str, labels: tuple[str, str], plain: str, best: str, gain: str) -> dict[str, str]:
    return {"epoch by": rule, labels[0]: plain, labels[1]: best, "gain (points)": gain}


# ---- comparisons ------------------------------------------------------------------------------------


def paired_differences(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """UA of each fused variant minus its system's plain fusion on the same utterances, 95 % interval, p-values.

    Foal-Net's variants are compared with `baseline`, CFN-SR's with `concat`. The interval resamples speakers; `p`
    exchanges the two variants' answers speaker by speaker (`scoring.paired_p`); Holm's is over the rows of a
    protocol.
    """
    by_name = {(r.row["protocol"], r.row["variant"]): r for r in results}
    rows = []
    for (protocol, variant), result in by_name.items():
        v = params.variants[variant]
        against = PLAIN[v.network]
        other = by_name.get((protocol, against))
        if other is None or variant == against or v.modality != other.row["modality"] or v.ledger:
            continue
        p = scoring.paired_p(*paired(result, other))
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
        said = {"#": number, "topic": row.topic, "paper": row.paper, "released code": row.code, "ours": row.ours}
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
    table = pd.DataFrame([{c: line.get(c, "") for c in columns} for line in lines])
    return table.loc[:, (table != "").any()]  # without an effect there is no interval of one


def _difference(result: VariantResult, other: VariantResult) -> dict[str, str]:
    true, a, b, speakers = paired(result, other)
    low, high = scoring.paired_interval(true, a, b, speakers)
    return {
        "UA difference (points)": percent(scoring.ua(true, a) - scoring.ua(true, b), "+.2f"),
        "95 % interval": f"[{percent(low, '+.1f')}, {percent(high, '+.1f')}]",
    }


def spread_table(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """What moves the UA of the best-known honest row and its plain fusion: fold, speaker, seed (`variance_split`).

    Per component the standard deviation of one level in points, and its share of the variance of the reported mean.
    Empty with one seed, which shows no part by itself, and where the folds do not hold equally many speakers
    (`NO_SPREAD`).
    """
    rows = []
    for result in shown_rows(params, results) if len(params.seeds) > 1 else []:
        keys = ["fold", "speaker", "seed"]
        scores = result.pooled.groupby(keys)[["true", "predicted"]].apply(
            lambda p: scoring.ua(p["true"], p["predicted"])
        )
        try:
            split = scoring.variance_split(scores.rename("score").reset_index())
        except ValueError:
            return pd.DataFrame()
        for name, part in split.iterrows():
            rows.append(
                {
                    "variant": result.row["label"],
                    "what differs": name,
                    "how many": f"{part['levels']:.0f}",
                    "sd of one (points)": percent(part["sd"], ".1f"),
                    "share of the mean's variance": f"{percent(part['share'], '.0f')} %",
                }
            )
    return pd.DataFrame(rows)


# ---- answers: a missing modality, strata, confidence ------------------------------------------------


def absent_table(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """UA in percent of the honest rows when all is there, and when the picture or the sound is missing in the test.

    Fused variants answer with what is left, without having been trained for it; beside them stand the rows that
    were trained on that modality alone. Empty where no run has tried it.
    """

    def shown(answers: pd.DataFrame) -> str:
        columns = [answers[c].to_numpy() for c in ("true", "predicted", "speaker")]
        return with_interval(scoring.ua(*columns[:2]), *scoring.interval(*columns))

    def only(stream: str) -> str:
        kind = params.kinds[stream]
        return f"{stream if kind == 'numbers' else kind} only"

    rows, fused = [], False
    for result in (r for r in results if r.row["protocol"] == "honest"):
        v = params.variants[result.row["variant"]]
        if v.ledger:
            continue
        absent = read_absent(result)
        row = {"variant": v.label, "both": None}
        if absent is not None:
            fused = True
            row["both"] = shown(result.pooled[result.pooled["utterance"].isin(absent["utterance"])])
            for left, hidden in zip(v.streams, reversed(v.streams), strict=True):
                row[only(left)] = shown(absent[absent["condition"] == f"no {hidden}"])
        elif len(v.streams) == 1:
            row[only(*v.streams)] = shown(result.pooled)
        else:
            continue
        rows.append(row)
    return pd.DataFrame(rows).fillna("–") if fused else pd.DataFrame()


def strata_table(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """UA and accuracy (percent, pooled) of the best-known honest row and its plain fusion, stratum by stratum.

    Strata are emotions, speakers, genders, kinds, clips cut or whole, and how often the face was found. A count
    below `FEW` utterances says so. Empty where no row is honest.
    """
    shown = shown_rows(params, results)
    if not shown:
        return pd.DataFrame()
    strata, rows = _strata(params).loc[shown[0].pooled["utterance"].unique()], []
    for by in strata:
        for stratum, utterances in strata.groupby(by, observed=True).groups.items():
            few = " (few)" if len(utterances) < FEW else ""
            row = {"by": by, "stratum": stratum, "utterances": f"{len(utterances)}{few}"}
            for result in shown:
                part = result.pooled[result.pooled["utterance"].isin(utterances)]
                answers, label = (part["true"], part["predicted"]), result.row["label"]
                # one emotion's accuracy is its recall, and its UA the same number
                row[f"UA, {label}"] = "–" if by == "emotion" else percent(scoring.ua(*answers), ".1f")
                row[f"accuracy, {label}"] = percent(scoring.wa(*answers), ".1f")
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
        file = params.store_folder(stream) / "index.parquet"
        if file.exists():  # the store may be gone by now: training is done with it
            index = pd.read_parquet(file).set_index("utterance")
            found = found.fillna(index.get("found", found))
    often = np.where(found >= 0.9, "in 90 % of frames or more", "in fewer than 90 % of frames")
    strata["face found"] = np.where(found.isna(), "not measured", often)
    return strata


def calibration_table(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """Accuracy, mean probability of the answer and expected calibration error (`scoring.calibration`), honest rows.

    Percentages, and points for the error; all seeds' answers together.
    """
    rows = []
    for r in results:
        if r.row["protocol"] == "honest" and not params.variants[r.row["variant"]].ledger:
            right = r.pooled["true"] == r.pooled["predicted"]
            rows.append(
                {
                    "variant": r.row["label"],
                    "accuracy": percent(right.mean(), ".1f"),
                    "mean probability": percent(r.pooled["confidence"].mean(), ".1f"),
                    "calibration error (points)": percent(scoring.calibration(r.pooled["confidence"], right)[1], ".1f"),
                }
            )
    return pd.DataFrame(rows)


def errors_table(params: Params, answers: pd.DataFrame, most: int = 12) -> pd.DataFrame:
    """The wrong answers of the highest probability, an utterance once, with its sound and the moment of the video.

    `answers` are a result's `pooled` or a run's `run_answers`. Columns utterance, speaker, fold, true, predicted,
    probability (percent), seeds (how many answered so, where there are several), sound and video: addresses relative
    to outputs/<params>/, empty where the file is not there.
    """
    wrong, seeds = answers[answers["true"] != answers["predicted"]], answers["seed"].nunique()
    same = wrong.groupby(["utterance", "predicted"])["seed"].transform("nunique")
    wrong = wrong.assign(same=same).sort_values(["confidence", "utterance"], ascending=[False, True])
    rows, media = [], _media(params)
    for turn in wrong.drop_duplicates("utterance").head(most).to_dict("records"):
        sound, video = media.get(turn["utterance"], ("", ""))
        rows.append(
            {
                **{k: turn[k] for k in ("utterance", "speaker", "fold")},
                **{k: params.corpus.classes[turn[k]] for k in ("true", "predicted")},
                "probability": percent(turn["confidence"], ".1f"),
                "seeds": f"{turn['same']} of {seeds}",
                "sound": sound,
                "video": video,
            }
        )
    columns = ["utterance", "speaker", "fold", "true", "predicted", "probability", "seeds", "sound", "video"]
    table = pd.DataFrame(rows, columns=columns)
    return table if seeds > 1 else table.drop(columns="seeds")


def _media(params: Params) -> dict[str, tuple[str, str]]:
    """{utterance: (sound, video)}: addresses relative to outputs/<params>/ of the files that are there."""
    table = pd.read_parquet(params.folder / "manifest.parquet")
    if not {"audio", "video"} <= set(table.columns):
        return {}
    try:
        root = corpus_place(params)
    except UserError:  # the recordings are elsewhere now; the records are enough for the rest
        return {}

    def address(name: str, time: str = "") -> str:
        if not name or not (root / name).exists():
            return ""
        return quote(os.fsencode(os.path.relpath(root / name, params.folder))) + time

    found = {}
    for t in table.to_dict("records"):
        part = {"video": t["start"]} | ({"audio": t["audio_from"]} if "audio_from" in t else {})
        parts = {name: f"#t={at:.2f},{at + t['end'] - t['start']:.2f}" for name, at in part.items()}
        found[t["utterance"]] = address(t["audio"], parts.get("audio", "")), address(t["video"], parts["video"])
    return found
