"""One small dataset of made clips for all tests that train or generate."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from portraits import make_portraits
from typed import likeness


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Three speakers with two clips each; the last speaker is held out."""
    from pipelines.demo.clips import make_demo_clips

    folder = tmp_path_factory.mktemp("clips") / "clips"
    make_demo_clips(folder, speakers=3, clips_per_speaker=2, duration_s=2.0, held_out_speakers=1)
    return folder


@pytest.fixture(scope="session")
def dataset(clips, tmp_path_factory) -> Path:
    """Its dataset, with the fields that Wav2Lip's stages read."""
    folder = tmp_path_factory.mktemp("dataset") / "dataset"
    likeness("data", "build", folder, "--source", clips, "--list", clips / "sources.tsv", "--runner", "serial")
    return folder


@pytest.fixture(scope="session")
def portraits(tmp_path_factory) -> Path:
    """A dataset of photos of people, see `portraits.py`."""
    return make_portraits(tmp_path_factory.mktemp("portraits"))


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Ports of the loopback interface that nobody uses at the moment."""

    def find() -> int:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            return found.getsockname()[1]

    return find
