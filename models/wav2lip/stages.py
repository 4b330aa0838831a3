"""Wav2Lip's three trainings: the expert, the generator under the frozen expert, and the generator against a critic.

Pictures travel as uint8 RGB and become BGR in [0, 1] on the device, the order the released weights were trained in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from models.wav2lip.network import Expert, Generator, QualityCritic, generator_input, lower_half_stack
from preprocessing.audio_features import MEL_WINDOW, mel_window, mel_window_start
from preprocessing.fields import FACE_VALID, MEL80, VOICED, face_crop
from training.stage import (
    Artefact,
    Batch,
    Context,
    Evaluation,
    Gate,
    Media,
    Optim,
    Record,
    Records,
    Skip,
    Source,
    Stage,
    Turn,
    Upstream,
)

FACE = face_crop(96, "box")
T = 5  # frames the expert sees at once; best of 1, 3 and 5 in the paper's ablation
SHORTEST = 16  # clips of fewer frames are skipped, as published
MEL_LEAD = 1  # in training, a frame's own mel window starts one frame before it; in use, at it (both as published)
NEGATIVE_SHIFT = 5  # frames between the picture and the sound of a validation negative, at least


def bgr(frames: Tensor) -> Tensor:
    """uint8 RGB (B, T, 96, 96, 3) -> float BGR in [0, 1], (B, 3, T, 96, 96)."""
    return frames.flip(-1).permute(0, 4, 1, 2, 3).float() / 255


def sync_probability(audio: Tensor, face: Tensor) -> Tensor:
    """Cosine of unit, non-negative embeddings: (B,) in [0, 1]."""
    return F.cosine_similarity(audio.float(), face.float()).clamp(0, 1)


def binary_cross_entropy(probability: Tensor, label: Tensor | float) -> Tensor:
    """Mean BCE in fp32, also inside autocast (which refuses it)."""
    with torch.autocast(probability.device.type, enabled=False):
        target = torch.as_tensor(label, dtype=torch.float32, device=probability.device).expand(probability.shape)
        return F.binary_cross_entropy(probability.float(), target)


def _started(network: nn.Module, component: str, upstream: Mapping[str, Artefact]) -> nn.Module:
    """The network as it is, or with the weights of an upstream artefact to go on from."""
    return upstream[component].load(component, network) if component in upstream else network


class Windows:
    """The places in one clip from which T valid frames and their speech can be taken."""

    def __init__(self, record: Record, first: int = 0) -> None:
        self.record, self.mel = record, record[MEL80]
        valid = np.asarray(record[FACE_VALID])
        if len(valid) < SHORTEST:
            raise Skip(f"{record.key} has {len(valid)} frames, fewer than {SHORTEST}")
        last = self.mel.shape[1] - MEL_WINDOW
        whole = np.lib.stride_tricks.sliding_window_view(valid, T).all(axis=1)
        # the last frame's own window ends latest
        self.starts = np.array([s for s in np.flatnonzero(whole) if s >= first and mel_window_start(s + T - 1) <= last])
        if len(self.starts) < 2:
            raise Skip(f"{record.key} has fewer than 2 windows of {T} frames with a face")

    def voiced(self) -> np.ndarray:
        """Those starts where somebody speaks in most of the frames."""
        voiced = np.lib.stride_tricks.sliding_window_view(np.asarray(self.record[VOICED]), T).sum(axis=1)
        return np.array([s for s in self.starts if voiced[s] > T // 2], dtype=int)

    def frames(self, start: int) -> np.ndarray:
        """(T, 96, 96, 3) uint8 RGB."""
        return self.record[FACE][start : start + T]

    def speech(self, start: int) -> np.ndarray:
        """(1, 80, 16): the 0.2 s that begin with the window."""
        return mel_window(self.mel, mel_window_start(start))[None]

    def speech_per_frame(self, start: int) -> np.ndarray:
        """(T, 1, 80, 16): one window per frame, each `MEL_LEAD` frames early."""
        return np.stack([mel_window(self.mel, mel_window_start(start + k - MEL_LEAD))[None] for k in range(T)])


class ExpertStage(Stage):
    """Does this speech belong to these mouths? Cosine and binary cross-entropy over pairs in and out of sync."""

    name = "expert"
    sources = {"clips": Source(fields=(FACE, MEL80, FACE_VALID, VOICED))}
    roles = {"expert": ("expert",)}
    upstream = {"expert": Upstream("expert", "init", required=False)}
    expert: Expert

    class Config(Stage.Config):
        width: float = Field(1.0, gt=0)
        optim: dict[str, Optim] = {"expert": Optim(lr=1e-4)}

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        return {"expert": _started(Expert(self.config.width), "expert", upstream)}

    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        windows = Windows(records["clips"][0])
        heard = rng.choice(windows.starts)
        in_sync = rng.random() < 0.5
        seen = heard if in_sync else rng.choice(windows.starts[windows.starts != heard])
        return {"faces": windows.frames(seen), "mel": windows.speech(heard), "label": np.float32(in_sync)}

    def validation_example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        windows = Windows(records["clips"][0])
        voiced = windows.voiced()
        if not len(voiced):
            raise Skip(f"{windows.record.key} has no voiced window")
        seen = rng.choice(voiced)
        shifted = windows.starts[np.abs(windows.starts - seen) >= NEGATIVE_SHIFT]
        if not len(shifted):
            raise Skip(f"{windows.record.key} is too short for a shift of {NEGATIVE_SHIFT} frames")
        return {"faces": windows.frames(seen), "mel": windows.speech(seen), "shifted": windows.speech(rng.choice(shifted))}

    def _probability(self, mel: Tensor, faces: Tensor) -> Tensor:
        return sync_probability(*self.expert(mel, lower_half_stack(bgr(faces))))

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        yield "expert", {"sync": binary_cross_entropy(self._probability(batch["mel"], batch["faces"]), batch["label"])}

    def validate(self, batches: Iterable[Batch], ctx: Context) -> Evaluation:
        """Held-out accuracy over voiced windows; negatives are at least 5 frames off. `*_shuffled`: sound of another clip,
        where nothing can be right, so it must lie at chance."""
        right, shifted, foreign, foreign_shifted = [], [], [], []
        for batch in batches:
            right.append(self._probability(batch["mel"], batch["faces"]))
            shifted.append(self._probability(batch["shifted"], batch["faces"]))
            foreign.append(self._probability(batch["mel"].roll(1, 0), batch["faces"]))
            foreign_shifted.append(self._probability(batch["shifted"].roll(1, 0), batch["faces"]))
        if not right:
            return Evaluation()
        yes, no, yes_foreign, no_foreign = (torch.cat(part) for part in (right, shifted, foreign, foreign_shifted))
        return Evaluation({
            "sync": float(binary_cross_entropy(yes, 1.0) + binary_cross_entropy(no, 0.0)) / 2,
            "accuracy": float((yes > 0.5).float().mean() + (no <= 0.5).float().mean()) / 2,
            "pair_accuracy": _wins(yes, no),
            "pair_accuracy_shuffled": _wins(yes_foreign, no_foreign),
            "examples": float(len(yes)),
        })  # fmt: skip


def _wins(a: Tensor, b: Tensor) -> float:
    """Share of pairs where `a` scores above `b`; ties count half."""
    return float(((a > b).float() + 0.5 * (a == b).float()).mean())


class GeneratorStage(Stage):
    """Redraw the lower half of a face so that a frozen expert finds it in sync, close to the filmed picture."""

    name = "generator"
    sources = {"clips": Source(fields=(FACE, MEL80, FACE_VALID))}
    roles: ClassVar[dict[str, tuple[str, ...]]] = {"generator": ("generator",)}
    upstream = {"expert": Upstream("expert", "frozen"), "generator": Upstream("generator", "init", required=False)}
    generator: Generator
    expert: Expert

    class Config(Stage.Config):
        width: float = Field(1.0, gt=0)
        sync_weight: float = Field(0.01, ge=0, le=1)
        sync_below: float = 0.75  # the sync loss joins once its validation value has been below this
        expert_mode: Literal["eval", "train"] = "eval"  # the published scripts forget eval(): "train" reproduces them
        optim: dict[str, Optim] = {"generator": Optim(lr=1e-4)}

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        expert = upstream["expert"].load("expert", Expert(upstream["expert"].config["width"]))
        return {"generator": _started(Generator(self.config.width), "generator", upstream), "expert": expert}

    def frozen_mode(self, module: str) -> Literal["eval", "train"]:
        return self.config.expert_mode

    def gate_rules(self) -> dict[str, Gate]:
        return {"sync": Gate("sync", self.config.sync_below)}

    def example(self, records: Records, rng: np.random.Generator) -> dict[str, Any]:
        windows = Windows(records["clips"][0], first=MEL_LEAD)
        start = rng.choice(windows.starts)
        reference = rng.choice(windows.starts[windows.starts != start])
        return {
            "target": windows.frames(start), "reference": windows.frames(reference),
            "mel": windows.speech(start), "mels": windows.speech_per_frame(start),
        }  # fmt: skip

    def draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The generator's faces and the filmed ones, both (B, 3, T, 96, 96)."""
        target = bgr(batch["target"])
        return self.generator(batch["mels"], generator_input(target, bgr(batch["reference"]))), target

    def sync_loss(self, batch: Batch, drawn: Tensor) -> Tensor:
        """How far the expert is from finding the drawn mouths in sync; the gradient passes through it."""
        return binary_cross_entropy(sync_probability(*self.expert(batch["mel"], lower_half_stack(drawn))), 1.0)

    def sync_weight(self, ctx: Context) -> float:
        """The weight of the sync loss: 0 until its gate opens."""
        return self.config.sync_weight if ctx.gate("sync") else 0.0

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        drawn, target = self.draw(batch)
        weight = self.sync_weight(ctx)
        losses = {"l1": (F.l1_loss(drawn.float(), target), 1.0 - weight)}
        if weight:
            losses["sync"] = (self.sync_loss(batch, drawn), weight)
        yield "generator", losses

    def validate(self, batches: Iterable[Batch], ctx: Context) -> Evaluation:
        """L1 over the whole face and over its redrawn half, each beside what copying the reference's mouth would cost."""
        sums: dict[str, list[Tensor]] = {}
        shown: list[np.ndarray] = []
        for batch in batches:
            drawn, target = self.draw(batch)
            copied = torch.cat([target[..., :48, :], bgr(batch["reference"])[..., 48:, :]], dim=-2)
            parts = {
                "l1": F.l1_loss(drawn, target), "l1_copy": F.l1_loss(copied, target),
                "l1_lower": F.l1_loss(drawn[..., 48:, :], target[..., 48:, :]),
                "l1_lower_copy": F.l1_loss(copied[..., 48:, :], target[..., 48:, :]),
                "sync": self.sync_loss(batch, drawn), "sync_filmed": self.sync_loss(batch, target),
            }  # fmt: skip
            for name, value in parts.items():
                sums.setdefault(name, []).append(value)
            if len(shown) < 8:
                shown += _side_by_side(batch, drawn)
        media = {"drawn": Media(np.concatenate(shown[:8]))} if shown else {}
        return Evaluation({name: float(torch.stack(values).mean()) for name, values in sums.items()}, media)


