"""The attention kernels' tests again, on their Triton path: on the GPU where there is one, else under Triton's
interpreter.

In a process of its own: the interpreter must be asked for before triton is imported, and then nothing can be compiled.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SAME_TESTS = ["test_attention_mass.py", "test_head_scores.py", "test_block_attention.py", "test_rope_shift.py",
              "test_span_filter_sum.py",
              "test_far_apart.py"]
LEAST = 100
"""Tests that must have run for the others to mean anything."""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_triton_path():
    environment = os.environ | {"REGARD_TEST_PATH": "triton", "OMP_NUM_THREADS": "1"}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    # The interpreter computes in numpy, which warns of the infinities that the kernels mask.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning", *SAME_TESTS]
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= LEAST, done.stdout
