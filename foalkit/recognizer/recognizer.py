"""`Recognizer`: the runs of a variant, all folds together, on any media file."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from huggingface_hub import ModelHubMixin

from foalkit import ROOT, UserError, one_line
from foalkit.features import clips
from foalkit.features.familiar import Familiar
from foalkit.features.reader import FILE
from foalkit.features.reasons import Reason, or_reason
from foalkit.features.store import InMemory
from foalkit.features.times import frame_times
from foalkit.files import entries_below, refusal_to_enter, whole
from foalkit.params import Params
from foalkit.progress import progress
from foalkit.recognizer import runs, saved
from foalkit.recognizer.answer import Answer
from foalkit.results import records

AT_ONCE = 32  # windows whose features are in memory together
PUPPETS = "this model was trained on generated puppets"
LOOKED_AT = ["stream", "second", "weight"]
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class _Read:
    """What was read of one row: features by stream, and why a stream is absent."""

    row: dict
    features: dict[str, np.ndarray]
    absent: dict[str, str]
    notes: list[str] = field(default_factory=list)


class Recognizer(ModelHubMixin, library_name="foalkit"):
    """The runs of one variant as an ensemble: the mean of their probabilities.

    `load` makes one. Call it with a media file for an `Answer`; `over_time` goes over a film in windows, `folder` over
    all files of a folder, `save` writes a folder that `load` reads, here or from huggingface.co (`push_to_hub`).
    """

    def __init__(
        self, params: Params, variant: str, readers: dict, members: list[runs.Member], known=None, scores=None, found=()
    ):
        self.params, self.variant, self.readers, self.members = params, variant, readers, members
        self.streams, self.classes = params.variants[variant].streams, params.corpus.classes
        self._known, self._scores, self._found = known, scores, list(found)

    @classmethod
    def load(cls, where: str | Path) -> "Recognizer":
        """A variant's folder of runs (all that are there), one run's folder, a saved model's, or a name on the hub.

        Raises UserError, saying what could be read, for a place that holds none of these, and for features that were
        made elsewhere, which no clip can be turned into.
        """
        places = [Path(where).expanduser(), ROOT / where]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            if HUB_NAME.fullmatch(str(where)) and not Path(str(where).split("/")[0]).exists():
                return saved.from_hub(cls, str(where))
            raise UserError(f"{where}: there is no such folder, and it is no name on the hub (owner/name)")
        if (folder / saved.CONFIG).exists():
            return cls.from_pretrained(folder)
        found = [records.read_record(f / "record.json") | {"folder": f} for f in runs.run_folders(folder.absolute())]
        if not found:
            raise UserError(
                f"{where}: holds no run; name a variant's folder (outputs/demo/runs/honest/foal-net), one fold's in "
                "it, or a saved model"
            )
        place = found[0]["folder"].parent
        params, variant = runs.settings_of(found[0], place.parents[2])
        readers = runs.readers_of(params, variant)
        several = len({r["seed"] for r in found}) > 1
        members = []
        for r in found:
            name = f"fold {r['fold']}" + f", seed {r['seed']}" * several
            facts = {key: r[key] for key in runs.KEPT if key in r}
            weights = records.read_weights(r["folder"])
            members.append(runs.member(params, variant, name, facts, weights, runs.widths(readers)))
        return cls(params, variant, readers, members, found=found)

    @cached_property
    def known(self) -> dict[str, Familiar]:
        """By stream what is known of the training data; streams whose features are no longer there are left out."""
        return runs.known_data(self.params, self._found, self.streams) if self._known is None else self._known

    @cached_property
    def scores(self) -> dict:
        """UA and WA on the runs' test sides with their intervals, and of how many utterances, speakers and folds."""
        return runs.scores_of(self._found) if self._scores is None else self._scores

    @property
    def generated(self) -> bool:
        """Whether it was trained on generated puppets."""
        return self.params.corpus.generate is not None

    def __call__(self, file: str | Path, *, without: str | None = None, **part) -> Answer:
        """The answer to a media file, or to a part of it (`features.clips.clip_row`: start, end, crop, face, sound).

        As much of it is used as was of an utterance in training (`clip.seconds`, 30 s at most). `without` hides a
        stream. A two-stream model without one of its streams answers from the other, and says so. Raises UserError for
        a file from which nothing can be read.
        """
        row = clips.clip_row(Path(file), **part)
        read = self._read(row, without)
        self._refuse(read)
        shares = self._shares([read])[:, 0]  # (runs, classes)
        mean = shares.mean(0)
        said = self._seen_and_heard(row)
        unlike = {s: self.known[s].distance(x) for s, x in read.features.items() if s in self.known}
        used = [self.readers[s].used(row) for s in read.features]
        used = (min(start for start, _ in used), max(end for _, end in used))
        return Answer(
            file=row["utterance"],
            label=self.classes[int(mean.argmax())],
            probabilities=dict(zip(self.classes, mean.tolist(), strict=True)),
            votes={
                m.name: (self.classes[int(p.argmax())], float(p.max()))
                for m, p in zip(self.members, shares, strict=True)
            },
            used=used,
            seconds=row["length"],
            unlike=unlike,
            notes=self._notes(read, used, unlike, said["faces"]),
            **said,
        )

    def over_time(
        self, file: str | Path, window: float = 2.0, hop: float = 0.5, *, without: str | None = None, **part
    ) -> pd.DataFrame:
        """A row for each window of so many seconds, a hop apart: start, end, label, a column of probability a class.

        `<stream> at` is the moment (seconds of the file) of that stream which the other one looks at most (a fused
        Foal-Net). `note` says what was missing, the first one also what is odd about the whole file; a window from
        which nothing can be read has no label. The film is read window by window, however long it is. Raises UserError
        for a window longer than what the model uses at once.
        """
        clip = self.params.clip
        longest = clips.LONGEST if clip.part == "all" else clip.seconds
        if not 0 < window <= longest or not hop > 0:
            raise UserError(
                f"window={window}, hop={hop}: the model reads {longest} s at once, so at most that, above 0"
            )
        rows = clips.windows(clips.clip_row(Path(file), **part), window, hop)
        for reader in self.readers.values():
            reader.ahead = clips.AHEAD
        table = []
        try:
            groups = [rows[i : i + AT_ONCE] for i in range(0, len(rows), AT_ONCE)]
            for some in progress(groups, f"{AT_ONCE} windows each") if len(groups) > 1 else groups:
                table += self._window_rows([self._read(row, without) for row in some])
        finally:
            for reader in self.readers.values():
                reader.ahead = 0.0
        table = pd.DataFrame(table)
        if table["label"].isna().all():
            raise UserError(f"{rows[0]['utterance']}: no window can be read; the first: {table['note'].iloc[0]}")
        table.loc[0, "note"] = "; ".join(filter(None, [table["note"].iloc[0], *rows[0]["remarks"]]))
        return table

    def attention(self, file: str | Path, **part) -> pd.DataFrame:
        """What the streams of a part look at in each other: stream, second of the file, times an even look.

        The last layer's weights, mean over heads, the asking frames and the runs. Empty unless both streams of a
        fused Foal-Net are there.
        """
        read = self._read(clips.clip_row(Path(file), **part))
        self._refuse(read)
        return self._looked_at(read) if self._fused and not read.absent else pd.DataFrame(columns=LOOKED_AT)

    def folder(self, folder: str | Path) -> pd.DataFrame:
        """A row a file below a folder, by name: label, its probability, all classes', faces, silence, unlike, note.

        A file that cannot be used has no label, and the reason as its note. Hidden files and folders are left out.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder")
        found = {f: f.relative_to(folder) for f in entries_below(folder)}
        files = {
            f: one_line(name.as_posix())
            for f, name in found.items()
            if (not f.is_dir() or refusal_to_enter(f)) and not any(part.startswith(".") for part in name.parts)
        }
        if not files:
            raise UserError(f"{folder}: holds no file")
        table = []
        for file, name in progress(files.items(), "files"):
            row, said = {"file": name}, refusal_to_enter(file) or or_reason(file.name, self, file)
            if isinstance(said, str):
                table.append({**row, "note": one_line(said)})
                continue
            row |= {"label": said.label, "probability": said.probability, **said.probabilities}
            row |= {"faces": said.faces, "silence": said.silence, "seconds": said.seconds, "unlike": said.is_unlike}
            table.append({**row, "note": "; ".join(said.notes)})
        columns = ["file", "label", "probability", *self.classes, "faces", "silence", "seconds", "unlike", "note"]
        return pd.DataFrame(table).reindex(columns=columns)

    def save(self, folder: str | Path) -> Path:
        """Write all that an answer needs to a folder, and a model card (README.md); returns the folder.

        config.json (settings, encoders, classes, scores), model.safetensors (the weights of all runs with their
        standardisation, and what `known` holds). An earlier model there is the folder's until the new one is whole.
        Raises UserError for a folder with other files.
        """
        folder = Path(folder).expanduser()
        saved.write(self, folder)  # the mixin's own way begins by removing an earlier config.json
        with whole(folder / saved.CARD) as part:
            self.generate_model_card().save(part)
        return folder

    def _save_pretrained(self, save_directory: Path) -> None:
        saved.write(self, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **how) -> "Recognizer":
        return saved.read(cls, saved.local(model_id, **how))

    def generate_model_card(self, *args, **kwargs):
        from foalkit.recognizer.card import model_card

        return model_card(self)

    # ---- what happens inside ------------------------------------------------------------------------

    @property
    def _fused(self) -> bool:
        return len(self.streams) == 2 and self.params.variants[self.variant].network == "foal-net"

    def _read(self, row: dict, without: str | None = None) -> _Read:
        if without is not None and without not in self.streams:
            raise UserError(f"without={without!r}: the streams of {self.variant} are {', '.join(self.streams)}")
        features, absent, notes = {}, {}, []
        for stream, reader in self.readers.items():
            column = FILE[reader.kind]
            if stream == without:
                absent[stream] = "hidden"
            elif column in row["without"]:
                absent[stream] = row["without"][column]
            else:
                made = or_reason(row["utterance"], reader, row)
                if isinstance(made, Reason):
                    absent[stream] = one_line(made)
                else:
                    features[stream] = made
                if note := reader.notes.pop(row["utterance"], None):
                    notes.append(note)
        return _Read(row, features, absent, notes)

    def _usable(self, read: _Read) -> bool:
        """Whether the streams that are there are enough: CFN-SR's network needs all of its own."""
        return not read.absent or (bool(read.features) and self.params.variants[self.variant].network != "cfn-sr")

    def _refuse(self, read: _Read) -> None:
        if not self._usable(read):
            reasons = "; ".join(f"{stream}: {why}" for stream, why in read.absent.items())
            name = read.row["utterance"]
            raise UserError(f"{name}: {self.variant} needs {' and '.join(self.streams)}; {reasons}")

    def _stores(self, reads: list[_Read]) -> dict[str, InMemory]:
        stores = {}
        for stream, reader in self.readers.items():
            blank = np.zeros((1, reader.width), reader.dtype)  # hidden by its mask
            features = {str(i): read.features.get(stream, blank) for i, read in enumerate(reads)}
            stores[stream] = InMemory(features, reader.width, reader.dtype)
        return stores

    def _shares(self, reads: list[_Read]) -> np.ndarray:
        """The probabilities `(runs, N, classes)` of what was read."""
        from scipy.special import softmax

        shares = np.zeros((len(self.members), len(reads), len(self.classes)))
        for absent in {tuple(read.absent) for read in reads}:
            alike = [i for i, read in enumerate(reads) if tuple(read.absent) == absent]
            stores = self._stores([reads[i] for i in alike])
            names = [str(i) for i in range(len(alike))]
            for m, one in enumerate(self.members):
                found = runs.logits(self.params, self.variant, one, stores, names, list(absent))
                shares[m, alike] = softmax(found.astype(float), 1)
        return shares

    def _window_rows(self, reads: list[_Read]) -> list[dict]:
        usable = [read for read in reads if self._usable(read)]
        shares = iter(self._shares(usable).mean(0) if usable else ())
        table = []
        for read in reads:
            row = {"start": read.row["start"], "end": read.row["end"], "label": None}
            if self._usable(read):
                mean = next(shares)
                row |= {"label": self.classes[int(mean.argmax())], "probability": float(mean.max())}
                row |= dict(zip(self.classes, mean.tolist(), strict=True))
                if self._fused and not read.absent:
                    looked = self._looked_at(read)
                    most = looked.loc[looked.groupby("stream", sort=False)["weight"].idxmax()]
                    row |= {f"{s} at": at for s, at in zip(most["stream"], most["second"], strict=True)}
            table.append({**row, "note": "; ".join(f"without {s}: {why}" for s, why in read.absent.items())})
        return table

    def _looked_at(self, read: _Read) -> pd.DataFrame:
        import torch

        stores, parts = self._stores([read]), []
        first, second = self.streams
        with torch.inference_mode():
            for one in self.members:
                device = next(one.net.parameters()).device
                entered = one.net.enter({s: stores[s].tensors(["0"], device) for s in self.streams})
                weights = one.net.core.attention(*(x for x, _ in entered), *(mask for _, mask in entered))
                parts.append([w[0, -1].float().mean((0, 1)).cpu().numpy() for w in weights])
        tables = []
        # the first stream's frames look at the second one's, and the other way round
        for stream, weights in zip((second, first), zip(*parts, strict=True), strict=True):
            mean = np.mean(weights, 0)
            times, _ = frame_times(self.params, stream, read.row, Path(), len(mean))
            columns = {"stream": stream, "second": read.row["start"] + times, "weight": mean * len(mean)}
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def _seen_and_heard(self, row: dict) -> dict:
        """How often a face was found, and how much of the sound is silent."""
        name, faces, silence = row["utterance"], None, None
        for reader in self.readers.values():
            found, level = reader.found.pop(name, None), reader.levels.pop(name, None)
            faces = found if faces is None else faces
            silence = clips.silence(level) if level is not None else silence
        pictures = [r for r in self.readers.values() if r.kind == "picture"]
        if faces is None and pictures and row["video"]:
            faces = clips.faces_found(row, *pictures[0].used(row))
        return {"faces": faces, "silence": silence}

    def _notes(self, read: _Read, used: tuple[float, float], unlike: dict, faces: float | None) -> list[str]:
        notes = [f"answered without {stream}: {why}" for stream, why in read.absent.items()]
        notes += read.notes + read.row["remarks"]
        asked = read.row["end"] - read.row["start"]
        if used[1] - used[0] < asked - 0.05:
            notes.append(f"only {used[1] - used[0]:.2f} of {asked:.2f} s are used at once; over_time reads all of it")
        if faces == 0:
            notes.append("no face was found in the pictures")
        far = any(times > 1 for times in unlike.values())
        if self.generated:
            notes.append(f"{PUPPETS}, and this clip is not like one: its answer means nothing" if far else PUPPETS)
        elif far:
            notes.append("this clip is unlike the training data: the answer is a guess")
        return notes
