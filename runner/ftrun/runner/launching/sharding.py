"""`launch.strategy`: what transformers and accelerate are told for FSDP and DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.ranks import count_ranks
from ftrun.schemas.errors import RunError
from ftrun.schemas.launch import Strategy

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

ZERO: Mapping[str, Any] = {
    "zero_optimization": {"stage": 2},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
}
"""DeepSpeed where `training.deepspeed` is absent: gradients and optimizer divided; `auto` is what the recipe says.
Source: https://huggingface.co/docs/transformers/deepspeed."""


def choose_strategy(strategy: Strategy, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a strategy, over those that are `given` to the trainer; none in a run of one process."""
    if strategy == "ddp" or count_ranks() == 1:
        return {}
    if strategy == "deepspeed":
        return {"deepspeed": given.get("deepspeed") or dict(ZERO)}
    # FSDP gathers a layer's weights anew in its backward pass, and recomputes activations with those alone.
    config = {"version": 2, "activation_checkpointing": bool(given["activation_checkpointing"])}
    return {
        "fsdp": True,
        "fsdp_config": {**config, **(given.get("fsdp_config") or {})},
        "activation_checkpointing": False,
    }


def allow_cpu(arguments: Any) -> None:
    """Let accelerate divide a model among processes without a GPU.

    FSDP2 works over gloo; accelerate 1.15 asks for it in `AcceleratorState.__init__` only where processes have devices.
    """
    from accelerate.state import DistributedType, PartialState

    if arguments.fsdp and arguments.distributed_state.distributed_type is DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def find_obstacle(trainer: Trainer) -> str | None:
    """Why no step can be tried before training, which every process tries by itself; None where one can."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    if trainer.args.device.type != "cpu":
        return "since the weights are divided among processes as training begins, and are on no device before"
    if getattr(trainer, "ref_model", None) is not None:
        return "since the reference is divided among processes"
    return None


def require_strategy(checkpoint: Path, strategy: Strategy) -> None:
    """Raise RunError where a checkpoint holds an optimizer of another strategy, which would be left out in silence.
    Source: the file names of transformers' `Trainer._load_optimizer_and_scheduler`."""
    files = {"optimizer.bin": "fsdp", "optimizer.pt": "ddp"}
    written = next((kind for name, kind in files.items() if (checkpoint / name).exists()), "deepspeed")
    if written != strategy:
        raise RunError(
            f"{checkpoint.name} was written with launch.strategy: {written}, and its optimizer is of no use to "
            f"{strategy}; go on with `--set launch.strategy={written}`"
        )


def is_divided(model: torch.nn.Module) -> bool:
    """Whether each process has parts of the model's weights, as FSDP leaves them."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def make_whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that each process has a part of, for which all of them have to call; any other as it is."""
    gather = getattr(tensor, "full_tensor", None)  # torch.distributed.tensor.DTensor has it
    return tensor if gather is None else gather()
