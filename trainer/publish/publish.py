"""`just publish`: measures into a trained model's card, and the folder onto the hub."""

from data.base.errors import InputError
from data.hub import push_folder, write_token
from trainer.encoder.model_files import find_model_folder
from trainer.publish.config import PublishConfig
from trainer.publish.model_card import add_evaluations


def publish(config: PublishConfig) -> str | None:
    """Do what the config says; returns the address on the hub. Raises InputError."""
    if config.hub is not None:
        write_token()
    if not config.model.is_dir():
        raise InputError("is no folder: expected OUT/model of `train`", file=config.model)
    model = find_model_folder(str(config.model))
    add_evaluations(model, config.evaluations, licence=config.licence)
    if config.hub is None:
        return None
    return push_folder(
        model, config.hub, "model", private=config.private, message="Trained with hard negatives of CausalNeg"
    )
