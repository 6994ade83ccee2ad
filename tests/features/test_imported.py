"""Features made elsewhere, in the files that people have: each way of writing the same numbers is read alike."""

import io
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refused
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from foalkit import params
from foalkit.features.encoders.imported import ImportedFeatures
from foalkit.params.encoders import PICKLED, Imported
from foalkit.params.errors import validate

RNG = np.random.default_rng(0)
# "001" and "NA" are names, whatever a reader of tables takes them for
CLIPS = {u: RNG.normal(size=(n, 3)).astype(np.float32).round(3) for u, n in {"u1": 4, "001": 1, "NA": 2}.items()}
NAMES = [u for u, x in CLIPS.items() for _ in x]
FRAMES = np.concatenate([*CLIPS.values()])


def table(numbers=FRAMES, **more) -> pd.DataFrame:
    return pd.DataFrame(numbers, columns=["a", "b", "c"]).assign(**more)


def made(folder, pattern, **more) -> ImportedFeatures:
    spec = {"encoder": "imported", "folder": str(folder), "pattern": pattern, "width": 3} | more
    return ImportedFeatures(validate(Imported, spec, "features.x"), "features.x")


def each(write):
    """Write a file for each utterance with `write(path, matrix)`."""
    return lambda folder, ending: [write(folder / f"{u}{ending}", x) for u, x in CLIPS.items()]


def bf16(file, x):
    save_tensors({"states": torch.tensor(x, dtype=torch.bfloat16)}, file)


def headless(file, x):
    np.savetxt(file, x, "%.3f", delimiter=";")


def lists(file):
    pd.DataFrame({"utterance": NAMES, "embedding": [*FRAMES]}).to_parquet(file)


def shuffled(file):
    table(utterance=NAMES).sample(frac=1, random_state=0).sort_values("a", kind="stable").to_csv(file, index=False)


