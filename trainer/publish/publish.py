"""`just publish`: measures into a trained model's card, and the folder onto the hub."""

import sys
from dataclasses import dataclass
from pathlib import Path

from data.base.errors import InputError
from data.hub import push_folder, write_token
from trainer.encoder.model_files import find_model_folder
from trainer.publish.model_card import add_evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishConfig:
    """Complete the card of a trained model with what was measured, and push the folder to the Hugging Face hub."""

    model: Path
    """Folder of the model, as `train` wrote it: OUT/model."""

    evaluations: tuple[Path, ...] = ()
    """Files that `just eval out=FILE` wrote; their means and intervals go into the card, in place of earlier ones."""

    licence: str | None = None
    """Licence of the weights as the hub names it, like apache-2.0 (None: the card stays as it is)."""

    hub: str | None = None
    """Name on the hub, ORG/NAME; the token that may write there is HF_TOKEN in the environment (None: push nothing)."""

    private: bool = True
    """Whether a repository that is made for it is private."""

    def __post_init__(self) -> None:
        if self.hub is not None and self.hub.strip("/").count("/") != 1:
            raise InputError(f"--hub: expected ORG/NAME, got {self.hub!r}")


def publish(config: PublishConfig) -> str | None:
    """Do what the config says; returns the address on the hub. Raises InputError."""
    if config.hub is not None:
        write_token()
    if not config.model.is_dir():
        raise InputError("is no folder: expected OUT/model of `train`", file=config.model)
    find_model_folder(str(config.model))
    add_evaluations(config.model, config.evaluations, licence=config.licence)
    if config.hub is None:
        return None
    return push_folder(
        config.model, config.hub, "model", private=config.private, message="Trained with hard negatives of CausalNeg"
    )


def run_publish(config: PublishConfig) -> None:
    """The command: publish and say where."""
    address = publish(config)
    sys.stdout.write(f"card: {config.model / 'README.md'}\n" + (f"on the hub: {address}\n" if address else ""))
