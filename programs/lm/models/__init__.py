"""Language models: what a role runs on."""

from programs.lm.models.listed import (
    Price,
    abilities,
    call_settings,
    known_price,
    needs_no_auth_call,
    provider_of,
    reads_schema,
)
from programs.lm.models.resolve import Models, is_hosted, log_roles
from programs.lm.models.spec import ModelSpec

__all__ = [
    "ModelSpec",
    "Models",
    "Price",
    "abilities",
    "call_settings",
    "is_hosted",
    "known_price",
    "log_roles",
    "needs_no_auth_call",
    "provider_of",
    "reads_schema",
]
