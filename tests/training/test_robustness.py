"""Trained rows on a damaged test side: against the runs' own answers, by hand, and what is made once or left out."""

import json
import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from conftest import refused
from PIL import Image

from foalkit import UserError, cli
from foalkit.features import corruptions, media
from foalkit.features.corrupted import CorruptedReader
from foalkit.params.robustness import Robustness
from foalkit.report.robustness import robustness_figure
from foalkit.results import records, robustness, variants
from foalkit.training import runs
from foalkit.training.robustness import measure


def asking(p, rows=("audio", "foal-net"), **settings):
    return p.model_copy(update={"robustness": Robustness(rows=list(rows), **settings)})


@pytest.fixture(scope="module")
def trained(tiny, data, tmp_path_factory):
    """The tiny params in an outputs folder of this module's own, two rows of them trained."""
    folder = tmp_path_factory.mktemp("robust") / "out"
    shutil.copytree(tiny.folder, folder)
    for name in ("features", "weights"):
        if (tiny.folder.parent / name).exists():
            shutil.copytree(tiny.folder.parent / name, folder.parent / name)
    (folder / "params.json").unlink(missing_ok=True)
    p = tiny.model_copy(update={"outputs": str(folder), "ablation": {"honest": ["audio", "foal-net"]}})
    runs.run_all(p, records.missing_runs(p, [("honest", "audio"), ("honest", "foal-net")]))
    return p


def loads(monkeypatch) -> list[str]:
    """What is decoded from now on: a stream and utterance each time."""
    seen, load = [], CorruptedReader.load
    monkeypatch.setattr(CorruptedReader, "load", lambda self, row: seen.append(row["utterance"]) or load(self, row))
    return seen


def run_of(p, variant, fold=1) -> dict:
    return records.read_runs(p, "honest", variant)[fold - 1]


def test_without_damage_the_answers_are_the_runs_own(trained, monkeypatch):
    p = asking(trained, seed=11)
    monkeypatch.setattr(CorruptedReader, "damaged", lambda self, row, clip, condition: clip)
    measure(p)
    for variant, count in {"audio": 7, "foal-net": 11}.items():
        run = run_of(p, variant)
        answered, _ = robustness.read(p, run)
        test = records.read_predictions(run["folder"]).query("split == 'test'")
        own = test[test["epoch"] == run["scores"]["validation"]["epoch"]].set_index("utterance")
        assert answered["condition"].nunique() == count
        for _, part in answered.groupby("condition"):
            expected = own.loc[part["utterance"]]
            assert len(part) == len(own) and (part["true"].to_numpy() == expected["true"].to_numpy()).all()
            columns = [c for c in own if c.startswith("logit_")]
            assert np.allclose(part[columns], expected[columns], atol=1e-5)


def test_a_clip_is_decoded_once_and_nothing_finished_is_done_again(trained, monkeypatch):
    p, seen = asking(trained, seed=12), loads(monkeypatch)
    files = measure(p)
    counts = pd.Series(seen).value_counts()
    tested = pd.read_parquet(p.folder / "manifest.parquet")["utterance"]
    assert set(counts.index) == set(tested) and (counts == 2).all()  # its sound and its picture, for both rows
    assert len(files) == 10 and all(file.exists() for file in files)
    before = {file: file.read_bytes() for file in files}
    measure(p)
    assert len(seen) == 2 * len(tested)
    other = asking(trained, seed=12, noise_db=[5.0], gaps=[], late=[], blur=[], darkness=[], mouth=False, dropped=[])
    assert not set(measure(other)) & set(files)
    assert {file: file.read_bytes() for file in files} == before
    answered, _ = robustness.read(other, run_of(p, "audio"))
    assert set(answered["condition"]) == {"noise at 5 dB"}
    # a killed job left out one run: its fold alone is done again
    seen.clear()
    files[0].unlink()
    measure(p)
    assert files[0].exists() and set(seen) < set(tested)
    kept = pd.read_parquet(files[0].with_suffix(".parquet"))
    assert json.loads(files[0].read_text())["answers_digest"] and len(kept)


def test_other_weights_need_other_answers(trained):
    p = asking(trained, seed=12)
    run = run_of(p, "audio")
    assert robustness.record_file(p, run) != robustness.record_file(p, run | {"weights_digest": "0"})
    assert robustness.record_file(p, run) != robustness.record_file(p, run | {"feature_digests": {"audio": "0"}})
    assert robustness.record_file(p, run) == robustness.record_file(asking(trained, ["audio"], seed=12), run)


