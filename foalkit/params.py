"""One validated, frozen `Params` object from params/<name>.yaml, an ablation variant and overrides."""

import difflib
import hashlib
import json
import math
import os
import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from foalkit import ROOT, UserError

Modality = Literal["audio", "video", "face", "face-clip", "face-frames", "mfcc"]
Protocol = Literal["honest", "published"]
Preset = Literal["ours", "paper", "code"]
Selected = Literal["validation-selected", "test-selected", "random-split", "unknown"]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Puppets(Strict):
    """The generated demo corpus in IEMOCAP's layout (foalkit.data.puppets)."""

    seed: int = 1
    turns_per_session: int = Field(90, ge=8)


class PuppetTakes(Strict):
    """The generated demo corpus in RAVDESS's layout (foalkit.data.puppets_ravdess)."""

    seed: int = 1
    takes_per_actor: int = Field(12, ge=4, le=28)
    actors: int = Field(24, ge=1, le=24)


class Corpus(Strict):
    """Where the recordings lie, who reads them, and which label means which class."""

    reader: Literal["iemocap", "ravdess"]
    root: str  # relative to the project; $NAME is taken from the environment
    # written to `root` when it is not there yet, in the layout that the reader reads
    generate: Puppets | PuppetTakes | None = None
    labels: dict[str, str]  # the corpus's label → class; labels not named are left out
    classes: list[str]  # the order of the logits
    assert_counts: bool = False  # the real IEMOCAP: stop unless the counts are those of the literature

    @field_validator("generate", mode="before")
    @classmethod
    def _in_the_readers_layout(cls, value, info):
        kind = {"iemocap": Puppets, "ravdess": PuppetTakes}.get(info.data.get("reader"))
        return kind.model_validate(value) if kind and isinstance(value, dict) else value

    @model_validator(mode="after")
    def _labels_name_classes(self):
        if set(self.labels.values()) != set(self.classes):
            raise ValueError(f"labels map to {sorted(set(self.labels.values()))}, classes are {self.classes}")
        return self


class Clip(Strict):
    """The part of an utterance that is used: its first `seconds` (paper: 6 s), its central ones, or all of it."""

    seconds: float = Field(6.0, gt=0)
    part: Literal["first", "centre", "all"] = "first"

    def window(self, length: float) -> tuple[float, float]:
        """From where to where an utterance of `length` seconds is used, in seconds from its start."""
        if self.part == "all":
            return 0.0, math.inf
        start = round(max(0.0, length - self.seconds) / 2, 4) if self.part == "centre" else 0.0
        return start, start + self.seconds


class LogMel(Strict):
    """Log-mel spectrum (librosa) of 16 kHz audio: 25 ms windows; `hop_ms` in milliseconds."""

    encoder: Literal["log-mel"]
    bands: int = 64
    hop_ms: int = 10


class Mfcc(Strict):
    """Mel-frequency cepstral coefficients (librosa) of `seconds` of the sound from `start` on; null: all of it.

    Windows of `window` samples, `hop` samples apart, through `bands` mel filters.
    """

    encoder: Literal["mfcc"]
    coefficients: int = 13
    rate: int = 16_000  # Hz; CFN-SR: 44 100
    window: int = 400
    hop: int = 160
    bands: int = 40
    start: float = Field(0.0, ge=0)  # seconds into the utterance
    seconds: float | None = Field(None, gt=0)  # a shorter sound is filled up with silence, and noted


class Waveform(Strict):
    """The raw 16 kHz mono samples, for an encoder that is trained with the rest."""

    encoder: Literal["waveform"]


class WavLMWeights(Strict):
    """Which WavLM (transformers) is loaded, frozen or to be trained."""

    model: str  # a hub name, a folder, or `small` (seeded random weights, written on first use)
    revision: str | None = None
    width: int = 1024
    summary: list[float] | None = None  # what data.encoders.wavlm_summary must give; null: not checked