WAYS = {
    "npy each": ("{utterance}.npy", each(np.save), {}),
    "npz each": ("{utterance}.npz", each(lambda f, x: np.savez(f, whatever=x)), {}),
    "npz each, of several arrays": (
        "{utterance}.npz",
        each(lambda f, x: np.savez_compressed(f, times=np.zeros(9), features=x)),
        {"key": "features"},
    ),
    "safetensors each": ("{utterance}.safetensors", each(lambda f, x: save_file({"x": x}, f)), {}),
    "csv each": ("{utterance}.csv", each(lambda f, x: table(x).to_csv(f, index=False)), {}),
    "csv each, without a header": ("{utterance}.csv", each(headless), {}),
    "csv each, some columns": (
        "{utterance}.csv",
        each(lambda f, x: table(x, file="a.wav", time=1.0).to_csv(f, index=False, sep="\t")),
        {"columns": ["a", "b", "c"]},
    ),
    "parquet each": ("{utterance}.parquet", each(lambda f, x: table(x).to_parquet(f)), {}),
    "npz of all": ("all.npz", lambda folder, _: np.savez(folder / "all.npz", **CLIPS), {}),
    "npz of all, other names": (
        "all.npz",
        lambda folder, _: np.savez(folder / "all.npz", **{f"{u}.wav": x for u, x in CLIPS.items()}),
        {"key": "{utterance}.wav"},
    ),
    "safetensors of all": ("all.safetensors", lambda folder, _: save_file(CLIPS, folder / "all.safetensors"), {}),
    "csv of all": ("all.csv", lambda folder, _: table(utterance=NAMES).to_csv(folder / "all.csv", index=False), {}),
    "parquet of all": ("all.parquet", lambda folder, _: table(utterance=NAMES).to_parquet(folder / "all.parquet"), {}),
    "parquet of lists": ("all.parquet", lambda folder, _: lists(folder / "all.parquet"), {}),
    "a matrix and its index": (
        "all.npy",
        lambda folder, _: (
            np.save(folder / "all.npy", FRAMES),
            pd.DataFrame({"utterance": NAMES, "frame": 0}).to_csv(folder / "index.csv", index=False),
        ),
        {"index": "index.csv"},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_writing_the_same_numbers_is_read_alike(tmp_path, way):
    pattern, write, more = WAYS[way]
    write(tmp_path, "." + pattern.split(".")[1])
    features = made(tmp_path, pattern, **more)
    for utterance, x in CLIPS.items():
        row = {"utterance": utterance}
        assert features.has(row)
        got = features.read(row)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, x, atol=1e-6)
    assert not features.has({"utterance": "u9"})
    assert "no imported features for utterance u9" in refused(lambda: features.read({"utterance": "u9"}))


def test_one_vector_is_one_frame_and_bf16_is_read(tmp_path):
    np.save(tmp_path / "u1.npy", np.array([1, 2, 3]))
    np.testing.assert_array_equal(made(tmp_path, "{utterance}.npy").read({"utterance": "u1"}), [[1, 2, 3]])
    bf16(tmp_path / "u1.safetensors", np.array([[1.5, -2, 0.25]]))
    np.testing.assert_array_equal(
        made(tmp_path, "{utterance}.safetensors").read({"utterance": "u1"}), [[1.5, -2, 0.25]]
    )


def test_rows_of_an_utterance_keep_their_order_wherever_they_stand(tmp_path):
    order = RNG.permutation(len(NAMES))
    table(FRAMES[order], utterance=np.array(NAMES)[order]).to_csv(tmp_path / "all.csv", index=False)
    features = made(tmp_path, "all.csv")
    for utterance in CLIPS:
        expected = [FRAMES[i] for i in order if NAMES[i] == utterance]
        np.testing.assert_allclose(features.read({"utterance": utterance}), expected, atol=1e-6)


def test_a_digest_follows_the_files_and_a_shared_one_is_read_once(tmp_path, monkeypatch):
    pattern, write, more = WAYS["a matrix and its index"]
    write(tmp_path, ".npy")
    first = {u: made(tmp_path, pattern, **more).digest({"utterance": u}) for u in CLIPS}
    assert len(set(first.values())) == 1
    pd.DataFrame({"utterance": NAMES[::-1]}).to_csv(tmp_path / "index.csv", index=False)
    assert made(tmp_path, pattern, **more).digest({"utterance": "u1"}) not in first.values()
    opened = []
    monkeypatch.setattr("foalkit.features.encoders.imported.file_digest", lambda file: opened.append(file) or "x")
    features = made(tmp_path, pattern, **more)
    for utterance in CLIPS:
        features.digest({"utterance": utterance})
    assert len(opened) == 2
    monkeypatch.undo()
    (tmp_path / "u8.npy").mkdir()
    each_own = made(tmp_path, "{utterance}.npy")
    assert each_own.digest({"utterance": "u9"}) is None and each_own.digest({"utterance": "u8"}) is None
    assert "u8.npy: " in refused(lambda: each_own.read({"utterance": "u8"}))


class Trap:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def written(write) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


LONG = np.zeros((500, 3), np.float32)
BAD = [
    ("{utterance}.npy", pickle.dumps(Trap()), "pickled objects are not read"),
    ("{utterance}.npy", written(lambda f: np.save(f, np.array([Trap()], object))), "pickled objects are not read"),
    ("{utterance}.npz", written(lambda f: np.savez(f, x=np.array([Trap()], object))), "pickled objects are not read"),
    ("{utterance}.npy", cut(written(lambda f: np.save(f, LONG))), "that can be read"),
    ("{utterance}.npz", cut(written(lambda f: np.savez(f, x=LONG))), "that can be read"),
    ("{utterance}.npz", written(lambda f: np.save(f, LONG)), "one array, as an .npy file has it"),
    ("{utterance}.npz", b"", "that can be read"),
    ("{utterance}.safetensors", b"", "not a safetensors file"),
    ("{utterance}.safetensors", bytes(range(256)), "not a safetensors file"),
    ("{utterance}.parquet", cut(written(lambda f: table().to_parquet(f))), "that can be read"),
    ("{utterance}.csv", b"", "that can be read"),
    ("{utterance}.csv", b"a,b,c\n", "holds no numbers"),
    ("{utterance}.csv", b"\xff\xfe\x00a", "that can be read"),
    ("{utterance}.csv", b"a,b,c\n1,2,3\n4,5", "NaN or infinity"),
    ("{utterance}.csv", b"a,b,c\n1,2,inf\n", "NaN or infinity"),
    ("{utterance}.csv", b"a,b,c\n1,2,x\n", "the column 'c' holds no numbers; set `columns`"),
    ("{utterance}.csv", b"a,b\n1,2\n", "shape (1, 2), expected (T, 3)"),
    ("{utterance}.npy", written(lambda f: np.save(f, np.zeros((1, 4, 3)))), "shape (1, 4, 3)"),
    ("{utterance}.npy", written(lambda f: np.save(f, np.zeros((4, 3), bool))), "not an array of numbers"),
    ("{utterance}.npy", written(lambda f: np.save(f, np.zeros((4, 3), complex))), "not an array of numbers"),
    ("{utterance}.npz", written(lambda f: np.savez(f, a=LONG, b=LONG)), "('u1'; it holds 2 arrays, a, b among them)"),
    ("all.csv", b"name,a,b,c\nu1,1,2,3\n", "needs a column 'utterance'; this one has ['name', 'a', 'b', 'c']"),
    ("all.npz", b"PK", "not a NumPy array"),
]


@pytest.mark.parametrize(("pattern", "content", "said"), BAD)
def test_a_bad_file_is_named_with_the_reason(tmp_path, pattern, content, said):
    file = tmp_path / pattern.format(utterance="u1")
    file.write_bytes(content)
    features = made(tmp_path, pattern)
    assert features.has({"utterance": "u1"})  # reading it says what is wrong
    message = refused(lambda: features.read({"utterance": "u1"}))
    assert message.startswith(f"{file.name}: ") and said in message


def test_one_bad_utterance_of_a_shared_table_costs_one(tmp_path):
    (tmp_path / "all.csv").write_text("utterance,a,b,c\nu1,1,2,3\nu2,1,,3\nu3,1,x,3\nu4,4,5,6\n")
    features = made(tmp_path, "all.csv")
    np.testing.assert_array_equal(features.read({"utterance": "u1"}), [[1, 2, 3]])
    np.testing.assert_array_equal(features.read({"utterance": "u4"}), [[4, 5, 6]])
    assert "NaN" in refused(lambda: features.read({"utterance": "u2"}))
    assert "the column 'b' holds no numbers" in refused(lambda: features.read({"utterance": "u3"}))


def test_an_index_of_another_length_is_refused(tmp_path):
    np.save(tmp_path / "all.npy", FRAMES)
    pd.DataFrame({"utterance": NAMES[1:]}).to_csv(tmp_path / "index.csv", index=False)
    features = made(tmp_path, "all.npy", index="index.csv")
    assert "7 rows, but index.csv names 6" in refused(lambda: features.read({"utterance": "u1"}))
    (tmp_path / "index.csv").unlink()
    assert "features.x.index: there is no file" in refused(lambda: made(tmp_path, "all.npy", index="index.csv"))
    assert "features.x.pattern: there is no file" in refused(lambda: made(tmp_path, "none.npz"))


@pytest.mark.parametrize("ending", PICKLED)
def test_pickled_files_are_refused_when_the_params_are_read(ending):
    spec = f"features.video={{encoder: imported, folder: f, width: 3, pattern: '{{utterance}}{ending}'}}"
    said = refused(lambda: params.load("demo", [spec]))
    assert "features.video.pattern" in said and f"{ending} files are pickled" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"pattern": "{utterance}.mat"}, "pattern: must end in one of .npy, .npz, .safetensors, .csv, .parquet"),
        ({"pattern": "all.npy"}, "index: one .npy file of all utterances needs a table that names its rows"),
        ({"pattern": "all.npz", "index": "i.csv"}, "index: names the rows of one .npy matrix"),
        ({"pattern": "all.npy", "index": "i.txt"}, "index: must be a table (.csv or .parquet)"),
        ({"pattern": "{utterance}.npy", "columns": ["a"]}, "columns: .npy files have none"),
    ],
)
def test_settings_that_do_not_fit_the_files_are_refused(more, said):
    spec = {"encoder": "imported", "folder": "f", "width": 3} | more
    assert said in refused(lambda: validate(Imported, spec, "features.x"))


def test_new_settings_leave_the_digests_of_before(tmp_path):
    spec = Imported(encoder="imported", folder=str(tmp_path), width=3)
    kept = {"encoder", "folder", "pattern", "width", "trained_on"}
    assert set(spec.model_dump()) == kept and Imported.model_validate(spec.model_dump()) == spec
    assert made(tmp_path, "{utterance}.npy").identity == {"encoder": "imported", "width": 3}
    changed = Imported.model_validate(spec.model_dump() | {"step": 0.02, "key": "x"})
    assert set(changed.model_dump()) == kept | {"step", "key"}
