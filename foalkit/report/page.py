"""The HTML report and the figures and table files beside it, from records and predictions alone."""

import base64
import html
import json
import re
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from foalkit.files import whole, write_csv
from foalkit.params import Params
from foalkit.report import figures
from foalkit.report.robustness import robustness_figure
from foalkit.results import scoring
from foalkit.results.claims import claims_table, judge
from foalkit.results.encoders import encoders_table, noted
from foalkit.results.protocols import price_of_split, protocols_table
from foalkit.results.published import published_tables, why_apart
from foalkit.results.robustness import measured, robustness_table, tried_rows
from foalkit.results.tables import (
    FEW,
    NO_SPREAD,
    ablation_rows,
    absent_table,
    calibration_table,
    errors_table,
    ledger_table,
    paired_differences,
    peeking_table,
    printed_table,
    selection_table,
    spread_table,
    strata_table,
    with_interval,
)
from foalkit.results.terms import pooled, sentence, terms_table
from foalkit.results.variants import PRINTED_ON, SYSTEMS, VariantResult, interval_words, shown_rows
from foalkit.results.whole import write_made_of

# figures that the notebooks draw into outputs/<params>/figures/: name and caption
DRAWN_BEFORE = {
    "corpus-contact-sheet": "What training sees of the speakers, by emotion.",
    "corpus-waveforms": "One utterance per emotion: waveform and log-mel spectrum.",
    "embeddings": "t-SNE of the test utterances of run {run}: the mean over time of each stream's features, then "
    "AVEL's two projections. Which points are neighbours means something, how far groups lie apart does not.",
    "similarity": "The same run's similarity of every sound (row) and picture (column), ordered by emotion: AVEL wants "
    "it high where the emotions agree.",
}


def write_report(params: Params, results: list[VariantResult], into: Path | None = None) -> Path:
    """outputs/<params>/report.html with every figure inside it, and the same figures and tables beside it.

    Everything is written below `into` instead where that is given, report.json last. Returns the report's path.
    """
    into = into or params.folder
    info = json.loads((params.folder / "preprocess.json").read_text(encoding="utf-8"))
    rows = ablation_rows(params, results)
    shown = shown_rows(params, results)
    peeking, gain = peeking_table(params, results)
    judged = judge(params, results)
    damaged, undone = measured(params, results)
    tables = {
        "claims": claims_table(params, judged),
        "ablation": printed_table(params, rows),
        "protocols": protocols_table(params, results),
        "peeking": peeking,
        "differences": paired_differences(params, results),
        "terms": terms_table(results),
        "spread": spread_table(params, results),
        "missing": absent_table(params, results),
        "robustness": robustness_table(damaged),
        "calibration": calibration_table(params, results),
        "errors": errors_table(params, shown[0].pooled) if shown else pd.DataFrame(),
        "strata": strata_table(params, results),
        "ledger": ledger_table(params, results),
    }
    write_tables(tables, rows, selection_table(results), into)
    drawn = _draw(params, results, rows, damaged, info, into / "figures")
    run = (shown or results)[0].runs[0]
    page = _template().render(
        params=params,
        claims=tables["claims"].to_dict("records"),
        claimed=[j.claim for j in judged],
        params_json=params.model_dump_json(indent=1, exclude={"variants", "outputs"}),
        info=info,
        figures=drawn,
        confusions=[name for name in drawn if name.startswith("confusion-")],
        tables={name: _html(table) for name, table in tables.items()},
        ablation=_linked(tables["ablation"], rows),
        columns=list(tables["ablation"]),
        errors=_played(tables["errors"]),
        systems=[name for network, name in SYSTEMS.items() if network in _networks(params, rows)],
        printed_on=[corpus for network, corpus in PRINTED_ON.items() if network in _networks(params, rows)],
        spread_asked=bool(shown),
        tried=bool(tried_rows(params)),
        undone=undone,
        no_spread=NO_SPREAD,
        best=(shown[0] if shown else results[0]).row,
        plain=shown[1].row["label"] if len(shown) > 1 else "",
        gain=gain,
        learned=[sentence(n, t) for n, t in pooled([r.get("terms", {}) for r in (shown or results)[0].runs]).items()],
        questions=[params.variants[v] for v in dict.fromkeys(rows["variant"])],
        headline=_headline(params, results, rows, info),
        random_split=(rows["protocol"] == "random-split").any(),
        random_parts=(params.folder / "random-split.csv").exists(),
        never={p: names for p in params.ablation if params.ablation[p] and (names := params.never_tested(p))},
        soft=[r.row["label"] for r in results if r.runs[0].get("target") == "soft"],
        seeds=len(params.seeds),
        speakers=max(r.pooled["speaker"].nunique() for r in results),
        coverage=scoring.COVERAGE,
        few_speakers=scoring.FEW_SPEAKERS,
        interval_from=scoring.INTERVAL_FROM,
        few=FEW,
        published={tag: _published_group(t) for tag, t in published_tables(params, rows).items()},
        why_apart=why_apart(params),
        ledger_questions=[v for v in params.variants.values() if v.ledger],
        ledger_measured=any(params.variants[r.row["variant"]].ledger for r in results),
        counts=pd.DataFrame([info["counts"]]).to_html(index=False, border=0),
        runs=[_run_line(params, r) for res in results for r in res.runs],
        provenance=run["provenance"],
        encoders={s: f["encoder"] for s, f in info["features"].items()},
        encoders_told=_html(encoders_table(params, info)),
        noted=noted(info),
        minutes=sum(r.row["seconds"] for r in results) / 60,
    )
    target = into / "report.html"
    with whole(target) as part:
        part.write_text(page, encoding="utf-8")
    pictures = [into / "figures" / f"{name}.png" for name in drawn if name not in DRAWN_BEFORE]
    kept = [
        f for name in [*tables, "selection"] for s in ("csv", "tex") if (f := into / "tables" / f"{name}.{s}").exists()
    ]
    write_made_of(params, into, [target, *pictures, *kept])
    return target


