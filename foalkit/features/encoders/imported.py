"""Features made elsewhere: .npy, .npz, .safetensors, .csv or .parquet, a file for each utterance or for many."""

import errno
import io
import math
import threading
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from foalkit import UserError
from foalkit.files import digest, file_digest, first_line, of_the_machine
from foalkit.params.encoders import Imported
from foalkit.params.load import expand

NAMES = "utterance"  # the column of a table of many utterances that says whose a row is
# what the libraries raise for files that are damaged, cut, or something else than their name says
UNREADABLE = (
    ValueError, EOFError, OSError, KeyError, TypeError, MemoryError, SyntaxError, RuntimeError, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
PACKED = 1032  # times that zlib makes numbers smaller at most


class ImportedFeatures:
    """Features made elsewhere: `(T, width)` per utterance from files found by the params' pattern.

    A file of many utterances is opened once, and kept open. Raises UserError for a folder, or a single file of all
    utterances, that is not there.
    """

    def __init__(self, spec: Imported, where: str = "features"):
        self.spec, self.where = spec, where
        self.folder, self.pattern, self.width = (expand(spec.folder, f"{where}.folder"), spec.pattern, spec.width)
        if not self.folder.is_dir():
            raise UserError(f"{where}.folder: there is no folder {self.folder}")
        for key, name in {"pattern": spec.pattern, "index": spec.index}.items():
            if name and "{" not in name and not (self.folder / name).is_file():
                raise UserError(f"{where}.{key}: there is no file {self.folder / name}")
        self.identity = {"encoder": "imported", "width": spec.width}
        self.identity |= {k: v for k, v in spec.model_dump().items() if k in ("key", "columns")}
        self.of_many = spec.index is not None or ("{utterance}" not in self.pattern and not self._is(".npy"))
        self._opened: dict[Path, dict | str] = {}  # what it holds, or why it cannot be read
        self._digests: dict[Path, str] = {}
        self._alone = threading.Lock()  # threads read at once, and no reader of these files says that it lets them

    def file(self, row) -> Path:
        """The file that holds a manifest row's features."""
        return self.folder / self._filled("pattern", row)

    def has(self, row) -> bool:
        """Whether there are features of a manifest row; of a file that cannot be read, reading them tells why."""
        file = self.file(row)
        try:
            file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if of_the_machine(error):
                raise
        if not self.of_many:
            return True
        try:
            return self._name(row) in self._open(file)
        except UserError:
            return True

    def digest(self, row) -> str | None:
        """A digest of the files that a row's features come from; None where there is none, or it cannot be read."""
        file = self.file(row)
        try:
            if not self.of_many:
                return file_digest(file)
            with self._alone:
                if file not in self._digests:  # read once for all its utterances
                    index = [file_digest(self.folder / self.spec.index)] if self.spec.index else []
                    self._digests[file] = digest([file_digest(file), *index])
            return self._digests[file]
        except OSError as error:
            if of_the_machine(error):
                raise
            return None

    def read(self, row) -> np.ndarray:
        """The row's features as float32 `(T, width)`.

        Raises UserError when the file is missing, not an array of that width, or holds NaN.
        """
        file = self.file(row)
        try:
            array = self._array(file, row)
        except UserError as error:
            raise UserError(f"{file.name}: {error}") from None
        except UNREADABLE as error:
            if isinstance(error, FileNotFoundError) and error.filename == str(file):
                raise UserError(f"{file.name}: no imported features for utterance {row['utterance']}") from None
            raise UserError(f"{file.name}: {_why(error, file)}") from None
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            raise UserError(f"{file.name}: not an array of numbers")
        array = array[None] if array.shape == (self.width,) else array  # one frame
        if array.ndim != 2 or array.shape[1] != self.width or not len(array):
            raise UserError(f"{file.name}: shape {array.shape}, expected (T, {self.width})")
        if not np.isfinite(array).all():
            raise UserError(f"{file.name}: holds NaN or infinity")
        return array.astype(np.float32)

    def _array(self, file: Path, row):
        if not self.of_many and self._is(".npy"):
            return np.load(file, allow_pickle=False)
        if not self.of_many and self._is(".csv", ".parquet"):
            return _numbers(_table(file), self.spec.columns)
        named = self._open(file) if self.of_many else _dictionary(file)
        name = self._name(row)
        if not self.of_many and name not in named and len(named) == 1:
            name = next(iter(named))
        if name not in named:
            many = f"; it holds {len(named)} arrays, {', '.join(list(named)[:3])} among them" if named else ""
            raise UserError(f"no imported features for utterance {row['utterance']} ({name!r}{many})")
        with self._alone:
            return named[name]()

    def _open(self, file: Path) -> dict:
        """What a file of many utterances holds: by name, a function that gives its numbers."""
        with self._alone:
            if file not in self._opened:
                try:
                    self._opened[file] = self._contents(file)
                except UNREADABLE as error:
                    self._opened[file] = _why(error, file)
                except UserError as error:
                    self._opened[file] = str(error)
            contents = self._opened[file]
        if isinstance(contents, str):
            raise UserError(contents)
        return contents

    def _contents(self, file: Path) -> dict:
        if self._is(".npz", ".safetensors"):
            return _dictionary(file)
        if self._is(".npy"):
            matrix, names = np.load(file, "r", allow_pickle=False), _names(_table(self.folder / self.spec.index))
            if len(matrix) != len(names):
                raise UserError(f"{len(matrix)} rows, but {self.spec.index} names {len(names)}")
            return {name: lambda rows=rows: np.asarray(matrix[rows]) for name, rows in _rows_of(names).items()}
        table = _table(file)
        of = _rows_of(_names(table))
        return {
            name: lambda rows=rows: _numbers(table.iloc[rows].drop(columns=NAMES), self.spec.columns)
            for name, rows in of.items()
        }

    def _name(self, row) -> str:
        """What a row is called in a file of arrays, or in a table."""
        return self._filled("key", row) if self._is(".npz", ".safetensors") else row["utterance"]

    def _is(self, *endings: str) -> bool:
        return self.pattern.endswith(endings)

    def _filled(self, key: str, row) -> str:
        text = getattr(self.spec, key)
        try:
            return text.format_map(row)
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(f"{self.where}.{key}: {text!r} cannot be filled in ({error!r})") from None


def _dictionary(file: Path) -> dict:
    """The arrays of an .npz or .safetensors file: by name, a function that reads one."""
    if file.suffix == ".npz":
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise UserError("one array, as an .npy file has it")
        return {name: lambda name=name: arrays[name] for name in arrays.files}
    from safetensors import SafetensorError, safe_open

    def read(name: str) -> np.ndarray:
        tensor = arrays.get_tensor(name)  # of PyTorch's: NumPy has no bf16
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    file.open("rb").close()  # the system's own word, where the file is not there or cannot be read
    try:
        arrays = safe_open(file, "pt")
        return {name: lambda name=name: read(name) for name in arrays.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise UserError(f"not a safetensors file ({first_line(error)})") from None


def _table(file: Path):
    """A CSV (of commas, semicolons or tabs; a first line of numbers is no header) or Parquet table."""
    import pandas as pd

    data = io.BytesIO(file.read_bytes())  # what fails from here on is no fault of the disk
    if file.suffix == ".parquet":
        try:
            return pd.read_parquet(data)
        except OSError as error:  # so says Arrow of damaged data
            if error.errno is None:
                raise ValueError(first_line(error)) from None
            raise
    first = next(io.TextIOWrapper(io.BytesIO(data.getvalue()), encoding="utf-8-sig"), "")
    mark = max(",;\t", key=first.count)
    header = [cell.strip().strip('"') for cell in first.split(mark)]
    bare = all(_is_number(cell) for cell in header)
    # an utterance may be called 001 or NA
    missing = {name: ["", "NA", "NaN", "nan", "N/A", "null"] for name in header if name != NAMES}
    how = {"dtype": {NAMES: str}, "keep_default_na": False, "na_values": missing} if not bare else {}
    return pd.read_csv(data, sep=mark, header=None if bare else 0, skipinitialspace=True, encoding="utf-8-sig", **how)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _names(table) -> list[str]:
    if NAMES not in table:
        raise UserError(f"a table of many utterances needs a column {NAMES!r}; this one has {list(table)[:6]}")
    return table[NAMES].astype(str).tolist()


def _rows_of(names: list[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        rows.setdefault(name, []).append(at)
    return rows


def _numbers(table, columns: list[str] | None) -> np.ndarray:
    """A table's numbers `(T, D)`, of one each cell, or of one column of lists."""
    import pandas as pd

    table = table.rename(columns=str)
    for name in columns or table:
        if name not in table:
            raise UserError(f"no column {name!r} among {list(table)[:6]}")
    table = table[columns or list(table)]
    if table.shape[1] == 1 and len(table) and isinstance(table.iloc[0, 0], np.ndarray):
        return np.stack(table.iloc[:, 0])
    try:
        numbers = table.apply(pd.to_numeric)
    except (ValueError, TypeError):
        numbers = table
    if words := [name for name in numbers if numbers[name].dtype.kind not in "fiu"]:
        raise UserError(f"the column {words[0]!r} holds no numbers; set `columns` to those with the features")
    return numbers.to_numpy(float)


def _why(error: Exception, file: Path) -> str:
    """Why a file cannot be read; raises the error again where it is a fault of the machine."""
    if of_the_machine(error) and not _claims_more(error, file) and getattr(error, "errno", None) != errno.EINVAL:
        raise error
    if isinstance(error, OSError) and error.filename not in (None, str(file)):
        raise error
    said = first_line(error)
    if "pickle" in said:  # so says NumPy of all that is no array
        return "not a NumPy array of numbers (pickled objects are not read, as that may run any code)"
    return f"not a NumPy array, or table, that can be read ({said})"


def _claims_more(error: Exception, file: Path) -> bool:
    """Whether NumPy found no memory for an array since the file's header says that it is larger than it can be."""
    if not isinstance(error, MemoryError) or not hasattr(error, "shape"):
        return False
    return math.prod(error.shape) * error.dtype.itemsize > PACKED * file.stat().st_size
