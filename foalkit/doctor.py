"""`foalkit doctor`: what this machine has, what a params file needs of it, and what to do about the rest."""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from foalkit import CHECKOUT, ROOT, SHARED, UserError, arithmetic, devices, one_line, proof

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
AGAIN = "touch requirements.lock, then make demo installs them"
if not CHECKOUT:
    AGAIN = f"python -m pip install --require-hashes -r {SHARED / 'requirements.lock'} installs them"


class Finding(NamedTuple):
    """What was looked at, what was found, what to do where it matters, and whether it stops the work."""

    what: str
    found: str
    to_do: str = ""
    stops: bool = False

    def __str__(self) -> str:
        mark = "STOP" if self.stops else "note" if self.to_do else "ok"
        return f"{mark:5}{self.what:11}{self.found}{f'; {self.to_do}' if self.to_do else ''}"


def examine(params: str | None = None, overrides: str | list[str] = "") -> list[Finding]:
    """Look at everything, and at what the params need where some are named; a look that fails is a finding too.

    Where a package does not work, what would load it is not looked at.
    """
    p, found = None, [f for look in (_python, _proof, _packages) for f in _look(look)]
    if any(f.stops for f in found):
        return [*found, Finding("the rest", "needs these packages and was not looked at", "mend them first")]
    try:
        if params is not None:
            from foalkit.params import load

            p = load(params, overrides)
    except UserError as error:
        found.append(Finding("params", str(error), stops=True))
    except Exception as error:
        found.append(_failed("params", error))
    for look in (_gpu, _processor, _memory, _folders, _corpus, _weights, _caches, _tools):
        found += _look(look, p)
    return found


def _look(look, p=None) -> list[Finding]:
    try:
        return list(look(p))
    except Exception as error:  # one look must not end the others
        return [_failed(look.__name__[1:], error)]


def _failed(what: str, error: Exception) -> Finding:
    if isinstance(error, ModuleNotFoundError) and not CHECKOUT:  # foalkit[score] does without
        return Finding(what, f"{error.name} is not installed", "where you need it: pip install 'foalkit[all]'")
    return Finding(what, one_line(f"{type(error).__name__}: {error}"), "mend that first", stops=True)


def _python(_) -> Iterator[Finding]:
    fine = (3, 11) <= sys.version_info[:2] <= (3, 13)
    to_do = "" if fine else "remove .venv and make PYTHON=python3.12"
    yield Finding("Python", f"{platform.python_version()} in {sys.prefix}", to_do, stops=not fine)
    if sys.getfilesystemencoding() != "utf-8":
        yield Finding(
            "locale", f"paths are {sys.getfilesystemencoding()}", "export PYTHONUTF8=1 before notebooks start"
        )


def _proof(_) -> Iterator[Finding]:
    faults = proof.faults()
    for package, error, to_do in faults:
        yield Finding("packages", f"{package}: {error}", to_do, stops=True)
    other = proof.elsewhere()
    for package in sorted(other.keys() - {f.package for f in faults}):
        words = f"{package} comes from {other[package]}, not from {sys.prefix}"
        yield Finding("packages", words, "take that folder out of PYTHONPATH, or numbers may differ")
    if not faults:
        yield Finding("packages", "their files are whole, and those with native code did a little work")


def _packages(_) -> Iterator[Finding]:
    from importlib.metadata import distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    there = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
    locks = [(SHARED / f"requirements{which}.lock").read_text(encoding="utf-8") for which in ("", "-weights")]
    lines = re.findall(r"^([\w.-]+==[^\\\n]+)", "".join(locks), re.M)
    wanted = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate()]
    versions = [(r, there.get(canonicalize_name(r.name))) for r in wanted]
    missing = [r.name for r, version in versions if version is None]
    other = [f"{r.name} {v} (locked: {str(r.specifier)[2:]})" for r, v in versions if v and v not in r.specifier]
    yield Finding("packages", f"{len(wanted) - len(missing) - len(other)} of {len(wanted)} as in requirements.lock")
    if missing:
        yield Finding("packages", f"missing: {_few(missing)}", AGAIN, stops=CHECKOUT)  # elsewhere the tools may lack
    if other:
        yield Finding("packages", f"another version: {_few(other)}", f"{AGAIN}; numbers may differ until then")


