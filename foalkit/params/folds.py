"""Which utterances each fold holds out: the groups that a file lists, as many as it asks for, or the corpus's own."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from foalkit.params.strict import Few, Line, Seed, Strict

OWN_SPLIT = [["test"], ["validation"], ["train"]]  # one fold: its groups in the order in which folds take them
MOST = 100  # folds that are dealt


class Folds(Strict):
    """What each fold holds out: listed groups, `count` dealt ones, or a corpus's own split (`by: split`, one fold)."""

    by: Literal["session", "speaker", "split"] = Field(
        "session", description="what is held out together: the manifest's column that the groups name"
    )
    groups: list[Annotated[list[Line], Field(min_length=1)]] = Field(
        min_length=2, description="the sessions or speakers that each fold holds out; none with `count` or `by: split`"
    )
    published: Few | None = Field(None, description="how many the published protocol tests; null: all")
    count: int | None = Field(
        None, ge=2, le=MOST, description="how many folds are dealt, each with its share of every class"
    )
    seed: Seed = Field(0, description="of the dealing (`count`)")
    shared: list[Literal["speaker"]] = Field(
        [], description="what a corpus's own split has on several sides (`by: split`); every report says so"
    )

    @model_validator(mode="before")
    @classmethod
    def _names_its_groups(cls, data: Any):
        """Folds that are dealt, and a corpus's own sides, have names of their own."""
        if not isinstance(data, dict):
            return data
        made = OWN_SPLIT if data.get("by") == "split" else None
        if (count := data.get("count")) is not None:
            valid = type(count) is int and 2 <= count <= MOST
            made = [[f"fold {n}"] for n in range(1, (count if valid else 2) + 1)]
            if not valid:  # that comes first
                return {**data, "groups": data.get("groups", made)}
        if made and data.get("groups") not in (None, made):
            raise ValueError("groups: say either them, or `count`, or `by: split` (folds.groups=null drops them)")
        return {**data, "groups": made} if made else data

    @model_validator(mode="after")
    def _no_more_than_there_are(self):
        if self.by == "split" and self.count:
            raise ValueError("count: a corpus's own split is one fold; deal folds by speaker or session")
        if self.shared and self.by != "split":
            raise ValueError("shared: only a corpus's own split may have speakers on several sides (by: split)")
        if (self.published or 0) > self.number:
            raise ValueError(f"published: {self.published} of {self.number} groups")
        every = [g for group in self.groups for g in group]
        if twice := [g for g in every if every.count(g) > 1]:
            raise ValueError(f"groups: {twice[0]!r} is held out twice")
        return self

    @property
    def column(self) -> str:
        """The manifest's column that `groups` names."""
        return "fold" if self.count else self.by

    @property
    def number(self) -> int:
        """How many folds there are."""
        return 1 if self.by == "split" else len(self.groups)

    @property
    def asked(self) -> dict:
        """What can change a run; of before there was `count`, what there was then."""
        said = {"count": self.count, "seed": self.count, "shared": self.shared}
        return self.model_dump(exclude={key for key, value in said.items() if not value})
