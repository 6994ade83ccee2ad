"""The figure of trained rows on a damaged test side, with its alternative text and caption."""

import pandas as pd
from matplotlib.figure import Figure

from foalkit.report.figures import AUDIO, FUSED, GRID, INK, VIDEO, lines_of_ua

COLOURS = {"V": VIDEO, "A": AUDIO, "A+V": FUSED}
MARKS = "osD^vP"  # a row's, as two of them may have one colour


def robustness_figure(rows: pd.DataFrame) -> tuple[Figure, str, str]:
    """UA of each row under each condition of `results.robustness.measured`, its alternative text and its caption."""
    conditions = rows["condition"].unique().tolist()
    names = rows["variant"].unique().tolist()
    figure = Figure(figsize=(8.5, (0.25 + 0.13 * len(names)) * len(conditions) + 1.2), layout="constrained")
    ax, said = figure.subplots(), []
    for i, name in enumerate(names):
        mine = rows[rows["variant"] == name]
        colour, mark = COLOURS.get(mine["modality"].iloc[0], INK), MARKS[i % len(MARKS)]
        label, shift = mine["label"].iloc[0], 0.22 * (i - (len(names) - 1) / 2)
        ax.axvline(mine["ua"].iloc[0], color=colour, lw=1, ls="--", alpha=0.6)
        for row in mine.to_dict("records"):
            y = conditions.index(row["condition"]) + shift
            ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=2, alpha=0.5, solid_capstyle="round")
            ax.plot(row["ua"], y, mark, color=colour, ms=6)
        ax.plot([], [], mark, color=colour, ms=6, label=label)
        said.append(
            f"{label}: {', '.join(f'{c} {ua:.1%}' for c, ua in zip(mine['condition'], mine['ua'], strict=True))}"
        )
    ax.axhline(0.5, color=GRID, lw=1)
    lines_of_ua(ax, conditions)
    figure.legend(fontsize=8, frameon=False, loc="outside upper center", ncols=3)
    alt = f"UA of trained rows on a damaged test side, with 95 % intervals by speaker. {'; '.join(said)}."
    caption = (
        "UA of the honest rows on the test side as it is (dashed lines) and after each kind of damage; bars are 95 % "
        "intervals by speaker. Nothing was trained with damage. A row without a mark does not see what is damaged."
    )
    return figure, alt, caption
