"""The retriever: a transformers encoder with pooling, normalisation and prompts, as sentence-transformers does it.

Axes: B texts, T tokens of the longest text, W width of the transformer, D width of the embedding.
"""

import copy
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from data.base.errors import InputError, first_line, shown
from data.base.files import atomic_path
from data.base.progress import progress_bar
from trainer.encoder.dropout import use_fast_dropout
from trainer.encoder.embedding import use_row_embeddings
from trainer.encoder.model_files import find_model_folder, load_transformer, longest_input, position_limit, put_on
from trainer.encoder.options import EncoderOptions, Precision
from trainer.encoder.packed import (
    TOKENIZE_AT_ONCE,
    Tokens,
    filled_up,
    hidden_states,
    pack,
    pool_packed,
    token_chunks,
    tokens_at_once,
    use_packed_attention,
)
from trainer.encoder.pooling import POOLINGS, pool
from trainer.encoder.precision import autocast_type, precision_name
from trainer.encoder.st_folder import EncoderSettings, ModelFolder, read_model_folder, write_settings

Floats = np.ndarray[Any, np.dtype[np.float32]]
Indices = np.ndarray[Any, np.dtype[np.int64]]

Role = Literal["query", "document"]
log = logging.getLogger(__name__)

# With a gradient a CPU is faster with still smaller parts, and needs less memory for them.
_CPU_TOKENS_WITH_GRADIENT = 1024


