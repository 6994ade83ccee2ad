"""Build a store: every utterance of a stream through its encoder, logged so that a killed run resumes."""

import json
import os
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from foalkit import UserError, devices
from foalkit.features.reader import Reader
from foalkit.features.reasons import Reason, or_reason
from foalkit.features.store import FILES, FeatureStore, write_index
from foalkit.features.trial import try_out
from foalkit.files import bytes_digest, file_digest
from foalkit.params import Params
from foalkit.params.trained_on import data_sets
from foalkit.progress import progress

AHEAD = 32  # clips decoded ahead of the model at most: a clip of 180 frames at 224 pixels is 27 MB


def build(
    params: Params, stream: str, table: pd.DataFrame, root: Path, digests: dict[str, str], shard: Path | None = None
):
    """Build or update one stream's store; returns it and {utterance: reason} for what could not be read.

    Rows whose key is unchanged are copied from the store that is there and from its shards, where these are whole; rows
    that could not be read are asked again each time. The new store is written beside it, logged utterance by utterance
    so that a killed run resumes, and renamed into place when whole. With `shard` that folder is built from the table's
    rows, unless the store has them all. Raises UserError for a store of which no utterance could be read (of a shard
    that may be so), and for an encoder that does not run here; OSError for a fault of the machine.
    """
    folder = shard or params.store_folder(stream)
    reader = Reader(params, stream, root, digests)
    every = table.to_dict("records")
    keys = {row["utterance"]: reader.key(row) for row in every}
    old = _if_whole(folder)
    others = shards(folder) if shard is None else [params.store_folder(stream)]
    # mapped: all shards together may be more than the memory holds
    stores = list(filter(None, (_if_whole(other, mapped=True) for other in others)))
    have = {u: store for store in [*stores, *[old] * bool(old)] for u in store.lengths if store.key(u) == keys.get(u)}
    if len(have) < len(keys):
        try_out(reader, f"features.{stream}")

    def fail_again(failed: dict[str, str]) -> bool:
        again = {row["utterance"]: _made(reader, row) for row in every if row["utterance"] in failed}
        return all(isinstance(made, Reason) and made == failed[u] for u, made in again.items())

    same = old and {*old.lengths, *old.info["failed"]} == set(keys)
    for whole in [*[old] * bool(same), *(stores if shard else ())]:
        failed = {u: reason for u, reason in whole.info["failed"].items() if u in keys}
        if all(u in failed or whole.key(u) == key for u, key in keys.items()) and fail_again(failed):
            return whole, failed

    new = folder.with_name(f"{folder.name}.partial")
    new.mkdir(parents=True, exist_ok=True)
    packed = new / FILES[reader.dtype]
    frame_bytes = np.dtype(reader.dtype).itemsize * reader.width
    done = _resume(new / "log.jsonl", packed, keys, frame_bytes, fail_again)
    rows = [row for row in every if row["utterance"] not in done]
    alone = threadpool_limits(1, user_api="blas")  # its sums depend on how many threads share them
    with alone, packed.open("ab") as data, (new / "log.jsonl").open("a", encoding="utf-8") as log:
        offset = data.tell() // frame_bytes
        results = _results(reader, rows, have)
        for row, result in progress(results, f"features of {stream}", len(rows)):
            entry = {"utterance": row["utterance"], "key": keys[row["utterance"]]}
            if isinstance(result, Reason):
                entry["failed"] = result
            else:
                stored = result.tobytes()
                data.write(stored)
                data.flush()
                entry |= {"offset": offset, "frames": len(result), "digest": bytes_digest(stored)}
                entry |= _said(row, have.get(row["utterance"], reader))
                offset += len(result)
            log.write(json.dumps(entry) + "\n")
            log.flush()
            done[row["utterance"]] = entry
    entries = [done[u] for u in keys]  # table order
    good = pd.DataFrame(
        [e for e in entries if "failed" not in e],
        columns=["utterance", "offset", "frames", "key", "digest", "found", "note", "boxes"],
    ).astype({"found": float, "note": "str", "boxes": "str"})  # NaN: no face was looked for, nothing to note
    failed = {e["utterance"]: e["failed"] for e in entries if "failed" in e}
    if good.empty and failed and shard is None:
        shutil.rmtree(new)
        raise UserError(f"{stream}: no utterance could be read; the first reason: {next(iter(failed.values()))}")
    write_index(
        new,
        good,
        reader.width,
        reader.dtype,
        encoder=reader.identity,
        trained_on=data_sets(reader.spec),
        frames=int(good["frames"].sum()),
        found_rate=_found_rate(good["found"].dropna()),
        noted=int(good["note"].notna().sum()),
        notes=good["note"].dropna().str.split(": ", n=1).str[-1].value_counts().head(5).to_dict(),
        failed=failed,
    )
    if folder.exists():
        (folder / "store.json").unlink(missing_ok=True)  # from here on the old store does not count
        shutil.rmtree(folder)
    new.rename(folder)
    (folder / "log.jsonl").unlink()  # last: killed before, the next build finds all its work done
    return FeatureStore(folder), failed


