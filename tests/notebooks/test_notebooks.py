"""The notebooks: committed form, headless runs from two directories, determinism by nbval, and the grid."""

import ast
import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from conftest import git, refused
from papermill.cli import papermill as papermill_cli
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from foalkit import ROOT, params
from foalkit.corpora import manifest
from foalkit.features.data import prepare
from foalkit.report import browse, explore
from foalkit.results import records, variants

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STEPS = [file for file in NOTEBOOKS if not file.name.startswith("00")]
BESIDE = set((ROOT / "notebooks").iterdir())  # nothing is left there when they run
BIN = Path(sys.executable).parent
ENV = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


PAPERMILL = [BIN / "papermill"]
JOB = [sys.executable, "-m", "foalkit.job"]  # papermill as the grid calls it, which starts and stops faster


def start(name, out, cwd, call=PAPERMILL, **parameters):
    """Start notebooks/<name> as a person would in a shell; returns the process."""
    words = [*call, ROOT / "notebooks" / f"{name}.ipynb", out, "--no-progress-bar"]
    words += [word for k, v in parameters.items() for word in ("-p", k, str(v))]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=cwd, env=ENV, text=True, **pipes)


def papermill(name, out, cwd, call=PAPERMILL, **parameters):
    """Run notebooks/<name> to its end; returns the exit status and what was said on stderr."""
    process = start(name, out, cwd, call, **parameters)
    said = process.communicate(timeout=400)[1]
    return process.returncode, said


def run_cells(name, **parameters):
    """Run the cells that papermill would give to a kernel here, where what they import is loaded already."""
    notebook = parameterize_notebook(load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb")), parameters)
    names = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(cell.source, names)


@pytest.fixture(scope="module")
def executed(tiny_file, tiny, tmp_path_factory):
    """All five notebooks run in order on the tiny corpus; 02 and 03 from two directories, a copy of 02's run kept."""
    folder = tmp_path_factory.mktemp("executed")
    one = {"variant": "foal-net", "fold": 2}

    def started(name, cwd=folder, call=JOB, **more):
        return start(name, folder / f"{name}.ipynb", cwd, call, params=tiny_file, **more)

    def ended(*processes):
        for process in processes:
            said = process.communicate(timeout=400)[1]
            assert process.returncode == 0, said[-3000:]

    ended(started("01_preprocess"))
    ended(started("02_train", ROOT / "notebooks", PAPERMILL, **one, retrain=True))
    shutil.copytree(records.run_folder(tiny, "honest", "foal-net", 2, 0), folder / "run")
    ended(started("03_five_fold"), started("05_explore", **one))  # 05 reads a run that is there
    ended(started("04_ablation"))
    return folder


@pytest.fixture(scope="module")
def elsewhere(executed, tiny_file, tmp_path_factory) -> tuple[Path, Path]:
    """The executed notebooks in another folder, and the params file and outputs that they name now: at another path."""
    folder = tmp_path_factory.mktemp("elsewhere")
    data = yaml.safe_load(tiny_file.read_text())
    outputs = shutil.copytree(Path(data["outputs"]).parent, folder / "moved") / Path(data["outputs"]).name
    (outputs / "params.json").unlink()  # it names the other params file
    moved = folder / tiny_file.name
    moved.write_text(yaml.safe_dump(data | {"outputs": str(outputs)}))
    for file in sorted(executed.glob("*.ipynb")):
        text = file.read_text(encoding="utf-8")
        assert json.dumps(str(tiny_file)).strip('"') in text
        (folder / file.name).write_text(text.replace(str(tiny_file), str(moved)), encoding="utf-8")
    return folder, moved


@pytest.fixture(scope="module")
def again(elsewhere):
    """The executed notebooks executed again by nbval, which compares all that they show, 02 with its training."""
    folder, _ = elsewhere
    files = sorted(folder.glob("*.ipynb"))
    call = [sys.executable, "-m", "pytest", "--nbval", "--nbval-cell-timeout=300", "-q", "-p", "no:cacheprovider"]
    both = [  # 01 has nothing to do with the others' runs
        subprocess.Popen([*call, *some], cwd=folder, env=ENV, stdout=subprocess.PIPE, text=True)
        for some in (files[:1], files[1:])
    ]
    return [(process, process.communicate(timeout=600)[0]) for process in both]


# ---- as committed ---------------------------------------------------------------------------------


def test_notebooks_are_committed_without_outputs():
    # as committed: a person may have run and saved them since
    for file in NOTEBOOKS:
        text = git("show", f"HEAD:notebooks/{file.name}")
        code = [c for c in nbformat.reads(text, as_version=4).cells if c.cell_type == "code"]
        assert code and all(not c.outputs and c.execution_count is None for c in code), file


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_notebooks_are_short_and_in_prose(file):
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert "papermill" in notebook.cells[0].source
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert max(len(c.source.splitlines()) for c in code) <= 14
    assert sum(c.cell_type == "markdown" for c in notebook.cells) >= 0.7 * len(code)
    for cell in code:
        assert not re.search(r"""["'](\.\.?/|outputs/|params/|notebooks/)""", cell.source), "a relative path"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)
