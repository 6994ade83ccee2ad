"""What proves an installation: each locked package is whole, and what has native code does a little of its work here.

Only the standard library is imported here, and the tries run in another process: a library that raises, hangs or ends
its process is named, and the caller goes on. `python -m foalkit.proof` prints a line for each fault.
"""

import csv
import ctypes
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from functools import cache, partial
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from foalkit import SHARED, one_line

# what needs another program or Tk, what its own Python file must load, and torchvision (see its try)
NOT_LOADED = r"_vendored|(tbb|omp)pool|_imagingtk|_tkagg|_matfuncs_sqrtm_triu|^torchvision\b"
MODULE = r"\w+(/__init__)?\.py"
TIME = 300  # seconds for all tries together; they take ten
CODECS = {"r": ("mpeg4", "h264", "aac", "pcm_s16le", "flac"), "w": ("mpeg4", "libx264", "aac", "pcm_s16le")}


class Fault(NamedTuple):
    """A package, what is wrong with it in one line, and what to do."""

    package: str
    error: str
    to_do: str


def faults() -> list[Fault]:
    """What is wrong with the packages of the lock: files that are not there or not whole, and what does not work.

    A package that needs one with a fault is not tried: it may be whole.
    """
    there, other = packages(), elsewhere()
    needs = {name: _needs(name, there) for name in there}
    wrong = {name: error for name, d in there.items() if (error := _damage(d))}
    names = sorted((n for n in there if n in TRIES or n in other or _native(there[n])), key=lambda n: len(needs[n]))
    names = [n for n in names if n not in wrong and not needs[n] & wrong.keys()]
    failed = _failures(names, needs)
    for name, (error, raised_by) in failed.items():
        # some use NumPy or pandas without saying so: the fault is theirs
        if not (needs[name] | {raised_by or name} - {name}) & failed.keys():
            wrong[name] = error
    return [Fault(n, error, _to_do(n, there[n], error, other.get(n))) for n, error in sorted(wrong.items())]


def _failures(names: list[str], needs: dict[str, set[str]]) -> dict[str, tuple[str, str | None]]:
    """Those of these packages that do not work, as `_try_all` says; in `names` each comes after what it needs."""
    failed: dict[str, tuple[str, str | None]] = {}
    while names and (one := _try_all(names)):
        failed[one[0]] = one[1:]
        names = [n for n in names[names.index(one[0]) + 1 :] if not needs[n] & failed.keys()]
    return failed


@cache
def packages() -> dict[str, Distribution]:
    """The lock's packages that are installed here, or what foalkit needs where there is no lock, by name."""
    text = "".join(file.read_text(encoding="utf-8") for file in SHARED.glob("requirements*.lock"))
    there: dict[str, Distribution] = {}
    for name in sorted(set(re.findall(r"^([\w.-]+)==", text, re.M))):
        with suppress(PackageNotFoundError):
            there[_plain(name)] = distribution(name)
    if not text:
        every = {_plain(d.name): d for d in distributions() if d.name}
        there = {name: every[name] for name in _needs("foalkit", every)} if "foalkit" in every else {}
    return there


def elsewhere() -> dict[str, Path]:
    """Packages of which Python finds another copy than the one installed here first, and the folder that it lies in."""
    found = {}
    for name, d in packages().items():
        for module, path in _modules(d).items():
            spec, here = find_spec(module), Path(d.locate_file(path))
            if spec and spec.origin and here.exists():
                folder = Path(spec.origin).parent
                if os.path.realpath(folder) != os.path.realpath(here.parent):
                    found[name] = folder.parent if spec.submodule_search_locations else folder
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needs(name: str, there: dict[str, Distribution]) -> set[str]:
    """The packages that this one needs, and those that they need."""
    needs: set[str] = set()
    wanted = [name]
    while wanted:
        name, direct = wanted.pop(), set()
        with suppress(ValueError):  # METADATA that is no text
            lines = there[name].requires or []
            direct = {_plain(re.match(r"[\w.-]+", line)[0]) for line in lines if "extra ==" not in line}
        wanted += (direct & there.keys()) - needs
        needs |= direct & there.keys()
    return needs


@cache
def _files(d: Distribution) -> dict[str, str]:
    """The files that a package's record names, each with its size in bytes, or "" where that is not said."""
    try:
        rows = csv.reader((d.read_text("RECORD") or "").splitlines())
        return {path: size for path, _, size in rows}
    except (csv.Error, ValueError):
        return {}


