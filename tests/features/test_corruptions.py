"""Damage to sound and pictures: each function against what was asked for, by hand or by another library."""

import hashlib
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from foalkit.features import corruptions

RATE = 16_000


@pytest.fixture
def samples():
    """0.95 s of a tone that grows, so that every sample is another."""
    t = np.arange(15_200) / RATE
    return (0.3 * (1 + t) * np.sin(2 * np.pi * 440 * t + 0.3)).astype(np.float32)


@pytest.fixture
def frames():
    return np.random.default_rng(5).integers(0, 256, (9, 24, 32, 3), dtype=np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- sound ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("db", [20, 10, 0, -5.5])
def test_the_noise_is_as_strong_as_asked_for_and_white(samples, db):
    noisy = corruptions.noise(samples, db, rng())
    added = noisy.astype(float) - samples
    ratio = math.fsum(float(s) ** 2 for s in samples) / math.fsum(a**2 for a in added)
    assert 10 * math.log10(ratio) == pytest.approx(db, abs=1e-3)
    assert noisy.dtype == np.float32 and noisy.shape == samples.shape
    power = np.abs(np.fft.rfft(added)) ** 2  # as much in each quarter of the spectrum
    quarters = [part.sum() for part in np.array_split(power, 4)]
    assert max(quarters) < 1.1 * min(quarters)


def test_gaps_are_whole_pieces_of_a_tenth_of_a_second_as_many_as_asked_for(samples):
    holed = corruptions.gaps(samples, 0.3, rng(), rate=RATE)
    pieces = [(holed[i : i + 1600], samples[i : i + 1600]) for i in range(0, len(samples), 1600)]
    silent = [not now.any() for now, _ in pieces]
    assert len(pieces) == 10 and sum(silent) == 3
    assert all(np.array_equal(now, before) for (now, before), s in zip(pieces, silent, strict=True) if not s)
    drawn = [tuple(np.flatnonzero(corruptions.gaps(samples, 0.3, rng(seed), rate=RATE) == 0)) for seed in range(5)]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_some_sound_is_always_left(share):
    assert corruptions.gaps(np.ones(100, np.float32), share, rng(), rate=RATE).all()  # one piece
    assert corruptions.gaps(np.ones(3200, np.float32), share, rng(), rate=RATE).sum() == 1600


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 1600), (0.3, 4800), (1.0, 16_000), (0.00004, 1)])
def test_late_sound_comes_exactly_so_many_samples_later(samples, seconds, count):
    shifted = corruptions.late(samples, seconds, rate=RATE)
    assert not shifted[:count].any() and np.array_equal(shifted[count:], samples) and shifted.dtype == np.float32


# ---- pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.03, 0.1, 0.2])
def test_the_blur_is_a_gaussian_of_the_asked_width(share):
    y, x = np.mgrid[0:64, 0:80]
    scene = np.stack([128 + 100 * np.sin(x / 5 + c) * np.cos(y / 7) for c in range(3)], -1)
    scene[20:30, 30:50] = 255  # an edge
    frames = np.stack([scene, scene[::-1]]).clip(0, 255).astype(np.uint8)
    blurred = corruptions.blur(frames, share).astype(float)
    sigma = share * 64
    edge = math.ceil(1.5 * sigma)  # the two libraries go on beyond the edge in different ways

    def error(width):
        expected = gaussian_filter(frames.astype(float), (0, width, width, 0), mode="nearest")
        return np.abs(blurred - expected)[:, edge:-edge, edge:-edge]

    assert error(sigma).mean() < 1.2 and error(sigma).max() < 10
    assert min(error(sigma / 1.3).mean(), error(sigma * 1.3).mean()) > 2 * error(sigma).mean()


def test_darkness_leaves_a_share_of_every_value(frames):
    dark = corruptions.darken(frames, 0.1)
    naive = [
        [[[round(v / 10 + 1e-9) for v in pixel] for pixel in row] for row in frame] for frame in frames[:2].tolist()
    ]
    assert dark.dtype == np.uint8 and np.abs(dark[:2].astype(int) - naive).max() <= 1  # halves may round to even
    assert abs(dark.mean() / frames.mean() - 0.1) < 0.002
    assert not corruptions.darken(frames, 0.0).any() and np.array_equal(corruptions.darken(frames, 1.0), frames)


def test_dropped_frames_show_the_one_before_them(frames):
    dropped = corruptions.drop(frames, 0.5, rng(3))
    changed, shown = 0, frames[0]
    for now, before in zip(dropped, frames, strict=True):
        if np.array_equal(now, before):
            shown = before
        else:
            changed += 1
            assert np.array_equal(now, shown)
    assert changed == round(0.5 * 9)
    assert np.array_equal(corruptions.drop(frames[:1], 0.5, rng()), frames[:1])
    assert np.array_equal(corruptions.drop(frames[:2], 0.9, rng())[1], frames[0])


def test_the_mouth_is_covered_where_the_box_says(frames):
    boxes = np.array([[0, 0, 20, 20]] * 8 + [[10.0, -6, 10, 20]])
    covered = corruptions.cover(frames, boxes)
    changed = (covered != frames).any(-1)
    rows, columns = np.nonzero(changed[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 17, 4, 15)  # 0.62 to 0.9, 0.22 to 0.78
    assert (covered[0, 12:18, 4:16] == corruptions.GREY).all()
    rows, columns = np.nonzero(changed[8])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 11, 12, 17)
    assert not (frames[0, 12:18, 4:16] == corruptions.GREY).all()  # the frames that were given stay as they are


def test_a_face_outside_the_picture_covers_nothing(frames):
    assert np.array_equal(corruptions.cover(frames, np.tile([-50, -50, 20, 20], (9, 1))), frames)


# ---- the same everywhere ----------------------------------------------------------------------------


def test_a_seed_gives_the_same_damage_on_every_machine(frames):
    samples = (rng(7).integers(-9000, 9000, 5000) / 32768).astype(np.float32)
    made = {
        "noise": np.rint(corruptions.noise(samples, 10, rng(1)) * 10_000).astype(int),
        "gaps": corruptions.gaps(samples, 0.3, rng(1), rate=RATE) != 0,
        "drop": corruptions.drop(frames, 0.5, rng(1)),
        "blur": corruptions.blur(frames, 0.1),
        "darken": corruptions.darken(frames, 0.3),
    }
    digests = {name: hashlib.sha256(x.tobytes()).hexdigest()[:8] for name, x in made.items()}
    known = {"noise": "d28005ee", "gaps": "77c0143a", "drop": "aa6c542d", "blur": "752dd245", "darken": "ee19e1bc"}
    assert digests == known