def test_what_a_condition_does_is_the_same_for_all_rows_and_once_again(trained):
    root, rows = media_root(trained), manifest_rows(trained)
    one, two = (CorruptedReader(asking(trained, rows=r, seed=4), "audio", root) for r in (["audio"], ["foal-net"]))
    clip = one.load(rows[0])
    for condition in one.conditions:
        a, b = one.damaged(rows[0], clip, condition), two.damaged(rows[0], clip, condition)
        assert np.array_equal(a, b)
    noisy = [one.damaged(row, clip, one.conditions[0]) for row in rows[:2]]
    assert not np.array_equal(*noisy)  # each utterance has a noise of its own


def test_late_sound_ends_where_the_clip_ends(trained):
    root, rows = media_root(trained), manifest_rows(trained)
    reader = CorruptedReader(asking(trained), "audio", root)
    late = next(c for c in reader.conditions if c.kind == "late" and c.level == 1.0)
    for row in rows[:4]:
        clip = reader.load(row)
        shifted = reader.damaged(row, clip, late)
        assert len(shifted) == min(len(clip) + 16_000, 32_000) and not shifted[:16_000].any()  # clip.seconds is 2
        assert np.array_equal(shifted[16_000:], clip[: len(shifted) - 16_000])


@pytest.mark.parametrize("stream", ["video", "face"])
@pytest.mark.parametrize("known", [True, False])
def test_the_mouth_that_is_covered_is_the_one_in_the_film(trained, stream, known, tmp_path):
    """Covered in the film's own pixels, then cut and scaled by Pillow: the same place."""
    p = asking(trained).model_copy(update={"outputs": str(tmp_path / "o")})
    row = manifest_rows(trained)[0]
    box = np.array(row["face"])
    if not known:
        row = row | {"face": None}
    reader = CorruptedReader(p, stream, media_root(trained))
    if not known:
        count = len(media.read_frames(media_root(trained) / row["video"], row["start"], row["end"]))
        reader.detected = lambda row: (np.tile(box - [*row["crop"][:2], 0, 0], (count, 1)), np.ones(count, bool))
        if stream == "face":
            assert np.array_equal(reader._faces_in(row, 3), [[0, 0, 64, 64]] * 3)
            return
    clip = reader.load(row)
    (mouth,) = [c for c in reader.conditions if c.kind == "mouth"]
    covered = (reader.damaged(row, clip, mouth) != clip).any((0, 3))
    film = media.read_frames(media_root(trained) / row["video"], row["start"], row["end"])[:1]
    marked = (corruptions.cover(np.full_like(film, 255), box[None]) == corruptions.GREY).all(-1)[0]
    x, y, w, h = media.square(box) if stream == "face" else row["crop"]
    size = clip.shape[1]
    part = Image.fromarray(marked[y : y + h, x : x + w].astype(np.uint8) * 255).resize((size, size), Image.BILINEAR)
    expected = np.asarray(part) > 127
    assert expected.sum() > 50 and (covered & expected).sum() / (covered | expected).sum() > 0.85


@pytest.mark.parametrize("crop", [None, [20, 4, 60, 50]])
def test_the_mouth_is_where_it_was_in_a_film_of_wide_pixels(trained, crop, tmp_path):
    """The same stored pictures, marked as twice as wide: given boxes are of those, found ones of what is seen."""
    pictures, faces = np.full((5, 64, 96, 3), 90, np.uint8), {}
    for shape in (1, 2):
        with av.open(str(tmp_path / f"{shape}.mkv"), "w") as container:
            video = container.add_stream("libx264", rate=25, width=96, height=64, pix_fmt="yuv420p")
            video.codec_context.sample_aspect_ratio = Fraction(shape)
            for picture in pictures:
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode(None))
        reader = CorruptedReader(asking(trained), "video", tmp_path)
        row = {
            "utterance": "u",
            "video": f"{shape}.mkv",
            "start": 0.0,
            "end": 0.2,
            "crop": crop,
            "face": [30, 20, 24, 24],
        }
        given = reader._faces_in(row, 5)
        found = np.tile([10 * shape, 16, 24 * shape, 24], (5, 1)), np.ones(5, bool)
        reader.detected = lambda row, found=found: found
        faces[shape] = given, reader._faces_in(row | {"face": None}, 5)
    for one, other in zip(faces[1], faces[2], strict=True):
        np.testing.assert_allclose(one, other[: len(one)], atol=1e-9)
    size, (x, y, width, height) = reader.encoder.size, crop or (0, 0, 96, 64)
    assert faces[1][0][0] == pytest.approx(
        [(30 - x) * size / width, (20 - y) * size / height, 24 * size / width, 24 * size / height]
    )