def _modules(d: Distribution) -> dict[str, str]:
    """The modules that a package brings, each with its file: `numpy` with `numpy/__init__.py`."""
    return {path.split("/")[0].removesuffix(".py"): path for path in _files(d) if re.fullmatch(MODULE, path)}


def _native(d: Distribution) -> list[str]:
    return [path for path in _files(d) if re.search(r"\.(so|dylib)(\.[\d.]+)?$", path) and "/tests/" not in path]


def _damage(d: Distribution) -> str:
    """Which files of a package are not as its installer wrote them, by existence and size; nothing where all are."""
    files, lost = _files(d), []
    for path, size in files.items():
        try:
            whole = not size or os.stat(d.locate_file(path)).st_size == int(size)
        except (OSError, ValueError):
            whole = False
        lost += [] if whole else [path]
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return f"{lost[0]}{more} of {len(files)} files are missing or cut off" if lost else "" if files else "no RECORD"


def _to_do(name: str, d: Distribution, error: str, other: Path | None) -> str:
    if re.search("SIGKILL|MemoryError|annot allocate memory", error):
        return "there is too little memory: 2 GB must be free"
    if other is not None:
        return f"Python takes another copy of it from {other}: take that folder out of PYTHONPATH"
    with suppress(ValueError):
        name += f"=={d.version}" if d.version else ""
    return f"{sys.executable} -m pip install --force-reinstall --no-deps {name}"


def _try_all(names: list[str]) -> tuple[str, str, str | None] | None:
    """Try these packages in this order in a new process, up to the first that fails: it, its error, who raised that."""
    call = [sys.executable, "-P", "-X", "faulthandler", "-m", "foalkit.proof", *names]
    try:
        done = subprocess.run(call, capture_output=True, timeout=TIME)
        status, text, trace = done.returncode, done.stdout, done.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired as stopped:
        status, text, trace = None, stopped.stdout or b"", ""
    if status == 0:
        return None
    name, *failure = json.loads(text.splitlines()[-1]) if text else names[:1]
    if failure:
        error, files = failure
    else:  # the process is gone: its fault handler writes where it was, innermost first
        files = re.findall(r'^  File "(.+)", line', trace, re.M)
        ended = "did not end" if status is None else f"ended with status {status}"
        error = f"its process {ended if (status or 0) >= 0 else f'was ended by {signal.Signals(-status).name}'}"
    return name, error, next((owner for file in files if (owner := _owner(file))), None)


def _owner(file: str) -> str | None:
    """The package that a file belongs to, wherever that lies."""
    owners = {module: name for name, d in packages().items() for module in _modules(d)}
    inside = [file[len(folder) + 1 :] for folder in sys.path if folder and file.startswith(folder + os.sep)]
    return next((owners[top] for path in inside if (top := path.split("/")[0].removesuffix(".py")) in owners), None)


def _try(names: list[str]) -> int:
    """Print each name and try that package; where it fails, print its error and the files it came from, and stop."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as said:
        os.dup2(2, 1)  # what a library prints is no answer
        there, other = packages(), elsewhere()
        for name in names:
            print(json.dumps([name]), file=said, flush=True)
            try:
                for module in _modules(there[name]) if name in other else ():
                    importlib.import_module(module)
                TRIES.get(name, lambda: None)()
                _load(there[name])
            except BaseException as error:  # a Rust library's panic is no Exception
                reason = str(error) or ("a wrong result" if isinstance(error, AssertionError) else "no reason")
                files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]
                print(json.dumps([name, one_line(f"{type(error).__name__}: {reason}"), files]), file=said)
                return 1
    return 0


def _load(d: Distribution) -> None:
    """Import a package's native modules, or open a native library where it has no modules."""
    tags = "|".join(re.escape(suffix) for suffix in EXTENSION_SUFFIXES if suffix != ".so")
    names = [m[1].replace("/", ".") for path in _native(d) if (m := re.fullmatch(rf"([\w/]+)({tags})", path))]
    names = [name for name in names if not re.search(NOT_LOADED, name)]
    for name in names:
        importlib.import_module(name)
    error = None
    for path in () if names else _native(d):
        try:
            ctypes.CDLL(str(d.locate_file(path)))
            return
        except OSError as reason:  # a plugin may lack the program that it is for
            error = error or reason
    if error:
        raise error


def _numpy() -> None:
    import numpy as np

    a = np.arange(9.0).reshape(3, 3) + 9 * np.eye(3)
    assert np.allclose(np.linalg.solve(a, a @ a), a)


