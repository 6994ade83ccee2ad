"""Writes what is known of the demo: params/expected/demo.json, and from it the README's table and picture.

`make expected` runs what it reads: the demo, and three seeds of it. With `--words` only the README
is written, from the file that is there.
"""

import sys
from pathlib import Path

import pandas as pd

from foalkit import ROOT, params
from foalkit.files import read_mapping, write_json
from foalkit.report import expected, figures
from foalkit.results.tables import percent, with_interval

BEGIN, END = "<!-- made from params/expected/demo.json by docs/make.py -->", "<!-- end -->"
SEEDS = "seeds=[0,1,2]"


def write_expected() -> None:
    """The demo's bytes and scores, and the spread of its scores over seeds."""
    demo = params.load("demo")
    ceilings = read_mapping(demo.folder / "preprocess.json")["ceilings"]
    known = {**expected.digests(demo), "ceilings": ceilings, "rows": expected.scores(demo)}
    by_seed = expected.by_seed(params.load("demo", SEEDS))
    known["spread"] = {name: [min(values), max(values)] for name, values in by_seed.items()}
    write_json(expected.FOLDER / "demo.json", known)


def table(known: dict) -> str:
    """The README's table of the honest rows."""
    lines = ["| row | UA, 95 % interval by speaker | over three seeds | could reach |", "|---|---|---|---|"]
    for name, row in known["rows"].items():
        if name.startswith("honest/"):
            ceiling = known["ceilings"][{"V": "video", "A": "audio"}.get(row["modality"], "both")]
            scores = with_interval(row["ua_pooled"], row["ua_low"], row["ua_high"], ".1f")
            low, high = (percent(value, ".1f") for value in known["spread"][name])
            lines.append(f"| {row['label']} | {scores} | {low} to {high} | {percent(ceiling, '.1f')} |")
    return "\n".join(lines)


def picture(known: dict) -> bytes:
    """The ablation figure of the honest rows."""
    rows = pd.DataFrame({"variant": name, **row} for name, row in known["rows"].items() if name.startswith("honest/"))
    points = rows[["variant", "folds"]].explode("folds").rename(columns={"folds": "ua"}).astype({"ua": float})
    return figures.png(figures.ablation(rows, points, known["ceilings"], 0.25))


def in_readme(text: str, made: str) -> str:
    """The README with this table between its two marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    if "--words" not in sys.argv:
        write_expected()
    known = read_mapping(expected.FOLDER / "demo.json")
    readme = ROOT / "README.md"
    readme.write_text(in_readme(readme.read_text(encoding="utf-8"), table(known)), encoding="utf-8")
    (Path(__file__).parent / "demo.png").write_bytes(picture(known))


if __name__ == "__main__":
    main()
