"""A saved model: config.json, model.safetensors and README.md, as the hub's libraries write them."""

import re
import shutil
from pathlib import Path

from foalkit import UserError, __version__
from foalkit.features.familiar import Familiar
from foalkit.files import (
    digest,
    entries_below,
    file_digest,
    first_line,
    read_mapping,
    remove,
    sweep,
    whole,
    write_json,
    write_tensors,
)
from foalkit.params.load import expand
from foalkit.recognizer import runs

CONFIG, WEIGHTS, NETWORKS, CARD = "config.json", "model.safetensors", "weights", "README.md"
NEXT = (
    ".next.safetensors"  # the weights of a model that is being saved: theirs are WEIGHTS once its config.json is there
)
FORMAT = 2
PLACES = ("model", "pretrained", "folder")  # the keys of an encoder that may name a local file or folder


def write(recognizer, folder: Path) -> None:
    """Write the weights of all runs beside earlier ones, then config.json, which decides whose model it is.

    A process that is killed leaves the earlier model or the new one, whole: `read` takes the weights whose digest
    config.json holds. Networks with local weights are copied beside them. Raises UserError for a folder that holds
    other files.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    others = sorted(f.name for f in folder.iterdir() if not f.name.endswith(".part"))
    if others and not {CONFIG, NEXT} & set(others):
        raise UserError(f"{folder}: holds other files ({others[0]}); name a new folder, or a saved model's")
    _finish(folder)  # a save that was killed
    (folder / NEXT).touch()  # from now on what lies here is known to be ours
    settings = _settings(recognizer, folder)
    tensors = {f"runs.{i}.{n}": w for i, m in enumerate(recognizer.members) for n, w in m.weights.items()}
    for stream, known in recognizer.known.items():
        tensors |= {f"known.{stream}.{n}": torch.tensor(getattr(known, n)) for n in ("mean", "deviation")}
    write_tensors(folder / NEXT, tensors, {"format": "pt"})
    row = recognizer.params.variants[recognizer.variant]
    config = {
        "library": "foalkit",
        "format": FORMAT,
        "foalkit": __version__,
        "variant": recognizer.variant,
        "row": row.model_dump(include={"question", "label", "modality", "streams", "network"}),
        "classes": recognizer.classes,
        "settings": settings,
        "runs": [{"name": m.name, **m.facts} for m in recognizer.members],
        "limits": {stream: known.limit for stream, known in recognizer.known.items()},
        "scores": recognizer.scores,
        "weights": file_digest(folder / NEXT),
    }
    write_json(folder / CONFIG, config)
    _finish(folder)
    named = {Path(spec[key]).name for _, spec, key in _places(settings)}
    for copy in (folder / NETWORKS).glob("*"):  # of the earlier model
        if re.fullmatch(r".*-[0-9a-f]{16}(\.\w+)?", copy.name) and copy.name not in named:
            remove(copy)


def _finish(folder: Path) -> None:
    """Put the weights of config.json at their place, where a save was killed before that."""
    try:
        written = read_mapping(folder / CONFIG).get("weights")
    except (OSError, ValueError):  # not there, or not whole
        return
    if _is(folder / NEXT, written):
        (folder / NEXT).replace(folder / WEIGHTS)


def read(cls, folder: Path):
    """The recognizer that `write` wrote; raises UserError for files that are not whole or of another format."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = read_mapping(folder / CONFIG)
        if (config.get("library"), config.get("format")) != ("foalkit", FORMAT):
            raise UserError(f"{folder.name}: {CONFIG} is not of a model that this version of foalkit saved")
        file = next((f for f in (folder / WEIGHTS, folder / NEXT) if _is(f, config["weights"])), None)
        if file is None:
            raise ValueError(f"{WEIGHTS} is not the one that {CONFIG} was written with")
        tensors = load_file(file)
        variant, settings = config["variant"], _resolved(config["settings"], folder)
        # networks with seeded random weights lie beside the outputs' folder
        params = runs.params_of(settings, {variant: config["row"]}, folder.absolute() / "run")
        readers = runs.readers_of(params, variant)
        members = []
        for i, facts in enumerate(config["runs"]):
            weights = _below(tensors, f"runs.{i}.")
            rest = {key: value for key, value in facts.items() if key != "name"}
            members.append(runs.member(params, variant, facts["name"], rest, weights, runs.widths(readers)))
        known = {}
        for stream, limit in config["limits"].items():
            kept = _below(tensors, f"known.{stream}.")
            known[stream] = Familiar(kept["mean"].numpy(), kept["deviation"].numpy(), limit)
        return cls(params, variant, readers, members, known, config["scores"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder}: not a whole saved model ({first_line(error)}); save it again") from None


def from_hub(cls, name: str):
    """A saved model by its name on huggingface.co; raises UserError where it cannot be fetched."""
    try:
        return cls.from_pretrained(name)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises many unrelated kinds: absent, offline, forbidden
        why = first_line(error)
        raise UserError(f"{name}: neither a folder here nor a model that can be fetched from the hub ({why})") from None


def local(model_id: str, **how) -> Path:
    """The folder of a model, fetched from the hub where it is none."""
    if Path(model_id).is_dir():
        return Path(model_id)
    from huggingface_hub import snapshot_download

    known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
    patterns = [CONFIG, WEIGHTS, NEXT, f"{NETWORKS}/**"]
    return Path(snapshot_download(model_id, allow_patterns=patterns, **{k: how[k] for k in known if k in how}))


def _below(tensors: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def _settings(recognizer, folder: Path) -> dict:
    """The params without what lies on this machine; local networks of the encoders are copied into the folder."""
    p = recognizer.params
    kept = p.model_dump(mode="json", exclude={"variants", "ablation", "robustness", "outputs", "name", "about"})
    kept |= {"name": p.name, "about": "a saved model"}
    if not kept["corpus"].get("root", "").startswith("$"):
        kept["corpus"]["root"] = Path(kept["corpus"].get("root", "")).name
    kept["features"] = {s: kept["features"][s] for s in recognizer.streams}
    kept["model"]["inputs"] = {s: x for s, x in kept["model"]["inputs"].items() if s in recognizer.streams}
    kept["training"]["standardise"] = [s for s in kept["training"]["standardise"] if s in recognizer.streams]
    for stream, spec, key in _places(kept):
        place = expand(spec[key], key)
        if spec[key] == "small":
            for made in p.weights_folder.glob(f"*-small-{spec['width']}"):
                _copy(made, folder / NETWORKS / made.name)
        elif place.exists():
            files = [f for f in entries_below(place) if f.is_file()] if place.is_dir() else [place]
            # another model's of the same name may lie there
            made_of = digest([[f.relative_to(place).as_posix(), file_digest(f)] for f in files])
            spec[key] = f"{NETWORKS}/{stream}-{key}-{made_of}{place.suffix}"
            _copy(place, folder / spec[key])
    return kept


def _copy(place: Path, to: Path) -> None:
    if not to.exists():
        with whole(to) as part:
            shutil.copytree(place, part) if place.is_dir() else shutil.copy(place, part)


def _places(settings: dict) -> list[tuple[str, dict, str]]:
    """(stream, settings, key) of every key that may name a local file or folder."""
    parts = [*settings["features"].items(), *settings["model"]["inputs"].items()]
    return [(stream, spec, key) for stream, spec in parts for key in PLACES if spec.get(key)]


def _is(file: Path, written: str) -> bool:
    return file.exists() and file_digest(file) == written


def _resolved(settings: dict, folder: Path) -> dict:
    """The settings with the copied networks at their places in the folder."""
    for _, spec, key in _places(settings):
        if re.match(rf"{NETWORKS}/", str(spec[key])):
            spec[key] = str(folder.absolute() / spec[key])
    return settings
