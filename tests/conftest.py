"""Shared fixtures: one tiny generated corpus per test session, and params that point at it."""

import os
from pathlib import Path

import pytest
import yaml

from foalkit import ROOT, UserError, params
from foalkit.data import features, puppets

SHARED_RAVDESS = ROOT.parent / "shared" / "ravdess"


def refused(action) -> str:
    """The one line that a person sees when `action` refuses what it was given."""
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "puppets"
    puppets.write_corpus(root, seed=1, turns_per_session=12)
    return root


@pytest.fixture(scope="session")
def tiny_file(corpus, tmp_path_factory) -> Path:
    """A params file of the demo's kind on the tiny corpus, with outputs of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    data = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text())
    data["outputs"] = str(folder / "outputs")
    data["corpus"] |= {"root": str(corpus), "generate": {"seed": 1, "turns_per_session": 12}}
    data["training"] |= {"epochs": 2, "batch": 8}
    data["ablation"] = {"honest": ["video", "audio", "baseline", "foal-net"], "published": ["foal-net"]}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.fixture(scope="session")
def tiny(tiny_file) -> params.Params:
    return params.load(tiny_file)


@pytest.fixture(scope="session")
def data(tiny) -> features.Data:
    return features.open_data(tiny)


@pytest.fixture(scope="session")
def ravdess_root():
    if not SHARED_RAVDESS.is_dir():
        pytest.skip("the real RAVDESS recordings are not beside the project")
    os.environ["RAVDESS_ROOT"] = str(SHARED_RAVDESS)
    return SHARED_RAVDESS