def test_parameters_cells_hold_literals_that_papermill_can_see(file):
    from papermill import inspect_notebook

    notebook = nbformat.read(file, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    names = {node.target.id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body}  # x: type = literal
    found = inspect_notebook(str(file))
    assert set(found) == set(names)
    assert {n: p["inferred_type_name"] for n, p in found.items()} == {n: type(v).__name__ for n, v in names.items()}
    assert names.get("params", "demo") == "demo" and names.get("overrides", "") == ""


def test_papermill_tells_every_parameters_type():
    said = CliRunner().invoke(papermill_cli, ["--help-notebook", str(ROOT / "notebooks" / "02_train.ipynb")]).output
    for words in ('params: str (default "demo")', "fold: int (default 1)", "retrain: bool (default False)"):
        assert words in said, said


@pytest.mark.parametrize("file", STEPS, ids=lambda f: f.stem)
def test_a_step_says_its_words_what_to_see_and_what_to_try(file):
    cells = nbformat.read(file, as_version=4).cells
    prose = [c.source for c in cells if c.cell_type == "markdown"]
    assert any("**You should see**" in text for text in prose)
    assert prose[-1].startswith("## Try next")
    for word in ("UA", "WA", "honest", "AVEL", "MEM"):  # linked where it is said first
        first = next((text for text in prose if re.search(rf"\b{word}\b", text)), None)
        assert first is None or f"[{word}](../docs/glossary.md#" in first, word


@pytest.mark.parametrize("file", STEPS, ids=lambda f: f.stem)
def test_a_picture_stands_above_every_widget(file):
    cells = [c for c in nbformat.read(file, as_version=4).cells if c.cell_type == "code"]
    widgets = [i for i, c in enumerate(cells) if c.source.startswith("browse.")]
    assert len(widgets) == {"01": 1, "03": 1, "05": 2, "07": 1}.get(file.stem[:2], 0)
    for i in widgets:
        assert "nbval-ignore-output" in cells[i].metadata["tags"]
        assert any("figures.show" in c.source for c in cells[:i])


# ---- as run ---------------------------------------------------------------------------------------


def test_run_headless_and_leave_records_and_the_report(executed, tiny):
    record = records.read_record(records.run_folder(tiny, "honest", "foal-net", 2, 0) / "record.json")
    assert record["fold"] == 2 and set(record["scores"]) == {"validation", "last", "test"}
    assert not records.missing_runs(tiny, [(p, v) for p, vs in tiny.ablation.items() for v in vs])
    for name in ("report.html", "tables/ablation.csv", "tables/ablation.tex", "figures/ablation.png"):
        assert (tiny.folder / name).stat().st_size > 500, name


def test_every_picture_has_an_alternative_text(executed):
    pictures = 0
    for file in executed.glob("*.ipynb"):
        for cell in nbformat.read(file, as_version=4).cells:
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    pictures += 1
                    assert output.metadata["image/png"]["alt"]
    assert pictures >= 10


def test_nbval_finds_the_same_outputs_again_at_another_path(executed, again):
    for process, said in again:
        assert process.returncode == 0 and " passed" in said, said[-3000:]
    cells = [c for f in executed.glob("*.ipynb") for c in nbformat.read(f, as_version=4).cells if c.get("outputs")]
    ignored = [c for c in cells if "nbval-ignore-output" in c.metadata.get("tags", [])]
    assert len(ignored) <= 10 and len(cells) - len(ignored) >= 60  # all the others were compared


def test_the_same_run_from_two_directories_gives_the_same_bytes(executed, again, elsewhere):
    folder = records.run_folder(params.load(elsewhere[1]), "honest", "foal-net", 2, 0)
    first, second = ((f / "record.json").stat().st_mtime_ns for f in (executed / "run", folder))
    assert second > first  # trained again, from nbval's directory into another
    for name in ("predictions.parquet", "weights.safetensors"):
        assert (folder / name).read_bytes() == (executed / "run" / name).read_bytes(), name
    assert set((ROOT / "notebooks").iterdir()) == BESIDE


# ---- widgets, moved ---------------------------------------------------------------------------------


def shown(html: str) -> bytes:
    """The picture in a widget's HTML, which says what it shows."""
    (alt,) = re.findall(r'<img alt="([^"]+)"', html)
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(alt) > 10
    return base64.b64decode(data)


def moved(choice, look, value=None) -> tuple[bytes, bytes]:
    """What `look` shows before and after a dropdown is moved, to another value or the last one."""
    before = shown(look())
    choice.value = choice.options[-1] if value is None else value
    return before, shown(look())


@pytest.fixture(scope="module")
def root(tiny):
    return manifest.corpus_root(tiny)


@pytest.fixture(scope="module")
def run(executed, tiny):
    folder = records.run_folder(tiny, "honest", "foal-net", 2, 0)
    return records.read_record(folder / "record.json") | {"folder": folder}


def answered(run) -> pd.DataFrame:
    """A run's chosen answers on its test side, by utterance."""
    table = pd.read_parquet(run["folder"] / "predictions.parquet")
    epoch = run["scores"][run["selection"]]["epoch"]
    return table[(table["split"] == "test") & (table["epoch"] == epoch)].set_index("utterance")


def logits(table) -> pd.DataFrame:
    return table[[c for c in table if c.startswith("logit_")]]


def test_every_utterance_can_be_seen_and_heard(data, root):
    box = browse.Utterances(data.table, root)
    assert list(box.choice.options) == data.table["utterance"].tolist()
    heard = bytes(box.recording.sound.value)
    before, after = moved(box.choice, lambda: box.recording.frames.value)
    turn = data.table.iloc[-1]
    assert before != after and heard != bytes(box.recording.sound.value) == (root / turn["audio"]).read_bytes()
    assert turn["emotion"] in box.words.value and turn["speaker"] in box.words.value
    box.choice.value = box.choice.options[0]
    assert shown(box.recording.frames.value) == before


def test_rows_folds_and_protocols_can_be_chosen(executed, tiny):
    box = browse.Folds(tiny, variants.variant_result(tiny, "honest", "foal-net"))
    assert list(box.protocol.options) == ["honest", "published"]
    assert [value for _, value in box.row.options] == tiny.ablation["honest"]
    before, after = moved(box.row, lambda: box.confusion.value, "audio")
    assert before != after
    before, after = moved(box.fold, lambda: box.confusion.value, "fold 2")
    assert before != after
    answers = answered(records.read_runs(tiny, "honest", "audio")[1])
    found = logits(answers).to_numpy().argmax(1) == answers["true"]
    recalls = [found[answers["true"] == c].mean() for c in range(4)]
    assert f"UA {np.mean(recalls):.1%}, WA {found.mean():.1%};" in box.words.value
    before, after = moved(box.protocol, lambda: box.confusion.value)
    assert before != after and box.row.value == "foal-net" and box.fold.value == "fold 2"
    assert box.chosen == 2 and [value for _, value in box.row.options] == ["foal-net"]


def test_a_row_without_all_of_its_folds_is_not_offered(executed, tiny, tmp_path):
    part = shutil.copytree(tiny.folder, tmp_path / "part")
    p = tiny.model_copy(update={"outputs": str(part)})
    result = variants.variant_result(p, "honest", "foal-net")
    records.run_folder(p, "honest", "video", 3, 0).joinpath("record.json").unlink()
    offered = [value for _, value in browse.Folds(p, result).row.options]
    assert offered == [v for v in tiny.ablation["honest"] if v != "video"]


def test_the_button_goes_from_one_wrong_answer_to_the_next(tiny, run, data, root):
    box = browse.Answers(tiny, run, data.table, root)
    table = answered(run)
    order = table.index.tolist()
    wrong = [u for u in order if logits(table).loc[u].to_numpy().argmax() != table.loc[u, "true"]]
    assert 1 < len(wrong) < len(order) and list(box.utterance.options) == order
    for utterance in [*wrong[order[0] == wrong[0] :], wrong[0]]:  # once round
        before = shown(box.answer.value)
        box.next_wrong.click()
        assert box.utterance.value == utterance and shown(box.answer.value) != before
        assert "the label is" in box.words.value and f"right about {len(order) - len(wrong)} of" in box.words.value
        assert bytes(box.recording.sound.value) == (root / box.turns.loc[utterance, "audio"]).read_bytes()


def test_any_run_that_is_there_can_be_looked_into(tiny, run, data, root):
    box = browse.Answers(tiny, run, data.table, root)
    assert (box.protocol.value, box.row.value, box.fold.value) == ("honest", "foal-net", "fold 2")
    utterance = box.utterance.value
    before, after = moved(box.row, lambda: box.answer.value, "video")
    assert before != after and box.utterance.value == utterance  # the same one, by another row
    before, after = moved(box.fold, lambda: box.answer.value)
    folds = [f"fold {r['fold']}" for r in records.read_runs(tiny, "honest", "video")]
    assert before != after and list(box.fold.options) == folds
    assert list(box.utterance.options) == answered(box.chosen).index.tolist()
    moved(box.protocol, lambda: box.answer.value)
    assert box.chosen["protocol"] == "published" and box.row.value == "foal-net" and box.fold.value == folds[-1]
    share = np.exp(logits(answered(box.chosen)).iloc[0].to_numpy())
    said = [t.get_text() for t in browse.probabilities(answered(box.chosen).iloc[0], tiny.corpus.classes).axes[0].texts]
    assert [float(t.split("%")[0]) for t in said] == pytest.approx(100 * share / share.sum(), abs=0.51)
    assert [", the label" in t for t in said].index(True) == answered(box.chosen)["true"].iloc[0]


def test_attention_can_be_seen_by_utterance_layer_and_head(tiny, run, root):
    inside = explore.opened(tiny, run)
    box = browse.Attention(inside, root)
    seen = [shown(box.picture.value)]
    for choice, value in ((box.utterance, None), (box.layer, 0), (box.head, 2), (box.head, None), (box.layer, 1)):
        choice.value = inside.test[-1] if choice is box.utterance else value
        seen.append(shown(box.picture.value))
    assert len(set(seen)) == 4 and seen[1] == seen[5] and seen[2] == seen[4]
    assert inside.test[-1] in box.picture.value


def misspelt(tiny_file, tmp_path):
    data = yaml.safe_load(tiny_file.read_text()) | {"outputs": str(tmp_path / "none")}
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_a_misspelt_parameter_stops_before_any_work_and_names_the_nearest(tiny_file, tmp_path):
    file = misspelt(tiny_file, tmp_path)
    status, said = papermill("02_train", tmp_path / "out.ipynb", tmp_path, params=file, flod=3)
    assert status != 0
    line = next(line for line in said.splitlines() if "UserError" in line)
    assert "'flod'" in line and "'fold'" in line
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"variant": "foalnet"}, ["'foalnet'", "'foal-net'"]),
        ({"overrides": "training.epoch=1"}, ["training.epoch", "'epochs'"]),
    ],
)
def test_a_misspelling_stops_before_any_work_and_names_the_nearest(wrong, words, tiny_file, tmp_path):
    file = misspelt(tiny_file, tmp_path)
    line = refused(lambda: run_cells("02_train", params=str(file), **wrong))
    assert all(word in line for word in words)
    assert not (tmp_path / "none").exists()


