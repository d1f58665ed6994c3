"""Whether what the engine sees in a model is what transformers computes: found out by trying, once for each model.

The engine runs a prompt in pieces, each with explicit positions and without the model's own masks: chunks of a prefix,
blocks that do not see each other, a suffix. In a model whose tokens influence each other by more than softmax attention
over queries, keys and a sliding window (states that run along the tokens, masks in chunks, temperatures, sinks) that
would give other numbers without a word. So some random tokens go through the model as transformers runs it (eager
attention, one pass) and through the engine, and the last hidden states must agree.

The verdict is kept in ``cache_dir()/probes``, by the hash of the weights and all else that it depends on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedModel
from ..files import replacing
from ..models import ModelFiles, cache_dir, weights_hash
from .attention import EAGER, How, Pass
from .info import LanguageModelInfo
from .prefill import Prefill, PrefillPass, PrefillPlan
from .suffixes import MassPass, laid_on, rows

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

ENGINE = 1
"""Raise it when what the engine does to a model changes."""

PREFIX, CHUNK, DECOY, BLOCK, SUFFIX = 32, 16, 4, 12, 12
"""Tokens: a prefix in two chunks, a decoy and a block side by side after it, and a suffix after prefix and block."""
TOKENS = PREFIX + BLOCK + SUFFIX

NEAR, NONE = 10, 2 ** 30
"""Sliding windows while a model is probed: shorter than a chunk, so that few tokens cross it; or as good as none."""

_PLAIN_LAYERS = {"full_attention", "sliding_attention", "attention"}
_LIMITS = ("original_max_position_embeddings", "attention_chunk_size", "floor_scale")
"""Settings beyond whose value a position may mean something else."""
_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}

Look = Callable[[Sequence[int], Sequence[int], Pass], "torch.Tensor | None"]


@dataclass(frozen=True, slots=True)
class ProbeVerdict:
    """``reason``: why the model cannot be looked into, empty where it can. ``difference``: relative, of the last hidden
    states."""

    reason: str
    difference: float | None = None


def verdict(files: ModelFiles, info: LanguageModelInfo, model: Any, look: Look) -> ProbeVerdict:
    """The verdict on ``model``, kept from before or, the first time, given by :func:`examine`. ``look`` is the engine's
    pass."""
    path = cache_dir() / "probes" / f"{_key(files, model)}.json"
    found = _read(path)
    if found is None:
        found = examine(info, model, look)
        _keep(found, path)
    return found


def examine(info: LanguageModelInfo, model: Any, look: Look) -> ProbeVerdict:
    """Try. Whatever a model raises in the engine's hands is a reason; only a lack of memory says nothing about it."""
    import torch

    difference = None
    try:
        other = other_layers(model)
        if other:
            raise UnsupportedModel(f"it has layers of {', '.join(other)}")
        _expect_plain_attention(info, model, look)
        for positions, window in _layouts(info, model):
            with _windows_of(model, info.window, window):
                difference = max(difference or 0.0, _difference(info, model, look, positions))
    except UnsupportedModel as error:
        return ProbeVerdict(error.what, difference)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # what a model does that it was not made for is not known beforehand
        return ProbeVerdict(f"it does not run in pieces ({type(error).__name__}: {error})", difference)
    return ProbeVerdict("", difference)


# -- what its layers are -----------------------------------------------------------


def other_layers(model: Any) -> list[str]:
    """The types of ``model``'s layers that are more or less than softmax attention, by its configuration."""
    config = model.config.get_text_config(decoder=True)
    return sorted(set(getattr(config, "layer_types", None) or ()) - _PLAIN_LAYERS)


def _expect_plain_attention(info: LanguageModelInfo, model: Any, look: Look) -> None:
    """Raise ``UnsupportedModel`` unless each layer computes one attention, with as many heads as the configuration
    says."""
    census = _Census(info.heads)
    look(_random_tokens(model, 2), range(2), census)
    if not census.layers:
        raise UnsupportedModel("its layers do not compute their attention by transformers' attention functions")
    if len(set(census.layers)) < len(census.layers):
        raise UnsupportedModel(f"its layers compute more than one attention each, {len(census.layers)} in all")
    if census.layers != list(range(info.layers)):
        raise UnsupportedModel(f"{len(census.layers)} of its {info.layers} layers compute attention")


