"""Browsers for the notebooks: choose an utterance, a row or a fold, and see what is there of it.

They offer what exists and read it again at each choice; nothing is trained or written.
"""

import base64
import html
import weakref
from contextlib import ExitStack
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from foalkit import Recognizer, UserError
from foalkit.features.media import MediaError
from foalkit.files import scratch
from foalkit.params import Params
from foalkit.report import attention, figures, recordings, your_clip
from foalkit.report.explore import Opened
from foalkit.results import records, scoring, variants
from foalkit.results.variants import VariantResult

ALL = "all folds"


def picture(figure: Figure, alt: str) -> str:
    """The figure as HTML with its alternative text, which ipywidgets' own pictures do not have."""
    data = base64.b64encode(figures.png(figure)).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}" style="max-width: 100%">'


def _choice(description: str, options=()) -> widgets.Dropdown:
    return widgets.Dropdown(options=list(options), description=description, layout={"width": "28em"})


class _Recording(widgets.VBox):
    """The sound of one utterance, and some of its frames."""

    def __init__(self, root: Path):
        self.root, self.frames = root, widgets.HTML()
        self.sound = widgets.Audio(autoplay=False, loop=False)
        super().__init__([self.sound, self.frames])

    def show(self, turn: dict) -> None:
        said = [] if turn["video"] else ["no video file"]
        self.sound.value = b""
        try:  # no stream may be made of the sound, or of the film: nobody has read this one before
            self.sound.format, self.sound.value = recordings.playable(turn, self.root)
        except MediaError as error:
            said.append(html.escape(str(error)))
        if turn["video"]:
            try:
                figure = recordings.moments([turn | {"title": turn["emotion"]}], self.root)
                said.append(picture(figure, f"Frames of {turn['utterance']}, {turn['emotion']}"))
            except MediaError as error:
                said.append(html.escape(str(error)))
        self.frames.value = "<br>".join(said)


class Utterances(widgets.VBox):
    """Every utterance of a manifest: who speaks, its label and times, its sound, some of its frames."""

    def __init__(self, table: pd.DataFrame, root: Path):
        self.turns = table.set_index("utterance", drop=False)
        self.choice, self.words = _choice("utterance", self.turns.index), widgets.HTML()
        self.recording = _Recording(root)
        super().__init__([self.choice, self.words, self.recording])
        self.choice.observe(self._show, "value")
        self._show()

    def _show(self, _=None) -> None:
        turn = self.turns.loc[self.choice.value]
        self.words.value = turn[["emotion", "speaker", "start", "end"]].to_frame().T.to_html(border=0)
        self.recording.show(turn.to_dict())


class _Rows(widgets.VBox):
    """Dropdowns for row, protocol and fold; `runs` holds by (protocol, variant) what each fold is, by its name."""

    def __init__(self, params: Params, runs: dict[tuple[str, str], dict], at: tuple[str, str, str]):
        self.params, self.runs, self._moving = params, runs, True
        self.row, self.protocol, self.fold = (_choice(n) for n in ("row", "protocol", "fold"))
        self.protocol.options = list(dict.fromkeys(protocol for protocol, _ in runs))
        self.protocol.value = at[0]
        self._offer()
        self.row.value = at[1]
        self._offer()
        self.fold.value = at[2]
        self._moving = False
        for choice in (self.row, self.protocol, self.fold):
            choice.observe(self._moved, "value")
        super().__init__([self.row, self.protocol, self.fold])

    @property
    def chosen(self):
        """What `runs` holds of the chosen row, protocol and fold."""
        return self.runs[self.protocol.value, self.row.value][self.fold.value]

    def _offer(self) -> None:
        """The rows of the chosen protocol, the folds of the chosen row; what was chosen stays where it is offered."""
        rows = [v for protocol, v in self.runs if protocol == self.protocol.value]
        _put(self.row, [(self.params.variants[v].label, v) for v in rows], rows)
        folds = list(self.runs[self.protocol.value, self.row.value])
        _put(self.fold, folds, folds)

    def _moved(self, _) -> None:
        if not self._moving:
            self._moving = True
            self._offer()
            self._moving = False
            self.show()


def _rows(params: Params) -> list[tuple[str, str]]:
    return [(protocol, variant) for protocol, names in params.ablation.items() for variant in names]


