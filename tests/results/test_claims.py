"""Claims and verdicts: hand counts, a jackknife, the noncentral t, and simulations whose truth is known."""

import csv
import re

import made_up
import numpy as np
import pytest
import yaml
from conftest import refused
from made_up import answers, naive_recall, results, write_run
from scipy import optimize, stats

from foalkit import ROOT, params
from foalkit.files import read_mapping
from foalkit.params.load import read_claims
from foalkit.report import page as report
from foalkit.report.check import check
from foalkit.results import claims, comparison, records, scoring, terms
from foalkit.results import variants as report_results

# made-up runs under a folder of their own
p, grid, grid_once, undrawn = made_up.p, made_up.grid, made_up.grid_once, made_up.undrawn
pytestmark = pytest.mark.usefixtures("undrawn")


# ---- the registry ---------------------------------------------------------------------------------


def test_the_printed_effects_are_differences_of_the_papers_rows():
    rows = yaml.safe_load((ROOT / "params" / "variants.yaml").read_text())
    for name, claim in read_claims().items():
        row = [*rows[claim.row]["published"].values()][-1]
        others = [n for a in claim.against for n in rows[a].get("published", {}).values()]
        for i in (0, 1):
            theirs = [n[i] for n in others if n[i] is not None]
            want = None if row[i] is None or not theirs else pytest.approx(row[i] - max(theirs))
            assert claim.printed[i] == want, (name, i)
        assert re.match(r"(doi:10\.|arXiv:)\d", claim.source)
        printed = dict(zip(("ua", "wa"), claim.printed, strict=True))
        assert printed[claim.metric] is not None or name == "residual"


def test_the_claims_are_those_of_both_papers():
    compared = {name: (c.row, *c.against) for name, c in read_claims().items()}
    assert compared == {
        "fusion": ("baseline", "audio", "video"),
        "avel": ("avel", "baseline"),
        "mem": ("mem", "baseline"),
        "mem-after-avel": ("foal-net", "avel"),
        "both": ("foal-net", "baseline"),
        "picture": ("video", "video-face"),
        "block": ("cfn-sr", "concat"),
        "residual": ("cfn-sr", "no-residual"),
        "block-over-one": ("cfn-sr", "cfn-video", "cfn-audio"),
    }
    assert {c.metric for c in read_claims().values() if c.row == "cfn-sr"} == {"wa"}  # its paper prints no UA


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"row": "foalnet"}, ["row", "unknown variant 'foalnet'", "'foal-net'"]),
        ({"against": ["basline"]}, ["against", "unknown variant 'basline'", "'baseline'"]),
        ({"against": ["foal-net"]}, ["against", "compared with itself"]),
        ({"against": []}, ["against", "at least 1"]),
        ({"terms": ["avle"]}, ["terms", "'avle'", "'avel'"]),
        ({"metric": "uar"}, ["metric", "'uar'", "'ua'"]),
        ({"printed": [2.25]}, ["printed"]),
        ({"effect": 2.25}, ["unknown key 'effect'"]),
        ({"source": None}, ["source"]),
    ],
)
def test_a_claim_that_is_not_whole_is_named(tmp_path, change, words):
    whole = {"claim": "c", "row": "foal-net", "against": ["baseline"], "printed": [1.0, None], "source": "s"}
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump({"mine": whole}))
    assert read_claims(file)["mine"].printed == (1.0, None)
    file.write_text(yaml.safe_dump({"mine": whole | change}))
    said = refused(lambda: read_claims(file))
    assert all(word in said for word in ["claims.yaml: mine", *words]), said


def test_the_claims_are_no_params_file():
    assert "unknown params file" in refused(lambda: params.load("claims"))


# ---- one comparison -------------------------------------------------------------------------------


def made(hits, others, classes=None):
    """Arguments of `compare` for right answers `(folds, speakers, seeds, utterances)` of two rows, and `classes`."""
    hits, others = np.asarray(hits), np.asarray(others)
    fold, speaker, seed, _ = np.indices(hits.shape)
    true = np.zeros(hits.shape, int) if classes is None else np.asarray(classes)
    columns = true, np.where(hits, true, 9), np.where(others, true, 9), 100 * fold + speaker, fold, seed
    return [c.ravel() for c in columns]


def counted(right, of=10):
    """Right answers `(..., of)` of which the first `right` `(...)` are."""
    return np.arange(of) < np.asarray(right)[..., None]


