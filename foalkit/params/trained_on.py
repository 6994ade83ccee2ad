"""What encoders were trained on, and whether they may have seen the corpus that they are tested on, or its speakers."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from foalkit.params.schema import Params


class DataSet(NamedTuple):
    """What a set of training data holds and the year it was published: nothing later is in it."""

    what: str
    year: int
    web: bool = False  # gathered from the web, so that what anybody had put there may be in it
    listed: bool = True  # what it holds can be looked up


DATA_SETS = {
    "AffectNet": DataSet("faces found by search engines", 2017, web=True),
    "FER2013": DataSet("faces found by image search", 2013, web=True),
    "GigaSpeech": DataSet("audiobooks, podcasts and YouTube videos", 2021, web=True),
    "ImageNet": DataSet("pictures of 1 000 kinds of objects found by image search", 2012, web=True),
    "ImageNet-21k": DataSet("pictures of 21 000 kinds of objects found by image search", 2011, web=True),
    "Libri-Light": DataSet("audiobooks read by volunteers", 2020),
    "LibriSpeech": DataSet("audiobooks read by volunteers", 2015),
    "MS-Celeb-1M": DataSet("celebrities' faces found by image search", 2016, web=True),
    "VGGFace2": DataSet("celebrities' faces found by image search", 2018, web=True),
    "VoxCeleb1": DataSet("interviews of celebrities known by name", 2017),
    "VoxCeleb2": DataSet("interviews of celebrities known by name", 2018),
    "VoxPopuli": DataSet("speeches in the European Parliament", 2021),
    "WIT-400M": DataSet("OpenAI's 400 million pictures with text from the web", 2021, web=True, listed=False),
}
# what the networks' papers and model cards say: WavLM (arXiv:2110.13900), CLIP (arXiv:2103.00020), the hub's card
NETWORKS = {
    "microsoft/wavlm-base": ["LibriSpeech"],
    "microsoft/wavlm-base-plus": ["Libri-Light", "GigaSpeech", "VoxPopuli"],
    "microsoft/wavlm-large": ["Libri-Light", "GigaSpeech", "VoxPopuli"],
    "timm/vit_large_patch14_clip_224.openai": ["WIT-400M"],
    "trpakov/vit-face-expression": ["ImageNet-21k", "FER2013"],
}
# the year a corpus was published, and whether anybody can copy it (IEMOCAP is sent to those who sign for it)
CORPORA = {"IEMOCAP": (2008, False), "RAVDESS": (2018, True), "CREMA-D": (2014, True)}


def trained_on(params: "Params") -> dict[str, list[str] | None]:
    """By stream, the data sets that its encoder, or the network it enters, was trained on; None where nobody says."""
    own = {s: x for s, x in params.model.inputs.items() if hasattr(x, "trained_on")}
    return {stream: data_sets(own.get(stream, spec)) for stream, spec in params.features.items()}


def data_sets(spec) -> list[str] | None:
    """The data sets that the network of a spec was trained on: [] for none, None where neither spec nor kit says."""
    if spec.trained_on is not None:
        return list(spec.trained_on)
    model = getattr(spec, "model", None)
    return [] if model == "small" else NETWORKS.get(getattr(spec, "pretrained", None) or model)


def in_words(names: list[str] | None) -> str:
    """Data sets as a table shows them."""
    return "not known" if names is None else ", ".join(names) or "nothing"


def may_have_seen(params: "Params") -> dict[str, str]:
    """By stream, why its encoder may have seen the corpus or its speakers; streams without a reason are left out."""
    if params.corpus.generate is not None:  # nobody else has seen those
        return {}
    corpus = params.corpus.printed[0] if params.corpus.printed else params.name
    said = {stream: _reason(names, corpus, stream in params.by_fold) for stream, names in trained_on(params).items()}
    return {stream: reason for stream, reason in said.items() if reason}


def _reason(names: list[str] | None, corpus: str, by_fold: bool) -> str:
    if names is None:
        return f"nobody says what it was trained on, so it may have seen {corpus}: set `trained_on` where you know it"
    own = [name for name in names if name.casefold().startswith(corpus.casefold())]
    if own and by_fold:
        return f"it was trained on {corpus} for each fold: make sure that none saw its fold's test and validation sides"
    if own:
        return f"it was trained on {corpus} itself: no speaker of it is new to this encoder"
    year, free = CORPORA.get(corpus, (0, True))
    for name in names:
        known = DATA_SETS.get(name)
        if known is None:
            return f"this kit does not know {name}: make sure that it does not hold {corpus}"
        if known.web and known.year >= year and (free or not known.listed):
            closed = "" if known.listed else ", and nobody can look up what it holds"
            if not year:
                return f"{name} ({known.what}, {known.year}) may hold {corpus}, unless that was never public{closed}"
            return f"{name} ({known.what}, {known.year}) is younger than {corpus} ({year}) and may hold it{closed}"
    return ""