def write_tables(tables: dict[str, pd.DataFrame], rows: pd.DataFrame, selection: pd.DataFrame, into: Path) -> None:
    """tables/<name>.csv and, but for the ledger's prose, <name>.tex (booktabs) of every table that has rows.

    The ablation's CSV holds `rows`, fractions with all columns, and selection.csv every run under each rule.
    """
    folder = into / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "selection.csv", selection)
    for name, table in tables.items():
        if table.empty:  # nor may one of an earlier report stay
            for suffix in ("csv", "tex"):
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
            continue
        if name == "errors":
            table = table.drop(columns=["sound", "video"])  # addresses are the page's
        write_csv(folder / f"{name}.csv", rows if name == "ablation" else table)
        if name != "ledger":
            sides = "".join("r" if _numeric(table[c]) else "l" for c in table)
            style = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
            tex = style.to_latex(hrules=True, column_format=sides)
            # pdfTeX has no U+2212, and a hyphen is no minus
            minus = re.sub(r"−|(?<![\w-])-(?=\d)", "$-$", tex)
            # a bracket or star that begins a row would be an option of the line's end before it
            (folder / f"{name}.tex").write_text(re.sub(r"^(?=[\[*])", "{}", minus, flags=re.M), encoding="utf-8")


def _numeric(column: pd.Series) -> bool:
    return all(re.match(r"[+−±–-]?\s?\d|–$", str(cell)) for cell in column)


def _draw(params: Params, results: list[VariantResult], rows, damaged, info: dict, folder: Path) -> dict:
    """Draw the report's figures into `folder`: {name: data, alt, caption}, with those the notebooks drew before."""
    folder.mkdir(exist_ok=True)
    drawn = {}

    def add(name: str, figure, alt: str, caption: str) -> None:
        data = figures.png(figure, dpi=130)
        (folder / f"{name}.png").write_bytes(data)
        drawn[name] = {"data": base64.b64encode(data).decode(), "alt": alt, "caption": caption}

    add("ablation", *ablation_figure(params, results, rows, info["ceilings"], 1 / len(params.corpus.classes)))
    panels = [r for protocol in params.ablation for r in shown_rows(params, results, protocol)[:1]]
    if panels:
        add("peeking", *peeking_figure(panels))
    shown = shown_rows(params, results)
    if shown:
        add("calibration", *calibration_figure(shown))
    for r in reversed(shown):
        label = r.row["label"]
        counts = scoring.confusion(r.pooled["true"], r.pooled["predicted"], params.corpus.classes)
        add(
            f"confusion-{r.row['variant']}",
            figures.confusion(counts, label),
            f"Confusion matrix of {label}, row percentages.",
            f"{label}: true emotions in rows, percentages of the row, honest.",
        )
    if len(damaged):
        add("robustness", *robustness_figure(damaged))
    run = (shown or results)[0].runs[0]
    add(
        "curves",
        figures.score_curves(pd.DataFrame(run["history"]), run["scores"]),
        f"WA and UA over epochs of run {run['run']}, with the epochs chosen by each rule.",
        f"Run {run['run']}: WA and UA over epochs, and the epoch each selection rule takes.",
    )
    histories = [pd.DataFrame(r["history"]) for r in (shown or results)[0].runs]
    mean, label = pd.concat(histories).groupby("epoch", as_index=False).mean(), (shown or results)[0].row["label"]
    told = f"{label}, mean over {len(histories)} runs"
    levels = "between its chance level (dotted) and its floor (dashed)"
    add(
        "losses",
        figures.loss_curves(mean, len(params.corpus.classes)),
        f"Loss terms of {told}.",
        f"{told}: each loss term, {levels}.",
    )
    if "held_avel" in mean or "held_mem" in mean:
        alt = f"AVEL's retrieval and MEM's accuracy of {told}, over epochs."
        add(
            "learning",
            figures.learning_curves(mean),
            alt,
            f"{told}: what AVEL and MEM know about held-out clips, epoch by epoch.",
        )
    for name, words in DRAWN_BEFORE.items():
        caption = words.format(run=run["run"])
        picture = params.folder / "figures" / f"{name}.png"
        if picture.exists():
            data = base64.b64encode(picture.read_bytes()).decode()
            drawn[name] = {"data": data, "alt": caption, "caption": caption}
    return drawn


