"""The models of a params file: everything that a run depends on, each key with its meaning."""

import itertools
import math
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from foalkit import CHECKOUT, ROOT, UserError
from foalkit.files import digest
from foalkit.params.corpora import Corpus
from foalkit.params.encoders import FOLD, Device, Features, Kind, Precision
from foalkit.params.errors import unknown, validate
from foalkit.params.folds import Folds
from foalkit.params.merge import at, over, put, without_nulls
from foalkit.params.networks import CfnSr, Model
from foalkit.params.reading import expand
from foalkit.params.robustness import Robustness
from foalkit.params.rows import Preset, Variant
from foalkit.params.strict import Count, Few, Line, Name, Seed, Stream, Strict, Weight

Protocol = Literal["honest", "published", "random-split"]  # the last shows a leak, and is never ranked
SHARED = ("features", "corpora", "weights")  # folders beside all outputs
MOST_STARTS = 10  # variants of which each starts from the next one
_FACT = {"__all__": {"trained_on"}}  # said of encoders, nothing is computed from it


class Clip(Strict):
    """The part of an utterance that is used."""

    seconds: float = Field(6.0, gt=0, le=3600, description="how long at most (paper: 6 s)")
    part: Literal["first", "centre", "all"] = Field("first", description="its first or central seconds, or all of it")

    def window(self, length: float) -> tuple[float, float]:
        """From where to where an utterance of `length` seconds is used, in seconds from its start."""
        if self.part == "all":
            return 0.0, math.inf
        start = round(max(0.0, length - self.seconds) / 2, 4) if self.part == "centre" else 0.0
        return start, start + self.seconds


class Loss(Strict):
    """L = cross-entropy + avel · L_AVEL + mem · L_MEM, with the ledger's rows 1-4."""

    avel: Weight = Field(1.0, description="weight of L_AVEL in the loss (ledger 4)")
    mem: Weight = Field(0.1, description="weight of L_MEM in the loss (ledger 4)")
    hard_negatives: Literal["argmax", "multinomial"] = Field("argmax", description="most similar, or drawn (ledger 1)")
    temperature: float = Field(2.659, gt=0, le=1000, description="AVEL's divisor at the start (ledger 2)")
    learn_temperature: bool = Field(True, description="whether the temperature is trained with the rest")
    temperature_range: tuple[float, float] | None = Field(
        None, strict=False, description="limits of a learned temperature; null: none (ledger 2)"
    )
    normalise_targets: bool | Literal["matched"] = Field(False, description="divide AVEL's targets (ledger 3)")

    @model_validator(mode="after")
    def _temperature_in_range(self):
        low, high = self.temperature_range or (self.temperature, self.temperature)
        if not 0 < low <= self.temperature <= high:
            raise ValueError(f"temperature: {self.temperature} is not in temperature_range [{low}, {high}]")
        return self


class Training(Strict):
    """The loop. CPU runs with the same params, seed and `threads` give the same bytes on one machine at least."""

    epochs: Count = Field(40, description="passes over the training side")
    batch: int = Field(64, ge=2, le=1_000_000, description="clips that one step sees")
    micro_batch: Count | None = Field(None, description="clips at once through the input layers; null: all")
    local_batch: int | None = Field(None, ge=2, le=1_000_000, description="shares gathered without gradient (ledger 5)")
    lr: float = Field(1e-4, gt=0, le=1_000_000, description="AdamW's learning rate")
    weight_decay: float = Field(0.01, ge=0, le=10, description="AdamW's weight decay; 0: Adam")
    schedule: Literal["constant", "cosine"] = Field("constant", description="rate; cosine: with a warm-up (ledger 7)")
    sampler: Literal["balanced", "shuffle"] = Field(
        "balanced", description="drawn by class, or each clip once (ledger 11)"
    )
    target: Literal["majority", "soft"] = Field(
        "majority", description="what the cross-entropy is taught: the label; soft: the shares of the raters' votes"
    )
    positive_pass: Literal["shared", "separate"] = Field(
        "shared", description="fuse own pairs once, or once more for MEM (ledger 10)"
    )
    standardise: list[Stream] = Field([], description="streams brought to zero mean, unit deviation")
    device: Device = Field("auto", description="where it runs; auto: a GPU where there is one")
    precision: Precision = Field("fp32", description="the arithmetic of the forward pass")
    threads: Few = Field(1, description="CPU threads of a run")
    reproducible: Literal["here", "everywhere"] = Field(
        "here", description="everywhere: CPU runs give the same bytes on every x86-64 processor with AVX2, more slowly"
    )
    job: Literal["fold", "folds"] = Field("fold", description="what one job of the grid trains of a variant")

    @model_serializer(mode="wrap")
    def _as_before(self, handler):
        return {name: v for name, v in handler(self).items() if (name, v) != ("target", "majority")}  # digests stay


