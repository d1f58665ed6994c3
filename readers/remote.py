"""The reader for a remote language model, on any server that speaks OpenAI's chat protocol."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ..rag import models
from ..rag.dag.stage import Problem
from ..rag.dag.trace import TextDelta, emit, record
from ..rag.errors import ConfigError, RegardError
from ..rag.models.inert import expect_inert
from ..rag.nouns import Answer, Batch, Query, Ranking, Usage
from ..rag.parts.settings import Count, Share
from ..rag.trust import Connection
from .base import INSTRUCTION, SYSTEM, BaseReader
from .chat import OPENAI, OWN_VARIABLE, ChatClient, Completion, checked_url, connection
from .citations import MIN_SUPPORT
from .packing import Size
from .prompt import PassageOrder, ReaderPrompt

CHARACTERS_A_TOKEN = 4


class RemoteReader(BaseReader):
    """Answers each query from the passages of its ranking, with ``model`` on the server at ``base_url``, and cites them.

    ``base_url`` None is ``$OPENAI_BASE_URL``, else OpenAI's. The key is in the environment variable ``api_key_env`` names, and
    nowhere else; where there is none, or ``api_key_env`` is None, requests carry none. It goes over https, or to this machine; a pipeline
    file's reader sends only what the user has allowed for its server (``rag.trust``). ``budget`` counts tokens with ``tokenizer`` (a
    folder or a Hugging Face id), or as a quarter of the characters without one, and so do the spans of the answer's context (from the
    system message's first token, chat template not counted). ``concurrency`` requests are under way at a time; each waits up to
    ``timeout`` seconds for the next piece of the answer, and is tried again up to ``retries`` times, all of it within ``deadline``
    seconds. ``parameters`` go into the request as they are, over those that the settings make (``{"max_tokens": None,
    "max_completion_tokens": 500}`` replaces one by another). Packing, order, citations, ``verifier`` and what happens to repeated sentences
    and to an empty ranking are as in ``Reader``.
    """

    model_settings: ClassVar[tuple[str, ...]] = ("tokenizer", "embedder", "verifier")

    def __init__(
        self, model: str, base_url: str | None = None, api_key_env: str | None = OWN_VARIABLE, depth: Count = 20,
        budget: Count = 4096,
        max_new_tokens: Count = 512, order: PassageOrder = "best-last", temperature: Annotated[float, Field(ge=0)] = 0.0,
        top_p: Annotated[float, Field(gt=0, le=1)] = 1.0, seed: int = 0, system: str | None = SYSTEM,
        instruction: str = INSTRUCTION, tokenizer: str | None = None, timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0,
        retries: Annotated[int, Field(ge=0)] = 4, concurrency: Count = 4, embedder: str = "minilm",
        min_support: Share = MIN_SUPPORT, parameters: dict[str, Any] | None = None, verifier: str | None = "lexical",
        deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300.0,
    ) -> None:
        self._set(depth=depth, budget=budget, order=order, system=system, instruction=instruction, embedder=embedder,
                  min_support=min_support, verifier=verifier)
        if base_url is not None:
            checked_url(base_url)
        self.model = model
        self.base_url = base_url
        self.api_key_env = api_key_env
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.seed = seed
        self.tokenizer = tokenizer
        self.timeout = timeout
        self.retries = retries
        self.concurrency = concurrency
        self.parameters = parameters
        self.deadline = deadline
        self._client: ChatClient | None = None
        self._size: Size = _estimate

    @property
    def deterministic(self) -> bool:
        """A server promises nothing, not even with a seed."""
        return False

    def state(self) -> dict[str, Any]:
        """The server's address, the tokenizer, and the citations' encoder; what the server runs under the model's name it does not say."""
        tokenizer = models.weights_hash(models.resolve(self.tokenizer)) if self.tokenizer else None
        return {**super().state(), "server": checked_url(self.base_url), "tokenizer": tokenizer}

    def connections(self) -> Iterator[Connection]:
        """The server, with the key's variable."""
        yield from super().connections()
        yield connection(self.base_url, self.api_key_env, self.origin)

    def check(self) -> Iterator[Problem]:
        """The address can be used, the key may go there, OpenAI's has its key, and packages and files are there."""
        yield from super().check()
        if find_spec("httpx") is None:
            yield Problem("httpx is not installed", self.label, "pip install httpx")
            return
        try:
            asked = connection(self.base_url, self.api_key_env, self.origin)
            if self.tokenizer is not None:
                models.resolve(self.tokenizer)
        except RegardError as error:
            yield Problem(error.what, self.label, error.hint or "")
            return
        if asked.refused:
            yield Problem(asked.refused, self.label, asked.hint)
        elif checked_url(self.base_url) == OPENAI and not asked.set:
            what = f"the environment variable {self.api_key_env} is not set" if self.api_key_env else "OpenAI's server needs a key"
            yield Problem(what, self.label, "put the key there, or name a server that needs none in base_url")

    def open(self) -> None:
        super().open()
        self._client = ChatClient(self.base_url, self.api_key_env, timeout=self.timeout, retries=self.retries, deadline=self.deadline,
                                  origin=self.origin)
        self._size = _tokenizer(self.tokenizer) if self.tokenizer else _estimate

    def close(self) -> None:
        super().close()
        if self._client is not None:
            self._client.close()
            self._client = None

    def run(self, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Answer]:
        """Raises ``RemoteError`` when the server refuses, fails or does not answer, ``StageError`` when the stage is not open."""
        if self._client is None:
            raise self.not_open()
        prompts = [self._prompt(q, r, self.budget, self._size) for q, r in zip(queries, rankings, strict=True)]
        completions = self._complete_all(self._client, prompts)
        return Batch(
            self._nothing_found(i) if prompt is None else self._finish(prompt, completions[i]) for i, prompt in enumerate(prompts)
        )

    def _complete_all(self, client: ChatClient, prompts: list[ReaderPrompt | None]) -> dict[int, Completion]:
        """Position to completion; requests that have not begun when one fails are not made."""
        pool = ThreadPoolExecutor(self.concurrency, "remote-reader")
        try:
            futures = {  # each in a copy of this context, so that its tokens reach whoever listens to the run
                i: pool.submit(contextvars.copy_context().run, self._complete, client, i, prompt)
                for i, prompt in enumerate(prompts) if prompt is not None
            }
            return {i: future.result() for i, future in futures.items()}
        finally:
            pool.shutdown(cancel_futures=True)

    def _complete(self, client: ChatClient, position: int, prompt: ReaderPrompt) -> Completion:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": prompt.text})
        parameters = {"model": self.model, "max_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p,
                      "seed": self.seed, **(self.parameters or {})}
        return client.complete(messages, parameters, lambda text: emit(TextDelta(self.label, position, text)))

    def _finish(self, prompt: ReaderPrompt, completion: Completion) -> Answer:
        before = self._size(self.system or "")
        sizes = [self._size(piece) for piece in prompt.pieces]
        usage = completion.usage or Usage(before + sum(sizes), self._size(completion.text))
        record(tokens_in=usage.prompt_tokens, tokens_out=usage.completion_tokens)
        return self._answer(prompt, completion.text, usage, completion.finish, sizes=sizes, before=before)


def _estimate(text: str) -> int:
    """A quarter of the characters, rounded up: about right for English."""
    return -(-len(text) // CHARACTERS_A_TOKEN)


def _tokenizer(name: str) -> Size:
    files = models.resolve(name)
    if files.kind == "gguf":
        raise ConfigError(f"{name!r} is a GGUF file, which has no tokenizer that can be read alone", where="tokenizer",
                          hint="name a folder with tokenizer.json, or a Hugging Face id")
    expect_inert(files)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(files.path, trust_remote_code=False)
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
