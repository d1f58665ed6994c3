"""How passages' keys and values lie in bytes: what ``attention`` views store.

A passage is one contiguous range: for each slot (layer 0's keys, layer 0's values, layer 1's keys, ..., the deepest
layer's keys) and KV head its tokens, [slots, KV heads, tokens, d]. So a passage is read in one go into its place in
every layer's [KV heads, tokens, d], and a reranker that needs only the lower layers reads only the range's beginning.
The deepest layer's values are not there: nothing looks at them. With 8 bits the range begins with the float16 scales
[slots, KV heads, tokens].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ....rag.errors import StageError, UnsupportedModel
from ....rag.lm.prefill import Prefill
from ....rag.text import Span

if TYPE_CHECKING:
    import torch

Bytes = NDArray[np.uint8]

Half = Literal["float16", "bfloat16"]

_LARGEST_CODE = 127
_SMALLEST_SCALE = 2.0 ** -24
"""float16's smallest positive number: the scale of a vector of zeros, by which one can divide."""


@dataclass(frozen=True, slots=True)
class Layout:
    """``layers`` layers of ``kv_heads`` heads of ``head_dim`` components, each in ``bits`` bits.

    32 is float32; 16 is ``half``, the checkpoint's own where it is bfloat16, whose range float16 has not; 8 is a
    symmetric integer code, times one float16 scale for each token, slot and KV head.
    """

    layers: int
    kv_heads: int
    head_dim: int
    bits: int
    half: Half = "float16"

    @property
    def slots(self) -> int:
        return slots(self.layers)

    @property
    def token_bytes(self) -> int:
        """Bytes of one token."""
        scale = 2 if self.bits == 8 else 0
        return self.slots * self.kv_heads * (self.head_dim * self.bits // 8 + scale)

    @property
    def working_bytes(self) -> int:
        """Bytes of one token while it is computed, in float32."""
        return self.slots * self.kv_heads * self.head_dim * 4

    def packed(self, prefill: Prefill, spans: Sequence[Span]) -> Bytes:
        """The tokens of ``spans``, one range after the other. Raises ``StageError`` for a number that the bits cannot
        hold."""
        data = np.empty(sum(stop - start for start, stop in spans) * self.token_bytes, dtype=np.uint8)
        ranges, at = [], 0
        for start, stop in spans:
            size = (stop - start) * self.token_bytes
            ranges.append(self._parts(data[at:at + size], stop - start))
            at += size
        for slot in range(self.slots):
            codes, scales = self._coded(tensor_of(prefill, slot), slot)
            for (start, stop), (code_range, scale_range) in zip(spans, ranges, strict=True):
                code_range[slot] = codes[:, start:stop]
                if scale_range is not None and scales is not None:
                    scale_range[slot] = scales[:, start:stop]
        return data

    def unpack(self, data: Bytes, into: torch.Tensor) -> None:
        """Put a passage's range into ``into`` [slots, KV heads, tokens, d] of :meth:`room_for`; as many slots as that
        has."""
        tokens, wanted = into.shape[2], into.shape[0]
        codes, scales = self._parts(data, tokens)
        into.copy_(codes[:wanted])
        if scales is not None:
            into.mul_(scales[:wanted, ..., None])

    def _parts(self, data: Bytes, tokens: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Views of a passage's range: its numbers [slots, KV heads, tokens, d], and with 8 bits their scales."""
        import torch

        shape = (self.slots, self.kv_heads, tokens)
        if self.bits != 8:
            words = torch.from_numpy(data.view(f"int{self.bits}").reshape(*shape, self.head_dim))
            return words.view(self._dtype), None
        scale_bytes = 2 * self.slots * self.kv_heads * tokens
        scales = data[:scale_bytes].view(np.float16).reshape(shape)
        codes = data[scale_bytes:].view(np.int8).reshape(*shape, self.head_dim)
        return torch.from_numpy(codes), torch.from_numpy(scales)

    def _coded(self, numbers: torch.Tensor, slot: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``numbers`` [KV heads, tokens, d] in this layout's bits, and with 8 their scales [KV heads, tokens]."""
        import torch

        exact = numbers.detach().float().cpu()
        if self.bits == 32:
            return exact, None
        if self.bits == 16:
            half = exact.to(self._dtype)
            self._expect_finite(half, slot)
            return half, None
        scales = (exact.abs().amax(dim=-1) / _LARGEST_CODE).half().clamp(min=_SMALLEST_SCALE)
        self._expect_finite(scales, slot)
        codes = (exact / scales.float()[..., None]).round().clamp(-_LARGEST_CODE, _LARGEST_CODE)
        return codes.to(torch.int8), scales

    def expect_shape(self, prefill: Prefill) -> None:
        """Raise ``UnsupportedModel`` where a model's keys and values are not what its configuration says: JetMoe
        repeats them."""
        for slot in range(self.slots):
            heads, _, width = tensor_of(prefill, slot).shape
            if (heads, width) != (self.kv_heads, self.head_dim):
                raise UnsupportedModel(f"{_name(slot)} have {heads} heads of {width} components, and the model's "
                                       f"configuration says "
                                       f"{self.kv_heads} of {self.head_dim}", where="attention view",
                                       hint="rerank without cache")

    def room_for(self, slots: int, tokens: int) -> torch.Tensor:
        """An empty tensor [slots, KV heads, tokens, d] for unpacked numbers: float32 for 32 bits, else ``half``;
        kernels read either.

        By numpy, which asks for huge pages: torch's own memory takes several times as long to touch for the first time.
        """
        import torch

        words = np.empty((slots, self.kv_heads, tokens, self.head_dim), dtype=f"int{max(self.bits, 16)}")
        return torch.from_numpy(words).view(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        if self.bits == 32:
            return torch.float32
        return torch.bfloat16 if self.half == "bfloat16" else torch.float16

    def _expect_finite(self, numbers: torch.Tensor, slot: int) -> None:
        if not numbers.isfinite().all():
            raise StageError(f"{_name(slot)} exceed what {self.bits} bits hold",
                             where="attention view", hint="store the view with bits=32")


def slots(layers: int) -> int:
    """Keys of ``layers`` layers and values of all but the deepest."""
    return 2 * layers - 1


def tensor_of(prefill: Prefill, slot: int) -> torch.Tensor:
    """What ``prefill`` has for a slot, [KV heads, tokens, d]."""
    return prefill.values[slot // 2] if slot % 2 else prefill.keys[slot // 2]



def _name(slot: int) -> str:
    return f"{'values' if slot % 2 else 'keys'} of layer {slot // 2}"