# ---- planted leaks ---------------------------------------------------------------------------------


def same_session_on_two_sides(data, manifest, folder):
    speakers = sorted(manifest["speaker"].unique())
    data["folds"] = {"by": "speaker", "groups": [[s] for s in speakers]}
    return ["dialogue Ses01", "on two sides"]


def copied_sound(data, manifest, folder):
    root = shutil.copytree(data["corpus"]["root"], folder / "corpus")
    data["corpus"] |= {"root": str(root), "generate": None}
    taken, copied = (manifest[manifest["session"] == s].iloc[2] for s in ("Ses03", "Ses01"))
    shutil.copy(root / taken["audio"], root / copied["audio"])
    return ["the same sound is on two sides", taken["utterance"], copied["utterance"]]


def features_from_labels(data, manifest, folder):
    classes = data["corpus"]["classes"]
    for row in manifest.itertuples():
        np.save(folder / f"{row.utterance}.npy", np.eye(4, dtype=np.float32)[[classes.index(row.emotion)] * 3])
    data["features"]["video"] = {"encoder": "imported", "folder": str(folder), "width": 4}
    return ["features.video tell every emotion exactly", "labels"]


def in_a_kernel(file, tmp_path):
    status, said = papermill("02_train", tmp_path / "out.ipynb", tmp_path, JOB, params=file)
    assert status != 0
    return next(line for line in said.splitlines() if "UserError" in line)


