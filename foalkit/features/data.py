"""A params file's utterances and features: prepared once, shared by all params files that ask for the same."""

import multiprocessing
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from foalkit import UserError
from foalkit.corpora.folds import write_folds
from foalkit.corpora.manifest import corpus_root, read_manifest, share_columns
from foalkit.features.build import build, shards
from foalkit.features.digests import media_digests
from foalkit.features.presence import (
    ends_of_features,
    has_nothing,
    lacking,
    media_of,
    some_lack,
    with_lengths,
    without_files,
)
from foalkit.features.store import FeatureStore
from foalkit.files import (
    digest,
    entries_below,
    file_digest,
    locked,
    read_mapping,
    read_sealed,
    stamp,
    write_parquet,
    write_sealed,
)
from foalkit.params import Params
from foalkit.params.corpora import Table
from foalkit.params.encoders import Kind
from foalkit.params.errors import unknown
from foalkit.params.load import corpus_place, expand
from foalkit.params.schema import Clip
from foalkit.results import records


@dataclass(frozen=True)
class Data:
    """A params file's usable utterances and their features: what training reads."""

    table: pd.DataFrame  # the manifest, less what had to be left out
    left_out: pd.DataFrame  # utterance, reason
    stores: dict[str, FeatureStore]
    info: dict  # preprocess.json: digests, counts, ceilings, and where the features lie
    classes: list[str]

    def labels(self, utterances) -> np.ndarray:
        """Class numbers `(N,)` in the order of the params' classes."""
        emotion = self.table.set_index("utterance")["emotion"].loc[list(utterances)]
        return emotion.map({c: i for i, c in enumerate(self.classes)}).to_numpy(np.int64)

    def shares(self, utterances) -> np.ndarray:
        """The classes' shares of the raters' votes, `(N, classes)` float32 in the order of the params' classes.

        Raises UserError where the manifest has none.
        """
        columns = share_columns(self.classes)
        if missing := [c for c in columns if c not in self.table]:
            raise UserError(
                f"the manifest has no column {missing[0]!r}: training.target: soft must be in the params file"
            )
        return self.table.set_index("utterance").loc[list(utterances), columns].to_numpy(np.float32)

    def complete(self, utterance: str, streams: Iterable[str]) -> bool:
        """Whether an utterance has all of these streams."""
        return all(utterance in self.stores[stream].lengths for stream in streams)

    def having(self, streams: Iterable[str]) -> "Data":
        """Itself; raises UserError for a stream that was not made, since the corpus lacks its files."""
        for stream in streams:
            if why := self.info.get("without", {}).get(stream):
                raise UserError(f"features.{stream}: {why}; only rows without it can be run")
        return self

    def of_fold(self, params: Params, fold: int, streams: Iterable[str]) -> "Data":
        """The data of one fold: of those `streams` that are made for each fold, its own features and no other's.

        Itself where all folds read the same.
        """
        if not params.by_fold:
            return self
        names = {s: params.set_name(s, fold) for s in params.features}
        info = {**self.info, "features": {s: f for s, n in names.items() if (f := self.info["features"].get(n))}}
        stores = {s: store for s, store in self.stores.items() if s in names}
        for s in (s for s in streams if s in params.by_fold and s in info["features"]):
            stores[s] = _opened(params.for_fold(fold).store_folder(s))
        return replace(self, stores=stores, info=info)


def open_data(params: Params, streams=None) -> Data:
    """Manifest and features of a params file, prepared now if they are not there or their params changed.

    `streams` limits what is loaded, not what is prepared; features that are made for each fold are not loaded before
    it is said which (`Data.of_fold`). Stores that are read into memory are compared with the digests they were written
    with; of mapped ones each utterance is when it is read. Raises UserError for a store that is damaged, and for an
    outputs folder that holds the runs of other params.
    """
    records.claim(params)
    folder, info = params.folder, _prepared(params)
    if info is None:
        return prepare(params).having(streams or ())
    named = params.features if streams is None else streams
    absent = {*info.get("without", {}), *params.by_fold}
    return Data(
        pd.read_parquet(folder / "manifest.parquet"),
        pd.read_parquet(folder / "left_out.parquet"),
        {s: _opened(params.store_folder(s)) for s in named if s not in absent},
        info,
        params.corpus.classes,
    ).having(streams or ())


