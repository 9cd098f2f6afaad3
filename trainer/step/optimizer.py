"""Optimizer."""

import torch

from trainer.config import TrainConfig
from trainer.encoder import Encoder
from trainer.encoder.options import Precision

_FIRST_SCALE = 2.0**16


def loss_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Scales with float16, and passes everything on untouched otherwise."""
    scaler = torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=precision == "float16")
    # The scale is made at first use, and a process that has no row in its first step would come without one.
    scaler.scale(torch.zeros((), device=device))
    return scaler


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Linear warm-up from 0 and linear decay to 0; `step` counts from 1 and the last step still moves."""
    warmup = round(total_steps * config.warmup_ratio)
    if step <= warmup:
        return config.lr * step / warmup
    return config.lr * (total_steps - step + 1) / (total_steps - warmup)


def make_optimizer(encoder: Encoder, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over what is trained; decay on matrices only."""
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr)
    choose_kernel(optimizer, encoder)
    return optimizer


def choose_kernel(optimizer: torch.optim.Optimizer, encoder: Encoder) -> None:
    """PyTorch's fused step with bfloat16 on a CPU: an eighth of the time, but other last digits; float32 keeps its
    figures to the bit, and a GPU PyTorch's own choice."""
    for group in optimizer.param_groups:
        group["fused"] = True if encoder.precision == "bfloat16" and encoder.device.type == "cpu" else None
