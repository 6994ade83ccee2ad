"""Shared fixtures: one tiny generated corpus per test session, and params that point at it."""

import os
import shutil
import subprocess
from pathlib import Path

# As in the grid's jobs, and before NumPy and PyTorch count the cores: several threads share these small sums at a loss,
# on a busy machine of fivefold the CPU time. What needs a number of threads sets it (training.threads).
os.environ |= {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")} | dict(os.environ)

from foalkit import (
    ROOT,
    UserError,
    arithmetic,
    devices,
    params,
)  # before NumPy, which it limits to what all processors have

# isort: split
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from foalkit.features.data import Data, open_data
from foalkit.puppets import iemocap as puppets

arithmetic.limit_torch()  # as the demo's params do, whichever test comes first

SHARED_RAVDESS = ROOT.parent / "shared" / "ravdess"
SHARED_POSTERIORS = ROOT.parent / "shared" / "ravdess-posteriors"


@pytest.fixture(autouse=True)
def seeded():
    """The same random weights whichever tests came before: a bound must not hold for most of them only."""
    torch.manual_seed(0)


def refused(action) -> str:
    """The one line that a person sees when `action` refuses what it was given."""
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def git(*words: str) -> str:
    """What git says of this checkout, whoever owns it; an unpacked archive, of which it knows nothing, is skipped."""
    call = ["git", "-c", "safe.directory=*"]
    how = {"cwd": ROOT, "capture_output": True, "encoding": "utf-8"}
    if not shutil.which("git") or subprocess.run([*call, "rev-parse", "--show-prefix"], **how).stdout != "\n":
        pytest.skip("this folder is not a git checkout")
    return subprocess.run([*call, *words], **how, check=True).stdout


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "puppets"
    puppets.write_corpus(root, seed=1, turns_per_session=12, workers=2)
    return root


@pytest.fixture(scope="session")
def tiny_file(corpus, tmp_path_factory) -> Path:
    """A params file of the demo's kind on the tiny corpus, with outputs of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    data = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text())
    data["outputs"] = str(folder / "outputs")
    data["corpus"] |= {"root": str(corpus), "generate": {"seed": 1, "turns_per_session": 12}}
    data["training"] |= {"epochs": 2, "batch": 8}
    data["robustness"] = {"rows": []}
    data["ablation"] = {"honest": ["video", "audio", "baseline", "foal-net"], "published": ["foal-net"]}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.fixture(scope="session")
def tiny(tiny_file) -> params.Params:
    return params.load(tiny_file)


@pytest.fixture(scope="session")
def data(tiny) -> Data:
    return open_data(tiny)


@pytest.fixture(scope="session")
def ravdess_root():
    if not SHARED_RAVDESS.is_dir():
        pytest.skip("the real RAVDESS recordings are not beside the project")
    os.environ["RAVDESS_ROOT"] = str(SHARED_RAVDESS)
    return SHARED_RAVDESS


@pytest.fixture(scope="session")
def posteriors_folder():
    if not SHARED_POSTERIORS.is_dir():
        pytest.skip("the published posteriors of RAVDESS are not beside the project")
    return SHARED_POSTERIORS


# ---- a task in memory that both streams show plainly ------------------------------------------------


class Memory:
    """A feature store in memory: `{utterance: (T, D)}`."""

    def __init__(self, features: dict[str, np.ndarray]):
        self.features, self.width, self.dtype = features, next(iter(features.values())).shape[1], "float16"
        self.lengths = {u: len(x) for u, x in features.items()}

    def __getitem__(self, utterance):
        return self.features[utterance]

    def batch(self, utterances):
        longest = max(self.lengths.get(u, 1) for u in utterances)
        x = np.zeros((len(utterances), longest, self.width), np.float32)
        mask = np.zeros(x.shape[:2], bool)
        for i, u in enumerate(utterances):
            if u not in self.features:
                continue
            x[i, : len(self.features[u])], mask[i, : len(self.features[u])] = self.features[u], True
        return x, mask

    def tensors(self, utterances, device="cpu"):
        return tuple(torch.from_numpy(v).to(device) for v in self.batch(utterances))


@pytest.fixture(scope="session")
def p(tiny):
    """Small and quick: two learned linear inputs of width 8, three epochs."""
    inputs = {s: {"kind": "linear", "width": 8} for s in ("audio", "video")}
    changes = {
        "model": {"layers": 1, "heads": 2, "projection_dim": 8, "inputs": inputs},
        "training": tiny.training.model_dump() | {"epochs": 3, "batch": 8, "lr": 0.01, "standardise": ["audio"]},
    }
    return type(tiny).model_validate(tiny.model_dump() | changes)


@pytest.fixture(scope="session")
def easy(p) -> Data:
    """Five sessions, two speakers each, four classes that both streams show plainly."""
    rng, rows = np.random.default_rng(0), []
    for s in range(1, 6):
        for g in "FM":
            for k in range(8):
                rows.append((f"Ses0{s}{g}_{k}", f"Ses0{s}{g}", f"Ses0{s}", f"Ses0{s}_d", p.corpus.classes[k % 4]))
    table = pd.DataFrame(rows, columns=["utterance", "speaker", "session", "dialogue", "emotion"])
    number = {c: i for i, c in enumerate(p.corpus.classes)}
    stores = {}
    for stream, width in (("audio", 6), ("video", 5)):
        centres = rng.normal(0, 2, (4, width))
        stores[stream] = Memory(
            {
                r.utterance: (centres[number[r.emotion]] + rng.normal(0, 1, (rng.integers(3, 9), width))).astype("f2")
                for r in table.itertuples()
            }
        )
    encoder = {"digest": "0", "encoder": {}}
    info = {"manifest_digest": "0", "features": {"audio": encoder, "video": encoder}}
    return Data(table, pd.DataFrame(), stores, info, p.corpus.classes)


@pytest.fixture
def bf16_units(monkeypatch):
    """A processor that multiplies bf16 numbers itself; one without units computes them too, more slowly."""
    devices.precision.cache_clear()
    monkeypatch.setattr(devices, "has_bf16", lambda: True)
    yield monkeypatch
    devices.precision.cache_clear()


def with_training(p, **changes):
    return p.model_copy(update={"training": p.training.model_copy(update=changes)})


def quiet(p, **changes):
    """Params without dropout, for comparing two ways to the same number."""
    p = p.model_copy(update={"model": p.model.model_copy(update={"dropout": 0.0, "projection_dropout": 0.0})})
    return with_training(p, **changes)


def batch_of(data, rows):
    utterances = data.table["utterance"].iloc[rows].tolist()
    streams = {s: tuple(map(torch.from_numpy, data.stores[s].batch(utterances))) for s in ("audio", "video")}
    return streams, torch.tensor(data.labels(utterances))


def in_double(p, data, rows):
    """Foal-Net and a batch in double precision, for comparing to many digits."""
    from foalkit.training import networks

    net = networks.build_net(p, "foal-net", data.stores, data.table["utterance"].tolist()).double()
    streams, labels = batch_of(data, rows)
    return net, {s: (x.double(), mask) for s, (x, mask) in streams.items()}, labels
