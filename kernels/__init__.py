"""Pure tensor functions, no documents: each module is one operation with a plain torch reference beside its fast paths.

- ``attention_mass``: how much attention chosen rows pay each token of a context; ``attend`` gives the attention output
  besides.
- ``head_scores``: the same for each head and span. ``span_filter_sum``: a span's mass without its low outliers.
- ``block_attention``: ragged blocks over a shared prefix. ``rope_shift``: cached keys moved to other positions.
- ``maxsim``: late interaction. ``topk_search``: exact search by inner product, with ``codes`` for a first pass over
  fewer bytes.
- ``linear`` and ``products``: matrix products on the CPU by the faster of torch's libraries.

``dispatch`` picks the path of a call (reference, CPU, Triton). Import the module that you need
(``from ..kernels.attention_mass import attention_mass``) inside the function that needs it: every one of them imports
torch, ``cpu`` (what is compiled by numba) and ``gpu`` (what is compiled by Triton) only when that path is taken. May
import: torch, numpy, numba, triton, and nothing of Regard.
"""