def _gpu(p) -> Iterator[Finding]:
    import torch

    driver = Path("/proc/driver/nvidia/version")
    asked = p is not None and "cuda" in (p.training.device, *(getattr(f, "device", "") for f in p.features.values()))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for n in range(count):
        free, size = (x / 1e9 for x in torch.cuda.mem_get_info(n))
        yield Finding("GPU", f"{n}: {torch.cuda.get_device_name(n)}, {free:.0f} of {size:.0f} GB free")
        if why := devices.lacks_kernels(n):
            to_do = "use auto or cpu, or a PyTorch that is built for it"
            yield Finding("GPU", why, to_do, stops=asked and all(map(devices.lacks_kernels, range(count))))
    if not torch.cuda.is_available() and driver.exists():
        said = driver.read_text(encoding="utf-8", errors="replace").split("\n")[0]
        to_do = f"torch is built for CUDA {torch.version.cuda}: update the driver, or look at CUDA_VISIBLE_DEVICES"
        yield Finding("GPU", f"torch sees none, though there is a driver ({said})", to_do, stops=asked)
    elif not torch.cuda.is_available():
        slow = "large networks take days without one" if p is not None and any(_networks(p)) else ""
        yield Finding("GPU", "none", "the params ask for device: cuda; use auto or cpu" if asked else slow, stops=asked)