def test_missing_recordings_are_left_out_with_a_reason_and_tried_again(trained, monkeypatch):
    p = asking(trained, ["audio"], seed=13)
    lost = manifest_rows(trained)[0]["utterance"]
    load = CorruptedReader.load

    def no_file(self, row):
        if row["utterance"] == lost:
            raise media.MediaError("gone.wav: no such file")
        return load(self, row)

    with monkeypatch.context() as gone:
        gone.setattr(CorruptedReader, "load", no_file)
        measure(p)
    results = [variants.variant_result(p, "honest", "audio")]
    table, words = robustness.measured(p, results)
    counts = table.set_index("condition")["utterances"]
    assert counts["noise at 20 dB"] == counts["undamaged"] - 1
    assert words == ["audio: 7 answers are missing, the first because of this: gone.wav: no such file"]
    seen = loads(monkeypatch)
    measure(p)  # it is back: its fold alone
    assert lost in seen and len(seen) < counts["undamaged"]
    assert robustness.measured(p, results)[1] == []


def test_a_run_that_is_missing_and_no_rows_are_refused(trained, capsys):
    p = asking(trained).model_copy(update={"seeds": [99]})  # other tests may have left runs of seed 0
    assert "honest/audio has no run for fold 1 seed 99" in refused(lambda: measure(p))
    assert cli.main(["robustness", "demo-seeds"]) == 1 and "robustness.rows is empty" in capsys.readouterr().err


def test_the_table_is_what_a_hand_count_gives(trained):
    p = asking(trained, seed=12)
    measure(p)
    results = [variants.variant_result(p, "honest", v) for v in ("audio", "foal-net")]
    table, words = robustness.measured(p, results)
    assert words == []
    parts = [robustness.read(p, run)[0] for run in records.read_runs(p, "honest", "audio")]
    by_hand = pd.concat(parts).query("condition == 'noise at 0 dB'")
    recalls = []
    for c in range(4):
        mine = by_hand[by_hand["true"] == c]
        logits = mine[[f"logit_{name}" for name in p.corpus.classes]].to_numpy()
        recalls.append(np.mean([row.tolist().index(max(row)) == c for row in logits]))
    row = table[(table["variant"] == "audio") & (table["condition"] == "noise at 0 dB")].iloc[0]
    assert row["ua"] == pytest.approx(np.mean(recalls)) and row["low"] <= row["ua"] <= row["high"]
    assert row["difference"] == pytest.approx(np.mean(recalls) - results[0].row["ua_pooled"])
    shown = robustness.robustness_table(table)
    assert shown["test side"].tolist() == ["undamaged", *(c.name for c in p.robustness.conditions)]
    line = shown.set_index("test side").loc["noise at 0 dB", "audio: UA"]
    assert line.startswith(f"{100 * np.mean(recalls):.2f} [")
    assert shown.set_index("test side").loc["mouth covered", "audio: UA"] == "–"  # it does not see that
    _, alt, _ = robustness_figure(table)
    assert f"noise at 0 dB {np.mean(recalls):.1%}" in alt and len(re.findall("undamaged", alt)) == 2
    of_run = robustness.one_run(p, run_of(p, "audio", 2))
    part = parts[1].query("condition == 'sound 1 s late'")
    ua = np.mean([(part[part["true"] == c]["predicted"] == c).mean() for c in sorted(part["true"].unique())])
    assert of_run.loc["sound 1 s late", "UA"] == f"{100 * ua:.1f}" and of_run.loc["undamaged", "change"] == "–"


def test_answers_that_are_not_the_records_are_refused(trained):
    p = asking(trained, seed=12)
    file = measure(p)[0].with_suffix(".parquet")
    kept = file.read_bytes()
    file.write_bytes(kept[:-1])
    with pytest.raises(UserError, match="not the file its record was written with"):
        robustness.read(p, run_of(p, "audio"))
    file.write_bytes(kept)


def test_a_row_that_was_not_measured_says_so(trained):
    p = asking(trained, seed=99)
    table, words = robustness.measured(p, [variants.variant_result(p, "honest", "audio")])
    assert table.empty and "run `foalkit robustness`" in words[0]
    assert robustness.robustness_table(table).empty
    assert robustness.one_run(p, run_of(p, "audio")) is None


def media_root(p) -> Path:
    return Path(p.corpus_folder)


def manifest_rows(p) -> list[dict]:
    return pd.read_parquet(p.folder / "manifest.parquet").to_dict("records")
