"""The grid of a params file: Snakemake, started with what this kit needs, its log thinned out."""

import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from foalkit import ROOT, devices
from foalkit.params import load
from foalkit.results.records import claim

# one thread per job: the grid runs as many jobs as there are cores
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# paths and what is said may hold any letter, whatever the locale
UTF8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
# what nobody needs of Snakemake's log: what is left says which job runs, how far the grid is, and what went wrong
NOISE = re.compile(
    r"Select jobs|Execute \d+ jobs|\[[A-Z][a-z][a-z] |Finished jobid|Assuming|Using shell|Building DAG|Rules claiming"
    r"|Complete log|localrule all|    input: .*report.html|    jobid: 0$|    resources: tmpdir|$"
)


def run(params: str, overrides: str = "", cores: str = "all", folder: Path = ROOT) -> int:
    """Run all that is missing of a params file, up to the report, and return Snakemake's exit status.

    Features come first, where they are not there or not of the files that lie there now: what is trained depends on
    their digests. Locks that a killed grid left in `folder` are removed; those of a living one are respected. Raises
    UserError for params that cannot be loaded, and for an outputs folder that is not theirs.
    """
    from foalkit.corpora.manifest import corpus_root
    from foalkit.features.data import up_to_date

    p = load(params, overrides)
    claim(p)  # before anything is written there
    call = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--cores", cores, "--keep-going"]
    call += ["--rerun-incomplete", "--keep-incomplete", "--rerun-triggers", "params", "input"]
    if gpus := len(list(Path("/proc/driver/nvidia/gpus").glob("*"))):
        call += ["--resources", f"gpu={gpus * devices.shares()}"]
    call += ["--quiet", "host", "reason", "--config", f"params={_quoted(str(params))}"]
    call += [f"overrides={_quoted(overrides)}"]
    (folder / ".snakemake").mkdir(exist_ok=True)
    with (folder / ".snakemake" / "foalkit.lock").open("w", encoding="utf-8") as living:
        _remove_dead_locks(folder, living)
        fcntl.flock(living, fcntl.LOCK_SH)
        status, known = 0, (p.folder / "preprocess.json").exists()
        if not (known and up_to_date(p)):
            if known:
                print("corpus, features or their settings have changed: preprocessing again", flush=True)
                (p.folder / "preprocess.json").unlink()
            if p.corpus.generate is None:
                corpus_root(p)
            status = _snakemake([*call, "--until", "preprocess"], folder, living)
        status = status or _snakemake(call, folder, living)
    if status:
        print(f"\nA job failed; what it said is above and in {p.folder}/logs/. Running the same command again resumes.")
    else:
        print(f"\nThe report is at {p.folder}/report.html: open it in a browser.")
    return status


def _quoted(text: str) -> str:
    """A text as the Snakefile reads it: in a list, since Snakemake takes off quotes and reads what is left as YAML."""
    return json.dumps([text], ensure_ascii=False)  # that YAML does not join the halves of an escaped character


def _snakemake(call: list, folder: Path, living) -> int:
    """Run it and print what is worth reading; it holds the lock too, since it may outlive this process."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    how |= {"pass_fds": [living.fileno()], "env": {**os.environ, **THREADS, **UTF8}, "cwd": folder}
    with subprocess.Popen(call, **how) as grid:
        try:
            for line in grid.stdout:
                if not NOISE.match(line):
                    print(line, end="", flush=True)
        except KeyboardInterrupt:  # Snakemake has heard it too: it ends its jobs, then itself
            pass
        return grid.wait()


def _remove_dead_locks(folder: Path, living) -> None:
    try:
        fcntl.flock(living, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another grid is running here: Snakemake compares what each of them writes
    locks = list((folder / ".snakemake" / "locks").glob("*.lock"))
    for lock in locks:
        lock.unlink()
    if locks:
        print("a grid that was killed had left its locks: removed", flush=True)