def try_encoders(params: Params, specs: dict, row: dict, root: Path) -> pd.DataFrame:
    """Frames and width that each encoder spec gives for one manifest row: a look before a long extraction.

    Where a file cannot be read, the reason stands in the place of both.
    """
    digests = {row[m]: or_reason(row[m], file_digest, root / row[m]) for m in ("audio", "video") if row[m]}
    tried = {}
    for name, spec in specs.items():
        reader = Reader(params.model_copy(update={"features": {name: spec}}), name, root, digests)
        made = _made(reader, row)
        tried[name] = (made, made) if isinstance(made, Reason) else made.shape
    return pd.DataFrame(tried, index=["frames", "width"]).T


def _if_whole(folder: Path, **how) -> FeatureStore | None:
    """The store in a folder; None where there is none, or a damaged one, which is said and built again."""
    if not (folder / "store.json").exists():
        return None
    try:
        store = FeatureStore(folder, **how)
        store.verify()
    except UserError as error:
        print(f"{str(error).partition('; ')[0]}: it is built again")
        return None
    return store


def _made(reader: Reader, row: dict) -> np.ndarray | Reason:
    return or_reason(reader.name(row), reader, row)


def shards(store: Path) -> list[Path]:
    """The folders of the whole shards that lie beside a store's folder."""
    found = sorted(file.parent for file in store.parent.glob(f"{store.name}.shard-*/store.json"))
    return [folder for folder in found if folder.suffix != ".partial"]


def _said(row: dict, source: FeatureStore | Reader) -> dict:
    """What is kept of a stored utterance beside its features, None where there is nothing."""
    kept = {"found": source.found, "note": source.notes, "boxes": source.boxes}
    return {name: values.get(row["utterance"]) for name, values in kept.items()}


def _found_rate(rates: pd.Series) -> dict | None:
    if rates.empty:
        return None
    return {"mean": rates.mean(), "min": rates.min(), "clips_under_half": int((rates < 0.5).sum())}


def _results(reader: Reader, rows: list[dict], have: dict[str, FeatureStore]):
    """Yield (row, features as stored or the reason why not) of each row, in order.

    Unchanged rows come straight from the store that has them. Threads decode ahead of a large model, which runs in
    this one; light encoders run in the threads: decoding, FFTs and matrix products release the interpreter's lock.
    """

    def encoded(row: dict, clip) -> np.ndarray | Reason:
        return clip if isinstance(clip, Reason) else or_reason(reader.name(row), reader.encode, row, clip)

    def work(row: dict):
        clip = or_reason(reader.name(row), reader.load, row)
        return clip if reader.large else encoded(row, clip)

    workers = devices.cores()
    pool = ThreadPoolExecutor(workers, initializer=None if reader.large else reader.one_thread_each)
    try:
        new = [row for row in rows if row["utterance"] not in have]
        made = _in_order(pool, work, new, ahead=min(4 * workers, AHEAD))
        for row in rows:
            if store := have.get(row["utterance"]):
                yield row, store[row["utterance"]]
            else:
                yield row, encoded(row, next(made)) if reader.large else next(made)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ThreadPoolExecutor, action, items: list, ahead: int):
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(action, item))
        if len(waiting) > ahead:  # bounded: a slow disk must not pile up features in memory
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _resume(log: Path, data: Path, keys: dict[str, str], frame_bytes: int, fail_again) -> dict[str, dict]:
    """What a killed run had finished; the data file is cut back to the last whole utterance.

    What failed in it is asked again: nothing is kept where some of it can be read now, which belongs in between.
    """
    entries = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []:
        try:
            entry = json.loads(line)
            entries.append({**entry, "utterance": entry["utterance"], "key": entry["key"]})
        except (ValueError, KeyError, TypeError):
            break  # the line that was being written
    if any(keys.get(e["utterance"]) != e["key"] for e in entries):
        entries = []  # the params or the media changed in between: start over
    if not fail_again({e["utterance"]: e["failed"] for e in entries if "failed" in e}):
        entries = []
    frames = sum(e.get("frames", 0) for e in entries)
    if not data.exists() or data.stat().st_size < frames * frame_bytes:
        entries, frames = [], 0
    data.touch()
    os.truncate(data, frames * frame_bytes)
    log.write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")
    return {e["utterance"]: e for e in entries}