def _opened(folder: Path) -> FeatureStore:
    store = FeatureStore(folder)
    if store.in_memory:
        store.verify()
    return store


def prepare(params: Params) -> Data:
    """Read the corpus, build every stream's features (only where a key changed) and write preprocess.json last.

    A bad utterance is listed with its reason and left out of all streams, so that every variant is tested on
    the same utterances. A stream of whose files a held-out session or speaker has none (`without_files`) is not made:
    it is said in preprocess.json under `without`, and the rows that need it are not run. Where some utterances lack
    the files of a stream, the manifest's column `lacks` names it, and `folds.split` gives each row those it can use.
    Of a stream that is made for each fold all sets are built, named as `Params.set_name` says.
    """
    if multiprocessing.parent_process() is not None:  # a script's worker process, importing the script again
        raise UserError("a script that prepares data must do so under `if __name__ == '__main__':`")
    records.claim(params)
    folder = params.folder
    with locked(params.features_folder / ".used", shared=True), locked(folder / ".prepare"):
        root = corpus_root(params)
        read_from, before = sources(params), _left_out_before(folder)
        table, left_out = read_manifest(params.corpus, root, params.folds, used=media_of(params), shares=params.soft)
        stores, lacks = {}, lacking(params, table)
        without = without_files(params, table, lacks)
        for stream, why in without.items():
            print(f"{stream}: {why}; rows that need it are not run")
        kinds = {s: kind for s, kind in params.kinds.items() if s not in without}
        bad = has_nothing(params, lacks[list(kinds)])
        table, unread = with_lengths(table[~table["utterance"].isin(bad)], root, tuple(kinds.values()))
        bad |= unread
        lacks = lacks.loc[table["utterance"], list(kinds)]
        for stream, why in (fewer := some_lack(params, lacks)).items():
            print(f"{stream}: {why}; rows that cannot do without it are run on the others")
        digests = media_digests(root, table, kinds.values(), params.features_folder)
        for stream in kinds:
            having = table[~lacks[stream].to_numpy()].reset_index(drop=True)
            for fold, own in params.sets(stream).items():
                name = params.set_name(stream, fold)
                with locked(own.features_folder / f"{own.store_name(stream)}.lock"):
                    stores[name], failed = build(own, stream, having, root, digests)
                    for shard in shards(own.store_folder(stream)):
                        shutil.rmtree(shard)
                for utterance, reason in failed.items():
                    bad.setdefault(utterance, f"{name}: {reason}")
        table = table[~table["utterance"].isin(bad)].reset_index(drop=True)
        if table.empty:
            raise UserError(f"{root}: no utterance is left; the first reason: {next(iter(bad.values()))}")
        table["end"] = ends_of_features(params, table, stores)
        if fewer:
            lacks = lacks.loc[table["utterance"]]
            table["lacks"] = [" ".join(lacks.columns[row]) for row in lacks.to_numpy()]
        write_folds(table, params)
        left_out = pd.concat(
            [left_out, pd.DataFrame(sorted(bad.items()), columns=["utterance", "reason"])], ignore_index=True
        )
        if copies := _copies(table, stores, params.kinds):
            table["copy_of"] = table["utterance"].map(copies).fillna("")
        card = root / "card.json"
        counts = table["emotion"].value_counts().reindex(params.corpus.classes).fillna(0).astype(int)
        info = {
            "params_digest": params.data_digest,
            "corpus": str(root),
            "sources": read_from,
            "manifest_digest": digest(table.to_dict("list")),
            "files": {},
            "utterances": len(table),
            "left_out": len(left_out),
            "left_out_before": before,
            "without": without,
            "fewer": fewer,
            "copies": copies,
            "counts": counts.to_dict(),
            "clip": params.clip.model_dump(),
            "longer_than_clip": _longer_than_clip(table, params.clip),
            "features": {s: {"store": store.folder.name, **store.info} for s, store in stores.items()},
            "ceilings": read_mapping(card).get("ceilings") if card.exists() else None,
        }
        for name, content in {"manifest": table, "left_out": left_out}.items():
            write_parquet(folder / f"{name}.parquet", content)
            info["files"][name] = file_digest(folder / f"{name}.parquet")
        write_sealed(folder / "preprocess.json", info)
    return Data(table, left_out, stores, info, params.corpus.classes)


