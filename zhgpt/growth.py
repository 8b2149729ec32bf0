"""How bits per byte fall with parameters and text: a law fitted to runs, and how far it carries.

With N all parameters and D the bytes of text trained on, instead of tokens, so that tokenizers
compare:

    bits = floor + (a N^-alpha + b D^-beta)^power

in two forms. With a power of 1 it is the law of Hoffmann et al. 2022 (equation 2), in which more
text brings the same to every size; without a floor it is that of Kaplan et al. 2020 (equation 1.5),
but for its power, which is free here: a small model gains less from more text. Fitted by least
squares of relative errors on a grid of three unknowns; for each place of it a and b follow in one
step. Ranges are profile intervals of 95 %: all laws of the grid that fit hardly worse than the best
one. They take the form for granted, which no fit can test far outside of its runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from zhgpt.errors import InputError

_STEPS = 24  # of the grid along each of its axes
_REFINED = 5  # times the grid is laid anew, each time over what fits
_EXPONENTS = (0.02, 3.0)
_POWERS = (0.05, 1.0)
_UNKNOWNS = 5
FEWEST = _UNKNOWNS + 3  # runs: with fewer nothing is left to judge the fit by

Form = Literal["power", "floor"]  # which of the two is unknown
FORMS: tuple[Form, ...] = get_args(Form)
Array = NDArray[np.float64]


class Point(NamedTuple):
    """A run: all its parameters, bytes of text trained on, bits per byte at its end."""

    parameters: float
    bytes: float
    bits: float


class Range(NamedTuple):
    best: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """Laws of a grid, [laws] each, that fit hardly worse than the best one, which is the first.

    `error` is the root mean square of relative errors of the best one.
    """

    floor: Array
    power: Array
    alpha: Array
    beta: Array
    a: Array
    b: Array
    error: float

    def bits(self, parameters: float, bytes: float) -> Range:
        """Of a run that has not been made."""
        size, text = self.a * parameters**-self.alpha, self.b * bytes**-self.beta
        return _range(self.floor + (size + text) ** self.power)

    def unknowns(self) -> dict[str, Range]:
        """The exponents those of bits, power included; `compute` is that of its best use,
        alpha beta / (alpha + beta).
        """
        alpha, beta = self.alpha * self.power, self.beta * self.power
        named = {"floor": self.floor, "power": self.power, "alpha": alpha, "beta": beta}
        named["compute"] = alpha * beta / (alpha + beta)
        return {name: _range(values) for name, values in named.items()}

    def shape(self, operations: float, bytes_per_token: float) -> Point:
        """The best law's use of so much compute, at 6 operations a parameter and token.

        Where both terms fall alike: alpha a N^-alpha = beta b D^-beta.
        """
        alpha, beta, a, b = (float(one[0]) for one in (self.alpha, self.beta, self.a, self.b))
        product = operations * bytes_per_token / 6  # parameters x bytes
        parameters = (alpha * a / (beta * b) * product**beta) ** (1 / (alpha + beta))
        text = product / parameters
        return Point(parameters, text, self.bits(parameters, text).best)


def fit(points: Sequence[Point], form: Form) -> Fit:
    """The law of these runs; InputError for fewer than `FEWEST` of them."""
    if len(points) < FEWEST:
        raise InputError(f"{len(points)} runs are too few for a law of growth; it takes {FEWEST}.")
    third = _POWERS if form == "power" else (0, min(point.bits for point in points))
    box = limits = np.array([third, _EXPONENTS, _EXPONENTS])
    for _ in range(_REFINED):
        found, step = _fit_in(box, points, form), np.diff(box).ravel() / _STEPS
        near = np.stack([getattr(found, form), found.alpha, found.beta])
        box = np.stack([near.min(axis=1) - step, near.max(axis=1) + step], axis=1)
        box = np.clip(box, limits[:, :1], limits[:, 1:])
    return _fit_in(box, points, form)


def _fit_in(box: Array, points: Sequence[Point], form: Form) -> Fit:
    """Of the laws whose floor or power, alpha and beta lie in a box, [3, 2], those that fit."""
    axes = [np.linspace(*edges, _STEPS, endpoint=False) for edges in box]
    third, alpha, beta = (grid.reshape(-1) for grid in np.meshgrid(*axes, indexing="ij"))
    floor = third if form == "floor" else np.zeros_like(third)
    power = third if form == "power" else np.ones_like(third)
    parameters, text, bits = np.array(points, dtype=np.float64).T
    # Powers of numbers near 1.
    middle = [np.exp(np.log(values).mean()) for values in (parameters, text)]
    x = (parameters / middle[0]) ** -alpha[:, None]
    y = (text / middle[1]) ** -beta[:, None]
    above = bits - floor[:, None]
    target = above ** (1 / power)[:, None]
    # What an error of the sum is in bits, relative to the bits: the derivative of its power.
    weight = power[:, None] * above / target / bits
    a, b = _two_factors(weight * x, weight * y, weight * target)
    said = floor[:, None] + (a[:, None] * x + b[:, None] * y) ** power[:, None]
    errors = ((said / bits - 1) ** 2).sum(axis=1)
    kept = _near(errors, len(points))
    return Fit(
        floor=floor[kept],
        power=power[kept],
        alpha=alpha[kept],
        beta=beta[kept],
        a=(a * middle[0] ** alpha)[kept],
        b=(b * middle[1] ** beta)[kept],
        error=float(np.sqrt(errors[kept[0]] / len(points))),
    )


def _two_factors(x: Array, y: Array, target: Array) -> tuple[Array, Array]:
    """Least squares of a x + b y = target in each row, neither factor below zero."""
    xx, yy, xy = (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)
    xt, yt = (x * target).sum(1), (y * target).sum(1)
    determinant = xx * yy - xy * xy
    with np.errstate(divide="ignore", invalid="ignore"):
        a = np.nan_to_num((yy * xt - xy * yt) / determinant)
        b = np.nan_to_num((xx * yt - xy * xt) / determinant)
    alone_a, alone_b = np.maximum(xt / xx, 0), np.maximum(yt / yy, 0)
    return (
        np.where(b < 0, alone_a, np.where(a < 0, 0, a)),
        np.where(a < 0, alone_b, np.where(b < 0, 0, b)),
    )


def _near(errors: Array, runs: int) -> NDArray[np.intp]:
    """Places of all laws within the interval, the best one first.

    A law belongs to it up to errors of the best one's times 1 + t² / (runs - unknowns), for a
    single quantity and the t of 95 % (Bates and Watts 1988, section 6.1).
    """
    free = runs - _UNKNOWNS
    kept = np.flatnonzero(errors <= errors.min() * (1 + student(free) ** 2 / free))
    return kept[np.argsort(errors[kept], kind="stable")]


def student(free: int) -> float:
    """97.5 % quantile of Student's t (Abramowitz and Stegun 1964, 26.7.5), to 1 % from 3 on."""
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / free + second / free**2 + third / free**3


def _range(values: Array) -> Range:
    return Range(float(values[0]), float(values.min()), float(values.max()))
