"""Pure tensor functions, no documents: each module is one operation with a plain torch reference beside its fast path.

Import the module that you need (``from ..kernels.attention_mass import attention_mass``) inside the function that needs it:
every one of them imports torch. May import: torch, triton, and nothing of Regard.
"""
