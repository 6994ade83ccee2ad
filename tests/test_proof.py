"""What is proved of an installation: each library with native code works, and none is the machine's own."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

from foalkit import ROOT, proof

# of glibc and of the compiler's, which every Linux with glibc has; and FriBiDi, which Pillow opens where it is there, for
# text from right to left, which nothing here draws
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
