"""The params files of public corpora, each on a miniature with the names and tables that the corpus has."""

import csv

import pytest

from foalkit import params
from foalkit.corpora.folds import check_coverage, split
from foalkit.corpora.manifest import corpus_root, read_manifest, share_columns
from foalkit.corpora.overview import check


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Writes empty files of these names, and reads them as a params file says: (params, manifest, left out)."""

    def reading(name, variable, files, texts=None):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(b"")
        for file, text in (texts or {}).items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        monkeypatch.setenv(variable, str(tmp_path))
        p = params.load(name)
        table, left_out = read_manifest(p.corpus, corpus_root(p), p.folds)
        check_coverage(table, p)
        for fold in p.fold_numbers("honest"):
            split(table, p, fold, "honest")
        shown = "\n".join(check(p))
        assert f"used: {len(table)} utterances" in shown and "  3. " in shown
        return p, table, dict(zip(left_out["utterance"], left_out["reason"], strict=True))

    return reading


CREMA = [f"{s}_IEO_{e}_HI" for s in range(1001, 1011) for e in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")]


def test_crema_d(read):
    files = [f"AudioWAV/{n}.wav" for n in [*CREMA, "1040_ITH_SAD_X"]] + [f"AudioMP3/{n}.mp3" for n in CREMA]
    p, table, left_out = read("crema-d", "CREMAD_ROOT", [*files, *(f"VideoFlash/{n}.flv" for n in CREMA)])
    assert len(table) == 61 and not left_out
    assert table["emotion"].value_counts().to_dict() == {e: 10 for e in p.corpus.classes if e != "sad"} | {"sad": 11}
    row = table.set_index("utterance").loc["1003_IEO_FEA_HI"]
    assert (row["speaker"], row["emotion"]) == ("1003", "fearful")
    assert (row["audio"], row["video"]) == ("AudioWAV/1003_IEO_FEA_HI.wav", "VideoFlash/1003_IEO_FEA_HI.flv")
    assert p.corpus.printed == ("CREMA-D", 6)


def test_crema_d_by_its_raters(read):
    """Lines as the corpus's own table has them: for each clip one of voice (1…), of face (2…) and of both (3…)."""
    head = '"","A","D","F","H","N","S","fileName","numResponses","agreement","emoVote","meanEmoResp","meanAngerResp"\n'
    most = [["A", "D", "F", "H", "N", "S"][n % 6] for n in range(len(CREMA))]
    most[7] = "A:N"
    counts = [{e: 6 if e in m.split(":") else int(e == "F") for e in "ADFHNS"} for m in most]
    lines = []
    for kind in (1, 2, 3):
        for n, (name, votes, winner) in enumerate(zip(CREMA, counts, most, strict=True), 1):
            given = ",".join(map(str, votes.values() if kind == 3 else [0, 0, 0, 0, 9, 0]))
            lines.append(f'"{kind}{n:05d}",{given},"{name}",9,0.7,"{winner if kind == 3 else "N"}",72.1,-1\n')
    files = [f"{folder}/{n}.{end}" for n in CREMA for folder, end in (("AudioWAV", "wav"), ("VideoFlash", "flv"))]
    p, table, left_out = read(
        "crema-d-votes", "CREMAD_ROOT", files, {"processedResults/tabulatedVotes.csv": head + "".join(lines)}
    )
    assert list(left_out) == [CREMA[7]] and left_out[CREMA[7]].endswith("its raters do not agree: A 6, F 1, N 6")
    expected = {
        name: dict(zip("ADFHNS", p.corpus.classes, strict=True)).get(v) for name, v in zip(CREMA, most, strict=True)
    }
    assert dict(zip(table["utterance"], table["emotion"], strict=True)) == {n: e for n, e in expected.items() if e}
    assert set(table["speaker"]) == {str(s) for s in range(1001, 1011)}
    shares = read_manifest(p.corpus, corpus_root(p), p.folds, shares=True)[0].set_index("utterance")
    assert list(shares.loc[CREMA[0], share_columns(p.corpus.classes)]) == [6 / 7, 0, 1 / 7, 0, 0, 0]