def _processor(p) -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    can = torch.cpu.get_capabilities()
    units = [unit for unit in ("amx_bf16", "avx512_bf16", "bf16") if can.get(unit)] if devices.has_bf16() else []
    words = [f"{cores} cores", torch.backends.cpu.get_cpu_capability(), *(units[:1] or ["no units for bf16"])]
    words += [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    to_do = ""
    if p is not None and p.training.threads > cores:
        to_do = f"training.threads={p.training.threads} is more than there are: {cores} will do"
    elif p is not None and p.training.precision == "bf16" and not units and not torch.cuda.is_available():
        to_do = "training.precision is bf16: fp32 is used instead"
    yield Finding("processor", ", ".join(words), to_do)
    if p is not None and p.training.reproducible == "everywhere":
        same = arithmetic.everywhere()
        words = f"{'the' if same else 'not the'} bytes of x86-64 processors with AVX2 under the lock's versions"
        yield Finding("arithmetic", words, "" if same else "scores may differ in the last digits, as between seeds")


def _memory(_) -> Iterator[Finding]:
    import psutil

    limit, memory = Path("/sys/fs/cgroup/memory.max"), psutil.virtual_memory()
    said = limit.read_text(encoding="utf-8").strip() if limit.exists() else ""
    size = min(memory.total, int(said) if said.isdecimal() else memory.total)
    to_do = "" if size > 4e9 else "a job takes about 1 GB: make grid CORES=1"
    yield Finding("memory", f"{size / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB of the machine's available", to_do)


def _folders(p) -> Iterator[Finding]:
    places = {"outputs": p.folder if p else ROOT / "outputs", "temporary": Path(tempfile.gettempdir())}
    places["home"] = Path(os.environ.get("JUPYTER_RUNTIME_DIR") or Path("~").expanduser())
    places["caches"] = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for what, folder in places.items():
        there = next(f for f in (folder, *folder.parents) if f.exists())
        to_do = {"outputs": "set outputs: to a folder of yours", "temporary": "export TMPDIR=<folder>"}
        to_do["caches"] = "export XDG_CACHE_HOME=<folder>: matplotlib, numba and the hub's files are kept there"
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            do = to_do.get(what, "export HOME=<folder>: notebooks' kernels write there")
            yield Finding(what, f"{folder} cannot be written ({error.strerror})", do, stops=True)
            continue
        free, needs = shutil.disk_usage(there).free, _needs(p) if p and what == "outputs" else 0
        words = f"{folder}, {free / 1e9:.1f} GB free"
        words += f", about {needs / 1e9:.1f} GB of features, corpus and runs to come" if needs else ""
        yield Finding(what, words, "free some, or set outputs: to another disk" if free < needs + 5e8 else "")


def _needs(p) -> float:
    """Bytes that are still to be written, roughly: a generated corpus, features, the weights of runs."""
    made, seconds = p.corpus.generate, 1.2 if p.corpus.generate else 3.6  # of a turn, cut at 6 s
    turns = {"iemocap": 5531, "ravdess": 2452}.get(p.corpus.reader, 5000)
    if made:
        turns = (
            made.sessions * made.turns_per_session
            if p.corpus.reader == "iemocap"
            else made.takes_per_actor * made.actors
        )
    needs = 250_000 * turns if made and not Path(p.corpus_folder).exists() else 0
    sets = [(stream, own) for stream in p.features for own in p.sets(stream).values()]
    for spec in (own.features[stream] for stream, own in sets if not own.store_folder(stream).exists()):
        frames = 50 if spec.kind == "sound" else 30 / getattr(spec, "every", 1)
        needs += turns * seconds * (2 * frames * spec.width if hasattr(spec, "width") else 32_000)
        needs += turns * 3 * spec.frames * spec.size**2 if spec.encoder == "frames" else 0
    for protocol, variants in p.ablation.items():
        for variant in variants:
            inputs = [p.for_variant(variant).model.inputs.get(s) for s in p.variants[variant].streams]
            large = any(getattr(x, "model", "small") != "small" for x in inputs)
            whole = len(p.fold_numbers(protocol)) * len(p.seeds)
            done = len(list(p.folder.glob(f"runs/{protocol}/{variant}/*/weights.safetensors")))
            needs += (1.3e9 if large else 1e6) * max(0, whole - done)
    return needs


def _corpus(p) -> Iterator[Finding]:
    from foalkit.params.load import corpus_place, expand

    places = {"corpus.root": lambda: corpus_place(p)} if p else {}
    for stream in [s for s, kind in p.kinds.items() if kind == "numbers"] if p else ():
        for fold, own in p.sets(stream).items():
            key = f"{p.set_key(stream, fold)}.folder"
            places[key] = partial(expand, own.features[stream].folder, key)
    for key, place in places.items():
        try:
            folder = place()
        except UserError as error:
            yield Finding("corpus", str(error), stops=True)
            continue
        if key == "corpus.root" and p.corpus.generate is not None and not folder.exists():
            yield Finding("corpus", f"{folder} is generated by notebook 01")
        elif not folder.is_dir():
            to_do = "name the folder of the recordings" if folder.exists() else "lay it out as the README says"
            yield Finding("corpus", f"{key}: there is no folder {folder}", to_do, stops=True)
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield Finding("corpus", f"{key}: {folder} cannot be read", "ask its owner, or chmod -R u+rX", stops=True)
        else:
            yield Finding("corpus", f"{key}: {folder}")


def _networks(p) -> Iterator[tuple[str, str, str]]:
    """The hub's repository and revision of every network that is neither small nor a local folder, with its key."""
    every = {f"features.{s}": f for s, f in p.features.items()}
    every |= {f"model.inputs.{s}": x for s, x in p.model.inputs.items()}
    for key, spec in every.items():
        name = getattr(spec, "pretrained", None) or getattr(spec, "model", "small")
        if name != "small" and getattr(spec, "model", "") != "small" and not Path(os.path.expandvars(name)).exists():
            yield key, name, spec.revision


def _weights(p) -> Iterator[Finding]:
    from huggingface_hub import constants, try_to_load_from_cache

    for key, name, revision in _networks(p) if p else ():
        if any(isinstance(try_to_load_from_cache(name, f, revision=revision), str) for f in WEIGHTS):
            yield Finding("weights", f"{key}: {name} is in {constants.HF_HUB_CACHE}")
        elif constants.HF_HUB_OFFLINE:
            yield Finding("weights", f"{key}: {name} is not here, HF_HUB_OFFLINE is set", "unset it once", stops=True)
        else:
            to_do = f"it is downloaded to {constants.HF_HUB_CACHE} (HF_HOME) on first use"
            yield Finding("weights", f"{key}: {name} is not here yet", to_do)


def _caches(p) -> Iterator[Finding]:
    from foalkit.features.data import unnamed

    outputs = p.folder.parent if p else ROOT / "outputs"
    for name in ("features", "corpora", "weights"):
        size = sum(f.stat().st_size for f in (outputs / name).rglob("*") if f.is_file())
        yield Finding(name, f"{size / 1e6:.1f} MB in {outputs / name}")
    try:
        size = sum(unnamed(outputs).values())
        yield Finding("unnamed", f"{size / 1e6:.1f} MB", "foalkit clean-features --remove" if size > 1e8 else "")
    except UserError as error:
        yield Finding("unnamed", str(error), "nothing is cleaned until then")


def _tools(_) -> Iterator[Finding]:
    from foalkit.results.records import provenance

    if shutil.which("git") is None:
        yield Finding("git", "not installed", "without it records name no commit")
    else:
        made = provenance()
        state = {True: ", changed", False: "", None: ""}[made["dirty"]]
        to_do = "" if made["commit"] else "records name no commit: use a clone, not a copy"
        yield Finding("git", f"commit {(made['commit'] or 'unknown')[:12]}{state}", to_do)
    latex = shutil.which("pdflatex")
    yield Finding("LaTeX", latex or "none: only needed to typeset outputs/<params>/tables/*.tex")


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
