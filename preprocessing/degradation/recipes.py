"""The published recipes: how likely each step is and from which ranges its numbers are drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Range = tuple[float, float]


@dataclass(frozen=True)
class Pass:
    """Blur, resize, noise, JPEG: one of the two passes of a second-order recipe.

    Attributes:
        blur_prob: of being blurred at all.
        sinc_prob: of a sinc kernel instead of one of `SecondOrder.kernels`.
        blur_sigma_px: of kernels, each axis by itself.
        resize_prob: of growing, shrinking, keeping the size.
        resize: factors: growing draws from 1 to the end, shrinking from the beginning to 1.
        gaussian_prob: of Gaussian noise; else it is Poisson's.
        noise_sigma: of Gaussian noise, grey levels of 255.
        poisson_scale: of Poisson noise.
        grey_prob: of the same noise in all channels.
        jpeg: quality.
    """

    blur_prob: float
    sinc_prob: float
    blur_sigma_px: Range
    resize_prob: tuple[float, float, float]
    resize: Range
    gaussian_prob: float
    noise_sigma: Range
    poisson_scale: Range
    grey_prob: float
    jpeg: Range


@dataclass(frozen=True)
class SecondOrder:
    """Real-ESRGAN's model (Wang et al., 2021): two passes, then ringing and JPEG in either order.

    Attributes:
        kernels: probabilities of kernels: Gaussian, generalised, plateau; of each isotropic and not, in this order.
        beta_generalised, beta_plateau: exponents: below and above 1 with equal chances.
        kernel_sizes_px: odd sizes drawn from.
        final_sinc_prob: of ringing at the end.
        downscale: of the result.
        back: how it is brought back to the size it had, if it is: "random" draws the mode.
        sharpen: the clean picture is sharpened first, and is then the target too.
    """

    first: Pass
    second: Pass
    kernels: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    beta_generalised: Range = (0.5, 4)
    beta_plateau: Range = (1, 2)
    kernel_sizes_px: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    final_sinc_prob: float = 0.8
    downscale: int = 4
    back: Literal["", "bicubic", "random"] = ""
    sharpen: bool = False


@dataclass(frozen=True)
class FirstOrder:
    """CodeFormer's model (Zhou et al., 2022): blur, shrink, noise, JPEG by the library, enlarge; linear both ways.

    Attributes:
        blur_sigma_px: of kernels of 41 px, isotropic or not with equal chances.
        downscale: the side is divided by it.
        noise_sigma: of Gaussian noise, grey levels of 255.
        jpeg: quality, drawn and cut to a whole number.
    """

    blur_sigma_px: Range
    downscale: Range
    noise_sigma: Range
    jpeg: Range
    kernel_size_px: int = 41
    sharpen: bool = False


Recipe = SecondOrder | FirstOrder

_REALESRGAN = SecondOrder(
    first=Pass(
        blur_prob=1, sinc_prob=0.1, blur_sigma_px=(0.2, 3), resize_prob=(0.2, 0.7, 0.1), resize=(0.15, 1.5), gaussian_prob=0.5,
        noise_sigma=(1, 30), poisson_scale=(0.05, 3), grey_prob=0.4, jpeg=(30, 95),
    ),
    second=Pass(
        blur_prob=0.8, sinc_prob=0.1, blur_sigma_px=(0.2, 1.5), resize_prob=(0.3, 0.4, 0.3), resize=(0.3, 1.2), gaussian_prob=0.5,
        noise_sigma=(1, 25), poisson_scale=(0.05, 2.5), grey_prob=0.4, jpeg=(30, 95),
    ),
    sharpen=True,
)  # fmt: skip
_PASD = SecondOrder(
    first=replace(_REALESRGAN.first, resize=(0.3, 1.5), noise_sigma=(1, 15), poisson_scale=(0.05, 2), jpeg=(60, 95)),
    second=replace(
        _REALESRGAN.second, blur_prob=0.5, resize=(0.6, 1.2), noise_sigma=(1, 12), poisson_scale=(0.05, 1), jpeg=(60, 100)
    ),
    back="random",
)
RECIPES: dict[str, Recipe] = {
    "realesrgan": _REALESRGAN,  # a quarter of the side
    "diffbir_v1": replace(_REALESRGAN, sharpen=False, back="bicubic"),  # the first version's general stage 1
    "diffbir_v21": replace(_REALESRGAN, back="bicubic"),
    "pasd": _PASD,
    "codeformer": FirstOrder(blur_sigma_px=(0.1, 12), downscale=(1, 12), noise_sigma=(0, 15), jpeg=(30, 100)),  # DiffBIR v2
    "codeformer_face": FirstOrder(blur_sigma_px=(0.1, 10), downscale=(0.8, 8), noise_sigma=(0, 20), jpeg=(60, 100)),  # v1, faces
}
