"""Pretrained weights: pinned, checked, and for `model: small` written once with seeded random numbers."""

from foalkit import UserError
from foalkit.files import file_digest, first_line
from foalkit.params.load import expand


def pinned(model: str, revision: str | None, where: str) -> tuple[str, str, str | None]:
    """What transformers loads, what names its weights, and the hub commit (None for a local folder)."""
    if (folder := expand(model, f"{where}.model")).is_dir():
        weights = folder / "model.safetensors"
        if not weights.exists():
            raise UserError(f"{where}: {folder} holds no model.safetensors")
        return str(folder), file_digest(weights)[:16], None
    if revision is None:
        raise UserError(f"{where}: {model} is a hub name: pin its `revision` (a commit)")
    return model, revision, revision


def dtype(precision: str):
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def identity(spec, revision: str, precision: str) -> dict:
    """All of a network's spec that shapes its features, computed in `precision`; fp32 goes without saying."""
    beside = {"device", "batch", "region", "every", "summary", "precision", "trained_on"}
    kept = spec.model_dump(exclude=beside)
    return kept | ({} if precision == "fp32" else {"precision": precision}) | {"revision": revision}


def download(repository: str, file: str, revision: str) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(repository, file, revision=revision)
    except Exception as error:  # the hub client raises many unrelated kinds: absent, offline, forbidden
        raise UserError(f"{repository} at {revision} cannot be loaded: {first_line(error)}") from None


def check_width(where: str, name: str, width: int, expected: int) -> None:
    if width != expected:
        raise UserError(f"{where}: {name} gives {width} numbers a frame, the params say width {expected}")


def version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
