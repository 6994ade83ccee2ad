"""Several processes (GPUs) that share each batch: started by `launch`, joined through accelerate."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from foalkit import ROOT, UserError
from foalkit.data.folds import Split
from foalkit.devices import names, reserve
from foalkit.params import Params
from foalkit.records import write_json, write_parquet


class Processes:
    """This process's place among those that `launch` started: `rank` of `count`, and its `device`.

    What is gathered carries no gradient and needs none: every process computes the whole batch's loss, and each
    carries the gradient of its own clips through its input layers (`gradients.add_gradients`).
    """

    def __init__(self, device: str):
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu")
        self.rank, self.count, self.device = state.process_index, state.num_processes, str(state.device)

    def rows(self, batch: int) -> Tensor:
        """The rows of a batch that this process enters: equal shares in order, so the last may count past `batch`."""
        share = -(-batch // self.count)
        return torch.arange(self.rank * share, (self.rank + 1) * share)

    def gather(self, own: Tensor, batch: int) -> Tensor:
        """All processes' shares, in order, as `(batch, …)`; without gradient."""
        from accelerate.utils import gather

        return gather(own.contiguous())[:batch]

    def reduce(self, own: Tensor, how: Literal["sum", "mean"] = "sum") -> Tensor:
        """The sum or mean of all processes' tensors."""
        from accelerate.utils import reduce

        return reduce(own, how)

    def share_gradients(self, net: nn.Module) -> None:
        """Sum the input layers' gradients, of each process's own clips; average the rest, which all computed."""
        inputs = {id(w) for w in net.inputs.parameters()}
        for w in net.parameters():
            if w.requires_grad:
                own = torch.zeros_like(w) if w.grad is None else w.grad
                w.grad = self.reduce(own, "sum" if id(w) in inputs else "mean")


def launch(params: Params, variant: str, sides: Split, seed: int, protocol: str):
    """`training.train` done by `training.processes` processes on this machine; returns its Result.

    Raises UserError with the last line of what a failed process said.
    """
    from safetensors.torch import load_file

    from foalkit.training import Result

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        job = {
            "params": params.model_dump(mode="json"),
            "variant": variant,
            "seed": seed,
            "protocol": protocol,
        }
        write_json(folder / "job.json", job | {"sides": vars(sides)})
        call = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        call += [f"--nproc-per-node={params.training.processes}", "-m", "foalkit.processes", str(folder)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if params.training.device != "cpu" and torch.cuda.is_available():
            gpus = torch.cuda.device_count()
            own = reserve(params.training.processes, gpus)
            env["CUDA_VISIBLE_DEVICES"] = ",".join(names(gpus)[n] for n in own)
        done = subprocess.run(call, cwd=ROOT, env=env, stdin=subprocess.DEVNULL)
        if (folder / "error.txt").exists():
            raise UserError((folder / "error.txt").read_text())
        if done.returncode or not (folder / "result.json").exists():
            raise UserError(
                f"{variant}: one of the {params.training.processes} processes ended with an error (above)"
            )
        return Result(
            history=pd.read_parquet(folder / "history.parquet"),
            predictions=pd.read_parquet(folder / "predictions.parquet"),
            absent=pd.read_parquet(folder / "absent.parquet"),
            weights=load_file(folder / "weights.safetensors"),
            **json.loads((folder / "result.json").read_text()),
        )


def _work(folder: Path) -> None:
    """One of the processes: train its share; the first one writes the result."""
    from safetensors.torch import save_file

    from foalkit import training
    from foalkit.data.features import open_data

    job = json.loads((folder / "job.json").read_text())
    params, variant = Params.model_validate(job["params"]), job["variant"]
    processes = Processes(params.for_variant(variant).training.device)
    data = open_data(params, params.variants[variant].streams)
    sides = Split(**job["sides"])
    try:
        result = training.train(params, variant, data, sides, job["seed"], job["protocol"], processes)
    except UserError as error:
        (folder / "error.txt").write_text(str(error))
        raise SystemExit(1) from None
    if processes.rank == 0:
        write_parquet(folder / "history.parquet", result.history)
        write_parquet(folder / "predictions.parquet", result.predictions)
        write_parquet(folder / "absent.parquet", result.absent)
        save_file(result.weights, folder / "weights.safetensors")
        plain = ("scores", "selection", "parameters", "device", "seconds")
        write_json(folder / "result.json", {name: getattr(result, name) for name in plain})


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
