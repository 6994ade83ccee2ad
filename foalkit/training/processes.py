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
from safetensors.torch import load_file
from torch import Tensor, nn

from foalkit import ROOT, UserError
from foalkit.corpora.folds import Split
from foalkit.devices import names, reserve
from foalkit.files import write_json, write_parquet, write_tensors
from foalkit.params import Params

TABLES = ("history", "predictions", "absent")  # the parts of a result that are tables


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


def launch(
    params: Params, variant: str, sides: Split, seed: int, protocol: str, fold: int | None, keep: Path | None = None
) -> dict:
    """Have `training.processes` processes on this machine train one run; returns what `write_result` was given.

    `fold` says whose features they read, where these are made for each (`Data.fold`). Raises UserError with the last
    line of what a failed process said.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        job = {"params": params.model_dump(mode="json"), "variant": variant, "seed": seed, "protocol": protocol}
        write_json(folder / "job.json", job | {"sides": vars(sides), "fold": fold, "keep": keep and str(keep)})
        call = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        call += [f"--nproc-per-node={params.training.processes}", "-m", "foalkit.training.runs", str(folder)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if params.training.device != "cpu" and torch.cuda.is_available():
            gpus = torch.cuda.device_count()
            own = reserve(params.training.processes, gpus)
            env["CUDA_VISIBLE_DEVICES"] = ",".join(names(gpus)[n] for n in own)
        done = subprocess.run(call, cwd=ROOT, env=env, stdin=subprocess.DEVNULL)
        if (folder / "error.txt").exists():
            raise UserError((folder / "error.txt").read_text(encoding="utf-8"))
        if done.returncode or not (folder / "result.json").exists():
            raise UserError(f"{variant}: one of the {params.training.processes} processes ended with an error (above)")
        return {
            **{name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES},
            "weights": load_file(folder / "weights.safetensors"),
            **json.loads((folder / "result.json").read_text(encoding="utf-8")),
        }


def write_result(folder: Path, result: dict) -> None:
    """Write a result's parts where `launch` reads them."""
    for name in TABLES:
        write_parquet(folder / f"{name}.parquet", result[name])
    write_tensors(folder / "weights.safetensors", result["weights"])
    write_json(folder / "result.json", {n: v for n, v in result.items() if n not in (*TABLES, "weights")})
