"""What is proved of an installation: each library with native code works, and none is the machine's own."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

from foalkit import ROOT, proof

# what every Linux with glibc has; and FriBiDi, which Pillow opens where it is there, for text from right to left
PLATFORM = r"(libfribidi|ld-linux.*|lib(c|m|mvec|dl|pthread|rt|util|resolv|nss_\w+|stdc\+\+|gcc_s|z))\.so.*"
MAPS = """
import json, pathlib
lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
print("MAPS" + json.dumps(sorted({line.split(None, 5)[5] for line in lines if ".so" in line})))
"""
# what `foalkit.proof` tries in two processes, and a small run with a figure
EVERYTHING = """
import sys
from pathlib import Path
from foalkit import proof
there = proof.packages()
for name in sorted(there, key=lambda n: len(proof._needs(n, there))):
    proof.TRIES.get(name, lambda: None)()
    proof._load(there[name])
from foalkit import params
from foalkit.features.data import open_data
from foalkit.report import explore, figures
from foalkit.results import records
from foalkit.training import runs
p = params.load(sys.argv[1], [f"outputs={sys.argv[2]}"])
file = runs.run(p, "foal-net", 2, 0, "honest", open_data(p))
record = records.read_record(file) | {"folder": file.parent}
seen = explore.embeddings(p, record)
assert explore.pictures(p, seen)
"""


def mapped(python: str, *words: str) -> list[str]:
    """The libraries in the memory of a Python process after it has done what the words say."""
    done = subprocess.run([python, *words], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("MAPS"))
    return json.loads(line[4:])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what a process has mapped")
def test_every_native_package_is_loaded_and_no_library_of_the_machines(tiny, tiny_file, data, tmp_path):
    loaded = set(map(os.path.realpath, mapped(sys.executable, "-c", EVERYTHING + MAPS, str(tiny_file), tiny.outputs)))
    native = {
        d.metadata["Name"]: {os.path.realpath(d.locate_file(f)) for f in d.files if re.search(r"\.so[.\d]*$", f.name)}
        for d in distributions()
    }
    native = {name: files for name, files in native.items() if files}
    assert len(native) > 50
    assert not [name for name, files in native.items() if not files & loaded]

    modules = "import sys, importlib.util\nfor n in sys.stdlib_module_names:\n"
    modules += "    s = importlib.util.find_spec(n) if n[:3] != '_xx' else None\n"
    modules += "    if s and s.origin and '.so' in s.origin: __import__(n)\n"
    pythons = set(map(os.path.realpath, mapped(sys.executable, "-I", "-S", "-c", modules + MAPS)))
    venv = os.path.realpath(sys.prefix) + os.sep
    foreign = {
        f for f in loaded - pythons if not f.startswith(venv) and not re.fullmatch(PLATFORM, os.path.basename(f))
    }
    assert not foreign


# each as the import of the real library fails when it is broken; the last two end the process and are no native library
BROKEN = {
    "dlib": "raise ImportError('_dlib_pybind11.so: undefined symbol: png_init_io')",
    "llvmlite": "raise OSError('Could not find/load shared object file libllvmlite.so')",
    "soundfile": "raise OSError('cannot load library libsndfile.so')",
    "h5py": "raise AttributeError('module h5py has no attribute File')",
    "zmq": "import os; os.kill(os.getpid(), 11)",
    "pooch": "raise SyntaxError('source code string cannot contain null bytes')",
}


def cut_off(package: str, library: str, folder: Path) -> None:
    """A copy of an installed package, made of links, of which one library ends too soon."""
    site = Path(sys.prefix) / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    for file in (f for f in (site / package).rglob("*") if f.is_file() and f.suffix != ".pyc"):
        (folder / file.relative_to(site)).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.relative_to(site)).symlink_to(file)
    (file,) = folder.glob(f"{package}/{library}")
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:5000])


def doctor(before: Path) -> list[str]:
    env = {**os.environ, "PYTHONPATH": str(before)}
    call = [sys.executable, "-m", "foalkit", "doctor", "demo"]
    done = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and not done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("STOP")]


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are named otherwise")
def test_every_broken_library_is_named_with_what_to_do(tmp_path):
    for name, code in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    cut_off("torchvision", "_C_stable.so", tmp_path)
    cut_off("pandas", "_libs/groupby.*.so", tmp_path)
    names = {"dlib": "dlib-bin", "zmq": "pyzmq"}
    said = {line.split()[2].rstrip(":"): line for line in doctor(tmp_path)}
    assert said.keys() == {names.get(n, n) for n in BROKEN} | {"torchvision", "pandas"}
    assert all("take that folder out of PYTHONPATH" in line and str(tmp_path) in line for line in said.values())
    assert "SIGSEGV" in said["pyzmq"] and "libsndfile" in said["soundfile"]


def test_what_all_need_is_named_alone(tmp_path):
    (tmp_path / "numpy.py").write_text("raise ValueError('numpy.dtype size changed, may indicate incompatibility')")
    (line,) = doctor(tmp_path)
    assert "numpy: ValueError: numpy.dtype size changed" in line


def test_a_build_of_ffmpeg_that_lacks_a_codec_fails(monkeypatch):
    monkeypatch.setattr(proof, "CODECS", {"r": ("h264",), "w": ("aac", "no-such")})
    with pytest.raises(ValueError, match="no-such"):
        proof.TRIES["av"]()


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("own.py", "x = 1\n", ""),
        ("own.py", "x =", "own.py of 3 files"),
        ("own.py", None, "own.py of 3 files"),
        ("own-1.0.dist-info/METADATA", None, "own-1.0.dist-info/METADATA of 3 files"),
        ("own-1.0.dist-info/RECORD", None, "no RECORD"),
        ("own-1.0.dist-info/RECORD", "\0\0\0", "no RECORD"),
    ],
)
def test_a_package_is_whole_when_its_files_are(tmp_path, file, text, wrong):
    own = tmp_path / "own-1.0.dist-info"
    own.mkdir()
    (tmp_path / "own.py").write_text("x = 1\n")
    (own / "METADATA").write_text("Name: own\nVersion: 1.0\n")
    (own / "RECORD").write_text(f"own.py,sha256=x,6\n{own.name}/METADATA,sha256=x,23\n{own.name}/RECORD,,\n")
    (tmp_path / file).unlink()
    if text is not None:
        (tmp_path / file).write_text(text)
    (there,) = Distribution.discover(name="own", path=[str(tmp_path)])
    assert proof._damage(there).startswith(wrong) and bool(proof._damage(there)) == bool(wrong)
