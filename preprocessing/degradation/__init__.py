"""How clean pictures are made bad: the published recipes as plain functions of NumPy arrays (docs/degradation.md).

Operators and training stages call the same functions; nothing of ours is imported here.
"""

from preprocessing.degradation.kernels import filter2d, gaussian_kernel, padded, sinc_kernel
from preprocessing.degradation.recipes import RECIPES, FirstOrder, Pass, Recipe, SecondOrder
from preprocessing.degradation.sharpening import sharpened
from preprocessing.degradation.steps import apply, degrade, draw

__all__ = [
    "RECIPES",
    "FirstOrder",
    "Pass",
    "Recipe",
    "SecondOrder",
    "apply",
    "degrade",
    "draw",
    "filter2d",
    "gaussian_kernel",
    "padded",
    "sharpened",
    "sinc_kernel",
]
