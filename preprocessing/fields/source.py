"""Where a row comes from, its time, and what is decoded while it is processed."""

from __future__ import annotations

from preprocessing.fields.contract import Field

SOURCE = Field(
    "source", "json", "object", (), "clip",
    "where the clip comes from: file, sha256, segment, stream facts, frame rate and number of frames; readers of a dataset find "
    "the person, split and tags that its manifest gives the file here too",
)
TIMELINE = Field(
    "timeline", "npy", "int64", ("frames",), "frame",
    "for each frame of the constant 25 fps clip, the source frame shown, counted in presentation order",
)
VIDEO = Field(
    "video", "npy", "uint8", ("frames", "height", "width", 3), "frame",
    "decoded frames of the clip, upright; streamed to operators, never stored", colour="RGB", stored=False,
)
AUDIO = Field(
    "audio", "wav", "int16", ("samples",), "audio sample",
    "mono sound at 16 kHz; sample 0 is heard when frame 0 is shown",
)
GIVEN = Field(
    "given", "json", "object", (), "clip",
    "what came with the source besides its bytes, from sidecar files or the source list: caption, tags; read by operators, never "
    "stored itself", stored=False,
)
KEY_FRAME = Field(
    "key_frame", "npy", "int64", (), "clip",
    "the frame that stands for the clip in pictures, captions and thumbnails: of a photo the only one",
)

FIELDS: tuple[Field, ...] = (SOURCE, TIMELINE, VIDEO, AUDIO, GIVEN, KEY_FRAME)
