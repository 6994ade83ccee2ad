"""Frozen features of CLIP and WavLM against the plain loop: one clip at a time, filled up to 6 s, fp32.

Run as `python -m benchmarks.extraction` (a CLIP of ViT-B/16's size, a WavLM of base size that normalises as
WavLM-Large does; `--large`: ViT-L/14 and WavLM-Large, some minutes; `--gpu`: those on a GPU). Weights are random:
speed does not depend on them, and equality is what both make of the same ones.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import method
from foalkit import devices
from foalkit.features.encoders.frame_networks import ClipEncoder
from foalkit.features.encoders.wavlm import WavLMEncoder
from foalkit.params.encoders import ClipImages, WavLM

SECONDS = (6.0, 3.0, 2.0)  # three clips: 61 % of their 18 s are real, as of IEMOCAP's
COSINE = 0.999  # of each bf16 frame to its fp32 one, at least
ATOL = 1e-4  # of fp32 frames whose spread is one
TURNS, FRAMES_SHOWN, SOUND = 5531, 611_000, 20_100  # IEMOCAP: turns, their frames and seconds within 6 s

BASE_CLIP = {"layers": 12, "width": 768, "patch_size": 16, "head_width": 64}
LARGE_CLIP = {"layers": 24, "width": 1024, "patch_size": 14, "head_width": 64}
BASE_WAVLM = {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE_WAVLM = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def clip_encoder(folder: Path, vision: dict, precision: str, *, size: int = 224, device: str = "cpu"):
    """A CLIP with random weights, written to `folder` on first use."""
    import open_clip
    from safetensors.torch import save_file

    name = f"bench-{vision['width']}-{vision['layers']}-{size}"
    file = folder / f"{name}.safetensors"
    config = {
        "embed_dim": vision["width"],
        "quick_gelu": True,
        "vision_cfg": {"image_size": size, **vision},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(folder / f"{name}.json")
    if not file.exists():
        torch.manual_seed(0)
        save_file(open_clip.create_model(name).state_dict(), file)
    spec = {"encoder": "clip", "model": name, "pretrained": str(file), "width": vision["width"]}
    return ClipEncoder(ClipImages(**spec, precision=precision, device=device), folder)


def wavlm_encoder(folder: Path, sizes: dict, precision: str, *, device: str = "cpu"):
    """A WavLM with random weights, written to `folder` on first use."""
    from transformers import WavLMConfig, WavLMModel

    place = folder / f"wavlm-{sizes['hidden_size']}-{sizes['num_hidden_layers']}"
    if not place.exists():
        torch.manual_seed(0)
        config = WavLMConfig(**sizes, feat_extract_norm="layer", do_stable_layer_norm=True, layerdrop=0.0)
        WavLMModel(config).save_pretrained(place)
    spec = {"encoder": "wavlm", "model": str(place), "width": sizes["hidden_size"]}
    return WavLMEncoder(WavLM(**spec, precision=precision, device=device), folder)


class PlainClip:
    """Each clip filled up with black frames to the longest, through the whole network, then cut."""

    def __init__(self, encoder: ClipEncoder, longest: int):
        self.encoder, self.longest = encoder, longest
        self.visual = copy.deepcopy(encoder.model.visual)

    @torch.inference_mode()
    def __call__(self, clips):
        made = []
        for frames in clips:
            padded = np.concatenate([frames, np.zeros((self.longest - len(frames), *frames.shape[1:]), np.uint8)])
            pixels = torch.from_numpy(padded).to(self.encoder.device).permute(0, 3, 1, 2).float() / 255
            made.append(self.visual((pixels - self.encoder.mean) / self.encoder.std)[: len(frames)].cpu().numpy())
        return made


class PlainWavLM:
    """Each clip filled up with silence to the longest, with its mask, then cut."""

    def __init__(self, encoder: WavLMEncoder, longest: int):
        self.encoder, self.longest = encoder, longest

    @torch.inference_mode()
    def __call__(self, clips):
        made, model = [], self.encoder.model
        for samples in clips:
            wave = torch.from_numpy(np.pad(samples, (0, self.longest - len(samples))))[None]
            mask = (torch.arange(self.longest) < len(samples)).long()[None]
            to = self.encoder.device
            states = model(wave.to(to), attention_mask=mask.to(to)).last_hidden_state
            frames = int(model._get_feat_extract_output_lengths(len(samples)))
            made.append(states[0, :frames].cpu().numpy())
        return made


def flops(vision: dict, size: int = 224) -> float:
    """FLOPs of one picture through a vision transformer."""
    tokens, d = (size // vision["patch_size"]) ** 2 + 1, vision["width"]
    layer = 2 * tokens * 12 * d**2 + 4 * tokens**2 * d
    return vision["layers"] * layer + 2 * (tokens - 1) * 3 * vision["patch_size"] ** 2 * d


def distance(plain, fp32, bf16=None) -> str:
    """How far the precisions are from the plain version; raises AssertionError beyond the tolerances."""

    def cosine(a, b):
        return ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()

    apart = max(np.abs(p - f).max() / p.std() for p, f in zip(plain, fp32, strict=True))
    assert apart <= ATOL, apart
    said = f"fp32 {apart:.0e} ({ATOL:.0e})"
    if bf16 is None:
        return said
    least = min(cosine(p, b) for p, b in zip(plain, bf16, strict=True))
    assert least >= COSINE, least
    return f"{said}, bf16 cosine {least:.5f} ({COSINE})"


def measure(rounds: int = 7, *, large: bool = False, rate: float = 0.67, size: int = 224) -> list[dict]:
    """The benchmark's rows, CPU time of one thread; `rate` frames a second of each clip go through CLIP.

    Ours is in bf16, or in fp32 too on a processor without units for it.
    """
    clip, sound = (LARGE_CLIP, LARGE_WAVLM) if large else (BASE_CLIP, BASE_WAVLM)
    return _rows(rounds, clip, sound, rate, size)


def _rows(rounds: int, clip: dict, sound: dict, rate: float, size: int) -> list[dict]:
    rng, rows = np.random.default_rng(0), []
    pictures = [rng.integers(0, 256, (int(s * rate), size, size, 3), dtype=np.uint8) for s in SECONDS]
    waves = [(0.1 * rng.standard_normal(int(16_000 * s))).astype(np.float32) for s in SECONDS]
    precisions = ("fp32", "bf16") if devices.has_bf16() else ("fp32",)
    ours, dtypes = precisions[-1], tuple({"fp32": torch.float32, "bf16": torch.bfloat16}[p] for p in precisions)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        cases = (
            (f"CLIP, {clip['layers']} layers of {clip['width']}",
             {p: clip_encoder(folder, clip, p, size=size) for p in precisions},
             PlainClip, pictures, flops(clip, size)),
            (f"WavLM, {sound['num_hidden_layers']} layers of {sound['hidden_size']}",
             {p: wavlm_encoder(folder, sound, p) for p in precisions},
             PlainWavLM, waves, None),
        )  # fmt: skip
        for what, encoders, plain, clips, work in cases:
            what = f"{what}, {ours}, {sum(SECONDS):.0f} s of clips, against padded fp32"
            loop, encoder = plain(encoders["fp32"], len(clips[0])), encoders[ours]
            equality = distance(loop(clips), *([e(c) for c in clips] for e in encoders.values()))
            actions = {"plain": lambda: loop(clips), "ours": lambda: [encoder(c) for c in clips]}  # noqa: B023
            seconds, rates = method.side_by_side(what, actions, rounds, dtypes=dtypes)
            share = None
            if work is not None:
                share = work * sum(map(len, clips)) / seconds["ours"] / rates[dtypes[-1]]
            rows.append(method.row(what, seconds["plain"], seconds["ours"], equality=equality, share=share))
    return rows


def measure_gpu(rounds: int = 7) -> list[dict]:
    """ViT-L/14 and WavLM-Large on a GPU, by the clock, and what the whole of IEMOCAP would take at that rate."""
    rng, rows = np.random.default_rng(0), []
    pictures = [rng.integers(0, 256, (int(s * 30), 224, 224, 3), dtype=np.uint8) for s in SECONDS]
    waves = [(0.1 * rng.standard_normal(int(16_000 * s))).astype(np.float32) for s in SECONDS * 8]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        cases = (
            ("CLIP ViT-L/14", lambda p: clip_encoder(folder, LARGE_CLIP, p, device="cuda"),
             PlainClip, pictures, FRAMES_SHOWN / sum(map(len, pictures))),
            ("WavLM-Large", lambda p: wavlm_encoder(folder, LARGE_WAVLM, p, device="cuda"),
             PlainWavLM, waves, SOUND * 16_000 / sum(map(len, waves))),
        )  # fmt: skip
        for what, make, plain, clips, times in cases:
            fp32, bf16 = make("fp32"), make("bf16")
            loop = plain(fp32, len(clips[0]))
            equality = distance(loop(clips), [fp32(c) for c in clips], [bf16(c) for c in clips])
            # both end with a copy to the host, which waits for the GPU
            actions = {"plain": lambda: loop(clips), "ours": lambda: [bf16(c) for c in clips]}  # noqa: B023
            both = method.by_the_clock(actions, rounds)
            whole = np.median(both["ours"]) * times / 60
            what = f"{what}, bf16 on the GPU by the clock; IEMOCAP {whole:.1f} min"
            rows.append(method.row(what, both["plain"], both["ours"], equality=equality))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    found = measure_gpu(given.rounds) if given.gpu else measure(given.rounds, large=given.large)
    for each in found:
        print(each)
