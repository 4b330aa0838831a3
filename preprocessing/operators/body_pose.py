"""Body, feet, hands and face of the person followed through a clip."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field as Setting

from preprocessing.body_estimators import ASSETS, Backend, Person, open_estimator
from preprocessing.body_layouts import BODY, COCO_17, FACE, FEET, LEFT_HAND, RIGHT_HAND, WHOLE_BODY, box_of
from preprocessing.fields import BODY_MEASURES, POSE_133, SOURCE, VIDEO, Field
from preprocessing.operator import Operator, OperatorParams, Sample

UPPER = tuple(COCO_17.index(name) for name in ("nose", "left_shoulder", "right_shoulder"))
WHOLE = (*UPPER, *(COCO_17.index(f"{side}_{part}") for side in ("left", "right") for part in ("hip", "knee", "ankle")))
DIGITS = 6


class BodyPose(Operator):
    """POSE_133 of one person by a backend of `preprocessing.body_estimators`; damaged frames count as empty.

    mediapipe needs no asset; dwpose two ONNX networks. Scores of the two do not compare. Small toes are dwpose's alone.
    """

    name = "body_pose"
    version = 1

    class Params(OperatorParams):
        """`backend`: mediapipe or dwpose. `hands`, `face`: their points too; without them mediapipe takes half the time."""

        backend: Backend = "mediapipe"
        hands: bool = True
        face: bool = True

    @property
    def assets(self) -> tuple[str, ...]:
        return ASSETS[self.params.backend]

    @property
    def reads(self) -> tuple[Field, ...]:
        return (VIDEO,)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (POSE_133,)

    def setup(self) -> None:
        """Load the networks.

        Raises:
            LikenessError: an asset is not here (what to place where), or is another network.
        """
        paths = {name: self.asset(name) for name in self.assets}
        self._estimate = open_estimator(self.params.backend, paths, self.params.hands, self.params.face)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        video = sample[VIDEO]
        damaged = getattr(video, "damaged", np.zeros(video.n_frames, bool))
        poses = np.zeros((video.n_frames, WHOLE_BODY, 3), np.float32)
        last: Person | None = None
        for place, frame in enumerate(video):
            if damaged[place]:
                continue
            last = self._estimate(frame, last)
            if last is not None:
                poses[place] = last.points
        if not self.params.hands:
            poses[:, LEFT_HAND.start :] = 0
        if not self.params.face:
            poses[:, FACE] = 0
        return {POSE_133: poses}


class BodyMeasures(Operator):
    """BODY_MEASURES: numbers of POSE_133 to select clips and photos by; a point counts as seen from `min_score` on.

    - body_seen_share: share of frames with a person. body_score: median over them of the mean score of the 17 body points.
    - body_height_share: median height of the box around the seen points of body and feet, as a share of the picture's.
    - full_body_share: share of frames with nose, shoulders, hips, knees and ankles all seen, and in the picture;
      upper_body_share: nose and shoulders.
    - hands_share: share of frames with at least one hand. face_points_share: with the points of the face.
    - pose_motion: mean speed of the seen body points, in box heights per second.
    """

    name = "body_measures"
    version = 1

    class Params(OperatorParams):
        min_score: float = Setting(0.3, gt=0)

    @property
    def reads(self) -> tuple[Field, ...]:
        return (POSE_133, SOURCE)

    @property
    def writes(self) -> tuple[Field, ...]:
        return (BODY_MEASURES,)

    def __call__(self, sample: Sample) -> dict[Field, Any]:
        poses, source, least = sample[POSE_133].astype(np.float64), sample[SOURCE], self.params.min_score
        body = poses[:, BODY]
        there = (body[..., 2] > 0).any(1)
        inside = ((body[..., :2] >= 0) & (body[..., :2] < (source["width"], source["height"]))).all(-1)
        seen = (body[..., 2] >= least) & inside
        boxes = np.array([box_of(pose[: FEET.stop], least) for pose in poses])
        heights = boxes[:, 3] - boxes[:, 1]
        hands = [(poses[:, hand, 2] >= least).mean(1) > 0.5 for hand in (LEFT_HAND, RIGHT_HAND)]
        numbers = {
            "body_seen_share": there.mean(),
            "body_score": np.median(body[there, :, 2].mean(1)) if there.any() else 0.0,
            "body_height_share": np.median(heights[there]) / source["height"] if there.any() else 0.0,
            "full_body_share": seen[:, WHOLE].all(1).mean(),
            "upper_body_share": seen[:, UPPER].all(1).mean(),
            "hands_share": (hands[0] | hands[1]).mean(),
            "face_points_share": ((poses[:, FACE, 2] >= least).mean(1) > 0.5).mean(),
            "pose_motion": pose_motion(body, seen, heights) * _fps(source),
        }
        return {BODY_MEASURES: {name: round(float(number), DIGITS) for name, number in numbers.items()}}


def pose_motion(body: np.ndarray, seen: np.ndarray, heights: np.ndarray) -> float:
    """Mean way of the points seen in two frames running, from the one to the other, in heights of the box; 0 without any."""
    both = seen[1:] & seen[:-1] & (heights[1:] > 0)[:, None]
    if not both.any():
        return 0.0
    way = np.linalg.norm(body[1:, :, :2] - body[:-1, :, :2], axis=-1) / np.maximum(heights[1:], 1e-6)[:, None]
    return float(way[both].mean())


def _fps(source: dict[str, Any]) -> float:
    over, _, under = str(source["fps"]).partition("/")
    return float(over) / float(under or 1)
