"""A cross-encoder: one score for a query and a passage read together, as sentence-transformers' CrossEncoder gives it.

Weights are read from safetensors alone and code in the folder is never run; what cannot be reproduced is refused.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.base.errors import InputError
from data.base.files import read_json_object
from data.base.progress import progress_bar
from trainer.distributed import ALONE, World
from trainer.encoder.encoder import Floats
from trainer.encoder.model_files import find_model_folder, load_transformer, longest_input, put_on
from trainer.encoder.packed import TOKENIZE_AT_ONCE, token_chunks, tokens_at_once
from trainer.encoder.st_folder import ModelFolder, read_modules

# Under the names that sentence-transformers saves.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.nn.modules.activation.Sigmoid": torch.sigmoid,
    "torch.nn.modules.linear.Identity": lambda logits: logits,
}


class CrossEncoder:
    """Scores pairs. Build one with `CrossEncoder.load`."""

    def __init__(self, transformer: nn.Module, tokenizer: Any, activation: Callable[[Tensor], Tensor], length: int):
        self._transformer, self._tokenizer = transformer, tokenizer
        self._activation, self._max_length = activation, length

    @classmethod
    def load(cls, spec: str, device: torch.device | str) -> "CrossEncoder":
        """From a folder or a hub name, of sentence-transformers or of transformers. Raises InputError.

        A transformers folder says nothing of an activation; as in sentence-transformers it is the sigmoid.
        """
        folder = find_model_folder(spec)
        modules_file = folder / "modules.json"
        if modules_file.is_file() and [m["type"].rpartition(".")[2] for m in read_modules(modules_file)] != [
            "Transformer"
        ]:
            raise InputError(
                "is no cross-encoder that scores by a classifier's one label: expected the one module Transformer",
                file=modules_file,
            )
        activation, length = _settings(folder)
        transformer, tokenizer = load_transformer(
            ModelFolder(transformer=folder), spec, "AutoModelForSequenceClassification"
        )
        labels = int(transformer.config.num_labels)  # type: ignore[union-attr, arg-type]
        if labels != 1:
            raise InputError(f"cannot use {spec} to rescore: it has {labels} labels, expected one score", file=folder)
        put_on(transformer, device, spec)
        most = min(length or 10**6, longest_input(transformer, tokenizer))
        if most < 4:
            raise InputError(f"takes {most} tokens by its files, expected at least 4", file=folder)
        return cls(transformer, tokenizer, activation, most)

    @torch.inference_mode()
    def scores(self, pairs: Sequence[tuple[str, str]], world: World = ALONE) -> Floats:
        """One score a (query, passage), float32, in their order; several processes share the work."""
        device = next(self._transformer.parameters()).device
        share = world.share(len(pairs))
        mine = np.empty(len(share), dtype=np.float32)
        # Longest first: a bound that is too high for the memory shows at once.
        order = sorted(range(len(share)), key=lambda n: -sum(map(len, pairs[share[n]])))
        with progress_bar(total=len(share), unit="pair", desc="rescore", enabled=world.is_main) as bar:
            for start in range(0, len(order), TOKENIZE_AT_ONCE):
                part = order[start : start + TOKENIZE_AT_ONCE]
                queries, passages = zip(*(pairs[share[n]] for n in part), strict=True)
                batch = self._tokenizer(
                    list(queries), list(passages), truncation="longest_first", max_length=self._max_length
                )
                for chunk in token_chunks(batch["input_ids"], tokens_at_once(device)):
                    padded = self._tokenizer.pad(
                        {name: [values[i] for i in chunk] for name, values in batch.items()}, return_tensors="pt"
                    )
                    logits_B1 = self._transformer(**padded.to(device)).logits.float()
                    mine[[part[i] for i in chunk]] = self._activation(logits_B1)[:, 0].cpu().numpy()
                    bar.update(len(chunk))
        if not np.isfinite(mine).all():
            raise InputError("a score of the cross-encoder is NaN or infinity: the model is broken")
        gathered: Floats = world.gather(torch.from_numpy(mine).to(device), len(pairs)).cpu().numpy()
        return gathered


def _settings(folder: Path) -> tuple[Callable[[Tensor], Tensor], int | None]:
    """The activation and the longest input that the folder's files say. Raises InputError for what is not known."""
    around, surrounds = folder / "config_sentence_transformers.json", folder / "sentence_bert_config.json"
    files = (around, folder / "config.json", surrounds)
    model, config, transformer = (read_json_object(file, missing_ok=True) for file in files)
    if model.get("model_type", "CrossEncoder") != "CrossEncoder":
        raise InputError(f"is {model['model_type']!r}, expected CrossEncoder", file=around, field="model_type")
    prompts = model.get("prompts") or {}
    if not isinstance(prompts, dict) or any(prompts.values()) or model.get("default_prompt_name"):
        raise InputError("has prompts, which are not supported for a cross-encoder", file=around, field="prompts")
    task = transformer.get("transformer_task", "sequence-classification")
    if task != "sequence-classification":
        raise InputError(f"is {task!r}, expected sequence-classification", file=surrounds, field="transformer_task")
    # The places of version 4 and of version 3 and older come after today's.
    older = (config.get("sentence_transformers") or {}).get("activation_fn")
    name = model.get("activation_fn") or older or config.get("sbert_ce_default_activation_function")
    if name not in (None, *_ACTIVATIONS):
        raise InputError(f"is {name!r}, expected one of {', '.join(_ACTIVATIONS)}", file=folder, field="activation_fn")
    length = (transformer.get("processor_kwargs") or {}).get("model_max_length", transformer.get("max_seq_length"))
    if length is not None and (type(length) is not int or length < 4):
        raise InputError(f"expected a whole number of at least 4, got {length!r}", file=surrounds)
    return _ACTIVATIONS[name or "torch.nn.modules.activation.Sigmoid"], length
