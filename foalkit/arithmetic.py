"""Which instructions the libraries of numbers may use: every x86-64 processor with AVX2 then computes the same bytes.

Each of them picks other kernels, which add in another order, for another processor; from its first use on it keeps to
them. NumPy and OpenBLAS are limited always, at little cost; PyTorch where the params ask for it
(`training.reproducible: everywhere`), at some. What the environment already sets stays.
"""

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

from foalkit.files import bytes_digest

NUMPY = {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}
TORCH = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "AVX2"}
EVERYWHERE = "0961770b6fb898d7"
"""What `probe` gives on every such processor, with the lock's NumPy and PyTorch."""


def limit_numpy() -> None:
    """Limit NumPy and OpenBLAS to AVX2, where the processor has it; to be called before NumPy is imported."""
    flags = _cpuinfo("flags").split()
    if "avx2" in flags:
        os.environ.setdefault("OPENBLAS_CORETYPE", NUMPY["OPENBLAS_CORETYPE"])
    if "avx512f" in flags:  # NumPy warns of a feature that the processor does not have
        os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", NUMPY["NPY_DISABLE_CPU_FEATURES"])


def limit_torch() -> None:
    """Limit PyTorch's libraries to what every such processor computes alike; to be called before their first use."""
    for name, value in TORCH.items():
        os.environ.setdefault(name, value)


def probe() -> str:
    """A digest of small sums as this process computes them: each tells the instructions of one of its libraries."""
    import numpy as np
    import torch
    from threadpoolctl import threadpool_limits

    clips = torch.linspace(-1, 1, 32 * 40 * 101).reshape(32, 40, 101) ** 3
    kernels = torch.linspace(-1, 1, 64 * 40 * 5).reshape(64, 40, 5)
    a, b = clips[:2].numpy()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1, user_api="blas"):
        made = [a @ b.T, np.arctan2(a, b)]  # OpenBLAS, NumPy
        # MKL, oneDNN, ATen
        made += [clips[0] @ clips[0].T, torch.nn.functional.conv1d(clips, kernels, stride=2), clips.softmax(2)]
    torch.set_num_threads(threads)
    return bytes_digest(b"".join(np.asarray(x).tobytes() for x in made))


def everywhere() -> bool:
    """Whether this process computes as all do under `training.reproducible: everywhere`."""
    return probe() == EVERYWHERE


def machine() -> dict[str, Any]:
    """What this process computes on and with: processor, libraries, memory (bytes), peak memory so far (bytes)."""
    import torch
    from threadpoolctl import threadpool_info

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    blas = [
        {key: library[key] for key in ("internal_api", "version", "architecture", "num_threads") if key in library}
        for library in threadpool_info()
        if library["user_api"] == "blas"
    ]
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "peak_memory": peak if sys.platform == "darwin" else 1024 * peak,
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "torch": {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()},
        "blas": blas,
        "computes_as_everywhere": everywhere(),
    }


def _cpuinfo(what: str) -> str:
    """What Linux says of the first processor; nothing where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(what)), "")