@dataclass(slots=True)
class _Census:
    """A pass that gathers in ``layers`` which layers attend, in order, and expects ``heads`` of each."""

    heads: int
    layers: list[int] = field(default_factory=list)
    length: int = 2

    def attend(self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: How) -> torch.Tensor:
        if key.shape != value.shape:
            raise UnsupportedModel(f"the keys of layer {layer} are {key.shape[0]} x {key.shape[2]} wide, the values "
                                   f"{value.shape[0]} x {value.shape[2]}")
        if len(query) != self.heads:
            raise UnsupportedModel(f"layer {layer} has {len(query)} heads, and the configuration says {self.heads}")
        self.layers.append(layer)
        return query.new_zeros(query.shape)


# -- what it computes --------------------------------------------------------------


def _layouts(info: LanguageModelInfo, model: Any) -> Iterator[tuple[list[int], int]]:
    """Positions of the probe's tokens with the sliding window to go with them: in a row; and with a jump beyond the
    largest limit.

    Windows are not tried across the jump: transformers counts tokens for them, not positions.
    """
    if info.window < TOKENS:
        raise UnsupportedModel(f"a window of {info.window} tokens is too short to probe it with {TOKENS}")
    yield list(range(TOKENS)), NEAR
    limits = [limit for limit in _limits(model) if limit + TOKENS - PREFIX <= info.window]
    if limits:
        beyond = max(PREFIX, *limits)
        yield [*range(PREFIX), *range(beyond, beyond + TOKENS - PREFIX)], NONE


def _limits(model: Any) -> Iterator[int]:
    config = model.config.get_text_config(decoder=True)
    for name in _LIMITS:
        for settings in (vars(config), getattr(config, "rope_parameters", None) or {}):
            value = settings.get(name)
            if isinstance(value, int | float):
                yield int(value)


def _difference(info: LanguageModelInfo, model: Any, look: Look, positions: list[int]) -> float:
    """The largest of a piece. Raises ``UnsupportedModel`` where it is too large."""
    ids = _random_tokens(model, TOKENS)
    wanted = _by_transformers(model, ids, positions)
    got = _by_engine(info, model, look, ids, positions)
    pieces = {"first chunk": (0, CHUNK), "second chunk": (CHUNK, PREFIX), "block": (PREFIX, PREFIX + BLOCK),
              "suffix": (PREFIX + BLOCK, TOKENS)}
    worst = 0.0
    dtype = str(wanted.dtype).removeprefix("torch.")
    for piece, (start, stop) in pieces.items():
        difference = _relative(got[start:stop].float(), wanted[start:stop].float(), exact=dtype == "float32")
        if not difference <= _TOLERANCE[dtype]:  # NaN is none
            raise UnsupportedModel(f"it is not attention alone that carries from token to token: in the {piece} of a "
                                   f"probe at positions "
                                   f"up to {positions[-1]} the last hidden states differ by {difference:.2%} from "
                                   f"transformers' own")
        worst = max(worst, difference)
    return worst


