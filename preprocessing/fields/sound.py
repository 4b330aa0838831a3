"""Sound: what networks and selections are given of it."""

from __future__ import annotations

from preprocessing.fields.contract import Field

AUDIO_REALIGNED = Field(
    "audio_realigned", "wav", "int16", ("samples",), "audio sample",
    "`audio` moved by the whole frames that `realignment` says, so that it fits the lips; of the same length, silent where that "
    "has nothing",
)
AUDIO_SILENT = Field(
    "audio_silent", "wav", "int16", ("samples",), "audio sample",
    "silence as long as the clip, 16 kHz: what clips whose sound must not be heard are given instead",
)
MEL80 = Field(
    "mel80", "npy", "float32", (80, "columns"), "mel column",
    "80-bin Slaney mel spectrogram in [-4, 4], 80 columns per second (Wav2Lip's recipe)",
)
MFCC13 = Field(
    "mfcc13", "npy", "float32", (13, "steps"), "mfcc step",
    "13 mel-frequency cepstra of the int16 samples, 100 steps per second, the first one log energy (SyncNet's recipe)",
)
W2V1024 = Field(
    "w2v1024", "npy", "float16", ("features", 1024), "speech feature",
    "last hidden states of wav2vec 2.0, 50 per second (DreamTalk's recipe)",
)
W2V512 = Field(
    "w2v512", "npy", "float16", ("features", 512), "speech feature",
    "what wav2vec 2.0's convolutions alone give, 50 per second, no layer norm after them (InstructAvatar's recipe)",
)
VOICED = Field(
    "voiced", "npy", "bool", ("frames",), "frame",
    "somebody speaks while this frame is shown: by sound energy, or by `speech_probability` if so set",
)
SPEECH_PROBABILITY = Field(
    "speech_probability", "npy", "float32", ("frames",), "frame",
    "how likely it is that somebody speaks while this frame is shown, 0 to 1, by Silero VAD",
)
SOUND_MEASURES = Field(
    "sound_measures", "json", "object", (), "clip", "plain numbers about the sound to select by: voiced_share, loudness_dbfs",
)
SYNC = Field(
    "sync", "json", "object", (), "clip",
    "SyncNet score: offset_frames (positive: sound early), confidence (LSE-C), min_distance (LSE-D), n_windows",
)
REALIGNMENT = Field(
    "realignment", "json", "object", (), "clip",
    "how `audio_realigned` was moved: shift_frames (positive: sound delayed), trusted (1 where `sync` could be relied on)",
)
SYNC_REALIGNED = Field(
    "sync_realigned", "json", "object", (), "clip", "`sync` measured again with `audio_realigned`",
)
ACTIVE_SPEAKER = Field(
    "active_speaker", "npy", "float32", ("frames",), "frame",
    "how much the face looks as if the sound came from its mouth, by Light-ASD: positive for speaking; 0 where `face_valid` is 0",
)
ACTIVE_SPEAKER_MEASURES = Field(
    "active_speaker_measures", "json", "object", (), "clip",
    "`active_speaker` in plain numbers to select by: n_frames, mean_score, speaking_share (of scores above 0) of valid frames; "
    "voiced_frames, voiced_score, voiced_speaking_share of those that are voiced too",
)

FIELDS: tuple[Field, ...] = (
    AUDIO_REALIGNED, AUDIO_SILENT, MEL80, MFCC13, W2V1024, W2V512, VOICED, SPEECH_PROBABILITY, SOUND_MEASURES, SYNC, REALIGNMENT,
    SYNC_REALIGNED, ACTIVE_SPEAKER, ACTIVE_SPEAKER_MEASURES,
)  # fmt: skip
