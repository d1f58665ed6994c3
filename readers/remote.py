"""The reader for a remote language model, on any server that speaks OpenAI's chat protocol."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field
from importlib.util import find_spec
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from ..rag import models
from ..rag.dag.scope import Scope
from ..rag.dag.stage import Problem
from ..rag.dag.trace import emit_text, record
from ..rag.errors import ConfigError, RegardError
from ..rag.models.inert import expect_inert
from ..rag.nouns import Answer, Batch, Query, Ranking, Usage
from ..rag.parts import Count
from ..rag.trust import Connection
from .base import BaseReader, OpenEvidence
from .chat import OPENAI, OWN_VARIABLE, ChatClient, Completion, checked_url, connection
from .packing import Size
from .prompt import ReaderPrompt

CHARACTERS_A_TOKEN = 4


class OpenRemoteReader(NamedTuple):
    client: ChatClient
    size: Size
    evidence: OpenEvidence


class RemoteReader(BaseReader):
    """Answers each query from the passages of its ranking, with ``model`` on the server at ``base_url``, and cites
    them.

    ``base_url`` None is ``$OPENAI_BASE_URL``, else OpenAI's. The key is in the environment variable ``api_key_env``
    names, and nowhere else; where there is none, or ``api_key_env`` is None, requests carry none. It goes over https,
    or to this machine; a pipeline file's reader sends only what the user has allowed for its server (``rag.trust``).
    ``budget`` counts tokens with ``tokenizer`` (a folder or a Hugging Face id), or as a quarter of the characters
    without one, and so do the spans of the answer's context (from the system message's first token, chat template not
    counted). ``concurrency`` requests are under way at a time; each waits up to ``timeout`` seconds for the next piece
    of the answer, and is tried again up to ``retries`` times, all of it within ``deadline`` seconds. ``parameters`` go
    into the request as they are, over those that the settings make (``{"max_tokens": None, "max_completion_tokens":
    500}`` replaces one by another). Packing, order, citations, ``verifier`` and what happens to repeated sentences and
    to an empty ranking are as in ``Reader``.
    """

    positional = "model"

    depth: Count = 20
    budget: Count = 4096

    model: str = field(kw_only=True)
    base_url: str | None = None
    api_key_env: str | None = OWN_VARIABLE
    max_new_tokens: Count = 512
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0
    tokenizer: str | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    retries: Annotated[int, Field(ge=0)] = 4
    concurrency: Count = 4
    parameters: Mapping[str, Any] = {}
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_url is not None:
            checked_url(self.base_url)

    @property
    def deterministic(self) -> bool:
        """A server promises nothing, not even with a seed."""
        return False

    def models(self) -> Sequence[str]:
        return () if self.tokenizer is None else (self.tokenizer,)

    def identity(self) -> dict[str, Any]:
        """The server's address, the tokenizer, and the citations' encoder; what the server runs under the model's name
        it does not say."""
        tokenizer = models.weights_hash(models.resolve(self.tokenizer)) if self.tokenizer else None
        return {**super().identity(), "server": checked_url(self.base_url), "tokenizer": tokenizer}

    def connections(self) -> Iterator[Connection]:
        """The server, with the key's variable."""
        yield from super().connections()
        yield connection(self.base_url, self.api_key_env, self.origin)

    def check(self) -> Iterator[Problem]:
        """The address can be used, the key may go there, OpenAI's has its key, and packages and files are there."""
        yield from super().check()
        if find_spec("httpx") is None:
            yield Problem("httpx is not installed", hint="pip install httpx")
            return
        try:
            asked = connection(self.base_url, self.api_key_env, self.origin)
            if self.tokenizer is not None:
                models.resolve(self.tokenizer)
        except RegardError as error:
            yield Problem.of(error)
            return
        if asked.refused:
            yield Problem(asked.refused, hint=asked.hint)
        elif checked_url(self.base_url) == OPENAI and not asked.set:
            what = "OpenAI's server needs a key"
            if self.api_key_env:
                what = f"the environment variable {self.api_key_env} is not set"
            yield Problem(what, hint="put the key there, or name a server that needs none in base_url")

    def open(self, scope: Scope, /) -> OpenRemoteReader:
        client = ChatClient(self.base_url, self.api_key_env, timeout=self.timeout, retries=self.retries,
                            deadline=self.deadline,
                            origin=self.origin)
        scope.callback(client.close)
        return OpenRemoteReader(client, _tokenizer(self.tokenizer) if self.tokenizer else _estimate,
                                self.open_evidence(scope))

    def run(self, opened: OpenRemoteReader, queries: Batch[Query], rankings: Batch[Ranking]) -> Batch[Answer]:
        """Raises ``RemoteError`` when the server refuses, fails or does not answer."""
        prompts = [self._prompt(q, r, self.budget, opened.size) for q, r in zip(queries, rankings, strict=True)]
        completions = self._complete_all(opened.client, prompts)
        return Batch(self._nothing_found(i) if prompt is None else self._finish(opened, prompt, completions[i])
                     for i, prompt in enumerate(prompts))

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
        parameters = {"model": self.model, "max_tokens": self.max_new_tokens, "temperature": self.temperature,
                      "top_p": self.top_p,
                      "seed": self.seed, **self.parameters}
        return client.complete(messages, parameters, lambda text: emit_text(position, text))

    def _finish(self, opened: OpenRemoteReader, prompt: ReaderPrompt, completion: Completion) -> Answer:
        before = opened.size(self.system or "")
        sizes = [opened.size(piece) for piece in prompt.pieces]
        usage = completion.usage or Usage(before + sum(sizes), opened.size(completion.text))
        record(tokens_in=usage.prompt_tokens, tokens_out=usage.completion_tokens)
        return self._answer(opened.evidence, prompt, completion.text, usage, completion.finish, sizes=sizes,
                            before=before)


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
