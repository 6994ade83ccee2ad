"""Jobs that run at once take different GPUs (there need be none here: only the numbers are at stake)."""

import subprocess
import sys

import pytest
import torch
from conftest import refused

from foalkit import ROOT, devices

HOLD = """
import sys
from foalkit.devices import reserve
print(reserve([0, 1, 2, 3], 4), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Starts a process that reserves one GPU of four and holds it; returns it and the number it got."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the locks of this test alone
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("GPU_JOBS", raising=False)
    started = []

    def start():
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, **pipes)
        started.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.communicate()


def test_jobs_at_once_take_different_gpus_and_give_them_back(job):
    held = [job() for _ in range(4)]
    assert [number for _, number in held] == [0, 1, 2, 3]
    held[2][0].communicate()
    assert job()[1] == 2
    assert job()[1] == 0  # none is free: shared


def test_jobs_take_free_gpus_first_and_then_shares_of_them(job, monkeypatch):
    monkeypatch.setenv("GPU_JOBS", "3")
    held = [job() for _ in range(8)]
    assert [number for _, number in held] == [0, 1, 2, 3, 0, 1, 2, 3]
    held[5][0].communicate()
    assert job()[1] == 1  # the share that came free
    assert job()[1] == 0  # the last thirds come after it


def test_another_number_of_shares_than_one_or_more_is_refused(monkeypatch):
    for wrong in ("0", "-1", "many", "1.5"):
        monkeypatch.setenv("GPU_JOBS", wrong)
        assert f"GPU_JOBS={wrong}" in refused(lambda: devices.reserve([0, 1], 2))


def test_a_job_keeps_the_gpu_it_has(monkeypatch, tmp_path):
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "_held", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [devices.device("auto"), devices.device("cuda"), devices.device("cpu")] == ["cuda:0", "cuda:0", "cpu"]


def test_gpus_are_called_what_the_environment_calls_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab12")
    assert devices.names(2) == ["3", "GPU-ab12"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.names(2) == ["0", "1"]


def test_a_part_of_a_gpu_may_have_a_slash_in_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "_held", {})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-ab12/1/0")
    assert devices.reserve([0], 1) == 0 and len(list(tmp_path.iterdir())) == 1


def test_a_job_of_a_shared_machine_uses_the_cores_that_it_was_given(monkeypatch):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for given, cores in {"8": 8, "128": 64, "0": 64, "": 64, "many": 64}.items():
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
        assert devices.cores() == cores
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    assert devices.cores() == 64


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.device("auto") == devices.device("cpu") == "cpu"
    assert "no GPU" in refused(lambda: devices.device("cuda"))


HERE = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "arches", "runs"),
    [
        *(
            ((7, 5), HERE, True),
            ((8, 0), HERE, True),
            ((8, 9), HERE, True),
            ((9, 0), HERE, True),
            ((12, 1), HERE, True),
        ),
        *(((3, 7), HERE, False), ((6, 1), HERE, False), ((7, 0), HERE, False), ((11, 0), HERE, False)),
        *(((13, 0), HERE, False), ((13, 0), [*HERE, "compute_120"], True), ((12, 1), ["compute_80"], True)),
        *(((8, 0), ["sm_86"], False), ((8, 6), ["sm_80"], True), ((9, 0), ["sm_80"], False)),
        *(((7, 0), ["compute_75"], False), ((9, 0), ["sm_90a"], True), ((9, 1), ["sm_90a"], False)),
        *(((10, 0), ["compute_90a"], False), ((10, 3), ["sm_100f"], True), ((12, 0), ["compute_100f"], False)),
        *(((10, 0), ["sm_100"], True), ((1, 0), ["sm_100"], False), ((8, 0), ["gfx90a", "sm_"], False)),
    ],
)
def test_code_runs_on_the_gpus_that_nvidias_rules_say(capability, arches, runs):
    assert devices.has_kernels(capability, arches) == runs


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Lets torch see GPUs of these compute capabilities; an exception stands for one whose driver says nothing."""

    def seen(*capabilities):
        def capability(number):
            if isinstance(capabilities[number], Exception):
                raise capabilities[number]
            return capabilities[number]

        monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
        monkeypatch.setattr(devices, "_held", {})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: HERE)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (10**10, 10**10))
        monkeypatch.setattr(torch.version, "cuda", "13.2")
        devices._say.cache_clear()

    return seen


def test_a_gpu_without_kernels_is_refused_or_left_alone_before_any_step(machine, capsys):
    machine((3, 7))
    said = refused(lambda: devices.device("cuda"))
    assert "card 0" in said and "3.7" in said and "sm_75" in said
    assert [devices.device("auto"), devices.device("auto"), devices.device("cpu")] == ["cpu"] * 3
    assert capsys.readouterr().err.count("card 0") == 1
    machine((3, 7), (8, 6))
    assert devices.device("cuda") == "cuda:1" and "card 0" in capsys.readouterr().err
    machine(RuntimeError("no NVIDIA driver"))
    assert devices.device("cuda") == "cuda:0"  # what is not known is not refused


def test_the_doctor_names_a_gpu_without_kernels(machine):
    from foalkit.doctor import _gpu
    from foalkit.params import load

    cuda = load("demo", "training.device=cuda")
    for seen, stops in (((13, 0),), True), (((13, 0), (9, 0)), False):
        machine(*seen)
        lines = [f for f in _gpu(cuda) if "no kernels" in f.found]
        assert [f.stops for f in lines] == [stops] and "13.0" in lines[0].found and lines[0].to_do
    machine((9, 0))
    assert not [f for f in _gpu(cuda) if "no kernels" in f.found]


def test_bf16_is_of_the_processors_own_units(monkeypatch):
    emulated = {"avx512_bw": True, "avx512_bf16": False, "amx_bf16": False}
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    for units, library, there in (
        ({}, True, False),
        ({"avx512_bf16": True}, True, True),
        ({"amx_bf16": True}, False, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: emulated | units)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda library=library: library)
        assert devices.has_bf16() == there


def test_a_processor_without_bf16_units_uses_fp32_and_says_so_once(monkeypatch, capsys):
    devices.precision.cache_clear()
    monkeypatch.setattr(devices, "has_bf16", lambda: False)
    assert [devices.precision("bf16", d) for d in ("cpu", "cpu", "cuda:0")] == ["fp32", "fp32", "bf16"]
    assert devices.precision("fp32", "cpu") == "fp32"
    assert capsys.readouterr().err.count("no units for bf16") == 1
    monkeypatch.setattr(devices, "has_bf16", lambda: True)
    devices.precision.cache_clear()
    assert devices.precision("bf16", "cpu") == "bf16"
    devices.precision.cache_clear()