def test_folds_that_differ_give_students_interval_by_hand():
    # three folds of two speakers, ten utterances each, one seed: 1, 1; 3, 3; 8, 8 more of them right
    args = made(counted([[[1], [1]], [[3], [3]], [[8], [8]]]), counted([[[0], [0]]] * 3))
    found = comparison.compare(*args, scoring.wa)
    assert found.effect == pytest.approx(0.4) and (found.speakers, found.seeds) == (6, 1)
    half = 4.3027 * (0.13 / 3) ** 0.5  # t at two degrees; the folds' variance is (0.09 + 0.01 + 0.16) / 2
    assert (found.low, found.high) == pytest.approx((0.4 - half, 0.4 + half), abs=1e-5)
    assert found.p == pytest.approx(stats.ttest_1samp([0.1, 0.3, 0.8], 0).pvalue)


def test_folds_that_agree_by_chance_are_no_certainty():
    # every fold adds 0.3, its two speakers 0 and 0.6: what speakers do lets expect for the folds stands in
    args = made(counted([[[0], [6]]] * 3), counted([[[0], [0]]] * 3))
    found = comparison.compare(*args, scoring.wa)
    half = 3.1824 * (6 * 0.3**2 / 3 / 6) ** 0.5  # t at three degrees: six speakers in three folds
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-5)


def test_seeds_that_differ_widen_the_interval_even_where_the_folds_agree():
    # seeds add 0 and 0.6 in every fold, to both speakers: no fold, no speaker differs
    args = made(counted([[[0, 6], [0, 6]]] * 3), counted([[[0, 0], [0, 0]]] * 3))
    found = comparison.compare(*args, scoring.wa)
    # the seeds' mean square is 2 · 6 · 0.3² / 3 at three degrees, and there are twelve parts
    half = 3.1824 * (2 * 6 * 0.3**2 / 3 / 12) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-5)


def test_the_interval_of_ua_is_about_a_jackknifes_over_folds():
    """UA is no mean over speakers: classes are counted over all. Leaving out each fold knows nothing of our formula."""
    rng = np.random.default_rng(3)
    shape = (12, 1, 1, 80)
    classes = rng.choice(4, shape, p=[0.5, 0.3, 0.15, 0.05])
    skill = 0.6 - 0.1 * classes + rng.normal(0, 0.1, (12, 1, 1, 1))
    args = made(rng.random(shape) < skill + 0.3, rng.random(shape) < 0.6 - 0.1 * classes, classes)
    kept = rng.random(len(args[0])) < np.linspace(0.3, 1, 12)[args[4]]  # the folds' sizes differ, too
    args = [column[kept] for column in args]
    found = comparison.compare(*args)
    true, a, b, _, folds, _ = (x.tolist() for x in args)

    def difference(kept):
        return naive_recall([true[i] for i in kept], [a[i] for i in kept]) - naive_recall(
            [true[i] for i in kept], [b[i] for i in kept]
        )

    assert found.effect == pytest.approx(difference(range(len(true))))
    without = [difference([i for i in range(len(true)) if folds[i] != f]) for f in range(12)]
    error = (11 * np.var(without)) ** 0.5
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 11) * error, rel=0.1)


def test_equal_answers_differ_by_nothing():
    hits = np.random.default_rng(0).random((5, 2, 3, 20)) < 0.6
    found = comparison.compare(*made(hits, hits))
    assert (found.effect, found.low, found.high, found.p, found.smallest) == (0, 0, 0, 1, 0)


def test_unequal_folds_are_one_unit_each():
    args = made(counted([[[1], [1]], [[3], [3]], [[8], [8]]]), counted([[[0], [0]]] * 3))
    merged = [np.where(args[3] == 101, 100, args[3]) if i == 3 else a for i, a in enumerate(args)]
    assert comparison.compare(*merged, scoring.wa)[:4] == pytest.approx(
        comparison.compare(*args, scoring.wa)[:4]
    )  # fold 1 has one speaker now


# ---- the smallest effect that could show -------------------------------------------------------------


def test_the_smallest_effect_of_lone_speakers_is_the_noncentral_ts():
    """24 folds of one speaker: a plain one-sample t test, whose power is known in closed form."""
    rng = np.random.default_rng(1)
    right = rng.integers(20, 61, (24, 1, 1))
    sd = np.std(right / 80, ddof=1)
    found = comparison.compare(*made(counted(right, 80), counted(np.full((24, 1, 1), 40), 80)), scoring.wa)
    edge = stats.t.ppf(0.975, 23)
    want = optimize.brentq(lambda d: stats.nct.sf(edge, 23, d * 24**0.5 / sd) - 0.8, 0.001, 1)
    assert found.smallest == pytest.approx(want, rel=0.06)
    assert found.smallest != pytest.approx((edge + 0.84) * sd / 24**0.5 / 2, rel=0.3)  # the half of it would not do


