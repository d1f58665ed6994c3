"""The language-model engine: one causal model, shared by query rewriting, reranking and reading.

    lm = LanguageModel.acquire("smollm2")
    frame = lm.frame()
    print(lm.generate([*frame.prefix, *lm.tokens("What is a flea?"), *frame.suffix]).text)
    lm.release()

Prompts are lists of token ids that callers put together from pieces, so that every span is known by construction.
Importing this package loads neither torch nor transformers.
"""

from .engine import LanguageModel
from .generation import Generation
from .info import LanguageModelInfo, describe
from .vocabulary import Frame

__all__ = ["Frame", "Generation", "LanguageModel", "LanguageModelInfo", "describe"]
