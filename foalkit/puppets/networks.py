"""Small networks with seeded random weights (`model: small`), in the formats of the real ones that they stand for."""

import json
from pathlib import Path

from foalkit.files import whole, write_tensors


def small_wavlm(folder: Path, width: int) -> Path:
    """A WavLM of 2 layers with seeded random weights, saved once, with the real one's frame rate (20 ms)."""
    from transformers import WavLMConfig, WavLMModel

    config = WavLMConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        layerdrop=0.0,
    )
    _save_once(folder, lambda target: _save(WavLMModel(config), target))
    return folder


def small_vit(folder: Path, width: int) -> Path:
    """A ViT of 2 layers with seeded random weights for 7 expressions, 64² pixels, saved once."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * width,
        image_size=64,
        patch_size=8,
        num_labels=7,
    )

    def write(target: Path) -> None:
        _save(ViTForImageClassification(config), target)
        ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(target)

    _save_once(folder, write)
    return folder


def small_clip(folder: Path, width: int) -> tuple[str, str]:
    """A CLIP of 2 layers with seeded random weights: its registered name and its weights file, saved once."""
    import open_clip

    name = f"small-{width}"
    config = {
        "embed_dim": width,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }

    def write(target: Path) -> None:
        (target / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
        write_tensors(target / "weights.safetensors", open_clip.CLIP(**config).state_dict())

    _save_once(folder, write)
    open_clip.add_model_config(folder / f"{name}.json")
    return name, str(folder / "weights.safetensors")


def _save(network, target: Path) -> None:
    # not save_pretrained: of processes that share a run only the first one's would write the weights
    network.config.save_pretrained(target)
    write_tensors(target / "model.safetensors", network.state_dict(), {"format": "pt"})


def _save_once(folder: Path, write) -> None:
    """`write` a network with seeded random weights into `folder`, which is there when it is whole."""
    import torch

    if folder.exists():
        return
    try:
        with whole(folder) as part, torch.random.fork_rng(devices=[]):
            part.mkdir()
            torch.manual_seed(1)
            write(part)
    except OSError:
        if not folder.exists():  # else another job was quicker; the numbers are the same
            raise
