"""The grid of a params file: Snakemake, started with what this kit needs, its log thinned out."""

import fcntl
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import yaml

from foalkit import CHECKOUT, ROOT, SHARED, UserError, devices
from foalkit.files import read_mapping, remove, sweep, take_lock
from foalkit.params import Params, load
from foalkit.results import whole
from foalkit.results.records import claim

# one thread per job: the grid runs as many jobs as there are cores
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# paths and what is said may hold any letter, whatever the locale
UTF8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
# its jobs have the same project's folder, and a file in it never stands for a module of Python's
PLACE = {} if CHECKOUT else {"FOALKIT_ROOT": str(ROOT), "PYTHONSAFEPATH": "1"}
# what nobody needs of Snakemake's log: what is left says which job runs, how far the grid is, and what went wrong
NOISE = re.compile(
    r"Select jobs|Execute \d+ jobs|\[[A-Z][a-z][a-z] |Finished jobid|Assuming|Using shell|Building DAG|Rules claiming"
    r"|Complete log|localrule |    input: .*report.html|    resources: tmpdir|$"
    r"|RuleException:|CalledProcessError in|Command 'set -euo|    (shell|jobid|message: None)\b|        .* -m foalkit"
    r"|        \(command exited|Exiting because a job|--keep-incomplete mode|WorkflowError:$|At least one job did not"
    r"|SLURM run ID|Provided remote|No (SLURM )?account|Unable to guess SLURM|Cleaning up SLURM|Using profile|Elapsed"
    r"|Cannot restore .*: no backup found|Touching output|Removing temporary|    input: .*/shards/"
)

LOGS = re.compile(r"    log: (.+) \(check log file")


def run(
    params: str,
    overrides: str = "",
    cores: str = "all",
    folder: Path = ROOT,
    executor: str | None = None,
    jobs: int | None = None,
) -> int:
    """Run all that is missing of a params file, up to the report, and return Snakemake's exit status.

    Features come first, where they are not there or not of the files that lie there now: what is trained depends on
    their digests. Locks that a killed grid left in `folder` are removed; those of a living one are respected. With
    `executor`, a folder in profiles/ or a path to one, its settings say where the jobs run, `jobs` of them at once, and
    features are extracted in shards. Raises UserError for params that cannot be loaded, an outputs folder that is
    not theirs, an executor that is not installed, and locks of a grid that may still be running elsewhere.
    """
    from foalkit.corpora.manifest import corpus_root
    from foalkit.features.data import stores_are_whole, up_to_date

    p = load(params, overrides)
    claim(p)  # before anything is written there
    call = [sys.executable, "-m", "snakemake", "-s", SHARED / "Snakefile", "--keep-going"]
    call += ["--rerun-incomplete", "--keep-incomplete", "--rerun-triggers", "params", "input"]
    if executor:
        if odd := [str(path) for path in (folder, p.folder) if re.search(r"['\\]", str(path))]:
            raise UserError(
                f"executor: {odd[0]}: a quote or a backslash in a path does not reach a cluster's jobs; move it"
            )
        call += ["--profile", _profile(executor), *(["--jobs", str(jobs)] if jobs else [])]
    else:
        call += ["--cores", cores]
        if gpus := len(list(Path("/proc/driver/nvidia/gpus").glob("*"))):
            call += ["--resources", f"gpu={gpus * devices.shares()}"]
    call += ["--quiet", "host", "reason", "--config", f"params={_quoted(str(params))}"]
    call += [f"overrides={_quoted(overrides)}"]
    (folder / ".snakemake").mkdir(exist_ok=True)
    with (folder / ".snakemake" / "foalkit.lock").open("a+", encoding="utf-8") as living:
        _remove_dead_locks(folder, living)
        take_lock(living, fcntl.LOCK_SH)
        for place in (p.folder, p.features_folder):
            sweep(place)
        for place in (p.weights_folder, p.features_folder.with_name("corpora")):
            sweep(place, below=False)
        prepared = p.folder / "preprocess.json"
        status, known = 0, os.path.lexists(prepared)
        todo = _plan(p) if known and up_to_date(p, stores=False) else None
        if todo is None or (todo.trains and not stores_are_whole(p)):
            if known:
                print("corpus, features or their settings have changed: preprocessing again", flush=True)
                remove(prepared)
            if p.corpus.generate is None:
                corpus_root(p)
            status = _snakemake([*call, "--until", "shards"], folder, living) if executor else 0
            status = status or _snakemake([*call, "--until", "preprocess"], folder, living)
            todo = None if status else _plan(p)
        if todo:
            stale = [f.relative_to(folder) if f.is_relative_to(folder) else f for f in todo.stale]
            status = _snakemake([*call, *(["--forcerun", *stale] if stale else [])], folder, living)
    if status:
        print(f"\nA job failed; what it said is above and in {p.folder}/logs/. Running the same command again resumes.")
    else:
        print(f"\nThe report is at {p.folder}/report.html: open it in a browser.{_left_out(p)}")
    return status


