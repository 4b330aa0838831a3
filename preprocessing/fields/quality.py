"""Numbers to select by that have measures of their own: naturalness, cover over the face, shots, lettering, near copies."""

from __future__ import annotations

from preprocessing.fields.contract import Field

NATURALNESS = Field(
    "naturalness", "json", "object", (), "clip",
    "NIQE, how far the picture's texture is from that of undistorted photos (lower is better): niqe, niqe_face, and the frames "
    "looked at",
)
FACE_COVER = Field(
    "face_cover", "json", "object", (), "clip",
    "how well the main face is seen, medians over sampled frames: eyes, nose, mouth (1 is free), least (the lowest of the three in "
    "any frame), outside (share of the face outside the picture), and the frames looked at",
)
SCENE_CUTS = Field(
    "scene_cuts", "npy", "int64", ("cuts",), "clip",
    "frames at which another shot begins, in order; the first frame of the clip is none",
)
SHOT_MEASURES = Field(
    "shot_measures", "json", "object", (), "clip",
    "plain numbers about shots to select by: cuts, longest_s, strongest (the largest change from a frame to the next)",
)
NEAR_DUPLICATE = Field(
    "near_duplicate", "json", "object", (), "clip",
    "near duplicates by the fitted groups of an embedding: group (-1 for a row like none of them), cosine to its first row, first "
    "(1 for one row of each group), rows when fitted",
)

FIELDS: tuple[Field, ...] = (NATURALNESS, FACE_COVER, SCENE_CUTS, SHOT_MEASURES, NEAR_DUPLICATE)