def cell_by_cell(file, tmp_path):
    return refused(lambda: run_cells("02_train", params=str(file)))


@pytest.mark.parametrize(
    ("plant", "run"),
    [(same_session_on_two_sides, in_a_kernel), (copied_sound, cell_by_cell), (features_from_labels, cell_by_cell)],
)
def test_a_planted_leak_stops_the_notebook_and_names_the_culprits(plant, run, tiny_file, tiny, data, tmp_path):
    outputs = tiny.folder.parent / plant.__name__  # beside the features that are there already
    changed = yaml.safe_load(tiny_file.read_text()) | {"outputs": str(outputs)}
    words = plant(changed, data.table, tmp_path)
    (tmp_path / "leaky.yaml").write_text(yaml.safe_dump(changed))
    line = run(tmp_path / "leaky.yaml", tmp_path)
    assert all(word in line for word in words), line
    assert (outputs / "preprocess.json").exists() and not list(outputs.rglob("record.json"))


# ---- the grid -------------------------------------------------------------------------------------


def snakemake(file, cwd, *flags, overrides=""):
    call = [BIN / "snakemake", "-s", ROOT / "Snakefile", "-d", cwd, "--cores", "2", *flags]
    call += ["--rerun-triggers", "params", "input", "--config", f"params={file}", f"overrides={overrides}"]
    return subprocess.run(call, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=500)