def up_to_date(params: Params, *, stores: bool = True) -> bool:
    """Whether what is prepared is whole, of these params, and of the files as they lie there now.

    Files that cannot be found now count as unchanged: results can be read where no corpus lies. Without `stores` so do
    features: nothing that is trained reads them again. Of a store that is too large to be read at once only the index
    is looked at.
    """
    info = _prepared(params, stores)
    same = info is not None and sources(params) in (None, info.get("sources"))
    return same and (not stores or stores_are_whole(params))


def stores_are_whole(params: Params) -> bool:
    """Whether the stores that preprocess.json names are there and hold what was written."""
    info = _prepared(params)
    try:
        for stream in set(params.features) - set(info.get("without", {})) if info else ():
            for own in params.sets(stream).values():
                _opened(own.store_folder(stream))
    except UserError:  # damaged: it is built again
        return False
    return info is not None


def sources(params: Params) -> str | None:
    """A digest of the names and stamps (`files.stamp`) of all files that features are made from; None without them."""
    named = [
        (f"features.{stream}.{key}", place)
        for stream in params.features
        for own in params.sets(stream).values()
        for key in ("folder", "model", "pretrained")
        if (place := getattr(own.features[stream], key, None))
    ]
    if isinstance(params.corpus, Table):  # it may lie elsewhere
        named += [("corpus.table", table) for table in [params.corpus.table, *params.corpus.tables.values()] if table]
    try:
        corpus = corpus_place(params)
        places = [corpus, *(expand(place, key) for key, place in named)]
    except UserError:  # a variable is not set
        return None
    files = {}
    for n, place in enumerate(places):
        made = place == corpus and params.corpus.generate is not None  # it is copied with the outputs
        for file in [place] if place.is_file() else entries_below(place):
            if now := stamp(file):
                name = f"{n} {file.relative_to(place)}"  # wherever the place lies
                files[name] = file_digest(file) if made else now
        if place == corpus and not files:
            return None
    return digest(files)


def extract(params: Params, stream: str, group: str) -> None:
    """Build the features of one session or speaker of `folds.groups` as a shard, which `prepare` joins to the store.

    What the store holds already is not made again. Raises UserError for a stream or a group that the params lack.
    """
    if stream not in params.features:
        raise UserError(unknown("stream", stream, sorted(params.features)))
    if group not in (groups := [g for held_out in params.folds.groups for g in held_out]):
        raise UserError(unknown(params.folds.column, group, groups))
    records.claim(params)
    with locked(params.features_folder / ".used", shared=True):
        root = corpus_root(params)
        table, _ = read_manifest(params.corpus, root, params.folds, used=media_of(params))
        lacks = lacking(params, table)
        made = [s for s in params.features if s not in without_files(params, table, lacks)]
        wanted = (table[params.folds.column] == group) & ~lacks[stream].to_numpy() & (stream in made)
        table, _ = with_lengths(table[wanted], root, tuple(params.kinds[s] for s in made))
        if table.empty:
            print(f"{stream}: no utterance of {params.folds.by} {group} can be used")
            return
        digests = media_digests(root, table, [params.kinds[stream]], params.features_folder)
        for fold, own in params.sets(stream).items():
            store, name = own.store_folder(stream), params.set_name(stream, fold)
            shard = store.with_name(f"{store.name}.shard-{digest([params.folds.column, group])[:8]}")
            with locked(shard.with_name(f"{shard.name}.lock")):
                _, failed = build(own, stream, table, root, digests, shard)
            told = f"{len(table)} utterances, {len(failed)} of them could not be read"
            print(f"{name}, {params.folds.by} {group}: {told}")


