"""A finished grid, damaged on purpose: the same command makes what is damaged, nothing else, to the same bytes."""

import json
import os
import random
import re
import shutil
from pathlib import Path

import made_up
import pytest
import yaml

from foalkit import UserError, cli, grid, params
from foalkit.features.data import prepare, up_to_date
from foalkit.files import file_digest
from foalkit.results import records, whole

undrawn = made_up.undrawn
TIMES = (
    "seconds",
    "cpu_seconds",
    "finished",
    "provenance",
    "resumed",
    "digest",
    "seconds_of_the_fold",
    "cpu_seconds_of_the_fold",
)


@pytest.fixture(scope="module")
def finished(tiny_file, tiny, data, tmp_path_factory):
    """A real grid of one row and its robustness, on features that are there; its params file and start folder."""
    here = tmp_path_factory.mktemp("whole")
    settings = yaml.safe_load(tiny_file.read_text())
    settings["outputs"] = str(tiny.folder.parent / "whole")
    settings["ablation"] = {"honest": ["foal-net"]}
    off = {key: [] for key in ("gaps", "late", "blur", "darkness", "dropped")}
    settings["robustness"] = {"rows": ["foal-net"], "noise_db": [0], "mouth": False, **off}
    (here / "whole.yaml").write_text(json.dumps(settings))
    p = params.load(here / "whole.yaml")
    prepare(p)
    (p.folder / "notebooks").mkdir()
    (p.folder / "notebooks" / "01_preprocess.ipynb").write_text("{}")  # its job is another test's
    assert grid.run(str(here / "whole.yaml"), cores="2", folder=here) == 0
    return here / "whole.yaml", here


def again(finished, capfd, overrides="") -> tuple[str, dict[str, int]]:
    """What the same command says, and how many jobs of each rule it runs."""
    capfd.readouterr()
    status = grid.run(str(finished[0]), overrides, cores="2", folder=finished[1])
    said = capfd.readouterr().out
    assert status == 0, said
    return said, {n: int(c) for n, c in re.findall(r"^(\w+) +(\d+)$", said, re.M) if n not in ("total", "all")}


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def state(folder: Path) -> dict:
    """All that must be the same again: bytes, of JSON all but times."""
    found = {}
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not name.startswith(("logs", "notebooks", ".")) and file.name not in ("report.html",):
            text = file.suffix == ".json" and file.name != whole.REPORT
            found[name] = timeless(json.loads(file.read_text())) if text else file_digest(file)
    return {k: v for k, v in found.items() if not k.endswith(("report.json", "ablation.csv"))}  # they print seconds


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_exactly_the_damaged_runs_are_trained_again(finished, capfd):
    p = params.load(finished[0])
    runs = {fold: records.run_folder(p, "honest", "foal-net", fold, 0) for fold in range(1, 6)}
    at = lambda: {fold: json.loads((run / "record.json").read_text())["digest"] for fold, run in runs.items()}  # noqa: E731
    before, made = state(p.folder), at()
    cut(runs[1] / "predictions.parquet")
    shutil.copytree(runs[4], runs[2], ignore=shutil.ignore_patterns("robustness-*"), dirs_exist_ok=True)
    flip(runs[3] / "weights.safetensors")
    edit(runs[5] / "record.json", '"selection": "validation"', '"selection": "test"')
    assert cli.main(["check", str(finished[0])]) == 1
    named = capfd.readouterr().out
    said, jobs = again(finished, capfd)
    for fold in (1, 2, 3, 5):
        for words in (named, said):
            assert len(re.findall(rf"^\S*/foal-net/fold{fold}-seed0\S*: .*$", words, re.M)) == 1, (fold, words)
    assert [fold for fold, when in at().items() if when == made[fold]] == [4]
    assert set(jobs) == {"train_honest_foal_net", "robustness", "ablation"}
    assert state(p.folder) == before
    assert "Nothing to be done" in again(finished, capfd)[0]
    assert cli.main(["check", str(finished[0])]) == 0


def test_what_is_made_of_runs_is_made_again_without_them(finished, capfd):
    p = params.load(finished[0])
    before, made = state(p.folder), {f: f.read_bytes() for f in p.folder.rglob("record.json")}
    (p.folder / "five_fold" / "honest-foal-net.json").unlink()  # as a job leaves it that failed
    cut(answers := next(p.folder.rglob("robustness-*.parquet")))
    (p.folder / "robustness.json").write_text("{")
    edit(p.folder / "report.html", "UA", "AU")
    (p.folder / "tables" / "selection.csv").unlink()
    said, jobs = again(finished, capfd)
    assert "robustness.json: not whole" in said and answers.name in said
    assert set(jobs) == {"train_honest_foal_net", "robustness", "ablation"}
    assert state(p.folder) == before and {f: f.read_bytes() for f in made} == made
    (p.folder / "report.html").unlink()
    assert again(finished, capfd)[1] == {"ablation": 1}
    assert cli.main(["check", str(finished[0])]) == 0


