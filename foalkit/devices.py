"""Which device and how many cores a job has; jobs at once take different GPUs, or shares of one (GPU_JOBS)."""

import fcntl
import itertools
import os
import platform
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import quote

from foalkit import UserError

_held: dict[int, object] = {}  # GPU number → the open lock of its share, kept as long as this process lives


def device(name: str) -> str:
    """`auto` → a GPU of this job's own (`cuda:1`) where there are any that torch can use, else `cpu`.

    Raises UserError for `cuda` on a machine without one.
    """
    import torch

    numbers = gpus(name)
    return f"cuda:{reserve(numbers, torch.cuda.device_count())}" if numbers else "cpu"


def gpus(name: str) -> list[int]:
    """Numbers of the GPUs that `device: name` may use; one line says which it leaves alone and why, once a process.

    Raises UserError for `cuda` where there is no such GPU.
    """
    import torch

    if name == "cpu":
        return []
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    why = {n: lacks_kernels(n) for n in range(count)}
    numbers = [n for n in why if why[n] is None]
    refused = "; ".join(filter(None, why.values()))
    if name == "cuda" and not numbers:
        raise UserError(f"device: cuda is asked for, but {refused or 'torch sees no GPU here'}; use auto or cpu")
    if refused:
        used = "the other GPUs are used" if numbers else "the CPU is used"
        _say(f"device: {refused}; {used}")
    return numbers


@cache
def _say(line: str) -> None:
    """Print a line on standard error, once a process."""
    print(line, file=sys.stderr, flush=True)


def lacks_kernels(number: int) -> str | None:
    """Why the GPU of this number cannot run the installed PyTorch's kernels; None where it can or it is not known."""
    import torch

    try:
        capability, arches = torch.cuda.get_device_capability(number), torch.cuda.get_arch_list()
    except (RuntimeError, AssertionError):  # its driver does not say
        return None
    if torch.version.cuda is None or not arches or has_kernels(capability, arches):  # AMD's are named otherwise
        return None
    name, (major, minor) = torch.cuda.get_device_name(number), capability
    return (
        f"GPU {number} ({name}) has compute capability {major}.{minor}, for which this PyTorch has no kernels "
        f"(it has {' '.join(arches)})"
    )


def has_kernels(capability: tuple[int, int], arches: list[str]) -> bool:
    """Whether a GPU runs code that was compiled for these architectures (`sm_80`, `sm_90a`, `compute_120`).

    Code for a GPU (sm) runs on those of the same major and the same or a higher minor version, PTX (compute) on all
    later ones; with `a` on that version alone, with `f` on those of the same major version (CUDA C++ Programming
    Guide, compute capabilities).
    """
    for arch in arches:
        if not (found := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)):
            continue
        own = int(found[2]), int(found[3])
        same = capability[0] == own[0] or (found[1] == "compute" and not found[4])
        if capability == own or (found[4] != "a" and same and capability > own):
            return True
    return False


def reserve(numbers: list[int], count: int) -> int:
    """One of the GPUs of these numbers (of `count`), a share of which this process holds until it ends.

    A GPU has as many shares as the environment's GPU_JOBS says, 1 where it says nothing. A GPU whose shares are all
    free comes before one that others use; where none has a free share, the first one is used. Raises UserError for
    another GPU_JOBS than a number from 1.
    """
    for share, number in [] if _held else itertools.product(range(shares()), numbers):
        name = quote(names(count)[number], safe="")
        lock = Path(tempfile.gettempdir()) / f"foalkit-{os.getuid()}-gpu-{name}.{share}.lock"
        handle = lock.open("w", encoding="utf-8")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        _held[number] = handle
        break
    return next((number for number in _held if number in numbers), numbers[0])


@cache
def precision(wanted: str, device: str) -> str:
    """The arithmetic that a job on `device` ("cpu", "cuda:1") uses: `wanted`, but fp32 on a CPU without bf16 units.

    Such a processor takes 19 times as long for bf16 as for fp32; one line says so, once a process.
    """
    if wanted == "bf16" and device == "cpu" and not has_bf16():
        print("precision: this processor has no units for bf16, fp32 is used instead", file=sys.stderr, flush=True)
        return "fp32"
    return wanted


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 numbers itself."""
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    found = torch.cpu.get_capabilities()
    return platform.machine() != "x86_64" or any(found.get(unit) for unit in ("avx512_bf16", "amx_bf16"))


def shares() -> int:
    """How many jobs share a GPU: the environment's GPU_JOBS, 1 without it; raises UserError for no number from 1."""
    jobs = os.environ.get("GPU_JOBS") or "1"
    if not jobs.isdecimal() or int(jobs) < 1:
        raise UserError(f"GPU_JOBS={jobs}: say how many jobs share a GPU, for example GPU_JOBS=3")
    return int(jobs)


def cores() -> int:
    """How many cores this process may use: of a machine that jobs share, those that its Slurm job was given."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")  # a cluster need not bind its jobs to cores
    return min(allowed, int(given)) if given.isdecimal() and int(given) else allowed


def names(count: int) -> list[str]:
    """What the GPUs that torch numbers 0 to `count` - 1 are called outside: CUDA_VISIBLE_DEVICES may pick some."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(n) for n in range(count)]