def _relative(got: torch.Tensor, wanted: torch.Tensor, *, exact: bool) -> float:
    """Of the tokens' vectors: the largest difference; in 16 bits, where a router may flip for one token, the median."""
    each = (got - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    return float(each.max() if exact else each.median())


def _by_transformers(model: Any, ids: list[int], positions: list[int]) -> torch.Tensor:
    """The last hidden states [tokens, width] of one causal pass as the model's own code computes it."""
    import torch

    tokens = torch.tensor([ids], device=model.device)
    ours = model.config._attn_implementation
    model.set_attn_implementation(EAGER)
    try:
        with torch.inference_mode():
            hidden: torch.Tensor = model.base_model(  # without a mask of ones a jump would begin another sequence
                input_ids=tokens, position_ids=torch.tensor([positions], device=model.device),
                attention_mask=torch.ones_like(tokens),
                use_cache=False)[0]
            return hidden[0]
    finally:
        model.set_attn_implementation(ours)


def _by_engine(info: LanguageModelInfo, model: Any, look: Look, ids: list[int], positions: list[int]) -> torch.Tensor:
    """The same, in pieces: two chunks, a block beside a decoy, a suffix."""
    import torch

    block, suffix = ids[PREFIX:PREFIX + BLOCK], ids[PREFIX + BLOCK:]
    start, after = positions[PREFIX], positions[PREFIX + BLOCK]
    middle = PREFIX + DECOY
    beside = PrefillPlan((*ids[:PREFIX], *suffix[:DECOY], *block), PREFIX, ((PREFIX, middle), (middle, middle + BLOCK)),
                  (*positions[:PREFIX], *range(start, start + DECOY), *positions[PREFIX:PREFIX + BLOCK]), after)
    prefill = Prefill(beside, length=positions[-1] + 1)
    hidden = [look(beside.ids[slice(*span)], beside.positions[slice(*span)],
                   PrefillPass(prefill, span, parts, seen, None))
              for span, parts, seen in beside.chunks(CHUNK)]
    kept = [*range(PREFIX), *range(middle, middle + BLOCK)]
    alone = Prefill(PrefillPlan((*ids[:PREFIX], *block), PREFIX, ((PREFIX, PREFIX + BLOCK),),
                                tuple(positions[:PREFIX + BLOCK]), after),
                    [key[:, kept] for key in prefill.keys], [value[:, kept] for value in prefill.values],
                    length=prefill.length)
    laid = laid_on(model.device, rows([suffix], None, None, after))
    through = MassPass(alone, laid, info.layers, {}, torch.zeros(len(kept), device=model.device))
    hidden.append(look(laid.ids, positions[PREFIX + BLOCK:], through))
    states = torch.cat([state for state in hidden if state is not None])
    return torch.cat([states[:PREFIX], states[middle:]])


def _random_tokens(model: Any, n: int) -> list[int]:
    import torch

    drawn: list[int] = torch.randint(model.get_input_embeddings().num_embeddings, (n,),
                                     generator=torch.Generator().manual_seed(0)).tolist()
    return drawn


@contextmanager
def _windows_of(model: Any, most: int, size: int) -> Iterator[None]:
    """Every sliding window of ``model`` below ``most``, in its configuration and its modules, is ``size`` tokens
    inside."""
    holders: dict[int, Any] = {id(holder): holder for module in model.modules()
                               for holder in (module, getattr(module, "config", None))}
    found = [(holder, holder.sliding_window) for holder in holders.values()
             if isinstance(getattr(holder, "sliding_window", None), int) and holder.sliding_window < most]
    try:
        for holder, _ in found:
            holder.sliding_window = size
        yield
    finally:
        for holder, own in found:
            holder.sliding_window = own


# -- what is kept of it ------------------------------------------------------------


def _key(files: ModelFiles, model: Any) -> str:
    import torch
    import transformers

    all_that_matters = [weights_hash(files), transformers.__version__, torch.__version__, ENGINE, model.device.type,
                        str(model.dtype)]
    return blake2b(json.dumps(all_that_matters).encode(), digest_size=16).hexdigest()


def _read(path: Path) -> ProbeVerdict | None:
    """None where there is none, or a damaged one: the model is probed again."""
    try:
        kept = json.loads(path.read_bytes())
        return ProbeVerdict(str(kept["reason"]), kept["difference"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("what is kept of a model's probe cannot be read and is made anew: %s: %s", path, error)
        return None


def _keep(verdict: ProbeVerdict, path: Path) -> None:
    """Whole or not at all, whoever else writes it; where it cannot be kept, the next process probes again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(asdict(verdict)).encode())
    except OSError as error:
        log.warning("the probe of a model cannot be kept, and is made again the next time: %s", error)