def test_meld(read, tmp_path):
    sides = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
    emotions = ["neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear"]
    head = [
        "Sr No.",
        "Utterance",
        "Speaker",
        "Emotion",
        "Sentiment",
        "Dialogue_ID",
        "Utterance_ID",
        "Season",
        "Episode",
    ]
    files, texts = [], {}
    for side, folder in sides.items():
        with (tmp_path / "t.csv").open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow([*head, "StartTime", "EndTime"])
            for n in range(28):
                who = ["Joey", f"{side} guest"][n // 7 % 2]
                said = 'Oh, "really"\u0092?'
                writer.writerow(
                    [n, said, who, emotions[n % 7], "x", n // 7, n % 7, 1, 2, "00:16:16,059", "00:16:21,731"]
                )
                files.append(f"{folder}/dia{n // 7}_utt{n % 7}.mp4")
        texts[f"{side}_sent_emo.csv"] = (tmp_path / "t.csv").read_text()
    files.remove("dev_splits_complete/dia1_utt3.mp4")
    _, table, left_out = read("meld", "MELD_ROOT", files, texts)
    assert list(left_out) == ["validation_dia1_utt3"] and "is missing" in left_out["validation_dia1_utt3"]
    assert table["split"].value_counts().to_dict() == {"train": 28, "test": 28, "validation": 27}
    row = table.set_index("utterance").loc["test_dia1_utt2"]
    assert (row["speaker"], row["emotion"], row["dialogue"]) == ("test guest", "surprise", "test_dia1")
    assert row["audio"] == row["video"] == "output_repeated_splits_test/dia1_utt2.mp4"
    assert row["transcript"] == 'Oh, "really"\\x92?'


def test_meld_s_shared_speakers_are_the_first_thing_to_look_at(read, monkeypatch, tmp_path):
    test_meld(read, tmp_path)
    shown = "\n".join(check(params.load("meld")))
    assert "1. 50% of the tested utterances are by speakers that are trained on, too (folds.shared)" in shown


def test_emo_db(read):
    speakers = ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"]
    files = [f"wav/{s}a01{e}{v}.wav" for s in speakers for e in "WLEAFTN" for v in ("a", "b")] + ["wav/03b10N.wav"]
    p, table, left_out = read("emo-db", "EMODB_ROOT", files)
    assert len(table) == 141 and not left_out and list(p.features) == ["audio"]
    assert table.set_index("utterance").loc["03a01Fa", ["speaker", "emotion"]].tolist() == ["03", "happiness"]
    assert (table.groupby("fold")["speaker"].nunique() == 1).all() and table["fold"].nunique() == 10


def test_savee(read):
    letters = {
        "a": "anger",
        "d": "disgust",
        "f": "fear",
        "h": "happiness",
        "n": "neutral",
        "sa": "sadness",
        "su": "surprise",
    }
    files = [f"{s}/{e}{n}.avi" for s in ("DC", "JE", "JK", "KL") for e in letters for n in (1, 2, 10)]
    p, table, left_out = read("savee", "SAVEE_ROOT", files)
    assert len(table) == 84 and not left_out
    assert table.set_index("utterance")["emotion"].to_dict() == {
        f"{s}_{e}{n}": name for s in ("DC", "JE", "JK", "KL") for e, name in letters.items() for n in (1, 2, 10)
    }
    assert (table["audio"] == table["video"]).all() and len(p.fold_numbers("honest")) == 4
    assert any("4 speakers are too few" in line for line in check(p))


def test_enterface(read):
    codes = {"anger": "an", "disgust": "di", "fear": "fe", "happiness": "ha", "sadness": "sa", "surprise": "su"}
    files = [
        f"subject {s}/{e}/sentence {n}/s{s}_{c}_{n}.avi" for s in range(1, 11) for e, c in codes.items() for n in (1, 2)
    ]
    files = [f.replace("/s9_", "/s10_").replace("s3_su_1", "s_3_su_1") for f in files]  # as some are named there
    files = [f for f in files if "subject 6/" not in f] + ["subject 6/anger/s6_an.avi", "subject 1/Thumbs.db"]
    _, table, left_out = read("enterface", "ENTERFACE_ROOT", files)
    assert len(table) == 108 and left_out == {"subject 6/anger/s6_an.avi": "its name does not match corpus.pattern"}
    assert table["speaker"].value_counts().to_dict() == {str(s): 12 for s in range(1, 11) if s != 6}
    assert table["emotion"].value_counts().to_dict() == {e: 18 for e in codes}


def test_msp_improv(read):
    files, lines = [], []
    for session in range(1, 7):
        for n, label in enumerate("AHSNOX"):
            for who in "FM":
                name = f"S0{n + 1}A-{who}0{session}-P-FM0{n + 1}"
                files += [f"session{session}/S0{n + 1}A/P/MSP-IMPROV-{name}.{end}" for end in ("wav", "avi")]
                lines.append(f"UTD-IMPROV-{name}.avi; {label}; A:2.600000; V:4.000000; D:3.200000 ; N:NaN;")
                lines.append("17; Happy; Happy, Excited; A:2.000000; V:5.000000; D:3.000000; N:4.000000;")
                lines.append("")
    _, table, left_out = read("msp-improv", "MSPIMPROV_ROOT", files, {"Evaluation.txt": "\n".join(lines)})
    assert len(table) == 48 and len(left_out) == 24
    assert set(left_out.values()) == {"label O is not among the classes", "label X is not among the classes"}
    row = table.set_index("utterance").loc["S02A-M03-P-FM02"]
    assert row[["speaker", "gender", "session", "dialogue", "kind", "emotion"]].tolist() == [
        *("M03", "M", "3", "3-S02A", "P", "happy")
    ]
    assert row["audio"] == "session3/S02A/P/MSP-IMPROV-S02A-M03-P-FM02.wav"


def test_ravdess_by_its_names_is_what_its_reader_reads(ravdess_root):
    p = params.load("ravdess-frozen")
    root = ravdess_root / "speech16k"
    expected, _ = read_manifest(p.corpus, root)
    names = {f"0{n}": e for n, e in enumerate(p.corpus.classes, 1)}
    by_names = params.load(
        "emo-db",
        [
            f"corpus.root={root}",
            r"corpus.pattern='03-(?P<utterance>01-(?P<label>\d\d)-\d\d-\d\d-\d\d-(?P<speaker>\d\d))'",
            "corpus.labels=null",
            *(f"corpus.labels.{k}={v}" for k, v in names.items()),
            f"corpus.classes=[{','.join(p.corpus.classes)}]",
        ],
    )
    found, left_out = read_manifest(by_names.corpus, root)
    assert left_out.empty and len(found) == 1440
    for column in ("utterance", "emotion", "audio"):
        assert found[column].tolist() == expected[column].tolist()
    assert ("Actor_" + found["speaker"]).tolist() == expected["speaker"].tolist()
