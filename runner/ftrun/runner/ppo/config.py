"""The settings of the PPO trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import TrainingArguments


@dataclass
class PPOConfig(TrainingArguments):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
    """transformers' settings, and those of PPO by the names that TRL's PPOConfig gave them.

    Each process answers `per_device_train_batch_size` × `gradient_accumulation_steps` × `num_mini_batches`
    prompts per rollout, and makes `num_ppo_epochs` × `num_mini_batches` optimizer steps of it.

    Raises ValueError for values that mean nothing.
    """

    learning_rate: float = field(
        default=3e-6, metadata={"help": "The initial learning rate, of the policy and of the value model."}
    )
    logging_steps: float = field(
        default=10,
        metadata={
            "help": "Log every X steps, and at the end of every rollout. Below 1: a share of all steps."
        },
    )
    gradient_checkpointing: bool = field(
        default=True,
        metadata={
            "help": "Enable gradient checkpointing to trade compute for memory: training is about a fifth slower."
        },
    )
    bf16: bool | None = field(
        default=None,
        metadata={"help": "Whether forward passes run in bfloat16. Absent: where every device has it."},
    )
    model_init_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": "Further arguments of the policy's `from_pretrained`."}
    )
    disable_dropout: bool = field(
        default=True,
        metadata={
            "help": "Train without dropout, so that the probabilities of a rollout are those of the first update."
        },
    )

    max_prompt_length: int | None = field(
        default=None,
        metadata={"help": "Leave out prompts of more tokens than this. Absent: every prompt is used."},
    )
    response_length: int = field(
        default=128, metadata={"help": "The longest response that is generated, in tokens."}
    )
    min_response_length: int = field(
        default=0, metadata={"help": "No response stops before it has this many tokens."}
    )
    stop_tokens: list[str] | None = field(
        default=None,
        metadata={"help": "Tokens that end a response beside those at which the model's generation stops."},
    )
    temperature: float = field(
        default=1.0,
        metadata={
            "help": "Logits are divided by it when responses are sampled and when their probabilities are computed."
        },
    )
    top_p: float = field(
        default=1.0,
        metadata={
            "help": "Sample from the most probable tokens that together have at least this probability."
        },
    )
    local_rollout_forward_batch_size: int = field(
        default=64, metadata={"help": "How many responses are generated at a time, in each process."}
    )

    num_ppo_epochs: int = field(
        default=4, metadata={"help": "How many times the responses of a rollout are trained on."}
    )
    num_mini_batches: int = field(
        default=1, metadata={"help": "Minibatches of a rollout, each of which is one optimizer step."}
    )
    cliprange: float = field(
        default=0.2,
        metadata={"help": "How far a token's probability ratio may leave 1 before its gradient stops."},
    )
    cliprange_value: float = field(
        default=0.2,
        metadata={"help": "How far a value may leave that of the rollout before its gradient stops."},
    )
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss beside the policy loss."})
    gamma: float = field(default=1.0, metadata={"help": "Discount of later rewards, per token."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    whiten_rewards: bool = field(
        default=False, metadata={"help": "Divide the rewards of a rollout by their standard deviation."}
    )
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Give the advantages of a rollout the mean 0 and the variance 1."}
    )

    kl_coef: float = field(
        default=0.05,
        metadata={"help": "Weight of the KL penalty in the reward; its start, where `kl_target` is set."},
    )
    kl_estimator: Literal["k1", "k3"] = field(
        default="k1",
        metadata={
            "help": "Estimator of the KL of a token: `k1`, the log ratio; `k3`, never negative and of lower variance."
        },
    )
    kl_target: float | None = field(
        default=None,
        metadata={
            "help": "Adapt `kl_coef` so that the KL of a response approaches this sum, in nats. Absent: it is fixed."
        },
    )
    kl_horizon: int = field(default=10_000, metadata={"help": "Responses over which `kl_coef` adapts."})

    missing_eos_penalty: float | None = field(
        default=None,
        metadata={
            "help": "Taken from the score of a response that is cut off at `response_length`. Absent: nothing."
        },
    )
    use_score_scaling: bool = field(
        default=False,
        metadata={"help": "Divide scores by their standard deviation over all responses so far."},
    )
    use_score_norm: bool = field(
        default=False,
        metadata={
            "help": "Subtract the mean over all responses so far before scaling. Needs `use_score_scaling`."
        },
    )
    score_clip: float | None = field(
        default=None,
        metadata={"help": "Clip scores to plus and minus this, after scaling. Absent: they are not clipped."},
    )

    def __post_init__(self) -> None:
        if getattr(self, "activation_checkpointing", None) is None:
            self.activation_checkpointing = self.gradient_checkpointing
        self.bf16 = bool(self.bf16)
        if getattr(self, "ddp_find_unused_parameters", None) is None:
            self.ddp_find_unused_parameters = False  # every update uses all of both networks
        super().__post_init__()
        for message in complain(self):
            raise ValueError(message)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a rollout, in each process."""
        return int(self.gradient_accumulation_steps) * self.num_mini_batches

    @property
    def rollout_size(self) -> int:
        """Prompts of a rollout, in each process."""
        return int(self.train_batch_size) * self.micro_batches


def complain(config: PPOConfig) -> list[str]:
    """What is wrong with the values."""
    at_least = {
        "response_length": 1,
        "min_response_length": 0,
        "local_rollout_forward_batch_size": 1,
        "num_ppo_epochs": 1,
        "num_mini_batches": 1,
        "kl_horizon": 1,
    }
    complaints = [
        f"{name} is {getattr(config, name)}, and has to be {least} or more"
        for name, least in at_least.items()
        if getattr(config, name) < least
    ]
    positive = ("temperature", "cliprange", "cliprange_value", "kl_target", "score_clip")
    complaints += [
        f"{name} is {getattr(config, name)}, and has to be above 0"
        for name in positive
        if getattr(config, name) is not None and getattr(config, name) <= 0
    ]
    complaints += [
        f"{name} is {getattr(config, name)}, and has to be between 0 and 1"
        for name in ("gamma", "lam", "top_p")
        if not 0 <= getattr(config, name) <= 1
    ]
    if config.min_response_length > config.response_length:
        complaints.append("min_response_length is longer than response_length")
    if config.use_score_norm and not config.use_score_scaling:
        complaints.append("use_score_norm needs use_score_scaling")
    return complaints
