"""`deterministic:` of a recipe: whether torch may take algorithms whose results differ from run to run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import TrainerCallback

WORKSPACE, FLASH = "CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC"


def settle_determinism(asked: Literal["auto"] | bool, *, on_gpu: bool, compiled: bool = False) -> None:
    """Set torch, cuDNN, cuBLAS and flash attention as a recipe asks, before the first model is loaded.

    Sources: https://docs.pytorch.org/docs/stable/notes/randomness.html for the algorithms and the workspaces of
    cuBLAS; transformers reads the variable of flash attention, whose backward pass adds up in any order without it.
    Not set are CUDA_LAUNCH_BLOCKING, which makes every kernel wait and decides nothing, and the filling of new
    tensors, which costs time and hides what reads them. The compiler is told where a model is `compiled`: importing
    it takes a second.
    """
    import torch

    if asked == "auto" and on_gpu:
        os.environ.setdefault(WORKSPACE, ":4096:8")
        _require_determinism("default", compiled)
        return
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _require_determinism({"auto": "warn", True: "error", False: "default"}[asked], compiled)
    torch.backends.cudnn.deterministic = asked is True
    if asked is True:
        torch.backends.cudnn.benchmark = False
        os.environ.update({WORKSPACE: ":4096:8", FLASH: "1"})
    elif asked is False:
        os.environ.pop(FLASH, None)


def _require_determinism(mode: str, compiled: bool) -> None:
    """`mode` as of `torch.set_deterministic_debug_mode`."""
    import torch

    torch.set_deterministic_debug_mode(mode)
    if compiled:
        torch.use_deterministic_algorithms(mode != "default", warn_only=mode == "warn")


def make_seeding() -> TrainerCallback:
    """A callback by which each of several processes draws its own dropout, from its rank and the seed.

    transformers seeds all of them alike, so that they drop the same places. A checkpoint's random states, which are
    loaded later, win; the order of rows has been settled before.
    """
    from transformers import TrainerCallback, set_seed

    class SeedByRank(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if args.world_size > 1:
                set_seed(args.seed + args.process_index)

    return SeedByRank()
