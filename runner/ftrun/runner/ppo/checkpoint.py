"""Networks and state in a checkpoint folder: the policy as an ordinary model folder, the value model beside it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ftrun.runner.ppo.experience import PPOState, restore_experience
from ftrun.runner.ppo.networks import ActorCritic
from ftrun.runner.ppo.objective import Moments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VALUE, STATE = "value", "ppo_state.pt"


def save_networks(networks: ActorCritic, folder: Path) -> None:
    """Write policy and value model, each as its own `save_pretrained` does."""
    networks.policy.save_pretrained(folder)
    networks.value.save_pretrained(folder / VALUE)


def load_networks(networks: ActorCritic, folder: Path) -> None:
    """Put the weights of a checkpoint into policy and value model."""
    _load_network(networks.policy, folder)
    _load_network(networks.value, folder / VALUE)


def _load_network(network: PreTrainedModel, folder: Path) -> None:
    if hasattr(network, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(network, load_peft_weights(str(folder), device="cpu"))
        return
    saved = type(network).from_pretrained(folder, dtype=network.dtype)
    network.load_state_dict(saved.state_dict())


def save_state(state: PPOState, path: Path) -> None:
    """Write the state, with what is left to train on of a rollout that is not used up."""
    torch.save(
        {
            "kl_coef": state.kl_coef,
            "moments": asdict(state.moments),
            "experience": None
            if state.experience is None or state.used_up
            else state.experience.as_tensors(),
            "position": 0 if state.used_up else state.position,
            "sums": {name: (float(total), count) for name, (total, count) in state.sums.items()},
        },
        path,
    )


def load_state(path: Path, device: torch.device) -> PPOState:
    """The state that `save_state` wrote."""
    saved = torch.load(path, weights_only=True, map_location="cpu")
    experience = saved["experience"]
    return PPOState(
        kl_coef=saved["kl_coef"],
        moments=Moments(**saved["moments"]),
        experience=None if experience is None else restore_experience(experience, device),
        position=saved["position"],
        sums=saved["sums"],
    )
