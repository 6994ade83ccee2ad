"""Utterances cut from one long recording: their features are those of files that hold each of them alone."""

import wave

import numpy as np
import pandas as pd

from foalkit import params
from foalkit.features.data import open_data

RATE = 16_000


def write(file, samples):
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes(samples.astype("<i2").tobytes())


def test_a_segment_s_features_are_those_of_its_own_file(tmp_path):
    draw = np.random.default_rng(0)
    long = (draw.normal(size=12 * RATE) * 3000 * (1 + np.sin(np.arange(12 * RATE) / 9000))).clip(-30000, 30000)
    rows = []
    (tmp_path / "alone").mkdir()
    (tmp_path / "long").mkdir()
    write(tmp_path / "long" / "all.wav", long)
    for n in range(12):
        write(tmp_path / "alone" / f"u{n:02}.wav", long[n * RATE : (n + 1) * RATE])
        rows.append((f"u{n:02}", f"u{n:02}.wav", n, n + 1, "ab"[n % 2], f"s{n // 2}"))
    table = pd.DataFrame(rows, columns=["id", "file", "from", "to", "label", "who"])
    table.drop(columns=["from", "to"]).to_csv(tmp_path / "alone" / "t.csv", index=False)
    table.assign(file="all.wav").to_csv(tmp_path / "long" / "t.csv", index=False)
    columns = "{utterance: id, audio: file, label: label, speaker: who%s}"
    stores = {}
    for kind, times in {"alone": "", "long": ", start: from, end: to"}.items():
        given = ["corpus={reader: table, table: x}", f"corpus.table={tmp_path}/{kind}/t.csv"]
        given += [f"corpus.columns={columns % times}", "corpus.labels={a: A, b: B}", "corpus.classes=[A, B]"]
        given += ["features.audio={encoder: log-mel}", "folds.count=3", f"outputs={tmp_path}/{kind}/out/p"]
        stores[kind] = open_data(params.load("emo-db", given)).stores["audio"]
    for n in range(12):
        one, other = (stores[kind][f"u{n:02}"] for kind in ("alone", "long"))
        assert one.shape == other.shape and np.array_equal(one, other), n
    assert not np.array_equal(stores["long"]["u00"], stores["long"]["u01"])
