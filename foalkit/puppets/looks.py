"""What the puppets look like: ten speakers, their colours, proportions and hair."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """What stays the same about one speaker: colours (hex) and proportions (1 = average)."""

    skin: str
    hair: str
    iris: str
    cloth: str
    wall: str
    style: str
    width: float = 1.0
    jaw: float = 1.0
    eyes: float = 1.0
    brows: float = 1.0
    lips: str = "#b5524f"
    beard: bool = False
    glasses: bool = False
    collar: str = "round"
    temples: bool = False  # hair behind them: before a bright wall, gaps between hair and ears show


LOOKS = {
    "Ses01F": Look("#dba37a", "#8f6330", "#3b2a20", "#a4566b", "#cfd6df", "bun", 0.92, 0.86, 1.05, 0.85),
    "Ses01M": Look("#f7cfb5", "#4f3018", "#5f86b4", "#7c6a9c", "#d7dccd", "short", 1.03, 1.12, 0.95, 1.2,
                   "#b96a66", beard=True, collar="shirt"),
    "Ses02F": Look("#7a4a30", "#1f1815", "#2b1a12", "#d9a441", "#d5cfdf", "curly", 0.96, 0.92, 1.08, 0.95,
                   "#8a3a3c"),
    "Ses02M": Look("#82583d", "#2a201d", "#4a3320", "#64688f", "#cddcdc", "crop", 0.98, 1.05, 1.0, 1.25,
                   "#8f4a44"),
    "Ses03F": Look("#f3c9a8", "#c9a24d", "#5c8a68", "#3f7a7a", "#e0d6cb", "long", 0.93, 0.88, 1.1, 0.8,
                   "#c4545c"),
    "Ses03M": Look("#e3b48d", "#8c8c90", "#60788a", "#57684f", "#d2d9e4", "side", 1.06, 1.14, 0.9, 1.3,
                   "#b0605a", glasses=True, collar="shirt"),
    "Ses04F": Look("#c98d63", "#2c1d18", "#38241a", "#b8523a", "#d3dfd3", "bob", 0.98, 0.94, 1.0, 1.0,
                   "#b04048", glasses=True),
    "Ses04M": Look("#f4c3a4", "#a8431f", "#6e9a6a", "#3d5a80", "#e2dccd", "side", 0.97, 1.0, 1.0, 1.05,
                   "#bb6058", collar="shirt"),
    "Ses05F": Look("#96623f", "#5b2a1c", "#5a3b20", "#8a9a5b", "#dcd1d6", "pony", 0.94, 0.9, 1.06, 0.9,
                   "#9a3f44"),
    "Ses05M": Look("#5f3a26", "#161212", "#24160f", "#a23e48", "#cfdbe2", "crop", 1.02, 1.1, 0.97, 1.15,
                   "#74383a", beard=True),
}  # fmt: skip
HAIRLINES = {  # from one temple to the other
    "bun": "-0.92 0.50, -0.60 0.86, 0 1.08, 0.60 0.86, 0.92 0.50",
    "short": "-0.93 0.46, -0.72 0.80, -0.3 0.98, 0.3 0.98, 0.72 0.80, 0.93 0.46",
    "crop": "-0.94 0.40, -0.80 0.86, -0.35 1.02, 0.35 1.02, 0.80 0.86, 0.94 0.40",
    "side": "-0.94 0.42, -0.74 0.88, -0.42 1.02, 0.1 0.80, 0.62 0.72, 0.94 0.42",
    "long": "-1.00 -0.30, -0.86 0.40, -0.30 1.02, 0.05 1.10, 0.42 0.98, 0.88 0.40, 1.00 -0.30",
    "bob": "-1.02 -0.35, -0.86 0.30, -0.66 0.74, 0 0.80, 0.66 0.74, 0.86 0.30, 1.02 -0.35",
    "pony": "-0.93 0.48, -0.55 0.90, 0.1 1.06, 0.66 0.84, 0.93 0.48",
    "curly": "-0.95 0.40, -0.66 0.86, -0.2 0.98, 0.25 0.94, 0.66 0.86, 0.95 0.40",
}
BEHIND = {  # hair that falls behind the head and the shoulders
    "long": "0 1.35, 0.75 1.25, 1.12 0.7, 1.20 -0.3, 1.26 -1.1, 1.05 -1.75, 0.6 -1.7, 0 -1.2, "
    "-0.6 -1.7, -1.05 -1.75, -1.26 -1.1, -1.20 -0.3, -1.12 0.7, -0.75 1.25",
    "bob": "0 1.35, 0.78 1.22, 1.16 0.65, 1.24 -0.2, 1.16 -0.85, 0.8 -0.95, 0 -0.6, "
    "-0.8 -0.95, -1.16 -0.85, -1.24 -0.2, -1.16 0.65, -0.78 1.22",
    "pony": "0.5 1.3, 1.25 1.1, 1.50 0.2, 1.38 -0.9, 1.12 -0.6, 1.1 0.4, 0.8 0.9",
}
