"""The settings as a table: against the YAML files themselves."""

import json

import yaml

from foalkit import ROOT, notebook, params
from foalkit.params.keys import settings


def by_key(p, *sections, **how):
    rows = settings(p, *sections, **how)
    assert len({r["setting"] for r in rows}) == len(rows)
    return {r["setting"]: r for r in rows}


def test_every_setting_says_what_changed_it_and_what_it_was():
    file = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text())
    p = params.load("demo", "training.epochs=5 loss.temperature=0.5")
    rows = by_key(p, "loss", "training", variant="mem")
    assert set(rows) == {f"loss.{k}" for k in type(p.loss).model_fields} | {
        f"training.{k}" for k in type(p.training).model_fields
    }
    assert rows["training.epochs"]["value"] == "5" and rows["training.epochs"]["changed by"] == "overrides"
    assert rows["loss.temperature"]["value"] == "0.5" and rows["loss.temperature"]["changed by"] == "overrides"
    assert rows["loss.avel"] | {"value": "0.0", "default": "1.0", "changed by": "row"} == rows["loss.avel"]
    for key, value in file["training"].items():
        row = rows[f"training.{key}"]
        if key != "epochs" and row["value"] != row["default"]:
            assert row["changed by"] == "file" and yaml.safe_load(row["value"]) == (
                float(value) if key == "lr" else value  # YAML 1.1 reads 1.5e-3 as text
            )
    plain = by_key(params.load("iemocap"), "loss")
    assert not any(row["changed by"] for row in plain.values())
    assert all(row["value"] == row["default"] for row in plain.values())
    assert all(row["meaning"] for row in rows.values())


def test_paper_and_code_are_the_ledgers():
    ledger = yaml.safe_load((ROOT / "params" / "ledger.yaml").read_text())
    p = params.load("demo")
    rows = by_key(p, "model", "loss", "training", variant="foal-net")
    told = {key for row in ledger.values() for column in row.get("set", {}).values() for key in column}
    assert told and told <= set(rows)
    for row in ledger.values():
        for key in {k for column in row.get("set", {}).values() for k in column}:
            for column, who in (("paper", "paper"), ("released code", "code")):
                value = row["set"].get(who, {}).get(key, ...)
                assert rows[key][column] == (
                    row[who] if value is ... else value if str(value) == value else json.dumps(value)
                )
    for key in set(rows) - told:
        assert rows[key]["paper"] == rows[key]["released code"] == ""
    tuned = params.load("demo-finetuned")
    assert by_key(tuned, "model", variant="audio")["model.inputs.audio.normalise"]["released code"] == "not normalised"


def test_only_the_inputs_of_the_rows_own_streams_are_listed():
    p = params.load("demo")
    streams = {k.split(".")[2] for k in by_key(p, "model", variant="video-face") if k.startswith("model.inputs.")}
    assert streams == {"face"}
    assert {k.split(".")[1] for k in by_key(p, "features")} == set(p.features)


def test_the_table_in_a_notebook_is_of_the_rows_network_and_the_same_every_time():
    p = params.load("demo-cfnsr")
    table = notebook.settings(p, variant="cfn-sr").data
    assert "cfn_sr.block" in table and "loss.avel" not in table and "training.epochs" in table
    assert table == notebook.settings(p, variant="cfn-sr").data
    odd = notebook.settings(params.load("demo", 'folds.groups=[["<b>"],["c"]]'), "folds").data
    assert "&lt;b&gt;" in odd and "<b>" not in odd
