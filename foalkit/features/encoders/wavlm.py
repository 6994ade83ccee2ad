"""WavLM (transformers), frozen as an encoder, or loaded to be trained with the rest."""

from pathlib import Path

import numpy as np

from foalkit import UserError
from foalkit.devices import device
from foalkit.features.encoders.weights import check_width, dtype, first_line, identity, pinned, save_once
from foalkit.features.media import SAMPLE_RATE
from foalkit.params.encoders import WavLM, WavLMWeights


class WavLMEncoder:
    """Hidden states `(T, 1024)` of a WavLM, 20 ms a frame, the waveform not normalised (spec section 1)."""

    def __init__(self, spec: WavLM, weights_folder: Path, where: str = "features"):
        self.model, revision = load_wavlm(spec, weights_folder, where)
        self.device = device(spec.device)
        self.dtype = dtype(spec.precision)
        self.model.eval().requires_grad_(False).to(self.device, self.dtype)
        self.width, self.layer = spec.width, spec.layer
        # group norm's statistics run over the whole clip: padding would change them
        self.may_pad = self.model.config.feat_extract_norm == "layer"
        # measured: on a CPU a padded batch of four takes twice as long as its clips one by one
        self.together = 16 if self.may_pad and self.device != "cpu" else 1
        states = self.model.config.num_hidden_layers + 1
        if not -states <= spec.layer < states:
            raise UserError(f"{where}: {spec.model} has no layer {spec.layer}; -1 to {states - 1}")
        self.identity = identity(spec, revision)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        return self._padded([samples])[0]

    def many(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        """The features of each clip: on a GPU in padded, masked batches of clips of about one length."""
        by_length = sorted(range(len(clips)), key=lambda i: len(clips[i]))
        made = {}
        for first in range(0, len(clips), self.together):
            some = by_length[first : first + self.together]
            made |= dict(zip(some, self._padded([clips[i] for i in some]), strict=True))
        return [made[i] for i in range(len(clips))]

    def _padded(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        import torch

        # shorter than the front end's receptive field of 400 samples gives no frame at all
        lengths = torch.tensor([max(400, len(samples)) for samples in clips])
        waves = torch.zeros(len(clips), int(lengths.max()))
        for wave, samples in zip(waves, clips, strict=True):
            wave[: len(samples)] = torch.from_numpy(samples)
        mask = (torch.arange(waves.shape[1]) < lengths[:, None]).to(self.device) if len(clips) > 1 else None
        with torch.inference_mode():
            states = self.model(
                waves.to(self.device, self.dtype), attention_mask=mask, output_hidden_states=self.layer != -1
            )
            chosen = states.last_hidden_state if self.layer == -1 else states.hidden_states[self.layer]
        frames = self.model._get_feat_extract_output_lengths(lengths).tolist()
        return [c[:t] for c, t in zip(chosen.float().cpu().numpy(), frames, strict=True)]


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
        source = str(_small_wavlm(weights_folder / f"wavlm-small-{width}", width))
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
            raise UserError(
                f"{where}: {model} makes {found} of the check tone, not {spec.summary}: loaded wrongly?"
            )
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


def _small_wavlm(folder: Path, width: int) -> Path:
    """A WavLM of 2 layers with seeded random weights, saved once, with the real one's frame rate (20 ms)."""
    from transformers import WavLMConfig, WavLMModel

    config = WavLMConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        layerdrop=0.0,
    )
    save_once(folder, lambda target: WavLMModel(config).save_pretrained(target))
    return folder
