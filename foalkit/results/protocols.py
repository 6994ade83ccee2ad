"""The same rows under each protocol, side by side, and what choosing the epoch and splitting at random add to them."""

import pandas as pd

from foalkit.params import Params
from foalkit.results import scoring
from foalkit.results.tables import with_interval
from foalkit.results.variants import VariantResult, paired


def protocols_table(params: Params, results: list[VariantResult]) -> pd.DataFrame:
    """UA (percent) of each row under each protocol, and the two prices in points: a line per row run under several.

    The price of peeking is what choosing the epoch on the test fold adds to the honest runs, mean of folds, interval
    over folds (`scoring.fold_interval`, seeds averaged before). The price of the split is random-split minus honest on
    the same utterances, the epoch chosen on validation in both, interval by speaker (`scoring.paired_interval`). The
    ledger's rows are left out; empty where no row was run under two protocols.
    """
    by_name = {(r.row["variant"], r.row["protocol"]): r for r in results}
    lines = []
    for variant in dict.fromkeys(variant for variant, _ in by_name):
        ran = {p: by_name[variant, p] for p in scoring.SELECTION if (variant, p) in by_name}
        if len(ran) < 2 or params.variants[variant].ledger:
            continue
        line = {"variant": params.variants[variant].label}
        for protocol in scoring.SELECTION:
            row = ran[protocol].row if protocol in ran else None
            ua = with_interval(*(row[f"ua_{k}"] for k in ("pooled", "low", "high"))) if row else "–"
            line[scoring.MARKED.get(protocol, protocol)] = ua
        peeking, split = (price(ran) for price in (price_of_peeking, price_of_split))
        line["price of peeking"] = with_interval(*peeking, "+.2f") if peeking else "–"
        line["price of the split"] = with_interval(*split, "+.2f") if split else "–"
        lines.append(line)
    table = pd.DataFrame(lines)
    return table.loc[:, (table != "–").any()]


def price_of_peeking(ran: dict[str, VariantResult]) -> tuple[float, float, float] | None:
    """What choosing the epoch on the test fold adds to a row's honest UA, and its interval, as fractions.

    `ran` are the row's results by protocol; None where it has no honest one.
    """
    if "honest" not in ran:
        return None
    by_rule = ran["honest"].folds.pivot_table(values="ua", index="fold", columns="selection")
    added = by_rule["test"] - by_rule[scoring.FAIR["honest"]]
    return added.mean(), *scoring.fold_interval(added)


def price_of_split(ran: dict[str, VariantResult]) -> tuple[float, float, float] | None:
    """A row's UA under random-split minus its honest one on the same utterances, and its interval, as fractions.

    `ran` as in `price_of_peeking`; None where one of the two is not there.
    """
    if not {"honest", "random-split"} <= set(ran):
        return None
    true, random, honest, speakers = paired(ran["random-split"], ran["honest"])
    low, high = scoring.paired_interval(true, random, honest, speakers)
    return scoring.ua(true, random) - scoring.ua(true, honest), low, high
