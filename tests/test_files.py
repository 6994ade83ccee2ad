"""Files are whole or not there, and what the dead were writing goes."""

import json
import os
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from foalkit import files


def parts(folder):
    return [f.name for f in folder.rglob("*.part")]


def test_what_fails_while_it_is_written_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    files.write_json(file, {"old": 1})
    with pytest.raises(ValueError):
        files.write_json(file, {"new": float("nan")})
    with pytest.raises(RuntimeError), files.whole(tmp_path / "folder") as part:
        part.mkdir()
        (part / "half").write_text("x")
        raise RuntimeError
    assert json.loads(file.read_text()) == {"old": 1} and os.listdir(tmp_path) == ["a.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a system without /dev/full")
def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.symlink_to("/dev/full")  # whatever is written there finds no space
    for name, write in {
        "a.json": lambda: files.write_json(tmp_path / "a.json", {}),
        "a.parquet": lambda: files.write_parquet(tmp_path / "a.parquet", pd.DataFrame({"x": [1]})),
    }.items():
        with monkeypatch.context() as patched, pytest.raises(OSError) as caught:
            patched.setattr(files.Path, "with_name", lambda path, name: full)
            patched.setattr(files, "remove", lambda path: None)
            write()
        assert caught.value.errno == 28 and caught.value.filename == str(tmp_path / name)


def test_a_full_disk_is_told_where_only_words_say_so(tmp_path):
    with pytest.raises(OSError) as caught, files.whole(tmp_path / "w.safetensors"):
        raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.errno == 28 and caught.value.filename == str(tmp_path / "w.safetensors")


def test_safetensors_says_it_as_is_expected(tmp_path):
    """Its words are what `whole` reads the system's number from."""
    with pytest.raises(OSError) as caught, files.whole(tmp_path / "there" / "w.safetensors") as part:
        save_file({"a": torch.zeros(2)}, part / "nowhere" / "w")
    assert caught.value.errno == 2


def test_what_the_dead_were_writing_goes_and_what_the_living_write_stays(tmp_path):
    code = (
        "import sys; from pathlib import Path; from foalkit.files import whole; import os\n"
        "with whole(Path(sys.argv[1])) as part: part.write_text('half'); print(part, flush=True); {}"
    )
    call = [sys.executable, "-c", code.format("os._exit(9)"), str(tmp_path / "deep" / "dead")]
    dead = subprocess.run(call, capture_output=True, text=True).stdout.strip()
    call = [sys.executable, "-c", code.format("sys.stdin.read()"), str(tmp_path / "deep" / "living")]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        living = process.stdout.readline().strip()
        with files.whole(tmp_path / "mine") as mine:
            mine.mkdir()
            elsewhere = tmp_path / ".x.another-machine-1-2.part"
            older = tmp_path / ".y.another-machine-1-2.part"
            kept = tmp_path / ".hidden.part"
            for file in (elsewhere, older, kept):
                file.write_text("half")
            os.utime(older, (time.time() - 90_000,) * 2)
            assert os.path.exists(dead)
            files.sweep(tmp_path)
            assert not os.path.exists(dead) and not older.exists()
            assert os.path.exists(living) and mine.exists() and elsewhere.exists() and kept.exists()
        process.communicate("")
    assert (tmp_path / "deep" / "living").read_text() == "half"
    assert sorted(parts(tmp_path)) == [".hidden.part", ".x.another-machine-1-2.part"]


def test_tensors_are_for_whoever_may_read_the_files_beside_them(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", {})
        files.write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2).expand(3, 2).T})
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a.json", "a.safetensors")]
    assert modes == [0o640, 0o640]
