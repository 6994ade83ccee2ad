"""What a corpus may be: who reads its recordings, where they lie, and which label means which class."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from foalkit.params.errors import unknown
from foalkit.params.strict import Line, Name, Seed, Strict

PRINTED_CLASSES = {"CREMA-D": 6}
NO_SPEAKER = (
    "without it nobody can keep a speaker on one side of a split; a random split with speakers on both sides, as it "
    "would then be, prints 5 to 17 points more on RAVDESS"
)


class Puppets(Strict):
    """The generated corpus in IEMOCAP's layout (foalkit.puppets.iemocap)."""

    seed: Seed = Field(1, description="another seed, another corpus")
    turns_per_session: int = Field(90, ge=8, le=10_000, description="labelled turns of each session")
    sessions: int = Field(5, ge=2, le=30, description="how many sessions there are, of two speakers each")


class PuppetTakes(Strict):
    """The generated corpus in RAVDESS's layout (foalkit.puppets.ravdess)."""

    seed: Seed = Field(1, description="another seed, another corpus")
    takes_per_actor: int = Field(12, ge=4, le=28, description="takes of each actor")
    actors: int = Field(24, ge=1, le=24, description="how many actors there are")


class Recordings(Strict):
    """Where the recordings lie, and which label means which class."""

    printed: ClassVar[tuple[str, int] | None] = None  # the corpus in params/published.yaml, and its classes there
    has_split: ClassVar[bool] = False  # whether the corpus says which utterances train and which are tested
    has_votes: ClassVar[bool] = False  # whether it has the labels of several raters
    root: str = Field("", description="its folder; $NAME is of the environment; a generated corpus needs none")
    labels: dict[Line, Line] = Field(description="the corpus's label → class; utterances of other labels are left out")
    classes: list[Line] = Field(min_length=2, max_length=100, description="the emotions, in the order of the logits")

    @model_validator(mode="after")
    def _is_whole(self):
        if twice := [c for c in self.classes if self.classes.count(c) > 1]:
            raise ValueError(f"classes: {twice[0]!r} stands twice")
        for label, name in self.labels.items():
            if name not in self.classes:
                raise ValueError(f"labels.{label}: {unknown('class', name, self.classes)}")
        if unused := [c for c in self.classes if c not in self.labels.values()]:
            raise ValueError(f"classes: no label maps to {unused[0]!r}")
        if not self.root and self.generate is None:
            raise ValueError("root: say where the recordings lie")
        return self

    @property
    def recordings(self) -> dict:
        """Which recordings these are, wherever a generated corpus lies."""
        new = {"sessions"} if getattr(self.generate, "sessions", 5) == 5 else None  # runs of before stay what they are
        own = {"generate": self.generate.model_dump(exclude=new)} if self.generate else {"root": self.root}
        return {"reader": self.reader, **own}


class Iemocap(Recordings):
    """IEMOCAP's layout: label files, sentence wavs and split-screen dialogue videos."""

    printed: ClassVar = ("IEMOCAP", 4)
    reader: Literal["iemocap"]
    generate: Puppets | None = Field(None, description="puppets to write in this layout; null: real recordings")
    assert_counts: bool = Field(False, description="stop unless the counts are the literature's")


class Ravdess(Recordings):
    """RAVDESS's layout: a file per take and modality, named by its seven fields."""

    printed: ClassVar = ("RAVDESS", 8)
    reader: Literal["ravdess"]
    generate: PuppetTakes | None = Field(None, description="puppets to write in this layout; null: real recordings")


class Columns(Strict):
    """Which column holds what: a column's name, or a text with columns in braces, as `dia{Dialogue_ID}.mp4`."""

    audio: Line | None = Field(None, description="the sound's file; none: the corpus has none, or it is the video's")
    video: Line | None = Field(None, description="the film's file")
    label: Line | None = Field(None, description="the label, as `labels` maps it")
    raters: list[Line] = Field([], description="in place of `label`, a column for each rater's label; the most wins")
    counts: list[Line] = Field([], description="or a column for each label, named by it: how many raters gave it")
    speaker: Line | None = Field(None, description="who speaks; never on two sides of a split")
    utterance: Line | None = Field(None, description="the unique id; null: made of the file's name")
    session: Line | None = Field(None, description="the session; null: the speaker")
    dialogue: Line | None = Field(None, description="the dialogue; null: the utterance alone")
    kind: Line | None = Field(None, description="a word by which the report counts apart, as improvised")
    gender: Line | None = Field(None, description="F or M")
    start: Line | None = Field(None, description="seconds in the file at which it begins; null: at its beginning")
    end: Line | None = Field(None, description="seconds in the file at which it ends; null: at its end")
    transcript: Line | None = Field(None, description="what is said")
    crop: Line | None = Field(None, description="the speaker's picture, as `x y width height` in pixels")
    split: Line | None = Field(None, description="the corpus's own split, for `folds: {by: split}`")

    @model_validator(mode="after")
    def _says_who_speaks(self):
        if self.speaker is None:
            raise ValueError(f"speaker: name the speakers' column; {NO_SPEAKER}")
        if sum(map(bool, (self.label, self.raters, self.counts))) != 1:
            raise ValueError("label: name the label's column, or several under `raters` or `counts`")
        if self.start and not self.utterance:
            raise ValueError("utterance: name a column, since several utterances may lie in one file (start)")
        return self


