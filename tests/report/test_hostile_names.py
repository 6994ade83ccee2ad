"""Labels, classes and speakers of any text: page, tables and figures hold them as text."""

import csv
import json
import re
from html.parser import HTMLParser

import hostile
import made_up
import pandas as pd
import pytest
from made_up import results

from foalkit import params, progress
from foalkit.report import check, figures
from foalkit.report import page as report
from foalkit.results import records
from foalkit.results import tables as report_tables
from foalkit.results import variants as report_results

nothing_runs = hostile.nothing_runs
FOURS = [hostile.NAMES[n : n + 4] for n in range(0, 28, 4)]


class Page(HTMLParser):
    """The tags with the names of their attributes, in order, and all that is read."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.said, self.links = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.said += [value or "" for _, value in attrs]
        self.links += [value for name, value in attrs if name == "href"]

    def handle_endtag(self, tag):
        self.tags.append(("/" + tag, ()))

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture(scope="module")
def plain_tags(tmp_path_factory):
    """The tags of a page of plain names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "png", lambda figure, dpi=110: b"")
        p = made_up.write_named_grid(tmp_path_factory.mktemp("plain"), made_up.CLASSES)
        return Page(report.write_report(p, results(p)).read_text(encoding="utf-8")).tags


@pytest.fixture(scope="module", params=FOURS, ids=lambda names: names[0][:12])
def reported(request, tmp_path_factory):
    """A report of hostile names: the names, the params, the folder it may write in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "png", lambda figure, dpi=110: b"")
        folder = tmp_path_factory.mktemp("hostile")
        p = made_up.write_named_grid(folder, request.param)
        made = results(p)
        report.write_report(p, made)
        for result in made:
            report_results.write_five_fold(p, result)
        return request.param, p, folder


def test_a_page_of_hostile_names_has_the_tags_of_a_plain_one(reported, plain_tags):
    names, p, folder = reported
    page = Page((p.folder / "report.html").read_text(encoding="utf-8"))
    assert page.tags == plain_tags
    for name in names:
        assert any(name in said for said in page.said), name
    for link in page.links:
        assert re.fullmatch(r"[\w./#%=,~-]+", link) and (link[0] == "#" or (p.folder / link).exists()), link
    assert [f.name for f in folder.iterdir()] == ["out"] and [f.name for f in (folder / "out").iterdir()] == ["p"]
    if names in (FOURS[0], FOURS[-1]):
        differences, numbers = check.check(p)
        assert differences == [] and numbers > 100


def cells(tex: str) -> list[list[str]]:
    """The rows of a table in LaTeX, its escapes undone, by a rule of this test's own."""
    body = tex[tex.index(r"\toprule") + 8 : tex.index(r"\bottomrule")].replace(r"\midrule", "")
    signs = {"textbackslash ": "\\", "space ": " ", "textasciitilde ": "~", "textasciicircum ": "^"}
    rows, cell, row, at = [], "", [], 0
    while at < len(body):
        sign = body[at]
        if body.startswith("\\\\\n", at):
            rows.append([*row, cell.strip()])
            row, cell, at = [], "", at + 3
            assert not re.match(r"\s*[\[*]", body[at:]), "a row that begins as an option of the line's end before it"
        elif sign == "\\":
            word = next((w for w in signs if body.startswith(w, at + 1)), body[at + 1])
            assert word in signs or word in "&%$#_{}", body[at : at + 20]
            cell, at = cell + signs.get(word, word), at + 1 + len(word)
        elif sign == "&":
            row, cell, at = [*row, cell.strip()], "", at + 1
        elif body.startswith("$-$", at):
            cell, at = cell + "-", at + 3
        elif body.startswith("{}", at):
            at += 2
        else:
            assert sign not in "%$#_{}^~", body[at - 20 : at + 20]
            cell, at = cell + sign, at + 1
    return rows