def ablation_figure(params: Params, results: list[VariantResult], rows: pd.DataFrame, ceilings, chance: float):
    """The ablation figure of the honest rows (or another protocol's), its alternative text and caption."""
    protocol = next(p for p in scoring.SELECTION if p in set(rows["protocol"]))
    kept, speakers = rows[rows["protocol"] == protocol], "seen" if protocol in scoring.MARKED else "unseen"
    points = pd.concat(
        r.folds[r.folds["selection"] == r.row["selection"]].assign(variant=r.row["variant"])
        for r in results
        if r.row["protocol"] == protocol
    )
    listing = "; ".join(f"{r['label']} {r['ua_pooled']:.1%}" for r in kept.to_dict("records"))
    alt = f"UA per variant under the {protocol} protocol, with speaker-clustered intervals: {listing}."
    dots = "folds" if kept["seeds"].iloc[0] == 1 else "folds under each seed"
    caption = (
        f"UA on {speakers} speakers, {protocol} protocol, {kept['folds'].iloc[0]} folds, "
        f"{kept['seeds'].iloc[0]} seed(s); small dots are {dots}."
    )
    figure = figures.ablation(kept, points, ceilings, chance)
    figure.axes[0].set_xlabel(f"UA on {speakers} speakers")
    return figure, alt, caption


def peeking_figure(rows: list[VariantResult]):
    """UA over epochs on the test folds of some rows with each rule's choice, its alternative text and caption."""
    panels, said = {}, []
    for r in rows:
        title = f"{r.row['label']}, {r.row['protocol']}"
        panels[title] = (r.epochs, r.folds)
        means = r.folds.groupby("selection", sort=False)["ua"].mean()
        said.append(f"{title}: {', '.join(f'{rule} {ua:.1%}' for rule, ua in means.items())}")
    alt = f"UA over epochs on the test folds, mean UA of the epochs chosen by each rule: {'; '.join(said)}."
    caption = (
        "Every epoch's UA on the test folds, and the epoch each rule takes; at the right the mean that the rule would "
        "print. Choosing by test takes each line's highest point, which the others cannot know."
    )
    return figures.peeking(panels), alt, caption


def calibration_figure(rows: list[VariantResult]):
    """The reliability curves of some rows, their alternative text and caption."""
    curves, said = {}, []
    for r in rows:
        right = r.pooled["true"] == r.pooled["predicted"]
        curves[r.row["label"]], error = scoring.calibration(r.pooled["confidence"], right)
        said.append(f"{r.row['label']} {100 * error:.1f} points")
    alt = f"Accuracy of the answers over their probability; expected calibration error: {', '.join(said)}."
    caption = "Share of right answers over their mean probability in ten bins; larger dots hold more answers."
    return figures.reliability(curves), alt, caption


def _networks(params: Params, rows: pd.DataFrame) -> set[str]:
    return {params.variants[v].network for v in rows["variant"]}


