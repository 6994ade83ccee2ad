"""The model card (README.md) of a saved model: what it is, what it was trained on, what it reached, what it is not."""

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from foalkit.params.trained_on import in_words, may_have_seen, trained_on
from foalkit.results.scoring import FEW_SPEAKERS

# what the recordings' owners allow decides about weights made from them: (SPDX or "other", in words)
LICENCES = {
    "iemocap": (
        "other",
        "IEMOCAP is sent to those who sign its licence (research only); weights made from it fall under it.",
    ),
    "ravdess": ("cc-by-nc-sa-4.0", "RAVDESS is CC BY-NC-SA 4.0: no commercial use, and what is made of it stays so."),
}
GENERATED = ("mit", "The recordings are generated from numbers (CC0 1.0), so the weights are under the code's licence.")
UNKNOWN = ("other", "The licence of the recordings decides about these weights: ask their owner.")
RULES = {
    "honest": "The epoch of each fold was chosen on other speakers, who are neither trained on nor tested.",
    "published": "Test-selected: the epoch of each fold was chosen on its own test side, so the scores are too high.",
    "random-split": "Speakers stand on both sides of the split: the scores say nothing about a new speaker.",
}
TEMPLATE = """---
{{ card_data }}
---

{{ body }}
"""


def model_card(recognizer) -> ModelCard:
    """The card of a recognizer, with the hub's metadata above it."""
    p, scores, name = recognizer.params, recognizer.scores, f"{recognizer.variant} ({recognizer.params.name})"
    licence = GENERATED if recognizer.generated else LICENCES.get(p.corpus.reader, UNKNOWN)
    results = [
        EvalResult(
            task_type="audio-classification",
            task_name="emotion recognition",
            dataset_type=p.corpus.reader,
            dataset_name=_data(recognizer),
            metric_type=metric,
            metric_name=words,
            metric_value=round(100 * scores[key]["value"], 2),
        )
        for key, metric, words in (("ua", "recall", "UA, %"), ("wa", "accuracy", "WA, %"))
    ]
    data = ModelCardData(
        license=licence[0],
        **({"license_name": "as-the-recordings"} if licence[0] == "other" else {}),
        library_name="foalkit",
        tags=["emotion-recognition", "multimodal", "model_hub_mixin"],
        pipeline_tag="audio-classification",
        model_name=name,
        eval_results=results,
    )
    return ModelCard.from_template(data, template_str=TEMPLATE, body=_body(recognizer, name, licence[1]))


def _data(recognizer) -> str:
    corpus = recognizer.params.corpus
    if recognizer.generated:
        return f"generated puppets in {corpus.reader}'s layout"
    return corpus.printed[0] if corpus.printed else f"the corpus of {recognizer.params.name}"


def _body(recognizer, name: str, licence: str) -> str:
    p, scores, members = recognizer.params, recognizer.scores, recognizer.members
    people = "generated puppets, no people" if recognizer.generated else "recordings of people"
    clip = "whole utterances" if p.clip.part == "all" else f"the {p.clip.part} {p.clip.seconds:g} s of an utterance"
    folds = f"folds {', '.join(map(str, scores['folds']))} of {len(p.fold_numbers(scores['protocol']))}"
    seen, doubts = trained_on(p), may_have_seen(p)
    taught = ""
    if p.taught(recognizer.variant) == "soft":
        taught = " The cross-entropy was taught the shares of the raters' votes; the scores are of the label of most."
    streams = [f"| {s} | {p.features[s].encoder} | {in_words(seen.get(s))} |" for s in recognizer.streams]
    rows = [f"| {key.upper()} | {scores[key]['value']:.1%} | {_interval(scores, key)} |" for key in ("ua", "wa")]
    return "\n".join(
        [
            f"# {name}",
            "",
            f"Tells {_listed(recognizer.classes)} apart in a clip, from its {' and '.join(recognizer.streams)}: "
            f"{len(members)} runs of the row `{recognizer.variant}`, whose probabilities are averaged.",
            "",
            "```python",
            "from foalkit import Recognizer",
            'r = Recognizer.load("this folder, or owner/name on the hub")',
            'r("my.mp4")',
            "```",
            "",
            "## Data",
            "",
            f"Trained on {_data(recognizer)}: {people}. Labels: {_labels(p.corpus.labels)}.{taught} It reads {clip}.",
            "",
            "| stream | encoder | its network was trained on |",
            "|---|---|---|",
            *streams,
            *(f"\n{stream}: {doubts[stream]}." for stream in recognizer.streams if stream in doubts),
            "",
            "## Scores",
            "",
            f"Protocol `{scores['protocol']}`, {folds}. {RULES[scores['protocol']]}",
            f"{scores['utterances']} utterances of {scores['speakers']} speakers, each answered by the run that tests "
            "it. What all runs together reach on new speakers was not measured; on clips of this corpus they look "
            "better than they are, as most of them were trained on it.",
            "",
            "| | score | 95 % interval, speakers resampled |",
            "|---|---|---|",
            *rows,
            "",
            "UA is the mean recall over the emotions, WA the share of utterances that are right.",
            "",
            "## Limits",
            "",
            *(
                [f"* It was trained on {people}: what it answers to a person's clip means nothing."]
                * recognizer.generated
            ),
            f"* It always answers one of {len(recognizer.classes)} emotions, also where none of them is shown.",
            "* An answer says which recordings a clip resembles, not what a person feels. Do not judge anyone by it.",
            "* Other languages, microphones, cameras, ages and spontaneous speech were not tested. `unlike` in an "
            "answer compares a clip's statistics with the training data; a clip that passes may still be unlike them.",
            "",
            "## Licence",
            "",
            licence,
        ]
    )


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(name if label == name else f"{label} as {name}" for label, name in labels.items())


def _interval(scores: dict, key: str) -> str:
    low, high, speakers = scores[key]["low"], scores[key]["high"], scores["speakers"]
    if low is None:
        return f"none: {speakers} speakers are too few"
    return f"{low:.1%} to {high:.1%}" + f" (of {speakers} speakers)" * (speakers < FEW_SPEAKERS)
