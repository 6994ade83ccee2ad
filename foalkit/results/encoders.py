"""The report's table of encoders: what each stream is made of, and what its network was trained on."""

import pandas as pd

from foalkit.params import Params
from foalkit.params.trained_on import in_words, may_have_seen, trained_on


def encoders_table(params: Params, info: dict) -> pd.DataFrame:
    """A row per stream: its encoder, numbers per frame, what was trained on, and why that may hold the corpus.

    `info` is preprocess.json. The last column is left out where there is nothing to warn of.
    """
    sets, seen = trained_on(params), may_have_seen(params)
    rows = []
    for stream, spec in params.features.items():
        layer = params.model.inputs.get(stream)
        network = getattr(spec, "model", None) or getattr(layer, "model", None)
        row = {
            "stream": stream,
            "encoder": f"{spec.encoder} ({network})" if network else spec.encoder,
            "sees": {"sound": "sound", "picture": getattr(spec, "region", ""), "numbers": "files"}[spec.kind],
            "numbers per frame": info["features"].get(params.set_name(stream, 1), {}).get("width", "–"),
            "trained on": in_words(sets[stream]),
        }
        rows.append(row | ({"may have seen the corpus": seen.get(stream, "–")} if seen else {}))
    return pd.DataFrame(rows)


def noted(info: dict) -> list[str]:
    """What was noted while features were made, most frequent first: `audio: 1 440 × brought from 16 000 Hz …`."""
    return [
        f"{stream}: {count} × {what}"
        for stream, store in info["features"].items()
        for what, count in store.get("notes", {}).items()
    ]