def _scipy() -> None:
    import scipy.fft
    import scipy.linalg
    import scipy.signal
    import scipy.stats

    a = [[4.0, 1.0], [1.0, 3.0]]
    assert scipy.linalg.cho_factor(a)[0][0, 0] == 2 and scipy.fft.fft(a)[0, 0] == 5


def _torch() -> None:
    import torch

    layers = torch.nn.Sequential(torch.nn.Conv1d(4, 8, 3), torch.nn.Flatten(), torch.nn.Linear(48, 2))
    layers(torch.ones(2, 4, 8)).softmax(1).square().sum().backward()
    assert all(p.grad is not None for p in layers.parameters())


def _torchvision() -> None:
    """Its import reads PyTorch's compiler, for four seconds: only the library of its operations is loaded."""
    import torch

    for library in Path(find_spec("torchvision").origin).parent.glob("_C*.so"):
        torch.ops.load_library(str(library))
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]])
    assert torch.ops.torchvision.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]


def _av() -> None:
    import av

    for mode, names in CODECS.items():
        for name in names:
            av.codec.Codec(name, mode)
    file = BytesIO()
    with av.open(file, "w", format="mp4") as film:
        pictures, sound = film.add_stream("libx264", rate=25, width=64, height=64), film.add_stream("aac", rate=16000)
        sound.layout = "mono"
        picture, silence = av.VideoFrame(64, 64, "yuv420p"), av.AudioFrame("fltp", "mono", 1024)
        silence.rate = 16000
        for plane in (*picture.planes, *silence.planes):  # what lay in memory may be no number, which AAC refuses
            plane.update(bytes(plane.buffer_size))
        film.mux([p for stream, frame in ((pictures, picture), (sound, silence)) for p in stream.encode(frame)])
        film.mux([p for stream in (pictures, sound) for p in stream.encode()])
    file.seek(0)
    with av.open(file) as film:
        assert {type(frame) for frame in film.decode()} == {av.VideoFrame, av.AudioFrame}


def _dlib_bin() -> None:
    import dlib
    import numpy as np

    assert not dlib.get_frontal_face_detector()(np.zeros((96, 96, 3), np.uint8))


def _soundfile() -> None:
    import soundfile

    for kind in ("WAV", "FLAC"):
        file = BytesIO()
        soundfile.write(file, [0.0, 0.5, -0.5, 0.25], 16000, format=kind)
        file.seek(0)
        assert soundfile.read(file)[0].tolist() == [0.0, 0.5, -0.5, 0.25]


def _numba() -> None:
    import numba

    assert numba.njit(lambda x: x + 1)(2) == 3


def _scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    x, y = [[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]
    for kind in (LogisticRegression, DecisionTreeClassifier):
        assert kind(random_state=0).fit(x, y).predict(x).tolist() == y


def _pyarrow() -> None:
    import pyarrow.parquet

    table, file = pyarrow.table({"a": [1.5, 2.5], "b": ["x", None]}), BytesIO()
    pyarrow.parquet.write_table(table, file)
    assert pyarrow.parquet.read_table(BytesIO(file.getvalue())).equals(table)


def _h5py() -> None:
    import h5py

    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        file["a"] = [1.0, 2.0]
        assert file["a"][1] == 2


def _safetensors() -> None:
    import safetensors

    assert safetensors.deserialize(b"\2" + bytes(7) + b"{}") == []


def _pillow() -> None:
    from PIL import Image

    for kind in ("PNG", "JPEG"):
        file = BytesIO()
        Image.new("RGB", (8, 8), "red").save(file, kind)
        assert Image.open(file).getpixel((4, 4))[0] > 200


def _matplotlib() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([0, 1])
    figure.savefig(BytesIO(), format="png")


def _pyzmq() -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
        one.bind("inproc://proof")
        two.connect("inproc://proof")
        one.send(b"x")
        assert two.recv() == b"x"


# what these packages do before their native modules are imported one by one; those of the others are imported only
OWN = (_numpy, _scipy, _torch, _torchvision, _av, _dlib_bin, _soundfile, _numba, _scikit_learn)
OWN += (_pyarrow, _h5py, _safetensors, _pillow, _matplotlib, _pyzmq)
TRIES = {f.__name__[1:].replace("_", "-"): f for f in OWN}
TRIES |= {m.split(".")[0]: partial(importlib.import_module, m) for m in ("llvmlite.binding", "pydantic")}


def main(names: list[str]) -> int:
    """Try the packages of these names, up to the first that fails; without names, print every fault."""
    if names:
        return _try(names)
    found = faults()
    print("".join("\t".join(fault) + "\n" for fault in found), end="")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
