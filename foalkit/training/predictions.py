"""Rows of predictions, as they are stored: an utterance, its speaker, its class and the logits of a run."""

import numpy as np
import pandas as pd

from foalkit.features.data import Data


def looked_up(data: Data, utterances: list[str]) -> dict:
    """What stands beside the logits of a side whatever answers: looked up once a run."""
    speakers = data.table.set_index("utterance")["speaker"].loc[utterances].to_numpy()
    return {"utterance": utterances, "speaker": speakers, "true": data.labels(utterances).astype(np.int8)}


def rows_of(data: Data, known: dict, logits: np.ndarray, **more) -> pd.DataFrame:
    """A row for each utterance of a side: what was `looked_up`, `more` columns of one value, logits `(N, classes)`."""
    own = {f"logit_{c}": logits[:, i] for i, c in enumerate(data.classes)}
    columns = {"utterance": known["utterance"], "speaker": known["speaker"], **more, "true": known["true"]}
    return pd.DataFrame({**columns, **own})
