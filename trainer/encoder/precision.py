"""The type that an encoder's matrix products are computed in; `auto` is decided by a short trial on the device."""

import functools
import logging
import time

import torch
from torch import nn

from data.base.errors import InputError
from trainer.encoder.options import Precision

log = logging.getLogger(__name__)
# So many times as fast bfloat16 must be to be worth its 3 digits.
_WORTH_IT = 1.25
# The product that a layer of a small encoder does most; on a GPU one that fills it.
_SIZE_CPU, _SIZE_GPU = (1024, 384, 1536), (8192, 4096, 4096)
_ROUNDS = 5
# Where bfloat16 takes so many times as long, no further turn is waited for.
_HOPELESS = 4


def autocast_type(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type of the encoder's matrix products, None for float32. Raises InputError where the device lacks it."""
    if precision == "auto":
        return _chosen(device)
    if precision == "float16" and device.type != "cuda":
        raise InputError(f"--precision float16: needs a GPU, this run is on {device.type}; use float32 or bfloat16")
    if precision == "bfloat16" and not _has_bfloat16(device):
        raise InputError("--precision bfloat16: this GPU does not have it; use float16 or float32")
    if precision == "bfloat16" and device.type == "cpu":
        _warn_of_emulation(device)
    return None if precision == "float32" else getattr(torch, precision)


def _has_bfloat16(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


@functools.cache
def _chosen(device: torch.device) -> torch.dtype | None:
    """bfloat16 where a trial shows that it is faster, which is logged; tried once a process."""
    if not _has_bfloat16(device):
        log.info("precision=auto: float32, as this GPU has no bfloat16")
        return None
    gain = _gain(device)
    chosen = torch.bfloat16 if gain >= _WORTH_IT else None
    log.info(
        "precision=auto: %s, as a matrix product in bfloat16 is %.2f times as fast as in float32 on %s",
        precision_name(chosen), gain, device,
    )  # fmt: skip
    return chosen


@functools.cache
def _warn_of_emulation(device: torch.device) -> None:
    """A processor without bfloat16 computes in it all the same, at a fraction of its speed; said once a process."""
    if (gain := _gain(device)) < 1:
        log.warning(
            "warning: precision=bfloat16: a matrix product takes %.1f times as long as in float32 on this processor; "
            "precision=auto takes what is faster",
            1 / gain,
        )


def precision_name(dtype: torch.dtype | None) -> Precision:
    """The option's name of what `autocast_type` returned."""
    names: dict[torch.dtype | None, Precision] = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
    return names.get(dtype, "float32")


@torch.no_grad()
def _gain(device: torch.device) -> float:
    """How many times as fast a layer's product is in bfloat16, casts included, by the best of a few turns each."""
    rows, inner, columns = _SIZE_CPU if device.type == "cpu" else _SIZE_GPU
    # No random numbers: those of a run are counted.
    values = torch.ones(rows, inner, device=device)
    weights = torch.ones(columns, inner, device=device)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(1 + _ROUNDS):
        if turn > 1 and seconds[True][1] > _HOPELESS * seconds[False][1]:
            break
        for half, measured in seconds.items():
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half, cache_enabled=False):
                began = time.perf_counter()
                nn.functional.linear(values, weights)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                measured.append(time.perf_counter() - began)
    # The first turn chooses kernels.
    return min(seconds[False][1:]) / min(seconds[True][1:])