def whole_grid(file, cwd):
    code = "import sys; from pathlib import Path; from foalkit import grid; "
    code += "sys.exit(grid.run(sys.argv[1], cores='2', folder=Path(sys.argv[2])))"
    call = [sys.executable, "-c", code, str(file), str(cwd)]
    return subprocess.run(call, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=500)


def jobs(done) -> dict[str, int]:
    return {n: int(c) for n, c in re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M) if n != "total"}


@pytest.mark.parametrize(
    ("job", "protocols", "train"),
    [
        ("fold", ["honest"], {"train": 3, "five_fold": 1}),
        ("folds", ["honest", "random-split"], {"train_honest_video": 1, "train_random_split_video": 1}),
    ],
)
def test_the_grid_runs_skips_what_is_done_and_resumes(executed, tiny_file, tiny, tmp_path, job, protocols, train):
    """On features that are there already: three folds of one variant, then nothing, then what was deleted."""
    data = yaml.safe_load(tiny_file.read_text())
    outputs = tiny.folder.parent / f"grid-{job}"
    data["outputs"] = str(outputs)
    data["folds"]["groups"] = [["Ses01", "Ses02"], ["Ses03", "Ses04"], ["Ses05"]]
    data["ablation"] = {protocol: ["video"] for protocol in protocols}
    data["training"]["job"] = job
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(data))
    prepared = {"preprocess": 1}
    if job == "folds":  # a notebook that has run is not run again: the rule is the other grid's
        prepare(params.load(file))
        (outputs / "notebooks").mkdir()
        shutil.copy(executed / "01_preprocess.ipynb", outputs / "notebooks")
        prepared = {}
    first = whole_grid(file, tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    assert jobs(first) == {**prepared, **train, "ablation": 1, "all": 1}
    assert not records.missing_runs(params.load(file), [(protocol, "video") for protocol in protocols])
    assert str(outputs / "report.html") in first.stdout + first.stderr
    again = whole_grid(file, tmp_path)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr
    record = outputs / "runs" / "honest" / "video" / "fold2-seed0" / "record.json"
    record.unlink()
    rule = next(iter(train))
    resumed = jobs(snakemake(file, tmp_path, "--dry-run"))
    assert resumed[rule] == 1 and "preprocess" not in resumed
    data["training"]["epochs"] = 3
    file.write_text(yaml.safe_dump(data))
    changed = jobs(snakemake(file, tmp_path, "--dry-run"))
    assert changed[rule] == train[rule] and "preprocess" not in changed


def test_the_grid_refuses_a_misspelt_params_file(tmp_path):
    done = snakemake("dmeo", tmp_path, "--dry-run")
    assert done.returncode != 0
    assert "did you mean 'demo'?" in done.stdout + done.stderr


def test_the_demo_grid_is_the_eight_rows_and_two_of_them_under_the_other_protocols(tmp_path):
    p = params.load("demo")
    rows = ["video-face", "video", "audio", "baseline", "avel", "mem", "foal-net", "ledger-mem-weight"]
    assert p.ablation["honest"] == rows
    assert p.ablation["published"] == p.ablation["random-split"] == ["baseline", "foal-net"]
    found = jobs(snakemake("demo", ROOT, "--dry-run", overrides=f"outputs={tmp_path / 'out'}"))
    trained = [f"train_{protocol}_{v}" for protocol, rows in p.ablation.items() for v in rows]
    assert {n: c for n, c in found.items() if n.startswith("train")} == {n.replace("-", "_"): 1 for n in trained}
    assert found["preprocess"] == found["ablation"] == 1
    alone = jobs(snakemake("demo", ROOT, "--dry-run", overrides=f"outputs={tmp_path / 'out'} training.job=fold"))
    assert alone["train"] == 60 and alone["five_fold"] == 12 and alone["preprocess"] == 1


def test_features_are_extracted_by_session_where_shards_are_asked_for(tmp_path):
    outputs = f"outputs={tmp_path / 'out'}"
    asked = snakemake("demo", ROOT, "--dry-run", "--until", "shards", overrides=outputs)
    assert jobs(asked) == {"corpus": 1, "extract": 15, "shards": 1}
    hostile = "it's $(touch pwned) {x}"
    groups = f'folds.groups=[["{hostile}"], [Ses02]]'
    done = snakemake("iemocap-frozen", ROOT, "--dry-run", "-p", "--until", "shards", overrides=f"{outputs} {groups}")
    streams = params.load("iemocap-frozen").features
    assert jobs(done) == {"extract": 2 * len(streams), "shards": 1}
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "foalkit extract" in line]
    asked = [shlex.split(line.split("foalkit extract")[1].split(" > ")[0]) for line in lines]
    assert {(a[0], a[1]) for a in asked} == {
        (f"--stream={s}", f"--group={g}") for s in streams for g in (hostile, "Ses02")
    }
    assert all(a[2:] == ["--", "iemocap-frozen", f"{outputs} {groups}"] for a in asked)


def test_the_saved_record_is_json_with_the_promised_fields(executed, tiny):
    record = json.loads((records.run_folder(tiny, "honest", "foal-net", 2, 0) / "record.json").read_text())
    for key in (
        "variant",
        "protocol",
        "fold",
        "seed",
        "sizes",
        "params_digest",
        "split_digest",
        "feature_digests",
        "manifest_digest",
        "encoders",
        "provenance",
        "seconds",
        "device",
    ):
        assert key in record, key
    assert {"commit", "dirty", "packages"} <= set(record["provenance"])
    for score in record["scores"].values():
        assert 0 <= score["wa"] <= 1 and 0 <= score["ua"] <= 1 and 1 <= score["epoch"] <= 2
