"""The benchmarks run, at sizes that say nothing about speed; what a store costs on disk, exactly."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import pandas as pd
import pytest
from conftest import refused

from foalkit import ROOT, arithmetic

sys.path.insert(0, str(ROOT))  # for `pytest` called without `python -m`
from benchmarks import __main__ as bench
from benchmarks import extraction, feeding, finetuning, growth


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return feeding.Case(tmp_path_factory.mktemp("feeding") / "case", 40)


def test_a_store_has_no_byte_too_many(case):
    for stream, (longest, width) in feeding.SIZES.items():
        frames = [max(1, int(s / 6 * longest)) for s in feeding.lengths(40, np.random.default_rng(0))]
        packed = case.folder / stream / "features.f16"
        assert packed.stat().st_size == 2 * width * sum(frames)
        assert (case.folder / stream / "index.parquet").stat().st_size < 150 * 40 + 8_000
    sizes = case.sizes()
    assert sizes["plain"] == 40 * 4 * (299 * 1024 + 180 * 768)
    assert sizes["plain"] / sizes["ours"] > 3  # half the bytes a number, two thirds of the frames


def test_the_ways_to_feed_are_bit_equal_and_a_difference_is_seen(case, monkeypatch):
    some = ["u3", "u39", "u0"]
    assert feeding.equal(case, some)
    store = case.stores["video"]
    monkeypatch.setattr(store, "packed", store.packed.copy())
    store["u39"][-1, -1] += 1
    assert not feeding.equal(case, some)


def test_extraction_is_compared_with_what_the_plain_loop_makes(tmp_path, bf16_units):
    vision = {"layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
    fp32 = extraction.clip_encoder(tmp_path, vision, "fp32", size=32)
    bf16 = extraction.clip_encoder(tmp_path, vision, "bf16", size=32)
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for n in (5, 2)]
    plain = extraction.PlainClip(fp32, 5)
    seen = []
    plain.visual.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    said = extraction.distance(plain(clips), [fp32(c) for c in clips], [bf16(c) for c in clips])
    assert seen == [5, 5] and said.startswith("fp32 ") and "cosine 0.99" in said
    with pytest.raises(AssertionError):
        extraction.distance(plain(clips), [fp32(c) for c in clips], [fp32(c[::-1]) for c in clips])


def test_the_flops_of_a_vision_transformer_are_those_of_its_products():
    # ViT-L/14, as published: 162.0 GFLOP a picture
    assert extraction.flops(extraction.LARGE_CLIP) == pytest.approx(162.0e9, rel=0.01)


def test_fine_tuning_in_parts_is_compared_with_the_whole_batch(monkeypatch):
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setattr(finetuning, "SMALL", tiny)
    (line,) = finetuning.measure(1, batch=4, seconds=0.3)
    assert line["equality"].startswith("fp32 ") and line["ratio"] > 0
    whole = finetuning.Case.gradients

    def first_part_alone(case, micro_batch):
        if micro_batch:
            case.streams["video"][0][1:] = 0
        return whole(case, micro_batch)

    monkeypatch.setattr(finetuning.Case, "gradients", first_part_alone)
    with pytest.raises(AssertionError, match="from the whole batch's gradient"):
        finetuning.measure(1, batch=4, seconds=0.3)


def test_the_runner_writes_table_json_and_figure(tmp_path, capsys, monkeypatch):
    row = {"what": "nothing", "plain": 2.0, "ours": 0.5, "ratio": 4.0, "low": 3.9, "share": None, "equality": "equal"}
    rows = [row, row | {"what": "something", "share": 0.5}]
    fake = types.SimpleNamespace(measure=lambda rounds: [r | {"equality": f"{rounds} rounds"} for r in rows])
    monkeypatch.setitem(sys.modules, "benchmarks.feeding", fake)
    bench.run(tmp_path, ["feeding"], rounds=3)
    out = capsys.readouterr().out
    assert "4.00×" in out and "3 rounds" in out and "50%" in out and "–" in out
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert [r["what"] for r in kept["rows"]] == ["nothing", "something"] and kept["machine"]
    assert (tmp_path / "bench.png").read_bytes()[:4] == b"\x89PNG"


def test_a_slow_machine_leaves_out_the_last_ones_with_a_word(tmp_path, monkeypatch, capsys):
    row = {"what": "a", "plain": 2.0, "ours": 0.5, "ratio": 4.0, "low": 3.9, "rounds": 1, "share": None, "equality": ""}
    for kind in ("cfn_sr", "feeding"):
        monkeypatch.setitem(sys.modules, f"benchmarks.{kind}", types.SimpleNamespace(measure=lambda rounds: [row]))
    clock = iter([0, 1, 2, bench.LIMIT + 1])
    monkeypatch.setattr(bench.time, "monotonic", lambda: next(clock))
    rows = bench.run(tmp_path, ["cfn_sr", "feeding"], rounds=3)
    out = capsys.readouterr().out
    assert [r["kind"] for r in rows] == ["cfn_sr"] and "feeding: left out" in out and "--only feeding" in out
    assert "3.90" not in out  # one round has no lower bound


def test_versions_that_are_not_equal_are_named_after_the_rest(tmp_path, monkeypatch, capsys):
    def unequal(rounds):
        raise AssertionError("7 against 8")

    monkeypatch.setitem(sys.modules, "benchmarks.feeding", types.SimpleNamespace(measure=unequal))
    said = refused(lambda: bench.run(tmp_path, ["feeding"], rounds=3))
    assert said == "feeding: not equal: 7 against 8"
    assert json.loads((tmp_path / "bench.json").read_text())["unequal"] == {"feeding": "7 against 8"}


def test_growth_is_measured_and_drawn(tmp_path):
    found = growth.write(tmp_path, utterances=(400, 800), seconds=(0.1, 0.2), runs=(1, 2))
    disk = found.set_index("what")["MB, power"]
    assert disk["features on disk"] == pytest.approx(1, abs=0.2)
    assert len(json.loads((tmp_path / "growth.json").read_text())["powers"]) == len(found)
    assert (tmp_path / "growth.png").exists()


def test_powers_are_exponents():
    sizes = [10, 100, 1000]
    rows = [("n", "square", s, s**2 / 7, 3.0 * s) for s in sizes]
    found = growth.powers(pd.DataFrame(rows, columns=["against", "what", "size", "seconds", "MB"])).iloc[0]
    assert (found["seconds, power"], found["MB, power"], found["to"]) == (2, 1, 1000)


def test_an_unknown_benchmark_names_the_nearest(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "feedin"])
    with pytest.raises(SystemExit, match="did you mean 'feeding'"):
        bench.main()


def test_torch_is_imported_only_when_it_is_needed():
    modules = "foalkit", "foalkit.params", "foalkit.notebook", "foalkit.features.data", "foalkit.report.page"
    script = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
    done = subprocess.run(
        [sys.executable, "-c", "import sys, foalkit; print({'numpy', 'pandas'} & set(sys.modules))"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.strip() == "set()", done.stderr


HEAVY = ["torch", "transformers", "open_clip", "librosa", "sklearn"]


def test_the_processor_is_not_held_back(tmp_path):
    script = "from benchmarks import finetuning, growth, training_step; from pathlib import Path; import os, sys\n"
    script += "training_step.Case(2, scale=16); growth._whole(Path(sys.argv[1]) / 'x', 200)\n"
    script += "finetuning.Case(finetuning.SMALL, batch=2, seconds=0.1, device='cpu', precision='fp32')\n"
    script += f"print([n for n in {sorted(arithmetic.TORCH)} if n in os.environ])"
    env = {k: v for k, v in os.environ.items() if k not in arithmetic.TORCH}
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.stdout.strip() == "[]", done.stderr
