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


def recogniser(
    path: Path, dims: int, seed: int = 0, size_px: int = 112, squashed: bool = False
) -> tuple[Path, np.ndarray, np.ndarray]:
    """(n, 3, size, size) -> (n, dims): means of 16 px blocks, then a random linear layer, given back: (147, dims), (dims,).

    With `squashed` a sigmoid behind it.
    """
    rng = np.random.default_rng(seed)
    blocks = (size_px // 16) ** 2 * 3
    weight = rng.standard_normal((blocks, dims)).astype(np.float32)
    bias = rng.standard_normal(dims).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["blocks"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["blocks"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["linear" if squashed else "embedding"]),
    ]
    if squashed:
        nodes.append(helper.make_node("Sigmoid", ["linear"], ["embedding"]))
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


def yolox(path: Path) -> Path:
    """YOLOX's layout, (1, 3, 640, 640) -> (1, 8400, 85). It "finds" people of 96 x 192 px at the middles of blue cells of 32 px.

    Their score is 0.90, by the object's 0.95 and the class's 0.95. Blue is the first channel, so that RGB finds red ones instead.
    """
    nodes, weights, parts = [], {}, []
    for stride in (8, 16, 32):
        weight, bias = np.zeros((85, 3, 1, 1), np.float32), np.zeros(85, np.float32)
        bias[:4] = (0.5, 0.5, np.log(96 / stride), np.log(192 / stride))
        bias[4:] = -20
        if stride == 32:
            weight[4, :, 0, 0] = (0.1, -0.1, -0.1)
            bias[4], bias[5] = -22.5565, 2.9444
        names = [f"{kind}{stride}" for kind in ("w", "b", "cell", "map", "flat", "rows", "place", "likely", "sure")]
        w, b, cell, plane, flat, rows, place, likely, sure = names
        weights |= {w: weight, b: bias, f"shape{stride}": np.array([1, 85, -1], np.int64)}
        nodes += [
            helper.make_node("AveragePool", ["images"], [cell], kernel_shape=[stride] * 2, strides=[stride] * 2),
            helper.make_node("Conv", [cell, w, b], [plane]),
            helper.make_node("Reshape", [plane, f"shape{stride}"], [flat]),
            helper.make_node("Transpose", [flat], [rows], perm=[0, 2, 1]),
            helper.make_node("Split", [rows, "halves"], [place, likely], axis=2),
            helper.make_node("Sigmoid", [likely], [sure]),
            helper.make_node("Concat", [place, sure], [f"out{stride}"], axis=2),
        ]
        parts.append(f"out{stride}")
    weights["halves"] = np.array([4, 81], np.int64)
    nodes.append(helper.make_node("Concat", parts, ["output"], axis=1))
    taken = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 640, 640])]
    given = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 8400, 85])]
    return _save(path, nodes, taken, given, weights)


def simcc(path: Path, points: int = 133, seed: int | None = None) -> tuple[Path, dict[str, np.ndarray]]:
    """DWPose's layout, (1, 3, 384, 288) -> SimCC curves (1, points, 576) and (1, points, 768); its weights are given back.

    A curve is the picture's mean over channels and the other axis, through a matrix, times a number of the point, plus a curve of
    the point. Without a seed the matrix doubles each pixel, and points are all alike: the brightest column and row win.
    """
    weights: dict[str, np.ndarray] = {}
    for axis, size in (("x", 288), ("y", 384)):
        if seed is None:
            weights |= {f"m{axis}": np.repeat(np.eye(size), 2, 1), f"a{axis}": np.ones((points, 1)),
                        f"c{axis}": np.full((points, 2 * size), 5.0)}  # fmt: skip
        else:
            rng = np.random.default_rng(seed + size)
            weights |= {f"m{axis}": rng.standard_normal((size, 2 * size)), f"a{axis}": rng.uniform(0, 1, (points, 1)),
                        f"c{axis}": rng.standard_normal((points, 2 * size))}  # fmt: skip
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    nodes = []
    for axis, other in (("x", 2), ("y", 3)):
        nodes += [
            helper.make_node("ReduceMean", ["input"], [f"mean{axis}"], axes=[1, other], keepdims=0),
            helper.make_node("MatMul", [f"mean{axis}", f"m{axis}"], [f"curve{axis}"]),
            helper.make_node("Mul", [f"curve{axis}", f"a{axis}"], [f"scaled{axis}"]),
            helper.make_node("Add", [f"scaled{axis}", f"c{axis}"], [f"flat{axis}"]),
            helper.make_node("Unsqueeze", [f"flat{axis}", "first"], [f"simcc_{axis}"]),
        ]
    weights["first"] = np.array([0], np.int64)
    taken = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 384, 288])]
    given = [helper.make_tensor_value_info(f"simcc_{axis}", TensorProto.FLOAT, [1, points, 2 * size])
             for axis, size in (("x", 288), ("y", 384))]  # fmt: skip
    return _save(path, nodes, taken, given, weights), weights
