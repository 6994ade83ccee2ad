"""What a recognizer says of one clip."""

import html
from dataclasses import asdict, dataclass

from foalkit import one_line


@dataclass(frozen=True)
class Answer:
    """The answer to one clip, or to a part of it; times are seconds of the file.

    `votes` holds each run's label and its probability, by the run's name. `unlike` says by stream how many times the
    limit (`features.familiar`) the clip is away from the training data: above 1 it is unlike them. `faces` is the share
    of pictures with a face, `silence` that of the sound that is 40 dB quieter than its loudest part; None: not known.
    """

    file: str
    label: str
    probabilities: dict[str, float]
    votes: dict[str, tuple[str, float]]
    used: tuple[float, float]
    seconds: float
    faces: float | None
    silence: float | None
    unlike: dict[str, float]
    notes: list[str]

    @property
    def probability(self) -> float:
        """The label's probability."""
        return self.probabilities[self.label]

    @property
    def is_unlike(self) -> bool | None:
        """Whether the clip is unlike the training data by any stream; None where that cannot be told."""
        return any(times > 1 for times in self.unlike.values()) if self.unlike else None

    def as_dict(self) -> dict:
        """The answer as JSON can hold it."""
        return {**asdict(self), "probability": self.probability, "is_unlike": self.is_unlike}

    def lines(self) -> dict[str, str]:
        """What there is to say, by its heading."""
        said = {"answer": f"{self.label} ({self.probability:.0%})"}
        said["probabilities"] = ", ".join(f"{name} {p:.0%}" for name, p in self.probabilities.items())
        if len(self.votes) > 1:
            said["votes"] = ", ".join(f"{name}: {label} {p:.0%}" for name, (label, p) in self.votes.items())
        said["used"] = f"{self.used[0]:.2f} to {self.used[1]:.2f} s of {self.seconds:.2f} s"
        if self.faces is not None:
            said["faces"] = f"in {self.faces:.0%} of the pictures"
        if self.silence is not None:
            said["silence"] = f"{self.silence:.0%} of the sound"
        far = ", ".join(f"{stream} {times:.2f}" for stream, times in self.unlike.items())
        words = "yes" if self.is_unlike else "not by this measure"
        said["unlike the training data"] = f"{words} ({far} times the limit)" if far else "not known"
        return said | ({"notes": "; ".join(self.notes)} if self.notes else {})

    def __str__(self) -> str:
        return "\n".join([one_line(self.file), *(f"  {name}: {text}" for name, text in self.lines().items())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align: left">{name}</th><td style="text-align: left">{html.escape(text)}</td></tr>'
            for name, text in self.lines().items()
        )
        return f"<table><caption>{html.escape(one_line(self.file))}</caption>{rows}</table>"