def values(value, path=()):
    """The way to every value of JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [way for key, one in inner for way in [(*path, key), *values(one, (*path, key))]]


def damage(file: Path, rng: random.Random) -> str:
    """Damage a file in one of many ways, and say how."""
    content, said = file.read_bytes(), None
    if file.suffix == ".json" and rng.random() < 0.6:
        whole_value = value = json.loads(content)
        *way, last = rng.choice(values(value))
        for key in way:
            value = value[key]
        new = rng.choice([None, [], {}, "x", -1, 10**400, 1e308, float("nan"), True, "gone"])
        said = f"{way} {last} is {str(new)[:9]}"
        value[last] = [[new]] if value[last] == new else new
        if new == "gone":
            del value[last]
        content = json.dumps(whole_value).encode()
    said = said or rng.choice(["empty", "list", "null", "deep", "cut", "no text", "flipped", "gone", "folder", "link"])
    middle = len(content) // 2
    ways = {"empty": b"", "list": b"[]", "null": b"null", "deep": b'{"a":' * 10**5, "cut": content[:middle]}
    ways |= {
        "no text": b"\xff\xfe\0" + content,
        "flipped": bytes([*content[:middle], content[middle] ^ 1, *content[middle + 1 :]]),
    }
    if said in ("gone", "folder", "link"):
        file.unlink()
        file.mkdir() if said == "folder" else file.symlink_to("nowhere") if said == "link" else None
    else:
        file.write_bytes(ways.get(said, content))
    return said


def test_whatever_is_damaged_the_check_and_the_grid_say_so_in_lines(finished, capfd, tmp_path, undrawn):
    """Inputs one by one; then all that is printed at once, since that alone is compared by making it again."""
    copy, rng = tmp_path / "copy", random.Random(int(os.environ.get("DAMAGE", 0)))
    shutil.copytree(params.load(finished[0]).folder, tmp_path / "kept" / "out")
    shutil.copytree(params.load(finished[0]).features_folder, tmp_path / "kept" / "features")
    p = params.load(finished[0], f"outputs={copy}/out")
    stores = [f"../features/{p.store_name(s)}/{name}" for s in p.features for name in ("store.json", "index.parquet")]
    run, answers = "runs/honest/foal-net/fold1-seed0", next((tmp_path / "kept").rglob("fold1-*/robustness-*.json")).name
    names = ("record.json", "predictions.parquet", "weights.safetensors", "absent.parquet", answers)
    inputs = [
        *(f"{run}/{name}" for name in names),
        "params.json",
        "preprocess.json",
        "manifest.parquet",
        "report.json",
        *stores[:2],
    ]
    printed = ["five_fold/honest-foal-net.json", "tables/ablation.csv", "tables/ablation.tex", "robustness.json"]
    printed += ["report.html", "figures/curves.png"]
    for files in [*([name] for name in 2 * inputs), printed]:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "kept", copy)
        how = {name: damage(p.folder / name, rng) for name in files}
        status = cli.main(["check", str(finished[0]), f"outputs={copy}/out"])
        said = capfd.readouterr()
        lines = (said.out + said.err).splitlines()
        assert max(map(len, lines)) < 1000, (how, lines)
        if "params.json" in how or stores[0] in how:  # what nothing printed depends on is not missed
            assert status == 0 or "damaged" in lines[0] or "holds" in lines[0] or "the folder is" in lines[0], (
                how,
                lines,
            )
        else:
            assert status == 1, (how, lines)
            told = {name for name in files if any(Path(name).name in line for line in lines)}
            assert told or Path(files[0]).parent.name in lines[0], (how, lines)
            assert files != printed or len(told) == len(files) or how["report.html"] in ("gone", "link"), (how, lines)
        try:
            records.claim(p)
            plan = whole.plan(p) if up_to_date(p, stores=False) else None
        except UserError as error:
            assert "params.json" in how, (how, error)
        else:
            assert (
                plan is None
                or plan.damaged
                or plan.trains
                or files[0].startswith(("params", "../f"))
                or files == printed
            )


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", Path.unlink),
        ("absent.parquet", flip),
        ("record.json", cut),
        ("record.json", lambda file: file.write_text("[]")),
        ("predictions.parquet", lambda file: file.unlink() or file.mkdir()),
        ("record.json", lambda file: file.unlink() or (file / "folder").mkdir(parents=True)),
        (
            "record.json",
            lambda file: edit(file, '"learned"', '"partly"') if "learned" in file.read_text() else cut(file),
        ),
    ],
)
def test_any_damage_of_a_run_is_found_before_anything_runs(finished, tmp_path, name, damage):
    shutil.copytree(params.load(finished[0]).folder, tmp_path / "out")
    p = params.load(finished[0], f"outputs={tmp_path}/out")
    run = records.run_folder(p, "honest", "foal-net", 2, 0)
    damage(run / name)
    plan = whole.plan(p)
    assert plan.trains and len([line for line in plan.damaged if "foal-net/fold2-seed0" in line]) == 1, plan
    assert records.missing_runs(p, [("honest", "foal-net")]) == [("honest", "foal-net", 2, 0)]
    assert not (run / name).is_dir()


def test_a_copied_folder_is_finished_where_it_lies(finished, capfd, tmp_path):
    p = params.load(finished[0])
    shutil.copytree(p.folder, tmp_path / "alone" / "out", copy_function=shutil.copyfile)  # with times of its own
    shutil.copytree(p.folder, tmp_path / "all" / "out", copy_function=shutil.copyfile)
    shutil.copytree(p.features_folder, tmp_path / "all" / "features", copy_function=shutil.copyfile)
    for place in ("alone", "all"):
        said, jobs = again(finished, capfd, f"outputs={tmp_path}/{place}/out")
        assert "Nothing to be done" in said and not jobs, said
    # Snakemake has no notes of how these runs were made: their records tell that they answer another question now
    other = params.load(finished[0], f"outputs={tmp_path}/all/out")
    other = other.model_copy(update={"training": other.training.model_copy(update={"lr": 0.5})})
    plan = whole.plan(other)
    assert plan.trains and not plan.damaged and len(plan.stale) == 5 and all(f.exists() for f in plan.stale)
