"""WavLM (transformers), frozen as an encoder, or loaded to be trained with the rest."""

from pathlib import Path

import numpy as np

from foalkit import UserError
from foalkit.devices import device, precision
from foalkit.features.encoders.weights import check_width, dtype, identity, pinned
from foalkit.features.media import SAMPLE_RATE
from foalkit.files import first_line
from foalkit.params.encoders import WavLM, WavLMWeights
from foalkit.puppets.networks import small_wavlm


class WavLMEncoder:
    """Hidden states `(T, 1024)` of a WavLM, 20 ms a frame, the waveform not normalised (spec section 1)."""

    def __init__(self, spec: WavLM, weights_folder: Path, where: str = "features"):
        self.model, revision = load_wavlm(spec, weights_folder, where)
        self.device = device(spec.device)
        used = precision(spec.precision, self.device)
        self.dtype = dtype(used)
        self.model.eval().requires_grad_(False).to(self.device, self.dtype)
        self.width, self.layer = spec.width, spec.layer
        states = self.model.config.num_hidden_layers + 1
        if not -states <= spec.layer < states:
            raise UserError(f"{where}: {spec.model} has no layer {spec.layer}; -1 to {states - 1}")
        self.identity = identity(spec, revision, used)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        import torch

        # shorter than the front end's receptive field of 400 samples gives no frame at all
        wave = torch.zeros(1, max(400, len(samples)))
        wave[0, : len(samples)] = torch.from_numpy(samples)
        with torch.inference_mode():
            states = self.model(wave.to(self.device, self.dtype), output_hidden_states=self.layer != -1)
            chosen = states.last_hidden_state if self.layer == -1 else states.hidden_states[self.layer]
        return chosen[0].float().cpu().numpy()


def load_wavlm(spec: WavLMWeights, weights_folder: Path, where: str):
    """The WavLM (transformers, fp32) of a spec, by hub name, local folder or `small`, and the revision that was loaded.

    Raises UserError, beginning with the params key `where`, for a hub name without a revision, for weights that
    cannot be loaded or leave a part of the network at random, for another width, and where the spec's `summary` is
    not what the network makes of the check tone.
    """
    import torch
    from transformers import WavLMModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # its bars for a second's work fill a saved notebook
    model, width, source = spec.model, spec.width, spec.model
    if model == "small":
        source = str(small_wavlm(weights_folder / f"wavlm-small-{width}", width))
    source, revision, commit = pinned(source, spec.revision, where)
    try:
        loaded, report = WavLMModel.from_pretrained(
            source, revision=commit, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"WavLM {model} at {revision} cannot be loaded: {first_line(error)}") from None
    # the positional convolution is stored under its weight norm's old names: reported missing, yet loaded
    at_random = sorted(k for k in report["missing_keys"] if "pos_conv_embed" not in k)
    if at_random:
        raise UserError(f"{where}: {model} lacks {len(at_random)} of WavLM's weights, first {at_random[0]}")
    check_width(where, model, loaded.config.hidden_size, width)
    if spec.summary is not None:
        found = wavlm_summary(loaded)
        if not np.allclose(found, spec.summary, rtol=1e-2, atol=1e-3):
            raise UserError(f"{where}: {model} makes {found} of the check tone, not {spec.summary}: loaded wrongly?")
    return loaded, revision


def wavlm_summary(model) -> list[float]:
    """The first four numbers of the last hidden state, averaged over a fixed tone of 1 s rising from 100 to 2000 Hz.

    Two machines that loaded the same weights agree within 1 %; a layer at random does not. Put it as `summary` in the
    params once it is known for a revision.
    """
    import torch

    seconds = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = 0.3 * torch.sin(2 * torch.pi * (100 * seconds + 950 * seconds**2))
    training = model.training
    with torch.inference_mode():
        state = model.eval()(tone[None].to(model.device)).last_hidden_state.float()
    model.train(training)
    return [round(v, 4) for v in state[0].mean(0)[:4].tolist()]
