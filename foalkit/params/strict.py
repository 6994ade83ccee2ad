"""The base of all settings: frozen, nothing is converted, an unknown key is an error, every key says what it means."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


def _of(signs: str, words: str) -> AfterValidator:
    """Text of some signs, beginning with a letter or digit; raises ValueError with `words` for another."""

    def check(text: str) -> str:
        if not re.fullmatch(f"[A-Za-z0-9][A-Za-z0-9{signs}]*", text) or len(text) > 100:
            raise ValueError(
                f"a name is made of 100 letters, digits, {words} at most, beginning with a letter or digit"
            )
        return text

    return AfterValidator(check)


def _shown(text: str) -> str:
    """Text that stands in tables, figures and pages; raises ValueError for what cannot be seen there."""
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line of visible characters, without spaces around it")
    return text


# what may stand in a file's name, a shell line and a page's address as it is
Name = Annotated[str, _of("._-", "dots, hyphens and underscores")]
# a network's parts are called by it, and a dot parts their names
Stream = Annotated[str, _of("_-", "hyphens and underscores")]
# what is shown: a class, a label, a speaker
Line = Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(_shown)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Few = Annotated[int, Field(ge=1, le=1000)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Settings: frozen; an unknown key is an error. `foalkit params` prints the fields' descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)
