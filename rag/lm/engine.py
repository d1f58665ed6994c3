"""One causal language model, loaded once and shared: tokens, generation, and the attention that rows pay to a context."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from .. import models
from ..errors import BudgetError, ConfigError, UnsupportedModel
from ..models import ModelFiles
from .attention import ATTENTION, LastLayer, MassProbe, Probe, StopAt, register
from .generation import Generation, Sampler, TextStream, decode
from .info import LanguageModelInfo, describe
from .loading import model_and_tokenizer
from .vocabulary import Frame, Vocabulary

if TYPE_CHECKING:
    import torch

PREFILL_CHUNK = 1024
"""Tokens of a prompt that go through the model at once; bounds the activations' memory."""


class LanguageModel:
    """A loaded model. Get it with :meth:`acquire`, give it back with :meth:`release`; safe to use from several threads."""

    def __init__(self, info: LanguageModelInfo, model: Any, vocabulary: Vocabulary, device: str, key: Hashable) -> None:
        self.info = info
        self.device = device
        self._model = model
        self._vocabulary = vocabulary
        self._key = key
        self._lock = threading.Lock()  # one forward pass at a time: they share the cores, or the device's memory

    @classmethod
    def acquire(cls, name: str, *, device: str | None = None) -> Self:
        """The model ``name`` (``smollm2``, a GGUF file, a folder, a Hugging Face id), shared with all who ask for the same.

        Raises ``ModelNotFound``, ``MissingDependency``, ``UnsupportedModel``, and ``StorageError`` when a GGUF file's
        conversion cannot be written.
        """
        files = models.resolve(name)
        where = models.device(device)
        key = ("language-model", files.path, where)
        return models.acquire(key, lambda: cls._load(files, where, key))

    @classmethod
    def _load(cls, files: ModelFiles, device: str, key: Hashable) -> Self:
        model, tokenizer = model_and_tokenizer(files, device)
        if model.config._attn_implementation == "sdpa":  # else the model has a reason to compute its attention otherwise
            register()
            model.set_attn_implementation(ATTENTION)
        return cls(describe(files.name), model, Vocabulary(tokenizer, _stop_tokens(model, tokenizer)), device, key)

    def release(self) -> None:
        """Give the model back; the last user frees it."""
        models.release(self._key)

    # -- text and tokens -----------------------------------------------------------

    @property
    def window(self) -> int:
        """The longest prompt with its answer, in tokens."""
        return self.info.window

    def tokens(self, text: str) -> list[int]:
        """Token ids of untrusted text: nothing is added, and text that spells a special token stays plain text."""
        return self._vocabulary.tokens(text)

    def template_tokens(self, text: str) -> list[int]:
        """Token ids of trusted text, in which special tokens are recognised."""
        return self._vocabulary.template_tokens(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, without special tokens."""
        return self._vocabulary.text(ids)

    def turn(self, system: str | None = None) -> tuple[str, str]:
        """The chat template's text before and after the content of one user turn, up to where the answer begins."""
        return self._vocabulary.turn(system)

    def frame(self, system: str | None = None) -> Frame:
        """The chat template's token ids around the content of one user turn; the suffix ends where the answer begins."""
        return self._vocabulary.frame(system)

    # -- generation ----------------------------------------------------------------

    def generate(
        self, prompt: Sequence[int], *, max_new_tokens: int = 256, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """Continue ``prompt``: greedily at ``temperature`` 0 (the same prompt gives the same text), else sampled with ``seed``.

        ``on_text`` gets the text as it is written, in pieces of whole characters that together are the result's text.
        Raises ``BudgetError`` when prompt and answer cannot fit the window, ``ConfigError`` for a setting out of range.
        """
        from transformers import DynamicCache

        if not prompt or max_new_tokens < 1:
            raise ConfigError(f"a prompt of {len(prompt)} tokens and an answer of {max_new_tokens} cannot be generated from",
                              where=f"model {self.info.name!r}", hint="both need at least one token")
        self._expect_to_fit(len(prompt), max_new_tokens, "new tokens")
        sampler = Sampler(temperature, top_p, seed)
        cache = DynamicCache(config=self._model.config)

        def step(ids: Sequence[int]) -> torch.Tensor:
            for chunk in _chunks(ids, PREFILL_CHUNK):
                logits = self._forward(self._model, chunk, cache, logits_to_keep=1).logits
            last: torch.Tensor = logits[0, -1].float().cpu()
            return last

        return decode(step, prompt, TextStream(self._vocabulary, on_text), sampler=sampler, max_new_tokens=max_new_tokens,
                      stop=self._vocabulary.stop)

    # -- attention -----------------------------------------------------------------

    def attention_mass(
        self, context: Sequence[int], suffixes: Sequence[Sequence[int]], *, heads: Sequence[tuple[int, int]] | None = None,
        weights: Sequence[float] | None = None, query_rows: Sequence[tuple[int, int]] | None = None,
    ) -> NDArray[np.float32]:
        """The softmax attention that the suffixes pay to each token of ``context``, float32 [len(context)].

            out[t] = sum over suffixes s of weights[s] * sum over (layer, head) of mean over s's query rows of attention[row, t]

        Each suffix continues the context on its own, at the positions after it, and sees nothing of the others; the context is
        prefilled once and all suffixes run against its keys and values in one pass. ``heads`` are pairs (layer, head), from 0,
        all by default; nothing above the deepest layer among them is computed. ``weights`` is one number a suffix, 1 by
        default; a calibrated mass is ``weights=[1, -1]`` with a content-free second suffix. ``query_rows`` is a half-open range
        of rows for each suffix, the whole suffix by default.

        No matrix of attention is held: the mass is recomputed from queries and keys in tiles (``kernels.attention_mass``).
        The same call gives the same bits. Raises ``BudgetError`` when the context with the longest suffix does not fit the
        window, ``UnsupportedModel`` when the model's attention cannot be looked into, ``ConfigError`` for an impossible argument.
        """
        import torch
        from transformers import DynamicCache

        if self._model.config._attn_implementation != ATTENTION:
            raise UnsupportedModel(f"the attention of {self.info.name!r} cannot be looked into", where=type(self._model).__name__,
                                   hint="use a model that runs on torch's scaled dot product attention (Llama, Qwen, Mistral, ...)")
        by_layer = self._heads_by_layer(heads)
        row_weights = _row_weights(suffixes, weights, query_rows)
        self._expect_to_fit(len(context), max(map(len, suffixes)), "tokens after it")
        if not context:
            return np.zeros(0, dtype=np.float32)

        segment = torch.repeat_interleave(torch.tensor([len(s) for s in suffixes]))
        position = torch.cat([torch.arange(len(s)) for s in suffixes])
        visible = ((segment[:, None] == segment) & (position[:, None] >= position)).to(self.device)
        mass = torch.zeros(len(context), device=self.device)
        probe = MassProbe(len(context), row_weights.to(self.device), visible, by_layer, mass)

        cache = DynamicCache(config=self._model.config)
        for chunk in _chunks(context, PREFILL_CHUNK):
            self._look(chunk, cache, StopAt(probe.last_layer))
        self._look(
            [token for suffix in suffixes for token in suffix], cache, probe,
            position_ids=(position + len(context)).to(self.device)[None],
            attention_mask=torch.cat([visible.new_ones(len(visible), len(context)), visible], dim=1)[None, None],
        )
        if probe.layers_seen != len(by_layer):
            raise UnsupportedModel(f"{probe.layers_seen} of {len(by_layer)} layers showed their attention",
                                   where=type(self._model).__name__, hint="use a model of plain attention layers")
        return mass.cpu().numpy()

    def _heads_by_layer(self, heads: Sequence[tuple[int, int]] | None) -> dict[int, list[int]]:
        if heads is None:
            return {layer: list(range(self.info.heads)) for layer in range(self.info.layers)}
        by_layer = defaultdict(list)
        for layer, head in sorted(set(heads)):
            if not (0 <= layer < self.info.layers and 0 <= head < self.info.heads):
                raise ConfigError(f"there is no head {head} in layer {layer}", where=f"model {self.info.name!r}",
                                  hint=f"it has {self.info.layers} layers of {self.info.heads} heads, counted from 0")
            by_layer[layer].append(head)
        if not by_layer:
            raise ConfigError("no head is chosen", where="attention_mass", hint="pass heads=None for all of them")
        return dict(by_layer)

    # -- forward passes ------------------------------------------------------------

    def _look(self, ids: Sequence[int], cache: Any, probe: Probe, **kwargs: Any) -> None:
        """A pass without the language-model head, up to the probe's last layer."""
        try:
            self._forward(self._model.base_model, ids, cache, probe=probe, **kwargs)
        except LastLayer:
            return

    def _forward(self, module: Any, ids: Sequence[int], cache: Any, **kwargs: Any) -> Any:
        import torch

        with self._lock, torch.inference_mode():
            return module(input_ids=torch.tensor([ids], device=self.device), past_key_values=cache, use_cache=True, **kwargs)

    def _expect_to_fit(self, prompt: int, more: int, what: str) -> None:
        if prompt + more > self.window:
            raise BudgetError(f"a prompt of {prompt} tokens and {more} {what} do not fit the window of {self.window}",
                              where=f"model {self.info.name!r}", hint="shorten the prompt or use a model with a longer window")


def _chunks(ids: Sequence[int], size: int) -> list[Sequence[int]]:
    return [ids[start:start + size] for start in range(0, len(ids), size)]


def _row_weights(
    suffixes: Sequence[Sequence[int]], weights: Sequence[float] | None, query_rows: Sequence[tuple[int, int]] | None,
) -> torch.Tensor:
    """float32 [rows of all suffixes]: a suffix's weight, shared out evenly among its query rows; 0 for the other rows."""
    import torch

    weights = [1.0] * len(suffixes) if weights is None else weights
    query_rows = [(0, len(s)) for s in suffixes] if query_rows is None else query_rows
    if not suffixes or not len(suffixes) == len(weights) == len(query_rows):
        raise ConfigError(f"{len(suffixes)} suffixes, {len(weights)} weights, {len(query_rows)} row ranges", where="attention_mass",
                          hint="pass at least one suffix, and one weight and one range for each")
    parts = []
    for suffix, weight, (start, stop) in zip(suffixes, weights, query_rows, strict=True):
        if not 0 <= start < stop <= len(suffix):
            raise ConfigError(f"rows {start} to {stop} of a suffix of {len(suffix)} tokens", where="attention_mass",
                              hint="a suffix needs at least one query row, within it")
        part = torch.zeros(len(suffix))
        part[start:stop] = weight / (stop - start)
        parts.append(part)
    return torch.cat(parts)


def _stop_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a turn: the generation configuration's, and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    found = set(configured) if isinstance(configured, list) else {configured}
    return {token for token in (*found, tokenizer.eos_token_id) if token is not None}