SHAPE = {"few": (5, 2, 3, 40), "many": (12, 2, 2, 40)}  # folds, speakers, seeds, utterances
LUCK = {"few": (0.02, 0.05, 0.04), "many": (0.05, 0.03, 0.02)}  # sd of a speaker, a training, both


def studied(rng, shape, luck, truth=0.0):
    """Arguments of `compare` for a study of the true difference `truth`: speakers and trainings have luck of theirs."""
    folds, speakers, seeds, utterances = shape
    classes = np.repeat(rng.integers(0, 4, (folds, speakers, 1, utterances)), seeds, axis=2)
    more = truth + luck[0] * rng.normal(size=(folds, speakers, 1, 1)) + luck[1] * rng.normal(size=(folds, 1, seeds, 1))
    more = more + luck[2] * rng.normal(size=(folds, speakers, seeds, 1))
    draws = rng.random((folds, speakers, 1, utterances))  # an utterance is hard or easy for both rows
    return made(draws < 0.55 + more, draws < 0.55, classes)


@pytest.mark.parametrize("name", SHAPE)
def test_intervals_hold_the_truth_and_the_smallest_effect_shows_in_four_of_five_studies(name, monkeypatch):
    rng, shape, luck = np.random.default_rng(7), SHAPE[name], LUCK[name]
    monkeypatch.setattr(comparison, "STUDIES", 400)
    smallest = np.median([comparison.compare(*studied(rng, shape, luck)).smallest for _ in range(25)])
    monkeypatch.setattr(comparison, "STUDIES", 2)  # the interval alone
    found = [comparison.compare(*studied(rng, shape, luck, smallest)) for _ in range(300)]
    held = np.mean([f.low <= smallest <= f.high for f in found])
    power = np.mean([f.low > 0 for f in found])
    assert held >= 0.93
    assert 0.7 <= power <= 0.92
    # the answers' draws are in it too: an interval that resamples speakers is narrower than the luck of trainings
    if name == "few":
        plain = [scoring.paired_interval(*studied(rng, shape, luck)[:4]) for _ in range(100)]
        assert np.mean([low <= 0 <= high for low, high in plain]) < 0.93


# ---- verdicts of runs -----------------------------------------------------------------------------


def with_record(p, variant, **more):
    """Put facts into the records of a variant's honest runs."""
    for fold in range(1, 6):
        file = records.run_folder(p, "honest", variant, fold, 0) / "record.json"
        records.write_sealed(file, read_mapping(file) | more)


@pytest.fixture
def claimed(p, grid):
    """Runs of all of Foal-Net's rows; avel is far below baseline, foal-net far above, mem the same but for luck."""
    skills = {"video": 0.55, "avel": 0.35, "mem": 0.61, "video-face": 0.3}
    for variant, skill in skills.items():
        for fold in range(1, 6):
            grid["honest", variant, fold] = write_run(p, "honest", variant, fold, skill)
    return p.model_copy(update={"ablation": {"honest": ["audio", "baseline", "foal-net", *skills]}})


def table_of(p):
    return claims.claims_table(p, claims.judge(p, results(p)))


def test_verdicts_are_what_the_intervals_say(claimed, grid):
    judged = claims.judge(claimed, results(claimed))
    assert [(j.claim.row, j.against) for j in judged] == [
        ("baseline", "audio"),
        ("avel", "baseline"),
        ("mem", "baseline"),
        ("foal-net", "avel"),
        ("foal-net", "baseline"),
        ("video", "video-face"),
    ]
    verdicts = {j.claim.row + j.against: j.verdict for j in judged}
    assert verdicts["avelbaseline"] == "contradicted" and verdicts["foal-netavel"] == "supported"
    assert verdicts["membaseline"] == "not distinguishable" and verdicts["videovideo-face"] == "supported"
    for j in judged:
        a, b = (answers(claimed, grid, v) for v in (j.claim.row, j.against))
        true = [a[u][0] for u in a]
        want = naive_recall(true, [a[u][1] for u in a]) - naive_recall(true, [b[u][1] for u in a])
        assert j.found.effect == pytest.approx(want) and j.found.low < want < j.found.high
        assert (j.found.speakers, j.found.seeds) == (10, 1) and j.found.smallest > 0.01


