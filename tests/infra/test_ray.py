"""Ray works beside everything that is pinned for mediapipe, and its workers import our packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = """
import ray
from infra import cluster

@ray.remote
def origin():
    import models, training
    return models.__file__

cluster.connect(num_cpus=1, object_store_memory=100 << 20)
print("ORIGIN", ray.get(origin.remote(), timeout=60))
ray.shutdown()
"""


@pytest.mark.long
def test_a_worker_imports_what_operators_and_stages_need(ray_session: Any):
    import ray

    @ray.remote
    def versions() -> dict[str, str]:
        from importlib.metadata import version

        import google.protobuf
        import mediapipe
        import numpy
        import torch

        import models.method
        import preprocessing.fields
        import training.stage

        assert float(torch.ones(2).sum()) == 2.0
        assert preprocessing.fields.by_name("mel80")
        assert all((models.method.Method, training.stage.Stage))
        assert mediapipe.__version__ == version("mediapipe")
        return {"protobuf": google.protobuf.__version__, "numpy": numpy.__version__, "mediapipe": mediapipe.__version__}

    found = ray.get(versions.remote(), timeout=120)
    assert found["mediapipe"] == "0.10.21"
    assert found["protobuf"].startswith("4.")
    assert found["numpy"].startswith("1.")


@pytest.mark.long
def test_workers_take_our_packages_although_the_working_directory_has_some_of_its_own(tmp_path: Path):
    for name in ("models", "training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not the project's')")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "driver.py").write_text(DRIVER)
    ran = subprocess.run(
        [sys.executable, "scripts/driver.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    root = Path(__file__).parents[2]
    assert f"ORIGIN {root / 'models' / '__init__.py'}" in ran.stdout, ran.stdout + ran.stderr
