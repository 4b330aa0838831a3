"""A tiny base that learns from a dataset: made as a user types it, found by its name, and what is wrong with the data is said."""

from __future__ import annotations

import json

import pytest
import torch
from typed import likeness

from models.diffusion.bases import own_bases
from models.diffusion.tiny_training import TinyTraining, train_tiny
from pipelines.tiny_base import RECORD, faces_of


def test_it_is_made_used_and_the_same_again(portraits, tmp_path):
    few = ("--autoencoder-steps", "3", "--unet-steps", "2", "--judged", "4", "--pool", "32")
    record = json.loads(likeness("assets", "make", "trained-tiny-sd15", "--data", portraits, *few, "--json").stdout)
    assert record["faces"] == 6
    assert record["held_out_faces"] == 4
    assert record["measured"].keys() == {"autoencoder_psnr_db", "loss", "loss_untrained"}
    assert 0 < record["measured"]["loss"] != record["measured"]["loss_untrained"]
    folder = own_bases() / "trained-tiny-sd15"
    assert json.loads((folder / RECORD).read_text()) == record
    likeness(
        "generate", "multidiffusion", "prompt=a man", "--base", "trained-tiny-sd15", "--preset", "tiny", "--out", tmp_path / "a.png"
    )
    torch.set_num_threads(1)
    faces = faces_of(str(portraits))
    numbers = train_tiny("sd15", tmp_path / "again", faces["train"], faces["val"], TinyTraining(3, 2, judged=4, pool=32))
    assert numbers == pytest.approx(record["measured"], rel=1e-6)
    part = "unet/diffusion_pytorch_model.safetensors"
    assert (folder / part).read_bytes() == (tmp_path / "again" / part).read_bytes()


def test_what_is_wrong_is_said(dataset):
    told = likeness("assets", "make", "trained-tiny-sd15", "--data", dataset, code=2).stderr
    assert "lacks image_256" in told
    assert "likeness data add" in told
    told = likeness("assets", "make", "tiny-sd15", "--data", dataset, code=2).stderr
    assert "allowed: trained-tiny-sd15, trained-tiny-sd21, trained-tiny-sdxl" in told
