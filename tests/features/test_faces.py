"""Faces: drawn where they are known, hidden and covered; real ones where the real clips are at hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from foalkit.corpora import iemocap
from foalkit.features import faces, media
from foalkit.features.faces import cut, detect, track

SIZE = 256


@pytest.fixture
def told(monkeypatch):
    """Replace the detector by a list of what it says, look by look: (x, y, side) or None."""

    def tell(says):
        answers = iter(says)
        monkeypatch.setattr(faces, "detect", lambda picture: next(answers))
        return says

    return tell


def blank(count, height=SIZE, width=SIZE):
    return (np.zeros((height, width, 3), np.uint8) for _ in range(count))


def centres(boxes):
    return boxes[:, :2] + boxes[:, 2:] / 2


# ---- boxes over time, the detector's word given ------------------------------------------------------


def test_a_still_face_gives_one_square_with_its_margin(told):
    told([(100.0, 90.0, 40.0)] * 3)
    boxes, found = track(blank(11), every=5, margin=0.25)
    assert boxes.dtype.kind == "i" and found.dtype == bool and found.all()
    assert boxes.tolist() == [[70, 60, 60, 60]] * 11


def test_pictures_between_looks_are_interpolated(told):
    told([(60.0, 100.0, 40.0), (80.0, 110.0, 40.0), (100.0, 120.0, 40.0)])
    boxes, _ = track(blank(9), every=4, smooth=1, margin=0.0)
    np.testing.assert_allclose(centres(boxes)[:, 0], 60 + 5 * np.arange(9), atol=0.5)
    np.testing.assert_allclose(centres(boxes)[:, 1], 100 + 2.5 * np.arange(9), atol=0.5)


def test_the_nearest_found_face_stands_in_for_a_hidden_one(told):
    left, right = (60.0, 60.0, 40.0), (180.0, 180.0, 40.0)
    told([None, left, None, None, right, None])
    boxes, found = track(blank(6), every=1, smooth=1, margin=0.0)
    assert found.tolist() == [False, True, False, False, True, False]
    assert centres(boxes)[:, 0].tolist() == [60, 60, 60, 180, 180, 180]


def test_found_speaks_for_the_nearest_look(told):
    told([(60.0, 60.0, 40.0), None, (60.0, 60.0, 40.0)])
    _, found = track(blank(12), every=5)
    assert found.tolist() == [True] * 3 + [False] * 5 + [True] * 4


def test_one_wrong_box_does_not_move_the_crop(told):
    face = (100.0, 100.0, 50.0)
    told([face] * 4 + [(220.0, 30.0, 20.0)] + [face] * 4)
    boxes, _ = track(blank(9), every=1, smooth=5, margin=0.0)
    assert boxes.tolist() == [[75, 75, 50, 50]] * 9


def test_boxes_are_running_medians_then_means(told):
    rng = np.random.default_rng(1)
    says = told([(*rng.uniform(80, 160, 2), 60.0) for _ in range(12)])

    def running(values, statistic):
        return [statistic(values[max(0, i - 1) : i + 2]) for i in range(len(values))]

    boxes, _ = track(blank(12), every=1, smooth=3, margin=0.0)
    for axis in (0, 1):
        expected = running(running([face[axis] for face in says], np.median), np.mean)
        assert np.abs(centres(boxes)[:, axis] - expected).max() <= 0.5


def test_noise_is_steadied_and_a_moving_head_is_followed(told):
    rng = np.random.default_rng(0)
    path = np.linspace(80, 180, 40)
    told([(x + dx, 120.0 + dy, 60.0) for x, (dx, dy) in zip(path, rng.normal(0, 3, (40, 2)), strict=True)])
    boxes, _ = track(blank(40), every=1, smooth=5)
    error = centres(boxes) - np.stack([path, np.full(40, 120.0)], 1)
    assert np.abs(np.diff(error, axis=0)).mean() < 1.2  # 3.4 without
    assert np.abs(error[3:-3]).max() < 5


@pytest.mark.parametrize("face", [(5.0, 5.0, 60.0), (250.0, 128.0, 90.0), (128.0, 255.0, 100.0), (128.0, 100.0, 400.0)])
def test_a_box_stays_inside_the_picture_and_square(told, face):
    told([face])
    ((x, y, width, height),), _ = track(blank(1, height=200))
    assert width == height <= 200 and x >= 0 and y >= 0 and x + width <= SIZE and y + height <= 200
    assert x <= min(face[0], SIZE - 1) <= x + width and y <= min(face[1], 199) <= y + height


def test_without_any_face_nothing_is_found(told):
    told([None] * 4)
    boxes, found = track(blank(16), every=5)
    assert not found.any() and found.shape == (16,) and not boxes.any()


def test_only_each_nth_picture_is_looked_at(monkeypatch):
    seen = []
    monkeypatch.setattr(faces, "detect", lambda picture: seen.append(picture[0, 0, 0]))
    track((np.full((8, 8, 3), n, np.uint8) for n in range(12)), every=5)
    assert seen == [0, 5, 10]


# ---- cutting -----------------------------------------------------------------------------------------


def test_a_cut_is_the_crop_brought_to_size():
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    np.testing.assert_array_equal(cut(picture, (30, 20, 40, 40), 40), picture[20:60, 30:70])
    crop = torch.tensor(picture[20:60, 30:70]).permute(2, 0, 1)[None]
    (smaller,) = torch.nn.functional.interpolate(crop, (24, 24), mode="bicubic", antialias=True)
    got = cut(picture, np.array([30, 20, 40, 40]), 24)
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - smaller.permute(1, 2, 0).numpy()).max() <= 1


def test_a_cut_is_antialiased():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    small = cut(stripes, (0, 0, 128, 128), 32)
    assert np.abs(small[:, 2:-2].astype(int) - 127).max() < 12


# ---- the detector itself -----------------------------------------------------------------------------


def iou(a, b):
    both = [max(0, min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    return both[0] * both[1] / (a[2] * a[3] + b[2] * b[3] - both[0] * both[1])


def test_the_puppets_heads_are_found_where_they_are(corpus):
    rows = iemocap.read(corpus)[0][::8]
    overlaps, rates = [], []
    for row in rows:
        x, y = row["crop"][:2]
        head = (row["face"][0] - x, row["face"][1] - y, *row["face"][2:])
        pictures = media.iter_frames(corpus / row["video"], row["start"], row["end"], crop=tuple(map(int, row["crop"])))
        boxes, found = track(pictures)
        rates.append(found.mean())
        overlaps += [iou(box, head) for box in boxes] if found.any() else []
    assert len(rows) >= 4 and np.mean(rates) > 0.8
    # the true box is the whole head over the whole dialogue, the detected one the face in that frame
    assert np.mean(overlaps) > 0.6 and min(overlaps) > 0.4


def test_there_is_no_face_in_noise():
    noise = np.random.default_rng(0).integers(0, 256, (200, 320, 3), np.uint8)
    assert detect(noise) is None


def test_real_faces_are_found_in_every_frame_and_held_still(ravdess_root):
    clip = sorted((ravdess_root / "clips").rglob("*.mp4"))[3]
    boxes, found = track(media.iter_frames(clip))
    assert found.all()
    side = boxes[:, 2].mean()
    assert 350 < side < 550  # of 720 rows; the actor sits in the middle
    assert np.abs(centres(boxes).mean(0) - [630, 370]).max() < 60
    assert np.abs(np.diff(centres(boxes), axis=0)).mean() < 0.005 * side
    looked = next(media.iter_frames(clip))
    x, y, _ = detect(looked)
    turned = np.ascontiguousarray(looked[:, ::-1])  # the mirror image's face is in the mirror's place
    mirrored = detect(turned)
    assert abs(mirrored[0] - (looked.shape[1] - x)) < 0.05 * side and abs(mirrored[1] - y) < 0.05 * side
    small = np.asarray(Image.fromarray(looked).resize((640, 360)))  # what is said does not depend on resolution
    assert np.abs(np.array(detect(small)) * 2 - detect(looked)).max() < 0.05 * side