def _side_by_side(batch: Batch, drawn: Tensor) -> list[np.ndarray]:
    """Per example (T, 96, 288, 3) uint8 RGB: filmed, reference, drawn."""
    faces = (drawn.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 4, 1).flip(-1)
    sheet = torch.cat([batch["target"], batch["reference"], faces.to(batch["target"].device)], dim=3)
    return list(sheet.cpu().numpy())


class CriticStage(GeneratorStage):
    """The generator once more, now also against a critic that sees single frames: sharper mouths, slightly less sync."""

    name = "gan"
    roles = {"generator": ("generator",), "critic": ("critic",)}
    upstream = {**GeneratorStage.upstream, "critic": Upstream("gan", "init", required=False)}
    critic: QualityCritic

    class Config(GeneratorStage.Config):
        sync_weight: float = Field(0.03, ge=0, le=1)
        quality_weight: float = Field(0.07, ge=0, le=1)
        optim: dict[str, Optim] = {
            "generator": Optim(lr=1e-4, betas=(0.5, 0.999)), "critic": Optim(lr=1e-4, betas=(0.5, 0.999)),
        }  # fmt: skip

    def build(self, upstream: Mapping[str, Artefact]) -> dict[str, nn.Module]:
        return {**super().build(upstream), "critic": _started(QualityCritic(self.config.width), "critic", upstream)}

    def step(self, batch: Batch, ctx: Context) -> Iterator[Turn]:
        drawn, target = self.draw(batch)
        sync, quality = self.sync_weight(ctx), self.config.quality_weight
        losses = {
            "l1": (F.l1_loss(drawn.float(), target), 1.0 - sync - quality),
            "quality": (binary_cross_entropy(self.critic(drawn), 1.0), quality),
        }  # fmt: skip
        if sync:
            losses["sync"] = (self.sync_loss(batch, drawn), sync)
        yield "generator", losses
        yield "critic", {
            "real": binary_cross_entropy(self.critic(target), 1.0),
            "fake": binary_cross_entropy(self.critic(drawn.detach()), 0.0),
        }  # fmt: skip