class WavLM(WavLMWeights):
    """A frozen WavLM; `layer` indexes its hidden states, -1 is the last."""

    encoder: Literal["wavlm"]
    layer: int = -1
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class ClipImages(Strict):
    """CLIP's projected image embedding per frame (open_clip), of the whole picture or the face."""

    encoder: Literal["clip"]
    model: str  # an open_clip architecture, or `small` (seeded random weights, written on first use)
    pretrained: str | None = None  # a hub repository of open_clip weights, or a local .safetensors file
    revision: str | None = None  # the hub commit
    width: int = 768
    region: Literal["picture", "face"] = "picture"
    every: int = Field(1, ge=1)  # use each n-th frame
    batch: int = 64
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Expression(Strict):
    """What an image-classification network (transformers) hands its classifier, per frame; meant for expressions."""

    encoder: Literal["expression"]
    model: str  # a hub name, a folder, or `small` (seeded random weights, written on first use)
    revision: str | None = None  # the hub commit
    width: int = 768
    region: Literal["picture", "face"] = "face"
    every: int = Field(1, ge=1)  # use each n-th frame
    batch: int = 64
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Hog(Strict):
    """Histograms of oriented gradients per frame (weight-free), `size` pixels square in cells of `cell`."""

    encoder: Literal["hog"]
    size: int = 64
    cell: int = 8
    orientations: int = 8
    region: Literal["picture", "face"] = "picture"
    every: int = Field(1, ge=1)


class Frames(Strict):
    """The pictures themselves, `frames` of them spread evenly over the utterance, for a network that is trained."""

    encoder: Literal["frames"]
    frames: int = Field(30, ge=1)
    size: int = 224  # pixels square
    region: Literal["picture", "face"] = "face"


class Imported(Strict):
    """Features made elsewhere: one .npy of shape (T, D) per utterance under `folder`."""

    encoder: Literal["imported"]
    folder: str
    pattern: str = "{utterance}.npy"  # may name any text column of the manifest
    width: int


Features = Annotated[
    LogMel | Mfcc | Waveform | WavLM | ClipImages | Expression | Hog | Frames | Imported,
    Field(discriminator="encoder"),
]


class Input(Strict):
    """What stands between a stream's features and the fusion: nothing, a linear layer, or 1-D convolutions."""

    kind: Literal["none", "linear", "conv"]
    width: int | None = None
    layers: int = 3
    stride: int = 4
    kernel: int = 5
    dropout: float = 0.1


class FineTuned(WavLMWeights):
    """A WavLM (transformers) trained with the rest on the `waveform` feature, its CNN front end frozen."""

    kind: Literal["wavlm"]
    normalise: bool = False  # zero mean, unit deviation per clip; the released code does not
    checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third more time


class Model(Strict):
    """Foal-Net's sizes (paper section 2 and released code); `inputs` per stream."""

    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    projection_dim: int = 512
    projection_dropout: float = 0.5
    inputs: dict[Modality, Annotated[Input | FineTuned, Field(discriminator="kind")]] = {}


class CfnSr(Strict):
    """CFN-SR's switches (spec sections 3 and 6): what paper and released code say, and the ablations.

    The stem sizes follow the `frames` and `mfcc` features.
    """

    block: bool = True  # the cross-modal block; without it the branches are only spliced
    residual: bool = True
    batch_summed_attention: bool = False  # the released code's maps, summed over the batch
    crop: tuple[float, float] = (0.8, 1.4)  # the random crop's share of the picture; above 1 it is the whole
    flip: float = Field(0.5, ge=0, le=1)  # chance that a clip is mirrored


class Loss(Strict):
    """L = cross-entropy + avel · L_AVEL + mem · L_MEM, with the ledger's rows 1-4."""

    avel: float = Field(1.0, ge=0)
    mem: float = Field(0.1, ge=0)
    hard_negatives: Literal["argmax", "multinomial"] = "argmax"  # ledger 1: paper | code
    temperature: float = Field(2.659, gt=0)  # ledger 2: a divisor
    learn_temperature: bool = True
    temperature_range: tuple[float, float] | None = None  # ledger 2: ALBEF keeps its own in 0.001 to 0.5
    normalise_targets: bool | Literal["matched"] = False  # ledger 3; see losses.avel

    @model_validator(mode="after")
    def _temperature_in_range(self):
        low, high = self.temperature_range or (self.temperature, self.temperature)
        if not 0 < low <= self.temperature <= high:
            raise ValueError(f"temperature {self.temperature} is not in temperature_range [{low}, {high}]")
        return self


