"""The base of all settings: frozen, an unknown key is an error, and every key says what it means."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# what may stand in a file's name, a shell line and a page's address as it is
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
# a network's parts are called by it, and a dot parts their names
Stream = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Settings: frozen; an unknown key is an error. `foalkit params` prints the fields' descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
