"""The vectorised losses beside a loop over samples that writes the same formulas out, row by row.

Axes: B rows, N candidates of a row, P passages of the batch, D width.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.bench.bench_process import median_and_range
from trainer.losses import loss_sums

NUM_MINED, NUM_GENERATED, WIDTH = 15, 3, 384
TEMPERATURE, ENTROPY_TEMPERATURE, ENTROPY_WEIGHT = 0.05, 0.1, 0.05
# Queries, passages, each row's candidates, and which of them are valid and which generated.
_Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def bench_losses(rounds: int, seed: int) -> dict[str, Any]:
    """Speed against the loop (one thread, CPU time, float32) and the largest gap of gradients in float64."""
    torch.set_num_threads(1)
    return {
        "loss of 64 rows": _compare(64, False, rounds, seed),
        "in-batch loss of 256 rows": _compare(256, True, rounds, seed),
    }


def _compare(rows: int, in_batch: bool, rounds: int, seed: int) -> dict[str, Any]:
    exact = _inputs(rows, torch.float64, seed)
    gaps = [
        float((ours - theirs).abs().max())
        for ours, theirs in zip(_run(vectorised, exact, in_batch), _run(looped, exact, in_batch), strict=True)
    ]
    fast = _inputs(rows, torch.float32, seed)
    ratios = []
    for _ in range(rounds):
        seconds = []
        for loss, repeats in ((looped, 1), (vectorised, 5)):
            _run(loss, fast, in_batch)
            start = time.process_time()
            for _ in range(repeats):
                _run(loss, fast, in_batch)
            seconds.append((time.process_time() - start) / repeats)
        ratios.append(seconds[0] / seconds[1])
    return {"speed": median_and_range(ratios), "difference": max(gaps)}


def _inputs(rows: int, dtype: torch.dtype, seed: int) -> _Inputs:
    generator = torch.Generator().manual_seed(seed)
    columns = 1 + NUM_MINED + NUM_GENERATED
    queries_BD = torch.randn(rows, WIDTH, dtype=dtype, generator=generator)
    passages_PD = torch.randn(rows * columns, WIDTH, dtype=dtype, generator=generator)
    # Every other row is short: one mined and one generated negative less.
    valid_BN = torch.ones(rows, columns, dtype=torch.bool)
    valid_BN[::2, NUM_MINED] = valid_BN[::2, -1] = False
    generated_BN = valid_BN & (torch.arange(columns) > NUM_MINED)
    candidates_BN = torch.arange(rows * columns).view(rows, columns)
    normalised = [torch.nn.functional.normalize(x, dim=-1).requires_grad_() for x in (queries_BD, passages_PD)]
    return normalised[0], normalised[1], candidates_BN, valid_BN, generated_BN


def _run(loss: Callable[[_Inputs, bool], Tensor], inputs: _Inputs, in_batch: bool) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss(inputs, in_batch), inputs[:2])


def vectorised(inputs: _Inputs, in_batch: bool) -> Tensor:
    """What the trainer computes."""
    queries_BD, passages_PD, candidates_BN, valid_BN, generated_BN = inputs
    mask_BP = None
    if in_batch:
        mask_BP = torch.ones(len(queries_BD), len(passages_PD), dtype=torch.bool)
        mask_BP.scatter_(1, candidates_BN, False)
    sums = loss_sums(
        queries_BD, passages_PD, candidates_BN, valid_BN, generated_BN,
        temperature=TEMPERATURE, entropy_temperature=ENTROPY_TEMPERATURE, in_batch_BP=mask_BP,
    )  # fmt: skip
    return sums.info_nce / len(queries_BD) + ENTROPY_WEIGHT * sums.query_view / sums.num_generated_rows


def looped(inputs: _Inputs, in_batch: bool) -> Tensor:
    """The same formulas for one row after the other, as many trainers write them."""
    queries_BD, passages_PD, candidates_BN, valid_BN, generated_BN = inputs
    columns_N = torch.arange(candidates_BN.shape[1])
    total = queries_BD.new_zeros(())
    for b in range(len(queries_BD)):
        own = candidates_BN[b][valid_BN[b]]
        mined = candidates_BN[b][valid_BN[b] & ~generated_BN[b] & (columns_N > 0)]
        generated = candidates_BN[b][generated_BN[b]]
        scores = passages_PD[own] @ queries_BD[b]
        if in_batch:
            others = torch.ones(len(passages_PD), dtype=torch.bool)
            others[candidates_BN[b]] = False
            scores = torch.cat([scores, (passages_PD @ queries_BD[b])[others]])
        info_nce = torch.logsumexp(scores / TEMPERATURE, 0) - scores[0] / TEMPERATURE
        query = queries_BD[b].detach()
        view = torch.cat([passages_PD[mined].detach() @ query, passages_PD[generated] @ query])
        p = torch.softmax(view / ENTROPY_TEMPERATURE, 0)[len(mined) :]
        renormalised = p / p.sum()
        entropy = -(renormalised * renormalised.log()).sum()
        balance = (p.sum() - len(generated) / (len(generated) + len(mined))) ** 2
        total = total + info_nce + ENTROPY_WEIGHT * (balance - entropy)
    return total / len(queries_BD)
