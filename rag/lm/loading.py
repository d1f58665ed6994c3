"""Load a causal language model's configuration, weights and tokenizer through transformers, with typed errors.

Only safetensors and GGUF weights are read and no model's own code is run: a file never executes anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ModelNotFound, RegardError, UnsupportedModel
from ..models import ModelFiles
from ..models.inert import expect_inert
from . import gguf


def configuration(files: ModelFiles) -> Any:
    """The model's transformers configuration. A GGUF file's is read from its header until the file has been
    converted."""
    _expect_language_model(files)
    expect_inert(files)
    from transformers import AutoConfig

    with _typed_errors(files):
        if files.kind == "gguf" and not gguf.is_converted(files):
            gguf.expect_readable(files)
            path = Path(files.path)
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        return AutoConfig.from_pretrained(_folder(files), trust_remote_code=False)


def model_and_tokenizer(files: ModelFiles, device: str) -> tuple[Any, Any]:
    """The model on ``device``, in evaluation mode, and its tokenizer.

    On the CPU in float32, elsewhere in the checkpoint's own dtype. A GGUF file is converted first, once.
    """
    _expect_language_model(files)
    expect_inert(files)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ...kernels.linear import accelerate

    with _typed_errors(files), gguf.quiet_progress():
        folder = _folder(files)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32 if device == "cpu" else "auto", use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if loaded["missing_keys"]:
        raise UnsupportedModel(f"{files.name!r} lacks weights of a causal language model", where=str(folder),
                               hint=f"missing: {', '.join(sorted(loaded['missing_keys'])[:3])}, ...; is it an encoder?")
    accelerate(model)
    return model.eval().to(device), tokenizer


def _folder(files: ModelFiles) -> str:
    return str(gguf.converted(files)) if files.kind == "gguf" else files.path


def _expect_language_model(files: ModelFiles) -> None:
    if files.kind not in ("gguf", "transformers"):
        raise UnsupportedModel(f"{files.name!r} is no language model but of the kind {files.kind}", where=files.path,
                               hint="name a causal language model: smollm2, a GGUF file, a folder or a Hugging Face id")
    if files.local and files.kind == "transformers" and not Path(files.path, "config.json").is_file():
        raise ModelNotFound(f"there is no language model in {files.name!r}: it has no config.json", where=files.path,
                            hint="name a folder with config.json, *.safetensors and tokenizer files, or an embedded "
                                 "model")


@contextmanager
def _typed_errors(files: ModelFiles) -> Iterator[None]:
    """What transformers raises, as ours: ``OSError`` is its "not there", the others are its "cannot be used"."""
    try:
        yield
    except RegardError:
        raise
    except OSError as error:
        offline = ""
        if os.environ.get("HF_HUB_OFFLINE"):
            offline = " HF_HUB_OFFLINE is set, so only models in the local cache are found."
        raise ModelNotFound(
            f"the language model {files.name!r} cannot be loaded: {_first_line(error)}", where=files.path,
            hint="name an embedded model (smollm2), a folder with config.json, *.safetensors and tokenizer files, or a "
                 "Hugging "
                 f"Face id that this machine can reach.{offline}",
        ) from error
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UnsupportedModel(f"the language model {files.name!r} cannot be used: {_first_line(error)}",
                               where=files.path,
                               hint="the model must be one that this version of transformers knows") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
