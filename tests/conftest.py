"""What every test starts from: offline, few threads, seed 0, float32, no process group."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import random
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import settings
from torch._functorch import config as partitioning

torch.set_num_threads(min(2, torch.get_num_threads()))

# The same examples in every run, and no time limit: a busy machine is no failure.
settings.register_profile("vedit", deadline=None, derandomize=True)
settings.load_profile("vedit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say what it lacks."""
    lacks = {
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "slurm": None if shutil.which("sbatch") else "no sbatch on PATH",
    }
    for item in items:
        for marker, reason in lacks.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def pristine_state() -> Iterator[None]:
    """Seed the generators, then undo the global state a test may leave behind."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    grad_enabled = torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    budget = partitioning.activation_memory_budget  # set by CompileBlocks
    environment = dict(os.environ)
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad_enabled)
    torch.use_deterministic_algorithms(deterministic)
    partitioning.activation_memory_budget = budget
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    # Trainers export MASTER_PORT and the like, which would leak into the next test.
    os.environ.clear()
    os.environ.update(environment)
