"""What holds for every test: no network, no telemetry, no checks of other packages, no GPU unless there is one."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

os.environ.update({"HF_HUB_OFFLINE": "1", "FTRUN_PLUGINS": "", "NO_COLOR": "1"})
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run in parallel already

# After the environment, which these read when they are imported.
from ftrun.runner.libraries import settle_libraries

settle_libraries()


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Skip tests that need a CUDA device where torch has none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="torch has no CUDA device here"))