def _put(choice: widgets.Dropdown, options: list, values: list) -> None:
    kept = choice.value
    if list(choice.options) != options:
        choice.options = options
        choice.value = kept if kept in values else values[0]


class Folds(_Rows):
    """UA, WA and the confusion matrix of any row whose folds are all there, over all folds or on one."""

    def __init__(self, params: Params, result: VariantResult):
        first = result.row["protocol"], result.row["variant"]
        rows = dict.fromkeys([*_rows(params), first])
        whole = [at for at in rows if at == first or not records.missing_runs(params, [at])]
        runs = {at: {ALL: None, **{f"fold {f}": f for f in params.fold_numbers(at[0])}} for at in whole}
        super().__init__(params, runs, (*first, ALL))
        self.words, self.confusion, self._results = widgets.HTML(), widgets.HTML(), {first: result}
        self.children += (self.words, self.confusion)
        self.show()

    def show(self) -> None:
        at = self.protocol.value, self.row.value
        if at not in self._results:
            self._results[at] = variants.variant_result(self.params, *at)
        result = self._results[at]
        part = result.pooled if self.chosen is None else result.pooled[result.pooled["fold"] == self.chosen]
        answers = part["true"], part["predicted"]
        scores = f"UA {scoring.ua(*answers):.1%}, WA {scoring.wa(*answers):.1%}"
        if self.chosen is None:
            scores += f", 95 % interval of UA [{result.row['ua_low']:.1%}, {result.row['ua_high']:.1%}]"
        speakers = ", ".join(sorted(part["speaker"].unique()))
        self.words.value = html.escape(f"{scores}; {part['utterance'].nunique()} utterances of {speakers}")
        title = f"{self.params.variants[at[1]].label}, {at[0]}, {self.fold.value}"
        counts = scoring.confusion(*answers, self.params.corpus.classes)
        self.confusion.value = picture(figures.confusion(counts, title), f"Confusion matrix of {title}")


class Answers(_Rows):
    """Every answer of any run that is there: the class probabilities, whether it is right, the recording.

    `run` is the record, with its folder, that is shown first; `turns` the manifest.
    """

    def __init__(self, params: Params, run: dict, turns: pd.DataFrame, root: Path):
        self.turns = turns.set_index("utterance", drop=False)
        found = [r for at in _rows(params) for r in records.read_runs(params, *at) if r["folder"] != run["folder"]]
        found = sorted([*found, run], key=lambda r: (r["fold"], r["seed"]))
        several = len({r["seed"] for r in found}) > 1
        runs: dict = {at: {} for at in _rows(params)}
        for r in found:
            name = f"fold {r['fold']}" + f", seed {r['seed']}" * several
            runs.setdefault((r["protocol"], r["variant"]), {})[name] = r
        runs = {at: folds for at, folds in runs.items() if folds}
        first = next(name for name, r in runs[run["protocol"], run["variant"]].items() if r is run)
        super().__init__(params, runs, (run["protocol"], run["variant"], first))
        self.utterance, self.words, self.answer = _choice("utterance"), widgets.HTML(), widgets.HTML()
        self.next_wrong = widgets.Button(description="next wrong answer")
        self.recording = _Recording(root)
        self.children += (self.utterance, self.next_wrong, self.words, self.answer, self.recording)
        self.utterance.observe(self._show_one, "value")
        self.next_wrong.on_click(self._to_next_wrong)
        self.show()

    def show(self) -> None:
        """The chosen run's answers; the same utterance, where it was tested there."""
        run = self.chosen
        test = records.read_predictions(run["folder"]).query("split == 'test'")
        self.test = test[test["epoch"] == run["scores"][run["selection"]]["epoch"]].set_index("utterance")
        self.test["predicted"], self.test["confidence"] = variants.answers(self.test)
        self.wrong = self.test.index[self.test["true"] != self.test["predicted"]].tolist()
        self.next_wrong.disabled = not self.wrong
        self._moving = True
        _put(self.utterance, self.test.index.tolist(), self.test.index.tolist())
        self._moving = False
        self._show_one()

    def _to_next_wrong(self, _) -> None:
        order = self.test.index.tolist()
        at = order.index(self.utterance.value)
        after = (*order[at + 1 :], *order[: at + 1])
        self.utterance.value = next(u for u in after if u in set(self.wrong))

    def _show_one(self, _=None) -> None:
        if self._moving:
            return
        utterance, classes = self.utterance.value, self.params.corpus.classes
        answer = self.test.loc[utterance]
        true, predicted = (classes[int(answer[c])] for c in ("true", "predicted"))
        said = f"{utterance}: the answer is {predicted} ({answer['confidence']:.0%}), " + (
            "which is right" if true == predicted else f"the label is {true}"
        )
        right = len(self.test) - len(self.wrong)
        self.words.value = html.escape(f"{said}. This run is right about {right} of {len(self.test)} utterances.")
        self.answer.value = picture(probabilities(answer, classes), f"Probabilities of the classes, {said}")
        self.recording.show(self.turns.loc[utterance].to_dict())