class Params(Strict):
    """Everything a run depends on; unknown keys are errors that name the nearest valid one."""

    name: Line = Field(description="the file's name")
    about: str = Field(description="what it is for")
    ledger: Preset = Field("ours", description="the ledger's column that stands under the file")
    outputs: Line = Field(description="the folder that runs and report are written to, in the project or absolute")
    corpus: Corpus
    clip: Clip = Clip()
    features: dict[Stream, Features] = Field(min_length=1, description="the streams by name")
    folds: Folds
    model: Model = Model()
    cfn_sr: CfnSr = CfnSr()
    loss: Loss = Loss()
    training: Training = Training()
    robustness: Robustness = Robustness()
    seeds: list[Seed] = Field([0], min_length=1, description="each run once for each of them")
    ablation: dict[Protocol, list[Name]] = Field(description="the rows under each protocol, in the order of the report")
    variants: dict[Name, Variant] = Field(description="the rows by name; params/variants.yaml has those of the papers")
    differs: dict[str, Any] = Field({}, exclude=True, description="what the overrides change, by dotted key")

    file: str = Field("", exclude=True, description="the file, as it was named")

    @field_validator("outputs")
    @classmethod
    def _is_a_folder_of_its_own(cls, value):
        try:
            folder = Path(os.path.normpath(expand(value, "it")))
        except UserError as error:
            raise ValueError(str(error)) from None
        inside = folder.is_relative_to(ROOT) and folder.relative_to(ROOT).parts
        if folder.name in SHARED:
            raise ValueError(f"{', '.join(SHARED)} hold what params files share, so choose another name")
        if ROOT.is_relative_to(folder):
            raise ValueError("holds the project itself; choose a folder in outputs/, or one outside the project")
        if CHECKOUT and inside and (len(inside) < 2 or inside[0] != "outputs"):
            raise ValueError("must be below outputs/, or an absolute path outside the project")
        if not inside and not Path(os.path.expandvars(value)).expanduser().is_absolute():
            raise ValueError("leaves the project; write an absolute path for that")
        if len(folder.parts) < 3:
            raise ValueError(f"what params files share would lie beside it, in {folder.parent}; choose a folder in it")
        kept = str(folder.relative_to(ROOT) if inside else folder)
        if "{" in kept or "}" in kept:
            raise ValueError("must not have { or } in it, which the grid fills in")
        if max(len(os.fsencode(part)) for part in folder.parts) > 150:
            raise ValueError("a name in it is longer than 150 bytes")
        return kept

    @model_validator(mode="after")
    def _names_exist(self):
        for what, names in {"seeds": self.seeds, **{f"ablation.{p}": n for p, n in self.ablation.items()}}.items():
            if twice := [n for n in names if names.count(n) > 1]:
                raise ValueError(f"{what}: {twice[0]} stands twice")
        rows = list(dict.fromkeys(name for names in self.ablation.values() for name in names if name in self.variants))
        for what, told in {"name": str.casefold, "label": lambda name: self.variants[name].label}.items():
            first: dict[str, str] = {}  # a folder's name on some systems, and a table's column
            for name in rows:
                if (other := first.setdefault(told(name).replace("-", "_"), name)) != name:
                    raise ValueError(f"ablation: the {what}s of {other} and {name} are too alike to be told apart")
        for name in self.variants:
            self._starts_somewhere([name])
        for protocol, names in self.ablation.items():
            for name in names:
                if name not in self.variants:
                    raise ValueError(f"ablation.{protocol}: {unknown('variant', name, self.variants)}")
                if self.variants[name].ledger and "foal-net" not in names:
                    raise ValueError(f"ablation.{protocol}: {name} is compared with foal-net, so add that")
                for start in self.variants[name].starts_from:
                    if start not in names:
                        raise ValueError(f"ablation.{protocol}: {name} starts from {start}, so add that")
                for stream in self.variants[name].streams:
                    if stream not in self.features:
                        raise ValueError(f"ablation.{protocol}: variant {name} needs features.{stream}")
                if why := self.made_for_others(protocol, name):
                    raise ValueError(f"ablation.{protocol}: {why}")
        if self.folds.by == "split" and not self.corpus.has_split:
            raise ValueError("folds.by: the corpus says no split; name its column, corpus.columns.split")
        if self.soft and not self.corpus.has_votes:
            raise ValueError(
                "training.target: soft needs the labels of several raters, and this corpus gives one an utterance: "
                "name their columns (corpus.columns.raters, counts), or the sign between them in a cell (corpus.votes)"
            )
        for name in self.robustness.rows:
            if name not in self.variants:
                raise ValueError(f"robustness.rows: {unknown('variant', name, self.variants)}")
            if self.variants[name].network == "late-product":
                raise ValueError(f"robustness.rows: {name} is no network; choose rows of Foal-Net or CFN-SR")
        # a base's setting for a stream that was dropped does no harm, a misspelt name does
        known = {*self.features, *(s for v in self.variants.values() for s in v.streams)}
        for key, streams in {
            "training.standardise": self.training.standardise,
            "model.inputs": self.model.inputs,
        }.items():
            for stream in streams:
                if stream not in known:
                    raise ValueError(f"{key}: {unknown('stream', stream, sorted(known))}")
        return self

    def _starts_somewhere(self, way: list[str]) -> None:
        """Raise ValueError for variants that start from each other in a circle, or from too many in a row."""
        for start in dict.fromkeys(self.variants[way[-1]].starts_from):
            if start in way or len(way) == MOST_STARTS:
                what = "a circle" if start in way else f"more than {MOST_STARTS} in a row"
                round_ = [*way[way.index(start) if start in way else 0 :], start]
                steps = ", ".join(f"{a} starts from {b}" for a, b in itertools.pairwise(round_))
                raise ValueError(f"variants.{round_[0]}.starts_from: {steps}: {what}; take one of them out")
            if start in self.variants:
                self._starts_somewhere([*way, start])

    @property
    def folder(self) -> Path:
        """The outputs folder of this params file, absolute."""
        return ROOT / self.outputs

    @property
    def features_folder(self) -> Path:
        """Where the features lie, shared by all params files whose outputs lie side by side."""
        return self.folder.parent / "features"

    @property
    def weights_folder(self) -> Path:
        """Where networks with seeded random weights (`model: small`) lie, shared likewise."""
        return self.folder.parent / "weights"

    @property
    def corpus_folder(self) -> str:
        """`corpus.root`, or where the generated corpus lies, shared likewise."""
        made = self.corpus.recordings
        return self.corpus.root or str(self.folder.parent / "corpora" / f"{made['reader']}-{digest(made)[:8]}")

    @property
    def data_digest(self) -> str:
        """A digest of everything that shapes manifest and features."""
        shaped = [self._corpus, self.model_dump(include={"clip", "features"}, exclude={"features": _FACT})]
        shaped += [self.folds.asked] if self.folds.count or self.by_fold else []
        return digest([*shaped, "shares of votes"] if self.soft else shaped)

    @property
    def soft(self) -> bool:
        """Whether the file or one of its rows trains on the shares of the raters' votes: the manifest then has them."""
        asked = [self.training.target]
        for variant in self.variants.values():
            own: dict = {}
            for key, value in variant.set.items():
                put(own, key, value, where="a variant")
            asked.append(at(own, "training.target"))
        return "soft" in asked

    def taught(self, variant: str) -> str:
        """What a row learns from, by its own params (`for_variant`): a late product knows labels only."""
        return "majority" if self.variants[variant].network == "late-product" else self.training.target

    @property
    def _corpus(self) -> dict:
        return {**self.corpus.model_dump(exclude={"root", "generate", "published"}), **self.corpus.recordings}

    def store_folder(self, stream: str) -> Path:
        """Where a stream's features lie, absolute."""
        return self.features_folder / self.store_name(stream)

    def store_name(self, stream: str) -> str:
        """A stream's folder below `features_folder`, the same for all params that ask for the same features."""
        spec = self.features[stream]
        # not how the classes are called or ordered: which labels are read decides which utterances there are
        asked = {**self.corpus.recordings, "labels": sorted(self.corpus.labels), "clip": self.clip.model_dump()}
        asked["encoder"] = spec.model_dump(exclude={"device", "batch", "summary", "trained_on"})
        if spec.by_torch and self.training.reproducible == "everywhere":  # PyTorch's bytes
            asked["reproducible"] = "everywhere"
        return f"{spec.encoder}-{digest(asked)}"

    @property
    def by_fold(self) -> list[str]:
        """The streams whose features are made elsewhere for each fold, those of a fold in a folder of its own."""
        return [stream for stream, spec in self.features.items() if FOLD in getattr(spec, "folder", "")]

    def for_fold(self, fold: int) -> "Params":
        """The params with the features of one fold: `{fold}` in a folder is its number."""
        own = {s: self.features[s].folder.replace(FOLD, str(fold)) for s in self.by_fold}
        filled = {s: self.features[s].model_copy(update={"folder": folder}) for s, folder in own.items()}
        return self.model_copy(update={"features": {**self.features, **filled}})

    def sets(self, stream: str) -> dict[int | None, "Params"]:
        """The params that make each set of a stream's features: by fold, or under None the one set of all folds."""
        if stream not in self.by_fold:
            return {None: self}
        return {fold: self.for_fold(fold) for fold in range(1, 1 + self.folds.number)}

    def set_name(self, stream: str, fold: int | None) -> str:
        """What the set that a fold reads is called in preprocess.json: `video`, or `video, fold 2`."""
        return f"{stream}, fold {fold}" if stream in self.by_fold else stream

    def set_key(self, stream: str, fold: int | None) -> str:
        """Where that set stands in the params, to be said: `features.video`, or `fold 2: features.video`."""
        return f"fold {fold}: features.{stream}" if stream in self.by_fold else f"features.{stream}"

    def made_for_others(self, protocol: str, variant: str) -> str:
        """Why a protocol cannot run a row: its features were made for other folds; empty where it can."""
        made = [stream for stream in self.variants[variant].streams if stream in self.by_fold]
        if protocol != "random-split" or not made:
            return ""
        return (
            f"{variant} reads features.{made[0]}, which are made for each fold: the folds of random-split are others, "
            "so what made them has learned from utterances that are tested there; drop the row"
        )

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each stream is made of: sound, picture or numbers."""
        return {stream: spec.kind for stream, spec in self.features.items()}

    def fold_numbers(self, protocol: str) -> range:
        """The folds that a protocol tests, counted from 1."""
        every = self.folds.number
        return range(1, 1 + (self.folds.published or every if protocol == "published" else every))

    def never_tested(self, protocol: str) -> list[str]:
        """The sessions or speakers that no fold of the protocol tests (`folds.published`): its number is not whole."""
        tested = len(self.folds.groups) if self.folds.by == "split" else len(self.fold_numbers(protocol))
        return [g for group in self.folds.groups[tested:] for g in group]

    def digest(self, variant: str) -> str:
        """A digest of everything that can change the run of `variant` (not of names, seeds or other variants)."""
        p = self.for_variant(variant)
        own = {"foal-net": {"model", "loss"}, "cfn-sr": {"cfn_sr"}}.get(p.variants[variant].network, set())
        kept = p.model_dump(include={"clip", "training", *own}, exclude={"model": {"inputs": _FACT}})
        if p.training.reproducible == "here":  # runs of before there was this key stay what they are
            del kept["training"]["reproducible"]
        kept["corpus"], kept["folds"] = p._corpus, p.folds.asked
        kept["network"] = p.variants[variant].network
        kept["starts_from"] = {v: self.digest(v) for v in p.variants[variant].starts_from}
        kept["streams"] = {s: p.features[s].model_dump(exclude={"trained_on"}) for s in p.variants[variant].streams}
        return digest(kept)

    def for_variant(self, variant: str) -> "Params":
        """The params with the variant's own settings applied.

        Raises UserError for an unknown variant, naming the nearest.
        """
        if variant not in self.variants:
            raise UserError(unknown("variant", variant, self.variants))
        data = self.model_dump()
        for key, value in self.variants[variant].set.items():
            put(data, key, over(at(data, key), value), where=f"variant {variant}")
        changed = validate(Params, without_nulls(data), f"variant {variant}")
        return changed.model_copy(update={"differs": self.differs})