def test_the_better_modality_is_chosen_on_validation(claimed):
    with_record(claimed, "audio", history=[{"epoch": e, "validation_ua": 0.3} for e in (1.0, 2.0, 3.0)])
    by_name = {r.row["variant"]: r.row["ua_pooled"] for r in results(claimed)}
    chosen = claims.judge(claimed, results(claimed))[0]
    assert chosen.against == "video"  # 0.5 on validation, whatever the test sides say
    history = [{"epoch": e, "validation_ua": 0.9 if e == 3 else 0.1} for e in (1.0, 2.0, 3.0)]
    with_record(claimed, "video", history=history)
    chosen_at = [r["scores"]["validation"]["epoch"] for r in results(claimed)[3].runs]
    mean = np.mean([0.9 if e == 3 else 0.1 for e in chosen_at])
    assert mean != 0.3
    assert claims.judge(claimed, results(claimed))[0].against == ("video" if mean > 0.3 else "audio")
    assert by_name["audio"] != by_name["video"]


def test_a_claim_needs_all_its_rows_under_the_honest_protocol(p, grid):
    for fold in range(1, 6):
        write_run(p, "published", "avel", fold, 0.6)
    p = p.model_copy(update={"ablation": p.ablation | {"published": ["foal-net", "avel"]}})
    assert [j.claim.claim for j in claims.judge(p, results(p))] == ["AVEL and MEM together add to plain fusion"]


def test_the_table_prints_points_and_holm_over_what_could_be_tested(claimed):
    with_record(claimed, "avel", reach={"avel": {"of_classifier": 0}}, terms={"avel": {"verdict": "learned"}})
    judged = claims.judge(claimed, results(claimed))
    table = claims.claims_table(claimed, judged)
    effects = ("+0.17", "+1.46", "+0.25", "+0.79", "+2.25", "+7.16")
    assert table["paper"].tolist() == [f"IEMOCAP {effect}" for effect in effects]
    assert table["verdict on this corpus"][1] == "not testable here" and table["p (Holm)"][1] == "–"
    assert table["terms"][1] == "AVEL cannot act here: no weight is shared"
    tested = sorted(j.found.p for j in judged if j.claim.row != "avel")
    assert len(tested) == 5
    want = [min(1, max(q * (5 - i) for i, q in enumerate(tested[: n + 1]))) for n in range(5)]
    assert sorted(float(x.strip("< ")) for x in table["p (Holm)"] if x != "–") == pytest.approx(want, abs=6e-5)
    for line, j in zip(table.to_dict("records"), judged, strict=True):
        f = j.found
        assert line["here"] == f"{100 * f.effect:+.2f} [{100 * f.low:+.1f}, {100 * f.high:+.1f}]"
        assert line["could show"] == f"± {100 * f.smallest:.1f}" and line["metric"] == "UA"


def runs(avel=(), mem=(), reach=None):
    found = []
    for a, m in zip(avel, mem, strict=True):
        found.append({"terms": {"ce": {"verdict": "learned"}, "avel": {"verdict": a}, "mem": {"verdict": m}}})
        found[-1] |= {"reach": reach} if reach else {}
    return found


def test_whether_the_terms_were_learned_in_words():
    both = ["avel", "mem"]
    some = runs(["learned"] * 3, ["not"] * 3)
    assert claims.term_words(some, both) == "AVEL learned in 3 of 3 runs; MEM not learned"
    assert claims.term_words(some, ["mem"]) == "MEM not learned" and claims.term_words(some, []) == ""
    some = runs(["learned", "partly", "not"], ["partly", "not", "not"])
    said = "AVEL learned in 1 of 3 runs, partly in 1; MEM learned in 0 of 3 runs, partly in 1"
    assert claims.term_words(some, both) == said
    assert claims.term_words([*some, {"run": "older"}], both) == "AVEL: not recorded; MEM: not recorded"


def test_a_term_cannot_act_where_it_reaches_nothing_in_any_run():
    none, much = ({"avel": {"weights": 9, "of_classifier": n}, "mem": {"of_classifier": 4}} for n in (0, 4))
    frozen = runs(["learned"] * 2, ["not"] * 2, reach=none)
    assert terms.never_acts(frozen, "avel") and not terms.never_acts(frozen, "mem")
    said = "AVEL cannot act here: no weight is shared; MEM not learned"
    assert claims.term_words(frozen, ["avel", "mem"]) == said
    mixed = [frozen[0], *runs(["learned"], ["not"], reach=much)]
    assert not terms.never_acts(mixed, "avel") and not terms.never_acts(runs(["not"], ["not"]), "avel")


