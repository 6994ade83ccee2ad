"""A run's last finished epoch, kept beside its record: a run that was killed goes on from it, to the same bytes."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from foalkit.files import file_digest, read_mapping, write_json, write_parquet, write_tensors

EVERY = 10.0  # seconds between two keepings at least: to train shorter epochs again costs less than to write each
PARTS = ("tensors.safetensors", "predictions.parquet", "random.safetensors")


def keep(folder: Path, net, optimiser, rows: torch.Generator, best: dict, predictions, facts: dict) -> None:
    """Write all that the rest of a run depends on, state.json last, and remove the epoch that was kept before.

    `best` are the selected epoch's weights so far; `facts` (of JSON) hold at least `epoch`.
    """
    here = folder / f"epoch{facts['epoch']}"
    here.mkdir(parents=True, exist_ok=True)
    write_tensors(here / PARTS[2], _random(rows))
    moments = {f"{i}.{name}": x for name, tensors in optimiser.moments.items() for i, x in enumerate(tensors)}
    groups = {"net": net.state_dict(), "best": best, "optimiser": moments}
    tensors = {f"{group}.{name}": x for group, named in groups.items() for name, x in named.items()}
    write_tensors(here / PARTS[0], {name: x.detach().cpu().clone() for name, x in tensors.items()})
    write_parquet(here / PARTS[1], pd.concat(predictions, ignore_index=True))
    write_json(here / "state.json", facts | {"digests": {part.name: file_digest(part) for part in here.iterdir()}})
    for older in folder.iterdir():
        if older != here:
            shutil.rmtree(older)


def last(folder: Path, net, optimiser, rows: torch.Generator) -> tuple[dict, dict[str, Tensor], pd.DataFrame] | None:
    """Bring a run back to the last epoch that was kept whole: its facts, its best weights and predictions so far.

    None where nothing was kept: the run begins at its beginning.
    """
    for here in sorted(folder.glob("epoch*"), key=lambda f: int(f.name[5:]), reverse=True):
        try:
            facts = read_mapping(here / "state.json")
            if any(file_digest(here / name) != written for name, written in facts["digests"].items()):
                continue
        except (OSError, ValueError, KeyError):  # killed while it was written
            continue
        random = load_file(here / PARTS[2])
        tensors = load_file(here / PARTS[0])
        of = {
            group: {name.removeprefix(f"{group}."): x for name, x in tensors.items() if name.startswith(f"{group}.")}
            for group in ("net", "best", "optimiser")
        }
        net.load_state_dict(of["net"])
        for name, tensors in optimiser.moments.items():
            for i, x in enumerate(tensors):
                x.copy_(of["optimiser"][f"{i}.{name}"])
        _restore(random, rows)
        return facts, of["best"], pd.read_parquet(here / PARTS[1])
    return None


def _random(rows: torch.Generator) -> dict[str, Tensor]:
    """The states of all that draws: the order of the rows, PyTorch, NumPy (WavLM's masks), and the GPU."""
    _, words, at, _, _ = np.random.get_state()  # no normal number is drawn from it, so none is waiting
    numpy = torch.from_numpy(np.append(words, np.uint32(at)).view(np.int32))
    states = {"rows": rows.get_state(), "torch": torch.get_rng_state(), "numpy": numpy}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore(states: dict[str, Tensor], rows: torch.Generator) -> None:
    rows.set_state(states["rows"])
    torch.set_rng_state(states["torch"])
    words = states["numpy"].numpy().view(np.uint32)
    np.random.set_state(("MT19937", words[:-1], int(words[-1])))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