class Encoder(nn.Module):
    """Texts in, embeddings out. Build one with `Encoder.load`."""

    def __init__(self, *, name: str, transformer: nn.Module, tokenizer: Any, settings: EncoderSettings):
        super().__init__()
        self.name = name
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.settings = settings
        self.num_truncated = 0
        self.autocast: torch.dtype | None = None
        self.packed = use_packed_attention(transformer)
        use_fast_dropout(transformer)
        use_row_embeddings(transformer)

    @classmethod
    def load(
        cls,
        model: str | EncoderOptions,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        **more: Any,
    ) -> "Encoder":
        """Load `bundled:all-MiniLM-L6-v2`, a local folder, or a hub name with `more` of EncoderOptions, or the model of
        a command's options; what is not None overrides the model's own files.

        With `dimensions` embeddings end after so many numbers (and are normalised again, where the model normalises).
        A folder in sentence-transformers format says pooling, normalisation, prompts and length itself; a plain
        transformers folder gets mean pooling and normalisation, which is logged. Weights are float32, read from
        safetensors alone; code in the folder is never run. Raises InputError.
        """
        options = EncoderOptions(model=model, **more) if isinstance(model, str) else model
        spec = options.model
        folder = read_model_folder(find_model_folder(spec, options.revision))
        if folder.settings is None and pooling is None:
            log.info("%s says nothing about pooling: using the mean of its tokens, normalised", spec)
        if pooling is not None and pooling not in POOLINGS:
            raise InputError(f"expected one of {', '.join(POOLINGS)}, got {pooling!r}", field="pooling")
        transformer, tokenizer = load_transformer(folder, spec)
        others = {n: getattr(options, n) for n in ("query_prompt", "document_prompt", "max_length", "dimensions")}
        given = {"pooling": pooling, "normalize": normalize} | others
        settings = replace(
            _own_settings(folder, transformer, tokenizer),
            **{name: value for name, value in given.items() if value is not None},
        )
        _say_prompts(spec, settings.query_prompt, settings.document_prompt)
        longest = max(longest_input(transformer, tokenizer), position_limit(transformer) or 0)
        if options.max_length is not None and not 3 <= options.max_length <= longest:
            raise InputError(f"expected 3 to {longest} tokens for {spec}, got {options.max_length}", field="max_length")
        if settings.max_length is not None and settings.max_length < 3:
            raise InputError(
                f"takes {settings.max_length} tokens by its files, expected at least 3", file=folder.transformer
            )
        encoder = cls(name=spec, transformer=transformer, tokenizer=tokenizer, settings=settings)
        if options.dimensions is not None and not 1 <= options.dimensions <= encoder.width:
            raise InputError(f"expected 1 to {encoder.width} for {spec}, got {options.dimensions}", field="dimensions")
        put_on(encoder, default_device(options.device), spec)
        encoder.autocast = autocast_type(options.precision, encoder.device)
        return encoder

    @property
    def max_length(self) -> int:
        """Longest input in tokens, special tokens included; what lies beyond is cut off and counted."""
        assert self.settings.max_length is not None
        return self.settings.max_length

    @property
    def width(self) -> int:
        """Numbers in the transformer's output, before embeddings are cut to `dimension`."""
        return int(self.transformer.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @property
    def dimension(self) -> int:
        """Numbers in an embedding."""
        return self.settings.dimensions or self.width

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def precision(self) -> Precision:
        """What its matrix products are computed in; never auto."""
        return precision_name(self.autocast)

    def part_tokens(self, max_tokens: int) -> int:
        """Tokens of one part of a batch that is computed in parts, forward and backward: at most `max_tokens`."""
        return min(max_tokens, _CPU_TOKENS_WITH_GRADIENT) if self.device.type == "cpu" else max_tokens

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        """Token ids of each text with its role's prompt in front, special tokens added, cut at `max_length`."""
        prompt = self.settings.query_prompt if role == "query" else self.settings.document_prompt
        if not texts:
            return []
        texts = [prompt + text for text in texts]
        batch = self.tokenizer(
            texts, truncation=True, max_length=self.max_length, padding=False, return_attention_mask=False
        )
        tokens = list(batch["input_ids"])
        if batch.encodings is not None:
            self.num_truncated += sum(bool(encoding.overflowing) for encoding in batch.encodings)
        else:  # a tokenizer in Python does not say what it has cut off
            full = [text for text, ids in zip(texts, tokens, strict=True) if len(ids) == self.max_length]
            whole = self.tokenizer(full, verbose=False)["input_ids"] if full else []
            self.num_truncated += sum(len(ids) > self.max_length for ids in whole)
        return tokens

    def forward(self, tokens: Sequence[Tokens]) -> Tensor:
        """Embeddings [B, D] of tokenised texts; equal ones are computed once.

        Packed without padding where the architecture is known to allow it, else in passes of texts of like length.
        """
        if not tokens:
            return torch.empty(0, self.dimension, device=self.device)
        place: dict[tuple[int, ...], int] = {}
        place_B = [place.setdefault(tuple(ids), len(place)) for ids in tokens]
        distinct = list(place)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            pooled_BW, order = self._forward_packed(distinct) if self.packed else self._forward_chunks(distinct)
        pooled_BW = pooled_BW.to(self.dtype)
        where_B = torch.tensor(order).argsort()[place_B].to(self.device)
        embeddings_BD = pooled_BW[where_B, : self.dimension]
        return nn.functional.normalize(embeddings_BD, dim=-1) if self.settings.normalize else embeddings_BD

    def _forward_packed(self, tokens: Sequence[Tokens]) -> tuple[Tensor, list[int]]:
        half_on_cpu = self.autocast is not None and self.device.type == "cpu"
        packing = pack(filled_up(tokens) if half_on_cpu else tokens, self.device)
        return pool_packed(hidden_states(self.transformer, packing), packing, self.settings.pooling), packing.order

    def _forward_chunks(self, tokens: Sequence[Tokens]) -> tuple[Tensor, list[int]]:
        chunks = token_chunks(tokens, tokens_at_once(self.device))
        pooled_BW = torch.cat([self._forward_padded([tokens[i] for i in chunk]) for chunk in chunks])
        return pooled_BW, [i for chunk in chunks for i in chunk]

    def _forward_padded(self, tokens: Sequence[Tokens]) -> Tensor:
        lengths_B = torch.tensor([len(ids) for ids in tokens], device=self.device)
        padded_BT = nn.utils.rnn.pad_sequence(
            [torch.tensor(ids, dtype=torch.long) for ids in tokens],
            batch_first=True,
            padding_value=self.tokenizer.pad_token_id or 0,
        ).to(self.device)
        mask_BT = torch.arange(padded_BT.shape[1], device=self.device) < lengths_B[:, None]
        hidden_BTW = self.transformer(input_ids=padded_BT, attention_mask=mask_BT.long()).last_hidden_state
        return pool(self.settings.pooling, hidden_BTW, mask_BT[..., None])

    def embed(self, texts: Sequence[str], role: Role) -> Tensor:
        """Embeddings [B, D] with gradient; order kept, no bound on memory but the caller's choice of texts."""
        return self(self.tokenize(texts, role))  # type: ignore[no-any-return]

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        role: Role,
        *,
        max_tokens_per_batch: int | None = None,
        progress: bool = False,
        count: Callable[[int], object] | None = None,
    ) -> Floats:
        """Embeddings float32 [B, D] without gradient and without dropout, in chunks of texts of like length.

        `max_tokens_per_batch` bounds one pass (None: chosen for the device). Order is kept. `progress` shows a bar;
        `count` instead gets the number of texts of every pass.
        """
        max_tokens = max_tokens_per_batch or tokens_at_once(self.device)
        out_BD = np.empty((len(texts), self.dimension), dtype=np.float32)
        # Longest first: a bound that is too high for the memory shows at once, and the time left is not underestimated.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        was_training = self.training
        self.eval()
        try:
            with progress_bar(total=len(texts), unit="text", desc=f"encode {role}s", enabled=progress) as bar:
                for start in range(0, len(order), TOKENIZE_AT_ONCE):
                    part = order[start : start + TOKENIZE_AT_ONCE]
                    tokens = self.tokenize([texts[i] for i in part], role)
                    for chunk in token_chunks(tokens, max_tokens, padded=not self.packed):
                        out_BD[[part[i] for i in chunk]] = self([tokens[i] for i in chunk]).float().cpu().numpy()
                        (count or bar.update)(len(chunk))
        finally:
            self.train(was_training)
        return out_BD

    def set_dropout(self, probability: float) -> None:
        """Set every dropout of the transformer; the saved config.json keeps the model's own value."""
        for module in self.transformer.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
            elif isinstance(getattr(module, "attention_dropout", None), float | int):  # whole numbers where it is 0
                module.attention_dropout = probability  # type: ignore[assignment]

    def checkpoint_gradients(self) -> None:
        """Keep only each layer's input for the backward pass and compute the rest again."""
        self.transformer.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]

    def add_lora(self, rank: int) -> None:
        """Freeze the weights and train low-rank updates of every linear layer; `save` merges them in.

        Raises InputError without peft.
        """
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise InputError("--lora-rank: needs peft (pip install 'causalneg[lora]')") from error
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        self.transformer = get_peft_model(self.transformer, config)

    def fingerprint(self) -> str:
        """A key over what decides an embedding: weights, tokens, pooling, normalisation, prompts, length, precision."""
        config: Any = self.transformer.config
        # Where a model came from and which kernel it uses decide nothing.
        architecture = {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
        digest = hashlib.blake2b(digest_size=16)
        for part in (asdict(self.settings), architecture, _tokenizer_contents(self.tokenizer)):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(type(self.transformer).__name__.encode())
        if self.autocast is not None:
            digest.update(self.precision.encode())
        for name, tensor in sorted(self.transformer.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write a sentence-transformers folder; a reader finds the old folder or the whole new one, never half.

        Raises InputError when `folder` is something else than a saved model or cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / "modules.json").is_file() and any(folder.iterdir()):
            raise InputError("holds something else than a saved model; nothing was written", file=folder)
        with atomic_path(folder, folder=True) as new:
            transformer: Any = self.transformer
            if hasattr(transformer, "merge_and_unload"):
                transformer = copy.deepcopy(transformer).merge_and_unload()
            transformer.save_pretrained(new)
            self.tokenizer.save_pretrained(new)
            write_settings(new, self.settings, self.width)


def default_device(wanted: str | None) -> str:
    """The device that was asked for; else a GPU if there is one. Raises InputError for one that is not here."""
    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"cannot use {shown(device)}: {first_line(error)}", field="device") from error
    return device


