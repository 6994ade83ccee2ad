"""Which device and how many cores a job has; jobs at once take different GPUs, or shares of one (GPU_JOBS)."""

import fcntl
import itertools
import os
import platform
import sys
import tempfile
from functools import cache
from pathlib import Path
from urllib.parse import quote

from foalkit import UserError

_held: dict[int, object] = {}  # GPU number → the open lock of its share, kept as long as this process lives


def device(name: str) -> str:
    """`auto` → a GPU of this job's own (`cuda:1`) where there are any, else `cpu`.

    Raises UserError for `cuda` on a machine without one.
    """
    import torch

    if name == "cpu" or not torch.cuda.is_available():
        if name == "cuda":
            raise UserError("device: cuda is asked for, but torch sees no GPU here; use auto or cpu")
        return "cpu"
    return f"cuda:{reserve(1, torch.cuda.device_count())[0]}"


def reserve(wanted: int, count: int) -> list[int]:
    """Numbers of `wanted` of this machine's `count` GPUs, a share of each held until this process ends.

    A GPU has as many shares as the environment's GPU_JOBS says, 1 where it says nothing; one whose shares are all free
    is taken before one that others use. What this process already holds comes first; where too few shares are free,
    those of other jobs are used too. Raises UserError for more GPUs than there are and for another GPU_JOBS than a
    number from 1.
    """
    if wanted > count:
        raise UserError(f"training.processes: {wanted} GPUs are asked for, this machine has {count}")
    for share, (number, name) in itertools.product(range(shares()), enumerate(names(count))):
        if len(_held) >= wanted:
            break
        if number not in _held:
            lock = Path(tempfile.gettempdir()) / f"foalkit-{os.getuid()}-gpu-{quote(name, safe='')}.{share}.lock"
            handle = lock.open("w", encoding="utf-8")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _held[number] = handle
    return [*sorted(_held), *(n for n in range(count) if n not in _held)][:wanted]


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
