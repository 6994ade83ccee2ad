"""The lock, pyproject and environment.yml agree, and nothing committed names a machine."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import git

from foalkit import ROOT
from foalkit.results.records import written_cells


def locked() -> dict[str, list[str]]:
    text = (ROOT / "requirements.lock").read_text()
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.M):
        found.setdefault(normal(name), []).append(version)
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]


def test_every_requirement_is_locked_at_a_version_it_admits():
    from packaging.requirements import Requirement

    versions = locked()
    for text in requirements():
        wanted = Requirement(text)
        assert normal(wanted.name) in versions, f"{wanted.name} is not in requirements.lock: make lock"
        for version in versions[normal(wanted.name)]:
            assert version in wanted.specifier, f"{wanted} against locked {version}: make lock"


@pytest.mark.parametrize(
    ("lock", "least"), [("requirements.lock", 150), ("profiles/slurm/requirements.lock", 2), ("tests/browser.lock", 4)]
)
def test_every_locked_package_has_hashes_and_no_address(lock, least):
    text = (ROOT / lock).read_text()
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)[1:]
    assert len(blocks) >= least
    for block in blocks:
        assert "--hash=sha256:" in block, block.splitlines()[0]
    assert not re.search(r"https?://|--index|--find-links|file:", text)


def test_the_weights_packages_are_locked_as_the_code_wants_them_and_alone():
    from foalkit.features.encoders import packaged

    text = (ROOT / "requirements-weights.lock").read_text(encoding="utf-8")
    made = [w for w in vars(packaged).values() if isinstance(w, packaged.Weights)]
    assert dict(re.findall(r"^(\S+)==(\S+)", text, re.M)) == {w.package: w.version for w in made} and len(made) == 3
    assert text.count("--hash=sha256:") >= 3 and not re.search(r"https?://|--index|--find-links|file:", text)
    heavy = {"tensorflow", "webrtcvad", "opencv-contrib-python", "facenet-pytorch", "moviepy"}
    assert not heavy & set(locked()) and not {w.package for w in made} & set(locked())


def test_the_lock_serves_linux_and_macos():
    markers = " ".join(re.findall(r"^torch==.*$", (ROOT / "requirements.lock").read_text(), re.M))
    assert "darwin" in markers and "linux" in markers


def test_environment_yml_installs_the_same_lock_for_the_same_pythons():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock"]
    assert "pip" in plain
    # what its pip section cannot say: no requirements file may hold --no-deps
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "# pip install --no-deps -r requirements-weights.lock && " in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = project["requires-python"].replace(">=", "").replace("<", "").split(",")
    assert f"python>={bounds[0]},<{bounds[1]}" in plain


def test_the_image_installs_from_the_files_that_it_copies_first(tmp_path):
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for files, place in re.findall(r"^COPY --chown=foalkit (\S.*) (\S+/)$", text[: text.index("install.py &&")], re.M):
        (tmp_path / place).mkdir(exist_ok=True)
        for glob in files.split():
            assert list(ROOT.glob(glob)), glob
            for file in ROOT.glob(glob):
                shutil.copy(file, tmp_path / place)
    assert {"install.py", "requirements.lock", "requirements-weights.lock"} <= {f.name for f in tmp_path.iterdir()}
    names = [f"foalkit.{f.stem}" for f in tmp_path.glob("foalkit/[!_]*.py")]
    subprocess.run([sys.executable, "-c", f"import install, {', '.join(names)}"], cwd=tmp_path, check=True)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))["build"]
    assert (ROOT / ".devcontainer" / container["dockerfile"]).samefile(ROOT / "Dockerfile")
    assert all(re.search(rf"^ARG {name}=", text, re.M) for name in container["args"])


def test_no_machine_path_and_no_pickle_in_tracked_files():
    files = git("ls-files").split()
    # spelt in parts, so that this file does not find itself
    patterns = {
        "a machine path": r"(?<![\w.])/(" + "home|" + "root|" + "work|" + "Users)/[a-z]",
        "unsafe loading": r"pickle\." + r"load|allow_pickle=" + r"True|yaml\." + r"load\(",
    }
    for name in files:
        if name.endswith((".png", ".lock")) or name.startswith("tests/"):
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        if name.endswith(".ipynb"):  # saved outputs are not committed
            text = json.dumps(written_cells(text))
        for what, pattern in patterns.items():
            assert not re.search(pattern, text), f"{what} in {name}"


def test_text_is_read_and_written_as_utf_8_in_every_locale():
    files = [*(ROOT / "foalkit").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), ROOT / "install.py"]
    for file in files:
        for call in (n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            given = {k.arg: k.value for k in call.keywords}
            mode = [a.value for a in call.args if isinstance(a, ast.Constant) and set(str(a.value)) <= set("rwax+bt")]
            opens = name == "open" and getattr(getattr(call.func, "value", None), "id", "") not in (
                "av",
                "os",
                "wave",
                "Image",
            )
            text = name in ("read_text", "write_text") or (opens and "b" not in "".join(mode))
            text = text or "text" in given or "universal_newlines" in given
            text = text and not (
                name == "read_text" and call.args
            )  # a path's first is the encoding, a package's the file
            assert not text or "encoding" in given, f"{file.name}, line {call.lineno}: in which encoding?"


def test_ruff_is_clean():
    subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", "."], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "ruff", "format", "--check", "--quiet", "."], cwd=ROOT, check=True)


def test_the_rooms_keep_their_order():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as f; f()",
            "--no-cache",
            "--no-logo",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    rooms = {f.parent.name for f in (ROOT / "foalkit").glob("*/__init__.py")}
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert rooms <= {name.strip().removeprefix("foalkit.") for layer in named for name in layer.split("|")}


def test_every_room_says_what_comes_in_what_goes_out_and_what_never():
    for file in (ROOT / "foalkit").glob("*/__init__.py"):
        lines = ast.get_docstring(ast.parse(file.read_text())).splitlines()
        said = " ".join(lines[2:])
        assert len(lines) <= 4 and "In: " in said and "Out: " in said and "Never: " in said, file


def test_no_file_of_the_library_is_long():
    for file in (ROOT / "foalkit").rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 400, file


def test_the_readmes_example_runs_to_its_backward():
    codes = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (code,) = (c for c in codes if "import losses" in c)
    assert len(code.strip().splitlines()) <= 25 and code.strip().endswith("loss.backward()")
    names: dict = {}
    exec(code, names)
    unused = [n for n, p in names["net"].named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused and sum(p.numel() for p in names["net"].parameters()) == 14_321_161