def _headline(params: Params, results: list[VariantResult], rows: pd.DataFrame, info: dict) -> list[dict[str, str]]:
    """The few numbers a reader wants first."""
    cards = []

    def card(value: str, name: str, note: str) -> None:
        cards.append({"value": value, "name": name, "note": note})

    honest = rows[rows["protocol"] == "honest"].set_index("variant")
    published = rows[rows["protocol"] == "published"].set_index("variant")
    shown = shown_rows(params, results)
    best = shown[0].row["variant"] if shown else None
    if best in published.index:
        p = published.loc[best]
        note = f"epoch chosen on the test fold, {interval_words(p)}"
        card(f"{p['ua_pooled']:.1%}", f"UA of {best}, protocol as published", note)
    if best is not None:
        h = honest.loc[best]
        note = f"epoch chosen on validation, {interval_words(h)}"
        card(f"{h['ua_pooled']:.1%}", f"UA of {best} that can be trusted", note)
        if best in published.index:
            gap = 100 * (published.loc[best, "ua_pooled"] - h["ua_pooled"])
            price = f"{100 * published.loc[best, 'peeking']:+.1f}"
            note = f"not the price of peeking ({price}, on the same runs): more speakers to train on count in it too"
            if params.never_tested("published"):
                note += f"; over {published.loc[best, 'folds']} folds instead of {h['folds']}"
            card(f"{gap:+.1f} points", "published − honest", note)
        price = price_of_split({r.row["protocol"]: r for r in results if r.row["variant"] == best})
        if price is not None:
            value, _, ends = with_interval(*price, "+.1f").partition(" ")
            note = "what speakers on both sides of the split add; a demonstration, no result"
            card(f"{value} points", "random-split − honest", f"{ends}: {note}" if ends else note)
        single = honest[honest["modality"] != "A+V"]
        if len(single) and h["modality"] == "A+V":
            more = 100 * (h["ua_pooled"] - single["ua_pooled"].max())
            card(f"{more:+.1f} points", "over the better single modality", f"{single['ua_pooled'].idxmax()}, honest")
    if info["ceilings"]:
        c = info["ceilings"]
        note = f"audio {c['audio']:.0%}, video {c['video']:.0%}"
        card(f"{c['both']:.0%}", "known ceiling with both modalities", note)
    return cards


def _run_line(params: Params, run: dict) -> dict:
    chosen = run["scores"][run["selection"]]
    return {
        "run": run["run"],
        "href": quote((run["folder"] / "record.json").relative_to(params.folder).as_posix()),
        "ua": f"{chosen['ua']:.1%}",
        "wa": f"{chosen['wa']:.1%}",
        "epoch": chosen["epoch"],
        "sizes": " / ".join(str(run["sizes"][s]) for s in ("train", "validation", "test")),
        "seconds": f"{run['seconds']:.0f}",
        "commit": (run["provenance"]["commit"] or "–")[:7],
    }


def _published_group(table: pd.DataFrame) -> dict:
    """A group as the page shows it: the table without empty columns, and each note once with its sources."""
    noted = table[table["note"] != ""].groupby("note", sort=False)["source"]
    shown = table.drop(columns="note").loc[:, lambda t: (t != "–").any()]
    return {
        "table": _html(shown),
        "ours": table["system"].str.startswith("ours: ").any(),
        "notes": {note: list(dict.fromkeys(sources)) for note, sources in noted},
    }


def _linked(table: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The ablation table, each UA a link to the folds behind it."""
    keys = zip(rows["protocol"], rows["variant"], table["UA"], strict=True)
    links = [
        f'<a href="five_fold/{quote(f"{p}-{v}")}.json" title="the folds behind this number">{ua}</a>'
        for p, v, ua in keys
    ]
    return _html(table.assign(UA=links), links=["UA"])


def _played(table: pd.DataFrame) -> str:
    """The errors' table, its addresses as links."""

    def links(column: pd.Series) -> list[str]:
        return [f'<a href="{html.escape(address)}">play</a>' if address else "–" for address in column]

    columns = [c for c in ("sound", "video") if c in table]
    return _html(table.assign(**{c: links(table[c]) for c in columns}), columns)


def _html(table: pd.DataFrame, links: list[str] | None = None) -> str:
    """The table as HTML; the columns `links` hold HTML already."""
    if table.empty:
        return ""
    # no Styler: its ids are random, and the same records should give the same report
    text = table.fillna("–").apply(lambda c: c if c.name in (links or []) else c.astype(str).map(html.escape))
    table = text.rename(columns=html.escape).to_html(index=False, border=0, escape=False)
    return re.sub(r"(\[[+-]?[\d.]+), ", "\\1,\u00a0", table)  # where a cell must wrap, its interval stays whole


def _template():
    from jinja2 import Environment, FileSystemLoader

    return Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("page.html.jinja")
