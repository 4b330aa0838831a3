"""The other side of `benchmarks/against_data_juicer.py`: runs in data-juicer's own environment, and imports nothing of ours.

    python -P data_juicer_side.py REQUEST.json

The request: `clips` (paths), `measures` ("own" or "same"), `workers`, `frames` (of "same"), `out` (a folder). Leaves `run.json`:
seconds of work without imports, and by path the motion score and the face ratio.
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    from data_juicer.core.data import NestedDataset
    from data_juicer.ops.filter.image_face_ratio_filter import ImageFaceRatioFilter
    from data_juicer.ops.filter.video_face_ratio_filter import VideoFaceRatioFilter
    from data_juicer.ops.filter.video_motion_score_filter import VideoMotionScoreFilter
    from data_juicer.ops.mapper.video_extract_frames_mapper import VideoExtractFramesMapper
    from data_juicer.utils.constant import Fields

    out = Path(request["out"])
    workers = {"num_proc": request["workers"], "auto_op_parallelism": False, "skip_op_error": False}
    begun = time.monotonic()
    samples = NestedDataset.from_list([{"text": "", "videos": [clip]} for clip in request["clips"]])
    motion = VideoMotionScoreFilter(min_score=-2.0, **workers)  # nothing is dropped; all else as it comes
    if request["measures"] == "own":
        samples = samples.process([motion, VideoFaceRatioFilter(threshold=0.0, **workers)], open_monitor=False)
        faces = [row["video_face_exist"][0] for row in samples[Fields.stats]]
    else:
        frames = VideoExtractFramesMapper(
            frame_sampling_method="uniform", frame_num=request["frames"], frame_dir=str(out / "frames"), frame_field="frames",
            legacy_split_by_text_token=False, **workers,
        )  # fmt: skip
        samples = samples.process([motion, frames], open_monitor=False)
        samples = NestedDataset(samples.map(lambda sample: {"images": sample["frames"][0]}))
        samples = samples.process([ImageFaceRatioFilter(min_ratio=0.0, max_ratio=1.0, **workers)], open_monitor=False)
        faces = [list(row["face_ratios"]) for row in samples[Fields.stats]]
    found = {
        row["videos"][0]: {"motion": row[Fields.stats]["video_motion_score"][0], "face": face}
        for row, face in zip(samples, faces, strict=True)
    }
    (out / "run.json").write_text(json.dumps({"work_s": time.monotonic() - begun, "values": found}))


if __name__ == "__main__":
    main()
