"""The grid on a real Slurm of one node, started here and stopped again (make test-slurm; not a part of make test)."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from foalkit import ROOT

CONF = """
ClusterName=foalkit-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={munge}/socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={state}
SlurmdSpoolDir={state}/spool
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "setpriv")
# nothing in a path is run by a shell, and each is one word
ODD = 'a $(touch pwned) "ü"'
ABOUT = """about="it's $(touch pwned) `touch pwned` %41\""""
SMALL = {
    "base": "demo",
    "about": "two streams, ten quick runs",
    "corpus": {"generate": {"seed": 1, "turns_per_session": 12}},
    "features": {"face": None},
    "training": {"epochs": 2, "batch": 8},
    "ablation": {"honest": ["video", "audio"], "published": None},
}
SAME_BYTES = {"predictions.parquet", "weights.safetensors", "store.json", "index.parquet", "features.f16"}
OF_ITS_RUN = {"seconds", "cpu_seconds", "finished", "provenance"}


class Slurm:
    """munged, slurmctld and slurmd in a folder of their own; `with` starts and stops them."""

    def __init__(self, folder: Path):
        self.folder, self.daemons, self.grids = folder, [], []
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.env["PATH"] = f"{folder}/bin:{os.environ['PATH']}:/usr/sbin"

    def __enter__(self) -> "Slurm":
        munge, state = self.folder / "munge", self.folder / "state"
        munge.mkdir(mode=0o711)
        (state / "spool").mkdir(parents=True)
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o400)
        privileges = []
        if os.getuid() == 0:  # which munged refuses to be
            for path in (munge, munge / "key"):
                shutil.chown(path, "munge", "munge")
            privileges = ["--reuid=munge", "--regid=munge", "--clear-groups"]
        host, user = socket.gethostname().split(".")[0], "root" if os.getuid() == 0 else os.environ["USER"]
        conf = CONF.format(host=host, user=user, munge=munge, state=state, ports=free_ports(2))
        (self.folder / "slurm.conf").write_text(conf)
        srun = self.folder / "bin" / "srun"  # a job step is started without SLURM_CONF: elsewhere it lies in /etc
        srun.parent.mkdir()
        srun.write_text(f"#!/bin/sh\nSLURM_CONF='{self.folder}/slurm.conf' exec {shutil.which('srun')} \"$@\"\n")
        srun.chmod(0o755)
        files = {name: munge / name for name in ("socket", "pid-file", "log-file", "seed-file")}
        self.start(
            "munged", "-F", f"--key-file={munge / 'key'}", *(f"--{n}={f}" for n, f in files.items()), by=privileges
        )
        wait(lambda: (munge / "socket").exists(), 20)
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D", "-N", host)
        wait(lambda: self.ask("sinfo", "--noheader", "--format=%t").stdout.strip() == "idle", 60)
        return self

    def __exit__(self, *_) -> None:
        for process in self.grids:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if jobs := self.jobs():
            self.ask("scancel", *jobs)
            with suppress(AssertionError):
                wait(lambda: not self.jobs(), 30)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        with suppress(AssertionError):
            wait(lambda: all(daemon.poll() is not None for daemon in self.daemons), 20)
        for process in self.processes():
            os.kill(process, signal.SIGKILL)

    def processes(self) -> list[int]:
        """What was started here, directly or not, and still runs: it has this folder in its environment."""
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended, or is another user's
                if os.fsencode(self.folder) in file.read_bytes():
                    found.append(int(file.parent.name))
        return found

    def start(self, program: str, *args, by=()) -> None:
        """A daemon that ends when this process does, however that ends."""
        log = (self.folder / f"{program}.log").open("wb")
        call = ["setpriv", *by, "--pdeathsig=TERM", program, *args]
        how = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "start_new_session": True}
        self.daemons.append(subprocess.Popen(call, env=self.env, cwd=self.folder, **how))

    def ask(self, *call) -> subprocess.CompletedProcess:
        return subprocess.run(call, env=self.env, capture_output=True, text=True)

    def jobs(self) -> list[str]:
        return self.ask("squeue", "--noheader", "--format=%i").stdout.split()


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def wait(until, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def slurm():
    missing = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
    if missing:
        pytest.exit(f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge (or your system's names)", 1)

    def stop(*_):  # as Ctrl-C does: what was started is stopped
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    with tempfile.TemporaryDirectory(prefix="foalkit-slurm-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # munged is another user
        with Slurm(Path(folder)) as running:
            yield running


@pytest.fixture(scope="module")
def place(slurm) -> Path:
    """A copy of the checkout below a folder of an odd name, with a small params file, run locally once."""
    copy = slurm.folder / ODD / "kit"
    for part in ("foalkit", "notebooks", "params", "profiles"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copy(ROOT / "Snakefile", copy)
    (copy / "params" / "small.yaml").write_text(yaml.safe_dump(SMALL))
    with (copy / "profiles" / "slurm" / "config.yaml").open("a") as profile:  # no accounting, and no time to lose
        profile.write("\nslurm-status-command: squeue\nslurm-init-seconds-before-status-checks: 2\n")
    done = grid(slurm, copy, "local").wait()
    assert done == 0, said(copy, "local")
    return copy


def grid(slurm, copy: Path, name: str, *options) -> subprocess.Popen:
    """`foalkit grid` with outputs/<name>/small, started; what it says is kept in a file."""
    call = [sys.executable, "-m", "foalkit", "grid", *options, "small", f"outputs=outputs/{name}/small", ABOUT]
    with (copy / f"{name}.out").open("wb") as out:
        env = {**slurm.env, "PYTHONPATH": str(copy)}
        slurm.grids.append(subprocess.Popen(call, cwd=copy, env=env, stdout=out, stderr=out, start_new_session=True))
    return slurm.grids[-1]


def said(copy: Path, name: str) -> str:
    return (copy / f"{name}.out").read_text()


def results(folder: Path) -> dict[str, object]:
    """What must be the same wherever it ran, by file: bytes, and a record less what is of its own run."""
    found = {}
    for file in folder.rglob("*"):
        if file.name == "record.json":
            record = json.loads(file.read_text())
            record["params"].pop("outputs")
            found[str(file.relative_to(folder))] = {k: v for k, v in record.items() if k not in OF_ITS_RUN}
        elif file.name in SAME_BYTES:
            found[str(file.relative_to(folder))] = file.read_bytes()
    return found


def forget_audio(copy: Path) -> None:
    """Let one run be missing."""
    (copy / "outputs/cluster/small/runs/honest/audio/fold1-seed0/record.json").unlink()
    (copy / "outputs/cluster/small/five_fold/honest-audio.json").unlink()


def running_job(slurm) -> str:
    """The number of the job that runs, as soon as one does."""
    wait(lambda: slurm.ask("squeue", "--noheader", "--states=RUNNING", "--format=%i").stdout.split(), 120)
    return slurm.jobs()[0]


def test_the_grid_gives_what_it_gives_locally(slurm, place):
    assert grid(slurm, place, "cluster", "--executor", "slurm").wait() == 0, said(place, "cluster")
    assert "features of video, session Ses05" in said(place, "cluster")  # in shards
    local, cluster = (results(place / "outputs" / name) for name in ("local", "cluster"))
    assert len([name for name in local if name.endswith("record.json")]) == 10
    assert len([name for name in local if name.endswith("store.json")]) == 2
    assert cluster.keys() == local.keys()
    assert [name for name in local if cluster[name] != local[name]] == []
    assert not list((place / "outputs/cluster/features").glob("*.shard-*/"))
    assert not [file for file in slurm.folder.rglob("pwned")]


def test_a_job_that_fails_or_is_cancelled_says_why_and_the_grid_resumes(slurm, place):
    forget_audio(place)
    packed = next((place / "outputs/cluster/features").glob("log-mel-*/features.f16"))
    whole = packed.read_bytes()
    packed.write_bytes(whole[:-2])
    assert grid(slurm, place, "cluster", "--executor", "slurm").wait() == 1
    assert "features.f16 and its index disagree" in said(place, "cluster")
    packed.write_bytes(whole)
    started = grid(slurm, place, "cluster", "--executor", "slurm")
    slurm.ask("scancel", running_job(slurm))
    assert started.wait() == 1
    assert "CANCELLED" in said(place, "cluster")
    assert grid(slurm, place, "cluster", "--executor", "slurm").wait() == 0, said(place, "cluster")
    local, cluster = (results(place / "outputs" / name) for name in ("local", "cluster"))
    assert cluster == local


def test_jobs_of_a_killed_grid_are_not_run_twice(slurm, place):
    forget_audio(place)
    started = grid(slurm, place, "cluster", "--executor", "slurm")
    job = running_job(slurm)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert grid(slurm, place, "cluster", "--executor", "slurm").wait() == 1
    assert said(place, "cluster").endswith(f"still queued or running: wait for them, or: scancel {job}\n")
    slurm.ask("scancel", job)
    wait(lambda: not slurm.jobs(), 60)
    assert grid(slurm, place, "cluster", "--executor", "slurm").wait() == 0, said(place, "cluster")
    assert "left its locks: removed" in said(place, "cluster")
    local, cluster = (results(place / "outputs" / name) for name in ("local", "cluster"))
    assert cluster == local