class Training(Strict):
    """The loop. CPU runs with the same params, seed and `threads` give the same bytes."""

    epochs: int = Field(40, ge=1)
    batch: int = Field(64, ge=2)  # over all processes
    # clips at once through the input layers; the losses see the whole batch all the same
    micro_batch: int | None = Field(None, ge=1)
    processes: int = Field(1, ge=1)  # GPUs (or CPU processes) that share a batch
    local_batch: int | None = Field(None, ge=2)  # ledger 5: losses on such shares, gathered without gradient
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["constant", "cosine"] = (
        "constant"  # ledger 7; cosine after a warm-up of 5 % of the steps
    )
    sampler: Literal["balanced", "shuffle"] = "balanced"
    positive_pass: Literal["shared", "separate"] = "shared"  # the released code fuses the positives twice
    standardise: list[Modality] = []  # zero mean, unit deviation per feature, from training utterances
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = Field(1, ge=1)
    # what a job of the grid trains of a variant: one fold, all folds in turn, or all at once with stacked weights
    job: Literal["fold", "folds", "stacked"] = "fold"


class Folds(Strict):
    """Which groups are held out: IEMOCAP's sessions one by one, or RAVDESS's actors by the list."""

    by: Literal["session", "speaker"] = "session"
    groups: list[list[str]]  # the sessions or speakers that each fold holds out
    # how many of them the published protocol tests, where that is not all: the rest is always trained on
    published: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _no_more_than_there_are(self):
        if (self.published or 0) > len(self.groups):
            raise ValueError(f"published: {self.published} of {len(self.groups)} groups")
        return self


class Variant(Strict):
    """One row of the ablation: the question it answers, its streams, and what it sets."""

    question: str
    label: str
    modality: str
    streams: list[Modality]
    network: Literal["foal-net", "cfn-sr"] = "foal-net"  # whose one- or two-stream network the streams enter
    starts_from: list[str] = []  # the variants whose runs of the same fold and seed give the first weights
    set: dict[str, Any] = {}
    # method → (UA, WA) in percent, as printed; null: not printed
    published: dict[str, tuple[float | None, float | None]] = {}
    note: str = ""
    ledger: int | None = (
        None  # the ledger's row it belongs to: it is compared with foal-net, and was never printed
    )


class LedgerRow(Strict):
    """Where paper and released code part (params/ledger.yaml): what each says, and the settings that realise it."""

    topic: str
    paper: str
    code: str
    ours: str
    set: dict[Preset, dict[str, Any]] = {}
    variants: dict[str, dict[str, Any]] = {}
    see: str = ""  # where the report answers a row without a switch


class PublishedRow(Strict):
    """A printed result (params/published.yaml): UA and WA (accuracy) in percent, and how the epoch was chosen."""

    system: str
    year: int | None = None  # null: our own
    corpus: Literal["IEMOCAP", "RAVDESS"]
    modality: str
    ua: float | None = Field(None, ge=0, le=100)
    wa: float | None = Field(None, ge=0, le=100)
    protocol: Selected
    folds: str = ""
    parameters: float | None = Field(None, gt=0)  # millions
    source: str
    note: str = ""

    @field_validator("protocol", mode="before")
    @classmethod
    def _known_protocol(cls, value):
        if value not in typing.get_args(Selected):
            raise ValueError(_unknown("protocol", str(value), typing.get_args(Selected)))
        return value

    @model_validator(mode="after")
    def _has_a_number(self):
        if self.ua is None and self.wa is None and not self.note:
            raise ValueError("neither ua nor wa, and no note that says why")
        return self


