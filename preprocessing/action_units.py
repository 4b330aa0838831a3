"""Facial action units (FACS): the 41 labels of OpenGraphAU, and how MediaPipe's blendshapes are read as some of them.

Left and right are the person's own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from infra.errors import LikenessError

# The output order of the hybrid network of ME-GraphAU (Luo et al. 2022): 27 of both sides, then 14 of one. Its list calls L12 and
# R12 the nasolabial deepener, which elsewhere is AU11.
NAMES: dict[str, str] = {
    "AU1": "inner brow raiser", "AU2": "outer brow raiser", "AU4": "brow lowerer", "AU5": "upper lid raiser", "AU6": "cheek raiser",
    "AU7": "lid tightener", "AU9": "nose wrinkler", "AU10": "upper lip raiser", "AU11": "nasolabial deepener",
    "AU12": "lip corner puller", "AU13": "sharp lip puller", "AU14": "dimpler", "AU15": "lip corner depressor",
    "AU16": "lower lip depressor", "AU17": "chin raiser", "AU18": "lip pucker", "AU19": "tongue show", "AU20": "lip stretcher",
    "AU22": "lip funneler", "AU23": "lip tightener", "AU24": "lip pressor", "AU25": "lips part", "AU26": "jaw drop",
    "AU27": "mouth stretch", "AU32": "lip bite", "AU38": "nostril dilator", "AU39": "nostril compressor",
    "AUL1": "left inner brow raiser", "AUR1": "right inner brow raiser", "AUL2": "left outer brow raiser",
    "AUR2": "right outer brow raiser", "AUL4": "left brow lowerer", "AUR4": "right brow lowerer", "AUL6": "left cheek raiser",
    "AUR6": "right cheek raiser", "AUL10": "left upper lip raiser", "AUR10": "right upper lip raiser",
    "AUL12": "left nasolabial deepener", "AUR12": "right nasolabial deepener", "AUL14": "left dimpler", "AUR14": "right dimpler",
}  # fmt: skip
LABELS = tuple(NAMES)
OTHER = len(LABELS)  # InstructAvatar's 42nd class

# MediaPipe's blendshapes, in the order in which its network gives them. ARKit's tongueOut is not among them.
BLENDSHAPES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft",
    "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight",
    "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthDimpleLeft",
    "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel", "mouthLeft", "mouthLowerDownLeft",
    "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper",
    "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight",
)  # fmt: skip

# Label -> blendshapes, of which the lowest must reach the threshold; alternatives one after the other.
Rule = tuple[tuple[str, ...], ...]


def _both(stem: str) -> Rule:
    return ((f"{stem}Left", f"{stem}Right"),)


RULES: dict[str, Rule] = {
    "AU1": (("browInnerUp",),), "AU2": _both("browOuterUp"), "AU4": _both("browDown"), "AU5": _both("eyeWide"),
    # The network never moves cheekSquint (nor noseSneer, AU9): 0.000 on all photos and clips looked at. Eyes narrowed by a smile
    # are narrowed by the cheeks.
    "AU6": (("eyeSquintLeft", "eyeSquintRight", "mouthSmileLeft", "mouthSmileRight"),),
    "AU7": _both("eyeSquint"), "AU10": _both("mouthUpperUp"), "AU12": _both("mouthSmile"), "AU14": _both("mouthDimple"),
    "AU15": _both("mouthFrown"), "AU16": _both("mouthLowerDown"), "AU17": (("mouthShrugLower",),), "AU18": (("mouthPucker",),),
    "AU20": _both("mouthStretch"), "AU22": (("mouthFunnel",),), "AU24": _both("mouthPress"),
    "AU25": (("jawOpen",), *_both("mouthUpperUp"), *_both("mouthLowerDown")), "AU26": (("jawOpen",),), "AU27": (("jawOpen",),),
    "AUL2": (("browOuterUpLeft",),), "AUR2": (("browOuterUpRight",),), "AUL4": (("browDownLeft",),), "AUR4": (("browDownRight",),),
    "AUL6": (("eyeSquintLeft", "mouthSmileLeft"),), "AUR6": (("eyeSquintRight", "mouthSmileRight"),),
    "AUL10": (("mouthUpperUpLeft",),), "AUR10": (("mouthUpperUpRight",),), "AUL14": (("mouthDimpleLeft",),),
    "AUR14": (("mouthDimpleRight",),),
}  # fmt: skip
# Blendshapes are strengths, not probabilities, and each rests at a level of its own. Set so that calm faces, reading ones included,
# stay below nearly always (see docs/motion.md); no labelled faces were at hand to fit them.
THRESHOLD = 0.5
THRESHOLDS = {
    "AU1": 0.3, "AU2": 0.4, "AU5": 0.1, "AU6": 0.45, "AU14": 0.2, "AU15": 0.15, "AU16": 0.3, "AU17": 0.3, "AU18": 0.7, "AU20": 0.2,
    "AU22": 0.3, "AU24": 0.25, "AU25": 0.25, "AU26": 0.3, "AU27": 0.6,
}  # fmt: skip
# Nothing in the blendshapes tells these.
UNSEEN = tuple(label for label in LABELS if label not in RULES)


def from_blendshapes(shapes: np.ndarray, thresholds: Mapping[str, float] | None = None) -> list[list[str]]:
    """Labels of each frame, in the order of `LABELS`; one of a single side only where the unit is not there on both.

    Args:
        shapes: (n, 52) from 0 to 1.
        thresholds: label -> threshold, where it differs from `THRESHOLDS`.
    """
    limits = {label: THRESHOLDS.get(label, THRESHOLD) for label in RULES} | dict(thresholds or {})
    found = []
    for frame in blendshape_scores(shapes):
        seen = [label for place, label in enumerate(RULES) if frame[place] >= limits[label]]
        found.append([label for label in seen if label[2] not in "LR" or f"AU{label[3:]}" not in seen])
    return found


def blendshape_scores(shapes: np.ndarray) -> np.ndarray:
    """(n, 52) -> (n, labels of `RULES`): of each label the best of its alternatives, each the lowest of its blendshapes."""
    if shapes.ndim != 2 or shapes.shape[1] != len(BLENDSHAPES):
        raise LikenessError(f"blendshapes of shape {shapes.shape}", allowed=f"(frames, {len(BLENDSHAPES)})")
    column = {name: shapes[:, place] for place, name in enumerate(BLENDSHAPES)}
    rules = [np.max([np.min([column[name] for name in group], 0) for group in rule], 0) for rule in RULES.values()]
    return np.stack(rules, 1)


def agreement(truth: Sequence[Collection[str]], found: Sequence[Collection[str]]) -> dict[str, float]:
    """Precision, recall and F1 of each clip's labels, averaged over clips (InstructAvatar's AU scores).

    Clips without true labels are left out, as there; where nothing is found, or nothing rightly, a clip counts 0.
    """
    scores = []
    for true, seen in zip(truth, found, strict=True):
        if true:
            a, b = set(true), set(seen)
            hits = len(a & b)
            scores.append((hits / len(b) if b else 0.0, hits / len(a), 2 * hits / (len(a) + len(b))))
    if not scores:
        raise LikenessError("no clip has action units to compare with", allowed="at least one clip with labels")
    return dict(zip(("precision", "recall", "f1"), np.mean(scores, 0).tolist(), strict=True))


def multi_hot(labels: Collection[str]) -> np.ndarray:
    """(42,) float32: 1 for each label given, the last place for any that is none of the 41 (InstructAvatar's "other").

    The target of InstructAvatar's action-unit head.
    """
    out = np.zeros(OTHER + 1, np.float32)
    out[[LABELS.index(label) if label in NAMES else OTHER for label in labels]] = 1
    return out
