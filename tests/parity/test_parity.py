"""Our modules give what the published ones give, for every fixture that has an adapter."""

import math
from pathlib import Path

import adapters
import catalog
import fixtures
import numpy as np
import pytest
import torch

TOLERANCE = 1e-5  # of the largest magnitude in the tensor, wherever an entry is stored


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("root", "method", "module"),
    [
        pytest.param(root, method, module, id=f"{root.name}-{method}-{module}")
        for root in catalog.roots()
        for method, module in catalog.modules(root)
    ],
)
def test_published_numbers(root: Path, method: str, module: str):
    answer = adapters.find(method, module)
    if answer is None:
        pytest.skip(f"no adapter for {method}/{module}")
    description, expected = fixtures.load(method, module, root)
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = answer(description)
    assert bool(description.get("state_dict")) == description.get("filled", False), "the fixture's weights were not loaded"
    assert outputs.keys() >= expected.keys()
    for name, want in expected.items():
        spec, got = description["outputs"][name], np.asarray(outputs[name])
        error = fixtures.max_error(got, want, spec.get("stride", 1))
        catalog.measured[f"{method}/{module}: {name}"] = error
        assert list(got.shape) == spec["shape"], name
        assert error <= TOLERANCE, f"{name}: {error:.2e} of its largest magnitude"
        if "std" in spec:  # taken over the whole tensor, so they also see the entries that `stride` left out
            assert math.isclose(got.mean(dtype=np.float64), spec["mean"], abs_tol=1e-4 * np.abs(want).max()), name
            assert math.isclose(got.std(dtype=np.float64), spec["std"], abs_tol=1e-4 * np.abs(want).max()), name


def test_the_harness_notices():
    module = torch.nn.Linear(2, 3)
    shapes = {"weight": [3, 2], "bias": [3]}
    fixtures.fill(module, {"state_dict": shapes})
    assert np.array_equal(module.weight.detach().numpy(), fixtures.value_for("weight", (3, 2)))
    for wrong in ({"weight": [3, 2]}, shapes | {"scale": [3]}, shapes | {"bias": [2]}):
        with pytest.raises(AssertionError):
            fixtures.fill(module, {"state_dict": wrong})
    want = np.array([1.0, -4.0, 2.0])
    assert fixtures.max_error(np.array([1, 9, -4, 9, 2.1, 9]), want, stride=2) == pytest.approx(0.1 / 4)
    assert fixtures.compare(want * 1.01, want) == pytest.approx(0.01)
    for broken in (want[:2], want * math.nan):
        assert fixtures.max_error(broken, want) == fixtures.compare(broken, want) == math.inf
