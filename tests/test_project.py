"""The lock, pyproject and environment.yml agree, and nothing committed names a machine."""

import re
import subprocess
import sys
import tomllib

import yaml

from foalkit import ROOT


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
    return project["dependencies"] + project["optional-dependencies"]["dev"]


def test_every_requirement_is_locked_at_a_version_it_admits():
    from packaging.requirements import Requirement

    versions = locked()
    for text in requirements():
        wanted = Requirement(text)
        assert normal(wanted.name) in versions, f"{wanted.name} is not in requirements.lock: make lock"
        for version in versions[normal(wanted.name)]:
            assert version in wanted.specifier, f"{wanted} against locked {version}: make lock"


def test_every_locked_package_has_hashes_and_no_address():
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)[1:]
    assert len(blocks) > 150
    for block in blocks:
        assert "--hash=sha256:" in block, block.splitlines()[0]
    assert not re.search(r"https?://|--index|--find-links|file:", text)


def test_the_lock_serves_linux_and_macos():
    markers = " ".join(re.findall(r"^torch==.*$", (ROOT / "requirements.lock").read_text(), re.M))
    assert "darwin" in markers and "linux" in markers


def test_environment_yml_installs_the_same_lock_for_the_same_pythons():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock"]
    assert "pip" in plain
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = project["requires-python"].replace(">=", "").replace("<", "").split(",")
    assert f"python>={bounds[0]},<{bounds[1]}" in plain


def test_no_machine_path_and_no_pickle_in_tracked_files():
    # a checkout may belong to another user than the one who tests it
    call = ["git", "-c", "safe.directory=*", "ls-files"]
    files = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    # spelt in parts, so that this file does not find itself
    patterns = {
        "a machine path": r"(?<![\w.])/(" + "home|" + "root|" + "work|" + "Users)/[a-z]",
        "unsafe loading": r"pickle\." + r"load|allow_pickle=" + r"True|yaml\." + r"load\(",
    }
    for name in files:
        if name.endswith((".png", ".lock")) or name.startswith("tests/"):
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        for what, pattern in patterns.items():
            assert not re.search(pattern, text), f"{what} in {name}"


def test_ruff_is_clean():
    subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", "."], cwd=ROOT, check=True)


def test_the_readmes_example_runs_to_its_backward():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(code.strip().splitlines()) <= 25 and code.strip().endswith("loss.backward()")
    names: dict = {}
    exec(code, names)
    unused = [n for n, p in names["net"].named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused and sum(p.numel() for p in names["net"].parameters()) == 14_321_161
