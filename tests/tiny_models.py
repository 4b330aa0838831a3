"""Networks of a few thousand random weights in the layouts of transformers and diffusers, with tokenizers made here.

They have learnt nothing, but they are loaded, fed and read as the published ones are. Weights are spread so widely that what
they say depends on the picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = [
    "a", "an", "the", "man", "woman", "child", "dog", "cat", "red", "blue", "green", "small", "large", "old", "young", "sits",
    "stands", "speaks", "smiles", "walks", "on", "in", "at", "with", "street", "garden", "room", "hat", "coat", "dress", "and",
    "of", "picture", "photo", "face",
]  # fmt: skip
SIDE = 32
CHAT = (
    "{% for message in messages %}{{ message['role'].upper() }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def blip(folder: Path, seed: int = 0) -> Path:
    """A captioner as Salesforce/blip-image-captioning-base is laid out."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil, BlipProcessor

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {word: place for place, word in enumerate([*marks, *WORDS])}
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    # As published, the mark that begins a caption is no token of the tokenizer.
    ids = {"bos_token_id": len(vocab), "eos_token_id": vocab["[SEP]"], "sep_token_id": vocab["[SEP]"], "pad_token_id": 0}
    config = BlipConfig(
        text_config={**size, **ids, "vocab_size": len(vocab) + 2, "max_position_embeddings": 64, "encoder_hidden_size": 16},
        vision_config={**size, "image_size": SIDE, "patch_size": 8},
    )
    torch.manual_seed(seed)
    network = BlipForConditionalGeneration(config)
    _spread(network).save_pretrained(folder)
    pictures = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    BlipProcessor(pictures, BertTokenizer(vocab)).save_pretrained(folder)
    return folder


def llava(folder: Path, seed: int = 0) -> Path:
    """A vision chat model as llava-hf/llava-1.5-7b-hf is laid out."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    marks = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    vocab = {word: place for place, word in enumerate([*marks, "USER", "ASSISTANT", ":", *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.WordPiece(prefix="##")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = LlavaConfig(
        vision_config={**size, "model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 8, "projection_dim": 16},
        text_config={
            **size, "model_type": "llama", "vocab_size": len(vocab), "num_key_value_heads": 2, "max_position_embeddings": 256,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
        },
        image_token_index=vocab["<image>"], image_seq_length=(SIDE // 8) ** 2,
    )  # fmt: skip
    torch.manual_seed(seed)
    network = LlavaForConditionalGeneration(config)
    _spread(network).save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def depth_estimator(folder: Path, seed: int = 0) -> Path:
    """As Intel/dpt-large is laid out: a vision transformer whose layers are put together to a map."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessorPil

    torch.manual_seed(seed)
    network = DPTForDepthEstimation(
        DPTConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=SIDE, patch_size=8,
            backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, readout_type="project",
            reassemble_factors=[4, 2, 1, 0.5],
        )
    )  # fmt: skip
    _spread(network).save_pretrained(folder)
    DPTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def classifier(folder: Path, seed: int = 0) -> Path:
    """As microsoft/resnet-50 is laid out; labels with synonyms, as ImageNet's."""
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

    torch.manual_seed(seed)
    names = {0: "tabby, tabby cat", 1: "mask", 2: "wig", 3: "suit, suit of clothes"}
    network = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", id2label=names)
    )
    _spread(network).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_pct=0.875).save_pretrained(folder)
    return folder


def detector(folder: Path, seed: int = 0) -> Path:
    """As hustvl/yolos-small is laid out."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    torch.manual_seed(seed)
    network = YolosForObjectDetection(
        YolosConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[SIDE, SIDE],
            patch_size=8, num_detection_tokens=6, id2label={0: "person", 1: "dog", 2: "tie"},
            use_mid_position_embeddings=False,
        )
    )  # fmt: skip
    _spread(network).save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}).save_pretrained(folder)
    return folder


def segmenter(folder: Path, seed: int = 0) -> Path:
    """As nvidia/segformer-b0-finetuned-ade-512-512 is laid out."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

    torch.manual_seed(seed)
    network = SegformerForSemanticSegmentation(
        SegformerConfig(
            hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8,
            id2label={0: "wall", 1: "sky", 2: "person", 3: "floor", 4: "tree"},
        )
    )  # fmt: skip
    _spread(network).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 2 * SIDE, "width": 2 * SIDE}).save_pretrained(folder)
    return folder


def autoencoder(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """The `vae` of a Stable Diffusion: 8 x 8 pixels to one of 4 channels."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(8, 8, 8, 8),
        latent_channels=4, norm_num_groups=4, **settings,
    ).save_pretrained(folder / "vae")  # fmt: skip
    return folder


def text_encoders(folder: Path, double: bool, seed: int = 0, **settings: Any) -> Path:
    """Tokenizer and text encoder of a Stable Diffusion; `double` for the two of SDXL."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    marks = ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: place for place, word in enumerate([*letters, *(c + "</w>" for c in letters), *marks])}
    torch.manual_seed(seed)
    for number, tail in enumerate(["", "_2"][: 1 + double]):
        tokenizer = CLIPTokenizer(vocab, [], model_max_length=77, **({"pad_token": "!"} if number else {}))
        tokenizer.save_pretrained(folder / f"tokenizer{tail}")
        size = {"hidden_size": 16 + 8 * number, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
        config = CLIPTextConfig(
            **{**size, **settings}, vocab_size=len(vocab), projection_dim=20, max_position_embeddings=77,
            bos_token_id=vocab[marks[0]], eos_token_id=vocab[marks[1]],
        )  # fmt: skip
        kind = CLIPTextModelWithProjection if number else CLIPTextModel
        kind(config).save_pretrained(folder / f"text_encoder{tail}")
    return folder


def _spread(network: torch.nn.Module) -> torch.nn.Module:
    for weights in network.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.6)
    return network


def wav2vec2(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """A recogniser as jonatasgrosman/wav2vec2-large-xlsr-53-english is laid out, narrow but for its 1024 and 512 dims."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    size = {"hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16, "intermediate_size": 16}
    convolutions = {"conv_dim": (8,) * 6 + (512,), "conv_bias": True, "feat_extract_norm": "layer"}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 16}
    torch.manual_seed(seed)
    config = Wav2Vec2Config(**{**size, **convolutions, **positions, "do_stable_layer_norm": True, "vocab_size": 8, **settings})
    _spread(Wav2Vec2ForCTC(config)).save_pretrained(folder)
    return folder
