"""What the report says of encoders: what they were trained on, a warning, and what was noted of single sounds."""

import made_up
from bs4 import BeautifulSoup
from pydantic import TypeAdapter

from foalkit.files import read_mapping
from foalkit.params.encoders import Features
from foalkit.report.page import write_report
from foalkit.results import records

undrawn = made_up.undrawn


def section(p):
    """The texts and table rows of the report's section about encoders."""
    page = BeautifulSoup(write_report(p, made_up.results(p)).read_text(encoding="utf-8"), "html.parser")
    parts, at = [], page.find(id="encoders")
    while (at := at.find_next_sibling()).name != "h2":
        parts.append(at)
    rows = [[c.get_text() for c in row.find_all(["th", "td"])] for part in parts for row in part.find_all("tr")]
    return " ".join(part.get_text(" ", strip=True) for part in parts), rows


def test_a_warning_stands_in_the_report_where_an_encoder_may_have_seen_the_corpus(tmp_path, undrawn):
    p = made_up.write_cfn_grid(tmp_path / "out")
    info = read_mapping(p.folder / "preprocess.json")
    store = {"encoder": {"encoder": "clip"}, "width": 768, "notes": {"recorded at 16000 Hz <b>": 3}}
    records.write_json(p.folder / "preprocess.json", info | {"features": {"face-frames": store}})
    text, rows = section(p)
    assert (
        "None of these is known or likely to have done so." in text
        and "face-frames: 3 × recorded at 16000 Hz <b>." in text
    )
    assert rows[0] == ["stream", "encoder", "sees", "numbers per frame", "trained on"]
    assert rows[1:] == [["face-frames", "frames", "face", "768", "nothing"], ["mfcc", "mfcc", "sound", "–", "nothing"]]
    clip = {"encoder": "clip", "model": "ViT-L-14", "pretrained": "timm/vit_large_patch14_clip_224.openai"}
    more = TypeAdapter(Features).validate_python(clip)
    p = p.model_copy(update={"features": {**p.features, "more": more}})
    text, rows = section(p)
    assert "Where that cannot be ruled out, the table says why." in text
    assert rows[0][-1] == "may have seen the corpus" and [r[-1] for r in rows[1:3]] == ["–", "–"]
    assert rows[3][:5] == ["more", "clip (ViT-L-14)", "picture", "–", "WIT-400M"]
    assert "2021) is younger than RAVDESS (2018)" in rows[3][-1]
