"""What the test side's sound and picture go through before trained rows answer again; nothing is trained with it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from foalkit.files import digest
from foalkit.params.strict import Name, Seed, Share, Strict

Part = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Condition:
    """One kind of damage (a key of `Robustness`) at one level, done to a clip's sound or to its pictures."""

    kind: str
    level: float
    of: Literal["sound", "picture"]

    @property
    def name(self) -> str:
        """As tables and figures call it: `noise at 10 dB`."""
        return WORDS[self.kind].format(level=self.level, percent=100 * self.level)


WORDS = {
    "noise_db": "noise at {level:g} dB",
    "gaps": "gaps in {percent:g} % of the sound",
    "late": "sound {level:g} s late",
    "blur": "blur over {percent:g} % of the side",
    "darkness": "{percent:g} % of the light",
    "mouth": "mouth covered",
    "dropped": "{percent:g} % of the frames dropped",
}
SOUND = ("noise_db", "gaps", "late")


class Robustness(Strict):
    """Trained rows on a damaged test side: which rows, and how much of each kind of damage."""

    rows: list[Name] = Field([], description="rows of the honest protocol that are tried; none: it is not measured")
    noise_db: list[Annotated[float, Field(ge=-30, le=100)]] = Field(
        [20.0, 10.0, 0.0], description="white noise, each a signal-to-noise ratio in dB"
    )
    gaps: list[Part] = Field([0.3], description="shares of the sound that are silence, in pieces of 0.1 s")
    late: list[Annotated[float, Field(gt=0, le=60)]] = Field(
        [0.1, 0.3, 1.0], description="seconds that the sound comes after its picture"
    )
    blur: list[Part] = Field([0.03], description="deviations of a Gaussian, as shares of the picture's side")
    darkness: list[Share] = Field([0.1], description="what is left of every pixel's value, as a share")
    mouth: bool = Field(True, description="cover the mouth, the middle of the lower half of the face")
    dropped: list[Part] = Field([0.5], description="shares of the frames that show the frame before them instead")
    seed: Seed = Field(0, description="of the noise, the gaps and the dropped frames")

    @property
    def conditions(self) -> list[Condition]:
        """All conditions, in the order of the keys."""
        levels = {kind: getattr(self, kind) for kind in WORDS} | {"mouth": [1.0] * self.mouth}
        return [
            Condition(kind, float(level), "sound" if kind in SOUND else "picture")
            for kind in WORDS
            for level in dict.fromkeys(levels[kind])
        ]

    @property
    def digest(self) -> str:
        """A digest of what is done to the test side, whichever rows answer."""
        return digest(self.model_dump(exclude={"rows"}))
