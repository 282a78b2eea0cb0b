"""Networks and state in a checkpoint folder: the policy as an ordinary model folder, the value model beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ftrun.runner.ppo.experience import PPOState, concatenate, deal, restore_experience
from ftrun.runner.ppo.networks import ActorCritic
from ftrun.runner.ppo.objective import Moments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VALUE, STATE = "value", "ppo_state.pt"


def save_networks(networks: ActorCritic, folder: Path, weights: Mapping[str, Tensor] | None) -> None:
    """Write policy and value model as model folders."""
    save_policy(networks, folder, weights)
    networks.value.save_pretrained(folder / VALUE, state_dict=_of("value", weights))


def save_policy(networks: ActorCritic, folder: Path, weights: Mapping[str, Tensor] | None) -> None:
    """Write the policy as its own `save_pretrained` does. `weights` are those of both networks, where the networks
    have parts of them."""
    networks.policy.save_pretrained(folder, state_dict=_of("policy", weights))


def _of(network: str, weights: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
    """The weights of one network, by its own names."""
    if weights is None:
        return None
    prefix = f"{network}."
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


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


def save_state(state: PPOState, folder: Path, rank: int) -> None:
    """Write the state of a process, with what is left to train on of a rollout that is not used up."""
    folder.mkdir(parents=True, exist_ok=True)  # the main process may not have come to it
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
        _name(folder, rank),
    )


def load_state(folder: Path, device: torch.device, *, rank: int, processes: int, batch_size: int) -> PPOState:
    """The state that `save_state` wrote, for one of `processes` with micro-batches of `batch_size` rows. However many
    processes wrote it, with whatever micro-batches: what is left to train on is divided among those that go on."""
    written = next(number for number in count(1) if not _name(folder, number).exists())
    own = [rank] if written == processes else list(range(written))
    parts = [torch.load(_name(folder, one), weights_only=True, map_location="cpu") for one in own]
    saved, experience, position = parts[0], None, 0
    if saved["experience"] is not None:
        whole = concatenate([restore_experience(part["experience"], device) for part in parts])
        among = processes if written != processes else 1
        experience = deal(whole, rank % among, among, batch_size)
        # Both count the minibatches, of which a checkpoint has made whole ones.
        before = len(parts[0]["experience"]["batches"])
        position = saved["position"] * len(experience.batches) // before
    return PPOState(
        kl_coef=saved["kl_coef"],
        moments=Moments(**saved["moments"]),
        experience=experience,
        position=position,
        sums=saved["sums"],
    )


def _name(folder: Path, rank: int) -> Path:
    return folder / (STATE if rank == 0 else f"ppo_state_{rank}.pt")