def _plan(p: Params) -> whole.Plan:
    plan = whole.plan(p)
    for line in plan.damaged:
        print(line, flush=True)
    return plan


def _left_out(p: Params) -> str:
    """How many utterances were left out, beside the count of the preparation before, in words."""
    try:
        info = read_mapping(p.folder / "preprocess.json")
        now, before, used = info["left_out"], info.get("left_out_before"), info["utterances"]
    except (OSError, ValueError, KeyError):
        return ""
    return f" {now} of {now + used} utterances are left out" + (f" ({before} before)." if before is not None else ".")


def _quoted(text: str) -> str:
    """A text as the Snakefile reads it: in a list, since Snakemake takes off quotes and reads what is left as YAML.

    A cluster's shell then reads it within single quotes: one in the text is written %27, and so on.
    """
    return json.dumps([quote(text, safe=" !#$&()*+,-./:;<=>?@[]^_`{|}~", errors="surrogateescape")])


def _tell(logs: str, folder: Path) -> None:
    """Print why a job of a cluster failed, from its own log and from the cluster's, where all its messages went."""
    own, *others = (folder / log for log in re.split(", (?=/)", logs))
    for log in [own, *others] if others else []:
        said = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        lines = said if log == own else [line for line in said if re.match(r"(srun|slurmstepd): ", line)]
        print(*lines[-3:], sep="\n", end="\n" * bool(lines), flush=True)


def _snakemake(call: list, folder: Path, living) -> int:
    """Run it and print what is worth reading; it holds the lock too, since it may outlive this process."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    how |= {"pass_fds": [living.fileno()], "env": {**os.environ, **THREADS, **UTF8, **PLACE}, "cwd": folder}
    with subprocess.Popen(call, **how) as grid:
        try:
            for line in grid.stdout:
                if line.startswith("LockException"):
                    grid.stdout.read()
                    raise UserError("another grid is writing the same outputs: wait until it is done, or stop it")
                if not NOISE.match(line):
                    print(line, end="", flush=True)
                if logs := LOGS.match(line):
                    _tell(logs[1], folder)
        except KeyboardInterrupt:  # Snakemake has heard it too: it ends its jobs, then itself
            pass
        return grid.wait()


def _remove_dead_locks(folder: Path, living) -> None:
    here = platform.node()
    try:
        alone = take_lock(living, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another grid is running here: Snakemake compares what each of them writes
        living.write(f"{here}\n")
        living.flush()
        return
    locks = list((folder / ".snakemake" / "locks").glob("*.lock"))
    living.seek(0)
    started = set(living.read().split())  # where grids were started; locks may not reach from one machine to another
    if locks and (not alone or started - {here}):
        where = " or ".join(sorted(started - {here})) or "this machine"
        raise UserError(
            f"a grid that was started on {where} has left its locks, or is running: if it is not, "
            f"remove {folder / '.snakemake' / 'locks'}"
        )
    if locks and (queued := _queued(folder)):
        raise UserError(
            f"jobs of a grid that was killed are still queued or running: wait for them, or: scancel {' '.join(queued)}"
        )
    for lock in locks:
        lock.unlink()
    if locks:
        print("a grid that was killed had left its locks: removed", flush=True)
    living.truncate(0)
    living.write(f"{here}\n")
    living.flush()


def _queued(folder: Path) -> list[str]:
    """The numbers of one's own Slurm jobs that were submitted from `folder`."""
    if not shutil.which("squeue"):
        return []
    asked = subprocess.run(
        ["squeue", "--me", "--noheader", "--format=%i %Z"], capture_output=True, encoding="utf-8", errors="replace"
    )
    jobs = [line.split(" ", 1) for line in asked.stdout.splitlines()]
    return [number for number, place in jobs if Path(place).resolve() == folder.resolve()]


def _profile(executor: str) -> Path:
    """The profile's folder; raises UserError where it, or what its executor needs, is not there."""
    profile = SHARED / "profiles" / executor  # an absolute path stays what it is
    try:
        name = yaml.safe_load((profile / "config.yaml").read_text(encoding="utf-8"))["executor"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise UserError(
            f"executor {executor}: {profile / 'config.yaml'} is no profile that names an executor"
        ) from None
    if not importlib.util.find_spec(f"snakemake_executor_plugin_{str(name).replace('-', '_')}"):
        lock = profile / "requirements.lock"
        what = f"--no-deps --require-hashes -r {lock}" if lock.exists() else f"snakemake-executor-plugin-{name}"
        raise UserError(f"executor {name} is not installed: {sys.executable} -m pip install {what}")
    if name == "slurm" and not shutil.which("sbatch"):
        raise UserError("executor slurm: sbatch is not here; start the grid on a login node of the cluster")
    return profile
