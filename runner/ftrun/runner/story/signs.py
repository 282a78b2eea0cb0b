"""What the lines of a traceback tell about its cause."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Sign:
    """A cause that a line of the traceback tells."""

    name: str
    pattern: re.Pattern[str]
    what: str
    fix: str


SIGNS = (
    Sign(
        "out_of_memory",
        re.compile(r"OutOfMemoryError|DefaultCPUAllocator: can't allocate|^MemoryError", re.MULTILINE),
        "The device ran out of memory.",
        "Halve training.per_device_train_batch_size and double training.gradient_accumulation_steps, then set "
        "training.gradient_checkpointing: true; `ftrun plan` says what fits.",
    ),
    Sign(
        "disk_full",
        re.compile(r"No space left on device|Disk quota exceeded|disk is full"),
        "The disk is full.",
        "Make room, or keep fewer checkpoints with training.save_total_limit.",
    ),
    Sign(
        "nothing_trainable",
        re.compile(
            r"does not require grad and does not have a grad_fn|optimizer got an empty parameter list"
        ),
        "No parameter is trainable.",
        "Look at model.lora.target_modules, and at what `ftrun preflight` says of the model.",
    ),
    Sign(
        "data_ended",
        re.compile(r"^StopIteration|num_samples=0\b", re.MULTILINE),
        "There were no rows left to train on.",
        "Give it more rows, or set training.num_train_epochs in place of training.max_steps.",
    ),
    Sign(
        "device_error",
        re.compile(r"device-side assert|CUDA error|CUBLAS_STATUS|NCCL error|CUDNN_STATUS"),
        "The GPU reported an error.",
        "Run it again with CUDA_LAUNCH_BLOCKING=1, which names the operation; if it is another one each time, look "
        "at the driver's log.",
    ),
    Sign(
        "network",
        re.compile(
            r"^(?:\w+\.)*(?:ConnectionError|ConnectError|ConnectTimeout|ReadTimeout|HfHubHTTPError"
            r"|LocalEntryNotFoundError|OfflineModeIsEnabled)\b",
            re.MULTILINE,
        ),
        "Something could not be fetched.",
        "Try again, or fetch models and data beforehand and set HF_HUB_OFFLINE=1.",
    ),
)
"""What tracebacks tell, the likeliest cause first where several lines are in one."""
