"""Faces of the demo corpus's puppets: some 80 shaded polygons moved by facial actions, drawn by Agg.

Shapes live in face units (half the head's width is about 1, y upwards, origin between the eyes and the nose).
A pose turns them into pixels; features nearer to the viewer shift more when the head turns: all the depth
there is. The renderer is matplotlib's, used without figures, because the kit depends on matplotlib anyway.
"""

from functools import lru_cache

import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform

from foalkit.puppets.acting import CONTROLS, product
from foalkit.puppets.looks import BEHIND, HAIRLINES, Look

PANEL = (240, 348)  # rows, columns of one actor's half of the picture
UNIT = 55.0  # pixels per face unit: a head of about 155 pixels, hair and all


class Portrait:
    """One speaker's drawing board of `panel` (rows, columns) pixels, kept between frames."""

    def __init__(self, look: Look, panel: tuple[int, int] = PANEL):
        self.look, self.panel = look, panel
        self._skin, self._hair, self._cloth = _rgb(look.skin), _rgb(look.hair), _rgb(look.cloth)
        rows, columns = panel
        self._agg = RendererAgg(columns, rows, 72)
        self._pixels = np.asarray(self._agg.buffer_rgba())
        self._gc = self._agg.new_gc()
        self._gc.set_capstyle("round")
        self._gc.set_joinstyle("round")
        self._place = IdentityTransform()
        y, x = np.mgrid[0:rows, 0:columns]
        glow = 1.03 - 0.16 * np.hypot((x - 0.4 * columns) / columns, (y - 0.3 * rows) / rows)
        glow[int(0.86 * rows) :] *= 0.93  # a dado rail, so that the wall is a wall
        wall = np.minimum(np.array(_rgb(look.wall)) * 255 * glow[..., None], 255)
        self._wall = np.dstack([wall, np.full((rows, columns), 255)]).astype(np.uint8)

    def draw(self, controls: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        """Draw `controls` (len(CONTROLS),) and return the picture (*panel, 3) uint8 with the head's box.

        The next call overwrites the picture. The box is left, top, right, bottom in pixels, rows downwards.
        """
        c = dict(zip(CONTROLS, controls.tolist(), strict=True))
        self._pixels[:] = self._wall
        self._shift = (c["turn"], c["nod"])
        cos, sin = np.cos(c["tilt"]), np.sin(c["tilt"])
        neck = np.array([self.panel[1] / 2, 58 + 5.8 * c["shoulders"]])
        offset = (c["sway"] + 0.25 * c["turn"] - 0.6 * c["tilt"], 1.30 + c["rise"])
        head = UNIT * (1 + c["lean"]) * np.array([[cos, sin], [-sin, cos]]), neck + np.multiply(offset, UNIT)
        self._matrix, self._origin = head
        self._hair_behind()
        self._matrix, self._origin = np.eye(2) * UNIT, np.add(neck, (0.4 * c["sway"] * UNIT, 0))
        self._body(c)
        self._matrix, self._origin = head
        box = self._head(c)
        self._wrinkles(c)
        for side in (-1, 1):
            self._eye(c, side)
            self._brow(c, side)
        self._nose(c)
        self._mouth(c)
        self._hair_front()
        if self.look.glasses:
            self._glasses()
        return self._pixels[..., :3], box

    # ---- parts, back to front --------------------------------------------------------------------

    def _hair_behind(self):
        dark, style = _shade(self._hair, 0.78), self.look.style
        if self.look.temples:
            for side in (-1, 1):
                self._fill(_oval(0.95 * side * self.look.width, 0.36, 0.09, 0.22), dark, depth=-0.1)
        if style in BEHIND:
            self._fill(_smooth(_points(BEHIND[style])), dark, depth=-0.3)
        if style == "bun":
            self._fill(_oval(0, 1.46, 0.40, 0.30), dark, depth=-0.3)
            self._fill(_oval(-0.06, 1.52, 0.26, 0.17), self._hair, depth=-0.3)
        if style == "curly":
            for angle in np.pi * np.linspace(-0.18, 1.18, 15):
                curl = _oval(1.13 * self.look.width * np.cos(angle), 0.42 + 0.93 * np.sin(angle), 0.33, 0.33)
                self._fill(curl, dark, depth=-0.2)

    def _body(self, c):
        skin, cloth, up = self._skin, self._cloth, 0.30 * c["shoulders"]
        wide = 1.72 + 0.10 * c["shoulders"]
        xs, ys = ([0.45, 1.1, wide - 0.15, wide, wide + 0.1], [0.02, 0.7 * up - 0.16, up - 0.42, up - 0.9, -1.6])
        self._shape(*_both(xs, ys, -0.02, -1.8), cloth)
        ys = [-0.15, 0.7 * up - 0.25, up - 0.6, -1.6, -1.7]
        self._shape([0.5, 1.1, wide - 0.1, wide, 0.8], ys, _shade(cloth, 0.88), 0.8)
        for side in (-1, 1):  # the sleeves' folds
            xs = [side * (wide - 0.42), side * (wide - 0.38)]
            self._curve(xs, [-1.4, up - 0.95], _shade(cloth, 0.7), 1.6, 0.7)
        self._shape(*_both([0.40, 0.42, 0.62], [0.55, 0.05, -0.08], 0.7, -0.46), _shade(skin, 0.9))
        self._shape(*_both([0.41, 0.40], [0.5, 0.12], 0.6, -0.16), _shade(skin, 0.72), 0.75)  # the chin's shadow
        if self.look.collar == "shirt":
            for side, light in ((-1, 1.25), (1, 1.12)):
                flap = _points("0.40 0.12, 0.72 -0.06, 0.42 -0.62, 0 -0.42") * (side, 1)
                self._fill(flap, _shade(cloth, light))
            self._curve([0, 0], [-0.42, -1.2], _shade(cloth, 0.75), 1.2)
        else:
            ys = [-0.05, -0.42, -0.52, -0.42, -0.05]
            self._curve([-0.62, -0.3, 0, 0.3, 0.62], ys, _shade(cloth, 0.78), 3.0)

    def _head(self, c):
        skin, w, j, drop = self._skin, self.look.width, self.look.jaw, 0.16 * c["jaw"]
        jaw = 0.70 * w * (0.6 + 0.4 * j)
        xs = [0.58 * w, 0.90 * w, 0.97 * w, 0.91 * w, jaw, 0.36 * w * j]
        ys = [1.16, 0.74, 0.18, -0.36 - drop / 3, -0.86 - drop, -1.20 - drop]
        outline = _smooth(np.stack(_both(xs, ys, 1.26, -1.30 - drop), 1))
        for side in (-w, w):
            ear = _points("0.93 0.22, 1.08 0.30, 1.15 0.10, 1.08 -0.22, 0.97 -0.34, 0.90 -0.1") * (side, 1)
            self._fill(_smooth(ear), _shade(skin, 0.9), depth=-0.3)
            self._curve(*(ear[1:4] * (0.97, 0.8)).T, _shade(skin, 0.68), 1.3, depth=-0.3)
        self._fill(outline, skin)
        # Soft shading: translucent crescents on the far side, one light patch on the forehead.
        for edge in (0.30, 0.43, 0.56, 0.69):
            far = [0.50, *xs[1:-1], 0.9 * xs[-1], 0.5 * edge, 0.36 + edge / 2, 0.45 + edge / 2, 0.3 + edge / 2]
            self._shape(far, [1.16, *ys[1:-1], -1.18 - drop, -1.12 - drop, -0.5, 0.3, 0.9], _shade(skin, 0.80), 0.16)
        self._fill(_oval(-0.22, 0.82, 0.46, 0.22), _shade(skin, 1.12), 0.30, depth=0.05)
        for x in (-0.56 * w, 0.56 * w):
            for ring in (1.0, 0.75, 0.5):  # concentric ovals make a soft blush
                cheek = _oval(x, 0.06 * c["smile"] - 0.33, 0.30 * ring, 0.21 * ring)
                self._fill(cheek, (0.92, 0.33, 0.30), 0.05 + 0.13 * max(c["blush"], 0), depth=0.12)
        if self.look.beard:
            inner = _points("0.86 -0.02, 0.74 -0.42, 0.50 -0.56, 0.22 -0.52") * (w, 1)
            rim = np.array([(0.925 * w, ys[3]), (jaw * 1.01, ys[4] - 0.01), (xs[5], ys[5] - 0.02)])
            half = np.concatenate([inner[::-1], rim])
            self._shape(*_both(*half.T.tolist(), -0.50, -1.33 - drop), self._hair, 0.62)
        corners = product(outline, self._matrix) + self._origin
        (left, low), (right, high) = corners.min(0), corners.max(0)
        rows = self.panel[0]
        return left - 0.22 * UNIT, rows - high - 0.36 * UNIT, right + 0.22 * UNIT, rows - low

    def _wrinkles(self, c):
        dark = _shade(self._skin, 0.62)
        raised = 0.5 * max(c["inner"], 0) + 0.15 * max(c["outer"], 0)
        for y in (0.80, 0.92):
            self._curve([-0.42, 0, 0.42], [y, y + 0.05, y], dark, 1.6, raised)
        fold = max(c["smile"], 0.8 * c["wrinkle"], 0.5 * c["frown"], 0)
        bag = max(c["squint"], c["droop"], 0)
        for s in (-1, 1):
            self._curve([s * 0.07, s * 0.09, s * 0.11], [0.36, 0.46, 0.58], dark, 2.2, 0.85 * c["knit"])
            xs = [s * 0.24, s * 0.42, s * (0.50 + 0.05 * c["smile"])]
            self._curve(xs, [-0.28, -0.46, -0.72], dark, 1.8, 0.12 + 0.6 * fold)
            self._curve([s * 0.22, s * 0.40, s * 0.58], [0, -0.10, -0.04], dark, 1.4, 0.15 + 0.4 * bag)
            for k in (-1, 0, 1):  # crow's feet
                ys = [0.15 + 0.03 * k, 0.16 + 0.09 * k]
                self._curve([s * 0.74, s * 0.85], ys, dark, 1.3, 0.7 * max(c["squint"], 0) * c["smile"])
            for y in (0.06, 0.15):
                self._curve([s * 0.05, s * 0.15], [y, y + 0.06], dark, 1.6, 0.8 * c["wrinkle"])

    def _eye(self, c, side):
        skin, iris, size = self._skin, _rgb(self.look.iris), self.look.eyes
        x0, y0, half = side * 0.43, 0.16, 0.225 * size
        shut = min(max(c["blink"], 0), 1)
        opening = 0.135 * size * (1 + 0.55 * c["wide"] - 0.5 * c["droop"] - 0.3 * c["squint"])
        upper = max(opening, 0.02) * (1 - shut) - 0.05 * shut
        lower = 0.095 * size * (1 - 0.65 * max(c["squint"], 0)) * (1 - 0.4 * shut)
        t = np.linspace(-1, 1, 13)
        x, arch = x0 + half * t, (1 - t**2) ** 0.65
        slant = -0.05 * c["inner"] * side * t * arch  # the inner corner follows the brow
        lid = y0 + upper * arch + slant + 0.02 * side * t
        floor = np.minimum(y0 - lower * arch, lid)
        # The socket and the upper lid, then what the opening shows, cut to it by clamping between the lids.
        self._fill(_oval(x0, y0 + 0.04, half * 1.28, 0.235 * size), _shade(skin, 0.86), 0.55, depth=0.1)
        self._fill(_ribbon(x, y0 + 0.20 * size * arch + slant, lid), _shade(skin, 0.93), depth=0.1)
        self._line(x, lid + (0.05 + 0.03 * c["droop"]) * arch, _shade(skin, 0.6), 1.2, 0.7, depth=0.1)

        def disc(dx, dy, radius, colour, alpha=1.0):
            points = _oval(x0 + 0.085 * c["gaze_x"] + dx, y0 + 0.01 + 0.06 * c["gaze_y"] + dy, radius, radius)
            points[:, 0] = np.clip(points[:, 0], x[0], x[-1])
            points[:, 1] = np.clip(points[:, 1], *(np.interp(points[:, 0], x, edge) for edge in (floor, lid)))
            self._fill(points, colour, alpha, depth=0.1)

        if shut < 0.9:
            self._fill(_ribbon(x, lid, floor), (0.97, 0.97, 0.96), depth=0.1)
            disc(0, 0, 0.128 * size, _shade(iris, 0.7))
            disc(0, 0, 0.108 * size, iris)
            disc(0, -0.035, 0.075 * size, _shade(iris, 1.45), 0.5)
            disc(0, 0, 0.056 * size, (0.05, 0.04, 0.04))
            self._fill(_ribbon(x, lid, np.maximum(lid - 0.045, floor)), (0.2, 0.15, 0.2), 0.28, depth=0.1)
            disc(-0.04, 0.045, 0.026, (1, 1, 1))
            disc(0.035, -0.04, 0.014, (1, 1, 1), 0.8)
        self._line(x, lid, (0.12, 0.08, 0.08), 2.2 if self.look.jaw >= 1 else 3.2, depth=0.1)
        self._line(x[2:-2], floor[2:-2], _shade(skin, 0.55), 1.1, 0.8, depth=0.1)

    def _brow(self, c, side):
        inner, outer = c["inner"], c["outer"]
        x = side * np.array([0.17 - 0.07 * c["knit"], 0.40 - 0.03 * c["knit"], 0.60, 0.76])
        lift = [0.17 * inner, 0.06 * inner + 0.10 * outer, 0.17 * outer, 0.15 * outer]
        y = np.array([0.47, 0.52, 0.525, 0.44]) + lift - 0.05 * max(c["squint"], 0) * (inner < 0)
        weight = 0.058 * self.look.brows * np.array([1.0, 1.15, 0.85, 0.15])
        colour = _shade(self._hair, 0.72 if sum(self._hair) > 1.2 else 0.9)
        self._fill(_smooth(_ribbon(x, y + weight, y - weight)), colour, depth=0.12)

    def _nose(self, c):
        skin, dark, up = self._skin, _shade(self._skin, 0.6), 0.05 * c["wrinkle"]
        ys = [0.18, -0.12, up - 0.30, up - 0.37, -0.2]
        self._shape([0.02, 0.10, 0.19, 0.06, 0.0], ys, _shade(skin, 0.8), 0.55, depth=0.3)
        self._fill(_oval(-0.03, up - 0.20, 0.07, 0.09), _shade(skin, 1.18), 0.5, depth=0.32)
        ys = [0.12, -0.1, up - 0.26, up - 0.36, up - 0.37]
        self._curve([0.07, 0.11, 0.18, 0.10, 0.0], ys, dark, 1.6, 0.75, depth=0.28)
        flare = 0.14 + 0.03 * c["wrinkle"]
        for side in (-1, 1):
            self._fill(_oval(side * flare * 0.62, up - 0.345, 0.045, 0.022), _shade(skin, 0.42), 0.8, depth=0.28)
            xs = [side * flare, side * (flare + 0.05), side * flare]
            self._curve(xs, [up - 0.22, up - 0.30, up - 0.355], dark, 1.5, 0.6, depth=0.26)

    def _mouth(self, c):
        skin, lip, jaw, upper = self._skin, _rgb(self.look.lips), max(c["jaw"], 0), max(c["upper"], 0)
        half = 0.34 + 0.13 * c["smile"] + 0.09 * c["stretch"] + 0.07 * c["lips"] - 0.03 * (c["pout"] + c["frown"])
        bend = 0.24 * c["smile"] - 0.22 * c["frown"]
        y0 = 0.03 * c["pout"] - 0.06 * jaw - 0.35 * bend - 0.70
        t = np.linspace(-1, 1, 17)
        x, arch = half * t, (1 - t**2) ** 0.75
        line = y0 + bend * np.abs(t) ** 1.7
        top = line + (0.075 * upper + 0.05 * jaw) * (1 - np.abs(t) ** 2.6)
        bottom = line - (0.26 * jaw + 0.045 * upper) * arch
        gap, slim = (top - bottom).max(), 1 - 0.6 * c["press"]
        bow = 0.075 * slim * (1 - t**2) * (1 - 0.30 * np.exp(-((t / 0.16) ** 2)))
        full = (0.095 + 0.05 * c["pout"]) * slim * (1 - t**2) ** 0.8
        below = _oval(0, y0 - 0.26 * jaw + 0.02 * c["pout"] - 0.20, 0.26, 0.05)
        self._fill(below, _shade(skin, 0.72), 0.45, depth=0.15)
        if gap > 0.02:
            tongue = np.clip(bottom + 0.45 * gap * arch, bottom, np.maximum(top - 0.05, bottom))
            teeth = np.maximum(top - min(0.10, 0.55 * gap + 0.01), bottom)
            self._fill(_ribbon(x, top, bottom), (0.28, 0.06, 0.08), depth=0.15)
            self._fill(_ribbon(x, tongue, bottom, 3), (0.78, 0.32, 0.34), depth=0.15)
            self._fill(_ribbon(x, top, teeth, 1), (0.98, 0.97, 0.94), depth=0.15)
            if upper > 0.3:  # bared: the lower row shows too
                self._fill(_ribbon(x, np.minimum(bottom + 0.05 * arch, top), bottom, 3), (0.93, 0.92, 0.88), depth=0.15)
        self._fill(_ribbon(x, top + bow, top), _shade(lip, 0.88), depth=0.15)
        self._fill(_ribbon(x, bottom, bottom - full), lip, depth=0.15)
        self._fill(_ribbon(x, bottom - 0.3 * full, bottom - 0.62 * full, 5), _shade(lip, 1.35), 0.5, depth=0.15)
        self._line(x, top, _shade(lip, 0.5), 1.4, depth=0.15)
        if gap > 0.02:
            self._line(x, bottom, _shade(lip, 0.55), 1.0, 0.7, depth=0.15)
        for y in (-1.02, -1.08):  # the chin's furrow
            self._curve([-0.12, 0, 0.12], [y, y + 0.04, y], _shade(skin, 0.6), 1.6, 0.7 * c["pout"], depth=0.1)

    def _hair_front(self):
        hair, w, style = self._hair, self.look.width, self.look.style
        temple = "1.14 -0.2" if style in ("long", "bob") else "1.05 0.25"
        crown = _points(f"{temple}, 1.02 0.62, 0.88 1.08, 0.50 1.36") * (w, 1)
        top = [(0, 1.48 if style == "side" else 1.42)]
        outline = [_points(HAIRLINES[style]) * (w, 1), crown, top, crown[::-1] * (-1, 1)]
        self._fill(_smooth(np.concatenate(outline)), hair, depth=-0.05)
        for x, y in ((-0.42, 1.20), (-0.32, 1.29)):
            light = _shade(hair, 1.3 if sum(hair) > 0.6 else 1.7)
            self._curve([x, -0.1, 0.28], [y - 0.06, y, y - 0.02], light, 2.2, 0.55)
        if style == "curly":
            for k, angle in enumerate(np.pi * np.linspace(0.05, 0.95, 9)):
                curl = _oval(0.80 * w * np.cos(angle), 0.72 + 0.56 * np.sin(angle), 0.24, 0.24)
                self._fill(curl, _shade(hair, 1.0 if k % 2 else 1.25))

    def _glasses(self):
        frame = (0.16, 0.15, 0.17)
        for side in (-1, 1):
            rim = "0.14 0.23, 0.23 0.34, 0.63 0.34, 0.72 0.23, 0.67 -0.05, 0.43 -0.11, 0.19 -0.05, 0.14 0.23"
            rim = _points(rim) * (side, 1)
            lens = _smooth(rim[:-1])
            self._fill(lens, (1, 1, 1), 0.10, depth=0.16)
            self._line(*np.concatenate([lens, lens[:1]]).T, frame, 2.2, depth=0.16)
            self._curve([side * 0.72, side * 0.98 * self.look.width], [0.20, 0.22], frame, 2.0)
        self._curve([-0.14, 0, 0.14], [0.20, 0.25, 0.20], frame, 2.2, depth=0.16)

    # ---- strokes ---------------------------------------------------------------------------------

    def _shape(self, xs, ys, colour, alpha=1.0, depth=0.0):
        self._fill(_smooth(np.stack([xs, ys], 1)), colour, alpha, depth)

    def _curve(self, xs, ys, colour, width, alpha=1.0, depth=0.05):
        if alpha > 0.02:
            self._line(*_smooth(np.stack([xs, ys], 1), closed=False).T, colour, width, alpha, depth)

    def _fill(self, points, colour, alpha=1.0, depth=0.0):
        self._gc.set_linewidth(0)
        self._stroke(points, (*colour, min(max(alpha, 0), 1)), depth)

    def _line(self, xs, ys, colour, width, alpha=1.0, depth=0.05):
        self._gc.set_linewidth(width)
        self._gc.set_foreground((*colour, min(max(alpha, 0), 1)), isRGBA=True)
        self._stroke(np.stack([xs, ys], 1), None, depth)

    def _stroke(self, points, face, depth):
        points = product(points + np.multiply(self._shift, depth), self._matrix) + self._origin
        self._agg.draw_path(self._gc, Path(points), self._place, face)


def _both(xs: list, ys: list, top: float, bottom: float) -> tuple[list, list]:
    """Return the symmetrical outline whose right half is given, from the axis's `top` to its `bottom`."""
    return [0, *xs, 0, *(-x for x in reversed(xs))], [top, *ys, bottom, *reversed(ys)]


def _ribbon(x: np.ndarray, above: np.ndarray, below: np.ndarray, cut: int = 0) -> np.ndarray:
    """Return the band between two curves over `x`, ending `cut` points short of either corner."""
    inner = slice(cut, len(x) - cut)
    return np.concatenate([np.stack([x, above], 1)[inner], np.stack([x, below], 1)[inner][::-1]])


def _oval(x: float, y: float, a: float, b: float) -> np.ndarray:
    return _CIRCLE * (a, b) + (x, y)


_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)


def _smooth(points: np.ndarray, *, closed: bool = True) -> np.ndarray:
    """Return a Catmull-Rom curve through `points` (n, 2), six vertices to a span."""
    return product(_spline(len(points), closed), points)


@lru_cache(maxsize=64)
def _spline(n: int, closed: bool) -> np.ndarray:
    u = np.linspace(0, 1, 6, endpoint=False)
    weights = 0.5 * np.stack([-u + 2 * u**2 - u**3, 2 - 5 * u**2 + 3 * u**3, u + 4 * u**2 - 3 * u**3, u**3 - u**2], 1)
    spans = n if closed else n - 1
    basis = np.zeros((spans * 6 + (not closed), n))
    for span in range(spans):
        for k in range(4):
            i = span + k - 1
            basis[span * 6 : span * 6 + 6, i % n if closed else min(max(i, 0), n - 1)] += weights[:, k]
    if not closed:
        basis[-1, -1] = 1
    return basis


@lru_cache(maxsize=64)
def _points(text: str) -> np.ndarray:
    return np.array([pair.split() for pair in text.split(",")], float)


@lru_cache(maxsize=64)
def _rgb(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _shade(colour: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    return tuple(min(channel * factor, 1.0) for channel in colour)