def probabilities(answer: pd.Series, classes: list[str]) -> Figure:
    """One answer's probability of each class; the label has the dark bar."""
    logits = answer.filter(like="logit_").to_numpy(float)
    share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    figure = Figure(figsize=(4.6, 0.32 * len(classes) + 0.6), layout="constrained")
    ax = figure.subplots()
    colours = [figures.FUSED if i == int(answer["true"]) else "#9fb3c8" for i in range(len(classes))]
    ax.barh(range(len(classes)), share, color=colours)
    for i, value in enumerate(share):
        ax.text(value + 0.02, i, f"{value:.0%}" + ", the label" * (i == int(answer["true"])), fontsize=8, va="center")
    ax.set_yticks(range(len(classes)), classes, fontsize=8)
    ax.set(ylim=(len(classes) - 0.5, -0.5), xlim=(0, 1.35))
    ax.set_xticks([0, 0.5, 1])
    ax.xaxis.set_major_formatter(PercentFormatter(1, 0))
    ax.tick_params(labelsize=8, length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return figure


class Attention(widgets.VBox):
    """What sound and picture look at in each other in any test utterance of a run, by layer and head."""

    def __init__(self, inside: Opened, root: Path):
        self.inside, self.root = inside, root
        sizes = inside.params.model
        self.utterance = _choice("utterance", inside.test)
        layers = [(f"layer {i + 1}", i) for i in range(sizes.layers)]
        self.layer = _choice("layer", layers)
        self.layer.value = sizes.layers - 1
        self.head = _choice("head", [("mean of the heads", None), *((f"head {i + 1}", i) for i in range(sizes.heads))])
        self.picture = widgets.HTML()
        choices = (self.utterance, self.layer, self.head)
        super().__init__([*choices, self.picture])
        for choice in choices:
            choice.observe(self._show, "value")
        self._show()

    def _show(self, _=None) -> None:
        seen = attention.looks(self.inside, self.utterance.value, self.root)
        how = {"layer": self.layer.value, "head": self.head.value}
        self.picture.value = picture(attention.picture(seen, self.root, **how), attention.describe(seen, **how))


class YourClip(widgets.VBox):
    """A file from this computer: played above its probabilities over time, and the answer to its beginning.

    It stays on the machine that runs the notebook, in a folder that goes with the widget. `file` is shown first.
    """

    def __init__(self, recognizer: Recognizer, file: Path, window: float, hop: float):
        self.recognizer, self.window, self.hop = recognizer, window, hop
        end = ExitStack()
        self._folder = end.enter_context(scratch())
        weakref.finalize(self, end.close)  # the folder goes with the widget
        self.upload = widgets.FileUpload(description="choose a file", accept="audio/*,video/*", multiple=False)
        self.played, self.answer = widgets.HTML(), widgets.HTML()
        super().__init__([self.upload, self.played, self.answer])
        self.upload.observe(self._chosen, "value")
        self.show(file)

    def _chosen(self, change) -> None:
        for given in change["new"]:
            file = self._folder / Path(given["name"]).name
            file.write_bytes(given["content"])
            self.show(file)

    def show(self, file: Path) -> None:
        """The film and its answers, or why there is none."""
        try:
            answer = self.recognizer(file)
            table = self.recognizer.over_time(file, min(self.window, answer.seconds), self.hop)
        except UserError as error:
            self.played.value, self.answer.value = "", html.escape(str(error))
            return
        figure = your_clip.over_time(table, self.recognizer.classes, answer.seconds)
        self.played.value = your_clip.player(file, figure, your_clip.describe(table), answer.seconds)
        self.answer.value = answer._repr_html_()
