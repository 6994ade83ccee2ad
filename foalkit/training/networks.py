"""A variant's network: an input layer for each stream, then Foal-Net, CFN-SR or what serves one modality."""

import numpy as np
import torch
from torch import Tensor, nn

from foalkit import UserError
from foalkit.devices import device
from foalkit.features.encoders.wavlm import load_wavlm
from foalkit.features.store import FeatureStore
from foalkit.models import CFNSR, AudioCNN, FoalNet, ResNeXt3D, Unimodal
from foalkit.models.inputs import (
    ChannelsFirst,
    ConvInput,
    Identity,
    LinearInput,
    PicturesInput,
    Standardise,
    WavLMInput,
)
from foalkit.params import Params
from foalkit.results import records

Streams = dict[str, tuple[Tensor, Tensor]]  # stream → features (B, T, D), mask (B, T)
Entered = list[tuple[Tensor, Tensor]]  # the same after the input layers, in the variant's order


class Net(nn.Module):
    """Input layers per stream, then the network: Foal-Net's or CFN-SR's, for both streams or for one."""

    def __init__(self, inputs: dict[str, nn.Module], scales: dict[str, nn.Module], core: nn.Module):
        super().__init__()
        if taken := [s for s in inputs if hasattr(nn.ModuleDict, s)]:
            raise UserError(f"features.{taken[0]}: PyTorch needs this name for itself; choose another for the stream")
        self.inputs, self.scales, self.core = nn.ModuleDict(inputs), nn.ModuleDict(scales), core

    def enter(self, streams: Streams) -> Entered:
        """Each stream through its standardisation and input layer, in the variant's order."""
        return [
            layer(self.scales[s](streams[s][0]) if s in self.scales else streams[s][0], streams[s][1])
            for s, layer in self.inputs.items()
        ]

    def forward(self, streams: Streams) -> Tensor:
        """Class logits `(B, classes)`."""
        return classify(self.core, self.enter(streams))


def classify(core: nn.Module, entered: Entered) -> Tensor:
    """Class logits `(B, classes)` of a network without its input layers; CFN-SR's clips are whole, without masks."""
    masks = [mask for _, mask in entered] if isinstance(core, FoalNet | Unimodal) else []
    return core(*(x for x, _ in entered), *masks)


def build_net(params: Params, variant: str, stores: dict[str, FeatureStore], train: list[str]) -> Net:
    """The variant's model for features of these widths; `train` utterances give the standardisation.

    Raises UserError for sizes that do not fit, and for features that CFN-SR cannot read.
    """
    streams = params.variants[variant].streams
    scales = {s: _standardise(stores[s], train) for s in streams if s in params.training.standardise}
    if params.variants[variant].network == "cfn-sr":
        return _cfn_sr(params, variant, stores, scales)
    inputs = {s: _input(params, s, stores[s].width) for s in streams}
    return Net(inputs, scales, _foal_net(params, variant, [inputs[s].width for s in streams]))


def trained_net(params: Params, run: dict, stores: dict[str, FeatureStore]) -> Net:
    """The network of a run's record, ready to answer on the device of its params.

    Its weights hold the standardisation, so no training side is read for it. Raises UserError for weights that are not
    the record's.
    """
    p = params.for_variant(run["variant"])
    some = [next(iter(stores[s].lengths)) for s in p.variants[run["variant"]].streams]
    net = build_net(p, run["variant"], stores, some)
    net.load_state_dict(records.read_weights(run["folder"]))
    return net.eval().to(device(p.training.device))


def _standardise(store: FeatureStore, train: list[str]) -> Standardise:
    frames = np.concatenate([store[u] for u in train if u in store.lengths]).astype(np.float64)
    mean, std = frames.mean(0), frames.std(0)
    return Standardise(*(torch.tensor(v, dtype=torch.float32) for v in (mean, std + 1e-3 * std.mean())))


def _input(params: Params, stream: str, width: int) -> nn.Module:
    spec = params.model.inputs.get(stream)
    if spec is not None and spec.kind == "wavlm":
        return _fine_tuned(params, stream)
    kinds = {"none": Identity, "linear": LinearInput, "conv": ConvInput}
    options = spec.model_dump(exclude={"kind"}) if spec else {}
    try:
        return kinds[spec.kind if spec else "none"](width, **options)
    except ValueError as error:
        raise UserError(f"model.inputs.{stream}: {error}") from None


def _foal_net(params: Params, variant: str, widths: list[int]) -> FoalNet | Unimodal:
    sizes, loss, classes = params.model, params.loss, len(params.corpus.classes)
    if len(widths) == 1:
        return Unimodal(widths[0], classes, dropout=sizes.dropout)
    try:
        return FoalNet(
            *widths,
            classes,
            layers=sizes.layers,
            heads=sizes.heads,
            dropout=sizes.dropout,
            projection_dim=sizes.projection_dim,
            projection_dropout=sizes.projection_dropout,
            temperature=loss.temperature,
            learn_temperature=loss.learn_temperature,
            temperature_range=loss.temperature_range,
        )
    except ValueError as error:
        keys = " and ".join(f"model.inputs.{s}" for s in params.variants[variant].streams)
        raise UserError(f"params {params.name}, variant {variant}: {error} ({keys})") from None


def _cfn_sr(params: Params, variant: str, stores: dict[str, FeatureStore], scales: dict) -> Net:
    """CFN-SR, or its one-modality network, for stored frames and MFCCs."""
    own, streams, classes = params.cfn_sr, params.variants[variant].streams, len(params.corpus.classes)
    where = f"params {params.name}, variant {variant}"
    encoders = [params.features[s].encoder for s in streams]
    if encoders not in (["frames"], ["mfcc"], ["frames", "mfcc"]):
        raise UserError(
            f"{where}: CFN-SR reads pictures (encoder frames), MFCCs (encoder mfcc) or both in this order, "
            f"not {', '.join(f'{s} ({e})' for s, e in zip(streams, encoders, strict=True))}"
        )
    for stream, encoder in zip(streams, encoders, strict=True):
        lengths = stores[stream].lengths
        short = min(lengths, key=lengths.get)
        if encoder == "mfcc" and not 212 <= lengths[short] <= max(lengths.values()) <= 219:
            raise UserError(
                f"{where}: {short} has {lengths[short]} MFCC frames, CFN-SR reads 212 to 219 of every clip: "
                f"set features.{stream}.seconds"
            )
    inputs = {
        s: PicturesInput(stores[s].width, crop=own.crop, flip=own.flip)
        if encoder == "frames"
        else ChannelsFirst(stores[s].width)
        for s, encoder in zip(streams, encoders, strict=True)
    }
    pictures = params.features[streams[0]]
    size = {"frames": pictures.frames, "size": pictures.size} if encoders[0] == "frames" else {}
    try:
        if encoders == ["frames"]:
            core = ResNeXt3D(classes, **size)
        elif encoders == ["mfcc"]:
            core = AudioCNN(classes)
        else:
            switches = own.model_dump(include={"block", "residual", "batch_summed_attention"})
            core = CFNSR(classes, **size, **switches)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return Net(inputs, scales, core.to(memory_format=torch.channels_last_3d))


def _fine_tuned(params: Params, stream: str) -> WavLMInput:
    spec, where = params.model.inputs[stream], f"model.inputs.{stream}"
    if params.features[stream].encoder != "waveform":
        raise UserError(f"{where}: a fine-tuned WavLM reads samples: set features.{stream} to {{encoder: waveform}}")
    model, _ = load_wavlm(spec, params.weights_folder, where)
    return WavLMInput(model, normalise=spec.normalise, checkpointing=spec.checkpointing)
