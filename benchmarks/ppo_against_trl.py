"""ftrun's PPO against the last one that TRL had, in 1.12.0: samples per second, and reward at equal samples.

    python benchmarks/ppo_against_trl.py --python VENV/bin/python [--pairs 5] [--seeds 5]

VENV is an environment of its own with trl==1.12.0 and the same torch and transformers. Both train the same Llama,
from the same weights, on the same prompts with the same reward model, a rollout of 32 in one minibatch, four
epochs, an own value model, one thread; every response has its full length. Printed are, pair by pair in turn and
as medians:
  samples per CPU second, over all rollouts but the first two, on a micro (hidden 64, 2 layers) and a tiny model
  (hidden 256, 4 layers), with responses of 16 and 64 tokens
  the score of 256 answers to prompts that were not trained on and their KL to the start, for each seed, after equal
  numbers of samples, asked of both models by the same code
The tokenizer knows whole words alone, so that a reward model that reads text reads the very tokens that were
sampled. The reward is the share of good words in prompt and answer, made of a Llama's own weights.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORDS, GOOD, ROLLOUT = 1000, 250, 32
SHAPES = {"micro": (64, 2, 4), "tiny": (256, 4, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", required=True, help="the Python of an environment with trl==1.12.0")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shapes", nargs="*", default=["micro", "tiny"], choices=SHAPES)
    parser.add_argument("--lengths", nargs="*", type=int, default=[16, 64])
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "JOB"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        side, job = given.child[0], json.loads(given.child[1])
        print("RESULT " + json.dumps((train_ours if side == "ours" else train_theirs)(job)))
        return
    for shape in given.shapes:
        with tempfile.TemporaryDirectory() as folder:
            write_world(Path(folder), shape)
            for length in given.lengths:
                compare_speed(given, Path(folder), shape, length)
            if shape == "micro":
                compare_rewards(given, Path(folder))


def compare_speed(given: argparse.Namespace, folder: Path, shape: str, length: int) -> None:
    rollouts = 14 if shape == "micro" else 6
    job = {"folder": str(folder), "length": length, "rollouts": rollouts, "seed": 1, "rate": 3e-4}
    ratios = []
    for _ in range(given.pairs):
        ours, theirs = (run(given.python, side, job) for side in ("ours", "theirs"))
        rates = [ROLLOUT * (rollouts - 2) / (one["cpu"][-1] - one["cpu"][1]) for one in (ours, theirs)]
        ratios.append(rates[0] / rates[1])
        print(f"  {shape}, {length} tokens: {rates[0]:.1f} against {rates[1]:.1f} samples per CPU second")
    print(f"{shape}, {length} tokens: {statistics.median(ratios):.2f} times TRL's (median of {given.pairs})")


def compare_rewards(given: argparse.Namespace, folder: Path) -> None:
    for seed in range(given.seeds):
        job = {"folder": str(folder), "length": 16, "rollouts": 60, "seed": seed, "rate": 1e-3}
        figures = []
        for side in ("ours", "theirs"):
            with tempfile.TemporaryDirectory() as saved:
                run(given.python, side, job | {"save": saved})
                figures.append(judge(folder, Path(saved)))
        print(
            f"seed {seed}, 60 rollouts: "
            + ", ".join(
                f"{side} score {s:.3f} at KL {kl:.2f}"
                for side, (s, kl) in zip(("ftrun", "TRL"), figures, strict=True)
            )
        )


def run(python: str, side: str, job: dict[str, Any]) -> dict[str, Any]:
    """What one training run says, made in a process of its own."""
    command = [sys.executable if side == "ours" else python, __file__, "--python", python, "--child", side]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    done = subprocess.run([*command, json.dumps(job)], capture_output=True, text=True, env=environment)
    if "RESULT " not in done.stdout:
        sys.exit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.partition("RESULT ")[2].splitlines()[0])
    return result


def write_world(folder: Path, shape: str) -> None:
    """The start of policy and value model, the reward model, and prompts."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    words = ["<pad>", "<eos>", *(f"w{i}" for i in range(WORDS - 2))]
    plain = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    plain.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>")
    hidden, layers, heads = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "policy")
    config.num_labels = 1
    value = LlamaForSequenceClassification(config)
    value.score.weight.data.normal_(0.0, 0.1 / hidden**0.5)
    value.save_pretrained(folder / "value")
    config.num_hidden_layers = 1
    reward = LlamaForSequenceClassification(config)
    count_good_words(reward)
    reward.save_pretrained(folder / "reward")
    for name in ("policy", "value", "reward"):
        tokenizer.save_pretrained(folder / name)
    draw = random.Random(0)
    prompts = [[draw.randrange(2, WORDS) for _ in range(draw.randrange(12, 29))] for _ in range(512)]
    (folder / "prompts.json").write_text(json.dumps(prompts))


