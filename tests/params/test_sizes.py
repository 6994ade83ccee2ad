"""Sizes that do not fit are said when the params are loaded, by a key that is there, and not where they fit."""

import pytest
from conftest import refused

from foalkit import params
from foalkit.features.encoders import make_encoder
from foalkit.params.load import params_files
from foalkit.params.sizes import frame_width


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("model.heads=5", ["variant baseline: model.inputs.audio.width: is 64", "model.heads = 5", "65"]),
        ("model.inputs.video.width=30", ["model.inputs.video.width: is 30", "set it to 32"]),
        ("model.inputs.face=null", []),  # alone, a stream is not fused
        ("model.inputs.audio=null features.audio.bands=63", ["features.audio are 63", "{kind: linear, width: 64}"]),
        ("model.inputs.audio=null features.audio.bands=64", []),
        ("model.inputs.video=null features.video.orientations=9", []),  # 36 cells: 4 divides 324
        ("model.inputs.video=null features.video.orientations=9 features.video.size=80", ["features.video are 225"]),
        ("model.inputs.audio.stride=6", ["model.inputs.audio.stride", "power of two", "6"]),
        ("model.inputs.audio.stride=16", ["model.inputs.audio.stride", "2^layers = 4", "16"]),
        ("model.inputs.audio.kernel=4", ["model.inputs.audio.kernel", "odd"]),
        ("model.inputs.audio={kind: wavlm, model: small, width: 64}", ["model.inputs.audio", "features.audio"]),
    ],
)
def test_sizes_that_do_not_fit_are_said_at_once(overrides, words):
    given = [o.replace("~", " ") for o in overrides.replace(": ", ":~").replace(", ", ",~").split()]
    if not words:
        params.load("demo", given)
        return
    said = refused(lambda: params.load("demo", given))
    assert said.startswith("params/demo.yaml, variant ") and all(word in said for word in words), said


def test_a_variant_s_own_settings_count():
    said = refused(lambda: params.load("demo", ["variants.mem.set.model.heads=7"]))
    assert "variant mem" in said and "model.heads = 7" in said


def test_the_widths_are_the_encoders_own(tmp_path):
    seen = set()
    for name in params_files():
        for spec in params.load(name).features.values():
            if spec.encoder not in seen and getattr(spec, "model", "small") == "small" and not hasattr(spec, "folder"):
                seen.add(spec.encoder)
                assert frame_width(spec) == make_encoder(spec, tmp_path, "x").width, spec
    assert {"log-mel", "mfcc", "hog", "frames", "fer", "resemblyzer", "efficientnet-lite0"} <= seen
