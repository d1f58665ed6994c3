"""Small random language models on disk, with SmolLM2's tokenizer, for what need not understand what it reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from regard.rag.lm import gguf
from regard.rag.models import resolve


def random_lm(folder: Path, family: str = "Llama", seed: int = 0, change: Callable[[Any], object] = lambda model: None,
              **settings: Any) -> str:
    """The folder of a random model of transformers' ``family``: SmolLM2's tokenizer and chat template, four layers,
    four heads on two KV heads of 16, a window of 256, unless ``settings`` of its configuration say otherwise.
    ``change`` may do something to it before it is saved."""
    shape = {"vocab_size": 49152, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
             "initializer_range": 0.5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    transformers.set_seed(seed)
    config = getattr(transformers, f"{family}Config")(**(shape | settings))
    model = transformers.AutoModelForCausalLM.from_config(config)
    change(model)
    model.save_pretrained(folder)
    for file in gguf.converted(resolve("smollm2")).iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder)
    return str(folder)
