"""Which terms of the loss were learned: each one's value on held-out clips, between its chance level and its floor."""

import math

import pandas as pd

from foalkit.results.variants import VariantResult

LEARNED, PARTLY = 0.5, 0.1  # shares of the way from chance to the floor
NAMES = {"ce": "L_CE", "avel": "L_AVEL", "mem": "L_MEM"}
WORDS = {"learned": "learned", "partly": "partly learned", "not": "not learned"}


def judged(history: list[dict], epoch: int, classes: int, side: str) -> dict[str, dict]:
    """By term of a run's loss ("ce", "avel", "mem"): how far it got on clips of `side`, at the chosen `epoch`.

    `value` is the term there, `chance` and `floor` what it is when nothing and when everything is learned: ln C and 0
    for L_CE, `losses.avel_levels` for L_AVEL, ln 2 and 0 for L_MEM. `share` is the way from chance to the floor, but
    MEM's is that of its accuracy (1/2 to 1), as a few sure mistakes lift its loss above chance: of the accuracy with
    the hardest negatives and that with drawn ones the lower, as who tells the hardest alone may only know which clips
    are often chosen. `verdict` is "learned" from half of the way on, "partly" from a tenth, else "not". L_AVEL also has
    `retrieval` and `retrieval_chance`, L_MEM `accuracy` and `accuracy_drawn` (`training.terms.held_out_terms`). A
    history of before these were kept has L_CE alone.
    """
    row = next(r for r in history if r["epoch"] == epoch)
    found = {"ce": {"value": row[f"{side}_loss"], "chance": math.log(classes), "floor": 0.0}}
    if "held_avel" in row:
        levels = {"chance": row["held_avel_chance"], "floor": row["held_avel_floor"]}
        near = {n: row[f"held_{n}"] for n in ("retrieval", "retrieval_chance") if f"held_{n}" in row}
        found["avel"] = {"value": row["held_avel"], **levels, **near}
    if "held_mem" in row:
        told = {n: row[f"held_mem_{n}"] for n in ("accuracy", "accuracy_drawn")}
        found["mem"] = {"value": row["held_mem"], "chance": math.log(2), "floor": 0.0, **told}
    return {name: term | _verdict(term) for name, term in found.items()}


def _verdict(term: dict) -> dict:
    way = term["chance"] - term["floor"]
    if "accuracy" in term:
        share = 2 * min(term["accuracy"], term["accuracy_drawn"]) - 1
    else:
        share = (term["chance"] - term["value"]) / way if way else 0.0
    return {"share": share, "verdict": "learned" if share >= LEARNED else "partly" if share >= PARTLY else "not"}


def pooled(terms: list[dict[str, dict]]) -> dict[str, dict]:
    """The mean over runs of what `judged` gives, each verdict made anew from the mean; terms that every run has."""
    found = {}
    for name in terms[0] if terms else ():
        of_runs = [t[name] for t in terms if name in t]
        if len(of_runs) == len(terms):
            keys = [k for k in of_runs[0] if k not in ("share", "verdict") and all(k in t for t in of_runs)]
            mean = {k: sum(t[k] for t in of_runs) / len(of_runs) for k in keys}
            found[name] = mean | _verdict(mean)
    return found


def sentence(name: str, term: dict) -> str:
    """A term's numbers and verdict (`judged`, `pooled`) in one sentence or two."""
    said = (
        f"{NAMES[name]} is {WORDS[term['verdict']]}: on held-out clips it is {term['value']:.3g}, where chance gives "
        f"{term['chance']:.3g} and everything learned {term['floor']:.3g}"
    )
    if name != "mem":
        said += f" ({term['share']:.0%} of the way)"
    if "retrieval" in term:
        said += (
            f"; the most similar other picture has the emotion of the sound in {term['retrieval']:.0%} "
            f"(chance {term['retrieval_chance']:.0%})"
        )
    if "accuracy" in term:
        said += (
            f"; {term['accuracy']:.0%} of the pairs are told apart with the hardest negatives, "
            f"{term['accuracy_drawn']:.0%} with drawn ones (chance 50%)"
        )
    return said + "."


def cannot_act(reach: dict, name: str) -> bool:
    """Whether the gradient of a term reaches no weight that the classifier's answer depends on (`training.terms`)."""
    return name in reach and not reach[name]["of_classifier"]


def terms_table(results: list[VariantResult]) -> pd.DataFrame:
    """L_AVEL and L_MEM of every row that has them, mean over its runs (`pooled`): where between chance and floor."""
    lines = []
    for result in results:
        for name, term in pooled([run.get("terms", {}) for run in result.runs]).items():
            if name == "ce":  # the scores say that
                continue
            told = {"avel": ("retrieval", "retrieval_chance"), "mem": ("accuracy", "accuracy_drawn")}[name]
            value, other = (f"{term[k]:.0%}" if k in term else "–" for k in told)
            lines.append(
                {
                    "variant": result.row["label"],
                    "protocol": result.row["protocol"],
                    "term": NAMES[name],
                    "chance, floor": f"{term['chance']:.3g}, {term['floor']:.3g}",
                    "on held-out clips": f"{term['value']:.3g}",
                    "of the way": f"{term['share']:.0%}",
                    "told right": f"{value} (chance {other})" if name == "avel" else f"{value} (drawn: {other})",
                    "learned": WORDS[term["verdict"]],
                    "acts on the answer": acts(result.runs, name),
                }
            )
    return pd.DataFrame(lines)


def never_acts(runs: list[dict], name: str) -> bool:
    """Whether a term cannot act (`cannot_act`) in any of some runs; False where a record does not tell."""
    return all(cannot_act(r.get("reach", {}), name) for r in runs)


def acts(runs: list[dict], name: str) -> str:
    """Whether a term's gradient reaches weights that the answer depends on, in words; "–" where no record tells."""
    if never_acts(runs, name):
        return f"no: {name.upper()} cannot act here"
    known = [r["reach"][name] for r in runs if name in r.get("reach", {})]
    return f"by {known[0]['of_classifier']:,} of its {known[0]['weights']:,} weights" if known else "–"
