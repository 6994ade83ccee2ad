"""A run that is killed goes on from its last finished epoch, and ends in the bytes of one that was not."""

import json

import numpy as np
import pytest
import torch
from conftest import with_training

from foalkit.files import file_digest
from foalkit.results import records
from foalkit.training import loop, runs, unfinished


class Killed(BaseException):
    """What no code of ours catches."""


@pytest.fixture
def killed(monkeypatch):
    """`killed(p, wanted, data, epoch)`: a run that keeps every epoch and dies in the middle of this one."""
    monkeypatch.setattr(unfinished, "EVERY", -1.0)

    def run(p, wanted, data, epoch, into="add_gradients"):
        calls, real = [], getattr(loop, into)
        per_epoch = 2 if into == "predict" else None

        def dies(net, *given, **more):
            calls.append(1)
            steps = per_epoch or -(-len(data_sides(p, wanted, data).train) // p.training.batch)
            if len(calls) > (epoch - 1) * steps + 1:
                raise Killed
            return real(net, *given, **more)

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(loop, into, dies)
            runs.run(p, *wanted, data)

    return run


def data_sides(p, wanted, data):
    from foalkit.corpora.folds import split

    return split(data.table, p, wanted[1], wanted[3])


def digests(file):
    record = json.loads(file.read_text())
    names = ["predictions", "weights"] + ["absent"] * ("absent_digest" in record)
    return [record["history"], record["scores"], *(file_digest(p) for n in names for p in file.parent.glob(f"{n}.*"))]


def in_folder(p, folder):
    return p.model_copy(update={"outputs": str(folder)})


@pytest.mark.parametrize(
    "variant, protocol, into",
    [
        ("foal-net", "honest", "add_gradients"),
        ("foal-net", "published", "add_gradients"),
        ("audio", "honest", "add_gradients"),
        ("foal-net", "honest", "predict"),
    ],
)
def test_a_killed_run_ends_in_the_same_bytes(p, easy, tmp_path, killed, variant, protocol, into):
    p = with_training(p, epochs=5, schedule="cosine")
    wanted = (variant, 1, 0, protocol)
    whole = runs.run(in_folder(p, tmp_path / "whole"), *wanted, easy)
    broken = in_folder(p, tmp_path / "broken")
    for _ in range(2):  # killed twice, the second time one epoch on
        killed(broken, wanted, easy, 2, into)
    file = runs.run(broken, *wanted, easy)
    assert digests(file) == digests(whole)
    record = records.read_record(file)
    assert record["resumed"] == [2, 3] and records.read_record(whole)["resumed"] == []
    assert not list(file.parent.glob("unfinished*"))


@pytest.mark.parametrize("damage", ["state.json", "tensors.safetensors", "predictions.parquet", "random.safetensors"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_what_was_kept_by_halves_does_not_count(p, easy, tmp_path, killed, damage, how):
    wanted = ("audio", 1, 0, "honest")
    whole = runs.run(in_folder(p, tmp_path / "whole"), *wanted, easy)
    broken = in_folder(p, tmp_path / "broken")
    killed(broken, wanted, easy, 3)
    (kept,) = runs.unfinished(broken, *wanted, easy).glob("epoch*")
    file = kept / damage
    file.write_bytes(file.read_bytes()[:-7]) if how == "cut" else file.unlink()
    file = runs.run(broken, *wanted, easy)
    assert digests(file) == digests(whole) and records.read_record(file)["resumed"] == []


def test_other_settings_do_not_go_on_from_it(p, easy, tmp_path, killed):
    wanted, broken = ("audio", 1, 0, "honest"), in_folder(p, tmp_path)
    killed(broken, wanted, easy, 3)
    other = with_training(broken, lr=0.02)
    assert runs.unfinished(other, *wanted, easy) != runs.unfinished(broken, *wanted, easy)
    file = runs.run(other, *wanted, easy)
    assert records.read_record(file)["resumed"] == [] and not list(file.parent.glob("unfinished*"))


def test_short_epochs_are_not_written(p, easy, tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "keep", lambda *_: pytest.fail("three epochs of milliseconds were kept"))
    runs.run(in_folder(p, tmp_path), "audio", 1, 0, "honest", easy)


def test_all_that_draws_goes_on_where_it_was():
    rows = torch.Generator().manual_seed(5)

    def draws():
        return [torch.randperm(9, generator=rows), torch.rand(9), torch.from_numpy(np.random.rand(9))]

    torch.manual_seed(1)
    np.random.seed(2)
    draws()
    states = unfinished._random(rows)
    first = draws()
    draws()
    unfinished._restore(states, rows)
    assert all(torch.equal(a, b) for a, b in zip(first, draws(), strict=True))
