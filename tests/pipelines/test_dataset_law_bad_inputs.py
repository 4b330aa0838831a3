"""Bad inputs cost themselves and nothing else: the good rows have the bytes that they have without them."""

from __future__ import annotations

import json
import random
import shutil
from fractions import Fraction
from pathlib import Path

import dataset_toy as toy
import numpy as np
import pytest
import skimage.data
import soundfile
from law_model import check_idle, check_whole, contents, keys, make
from typed import likeness

from infra.errors import LikenessError
from infra.storage import Dataset, open_dataset
from pipelines.dataset.verify import verify
from preprocessing.media.mux import write_video

FIELDS = ("summed", "fragile", "after")
BAD = ("", "no numbers", "1 2 x", "\n\n", "0x12", "٣ NaN")


def write(folder: Path, files: int, bad: float) -> tuple[Path, Path, dict[str, str]]:
    """Two folders of toy sources, one of them with so large a part of bad ones among the good; and all texts by path."""
    rng = random.Random(files)
    good = range(14, 14 + round(files * (1 - bad)))  # beyond the 13 that is one too many
    texts = {f"clips/{rng.choice('abcdef')}/{n:02d}.mp4": f"{n} {n + 60} {n % 7}\n{n}" for n in good}
    pure = set(texts)
    texts |= {f"clips/{rng.choice('abcdef')}/{rng.random()}.mp4": BAD[n % len(BAD)] for n in range(round(files * bad))}
    for path, text in texts.items():
        for place in ("mixed", "pure") if path in pure else ("mixed",):
            file = folder / place / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return folder / "mixed" / "clips", folder / "pure" / "clips", texts


def values(data: Dataset) -> dict[tuple[str, str], bytes]:
    return {(row.key, name): data.read(row, name) for row in data.rows() for name in data.fields if data.has(row, name)}


@pytest.mark.parametrize("bad", [0.1, 0.5])
def test_good_rows_are_as_without_the_bad_files(tmp_path: Path, bad: float) -> None:
    mixed, pure, texts = write(tmp_path, 40, bad)
    report = make(tmp_path / "set", mixed, FIELDS, failures_in_a_row=40)
    make(tmp_path / "want", pure, FIELDS)
    assert values(open_dataset(tmp_path / "set")) == values(open_dataset(tmp_path / "want"))
    check_whole(tmp_path / "set", texts)
    check_idle(tmp_path / "set", mixed, FIELDS)
    told = {problem["name"]: problem["reason"] for problem in report.problems}
    assert set(told) == {path for path, text in texts.items() if text in BAD}
    assert len(told) == round(40 * bad)
    assert all("empty file" in told[path] for path in told if not texts[path].strip())
    assert all("ValueError: invalid literal" in told[path] for path in told if texts[path].strip())


def test_on_ray_too(ray_session: None, tmp_path: Path) -> None:
    mixed, _, texts = write(tmp_path, 24, 0.5)
    make(tmp_path / "ray", mixed, FIELDS, runner="ray", workers=2, failures_in_a_row=24)
    make(tmp_path / "set", mixed, FIELDS, failures_in_a_row=24)
    check_whole(tmp_path / "ray", texts)
    assert contents(tmp_path / "ray") == contents(tmp_path / "set")


def test_too_many_in_a_row_stop_the_run_and_finished_shards_stay(tmp_path: Path) -> None:
    source, root = tmp_path / "clips", tmp_path / "set"
    texts = {f"clips/{n:02d}.mp4": f"{n} {n}" if n < 8 else "no numbers" for n in range(20, 40)} | {
        f"clips/{n:02d}.mp4": f"{n} {n}" for n in range(12)}
    source.mkdir()
    for path, text in texts.items():
        (source / Path(path).name).write_text(text)
    with pytest.raises(LikenessError, match=r"operator ingest failed on 9 samples in a row; the last, clips/28.mp4: ValueError.*"
                       "finished shards are kept; or raise --max-failures"):
        make(root, source, FIELDS, failures_in_a_row=9)
    assert not (root / "HEAD").exists()
    files = [path for shard in range(4) for path in root.glob(f"columns/*/*/00000{shard}.*")]  # shard 4 will change
    done = {path: (path.stat().st_ino, path.read_bytes()) for path in files}
    finished = {f"clips/{n:02d}.mp4" for n in range(12)}
    assert len(list(root.glob("columns/ingest/*/*.ledger.parquet"))) == 5  # 4 sources each; 2 of the bad
    for n in range(24, 40):
        texts[f"clips/{n}.mp4"] = f"{n}"
        (source / f"{n}.mp4").write_text(f"{n}")
    toy.calls.clear()
    make(root, source, FIELDS, failures_in_a_row=9)
    check_whole(root, texts)
    worked = {key for _, key in toy.calls}
    assert not worked & (finished | keys({path: texts[path] for path in finished}))  # nothing of them was done again
    assert len(done) > 4 * 3 * 3
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in done} == done