def unnamed(outputs: Path) -> dict[Path, int]:
    """What no preprocess.json below `outputs` names, and its size in bytes: stores, face boxes, generated corpora.

    Raises UserError for a preprocess.json that does not say what it names.
    """
    named, boxes = {"features": set(), "corpora": set()}, set()
    for file in outputs.glob("*/preprocess.json"):
        try:
            info = read_mapping(file)
            named["corpora"].add(Path(info.get("corpus", "")).name)  # of an earlier version: it lies in its outputs
            named["features"] |= {f["store"] for f in info["features"].values() if "store" in f}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{file}: damaged; run its grid again, or remove the folder, before cleaning") from None
    for name in named["features"]:
        if (outputs / "features" / name / "store.json").exists():
            boxes |= set(FeatureStore(outputs / "features" / name).boxes.values())
    found = [f for f in sorted((outputs / "features").glob("face_boxes/*.npy")) if f.stem not in boxes]
    for place, marks in {"features": ("store.json", "log.jsonl"), "corpora": ("card.json",)}.items():
        for folder in sorted((outputs / place).glob("*")):
            if folder.name not in named[place] and any((folder / mark).exists() for mark in marks):
                found.append(folder)
    return {f: sum(part.stat().st_size for part in [f, *f.rglob("*")] if part.is_file()) for f in found}


@contextmanager
def while_nobody_prepares(outputs: Path) -> Iterator[None]:
    """Keep every preparation of features below `outputs` waiting; raises UserError while one is running."""
    try:
        with locked(outputs / "features" / ".used", wait=False):
            yield
    except BlockingIOError:
        raise UserError(f"{outputs}: features are being prepared; try again when that is done") from None


def _prepared(params: Params, stores: bool = True) -> dict | None:
    """preprocess.json, where it is of these params and names the manifest and the stores that are there."""
    try:
        info = read_sealed(params.folder / "preprocess.json")
        if info["params_digest"] != params.data_digest:
            return None
        for name, written in info["files"].items():
            if file_digest(params.folder / f"{name}.parquet") != written:
                return None
        for stream in set(params.features) - set(info.get("without", {})):
            for fold, own in params.sets(stream).items():
                if not stores and not own.store_folder(stream).exists():
                    continue
                store = read_mapping(own.store_folder(stream) / "store.json")
                if store["digest"] != info["features"][params.set_name(stream, fold)]["digest"]:
                    return None  # another params file has built it anew
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not whole: prepared again
        return None
    return info


def _left_out_before(folder: Path) -> int | None:
    """How many utterances the preparation before left out; None where there was none, or its list is not whole."""
    try:
        return len(pd.read_parquet(folder / "left_out.parquet"))
    except (OSError, ValueError):
        return None


def _copies(table: pd.DataFrame, stores: dict[str, FeatureStore], kinds: dict[str, Kind]) -> dict[str, str]:
    """The utterances whose stored sound is another one's, byte for byte, each with the first that has it.

    RAVDESS itself holds such a pair, two repetitions by actor 7.
    """
    sounds = [store for stream, store in stores.items() if kinds.get(stream) == "sound"]  # never a fold's own
    first: dict[tuple, str] = {}
    heard = [u for u in table["utterance"] if any(u in s.digests for s in sounds)]
    seen = {u: first.setdefault(tuple(s.digests.get(u) for s in sounds), u) for u in heard}
    return {utterance: original for utterance, original in seen.items() if original != utterance}


def _longer_than_clip(table: pd.DataFrame, clip: Clip) -> int:
    """How many utterances are cut."""
    return 0 if clip.part == "all" else int((table["end"] - table["start"] > clip.seconds).sum())
