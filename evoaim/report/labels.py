"""Where to put the names of a few marked points so that they hide as little as possible."""

from collections.abc import Sequence

Pixel = tuple[float, float]  # x to the right, y downwards
Box = tuple[float, float, float, float]  # left, top, right, bottom

# plotly's text position -> the label's centre off the mark, in label sizes; first those between
# the error bars
POSITIONS = {
    "top right": (0.5, -1.0),
    "top left": (-0.5, -1.0),
    "bottom right": (0.5, 1.0),
    "bottom left": (-0.5, 1.0),
    "top center": (0.0, -1.0),
    "bottom center": (0.0, 1.0),
    "middle right": (0.5, 0.0),
    "middle left": (-0.5, 0.0),
}
_MAX_HIDDEN = 3  # points under one label
_CHARACTER, _LINE, _GAP = 7.5, 16.0, 9.0  # pixels: width, height, mark to text


def place(
    names: Sequence[str], marks: Sequence[Pixel], others: Sequence[Pixel], size: Pixel
) -> list[str | None]:
    """A text position for every mark in a panel of `size` pixels, one after the other.

    Each takes the position that covers the fewest points, of equal ones the first of `POSITIONS`;
    none, if it would leave the panel, cover another label, or more points than can be made out.
    """
    taken: list[Box] = []
    chosen: list[str | None] = []
    for name, mark in zip(names, marks, strict=True):
        boxes = {p: _box(name, mark, p) for p in POSITIONS}
        cost = {p: _cost(b, [*others, *marks], taken, size) for p, b in boxes.items()}
        position = min(cost, key=lambda p: cost[p])
        if cost[position] > _MAX_HIDDEN:
            chosen.append(None)
            continue
        chosen.append(position)
        taken.append(boxes[position])
    return chosen


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights in [0, 1], moved as little as keeps neighbours `gap` apart and below 1."""
    moved = list(heights)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def _box(name: str, mark: Pixel, position: str) -> Box:
    across, down = POSITIONS[position]
    width = _CHARACTER * len(name)
    x = mark[0] + across * (width + 2 * _GAP)
    y = mark[1] + down * (_LINE + (0 if across else _GAP / 2))
    return x - width / 2, y - _LINE / 2, x + width / 2, y + _LINE / 2


def _cost(box: Box, points: Sequence[Pixel], taken: Sequence[Box], size: Pixel) -> int:
    left, top, right, bottom = box
    hidden = sum(left - 4 < x < right + 4 and top - 4 < y < bottom + 4 for x, y in points)
    over = sum(left < r and a < right and top < b and c < bottom for a, c, r, b in taken)
    outside = left < 0 or top < 0 or right > size[0] or bottom > size[1]
    return hidden + (_MAX_HIDDEN + 1) * (over + outside)
