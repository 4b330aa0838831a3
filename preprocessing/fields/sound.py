"""Sound: what networks and selections are given of it."""

from __future__ import annotations

from preprocessing.fields.contract import Field

MEL80 = Field(
    "mel80", "npy", "float32", (80, "columns"), "mel column",
    "80-bin Slaney mel spectrogram in [-4, 4], 80 columns per second (Wav2Lip's recipe)",
)
VOICED = Field(
    "voiced", "npy", "bool", ("frames",), "frame", "sound energy says somebody speaks while this frame is shown",
)
SOUND_MEASURES = Field(
    "sound_measures", "json", "object", (), "clip", "plain numbers about the sound to select by: voiced_share, loudness_dbfs",
)
SYNC = Field(
    "sync", "json", "object", (), "clip",
    "SyncNet score: offset_frames (positive: sound early), confidence (LSE-C), min_distance (LSE-D), n_windows",
)

FIELDS: tuple[Field, ...] = (MEL80, VOICED, SOUND_MEASURES, SYNC)
