"""What the papers claim (params/claims.yaml), held against our runs: effect, interval, what could have been seen."""

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from foalkit.params import Params
from foalkit.params.load import read_claims
from foalkit.params.rows import Claim
from foalkit.results import scoring
from foalkit.results.comparison import Compared, compare
from foalkit.results.tables import METRICS, percent, with_interval
from foalkit.results.terms import never_acts
from foalkit.results.variants import PRINTED_ON, VariantResult, paired

VERDICTS = ("supported", "contradicted", "not distinguishable", "not testable here")


@dataclass(frozen=True)
class Judged:
    """A claim whose rows were run, with the difference of its metric between them."""

    claim: Claim
    against: str  # the row that was compared with
    found: Compared
    terms: str  # whether the terms of the loss were learned, in words
    verdict: str  # one of VERDICTS


def judge(params: Params, results: list[VariantResult]) -> list[Judged]:
    """The claims whose rows are all among the honest results, in the file's order, each with its verdict.

    A claim is supported where the 95 % interval (`comparison.compare`, for each claim by itself) lies above 0,
    contradicted where it lies below, not distinguishable where it holds 0, and not testable where none of the terms
    that it is about can move an answer.
    """
    rows = {r.row["variant"]: r for r in results if r.row["protocol"] == "honest"}
    return [_judged(c, rows) for c in read_claims().values() if {c.row, *c.against} <= set(rows)]


def _judged(claim: Claim, rows: dict[str, VariantResult]) -> Judged:
    row, others = rows[claim.row], [rows[name] for name in claim.against]
    other = max(others, key=lambda r: r.row["ua_validation"]) if len(others) > 1 else others[0]
    found = compare(*paired(row, other, "fold", "seed"), METRICS[claim.metric])
    verdict = VERDICTS[0] if found.low > 0 else VERDICTS[1] if found.high < 0 else VERDICTS[2]
    if claim.terms and all(never_acts(row.runs, term) for term in claim.terms):
        verdict = VERDICTS[3]
    return Judged(claim, other.row["variant"], found, term_words(row.runs, claim.terms), verdict)


def term_words(runs: list[dict], terms: list[str]) -> str:
    """Whether the terms of the loss were learned over some runs: "AVEL learned in 15 of 15 runs; MEM not learned".

    From the records' `terms` and `reach`; a record of before they were kept makes a term "not recorded".
    """
    said = []
    for term in terms:
        verdicts = [r.get("terms", {}).get(term, {}).get("verdict") for r in runs]
        count, name = Counter(verdicts), term.upper()
        if never_acts(runs, term):
            said.append(f"{name} cannot act here: no weight is shared")
        elif None in verdicts:
            said.append(f"{name}: not recorded")
        elif count["not"] == len(runs):
            said.append(f"{name} not learned")
        else:
            partly = f", partly in {count['partly']}" if count["partly"] else ""
            said.append(f"{name} learned in {count['learned']} of {len(runs)} runs{partly}")
    return "; ".join(said)


def claims_table(params: Params, judged: list[Judged]) -> pd.DataFrame:
    """The claims as they are read: effects in points of the metric, the interval in brackets, p-values after Holm.

    Holm's correction is over the claims that could be tested. `could show` is the smallest effect, in either
    direction, that would have been shown with 80 % power. A printed effect stands with the corpus it was printed on.
    """
    adjusted = iter(scoring.holm([j.found.p for j in judged if j.verdict != VERDICTS[3]]))
    lines = []
    for j in judged:
        printed = dict(zip(METRICS, j.claim.printed, strict=True))[j.claim.metric]
        corpus = PRINTED_ON[params.variants[j.claim.row].network]
        line = {
            "claim": j.claim.claim,
            "rows": f"{j.claim.row} against {j.against}",
            "metric": j.claim.metric.upper(),
            "paper": "–" if printed is None else f"{corpus} {printed:+.2f}",
            "here": with_interval(*j.found[:3], "+.2f"),
            "verdict on this corpus": j.verdict,
            "could show": f"± {percent(j.found.smallest, '.1f')}",
            "terms": j.terms or "–",
            "p (Holm)": "–" if j.verdict == VERDICTS[3] else _p(next(adjusted)),
            "speakers": str(j.found.speakers),
            "seeds": str(j.found.seeds),
        }
        lines.append(line)
    return pd.DataFrame(lines)


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 5e-5 else "< 0.0001"  # no p-value is 0
