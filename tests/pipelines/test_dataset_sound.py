"""Which sound a dataset's features are made of: `--set OPERATOR.sound=FIELD`, seen from the graph of its columns."""

from __future__ import annotations

import pytest

from infra.errors import LikenessError
from pipelines.dataset.graph import Graph, Node, resolve, standard


def graph(*wanted: str, **settings: dict) -> Graph:
    return resolve(standard(), wanted, settings)


def nodes(made: Graph) -> dict[str, Node]:
    return {node.name: node for node in made.nodes}


def test_the_columns_of_features_name_the_sound_they_are_made_of():
    plain, told = graph("mel80", "mfcc13"), graph("mel80", "mfcc13", mel80={"sound": "audio_silent"})
    assert nodes(told)["mel80"].column != nodes(plain)["mel80"].column
    assert nodes(told)["mel80"].inputs == (nodes(told)["silence"].column,)
    assert "silence" not in nodes(plain)
    assert nodes(told)["mfcc13"].column == nodes(plain)["mfcc13"].column  # told by nobody
    assert nodes(graph("mel80", mel80={"sound": "audio"}))["mel80"].column == nodes(plain)["mel80"].column


def test_realigned_sound_comes_after_the_score_it_is_made_from(tmp_path, monkeypatch):
    (tmp_path / "syncnet_v2.model").write_bytes(b"only its name and checksum count here")
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    made = graph("mel80", "sync_realigned", mel80={"sound": "audio_realigned"})
    order = [node.name for node in made.nodes]
    assert order.index("syncnet") < order.index("realign") < order.index("mel80")
    assert order.index("realign") < order.index("syncnet_realigned")
    assert nodes(made)["syncnet_realigned"].column != nodes(made)["syncnet"].column
    stricter = graph("mel80", mel80={"sound": "audio_realigned"}, realign={"min_confidence": 5.0})
    assert nodes(stricter)["mel80"].column != nodes(made)["mel80"].column
    assert nodes(stricter)["syncnet"].column == nodes(made)["syncnet"].column


def test_voiced_by_speech_probability(tmp_path, monkeypatch):
    (tmp_path / "silero_vad_16k_op15.onnx").write_bytes(b"another file")
    monkeypatch.setenv("LIKENESS_ASSETS", str(tmp_path))
    with pytest.raises(LikenessError, match="silero_vad_16k_op15.onnx has 12 bytes"):
        graph("voiced", voice_activity={"by": "speech_probability"})
    assert "speech_probability" not in nodes(graph("voiced"))


def test_silent_sound_needs_none(tmp_path):
    made = graph("mel80", mel80={"sound": "audio_silent"}, ingest={"sound": "ignored"})
    assert [node.name for node in made.nodes] == ["ingest", "silence", "mel80"]
    with pytest.raises(LikenessError, match="audio comes from ingest"):
        graph("mel80", ingest={"sound": "ignored"})
