"""Compare the training loop's step time with a bare torch loop; prints Markdown (docs/performance.md keeps one such report).

    python benchmarks/train_step.py [--repeats 7] [--rounds 3] [--block 10] [--case expert|gan] [--malloc system|kept]

Two cases, on synthetic batches made once in memory: Wav2Lip's expert (one role, width 0.25, batch 32) and its generator against a
critic (two roles, width 0.25, batch 4, sync gate shut as at the start of a run). "Loop" is `training.loop.train` as a run calls it,
from asking for the next batch to telling its observer about the step, with numbers logged every tenth step; "bare" is what one
would write by hand with `torch.optim.Adam`, in a process that never imports DeepSpeed. No checkpoints, validation or tracker.

Both start from the same weights, see the same batches, and have one thread. Each lives in a process of its own; blocks of steps
take turns, so that what else happens on the machine meets both. The first block of each is not counted. A round starts new
processes. Losses at the end of every block must agree, or the benchmark fails.

Everything is measured twice. With "system" malloc, as a run has it, glibc gives memory back to the system within a step and takes
it again, and how often it does so is a matter of chance in each process: see the page faults. With "kept" both processes are told
to keep their memory, which leaves the difference that the loop itself makes.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.wav2lip.network import Expert, Generator, QualityCritic, generator_input, lower_half_stack
from models.wav2lip.stages import CriticStage, ExpertStage, bgr
from training.stage import Batch, Stage

WIDTH = 0.25
SEED = 7
DISTINCT = 10  # batches made, used over and over
LEAST_S = 0.1  # the step time from which the comparison is meant
CLOSE = 1e-3  # relative difference of losses that is still agreement
# What glibc reads when a process starts.
MALLOC = {"system": {}, "kept": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}}


@dataclass(frozen=True)
class Block:
    """Some steps: seconds on the wall and of this process, pages it had to ask for, and the losses of the last step."""

    wall_s: float
    processor_s: float
    faults: int
    losses: dict[str, float]


class Watch:
    """Measures from one `start` to `stop`."""

    def start(self) -> None:
        self.before = self._now()

    def stop(self, losses: dict[str, float]) -> Block:
        wall, processor, faults = (now - before for now, before in zip(self._now(), self.before, strict=True))
        return Block(wall, processor, int(faults), losses)

    def _now(self) -> tuple[float, float, int]:
        return time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@dataclass(frozen=True)
class Case:
    """What is trained: the stage for the loop, the same by hand, and one batch from a generator.

    Attributes:
        bare: builds the networks from torch's default generator and gives a function that does one step.
    """

    title: str
    batch_size: int
    stage: Callable[[], Stage]
    bare: Callable[[], Callable[[Batch], dict[str, float]]]
    batch: Callable[[torch.Generator, int], Batch]


# By hand


def bare_expert() -> Callable[[Batch], dict[str, float]]:
    expert = Expert(WIDTH).train()
    optimiser = torch.optim.Adam(expert.parameters(), lr=1e-4)

    def step(batch: Batch) -> dict[str, float]:
        audio, face = expert(batch["mel"], lower_half_stack(bgr(batch["faces"])))
        loss = F.binary_cross_entropy(F.cosine_similarity(audio, face).clamp(0, 1), batch["label"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return {"expert/total": loss.item()}

    return step


def bare_gan() -> Callable[[Batch], dict[str, float]]:
    Expert(WIDTH)  # frozen, and not used before its gate opens; made for the same random numbers
    generator, critic = Generator(WIDTH).train(), QualityCritic(WIDTH).train()
    optimisers = [torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.5, 0.999)) for network in (generator, critic)]

    def judged(frames: Tensor, real: float) -> Tensor:
        score = critic(frames)
        return F.binary_cross_entropy(score, torch.full_like(score, real))

    def step(batch: Batch) -> dict[str, float]:
        target = bgr(batch["target"])
        drawn = generator(batch["mels"], generator_input(target, bgr(batch["reference"])))
        critic.requires_grad_(False)
        loss = 0.93 * F.l1_loss(drawn, target) + 0.07 * judged(drawn, 1.0)
        optimisers[0].zero_grad()
        loss.backward()
        optimisers[0].step()
        critic.requires_grad_(True)
        critic_loss = judged(target, 1.0) + judged(drawn.detach(), 0.0)
        optimisers[1].zero_grad()
        critic_loss.backward()
        optimisers[1].step()
        return {"generator/total": loss.item(), "critic/total": critic_loss.item()}

    return step


# The two cases


class Untrained:
    """Stands in for the expert's artefact."""

    config: Mapping[str, Any] = {"width": WIDTH}

    def load(self, component: str, into: nn.Module) -> nn.Module:
        return into


def _faces(rng: torch.Generator, size: int) -> Tensor:
    return torch.randint(0, 256, (size, 5, 96, 96, 3), dtype=torch.uint8, generator=rng)


def expert_batch(rng: torch.Generator, size: int) -> Batch:
    label = torch.randint(0, 2, (size,), generator=rng).float()
    return {"faces": _faces(rng, size), "mel": torch.randn(size, 1, 80, 16, generator=rng), "label": label}


def gan_batch(rng: torch.Generator, size: int) -> Batch:
    mels = torch.randn(size, 5, 1, 80, 16, generator=rng)
    return {"target": _faces(rng, size), "reference": _faces(rng, size), "mel": mels[:, 0], "mels": mels}


CASES = {
    "expert": Case("expert, batch 32", 32, lambda: ExpertStage(ExpertStage.Config(width=WIDTH)), bare_expert, expert_batch),
    "gan": Case("generator and critic, batch 4", 4, lambda: CriticStage(CriticStage.Config(width=WIDTH)), bare_gan, gan_batch),
}


