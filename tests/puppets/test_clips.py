"""A puppet's clip in memory: its parts fit together, and voice and face follow what each is told."""

import numpy as np
import pytest

from foalkit.puppets.clips import act

HAPPY, ANGRY, SAD = (1, 1), (1, -1), (-1, -1)


def clip(voice, face, seed=0):
    return act(np.random.default_rng(seed), "Ses03F", voice, face, seconds=1.3)


def test_sound_and_pictures_are_as_long_as_asked():
    made = clip(HAPPY, HAPPY)
    assert made.sound.shape == (20_800,) and made.sound.dtype == np.float32 and abs(made.sound).max() < 0.5
    assert made.pictures.shape == (10, 224, 224, 3) and made.pictures.dtype == np.uint8
    assert all((a != b).any() for a, b in zip(made.pictures, made.pictures[1:], strict=False))  # no picture twice


def test_the_same_seed_gives_the_same_clip_and_another_one_another():
    one, same, other = clip(HAPPY, HAPPY), clip(HAPPY, HAPPY), clip(HAPPY, HAPPY, seed=1)
    assert (one.sound == same.sound).all() and (one.pictures == same.pictures).all()
    assert (one.sound != other.sound).any() and (one.pictures != other.pictures).any()


def test_the_voice_follows_its_own_display_alone():
    loud, soft, frowning = clip(HAPPY, HAPPY), clip(SAD, HAPPY), clip(HAPPY, ANGRY)
    assert np.std(loud.sound) > 2 * np.std(soft.sound)
    assert (loud.sound == frowning.sound).all()


@pytest.mark.parametrize("face", [ANGRY, SAD])
def test_the_face_follows_its_own_display(face):
    smiling, other = clip(HAPPY, HAPPY), clip(HAPPY, face)
    again = clip(HAPPY, HAPPY, seed=2)

    def mouth(c):  # dark and light of the lower face, mean over the clip
        return c.pictures[:, 120:160, 80:144].astype(float).mean(0)

    assert abs(mouth(smiling) - mouth(other)).mean() > 1.5 * abs(mouth(smiling) - mouth(again)).mean()