@cache
def _say_prompts(spec: str, query: str, document: str) -> None:
    """Once a run and model: a prompt that should not be there, or is missing, changes every score."""
    if query or document:
        said = (f"{role} begin with {prompt!r}" if prompt else f"{role} have no prompt" for role, prompt in (
            ("queries", query), ("passages", document)))  # fmt: skip
        log.info("%s: %s", spec, ", ".join(said))


def _own_settings(folder: ModelFolder, transformer: nn.Module, tokenizer: Any) -> EncoderSettings:
    """What the folder says, completed by what its transformer and its tokenizer can take."""
    config: Any = transformer.config
    settings = folder.settings or EncoderSettings()
    length, limit = settings.max_length, position_limit(transformer)
    if length is None:
        length = longest_input(transformer, tokenizer)
    elif length < 3 or (limit is not None and length > limit):
        most = "" if limit is None else f" to {limit}, for which there are positions"
        raise InputError(
            f"expected 3{most or ' at least'}, got {length}", file=folder.length_file, field="max_seq_length"
        )
    # A cut beyond the width cuts nothing.
    cut = settings.dimensions if settings.dimensions is not None and settings.dimensions < config.hidden_size else None
    return replace(settings, max_length=length, dimensions=cut)


def _tokenizer_contents(tokenizer: Any) -> Any:
    """All that decides what a tokenizer does."""
    if tokenizer.is_fast:
        contents = json.loads(tokenizer.backend_tokenizer.to_str())
        # It notes its latest call.
        return {name: part for name, part in contents.items() if name not in ("truncation", "padding")}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}
    return [
        type(tokenizer).__name__,
        {name: text for name, text in files.items() if name != "tokenizer_config.json"},
        {name: value for name, value in tokenizer.init_kwargs.items() if not name.endswith(("_file", "name_or_path"))},
    ]
