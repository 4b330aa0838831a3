"""Released Wav2Lip checkpoints: read strictly, written in the same layout, refused with a reason."""

import io
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from infra.errors import LikenessError
from models.wav2lip.published import COMPONENTS, export_published, load_published, published_shapes


def synthetic(component: str, prefix: str = "") -> OrderedDict:
    """Weights of the right names and shapes, one number each, stored as one number: the files stay small."""
    return OrderedDict(
        (prefix + key, torch.tensor(7 + i if key.endswith("num_batches_tracked") else 0.5 + i / 1000).expand(shape))
        for i, (key, shape) in enumerate(published_shapes(component).items())
    )


def checkpoint(state, **extra) -> dict:
    return {"state_dict": state, "optimizer": None, "global_step": 400_000, "global_epoch": 12, **extra}


@pytest.mark.parametrize("component", COMPONENTS)
def test_loading_changes_every_tensor(component, tmp_path):
    torch.save(checkpoint(synthetic(component)), tmp_path / "file.pth")
    weights = load_published(tmp_path / "file.pth", component)
    network = COMPONENTS[component]()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert {key: value.shape for key, value in weights.items()} == {key: value.shape for key, value in before.items()}
    network.load_state_dict(weights, strict=True)
    for key, value in network.state_dict().items():
        assert not torch.equal(value, before[key]), key
        assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize("component", COMPONENTS)
def test_export_has_the_published_layout_and_comes_back(component, tmp_path):
    file = tmp_path / "file.pth"
    state = {key: value.half() if value.is_floating_point() else value for key, value in synthetic(component).items()}
    export_published(state, file, global_step=1234)
    written = torch.load(file, weights_only=True)
    assert written.keys() == {"state_dict", "optimizer", "global_step", "global_epoch"}
    assert written["global_step"] == 1234
    assert {key: tuple(value.shape) for key, value in written["state_dict"].items()} == published_shapes(component)
    back = load_published(file, component)
    assert all(torch.equal(back[key], value.float() if value.is_floating_point() else value) for key, value in state.items())
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]
    file.unlink()  # up to 145 MB


@pytest.mark.parametrize(
    "content",
    [
        synthetic("critic"),
        synthetic("critic", "module."),
        checkpoint(synthetic("critic", "module.")),
        checkpoint(synthetic("critic"), optimizer=torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]).state_dict()),
    ],
    ids=["bare", "bare, module.", "module.", "with optimiser"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_layouts_that_are_tolerated(content, zipped, tmp_path):
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=zipped)
    weights = load_published(tmp_path / "file.pth", "critic")
    assert {key: tuple(value.shape) for key, value in weights.items()} == published_shapes("critic")


def _refusal(content, tmp_path, component="critic") -> str:
    file = tmp_path / "file.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(LikenessError) as caught:
        load_published(file, component)
    return str(caught.value)


def test_missing_unexpected_and_reshaped_keys_are_named(tmp_path):
    state = synthetic("critic")
    del state["binary_pred.0.bias"]
    state["binary_pred.9.bias"] = torch.zeros(1)
    state["binary_pred.0.weight"] = torch.zeros(1, 256, 1, 1)
    message = _refusal(state, tmp_path)
    assert "1 missing: binary_pred.0.bias" in message
    assert "1 unexpected: binary_pred.9.bias" in message
    assert "binary_pred.0.weight (1, 256, 1, 1) instead of (1, 512, 1, 1)" in message
    assert "visual_quality_disc.pth" in message


@pytest.mark.parametrize("asked", COMPONENTS)
@pytest.mark.parametrize("given", COMPONENTS)
def test_another_component_is_recognised(asked, given, tmp_path):
    if asked != given:
        assert f"looks like the {given}" in _refusal(synthetic(given, "module."), tmp_path, asked)


def test_weights_of_something_else(tmp_path):
    message = _refusal({"conv1.weight": torch.zeros(3)}, tmp_path)
    assert "unexpected: conv1.weight" in message
    assert "looks like" not in message


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"state_dict": None}, [1, 2], {"epoch": 3}, torch.zeros(2)])
def test_files_without_a_state_dict(content, tmp_path):
    assert "holds no state dict" in _refusal(content, tmp_path)


class _Program:
    def __reduce__(self):
        return (print, ("a pickled object ran",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_objects_are_refused_by_name_and_not_run(tmp_path, capsys):
    assert "a pickled print" in _refusal(checkpoint(synthetic("critic"), model=_Program()), tmp_path)
    assert "a pickled torch.nn" in _refusal(torch.nn.Linear(2, 2), tmp_path)
    assert "not a complete torch checkpoint" in _refusal(pickle.dumps(_Program()), tmp_path)
    assert "ran" not in capsys.readouterr().out


def test_torchscript_archives_are_named(tmp_path):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    assert "TorchScript" in _refusal(buffer.getvalue(), tmp_path)


def test_broken_files(tmp_path):
    whole = io.BytesIO()
    torch.save(synthetic("critic"), whole)
    empty_zip = io.BytesIO()
    zipfile.ZipFile(empty_zip, "w").close()
    cases = [b"", b"<!DOCTYPE html><html>quota exceeded</html>", whole.getvalue()[: len(whole.getvalue()) // 2]]
    for content in [*cases, empty_zip.getvalue(), b"\x80\x02", bytes(1000)]:
        assert "file.pth is not a complete torch checkpoint" in _refusal(content, tmp_path)
    with pytest.raises(LikenessError, match="no weights at"):
        load_published(tmp_path / "absent.pth", "critic")
    with pytest.raises(LikenessError, match="expert, generator, critic"):
        load_published(tmp_path / "file.pth", "discriminator")


def test_narrow_networks_cannot_be_exported(tmp_path):
    with pytest.raises(LikenessError, match="of another shape"):
        export_published(COMPONENTS["critic"](width=0.25).state_dict(), tmp_path / "file.pth", global_step=1)
    assert not list(tmp_path.iterdir())
