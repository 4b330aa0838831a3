"""Depth, classes and objects: networks are asked as their publishers ask them, alone or with any rows beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_models
import torch
from astronaut_clips import make_sample, swaying

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.codecs import decode, encode
from preprocessing.fields import OBJECTS, PICTURE_CLASS, condition_frames, condition_map, image, segmentation, segments
from preprocessing.operator import Sample
from preprocessing.operators.depth import levels

SHAPES = ((48, 64), (64, 48), (48, 64), (48, 48), (48, 90))
OF = {"depth_48": "depth", "segmentation_48": "segmentation", "picture_class": "picture_class", "objects": "objects"}
OF_SIZE = ("depth", "segmentation")  # whose field's name says the size


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("picture-networks")
    tiny_models.depth_estimator(folder / "depth")
    tiny_models.classifier(folder / "picture_class")
    tiny_models.detector(folder / "objects")
    tiny_models.segmenter(folder / "segmentation")
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rows() -> list[Sample]:
    samples = []
    for n, (height, width) in enumerate(SHAPES):
        coarse = np.random.default_rng(n).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        samples.append(Sample(f"row{n}", {image(48).name: cv2.resize(coarse, (width, height))}))
    return samples


def ready(weights: Path, field: str, **settings: Any) -> Any:
    name = OF.get(field, "depth")
    given = {"model": str(weights / name), **({} if name in OF_SIZE else {"size_px": 48}), **settings}
    operator = catalogue.producer(field, {name if field in OF else "depth_frames": given})
    operator.setup()
    return operator


def labels(found: dict[str, Any]) -> list[str]:
    return [entry["label"] for entry in found.get("likeliest", found.get("objects", []))]


@pytest.mark.parametrize("field", OF)
def test_the_rows_beside_make_no_difference(weights: Path, field: str):
    alone, together = ready(weights, field), ready(weights, field, batch_size=4)
    out = alone.writes[0]
    one_by_one = [encode(out, alone(row)[out]) for row in rows()]
    many = [decode(out, encode(out, found[out])) for found in together.call_many(rows())]
    for data, value in zip(one_by_one, many, strict=True):
        want = decode(out, data)
        if field == "depth_48":
            assert np.abs(want.astype(int) - value).max() <= 1
        elif field == "segmentation_48":
            assert (want == value).mean() > 0.999
        else:
            assert labels(want) == labels(value)
    assert len(set(one_by_one)) > 2, "the pictures make no difference"


def test_depth_is_the_networks_scaled_between_its_extremes(weights: Path):
    from transformers import DPTForDepthEstimation, DPTImageProcessorPil

    network = DPTForDepthEstimation.from_pretrained(weights / "depth").eval()
    processor = DPTImageProcessorPil.from_pretrained(weights / "depth")
    row = rows()[0]
    with torch.inference_mode():
        outputs = network(**processor(row[image(48)], return_tensors="pt"))
    book = processor.post_process_depth_estimation(outputs, [row[image(48)].shape[:2]])[0]["predicted_depth"].numpy()
    found = ready(weights, "depth_48")(row)[condition_map("depth", 48)]
    assert found.shape == (48, 64)
    assert (found.min(), found.max()) == (0, 255)
    assert np.abs(found - (book - book.min()) / np.ptp(book) * 255).max() <= 0.51
    farther = ready(weights, "depth_48", output="metric")(row)[condition_map("depth", 48)]
    assert np.corrcoef(found.ravel(), farther.ravel())[0, 1] < 0
    assert not levels(np.full((4, 4), 3.0), 3.0, 3.0).any()


def test_depth_of_a_clip_is_scaled_once_and_frames_may_be_left_out(weights: Path):
    sample = make_sample(swaying(7)[:, :96, :80])
    sequence = ready(weights, "depth_frames_48", every=3, batch_size=2)(sample)[condition_frames("depth", 48)]
    assert sequence.shape == (7, 48, 48, 3)
    assert sequence.present.tolist() == [True, False, False, True, False, False, True]
    seen = sequence.take([0, 3, 6])
    assert seen.min() <= 3
    assert seen.max() >= 252
    assert np.abs(seen[..., 0].astype(int) - seen[..., 2]).max() <= 2
    every = ready(weights, "depth_frames_48")(sample)[condition_frames("depth", 48)]
    assert every.present.all()


def test_classes_are_the_networks_by_their_first_names(weights: Path):
    from transformers import ConvNextImageProcessorPil, ResNetForImageClassification

    network = ResNetForImageClassification.from_pretrained(weights / "picture_class").eval()
    processor = ConvNextImageProcessorPil.from_pretrained(weights / "picture_class")
    operator = ready(weights, "picture_class", most=2)
    for row in rows():
        with torch.inference_mode():
            chances = network(**processor(row[image(48)], return_tensors="pt")).logits.softmax(-1)[0]
        best = chances.argsort(descending=True)[:2].tolist()
        found = operator(row)[PICTURE_CLASS]
        names = ["tabby", "mask", "wig", "suit"]
        assert [entry["label"] for entry in found["likeliest"]] == [names[n] for n in best]
        assert (found["label"], found["score"]) == (names[best[0]], pytest.approx(float(chances[best[0]]), abs=1e-6))


def test_objects_are_the_networks(weights: Path):
    from transformers import YolosForObjectDetection, YolosImageProcessorPil

    network = YolosForObjectDetection.from_pretrained(weights / "objects").eval()
    processor = YolosImageProcessorPil.from_pretrained(weights / "objects")
    operator, total = ready(weights, "objects", threshold=0.4), 0
    for row in rows():
        with torch.inference_mode():
            outputs = network(pixel_values=processor(row[image(48)], return_tensors="pt")["pixel_values"])
        book = processor.post_process_object_detection(outputs, threshold=0.4)[0]
        found = operator(row)[OBJECTS]
        total += len(found["objects"])
        order = book["scores"].argsort(descending=True, stable=True).tolist()
        names = {0: "person", 1: "dog", 2: "tie"}
        assert [o["label"] for o in found["objects"]] == [names[int(book["labels"][n])] for n in order]
        for entry, n in zip(found["objects"], order, strict=True):
            assert entry["box"] == pytest.approx(book["boxes"][n].clamp(0, 1).tolist(), abs=1e-5)
        assert sum(found["counts"].values()) == len(found["objects"])
    assert total > 2


def test_segments_are_the_networks(weights: Path):
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessorPil

    network = SegformerForSemanticSegmentation.from_pretrained(weights / "segmentation").eval()
    processor = SegformerImageProcessorPil.from_pretrained(weights / "segmentation")
    operator = ready(weights, "segmentation_48")
    seen: set[str] = set()
    for row in rows():
        with torch.inference_mode():
            outputs = network(**processor(row[image(48)], return_tensors="pt"))
        book = processor.post_process_semantic_segmentation(outputs, [row[image(48)].shape[:2]])[0].numpy()
        found = operator(row)
        assert np.array_equal(found[segmentation(48)], book)
        said = found[segments(48)]
        assert sum(said["shares"].values()) == pytest.approx(1, abs=1e-4)
        names = {0: "wall", 1: "sky", 2: "person", 3: "floor", 4: "tree"}
        assert said["names"] == {str(n): names[int(n)] for n in np.unique(book)}
        seen |= set(said["shares"])
    assert len(seen) > 1


@pytest.mark.parametrize("field", OF)
def test_another_network_is_refused(weights: Path, field: str, tmp_path: Path):
    wrong = weights / ("objects" if OF[field] != "objects" else "depth")
    with pytest.raises(LikenessError, match="does not load as|lacks"):
        ready(weights, field, model=str(wrong))


def test_leaving_frames_out_is_for_frames():
    with pytest.raises(LikenessError, match="every"):
        catalogue.producer("depth_512", {"depth": {"every": 2}})
    assert catalogue.producer("depth_frames_512", {"depth_frames": {"every": 2}, "depth": {}}).params.every == 2
    assert {"depth", "depth_frames", "canny_frames", "lines"} <= set(catalogue.operator_names())
