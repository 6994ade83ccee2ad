"""The same bytes on every x86-64 processor with AVX2: other ones are emulated in processes of their own."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from foalkit import ROOT, arithmetic, params
from foalkit.corpora.folds import split
from foalkit.files import bytes_digest
from foalkit.puppets.acting import product
from foalkit.training.loop import train

x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or "avx2" not in arithmetic._cpuinfo("flags").split(),
    reason="what is promised is promised of x86-64 processors with AVX2",
)

DEMO = """
import ctypes, sys
from pathlib import Path
from foalkit import arithmetic, params
from foalkit.corpora.folds import split
from foalkit.features.data import open_data
from foalkit.training.loop import train
from tests.test_arithmetic import digests
import av

if __name__ == "__main__":  # the corpus is written by processes of its own, which import this again
    util = ctypes.CDLL(str(next((Path(av.__file__).parent.parent / "av.libs").glob("libavutil*"))))
    util.av_force_cpu_flags(util.av_get_cpu_flags() & ~0x300000)  # no AVX-512
    p = params.load(sys.argv[1], "corpus.root='' outputs=" + sys.argv[2])
    data = open_data(p)
    print(*digests(data, Path(data.info["corpus"]), p), arithmetic.everywhere(), sep="\\n")
"""


def digests(data, root, p):
    """Of the corpus, of each store, and of the logits of one run."""
    logits = train(p, "foal-net", data, split(data.table, p, 1, "honest"), 0, "honest").predictions.filter(like="logit")
    files = b"".join(f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file())
    return [bytes_digest(files), *(s.digest for s in data.stores.values()), bytes_digest(logits.to_numpy().tobytes())]


def in_its_own_process(code, *words, **environment):
    own = {k: v for k, v in os.environ.items() if k not in (*arithmetic.NUMPY, *arithmetic.TORCH)}
    call = [sys.executable, "-W", "ignore", *(("-c", code) if isinstance(code, str) else (code,)), *words]
    done = subprocess.run(call, cwd=ROOT, env=own | environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@x86
def test_the_demo_has_the_same_bytes_on_another_processor(data, corpus, tiny, tiny_file, tmp_path):
    other = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    file = tmp_path / "demo.py"  # a file: processes that write the corpus import it again
    file.write_text(DEMO)
    there = in_its_own_process(file, tiny_file, tmp_path / "demo", PYTHONPATH=str(ROOT), **other)
    assert there[-6:] == [*digests(data, corpus, tiny), "True"]


@x86
def test_the_probe_tells_each_limit(tmp_path):
    code = "from foalkit import arithmetic\nprint(arithmetic.probe())"
    limited = in_its_own_process("from foalkit import arithmetic\narithmetic.limit_torch()\n" + code)
    assert limited == [arithmetic.EVERYWHERE]
    assert in_its_own_process(code, **arithmetic.TORCH) == limited
    other = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"}
    for name, value in other.items():  # what every processor can do, but this is not what the others do
        assert in_its_own_process(code, **{**arithmetic.TORCH, name: value}) != limited


def test_what_the_environment_sets_stays(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Zen")
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "AVX512_ICL")
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    arithmetic.limit_numpy()
    arithmetic.limit_torch()
    kept = [os.environ[n] for n in ("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES", "MKL_CBWR")]
    assert kept == ["Zen", "AVX512_ICL", "AUTO"]


def test_an_ordered_product_is_the_product():
    rng = np.random.default_rng(0)
    for shape in ((4,), (7, 4), (3, 7, 4)):
        a, b = rng.normal(size=shape), rng.normal(size=(4, 2))
        assert np.allclose(product(a, b), a @ b, rtol=1e-12)


def test_runs_of_before_the_key_was_there_stay_what_they_are():
    here, everywhere = (params.load("demo", f"training.reproducible={v}") for v in ("here", "everywhere"))
    assert here.digest("audio") != everywhere.digest("audio")
    assert here.store_name("audio") == everywhere.store_name("audio")  # made without PyTorch
    small, other = (params.load("demo-encoders", f"training.reproducible={v}") for v in ("here", "everywhere"))
    assert small.store_name("audio") != other.store_name("audio")


def test_the_machine_is_described_without_its_name():
    found = arithmetic.machine()
    assert found["processor"] and found["memory"] > found["peak_memory"] > 1 << 20
    assert found["blas"][0]["internal_api"] and platform.node() not in str(found)
