"""Settings of the training loop. A stage's own settings are in its `Config` (see `training.stage`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from infra.errors import LikenessError
from training.stage import Config


class LoopConfig(Config):
    """How a stage is run.

    `batch_size` counts examples per optimiser step over all ranks and micro-batches, so that the same settings mean the
    same training on any number of workers. Progress is counted in optimiser steps and in examples seen.
    """

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(16, ge=1)
    accumulation: int = Field(1, ge=1)
    seed: int = 0
    # bf16: weights in fp32, autocast around the step. bf16-weights, fp16: DeepSpeed keeps half weights and fp32 masters.
    precision: Literal["fp32", "bf16", "bf16-weights", "fp16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload: Literal["none", "cpu"] = "none"
    gradient_checkpointing: bool = False  # of all networks that can: computed again in backward instead of kept
    ema_decay: float = Field(0.0, ge=0.0, lt=1.0)  # 0: no moving average
    validate_every: int = Field(500, ge=0)  # 0: only at the end
    validation_examples: int = Field(64, ge=0)
    save_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    log_every: int = Field(10, ge=1)
    loader_workers: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)  # CPU threads per rank

    def micro_batch(self, world: int) -> int:
        """Examples per rank and forward pass."""
        parts = world * self.accumulation
        if self.batch_size % parts:
            raise LikenessError(
                f"batch_size {self.batch_size} can't be split over {world} workers x accumulation {self.accumulation}",
                allowed=f"a multiple of {parts}", fix=f"pass batch_size={-(-self.batch_size // parts) * parts}",
            )
        return self.batch_size // parts

    def check(self) -> None:
        """Combinations that can't work, told before anything starts."""
        if self.precision == "bf16-weights" and self.zero_stage == 0:
            raise LikenessError(
                "precision bf16-weights with zero_stage 0 loses small updates (measured)",
                allowed="zero_stage 1, 2 or 3", fix="pass zero_stage=1, or precision=bf16",
            )
        if self.offload != "none" and self.zero_stage == 0:
            raise LikenessError("offload=cpu needs ZeRO", allowed="zero_stage 1, 2 or 3", fix="pass zero_stage=2")
