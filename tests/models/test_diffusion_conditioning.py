"""Prompts as diffusers' pipelines encode them, guidance and condition dropout."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from infra.errors import LikenessError
from models.diffusion.backbone import FAMILIES, open_backbone
from models.diffusion.conditioning import (
    Condition,
    ConditionDropout,
    encode_pairs,
    encode_prompts,
    guided,
    joined,
    predict,
    time_ids,
    warn_of_cuts,
)
from models.diffusion.tiny import tiny_backbone

PROMPTS = ["a photo of a man", "an old woman laughing in the rain"]


@pytest.fixture(autouse=True)
def _quick():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {family: tiny_backbone(family, root / family) for family in FAMILIES}


@pytest.mark.parametrize("negatives", [None, ["bad", "blurry photo"]])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_as_the_pipelines_encode_them(family, negatives, folders):
    backbone = open_backbone(folders[family])
    pipeline = DiffusionPipeline.from_pretrained(folders[family], local_files_only=True)
    positive, negative = encode_pairs(backbone, PROMPTS, negatives)
    theirs = pipeline.encode_prompt(PROMPTS, "cpu", 1, True, negatives) if family != "sdxl" else pipeline.encode_prompt(
        PROMPTS, negative_prompt=negatives
    )  # fmt: skip
    assert torch.equal(positive.context, theirs[0])
    assert torch.equal(negative.context, theirs[1])
    alone = encode_prompts(backbone, PROMPTS)
    assert torch.equal(alone.context, theirs[0])
    if family == "sdxl":
        assert torch.equal(positive.pooled, theirs[2])
        assert torch.equal(alone.pooled, theirs[2])
        assert torch.equal(negative.pooled, theirs[3])
        assert (negative.context.abs().max() == 0) == (negatives is None)
    assert (positive.context[0] - positive.context[1]).abs().max() > 0.1
    assert positive.context.shape == (2, 77, backbone.unet.config.cross_attention_dim)


def test_a_prompt_that_is_cut_is_told(folders, caplog):
    backbone = open_backbone(folders["sd15"])
    with caplog.at_level(logging.WARNING):
        encode_pairs(backbone, ["face " * 75])
        assert not caplog.records
        encode_pairs(backbone, ["face " * 75 + "red hat"])
    assert [r.getMessage() for r in caplog.records] == ["a prompt of 79 tokens is cut to 77: 'red hat' is lost"]
    assert warn_of_cuts(backbone.tokenizer, ["a man", "face " * 76]) == ["", "face"]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_guidance_in_one_call(family, folders):
    backbone = open_backbone(folders[family])
    positive, negative = encode_pairs(backbone, PROMPTS)
    if family == "sdxl":
        with pytest.raises(LikenessError, match="without sizes"):
            predict(backbone.unet, torch.randn(2, 4, 8, 8), 5, positive, None, 1.0)
        sizes = time_ids((64, 64), 2)
        positive, negative = (Condition(c.context, c.pooled, sizes) for c in (positive, negative))
    latents = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        parts = [backbone.unet(latents, 500, **c.arguments()).sample for c in (negative, positive)]
        torch.testing.assert_close(predict(backbone.unet, latents, 500, positive, negative, 7.5), guided(*parts, 7.5))
        assert torch.equal(predict(backbone.unet, latents, 500, positive, negative, 1.0), parts[1])
    torch.testing.assert_close(guided(*parts, 1.0), parts[1])
    assert torch.equal(guided(*parts, 0.0), parts[0])
    assert (parts[0] - parts[1]).abs().max() > 1e-4
    both = joined([negative, positive])
    assert len(both) == 4
    assert torch.equal(both.rows([2, 3]).context, positive.context)


def test_sizes():
    assert time_ids((512, 768), 2, crop_px=(3, 4)).tolist() == [[512, 768, 3, 4, 512, 768]] * 2
    assert time_ids((512, 768), target_px=(64, 32))[0, 4:].tolist() == [64, 32]


def test_conditions_are_lost_in_branches_that_exclude_each_other():
    policy = ConditionDropout(image=0.1, text=0.2, both=0.3)
    assert [policy.lost(u) for u in (0.0, 0.099, 0.1, 0.299, 0.3001, 0.599, 0.6001, 0.999)] == [
        (True, False), (True, False), (False, True), (False, True), (True, True), (True, True), (False, False), (False, False),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    drawn = [ConditionDropout().lost(rng.random()) for _ in range(20_000)]
    for branch in ((True, False), (False, True), (True, True)):
        assert drawn.count(branch) / len(drawn) == pytest.approx(0.05, abs=0.006)
    assert ConditionDropout(0, 0, 0).lost(0.0) == (False, False)
    assert ConditionDropout(0, 0, 1).lost(0.0) == (True, True)
    with pytest.raises(LikenessError, match="at most 1"):
        ConditionDropout(0.5, 0.5, 0.1)