class Params(Strict):
    """Everything a run depends on; unknown keys are errors that name the nearest valid one."""

    name: str
    about: str
    ledger: Preset = "ours"  # the settings under those that the file writes
    outputs: str  # folder, relative to the project
    corpus: Corpus
    clip: Clip = Clip()
    features: dict[Modality, Features]
    folds: Folds
    model: Model = Model()
    cfn_sr: CfnSr = CfnSr()
    loss: Loss = Loss()
    training: Training = Training()
    seeds: list[int] = [0]
    ablation: dict[Protocol, list[str]]
    variants: dict[str, Variant]

    @model_validator(mode="after")
    def _names_exist(self):
        for protocol, names in self.ablation.items():
            for name in names:
                if name not in self.variants:
                    raise ValueError(f"ablation.{protocol}: {_unknown('variant', name, self.variants)}")
                if self.variants[name].ledger and "foal-net" not in names:
                    raise ValueError(f"ablation.{protocol}: {name} is compared with foal-net, so add that")
                for start in self.variants[name].starts_from:
                    if start not in names:
                        raise ValueError(f"ablation.{protocol}: {name} starts from {start}, so add that")
                for stream in self.variants[name].streams:
                    if stream not in self.features:
                        raise ValueError(f"ablation.{protocol}: variant {name} needs features.{stream}")
        return self

    @property
    def folder(self) -> Path:
        """The outputs folder of this params file, absolute."""
        return ROOT / self.outputs

    @property
    def data_digest(self) -> str:
        """A digest of everything that shapes manifest and features."""
        return digest(self.model_dump(include={"corpus", "clip", "features"}))

    def fold_numbers(self, protocol: str) -> range:
        """The folds that a protocol tests, counted from 1."""
        every = len(self.folds.groups)
        return range(1, 1 + (self.folds.published or every if protocol == "published" else every))

    def for_variant(self, variant: str) -> "Params":
        """The params with the variant's own settings applied.

        Raises UserError for an unknown variant, naming the nearest.
        """
        if variant not in self.variants:
            raise UserError(_unknown("variant", variant, self.variants))
        data = self.model_dump()
        for key, value in self.variants[variant].set.items():
            _put(data, key, value, where=f"variant {variant}")
        return _validate(data, f"variant {variant}")

    def digest(self, variant: str) -> str:
        """A digest of everything that can change the run of `variant` (not of names, seeds or other variants)."""
        p = self.for_variant(variant)
        own = {"foal-net": {"model", "loss"}, "cfn-sr": {"cfn_sr"}}[p.variants[variant].network]
        kept = p.model_dump(include={"corpus", "clip", "folds", "training", *own})
        kept["network"] = p.variants[variant].network
        kept["starts_from"] = {v: self.digest(v) for v in p.variants[variant].starts_from}
        kept["streams"] = {s: p.features[s].model_dump() for s in p.variants[variant].streams}
        return digest(kept)


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `value`'s canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(params: str | Path, overrides: str | typing.Sequence[str] = ()) -> Params:
    """Read params/<name>.yaml (or a path to such a file) and the ablation variants, apply `key=value` overrides.

    A file that says `base: <name>` stands over that file in params/, key by key, with outputs of its own. The
    ledger's preset stands under both and under the overrides. Raises UserError for a missing file, an unknown key
    (naming the nearest valid one) or a bad value.
    """
    path = Path(params)
    if path.suffix not in {".yaml", ".yml"}:
        path = _known_file(str(params), "params file")
    elif not path.is_absolute():
        path = ROOT / path
    data = _read_yaml(path)
    if "base" in data:
        base = _read_yaml(_known_file(str(data["base"]), f"{path.name}: base"))
        if "base" in base:
            raise UserError(f"{path.name}: base {data['base']!r} has a base itself; one level is enough")
        data = _over({k: v for k, v in base.items() if k not in ("name", "outputs")}, data)
        del data["base"]
    data = {"name": path.stem, "outputs": f"outputs/{path.stem}", **data}
    ledger = read_ledger()
    data["variants"] = _over(
        {**_read_yaml(ROOT / "params" / "variants.yaml"), **_ledger_variants(ledger)},
        data.get("variants", {}),
    )
    for item in overrides.split() if isinstance(overrides, str) else overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"override {item!r}: write key=value, for example training.epochs=2")
        _put(data, key, yaml.safe_load(value), where="overrides")
    data = _over(_preset(ledger, data.get("ledger", "ours")), data)
    return _validate(data, str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))


def read_ledger() -> dict[int, LedgerRow]:
    """The ledger's rows by number, from params/ledger.yaml."""
    return {
        number: LedgerRow.model_validate(row)
        for number, row in _read_yaml(ROOT / "params" / "ledger.yaml").items()
    }


def read_published(file: Path = ROOT / "params" / "published.yaml") -> list[PublishedRow]:
    """The registry of printed results, in the file's order.

    Raises UserError naming corpus, system and key of a row that is not whole, and the nearest known protocol.
    """
    rows = []
    for corpus, blocks in _read_yaml(file).items():
        for block in blocks:
            common = {k: v for k, v in block.items() if k != "rows"}
            for row in block["rows"]:
                try:
                    rows.append(PublishedRow.model_validate({"corpus": corpus, **common, **row}))
                except ValidationError as error:
                    first = error.errors()[0]
                    key = "".join(f"{part}: " for part in first["loc"])
                    message = first["msg"].removeprefix("Value error, ")
                    name = row.get("system", "a row without system")
                    raise UserError(f"{file.name}: {corpus}: {name}: {key}{message}") from None
    return rows


