"""Kills a small grid at random moments until it is through, and compares it with one that was left in peace.

    python tests/kills.py [kills] [seed]     (make test-kills KILLS=20)

Every process of the grid dies at once, as at a power cut. Then: nothing that was finished is done again, nothing half
written is read, features and predictions are the same bytes, records are equal but for times, no temporary file stays.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from foalkit import ROOT
from foalkit.files import file_digest

PARAMS = """
base: demo
about: small enough to be killed often
outputs: {outputs}
corpus: {{generate: {{seed: 1, turns_per_session: 12}}}}
training: {{epochs: 4, batch: 8}}
ablation: {{honest: [audio, foal-net], published: null}}
"""
TIMES = ("seconds", "cpu_seconds", "finished", "provenance", "resumed", "params_name", "run", "params", "digest")
TIMES += ("seconds_of_the_fold", "cpu_seconds_of_the_fold", "rows")


def grid(file: Path) -> subprocess.Popen:
    call = [sys.executable, "-m", "foalkit", "grid", str(file)]
    log = file.with_suffix(".log").open("ab")
    return subprocess.Popen(call, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def family(process: int) -> list[int]:
    """A process and all that it started, their own children included."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, encoding="utf-8", check=True)
    parents = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [process]
    for one in found:
        found += [pid for pid, parent in parents if parent == one]
    return found


def finished(outputs: Path) -> dict[str, str]:
    """When each run was finished; raises ValueError for a record that is not whole."""
    files = sorted(outputs.glob("runs/*/*/*/record.json"))
    return {str(f.relative_to(outputs)): json.loads(f.read_text(encoding="utf-8"))["finished"] for f in files}


def result(outputs: Path) -> dict:
    """All that must be equal: bytes of features, predictions and weights, records but for times."""
    found = {}
    for file in sorted(outputs.glob("runs/*/*/*/*")):
        if file.suffix == ".json":
            record = json.loads(file.read_text(encoding="utf-8"))
            found[str(file.relative_to(outputs))] = {k: v for k, v in record.items() if k not in TIMES}
        else:
            found[str(file.relative_to(outputs))] = file_digest(file)
    for file in sorted(outputs.parent.glob("features/*/features.*")):
        found[str(file.relative_to(outputs.parent))] = file_digest(file)
    return found


def main(kills: int, seed: int) -> int:
    rng, faults = random.Random(seed), []
    with tempfile.TemporaryDirectory(prefix="foalkit kills ") as folder:
        files = {name: Path(folder, name, f"{name}.yaml") for name in ("whole", "killed")}
        for file in files.values():
            file.parent.mkdir()
            file.write_text(PARAMS.format(outputs=json.dumps(str(file.parent / "out"))), encoding="utf-8")
        began = time.monotonic()
        if grid(files["whole"]).wait():
            print((files["whole"].with_suffix(".log")).read_text(encoding="utf-8"))
            return 1
        length, outputs, done = time.monotonic() - began, files["killed"].parent / "out", {}
        for number in range(1, kills + 1):
            running = grid(files["killed"])
            time.sleep(rng.uniform(1, max(5, 0.8 * length)))
            alive = running.poll() is None
            for process in family(running.pid) if alive else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if running.wait() and not alive:
                log = files["killed"].with_suffix(".log").read_text(encoding="utf-8")
                faults.append(f"kill {number}: the grid had failed: {log[-2000:]}")
            now = finished(outputs)
            faults += [f"kill {number}: {run} was lost or done again" for run, at in done.items() if now.get(run) != at]
            done = now
            when = "in the middle" if alive else "it was through"
            print(f"kill {number}: {when}, {len(done)} runs have a record", flush=True)
            if not alive:  # from the start again, features and all
                faults += differences(files, outputs)
                for part in ("out", "features"):
                    shutil.rmtree(files["killed"].parent / part)
                done = {}
        if grid(files["killed"]).wait():
            log = files["killed"].with_suffix(".log").read_text(encoding="utf-8")
            faults.append(f"the last grid failed: {log[-2000:]}")
        faults += differences(files, outputs)
        left = [f for f in files["killed"].parent.rglob("*") if ".part" in f.name or "unfinished" in f.name]
        faults += [f"left behind: {f.relative_to(folder)}" for f in left]
    print("\n".join(faults) or f"{kills} kills: the same bytes, nothing done again, nothing left behind")
    return 1 if faults else 0


def differences(files: dict[str, Path], outputs: Path) -> list[str]:
    whole, killed = result(files["whole"].parent / "out"), result(outputs)
    return [f"differs: {name}" for name in sorted(whole.keys() | killed.keys()) if whole.get(name) != killed.get(name)]


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    raise SystemExit(main(*(words + [20, 0][len(words) :])))
