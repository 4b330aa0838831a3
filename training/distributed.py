"""The process group: one process for a single worker, or the group that a launcher has already made."""

from __future__ import annotations

import ctypes
import logging
import os
import warnings

import torch
import torch.distributed as dist

from infra import libraries


def _keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one: giving it back costs a page fault per 4 KiB in every step (7 % of a
    150 ms step, see docs/performance.md). Memory stays at its peak, where training needs it again at once anyway."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no mappings of their own for large blocks
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: do not shrink the heap


def setup(threads: int) -> None:
    """Join the launcher's process group, or make one of a single process. Safe to call again."""
    torch.set_num_threads(threads)
    libraries.quiet()
    if not torch.cuda.is_available():
        _keep_freed_memory()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    # DeepSpeed reads these although the group exists; without them it goes looking for MPI.
    for name, value in (("RANK", rank()), ("WORLD_SIZE", world_size()), ("LOCAL_RANK", 0)):
        os.environ.setdefault(name, str(value))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        # Its shared-memory kernel takes 40 s to compile, for a gain over gloo that small CPU runs never see.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False, verbose=False)


def rank() -> int:
    """This process's number; 0 where there is no group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """This process's accelerator, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device("cpu")


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def any_rank(flag: bool) -> bool:
    """True on all ranks when it is true on any."""
    if world_size() == 1:
        return flag
    value = torch.tensor(int(flag), device=device())
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def mean(values: dict[str, float]) -> dict[str, float]:
    """Each number's mean over the ranks (all ranks must name the same ones)."""
    if world_size() == 1 or not values:
        return values
    names = sorted(values)
    packed = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device())
    dist.all_reduce(packed)
    return dict(zip(names, (packed / world_size()).tolist(), strict=True))


def broadcast_buffers(modules: list[torch.nn.Module]) -> None:
    """Rank 0's buffers (batch-norm statistics) for everybody, so that ranks validate and save the same network."""
    if world_size() == 1:
        return
    for module in modules:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