class Described(Recordings):
    """Recordings whose layout the params describe."""

    generate: ClassVar[None] = None
    published: Literal["CREMA-D"] | None = Field(None, description="the corpus in params/published.yaml that it is")

    @property
    def printed(self) -> tuple[str, int] | None:
        """The corpus in params/published.yaml, and its classes there."""
        return (self.published, PRINTED_CLASSES[self.published]) if self.published else None

    @property
    def recordings(self) -> dict:
        """Which recordings these are, and which utterances the layout makes of them."""
        return self.model_dump(exclude={"labels", "classes", "published"})


class Table(Described):
    """A table (CSV, TSV, Parquet) with a row for each utterance."""

    reader: Literal["table"]
    table: Line | None = Field(None, description="the file, in the root or absolute; $NAME is of the environment")
    tables: dict[Name, Line] = Field(
        {}, description="in place of `table`, one for each side of the corpus's split, whose name {part} in a column is"
    )
    folders: dict[Name, Line] = Field({}, description="where each table's files lie, in the root; none: anywhere in it")
    columns: Columns = Field(description="which column holds what")
    rows: Line | None = Field(
        None, description="for a text that is no table: an expression; each line it matches is a row, its groups cells"
    )
    votes: Line | None = Field(None, description="the sign between several raters' labels in a cell; the most wins")
    cut: Literal["both", "video"] = Field(
        "both", description="what start and end cut; video: each sound file is one utterance already"
    )
    separator: Line | None = Field(None, description="the sign between cells; null: found from the first line")
    encoding: Line | None = Field(None, description="as cp1252; null: UTF-8, or what the file's first bytes say")

    @model_validator(mode="before")
    @classmethod
    def _lies_beside_its_table(cls, data: Any):
        table = data.get("table") if isinstance(data, dict) else None
        return {**data, "root": str(Path(table).parent)} if isinstance(table, str) and not data.get("root") else data

    @model_validator(mode="after")
    def _has_tables(self):
        if bool(self.table) == bool(self.tables):
            raise ValueError("table: name one table here, or several under `tables`")
        for part in self.folders:
            if part not in self.tables:
                raise ValueError(f"folders.{part}: {unknown('table', part, self.tables)}")
        if self.rows:
            _compiled("rows", self.rows)
        try:
            "".encode(self.encoding or "utf-8")
        except LookupError:
            raise ValueError(f"encoding: {self.encoding!r} is none; utf-8, utf-16 and cp1252 are some") from None
        return self

    @property
    def has_split(self) -> bool:
        """Whether it says which utterances train and which are tested."""
        return bool(self.tables or self.columns.split)

    @property
    def has_votes(self) -> bool:
        """Whether it has the labels of several raters."""
        return bool(self.votes or self.columns.raters or self.columns.counts)


class Names(Described):
    """Files whose names say who speaks and which label they have."""

    reader: Literal["names"]
    pattern: Line = Field(
        description="an expression with groups named speaker and label, that a file's name without its ending matches "
        "as a whole; with a / in it, the name and the folder before it"
    )
    audio: Line | None = Field(None, description="which files are sound, as AudioWAV/*.wav; null: by their endings")
    video: Line | None = Field(None, description="which files are films; null: by their endings")

    @field_validator("pattern")
    @classmethod
    def _names_speaker_and_label(cls, pattern):
        groups = list(_compiled("", pattern).groupindex)
        for needed in ("label", "speaker"):
            if needed not in groups:
                why = f"; {NO_SPEAKER}" if needed == "speaker" else ""
                only = f", only {', '.join(groups)}" if groups else ""
                raise ValueError(f"has no group (?P<{needed}>…){only}{why}")
        return pattern

    @property
    def has_split(self) -> bool:
        """Whether the names say which utterances train and which are tested."""
        return "split" in re.compile(self.pattern).groupindex


def _compiled(key: str, pattern: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{f'{key}: ' if key else ''}is no regular expression: {error}") from None


# who reads the recordings: the module of that name in foalkit.corpora (and foalkit.puppets, where it is generated)
Corpus = Annotated[Iemocap | Ravdess | Table | Names, Field(discriminator="reader")]
