"""Captions: given ones are passed on; networks are asked as their publishers ask them, alone or with any rows beside."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_models
import torch

from infra.errors import LikenessError
from preprocessing import catalogue
from preprocessing.fields import CAPTION_BLIP, CAPTION_GIVEN, CAPTION_LLAVA, DESCRIPTION_LLAVA, GIVEN, image
from preprocessing.operator import BatchOperator, Refused, Sample

FIELDS = {"blip": CAPTION_BLIP, "llava": CAPTION_LLAVA}
SHAPES = ((48, 64), (64, 48), (48, 64), (48, 48), (48, 70), (100, 48))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioners")
    tiny_models.blip(folder / "blip")
    tiny_models.llava(folder / "llava")
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def picture(seed: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height))


def rows(size: int = 48) -> list[Sample]:
    """Rows with pictures of several shapes and given captions of several lengths."""
    return [
        Sample(f"row{n}", {image(size).name: picture(n, *shape), GIVEN.name: {"caption": "a dog " * (1 + n % 2)}})
        for n, shape in enumerate(SHAPES)
    ]


def ready(weights: Path, name: str, **settings: Any) -> BatchOperator:
    given = {"model": str(weights / name), "size_px": 48, "max_new_tokens": 8, **settings}
    operator = catalogue.producer(FIELDS[name].name, {name: given})
    operator.setup()
    assert isinstance(operator, BatchOperator)
    return operator


def captions(operator: BatchOperator, samples: list[Sample]) -> list[str]:
    return [row[operator.writes[0]] for row in operator.call_many(samples)]


def test_given_captions_are_passed_on():
    operator = catalogue.producer("caption_given")
    assert operator(Sample("row", {"given": {"caption": " two words\n"}})) == {CAPTION_GIVEN: "two words"}
    for given in ({}, {"caption": ""}, {"caption": " "}, {"tags": {"mood": "calm"}}):
        with pytest.raises(Refused, match="no caption was given"):
            operator(Sample("row", {"given": given}))


def blip_by_the_book(folder: Path, shown: np.ndarray, prompt: str) -> str:
    """As the model card shows it."""
    from transformers import BlipForConditionalGeneration, BlipProcessor

    network = BlipForConditionalGeneration.from_pretrained(folder).eval()
    processor = BlipProcessor.from_pretrained(folder)
    inputs = processor(shown, prompt, return_tensors="pt") if prompt else processor(shown, return_tensors="pt")
    return processor.decode(network.generate(**inputs, max_new_tokens=8)[0], skip_special_tokens=True)


@pytest.mark.parametrize("prompt", ["", "a photo of a"])
def test_blip_is_asked_as_published(weights: Path, prompt: str):
    found = captions(ready(weights, "blip", prompt=prompt), rows())
    assert found == [blip_by_the_book(weights / "blip", row[image(48)], prompt) for row in rows()]
    assert len(set(found)) > 2, "the pictures make no difference"
    assert all(caption.startswith(prompt) for caption in found)


def llava_by_the_book(folder: Path, shown: np.ndarray, question: str) -> str:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    network = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = LlavaProcessor.from_pretrained(folder)
    inputs = processor(shown, f"USER: <image>\n{question} ASSISTANT:", return_tensors="pt")
    tokens = network.generate(**inputs, max_new_tokens=8, do_sample=False)
    whole = processor.decode(tokens[0], skip_special_tokens=True)
    asked = processor.decode(inputs["input_ids"][0], skip_special_tokens=True)
    assert whole.startswith(asked)
    return whole[len(asked) :].strip()


def test_llava_is_asked_in_its_own_chat_and_only_the_answer_is_kept(weights: Path):
    found = captions(ready(weights, "llava", prompt="a picture of a dog with"), rows())
    assert found == [llava_by_the_book(weights / "llava", row[image(48)], "a picture of a dog with") for row in rows()]
    assert len(set(found)) > 2, "the pictures make no difference"
    assert all(found)


def test_a_face_is_described_by_another_question(weights: Path):
    settings = {"model": str(weights / "llava"), "size_px": 48, "max_new_tokens": 8}
    operator: Any = catalogue.producer("description_llava", {"llava_description": settings})
    operator.setup()
    assert (operator.name, operator.writes) == ("llava_description", (DESCRIPTION_LLAVA,))
    for part in ("face", "ears", "eyes", "nose", "mouth"):
        assert part in operator.params.prompt
    assert catalogue.producer("description_llava").params.max_new_tokens == 512
    found = [row[DESCRIPTION_LLAVA] for row in operator.call_many(rows())]
    assert found == [llava_by_the_book(weights / "llava", row[image(48)], operator.params.prompt) for row in rows()]
    assert found != captions(ready(weights, "llava"), rows())


@pytest.mark.parametrize("name", ["blip", "llava"])
@pytest.mark.parametrize("prompt", ["a photo of", "a {caption} on the"])
@pytest.mark.parametrize("beams", [1, 3])
def test_the_rows_beside_make_no_difference(weights: Path, name: str, prompt: str, beams: int):
    alone = ready(weights, name, prompt=prompt, num_beams=beams)
    together = ready(weights, name, prompt=prompt, num_beams=beams, batch_size=4)
    assert (alone.batch_size, together.batch_size) == (8 if torch.cuda.is_available() else 1, 4)
    one_by_one = [alone(row)[FIELDS[name]] for row in rows()]
    assert captions(together, rows()) == one_by_one
    assert captions(together, rows()[::-1]) == one_by_one[::-1]


def test_a_prompt_may_quote_the_given_caption(weights: Path):
    operator = ready(weights, "blip", prompt="a {caption} in the")
    assert operator.reads == (image(48), GIVEN)
    assert ready(weights, "blip", prompt="a dog").reads == (image(48),)
    found = captions(operator, rows())
    assert found[0].startswith("a a dog in the")
    assert found[1].startswith("a a dog a dog in the")
    lacking = rows()
    lacking[1][GIVEN] = {}
    with pytest.raises(Refused, match="no caption was given"):
        operator(lacking[1])
    with pytest.raises(LikenessError, match=r"\{name\} stands for nothing, only \{caption\} does"):
        catalogue.producer("caption_blip", {"blip": {"prompt": "this is {name}"}})


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_other_arithmetic(weights: Path, dtype: str):
    for name in FIELDS:
        operator: Any = ready(weights, name, dtype=dtype)
        assert operator._network.dtype == (torch.float32 if dtype == "auto" else torch.bfloat16)
        assert all(captions(operator, rows()[:2]))


def test_settings_that_change_no_output_are_no_part_of_the_digest():
    plain = catalogue.producer("caption_blip", {"blip": {"size_px": 256}})
    moved = catalogue.producer("caption_blip", {"blip": {"size_px": 256, "model": "/x", "batch_size": 3, "gpus": 0.1}})
    assert plain.params.model_dump(mode="json") == moved.params.model_dump(mode="json")
    assert "prompt" in plain.params.model_dump(mode="json")
    assert moved.assets == ("model:/x",)
    assert moved.resources.gpus == 0.1
    assert catalogue.producer("caption_llava").resources.gpus == 1
    revised = catalogue.producer("caption_blip", {"blip": {"revision": "v2"}})
    assert revised.assets == ("model:Salesforce/blip-image-captioning-base@v2",)


def test_operators_travel(weights: Path):
    given = {"model": str(weights / "blip"), "size_px": 48, "max_new_tokens": 8}
    operator = pickle.loads(pickle.dumps(catalogue.producer("caption_blip", {"blip": given})))
    operator.setup()
    assert captions(operator, rows()) == captions(ready(weights, "blip"), rows())


def test_what_is_no_captioner_is_refused_in_one_line(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(LikenessError, match=r"llava-hf/llava-1.5-7b-hf is not in the local.*run: hf download llava-hf/llava"):
        catalogue.producer("caption_llava").setup()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(LikenessError, match="does not load as"):
        ready(tmp_path, "blip", model=str(tmp_path / "other"))
    with pytest.raises(LikenessError, match="does not load as a vision chat model"):
        ready(weights, "llava", model=str(weights / "blip"))


def test_rows_that_do_not_fit_together_go_one_by_one(weights: Path):
    operator: Any = ready(weights, "blip", batch_size=4)
    write, sizes = operator._write, []

    def small_gpu(inputs: list) -> list[str]:
        sizes.append(len(inputs))
        if len(inputs) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write(inputs)

    limit = 4
    want = captions(operator, rows())
    operator._write, limit = small_gpu, 1
    assert captions(operator, rows()) == want
    assert sizes == [4, 1, 1, 1, 1, 2, 1, 1]
    limit = 0
    with pytest.raises(MemoryError, match="blip: one row does not fit"):
        operator(rows()[0])


def test_weights_and_settings_in_the_layouts_of_older_publications(weights: Path, tmp_path: Path):
    """As most of the hub is laid out: a pickled state dict with names of transformers 4, a file per part of the processor."""
    import json
    import shutil

    from safetensors.torch import load_file

    for name in FIELDS:
        want = captions(ready(weights, name), rows())
        folder = shutil.copytree(weights / name, tmp_path / name)
        tensors = load_file(folder / "model.safetensors").items()
        older = {k.replace("vision_tower.", "vision_tower.vision_model."): v for k, v in tensors}
        torch.save(older, folder / "pytorch_model.bin")
        settings = json.loads((folder / "processor_config.json").read_text())
        pictures = settings.pop("image_processor")
        pictures["image_processor_type"] = {"blip": "BlipImageProcessor", "llava": "CLIPImageProcessor"}[name]
        pictures["processor_class"] = settings["processor_class"]
        (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
        (folder / "model.safetensors").unlink()
        if name == "blip":
            vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
            (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in sorted(vocab, key=vocab.get)))
            (folder / "tokenizer.json").unlink()
            (folder / "processor_config.json").unlink()
        else:
            (folder / "processor_config.json").write_text(json.dumps(settings))
            (folder / "chat_template.json").write_text(json.dumps({"chat_template": tiny_models.CHAT}))
            (folder / "chat_template.jinja").unlink()
        assert captions(ready(tmp_path, name), rows()) == want


def test_a_part_of_the_weights_is_not_enough(weights: Path, tmp_path: Path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(weights / "blip", tmp_path / "part")
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if name.startswith("text_decoder"))
    save_file({k: v for k, v in tensors.items() if k != gone}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LikenessError, match=r"lacks 1 weights of BlipForConditionalGeneration, text_decoder"):
        ready(weights, "blip", model=str(folder))