def test_both_terms_together_are_tested_while_one_can_act(claimed):
    reach = {"avel": {"of_classifier": 0}, "mem": {"of_classifier": 7}}
    with_record(claimed, "foal-net", reach=reach)
    line = table_of(claimed).iloc[4]
    assert line["verdict on this corpus"] in claims.VERDICTS[:3]
    assert line["terms"] == "AVEL cannot act here: no weight is shared; MEM: not recorded"


def test_cfn_srs_claims_are_of_accuracy_over_seeds(tmp_path):
    overrides = [f"outputs={tmp_path / 'cfn'}", "seeds=[0, 1]", "corpus.root=nowhere"]
    p = params.load("ravdess-cfnsr", [*overrides, "ablation.published=[]"])
    skills = {"cfn-video": 0.3, "cfn-audio": 0.35, "concat": 0.4, "no-residual": 0.3, "cfn-sr": 0.6}
    for variant, skill in skills.items():
        for fold in p.fold_numbers("honest"):
            for seed in p.seeds:
                write_run(p, "honest", variant, fold, skill, seed)
    table = table_of(p)
    rows = ["cfn-sr against concat", "cfn-sr against no-residual", "cfn-sr against cfn-video"]
    assert table["rows"].tolist() == rows  # both have the same UA on validation, and the first one stands
    assert table["paper"].tolist() == ["RAVDESS +4.72", "–", "RAVDESS +12.77"] and set(table["metric"]) == {"WA"}
    rows = {v: report_results.variant_result(p, "honest", v).row["wa_pooled"] for v in ("cfn-sr", "concat")}
    effect = 100 * (rows["cfn-sr"] - rows["concat"])
    assert float(table["here"][0].split(" [")[0]) == pytest.approx(effect, abs=0.0051)
    assert table["speakers"].tolist() == ["24"] * 3 and table["seeds"].tolist() == ["2"] * 3


# ---- the report -----------------------------------------------------------------------------------


def printed(p):
    for result in results(p):
        report_results.write_five_fold(p, result)
    return report.write_report(p, results(p))


def test_the_report_opens_with_the_verdicts(claimed):
    with_record(claimed, "avel", reach={"avel": {"of_classifier": 0}})
    text = printed(claimed).read_text()
    assert re.search(r"<h2[^>]*>", text)[0] == '<h2 id="claims">'
    assert text.index('<h2 id="claims">') < text.index('class="cards"')
    assert '<nav aria-label="Sections"><a href="#claims">Claims</a>' in text
    section = text.split('<h2 id="claims">')[1].split("<h2")[0]
    table = table_of(claimed)
    for line in table.to_dict("records"):
        verdict = line["verdict on this corpus"]
        assert line["claim"] in section and f'<b class="{verdict.split()[0]}">{verdict}</b>' in section
        assert f"could show {line['could show']}" in section and line["here"].split(" [")[1] in section
    assert "avel against baseline. AVEL cannot act here: no weight is shared" in section
    assert "10 unseen speakers, 1 seed," in section and "doi:10.21437/Interspeech.2024-1462, Table 2" in section
    with (claimed.folder / "tables" / "claims.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["here"] for line in lines] == table["here"].tolist()
    assert r"\toprule" in (claimed.folder / "tables" / "claims.tex").read_text()


def test_a_changed_verdict_or_effect_is_found_by_the_check(claimed):
    page = printed(claimed)
    assert check(claimed)[0] == []
    effect = table_of(claimed)["here"][0].split(" [")[0]
    text = page.read_text().replace(f"<td>{effect} ", "<td>+77.77 ", 1)
    page.write_text(text.replace('<b class="contradicted">contradicted', '<b class="supported">supported', 1))
    lines = check(claimed)[0]
    assert len(lines) == 2 and all(line.startswith("report.html: #claims, table 1, row") for line in lines)
    assert "+77.77" in lines[0] and "verdict on this corpus" in lines[1]


def test_without_a_claim_that_was_run_there_is_no_section(p, grid):
    kept = [r for r in results(p) if r.row["variant"] != "baseline"]
    text = report.write_report(p, kept).read_text()
    assert 'id="claims"' not in text and "#claims" not in text
    assert not (p.folder / "tables" / "claims.csv").exists()
    assert claims.claims_table(p, []).empty