def count_good_words(model: Any) -> None:
    """Make the score the share of good words among all: attention that is the same everywhere averages a flag."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        layer, hidden = model.model.layers[0], model.config.hidden_size
        for norm in (layer.input_layernorm, layer.post_attention_layernorm, model.model.norm):
            norm.weight.fill_(1.0)
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[2 : 2 + GOOD, 1] = 1.0
        model.model.embed_tokens.weight[2 + GOOD :, 2] = 1.0
        layer.self_attn.v_proj.weight[0, 1] = (2 / hidden) ** 0.5
        layer.self_attn.o_proj.weight[3, 0] = 0.1
        model.score.weight[0, 3] = 10 * (2 / hidden) ** 0.5


def train_ours(job: dict[str, Any]) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from ftrun.runner.ppo.config import PPOConfig
    from ftrun.runner.ppo.rewards import RewardModel, RewardSum
    from ftrun.runner.ppo.trainer import PPOTrainer

    folder, epochs = Path(job["folder"]), 4
    prompts = json.loads((folder / "prompts.json").read_text())[:256]
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    reward = AutoModelForSequenceClassification.from_pretrained(folder / "reward")
    args = PPOConfig(
        **settings(job),
        max_steps=job["rollouts"] * epochs,
        logging_strategy="no",
        gradient_checkpointing=False,
    )
    trainer = PPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "policy"),
        AutoModelForSequenceClassification.from_pretrained(folder / "value"),
        RewardSum(models=[RewardModel("good words", reward, tokenizer)]),
        args,
        Dataset.from_dict({"input_ids": prompts}),
        tokenizer,
        frozenset(),
    )
    return train(trainer, job, steps_of_each=epochs)


def train_theirs(job: dict[str, Any]) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    folder = Path(job["folder"])
    prompts = json.loads((folder / "prompts.json").read_text())[:256]
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "policy") for _ in range(2))
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(folder / name) for name in ("value", "reward")
    )
    args = PPOConfig(
        **settings(job),
        total_episodes=job["rollouts"] * ROLLOUT,
        num_sample_generations=0,
        logging_strategy="no",
        gradient_checkpointing=False,
    )
    rows = Dataset.from_dict({"input_ids": prompts})
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=rows,
        eval_dataset=rows,
    )
    return train(trainer, job, steps_of_each=1)


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """What both are given by the same name."""
    return {
        "output_dir": job["folder"],
        "seed": job["seed"],
        "learning_rate": job["rate"],
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": ROLLOUT,
        "num_mini_batches": 1,
        "num_ppo_epochs": 4,
        "response_length": job["length"],
        "local_rollout_forward_batch_size": ROLLOUT,
        "temperature": 1.0,
        "kl_coef": 0.02,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
    }


def train(trainer: Any, job: dict[str, Any], steps_of_each: int) -> dict[str, Any]:
    """Train, and say at how many seconds of CPU time each rollout was used up."""
    from transformers import TrainerCallback

    times: list[float] = []
    steps: list[int] = []

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(1)
            if len(steps) % steps_of_each == 0:
                times.append(time.process_time())

    trainer.add_callback(Clock())
    trainer.train()
    assert len(times) == job["rollouts"], f"{len(times)} rollouts were trained on"
    if "save" in job:
        trainer.model.policy.save_pretrained(job["save"])
    return {"cpu": times}


def judge(folder: Path, saved: Path) -> tuple[float, float]:
    """The mean score of answers to prompts that were not trained on, and their mean KL to the start, in nats."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    start, tuned = (AutoModelForCausalLM.from_pretrained(path) for path in (folder / "policy", saved))
    reward = AutoModelForSequenceClassification.from_pretrained(folder / "reward")
    prompts = json.loads((folder / "prompts.json").read_text())[256:]
    scores, divergences = [], []
    torch.manual_seed(0)
    for prompt in prompts:
        with torch.no_grad():
            ids = tuned.generate(
                torch.tensor([prompt]),
                max_new_tokens=16,
                min_new_tokens=16,
                do_sample=True,
                top_k=0,
                top_p=1.0,
            )
            logs = [
                torch.log_softmax(model(ids).logits[0, len(prompt) - 1 : -1], -1) for model in (tuned, start)
            ]
            scores.append(float(reward(ids).logits))
        divergences.append(float((logs[0].exp() * (logs[0] - logs[1])).sum()))
    return statistics.mean(scores), statistics.mean(divergences)


if __name__ == "__main__":
    main()