class Synthetic:
    """The same few batches over and over (the `Batches` protocol)."""

    def __init__(self, case: Case) -> None:
        rng = torch.Generator().manual_seed(SEED)
        self.made = [case.batch(rng, case.batch_size) for _ in range(DISTINCT)]

    def training(self, first_step: int) -> Iterator[list[Batch]]:
        assert first_step == 0
        return ([batch] for batch in cycle(self.made))

    def validation(self) -> list[Batch]:
        return []


# The two processes: each waits for a word, does a block of steps, and says how long it took


def bare_process(turn: Connection, name: str, block: int) -> None:
    case = CASES[name]
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    step = case.bare()
    batches = Synthetic(case).training(0)
    watch = Watch()
    while turn.recv():
        watch.start()
        for _ in range(block):
            (batch,) = next(batches)
            losses = step(batch)
        turn.send(watch.stop(losses))


def loop_process(turn: Connection, name: str, block: int) -> None:
    from training.config import LoopConfig
    from training.loop import Observer, train

    case = CASES[name]

    class Turns(Observer):
        """Stops the clock after each block and waits for the next turn."""

        ended = False
        watch = Watch()

        def started(self, done: int, total: int) -> None:
            self._wait()

        def logged(self, step: int, values: Mapping[str, float]) -> None:
            self.losses = {key: value for key, value in values.items() if key.endswith("/total")}

        def stepped(self, step: int) -> None:
            if step % block == 0:
                turn.send(self.watch.stop(self.losses))
                self._wait()

        def _wait(self) -> None:
            self.ended = not turn.recv()
            self.watch.start()

    far = 10**9
    config = LoopConfig(
        steps=far, batch_size=case.batch_size, seed=SEED, validate_every=0, save_every=far, log_every=min(10, block), threads=1
    )
    observer = Turns()
    with tempfile.TemporaryDirectory(prefix="likeness-benchmark-") as folder:
        upstream = {"expert": Untrained()} if name == "gan" else {}
        train(case.stage(), upstream, Synthetic(case), config, Path(folder), observer, lambda: observer.ended)


def one_round(name: str, blocks: int, block: int, malloc: str) -> list[tuple[Block, Block]]:
    """Blocks of loop and bare in turns, after one of each that does not count."""
    for variable in MALLOC["kept"]:
        os.environ.pop(variable, None)
    os.environ.update(MALLOC[malloc])
    spawn = multiprocessing.get_context("spawn")
    sides = []
    for work in (loop_process, bare_process):
        here, there = spawn.Pipe()
        process = spawn.Process(target=work, args=(there, name, block), daemon=True)
        process.start()
        there.close()
        sides.append((here, process))
    pairs = []
    for _ in range(blocks + 1):
        pair = []
        for here, _process in sides:
            here.send(True)
            pair.append(here.recv())
        pairs.append((pair[0], pair[1]))
    for here, process in sides:
        here.send(False)
        process.join()
    return pairs[1:]


def difference(pairs: list[tuple[Block, Block]]) -> float:
    """The largest relative difference of losses.

    Raises:
        SystemExit: it is too large.
    """
    worst = 0.0
    for ours, bare in pairs:
        assert ours.losses.keys() == bare.losses.keys(), (ours.losses, bare.losses)
        worst = max(worst, *(abs(ours.losses[key] / value - 1) for key, value in bare.losses.items()))
    if worst > CLOSE:
        raise SystemExit(f"losses differ by {worst:.2g}; last: {pairs[-1][0].losses}, bare {pairs[-1][1].losses}")
    return worst


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=7, help="blocks of each that count, per round")
    options.add_argument("--rounds", type=int, default=3, help="times that both processes are started anew")
    options.add_argument("--block", type=int, default=10, help="steps of a block; a multiple of 10, or fewer for a quick look")
    options.add_argument("--case", choices=list(CASES), help="one of the two")
    options.add_argument("--malloc", choices=list(MALLOC), help="one of the two")
    chosen = options.parse_args()
    if chosen.block > 10 and chosen.block % 10:
        options.error("--block: want a multiple of 10, or less than 10")
    print(f"width {WIDTH}, fp32, ZeRO 0, one thread; {chosen.rounds} x {chosen.repeats} blocks of {chosen.block} steps each.\n")
    print("| Wav2Lip | malloc | ms a step: loop | bare | loop over bare, pair by pair | in processor time | page faults a step: "
          "loop | bare | losses differ by |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, case in CASES.items():
        for malloc in MALLOC:
            if chosen.case in (None, name) and chosen.malloc in (None, malloc):
                _row(case.title, malloc, [one_round(name, chosen.repeats, chosen.block, malloc) for _ in range(chosen.rounds)],
                     chosen.block)  # fmt: skip


def _row(title: str, malloc: str, rounds: list[list[tuple[Block, Block]]], steps: int) -> None:
    pairs = [pair for one in rounds for pair in one]
    ms = [spread([1e3 * pair[side].wall_s / steps for pair in pairs], ".0f") for side in (0, 1)]
    faults = [spread([pair[side].faults / steps for pair in pairs], ".0f") for side in (0, 1)]
    wall = spread([loop.wall_s / bare.wall_s for loop, bare in pairs], ".3f")
    processor = spread([loop.processor_s / bare.processor_s for loop, bare in pairs], ".3f")
    print(f"| {title} | {malloc} | {ms[0]} | {ms[1]} | {wall} | {processor} | {faults[0]} | {faults[1]} "
          f"| at most {difference(pairs):.0e} |", flush=True)  # fmt: skip
    if statistics.median(bare.wall_s for _, bare in pairs) < LEAST_S * steps:
        print(f"\nA step takes less than {LEAST_S * 1e3:.0f} ms here: too short for the comparison.\n")


if __name__ == "__main__":
    main()