def test_tables_hold_hostile_names_as_text(reported):
    names, p, _ = reported
    folder = p.folder / "tables"
    assert len(list(folder.glob("*.tex"))) == 8
    for file in folder.glob("*.csv"):
        rows = list(csv.reader(file.open(newline="", encoding="utf-8")))
        assert len({len(row) for row in rows}) == 1
        for cell in (c for row in rows for c in row):
            # what a spreadsheet computes begins so; a number is none
            assert cell[:1] not in ("=", "@", "+", "-") or re.fullmatch(r"[+-][\d.]+( .*)?", cell), cell
        tex = folder / f"{file.stem}.tex"
        if tex.exists() and file.stem != "ablation":
            plain = [[re.sub(r"^'(?=[=+@-])", "", c) for c in row] for row in rows]
            printed = cells(tex.read_text(encoding="utf-8"))
            assert [[c.replace("−", "-") for c in row] for row in plain] == printed, file.name
    written = [r["label"].lstrip("'") for r in csv.DictReader((folder / "ablation.csv").open(encoding="utf-8"))]
    assert written == [n.lstrip("'") for n in (*names[:3], names[2])]
    printed = cells((folder / "ablation.tex").read_text(encoding="utf-8"))
    assert [row[1] for row in printed[1:]] == [*names[:3], names[2]]


@pytest.mark.parametrize("names", FOURS, ids=lambda names: names[0][:12])
def test_figures_show_hostile_names_as_they_are(names):
    counts = pd.DataFrame([[3, 1, 0, 0]] * 4, index=names, columns=names)
    figure = figures.confusion(counts, names[0])
    assert figures.png(figure).startswith(b"\x89PNG")
    shown = {t.get_text() for t in figure.findobj(figures.Text)}
    assert set(names) <= shown
    assert not any(t.get_parse_math() for t in figure.findobj(figures.Text) if t.get_text())


def test_more_emotions_than_colours_are_drawn():
    rng = report.pd.Series(range(20)).to_numpy()
    labels, classes = rng % 10, [f"c{n}" for n in range(10)]
    figure = figures.similarity(rng[:, None] * rng[None] / 1.0, labels, classes)
    assert figures.png(figure).startswith(b"\x89PNG")
    ax = figure.axes[0]
    figures._scatter(ax, report.pd.DataFrame({"x": rng, "y": rng}).to_numpy(), labels, classes, "o")
    assert len({c.get_facecolor().tobytes() for c in ax.collections}) == len(figures.HUES)


@pytest.mark.parametrize("name", hostile.NAMES)
def test_records_keep_hostile_names(tmp_path, name):
    table = pd.DataFrame({"utterance": [name], f"logit_{name}": [1.0]})
    records.write_parquet(tmp_path / "out" / "x.parquet", table)
    assert pd.read_parquet(tmp_path / "out" / "x.parquet").equals(table)
    records.write_json(tmp_path / "out" / "x.json", {name: name})
    assert json.loads((tmp_path / "out" / "x.json").read_text(encoding="utf-8")) == {name: name}
    bar = Page(progress._Line(name, 1, 2, 3.0)._repr_html_())
    assert [tag for tag, _ in bar.tags] == ["div", "progress", "/progress", "/div"]
    assert any(s.startswith(f"{name}: 1/2") for s in bar.said) and name in bar.said[3]


@pytest.mark.parametrize("name", [n for n in hostile.NAMES if "/" not in n and len(n) < 200])
def test_links_to_recordings_are_addresses_of_these_files(tmp_path, name):
    p = params.load("demo", [f"outputs={tmp_path}/out/p", f"corpus.root={tmp_path}/corpus", "corpus.generate=null"])
    (tmp_path / "corpus" / name).mkdir(parents=True)
    (tmp_path / "corpus" / name / f"{name}.wav").write_bytes(b"")
    turn = {"utterance": "u", "speaker": "s", "audio": f"{name}/{name}.wav", "video": "", "start": 0.0, "end": 1.0}
    records.write_parquet(p.folder / "manifest.parquet", pd.DataFrame([turn]))
    answer = {"utterance": "u", "speaker": name, "fold": 1, "seed": 0, "true": 0, "predicted": 1, "confidence": 0.9}
    table = report_tables.errors_table(p, pd.DataFrame([answer]))
    page = Page(report._played(table))
    (link,) = page.links
    assert re.fullmatch(r"[\w./%~-]+", link) and link.startswith("../../corpus/")
    assert any(name in said for said in page.said) and "script" not in {t for t, _ in page.tags}
