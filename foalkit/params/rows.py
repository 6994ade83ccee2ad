"""Rows of tables that files hold: the ablation's variants, the ledger, the registry of printed results."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from foalkit.params.strict import Few, Line, Name, Stream, Strict

Preset = Literal["ours", "paper", "code"]
OWN = ("model", "cfn_sr", "loss", "training")  # what may differ between rows: they share corpus, features and folds
Percent = Annotated[float, Field(ge=0, le=100)] | None
Printed = Annotated[tuple[Percent, Percent], Field(strict=False)]  # a list in YAML
Points = Annotated[tuple[float | None, float | None], Field(strict=False)]
Selected = Literal["validation-selected", "test-selected", "random-split", "unknown"]


class Variant(Strict):
    """One row of the ablation: the question it answers, its streams, and what it sets."""

    question: str
    label: Line
    modality: Line  # A, V or A+V
    streams: list[Stream] = Field(min_length=1)  # the first one asks and is asked as the paper's audio
    # whose one- or two-stream network the streams enter; late-product: none, a logistic regression each
    network: Literal["foal-net", "cfn-sr", "late-product"] = "foal-net"
    starts_from: list[Name] = []  # the variants whose runs of the same fold and seed give the first weights
    set: dict[str, Any] = {}  # settings of its own, by dotted key
    # method → (UA, WA) in percent, as printed; null: not printed
    published: dict[Line, Printed] = {}
    note: str = ""
    ledger: Few | None = None  # the ledger's row it belongs to: compared with foal-net, never printed

    @field_validator("set")
    @classmethod
    def _sets_its_own(cls, value):
        for key in value:
            if key.split(".")[0] not in OWN:
                raise ValueError(f"{key}: is the same for all rows; a row may set {', '.join(OWN)}")
        return value


class LedgerRow(Strict):
    """Where paper and released code part (params/ledger.yaml): what each says, and the settings that realise it."""

    topic: str
    paper: str
    code: str
    ours: str
    set: dict[Preset, dict[str, Any]] = {}
    variants: dict[Name, dict[str, Any]] = {}
    see: str = ""  # where the report answers a row without a switch


class PublishedRow(Strict):
    """A printed result (params/published.yaml): UA and WA (accuracy) in percent, and how the epoch was chosen."""

    system: Line
    year: int | None = None  # null: our own
    corpus: Line
    modality: Line
    ua: Percent = None
    wa: Percent = None
    protocol: Selected
    folds: str = ""
    parameters: float | None = Field(None, gt=0)  # millions
    source: str
    note: str = ""

    @model_validator(mode="after")
    def _has_a_number(self):
        if self.ua is None and self.wa is None and not self.note:
            raise ValueError("neither ua nor wa, and no note that says why")
        return self


class Claim(Strict):
    """What a paper claims, as a comparison of rows of the ablation (params/claims.yaml): `row` beats `against`."""

    claim: Line
    row: Name
    against: list[Name] = Field(min_length=1)  # of several, the one with the best UA on the validation sides
    metric: Literal["ua", "wa"] = "ua"
    terms: list[Literal["avel", "mem"]] = []  # of the loss, that the claim is about
    printed: Points = (None, None)  # the effect on UA and on WA in points, as printed; null: not printed
    source: str
    note: str = ""

    @model_validator(mode="after")
    def _compares_two(self):
        if self.row in self.against:
            raise ValueError(f"against: {self.row!r} is compared with itself")
        return self
