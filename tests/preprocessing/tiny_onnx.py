"""Small ONNX networks with the layouts of the published ones, and weights whose answers can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = [helper.make_opsetid("", 13)]
SCRFD_DISTANCES = (1.0, 1.5, 2.0, 2.5)  # left, top, right, bottom of the anchor, in strides
SCRFD_SHIFTS = (-0.5, 0.0, 0.5, 0.0, 0.0, 0.5, -0.25, 1.0, 0.25, 1.0)


def _save(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray]) -> Path:
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=OPSET, ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def recogniser(path: Path, dims: int, seed: int = 0, size_px: int = 112) -> tuple[Path, np.ndarray, np.ndarray]:
    """(n, 3, size, size) -> (n, dims): means of 16 px blocks, then a random linear layer, given back: (147, dims), (dims,)."""
    rng = np.random.default_rng(seed)
    blocks = (size_px // 16) ** 2 * 3
    weight = rng.standard_normal((blocks, dims)).astype(np.float32)
    bias = rng.standard_normal(dims).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["blocks"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["blocks"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["embedding"]),
    ]
    taken = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, size_px, size_px])]
    given = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", dims])]
    return _save(path, nodes, taken, given, {"weight": weight, "bias": bias}), weight, bias


def scrfd(path: Path, outputs: int = 9) -> Path:
    """SCRFD's layout. It "finds" white cells of 32 px at stride 32 (score 0.95) and red ones of 8 px at stride 8 (score 0.88).

    The boxes are `SCRFD_DISTANCES` around the anchor, the key points `SCRFD_SHIFTS` from it.
    """
    nodes, weights, order = [], {}, []
    sees = {8: ((4.0, -4.0, -4.0), -10.0), 16: ((0.0, 0.0, 0.0), -20.0), 32: ((2.0, 2.0, 2.0), -3.0)}
    constant = {"box": np.array(SCRFD_DISTANCES * 2, np.float32), "kps": np.array(SCRFD_SHIFTS * 2, np.float32)}
    for stride, (colours, bias) in sees.items():
        nodes.append(helper.make_node("AveragePool", ["input"], [f"cell{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2))
        weights[f"w_score{stride}"] = np.array([colours] * 2, np.float32)[..., None, None]
        weights[f"b_score{stride}"] = np.full(2, bias, np.float32)
        for kind, values in constant.items():
            weights[f"w_{kind}{stride}"] = np.zeros((len(values), 3, 1, 1), np.float32)
            weights[f"b_{kind}{stride}"] = values
        for kind, width in (("score", 1), ("box", 4), ("kps", 10)):
            name = f"{kind}{stride}"
            weights[f"shape_{name}"] = np.array([-1, width], np.int64)
            logits = f"logits_{name}" if kind == "score" else name
            nodes += [
                helper.make_node("Conv", [f"cell{stride}", f"w_{name}", f"b_{name}"], [f"map_{name}"]),
                helper.make_node("Transpose", [f"map_{name}"], [f"rows_{name}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"rows_{name}", f"shape_{name}"], [logits]),
            ]
            if kind == "score":
                nodes.append(helper.make_node("Sigmoid", [logits], [name]))
    for kind, width in (("score", 1), ("box", 4), ("kps", 10)):
        order += [helper.make_tensor_value_info(f"{kind}{s}", TensorProto.FLOAT, [None, width]) for s in sees]
    taken = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])]
    return _save(path, nodes, taken, order[:outputs], weights)


def voice_detector(path: Path) -> Path:
    """Silero VAD's layout. The probability is the mean magnitude of the 576 samples it hears, plus how many calls went before."""
    weights = {"first": np.zeros(3, np.int64), "end": np.ones(3, np.int64), "flat": np.ones(2, np.int64), "one": np.float32(1)}
    nodes = [
        helper.make_node("Abs", ["input"], ["magnitude"]),
        helper.make_node("ReduceMean", ["magnitude"], ["loudness"], axes=[1], keepdims=1),
        helper.make_node("Slice", ["state", "first", "end"], ["corner"]),
        helper.make_node("Reshape", ["corner", "flat"], ["calls"]),
        helper.make_node("Add", ["loudness", "calls"], ["plain"]),
        helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["rate", "rate"], ["same"]),
        helper.make_node("Mul", ["plain", "same"], ["output"]),
        helper.make_node("Add", ["state", "one"], ["stateN"]),
    ]
    taken = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", "sequence"]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "batch", 128]),
        helper.make_tensor_value_info("sr", TensorProto.INT64, []),
    ]
    given = [
        helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1]),
        helper.make_tensor_value_info("stateN", TensorProto.FLOAT, [2, "batch", 128]),
    ]
    return _save(path, nodes, taken, given, weights)


def speaker_detector(path: Path, bias: float = 0.0) -> Path:
    """Light-ASD's layout. A frame's score is the mean of its picture, plus the mean of its 52 cepstra, plus `bias`."""
    weights = {"four": np.array([1, -1, 52], np.int64), "line": np.array([-1], np.int64), "bias": np.float32(bias)}
    nodes = [
        helper.make_node("ReduceMean", ["faces"], ["grey"], axes=[2, 3], keepdims=0),
        helper.make_node("Reshape", ["mfcc", "four"], ["steps"]),
        helper.make_node("ReduceMean", ["steps"], ["sound"], axes=[2], keepdims=0),
        helper.make_node("Add", ["grey", "sound"], ["both"]),
        helper.make_node("Add", ["both", "bias"], ["moved"]),
        helper.make_node("Reshape", ["moved", "line"], ["score"]),
    ]
    taken = [
        helper.make_tensor_value_info("mfcc", TensorProto.FLOAT, [1, "T4", 13]),
        helper.make_tensor_value_info("faces", TensorProto.FLOAT, [1, "T", 112, 112]),
    ]
    return _save(path, nodes, taken, [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["T"])], weights)


def heat_maps(path: Path, maps: int = 198, seed: int = 0) -> tuple[Path, np.ndarray, np.ndarray]:
    """OpenSeeFace's layout, (n, 3, 224, 224) -> (n, maps, 28, 28): means of 8 px blocks times (maps, 3), plus (maps,)."""
    rng = np.random.default_rng(seed)
    weight, bias = rng.standard_normal((maps, 3)).astype(np.float32), rng.standard_normal(maps).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["blocks"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["blocks", "weight", "bias"], ["output"]),
    ]
    taken = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 224, 224])]
    given = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", maps, 28, 28])]
    return _save(path, nodes, taken, given, {"weight": weight[..., None, None], "bias": bias}), weight, bias
