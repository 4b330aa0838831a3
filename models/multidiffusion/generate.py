"""MultiDiffusion in use: a picture of any size from a prompt, prompts along it or one per region, on any base model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field as Setting
from torch import Tensor
from torch.nn import functional as F

from infra.errors import LikenessError
from models.diffusion.conditioning import Condition, encode_pairs, predict
from models.diffusion.decoding import STEP_PX, decode_windows
from models.diffusion.generation import picture_of, to_pictures, torch_generator
from models.diffusion.nets import ControlledGeneration, control_hint, controlled
from models.diffusion.schedulers import Name as SchedulerName
from models.diffusion.schedulers import make_scheduler
from models.diffusion.windows import Window, gaussian, grid
from models.method import Inputs, Output
from models.multidiffusion.prompts import mixed, places_along, texts
from models.multidiffusion.sampler import Network, panorama, prompt_masks, regions, window_time_ids
from preprocessing.fields import PROMPT, SOURCE, VIDEO

PANORAMA_PX = (512, 4096)  # height and width of the published command
MOST_PX = 65_536  # along a side
DISTORTION = 0.02  # that a control picture may be stretched by, against its proportions


class Canvas(ControlledGeneration):
    """Words in, one picture out; with masks, each region from words of its own and the rest from `prompt`.

    ControlNets see of their picture what lies under each window, for every prompt alike.
    """

    inputs = {
        "prompt": (PROMPT,), "negative": (PROMPT,), "region": (SOURCE, VIDEO), "region_prompt": (PROMPT,),
        "region_negative": (PROMPT,), "window_prompt": (PROMPT,), "control": (SOURCE, VIDEO),
    }  # fmt: skip

    class Config(ControlledGeneration.Config):
        """Settings. Cells are those of the latent, 8 x 8 px.

        Attributes:
            height_px, width_px: of the picture, any size; null for the first control picture's, without one the first mask's, else
                512 x 4096.
            steps, guidance: published 50 and 7.5.
            scheduler: the solver; published "ddim".
            eta: share of fresh noise in DDIM's steps.
            window: side of what the network sees, in cells; null for the size it was trained on.
            stride: cells between windows; null for an eighth of the window, as published.
            weights: "even" as published, or "gaussian", by which windows count less towards their borders; not with regions.
            circular: the right border joins the left one (360 degrees).
            batch_size: windows the network sees at once, at most.
            decode_window: cells on a side that are decoded at once; null for the network's window.
            bootstrap: share of the steps in which regions see plain colours around them; published 20 of 50 steps. Less suits
                loose masks.
            backgrounds: how many colours there are for it.
            mask_threshold: brightness from which on a mask's pixel belongs to the region.
            sdxl_target: the size SDXL is told that it draws: each window as a picture of its own, or the whole canvas.
        """

        height_px: int | None = Setting(None, ge=STEP_PX, le=MOST_PX)
        width_px: int | None = Setting(None, ge=STEP_PX, le=MOST_PX)
        steps: int = Setting(50, ge=1, le=1000)
        guidance: float = 7.5
        scheduler: SchedulerName = "ddim"
        eta: float = Setting(0.0, ge=0, le=1)
        window: int | None = Setting(None, ge=1)
        stride: int | None = Setting(None, ge=1)
        weights: Literal["even", "gaussian"] = "even"
        circular: bool = False
        batch_size: int = Setting(8, ge=1)
        decode_window: int | None = Setting(None, ge=2)
        bootstrap: float = Setting(0.4, ge=0, le=1)
        backgrounds: int = Setting(20, ge=1)
        mask_threshold: float = Setting(0.5, gt=0, le=1)
        sdxl_target: Literal["window", "canvas"] = "window"

    def __call__(self, inputs: Inputs, rng: np.random.Generator) -> Output:
        controls, (prompts, negatives) = self.control_pictures(inputs), texts(inputs)
        if self.config.eta and self.config.scheduler != "ddim":
            raise LikenessError(f"eta with scheduler={self.config.scheduler}", allowed="scheduler=ddim", fix="leave eta out")
        masks = self._masks(inputs)
        size_px = self._size_px(controls, masks)
        height, width = _cells(size_px)
        windows = self._windows(height, width)  # refuses strides that leave gaps
        places = None if masks else places_along(windows, (height, width), len(prompts), self.config.circular)
        hints = [whole_cells(control_hint(control, *size_px))[0] for control in controls] if self.nets else []
        return Output(self._drawn(prompts, negatives, masks, windows, places, hints, size_px, rng), 1)

    def _masks(self, inputs: Inputs) -> list[np.ndarray]:
        masks = [foreground(picture_of(sample, "region"), self.config.mask_threshold) for sample in inputs.get("region", ())]
        if masks and self.config.weights != "even":
            raise LikenessError("weights=gaussian with regions", allowed="weights=even", fix="the masks are the weights there")
        for number, mask in enumerate(masks, 1):
            if not mask.any():
                raise LikenessError(
                    f"region {number} is empty: no pixel is as bright as mask_threshold={self.config.mask_threshold}",
                    allowed="white where the region is, black elsewhere", fix="invert the mask, or lower mask_threshold",
                )  # fmt: skip
        return masks

    def _size_px(self, controls: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> tuple[int, int]:
        """Height and width of what is drawn; raises where a control picture would be distorted."""
        usual = next((picture.shape[:2] for picture in (*controls, *masks)), PANORAMA_PX)
        size_px = (self.config.height_px or usual[0], self.config.width_px or usual[1])
        for number, (height, width) in enumerate((control.shape[:2] for control in controls), 1):
            if abs(width * size_px[0] / (height * size_px[1]) - 1) > DISTORTION:
                raise LikenessError(
                    f"control {number} of {width} x {height} px would be distorted to {size_px[1]} x {size_px[0]} px",
                    allowed=f"proportions within {DISTORTION:.0%} of the canvas's",
                    fix=f"leave height_px and width_px out, or set height_px={size_px[0]} "
                    f"width_px={round(width * size_px[0] / height)}",
                )  # fmt: skip
        return size_px

    @property
    def side(self) -> int:
        """Cells along a window."""
        return self.config.window or int(self.backbone.settings("unet")["sample_size"])

    def _windows(self, height: int, width: int) -> list[Window]:
        stride = self.config.stride or max(1, self.side // 8)
        return grid((height, width), self.side, stride, ("flush", "circular" if self.config.circular else "flush"))

    @torch.inference_mode()
    def _drawn(
        self, prompts: list[str], negatives: list[str] | None, masks: Sequence[np.ndarray], windows: list[Window],
        places: Tensor | None, hints: Sequence[Tensor], size_px: tuple[int, int], rng: np.random.Generator,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        config, backbone = self.config, self.backbone
        height, width = _cells(size_px)
        generator = torch_generator(rng)
        channels = backbone.settings("unet")["in_channels"]
        noise = torch.randn(channels, height, width, generator=generator).to(self.device)
        network = self._network(encode_pairs(backbone, prompts, negatives), windows, noise, places, hints)
        scheduler = make_scheduler(backbone, config.scheduler, config.steps)
        common: dict[str, Any] = {"batch": config.batch_size, "generator": generator, "eta": config.eta}
        if masks:
            cells = prompt_masks(torch.stack([resized(mask, (height, width)) for mask in masks])).to(self.device)
            count = round(config.bootstrap * len(scheduler.timesteps))
            plain = self._backgrounds(windows, rng, generator) if count else None
            choose = lambda shape: rng.integers(config.backgrounds, size=shape)
            canvases = regions(network, noise, windows, cells, scheduler, plain, count, choose, **common)
        else:
            weights = gaussian(windows[0].sizes) if config.weights == "gaussian" else None
            canvases = panorama(network, noise, windows, scheduler, weights, **common)
        canvas = noise
        for each in canvases:
            canvas = each
        window = config.decode_window or self.side
        picture = decode_windows(backbone.decode, canvas[None], window, circular=config.circular)[..., : size_px[0], : size_px[1]]
        yield from to_pictures(picture)

    def _network(
        self, text: tuple[Condition, Condition], windows: Sequence[Window], noise: Tensor, places: Tensor | None,
        hints: Sequence[Tensor],
    ) -> Network:  # fmt: skip
        """The guided UNet, ControlNets beside it.

        Args:
            text: P prompts and their negatives.
            places: where each window lies among the prompts; None where each prompt is at work in every window, crop n then being
                of window n // P and prompt n % P.
            hints: (3, 8 H, 8 W) control picture of the canvas, one a net.
        """
        unet, each = self.backbone.unet, 1 if places is not None else len(text[0])
        sizes = window_time_ids(windows, noise, self.config.sdxl_target) if self.backbone.family == "sdxl" else None
        hints = [hint.to(self.device, self.dtype) for hint in hints]

        def rows(condition: Condition, numbers: Sequence[int]) -> Condition:
            if places is None:
                chosen = condition.rows([n % each for n in numbers])
            else:
                chosen = mixed(condition, places[list(numbers)])
            if sizes is None:
                return chosen
            return Condition(chosen.context, chosen.pooled, sizes[[n // each for n in numbers]].to(chosen.context))

        def network(crops: Tensor, time: Tensor, numbers: Sequence[int]) -> Tensor:
            positive, negative = (rows(condition, numbers) for condition in text)
            seen = [torch.stack([windows[n // each].times(STEP_PX).crop(hint) for n in numbers]) for hint in hints]
            guided = controlled(unet, self.nets, self.net_scales, seen)
            return predict(guided, crops.to(unet.dtype), time, positive, negative, self.config.guidance).float()

        return network

    def _backgrounds(self, windows: Sequence[Window], rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """(B, C, h, w) pictures of one random colour each, of the windows' size, drawn from the autoencoder's posterior."""
        height, width = (max(window.sizes[axis] for window in windows) for axis in (0, 1))
        shape = self.backbone.latent_size(height * STEP_PX, width * STEP_PX)
        encoded = []
        for colour in rng.random((self.config.backgrounds, 3), dtype=np.float32):
            picture = torch.from_numpy(colour * 2 - 1)[None, :, None, None].expand(1, 3, height * STEP_PX, width * STEP_PX)
            encoded.append(self.backbone.encode(picture, torch.randn(1, *shape, generator=generator)).float())
        return torch.cat(encoded)


def foreground(picture: np.ndarray, threshold: float) -> np.ndarray:
    """(H, W) bool: where a (H, W, 3) uint8 mask is at least so bright, in [0, 1]."""
    return picture.mean(axis=2) / 255 >= threshold


def resized(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(1, h, w) float32 mask in latent cells: each cell's nearest pixel, as published."""
    return F.interpolate(torch.from_numpy(mask)[None, None].float(), size=size, mode="nearest")[0]


def whole_cells(pictures: Tensor) -> Tensor:
    """(N, 3, H, W) pictures with their last rows and columns repeated until each side is a multiple of 8 px."""
    height, width = pictures.shape[-2:]
    return F.pad(pictures, (0, -width % STEP_PX, 0, -height % STEP_PX), mode="replicate")


def _cells(size_px: tuple[int, int]) -> tuple[int, int]:
    """Height and width in latent cells, the last of them whole."""
    return -(-size_px[0] // STEP_PX), -(-size_px[1] // STEP_PX)