def write_clips(folder: Path, count: int) -> dict[str, str]:
    """As many small clips, and as many files that are none, named in turns; name -> what is wrong with it, "" for nothing."""
    head, rng = np.ascontiguousarray(skimage.data.astronaut()[60:188, 160:288]), np.random.default_rng(0)
    sound = rng.integers(-3000, 3000, 16 * 640).astype(np.int16)
    folder.mkdir()
    kinds = ("cut in half", "cut at its end", "empty", "text", "no sound", "sound alone", "zeros within", "noise")
    names: dict[str, str] = {}
    for n in range(count):
        kind = kinds[n % len(kinds)]
        good, bad = folder / f"{n:02d}.mp4", folder / f"{n:02d}-{kind.replace(' ', '-')}.mp4"
        frames = np.stack([np.roll(head, n + 2 * shift, 1) for shift in range(16)])
        write_video(good, frames, Fraction(25), sound, crf=28)
        data = good.read_bytes()
        match kind:
            case "cut in half":
                bad.write_bytes(data[: len(data) // 2])
            case "cut at its end":
                bad.write_bytes(data[:-700])
            case "empty":
                bad.touch()
            case "text":
                bad.write_text("not a clip\n" * 20)
            case "no sound":
                write_video(bad, frames, Fraction(25), None, crf=28)
            case "sound alone":
                soundfile.write(bad.with_suffix(".wav"), sound, 16_000)
                bad = bad.with_suffix(".wav")
            case "zeros within":
                bad.write_bytes(data[:600] + bytes(len(data) - 1200) + data[-600:])
            case "noise":
                bad.write_bytes(rng.bytes(5000))
        names |= {f"clips/{good.name}": "", f"clips/{bad.name}": kind}
    return names


@pytest.mark.long
def test_real_clips_half_of_them_broken(tmp_path: Path) -> None:
    names = write_clips(tmp_path / "clips", 16)
    (tmp_path / "pure").mkdir()
    (tmp_path / "pure" / "clips").mkdir()
    for path, wrong in names.items():
        if not wrong:
            shutil.copy(tmp_path / path, tmp_path / "pure" / path)
    fields = [word for name in ("mel80", "perceptual_hash") for word in ("--field", name)]
    how = [*fields, "--runner", "serial"]
    told = json.loads(likeness("data", "build", tmp_path / "set", "--source", tmp_path / "clips", *how, "--json").stdout)
    likeness("data", "build", tmp_path / "want", "--source", tmp_path / "pure" / "clips", *how)
    data, want = open_dataset(tmp_path / "set"), open_dataset(tmp_path / "want")
    good = values(want)
    assert len(good) == 16 * len(want.fields)
    assert {place: value for place, value in values(data).items() if place in good} == good
    entries = {entry.path: entry for entry in data.manifest.sources}
    assert entries.keys() == names.keys()
    reasons = {p["name"]: p["reason"] for p in told["problems"] if p["operator"] == "ingest"}
    for path, wrong in names.items():
        assert (entries[path].status == "ingested") == (not wrong), (path, entries[path].reason)
        assert (path in reasons) == bool(wrong)
        assert Path(path).name in reasons.get(path, path)  # and says what about it
    assert reasons["clips/04-no-sound.mp4"] == "no-audio-stream: 04-no-sound.mp4 has no sound"
    assert verify(tmp_path / "set").problems == []
    again = json.loads(likeness("data", "build", tmp_path / "set", "--json").stdout)
    assert (again["units"], again["changed"]) == (0, False)