def expand(path: str, what: str) -> Path:
    """An absolute path from one that may start in the project and name $VARIABLES.

    Raises UserError when a variable is not set.
    """
    missing = [n for n in re.findall(r"\$\{?(\w+)", path) if n not in os.environ]
    if missing:
        raise UserError(f"{what} is {path}, but ${missing[0]} is not set: export {missing[0]}=<folder>")
    return ROOT / Path(os.path.expandvars(path)).expanduser()


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'fold'?` for the closest of `known`, or a list of all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _unknown(what: str, name: str, known: typing.Iterable[str]) -> str:
    return f"unknown {what} {name!r}; {nearest(name, known)}"


def _known_file(name: str, what: str) -> Path:
    """params/<name>.yaml; raises UserError, naming the nearest, where there is none."""
    others = {"variants", "ledger", "published"}
    known = sorted(p.stem for p in (ROOT / "params").glob("*.yaml") if p.stem not in others)
    if name not in known:
        raise UserError(_unknown(what, name, known))
    return ROOT / "params" / f"{name}.yaml"


def _ledger_variants(ledger: dict[int, LedgerRow]) -> dict[str, dict]:
    """The ledger's variants: foal-net's streams under another setting."""
    common = {"modality": "A+V", "streams": ["audio", "video"]}
    return {
        name: {**common, "ledger": number, **variant}
        for number, row in ledger.items()
        for name, variant in row.variants.items()
    }


def _preset(ledger: dict[int, LedgerRow], name: Any) -> dict:
    """The nested settings of one column of the ledger; where it has none the defaults stand, which are ours.

    An unknown name gives none: the validation that follows refuses it.
    """
    settings: dict[str, Any] = {}
    for row in ledger.values():
        for key, value in row.set.get(str(name), {}).items():
            _put(settings, key, value, where="ledger")
    return settings


def _over(under: Any, over: Any) -> Any:
    """`over` laid on `under`: mappings of one kind are joined key by key, anything else is replaced."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    if any(under[tag] != over[tag] for tag in ("encoder", "kind", "reader") if tag in under and tag in over):
        return over  # another encoder has other keys
    return {**under, **{k: _over(under[k], v) if k in under else v for k, v in over.items()}}


def _read_yaml(path: Path) -> dict:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such params file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected `key: value` lines at the top level")
    return data


def _put(data: dict, key: str, value: Any, where: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise UserError(f"{where}: {key}: {parent} is a single value, it holds no keys")
    data[last] = value


def _validate(data: dict, where: str) -> Params:
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        loc = [str(part) for part in first["loc"]]
        key = ".".join(loc)
        if first["type"] == "extra_forbidden":
            # a key may be right in another kind of the same place
            hint = nearest(loc[-1], set(_keys_at(Params, loc[:-1])) - {loc[-1]})
            raise UserError(f"{where}: unknown key {key!r}; {hint}") from None
        if first["type"] == "missing":
            raise UserError(f"{where}: the key {key!r} is missing") from None
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        got = "" if isinstance(first["input"], dict | BaseModel) else f", got {first['input']!r}"
        raise UserError(f"{where}: {key + ': ' if key else ''}{message}{got}{more}") from None


def _keys_at(kind: Any, loc: list[str]) -> list[str]:
    """The valid keys at a location of a validation error, following fields, dictionaries and tagged unions."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not loc:
            return list(kind.model_fields)
        return _keys_at(kind.model_fields[loc[0]].annotation, loc[1:])
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _keys_at(args[0], loc)
    if origin is dict:
        return _keys_at(args[1], loc[1:]) if loc else list(typing.get_args(args[0]))
    models = [a for a in args if isinstance(a, type) and issubclass(a, BaseModel)]
    tagged = [
        m
        for m in models
        if loc
        and any(
            loc[0] in typing.get_args(m.model_fields[tag].annotation)
            for tag in ("encoder", "kind")
            if tag in m.model_fields
        )
    ]
    if tagged:
        return _keys_at(tagged[0], loc[1:])
    return sorted({key for m in models for key in _keys_at(m, loc)})
