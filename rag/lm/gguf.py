"""GGUF files, converted once: transformers dequantises them on every load, which takes tens of seconds.

The converted model is a folder in ``cache_dir()/gguf`` named by a hash of the file: float32 safetensors, configuration
and tokenizer. It appears whole or not at all: it is written under another name and renamed, so a kill leaves at most a
folder that the next conversion clears away, and of two processes that convert at once the first wins.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

from ..errors import StorageError
from ..extras import need
from ..markup import visible
from ..models import ModelFiles, cache_dir, weights_hash

_FORMAT = 1  # raise it when the folder's content changes
_ABANDONED_SECONDS = 3600


def folder(files: ModelFiles) -> Path:
    """Where the converted model is, or will be."""
    return cache_dir() / "gguf" / f"{weights_hash(files)}-v{_FORMAT}"


def is_converted(files: ModelFiles) -> bool:
    return folder(files).is_dir()


def expect_readable(files: ModelFiles) -> None:
    """Raise ``MissingDependency`` without the packages by which transformers reads GGUF files."""
    for module in ("gguf", "accelerate"):
        need(module, where=files.path)


def converted(files: ModelFiles) -> Path:
    """The converted model's folder, made if it is not there. Raises ``StorageError`` when it cannot be written, and
    ``MissingDependency``."""
    target = folder(files)
    if target.is_dir():
        return target
    expect_readable(files)
    from rich.console import Console
    from safetensors import SafetensorError

    console = Console(file=sys.stderr)
    console.print(visible(f"Converting {files.name} for fast loading, once, into {target}"), soft_wrap=True,
                  highlight=False, markup=False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(target.parent)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent, ignore_cleanup_errors=True) as made:
            _convert(Path(files.path), Path(made))
            _publish(Path(made), target)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno in (None, errno.ENOENT):
            raise  # the GGUF file, not the disk
        raise StorageError(f"the model {files.name!r} cannot be converted: {error}", where=str(target),
                           hint="free some space, or set REGARD_CACHE to a folder with room") from error
    return target


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_progress(), redirect_stderr(io.StringIO()):  # one of transformers' bars cannot be switched off
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32,
                                                     trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, trust_remote_code=False)
        _forget_quantisation(model)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _forget_quantisation(model: Any) -> None:
    """The weights are plain float32 now, but the model still says "gguf", which transformers refuses to save."""
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config


def _publish(made: Path, target: Path) -> None:
    for file in made.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())  # a rename must not reach the disk before what it names
    made.chmod(0o755)
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same content
            raise


def _clear_abandoned(parent: Path) -> None:
    for path in parent.glob(".making-*"):
        with suppress(FileNotFoundError):  # its owner has just finished
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Keep transformers' progress bars off the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
