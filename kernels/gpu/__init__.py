"""The Triton kernels (NVIDIA, compute capability 8.0 or later, tuned for 9.0); imported only when a call takes that
path.

Each module has the name of the one above it that it serves. The kernels run on a CPU, slowly, with
``TRITON_INTERPRET=1`` set before triton is imported. None uses float atomics: the same inputs give the same bits.
"""
