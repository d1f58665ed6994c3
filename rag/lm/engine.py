"""One causal language model, loaded once and shared: tokens, generation, and the attention that rows pay to a
context."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from .. import models
from ..dag.trace import record
from ..errors import BudgetError, ConfigError, UnsupportedModel
from ..models import ModelFiles
from ..text import Span
from . import probe
from .attention import LastLayer, Pass, let_in, looked_at_by
from .generation import Generation, Sampler, TextStream, decode
from .info import LanguageModelInfo, describe
from .loading import model_and_tokenizer
from .prefill import Mask, Positions, Prefill, PrefillPass, PrefillPlan, plan
from .rotation import Rotation
from .suffixes import HeadScoresPass, MassPass, SuffixRows, heads_by_layer, laid_on, rows
from .vocabulary import Frame, Vocabulary

if TYPE_CHECKING:
    import torch

PREFILL_CHUNK = 1024
"""Tokens of a prompt that go through the model at once; bounds the activations' memory."""

LEAST_CHUNK = 32
"""A chunk is not split further, where memory is short."""


class LanguageModel:
    """A loaded model. Get it with :meth:`acquire`, give it back with :meth:`release`; safe to use from several
    threads."""

    def __init__(self, files: ModelFiles, info: LanguageModelInfo, model: Any, vocabulary: Vocabulary, device: str,
                 key: Hashable) -> None:
        self.info = info
        self.device = device
        self._files = files
        self._model = model
        self.vocabulary = vocabulary
        self._key = key
        self._rotation = Rotation(model)
        refusal = let_in(model)
        self._in_chunks = not probe.other_layers(model)  # Jamba's states, for one, do not go on from chunk to chunk
        self._verdict = probe.ProbeVerdict(refusal) if refusal else None  # None: not probed yet
        self._lock = threading.RLock()  # one forward pass at a time: they share the cores, or the device's memory

    @classmethod
    def acquire(cls, name: str, *, device: str | None = None, attention: bool = False) -> Self:
        """The model ``name`` (``smollm2``, a GGUF file, a folder, a Hugging Face id), shared with all who ask for the
        same.

        With ``attention``, :meth:`prefill`, :meth:`attention_mass` and :meth:`head_scores` will be called: the model is
        probed for whether they see in it what transformers computes (``probe``), now and not in the middle of the work.

        Raises ``ModelNotFound``, ``MissingDependency``, ``UnsupportedModel``, and ``StorageError`` when a GGUF file's
        conversion cannot be written.
        """
        files = models.resolve(name)
        where = models.device(device)
        key = ("language-model", files.path, where)
        lm = models.acquire(key, lambda: cls._load(files, where, key))
        try:
            if attention:
                lm._expect_to_look()
        except BaseException:
            lm.release()
            raise
        return lm

    @classmethod
    def _load(cls, files: ModelFiles, device: str, key: Hashable) -> Self:
        info = describe(files.name)  # first: it reads no weights
        model, tokenizer = model_and_tokenizer(files, device)
        return cls(files, info, model, Vocabulary(tokenizer, _stop_tokens(model, tokenizer)), device, key)

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
        return self.vocabulary.tokens(text)

    def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        """:meth:`tokens` of each of ``texts``, faster than one by one."""
        return self.vocabulary.tokens_of(texts)

    def template_tokens(self, text: str) -> list[int]:
        """Token ids of trusted text, in which special tokens are recognised."""
        return self.vocabulary.template_tokens(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, without special tokens."""
        return self.vocabulary.text(ids)

    def turn(self, system: str | None = None) -> tuple[str, str]:
        """The chat template's text before and after the content of one user turn, up to where the answer begins."""
        return self.vocabulary.turn(system)

    def frame(self, system: str | None = None) -> Frame:
        """The chat template's token ids around the content of one user turn; the suffix ends where the answer
        begins."""
        return self.vocabulary.frame(system)

    # -- generation ----------------------------------------------------------------

    def generate(
        self, prompt: Sequence[int], *, context: Prefill | None = None, max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0, seed: int = 0, on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """Continue ``prompt``: greedily at ``temperature`` 0 (the same prompt gives the same text), else sampled with
        ``seed``.

        With ``context`` (complete, all layers) the prompt follows what is prefilled there, which is not run again.
        ``on_text`` gets the text as it is written, in pieces of whole characters that together are the result's text.
        Raises ``BudgetError`` when prompt and answer cannot fit the window, ``ConfigError`` for a setting out of range.
        """
        if not prompt or max_new_tokens < 1:
            raise ConfigError(f"a prompt of {len(prompt)} tokens and an answer of {max_new_tokens} cannot be generated "
                              f"from",
                              where=f"model {self.info.name!r}", hint="both need at least one token")
        before = context.plan.after if context else 0
        self._expect_to_fit(before + len(prompt), max_new_tokens, "new tokens")
        sampler = Sampler(temperature, top_p, seed)
        cache = self._new_cache()
        if context is not None:
            self._expect_to_continue(context, len(prompt) + max_new_tokens)
            self._expect_same_rotation(context, before + len(prompt) + max_new_tokens)
            for layer, (key, value) in enumerate(zip(context.keys, context.values, strict=True)):
                cache.update(key[None], value[None], layer)
        at, seen = before, list[int]()

        def step(ids: Sequence[int]) -> torch.Tensor:
            nonlocal at, seen, cache
            end = at + len(ids)
            seen += ids
            if self._rotation.differ(at,
                                     end):  # as transformers does: all that is cached is turned for a shorter prompt
                at, ids, cache = 0, seen, self._new_cache()
            logits = self._logits_after(ids, at, cache, end)
            at = end
            return logits

        return decode(step, prompt, TextStream(self.vocabulary, on_text), sampler=sampler,
                      max_new_tokens=max_new_tokens,
                      stop=self.vocabulary.stop)

    def next_probabilities(self, prompt: Sequence[int]) -> NDArray[np.float32]:
        """The probability of every token to come next after ``prompt``, float32 [vocabulary]. Raises ``BudgetError``,
        ``ConfigError``."""
        if not prompt:
            raise ConfigError("nothing can be continued", where=f"model {self.info.name!r}",
                              hint="the prompt needs at least one token")
        self._expect_to_fit(len(prompt), 1, "new token")
        return self._logits_after(prompt, 0, self._new_cache(), len(prompt)).softmax(dim=-1).numpy()

    def _logits_after(self, ids: Sequence[int], at: int, cache: Any, length: int) -> torch.Tensor:
        """Of the token after ``ids``, which stand from position ``at`` on in a prompt of ``length``: float32
        [vocabulary], on the CPU."""
        for chunk in _chunks(ids, PREFILL_CHUNK if self._in_chunks else len(ids)):
            logits = self._next(chunk, at, cache, length)
            at += len(chunk)
        last: torch.Tensor = logits[0, -1].float().cpu()
        return last

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        with self._lock:  # while a model is probed, its configuration has other windows
            return DynamicCache(config=self._model.config)

    def _next(self, ids: Sequence[int], position: int, cache: Any, length: int) -> torch.Tensor:
        import torch

        positions = torch.arange(position, position + len(ids), device=self.device)[None]
        with self._lock, torch.inference_mode(), self._rotation.of(length):
            logits: torch.Tensor = self._model(input_ids=torch.tensor([ids], device=self.device),
                                               position_ids=positions,
                                               past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits

    def _expect_to_continue(self, context: Prefill, more: int) -> None:
        if not context.complete or context.layers != self.info.layers:
            raise ConfigError(f"a context of {context.layers} of {self.info.layers} layers cannot be continued from",
                              where=f"model {self.info.name!r}", hint="prefill it with last=None")
        if self.sliding_window is not None and len(context.plan.ids) + more > self.sliding_window:
            raise UnsupportedModel(
                f"{len(context.plan.ids)} prefilled tokens and {more} more exceed the sliding window of "
                f"{self.sliding_window}",
                where=f"model {self.info.name!r}", hint="keep fewer passages, or use a model without a sliding window")

    def _expect_same_rotation(self, context: Prefill, length: int) -> None:
        if self._rotation.differ(context.length, length):
            raise BudgetError(f"a context prefilled for at most {self._rotation.boundary} positions cannot go on to "
                              f"{length}: in longer "
                              "prompts the model turns its keys by other angles", where=f"model {self.info.name!r}",
                              hint="keep fewer or shorter passages, or do not prefill them apart from what follows")

    @property
    def steady_window(self) -> int:
        """Up to how many positions the keys of a prompt's beginning do not depend on its length: what may be prefilled
        for later."""
        return min(self.window, self._rotation.boundary or self.window)

    @property
    def sliding_window(self) -> int | None:
        """How far the model's layers of shortest sight see, in tokens; None where all see everything."""
        config = self._model.config.get_text_config(decoder=True)
        types = getattr(config, "layer_types", None)
        with self._lock:
            window: int | None = getattr(config, "sliding_window", None)
        return window if types is None or "sliding_attention" in types else None

    # -- attention -----------------------------------------------------------------

    def prefill(
        self, context: Sequence[int], *, blocks: Sequence[Span] = (), mask: Mask = "causal",
        positions: Positions = "distinct",
        last: int | None = None,
    ) -> Prefill:
        """The keys and values of ``context``, to look at with :meth:`attention_mass` or to continue with
        :meth:`generate`.

        Under the causal mask every token sees all before it. Under the block mask the tokens before the first of
        ``blocks`` (half-open spans that tile the rest of the context) are a causal prefix, and a block sees the prefix
        and itself; at shared positions every block begins where the prefix ends. Runs up to layer ``last``, of which
        only keys are kept; None: all layers.

        No matrix of attention is held. A batch of tokens that the device has no memory for is split, and the trace
        notes how often (``splits``). Raises ``BudgetError`` for a context that does not fit the window,
        ``UnsupportedModel``, ``ConfigError``.
        """
        laid = plan(context, blocks, mask, positions)
        return self._prefilled(laid, laid.after, last)

    def _prefilled(self, laid: PrefillPlan, length: int, last: int | None) -> Prefill:
        """Of a prompt that will have ``length`` positions."""
        self._expect_to_look()
        self._expect_to_fit(laid.after, 0, "more")
        prefill = Prefill(laid, complete=last is None, length=length)
        self._prefill(prefill, PREFILL_CHUNK, last)
        return prefill

    def _prefill(self, prefill: Prefill, size: int, last: int | None) -> None:
        import torch

        try:
            for span, parts, seen in prefill.plan.chunks(size):
                self._look(prefill.plan.ids[slice(*span)], prefill.plan.positions[slice(*span)],
                           PrefillPass(prefill, span, parts, seen, last))
        except torch.OutOfMemoryError as error:
            if size < 2 * LEAST_CHUNK:
                raise BudgetError(f"{self.device} has no memory for {size} tokens at once",
                                  where=f"model {self.info.name!r}",
                                  hint="rerank fewer or shorter passages at a time, choose lower heads, or free the "
                                       "device") from error
            record(splits=1)
            torch.cuda.empty_cache()
            self._prefill(prefill, size // 2, last)  # from the start: the same tokens into the same places

    def attention_mass(
        self, context: Sequence[int] | Prefill, suffixes: Sequence[Sequence[int]], *,
        heads: Sequence[tuple[int, int]] | None = None,
        mask: Mask = "causal", positions: Positions = "distinct", blocks: Sequence[Span] = (),
        weights: Sequence[float] | None = None,
        query_rows: Sequence[Span] | None = None, after: int | None = None,
    ) -> NDArray[np.float32]:
        """The softmax attention that the suffixes pay to each token of ``context``, float32 [len(context)].

            out[t] = sum over suffixes s of weights[s] * sum over (layer, head) of mean over s's query rows of
            attention[row, t]

        Each suffix continues the context on its own and sees nothing of the others; the context is prefilled once
        (``mask``, ``positions``, ``blocks`` as in :meth:`prefill`, which may have been called before: pass what it
        gave), and all suffixes run against its keys and values in one pass, what they have in common once. ``heads``
        are pairs (layer, head), from 0, all by default; nothing above the deepest layer among them is computed.
        ``weights`` is one number a suffix, 1 by default; a calibrated mass is ``weights=[1, -1]`` with a content-free
        second suffix. ``query_rows`` is a half-open range of rows for each suffix, the whole suffix by default. The
        suffixes begin at position ``after``, by default right behind the context: at shared positions that is behind
        its longest block, so that what a block is paid depends on the length of the others.

        No matrix of attention is held (``kernels.attention_mass``). The same call gives the same bits. Raises
        ``BudgetError`` when the context with the longest suffix does not fit the window, ``UnsupportedModel`` when the
        model's attention cannot be looked into, ``ConfigError`` for an impossible argument.
        """
        import torch

        by_layer = heads_by_layer(heads, self.info.layers, self.info.heads, self.info.name)
        last = max(by_layer)
        laid, prefilled = self._laid(context, suffixes, weights, query_rows, mask, positions, blocks, after, last)
        mass = torch.zeros(len(prefilled.plan.ids), device=self.device)
        if len(mass):
            self._look_after(prefilled, laid, MassPass(prefilled, laid, last, by_layer, mass))
        return mass.cpu().numpy()

    def head_scores(
        self, context: Sequence[int] | Prefill, suffixes: Sequence[Sequence[int]], spans: Sequence[Span], *,
        layers: int | None = None,
        mask: Mask = "causal", positions: Positions = "distinct", blocks: Sequence[Span] = (),
        weights: Sequence[float] | None = None,
        query_rows: Sequence[Span] | None = None, after: int | None = None,
    ) -> NDArray[np.float32]:
        """:meth:`attention_mass` of each head on its own, summed over ``spans`` of the context: float32 [layers, heads,
        spans].

        Of the lowest ``layers`` layers, all by default.
        """
        import torch

        last = (layers or self.info.layers) - 1
        laid, prefilled = self._laid(context, suffixes, weights, query_rows, mask, positions, blocks, after, last)
        scores = torch.zeros(last + 1, self.info.heads, len(spans), device=self.device)
        if len(prefilled.plan.ids):
            self._look_after(prefilled, laid, HeadScoresPass(prefilled, laid, last, spans, scores))
        return scores.cpu().numpy()

    def _laid(
        self, context: Sequence[int] | Prefill, suffixes: Sequence[Sequence[int]], weights: Sequence[float] | None,
        query_rows: Sequence[Span] | None, mask: Mask, positions: Positions, blocks: Sequence[Span], after: int | None,
        last: int,
    ) -> tuple[SuffixRows, Prefill]:
        """The suffixes' rows on the device, and the context prefilled as far as layer ``last``."""
        self._expect_to_look()
        where = context.plan if isinstance(context, Prefill) else plan(context, blocks, mask, positions)
        first = where.after if after is None else after
        if first < where.after:
            raise ConfigError(f"a suffix at position {first} would begin within the context, which ends before "
                              f"{where.after}",
                              where="attention", hint=f"pass after={where.after} or more, or None")
        laid = rows(suffixes, weights, query_rows, first)
        self._expect_to_fit(first, max(map(len, suffixes)), "tokens after it")
        if isinstance(context, Prefill):
            self._expect_same_rotation(context, laid.end)
            prefilled = context
        else:
            prefilled = self._prefilled(where, laid.end, last)
        if prefilled.plan.ids and prefilled.layers <= last:
            raise ConfigError(f"the context is prefilled up to layer {prefilled.layers - 1}, and layer {last} is asked "
                              f"for",
                              where="attention", hint="prefill it with last=None, or choose lower heads")
        return laid_on(self.device, laid), prefilled

    def _look_after(self, context: Prefill, laid: SuffixRows, looking: MassPass | HeadScoresPass) -> None:
        self._look(laid.ids, laid.positions, looking)

    def _expect_to_look(self) -> None:
        with self._lock:
            if self._verdict is None:
                self._verdict = probe.verdict(self._files, self.info, self._model, self._look)
        if self._verdict.reason:
            raise UnsupportedModel(f"the attention of {self.info.name!r} cannot be looked into: {self._verdict.reason}",
                                   where=type(self._model).__name__,
                                   hint="use a model of plain attention layers: Llama, Qwen 2 or 3, Mistral, Gemma 2 "
                                        "or 3, Phi, ...")

    # -- forward passes ------------------------------------------------------------

    def _look(self, ids: Sequence[int], positions: Sequence[int], looking: Pass) -> torch.Tensor | None:
        """A pass without the language-model head: the last hidden states [tokens, width], or None where ``looking``
        ends it before."""
        import torch

        # transformers takes a mask of four dimensions as it is and makes none; our attention function does not read it
        ignored = torch.zeros(1, 1, 1, 1, device=self.device)
        try:
            with self._lock, torch.inference_mode(), self._rotation.of(looking.length), looked_at_by(looking):
                hidden: torch.Tensor = self._model.base_model(
                    input_ids=torch.tensor([ids], device=self.device),
                    position_ids=torch.tensor([positions], device=self.device),
                    attention_mask=ignored, use_cache=False,
                )[0]
                return hidden[0]
        except LastLayer:
            return None

    def _expect_to_fit(self, prompt: int, more: int, what: str) -> None:
        if prompt + more > self.window:
            raise BudgetError(f"a prompt of {prompt} tokens and {more} {what} do not fit the window of {self.window}",
                              where=f"model {self.info.name!r}",
                              hint="shorten the prompt or use a model with a longer window")


def _chunks(ids: Sequence[int], size: int) -> list[Sequence[int]]:
    return [ids[start:start + size] for start in range(0, len(ids), size)]


def _stop_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a turn: the generation configuration's, and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    found = set(configured) if isinstance(configured, list) else {configured}
    return {token for token in (*found, tokenizer.eos_token_id) if token is not None}
