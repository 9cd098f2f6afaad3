"""Half precision: what a device can do, and the scale that keeps float16's small gradients from vanishing.

bfloat16 has the range of float32 and needs no scale. float16 has not: the loss is multiplied before the backward pass
and the gradients are divided after it; where they overflow the step is skipped and the factor halved.
"""

import torch

from data.base.errors import InputError
from trainer.config import Precision

_FIRST_SCALE = 2.0**16


def autocast_type(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The type of the encoder's matrix products, None for float32. Raises InputError where the device lacks it."""
    if precision == "float16" and device.type != "cuda":
        raise InputError(f"--precision float16: needs a GPU, this run is on {device.type}; use float32 or bfloat16")
    if (
        precision == "bfloat16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise InputError("--precision bfloat16: this GPU does not have it; use float16 or float32")
    return None if precision == "float32" else getattr(torch, precision)


def loss_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Scales with float16, and passes everything on untouched otherwise."""
    scaler = torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=precision == "float16")
    # The scale is made at first use, and a process that has no row in its first step would come without one.
    scaler.scale(torch.zeros((), device=device))
    return scaler
