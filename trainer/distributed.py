"""The processes of one run: one by itself, or several under torchrun (gloo on CPUs, NCCL on GPUs)."""

import atexit
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data.base.errors import InputError
from trainer.encoder import Encoder, Role
from trainer.encoder.encoder import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Which process this is, 0 to size - 1. Process 0 alone writes files and speaks."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """The places, of `count`, that fall to this process: every size-th one."""
        return range(self.rank, count, self.size)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place; a parameter without one anywhere keeps none."""
        if self.size == 1:
            return
        for parameter in parameters:
            has = torch.tensor([parameter.grad is not None], dtype=torch.float32, device=parameter.device)
            dist.all_reduce(has)
            if has.item() == 0:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def all_reduce_sum(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Sums over the processes, in double precision."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(summed)
        return [float(value) for value in summed.tolist()]

    def gather(self, mine_nD: Tensor, count: int) -> Tensor:
        """All `count` rows from every process's share of them (see `share`), in order. Has no gradient."""
        if self.size == 1:
            return mine_nD
        most = len(range(0, count, self.size))
        padded = mine_nD.new_zeros(most, *mine_nD.shape[1:])
        padded[: len(mine_nD)] = mine_nD.detach()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        # Row i came from process i % size as its row i // size.
        return torch.stack(parts, dim=1).flatten(0, 1)[:count]

    def encode(
        self,
        encoder: Encoder,
        texts: Sequence[str],
        role: Role,
        *,
        progress: bool = False,
        count: Callable[[int], object] | None = None,
    ) -> Floats:
        """`encoder.encode` with the texts shared out; every process gets all embeddings, float32 [B, D]."""
        share = [texts[i] for i in self.share(len(texts))]
        mine = encoder.encode(share, role, progress=progress and self.is_main, count=count)
        if self.size == 1:
            return mine
        gathered = self.gather(torch.from_numpy(mine).to(encoder.device), len(texts)).cpu().numpy()
        return np.ascontiguousarray(gathered, dtype=np.float32)

    def agree_on_precision(self, encoder: Encoder) -> None:
        """float32 where the trial of one process was for it: all must compute alike."""
        if self.all_reduce_sum([encoder.autocast is None], encoder.device)[0]:
            encoder.autocast = None

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of process 0, so that all start alike."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, src=0)

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


ALONE = World()


def started_rank() -> int:
    """This process's rank as torchrun set it, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def join_world(device: str | None) -> Iterator[tuple[World, str | None]]:
    """Join the processes that torchrun started, if it did; yields this process's World and its device.

    Under torchrun each process takes the GPU of its local rank, or the CPU where `device` says so or there is no GPU.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    on_gpu = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
    if on_gpu:
        local_rank = int(os.environ["LOCAL_RANK"])
        if local_rank >= torch.cuda.device_count():
            raise InputError(f"{size} processes need as many GPUs, this machine has {torch.cuda.device_count()}")
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    if dist.get_rank() > 0:
        logging.disable(logging.WARNING)  # process 0 says it once for all
    try:
        yield World(rank=dist.get_rank(), size=size), device or "cpu"
    except RuntimeError as error:
        if not _lost_another(error):
            raise
        # Threads of gloo that wait for the lost process would abort this one while the interpreter is taken down.
        atexit.register(_leave_at_once)
        raise InputError(
            "another process of this run ended, so this one cannot go on; the same command goes on from the last "
            "checkpoint"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
        dist.destroy_process_group()


def _leave_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def _lost_another(error: RuntimeError) -> bool:
    """Whether a collective operation failed since its other side is gone: gloo and NCCL tell it only in words."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited", "gloo")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)
