"""The CPU paths' inner loops, compiled by numba at first use and kept in its cache on disk.

All of them have one shape: a *block* of ``blocks.ROWS`` rows is decoded into a small scratch array, multiplied by a
*panel* of packed queries in vector registers, and looked at while it is in the first-level cache. No matrix of scores
is ever written. A product sums over the components in their order, one fused multiply-add each, so that its bits depend
on its row and its query alone: not on the batch, the position or the number of threads.

Lives here: ``blocks`` (the multiplication), ``panels`` (how queries are packed), ``workers`` (threads),
``topk_search``, ``maxsim``. Imported only by the kernels of the folder above, when the path "cpu" is taken. numba keeps
compiled code until the file that defines the outer function changes: after an edit of ``blocks`` delete
``__pycache__/*.nb?``.
"""
