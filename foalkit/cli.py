"""`foalkit`: thin verbs over the grid, the report's check, the params and the shared features."""

import argparse
import json
import locale
import os
import shutil
import sys

from foalkit import CHECKOUT, ROOT, UserError


def main(words: list[str] | None = None) -> int:
    """Do what the words (of the command line) say; returns the exit status: 0, or 1 with a line of what is wrong."""
    parser = argparse.ArgumentParser(prog="foalkit", description=__doc__.replace("`", ""))
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name, function, about, *, params=True):
        added = verbs.add_parser(name, help=about, description=about)
        added.set_defaults(function=function)
        if params:
            about = "a file in params/ without its ending, or a path to one"
            added.add_argument("params", help=about, nargs="?" if params == "perhaps" else None)
            added.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
        return added

    grid = verb("grid", _grid, "run everything of a params file that is not there yet, up to the report")
    grid.add_argument("--cores", default="all", help="how many cores of this machine it may use (default: all)")
    grid.add_argument(
        "--executor", metavar="PROFILE", help="run on a cluster: a folder in profiles/ (slurm), or a path"
    )
    grid.add_argument("--jobs", type=int, metavar="N", help="how many jobs it may have there at once")
    extract = verb("extract", _extract, "build the features of one session or speaker, which the grid then joins")
    extract.add_argument("--stream", help="the stream; without it, only the generated corpus is written")
    extract.add_argument("--group", help="the session or speaker, as in folds.groups")
    about = "say what a corpus holds, what is used and what is not, and what to look at first; opens no recording"
    verb("check-corpus", _check_corpus, about)
    verb("robustness", _robustness, "try the rows of robustness.rows on noisy, dark or late test clips")
    verb("check", _check, "recompute every printed number from the records, and compare every stored feature")
    keys = verb("params", _params, "list every key: what this file sets, type, default, meaning")
    keys.add_argument("--diff", metavar="OTHER", help="only what another params file sets otherwise")
    about = "download a corpus whose licence allows it, check and unpack it"
    fetch = verb("fetch", _fetch, about, params=False)
    fetch.add_argument("corpus", choices=["ravdess"], help="from Zenodo, 10.5281/zenodo.1188976")
    fetch.add_argument("folder", help="where its recordings are to lie (RAVDESS_ROOT)")
    what = "sound: speech without video, 0.2 GB; speech (default): with video; all: songs, too"
    fetch.add_argument("--what", choices=["sound", "speech", "all"], default="speech", help=what)
    fetch.add_argument("--accept-licence", action="store_true", help="say that you accept the licence that is shown")
    verb("doctor", _doctor, "say what this machine has, what the params need, and what to do", params="perhaps")
    predict = verb(
        "predict", _predict, "say what trained runs answer to media files, or to all in a folder", params=False
    )
    predict.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a media file, or a folder of them (./-name for one that begins with a dash)",
    )
    predict.add_argument(
        "--run", required=True, help="a variant's folder of runs, one run's, a saved model, a hub name"
    )
    predict.add_argument("--json", action="store_true", help="a line of JSON a file")
    clean = verb("clean-features", _clean, "list the features, boxes and corpora that no outputs name", params=False)
    clean.add_argument("--remove", action="store_true", help="remove them")
    _read_and_write_any_letter(words)
    given = parser.parse_args(words)
    try:
        return given.function(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("foalkit"):
            raise
        to_do = "touch requirements.lock; make" if CHECKOUT else "python -m pip install 'foalkit[all]'"
        print(f"error: the package of {error.name} is not installed: {to_do} brings it", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, head for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ImportError as error:
        line = UserError(f"a package cannot be loaded ({error}); foalkit doctor says which and what to do")
        print(f"error: {line}", file=sys.stderr)
        return 1
    except OSError as error:
        from foalkit.files import refusal

        print(f"error: {UserError(refusal(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _read_and_write_any_letter(words: list[str] | None) -> None:
    """In an 8-bit locale start this process again with paths and files in UTF-8; the terminal gets what it can show."""
    sys.stdout.reconfigure(errors="backslashreplace")
    if words is None and not sys.flags.utf8_mode and locale.getpreferredencoding(False).lower() != "utf-8":
        env = {"PYTHONUTF8": "1", "PYTHONIOENCODING": f"{sys.stdout.encoding}:backslashreplace"}
        os.execve(sys.executable, [sys.executable, "-m", "foalkit", *sys.argv[1:]], os.environ | env)


def _grid(given) -> int:
    from foalkit import grid
    from foalkit.params import load

    if given.cores != "all" and not (given.cores.isdecimal() and int(given.cores)):
        raise UserError(f"--cores {given.cores} (CORES={given.cores}): give a number from 1, or all")
    overrides = " ".join(given.overrides)
    status = grid.run(given.params, overrides, given.cores, executor=given.executor, jobs=given.jobs)
    if status == 0:
        from foalkit.report import expected

        if said := expected.compare(load(given.params, overrides)):
            print(said)
    return status


def _extract(given) -> int:
    from foalkit.corpora.manifest import corpus_root
    from foalkit.features.data import extract
    from foalkit.params import load

    p = load(given.params, " ".join(given.overrides))
    if (given.stream is None) != (given.group is None):
        raise UserError("extract: say both --stream and --group, or neither to write the generated corpus alone")
    if given.stream is None:
        print(corpus_root(p))
    else:
        extract(p, given.stream, given.group)
    return 0


def _robustness(given) -> int:
    from foalkit.params import load
    from foalkit.training.robustness import measure

    p = load(given.params, " ".join(given.overrides))
    if not p.robustness.rows:
        raise UserError("robustness.rows is empty: name the rows that are to be tried, in the params file")
    print(f"{len(measure(p))} runs have their answers on the damaged test side")
    return 0


def _check(given) -> int:
    from foalkit.params import load
    from foalkit.report.check import check, check_features

    p = load(given.params, given.overrides)
    damaged, stores = check_features(p)
    try:
        differences, numbers = check(p)
    except UserError as error:
        if not damaged:  # which may be the reason
            raise
        differences, numbers = [str(error)], 0
    differences = damaged + differences
    print("\n".join(differences) or f"{numbers} numbers agree, {stores} stores hold what was written")
    return 1 if differences else 0


def _fetch(given) -> int:
    from pathlib import Path

    from foalkit.corpora import fetch

    folder = Path(given.folder).expanduser()
    print(fetch.LICENCE)
    wanted = fetch.archives(given.what, fetch.RECORD)
    print(fetch.plan(wanted, folder))
    if not given.accept_licence:
        raise UserError("nothing was downloaded: if you accept the licence, add --accept-licence")
    print(f"{fetch.fetch(wanted, folder)} files lie in {folder}: export RAVDESS_ROOT={folder.absolute()}")
    return 0


def _doctor(given) -> int:
    from foalkit.doctor import examine

    found = examine(given.params, given.overrides)
    print(*found, sep="\n")
    return 1 if any(f.stops for f in found) else 0


def _check_corpus(given) -> int:
    from foalkit.corpora.overview import check
    from foalkit.params import load

    for line in check(load(given.params, given.overrides)):
        print(line)
    return 0


def _params(given) -> int:
    from foalkit.params import load
    from foalkit.params.keys import lines
    from foalkit.params.merge import difference

    p = load(given.params, given.overrides)
    if given.diff:
        other = load(given.diff)
        mine, theirs = (q.model_dump(exclude={"name", "about", "outputs", "variants"}) for q in (p, other))
        here, there = difference(theirs, mine), difference(mine, theirs)
        if not here:
            print(f"{p.name} and {other.name} set nothing otherwise")
        for key in here:
            a, b = (json.dumps(side[key], default=str) for side in (here, there))
            print(f"{key}: {a} in {p.name}, {b} in {other.name}")
        return 0
    print("\n".join(lines(p)))
    print("\n* what this file sets to another value than the default")
    return 0


def _predict(given) -> int:
    from pathlib import Path

    from foalkit import Recognizer

    recognizer, refused = Recognizer.load(given.run), 0
    for file in given.files:
        try:
            if not file:
                raise UserError("an empty name stands for a file: is a variable of the shell not set? (. is here)")
            if Path(file).is_dir():
                table = recognizer.folder(file)
                rows = json.loads(table.to_json(orient="records"))
                print("\n".join(map(json.dumps, rows)) if given.json else table.to_string(index=False))
            else:
                answer = recognizer(file)
                print(json.dumps(answer.as_dict()) if given.json else answer)
        except UserError as error:
            refused += 1
            print(f"error: {error}", file=sys.stderr)
    return 1 if refused else 0


def _clean(given) -> int:
    from foalkit.features.data import unnamed, while_nobody_prepares

    outputs = ROOT / "outputs"
    with while_nobody_prepares(outputs):
        found = unnamed(outputs)
        for path, size in found.items():
            print(f"{size / 1e6:10.1f} MB  {path.relative_to(ROOT)}")
            if given.remove:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"{len(found)} that no outputs name, {sum(found.values()) / 1e6:.1f} MB", "removed" if given.remove else "")
    if found and not given.remove:
        print("foalkit clean-features --remove (or make clean-features REMOVE=yes) removes them")
    return 0
