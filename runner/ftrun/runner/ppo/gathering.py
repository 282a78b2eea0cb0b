"""Policy and value model of which each process has a part, as FSDP leaves them: whole where they are asked freely.

Parts are gathered by hooks around the forward pass of each layer, for which all processes have to come to it together.
Responses are of different lengths in each process, so that the policy is gathered before the first token, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftrun.runner.ppo.networks import ActorCritic


def keep_precision(accelerator: Accelerator) -> None:
    """Let what the networks say leave FSDP as it is: with bfloat16 accelerate rounds it to eight bits, in which the
    probabilities of a rollout and those of an update differ by more than a clip range."""
    plugin: Any = accelerator.state.fsdp_plugin
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, output_dtype=None)


@contextmanager
def whole_policy(networks: ActorCritic, accelerator: Accelerator) -> Iterator[None]:
    """Inside, this process has all weights of the policy, and asks it without another process. All have to come to it
    together; where nothing is divided, nothing happens."""
    if not isinstance(networks, FSDPModule):
        yield
        return
    plugin: Any = accelerator.state.fsdp_plugin
    if "gather" not in vars(networks):
        register_fsdp_forward_method(networks, "gather")
    networks.gather()
    layers = [module for module in networks.policy.modules() if isinstance(module, FSDPModule)]
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
        layer.unshard()
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(bool(plugin.reshard_after_forward), recurse=False)
            layer.reshard()
        networks.reshard()
