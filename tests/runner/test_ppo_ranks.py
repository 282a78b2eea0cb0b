"""PPO in two processes is PPO in one with rollouts of twice the size."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ftrun.runner.launching.sharding import make_whole
from ftrun.runner.tiny import locate

GREEDY: dict[str, Any] = {
    "top_p": 1e-9,  # the same answers whoever draws
    # Everything that is a statistic of a rollout.
    "kl_target": 1.0,
    "kl_horizon": 50,
    "whiten_rewards": True,
    "use_score_scaling": True,
    "use_score_norm": True,
    "missing_eos_penalty": 0.5,
    "num_mini_batches": 1,
    "num_ppo_epochs": 2,
    "max_steps": 6,
    "learning_rate": 1e-4,
    "save_strategy": "steps",
    "save_steps": 1,
    "logging_strategy": "steps",
    "eval_strategy": "steps",
    "eval_steps": 3,
}
FSDP: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {"version": 2},
    "local_rollout_forward_batch_size": 1,  # as many forward passes as tokens
}

SCRIPT = """
import importlib.util, json, sys
from pathlib import Path
from ftrun.runner import ranks

path, jobs = sys.argv[1:]
spec = importlib.util.spec_from_file_location("ppo_ranks", path)
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
for folder, resume, settings in json.loads(jobs):
    everywhere = ranks.gather(tests.train(Path(folder), resume, **settings))
    if ranks.is_main():
        (Path(folder) / "told.json").write_text(json.dumps(everywhere))
"""


def train(folder: Path, resume: str | None, **settings: Any) -> dict[str, Any]:
    """Train a policy into a folder, as one of whatever processes there are; returns what is known here then."""
    spec = importlib.util.spec_from_file_location(
        "ppo_trainer", Path(__file__).with_name("test_ppo_trainer.py")
    )
    assert spec is not None and spec.loader is not None
    tests: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    tests.locate_micro = lambda: str(locate())  # a folder that all processes have
    trainer = tests.make_trainer(folder, **GREEDY | settings)
    asked, tokens, answer = [], [], trainer.answer

    def note(model: Any, prompts: list[list[int]], *rest: Any) -> Any:
        sequences, answers = answer(model, prompts, *rest)
        if len(rest) == 1:  # of a rollout; an evaluation has its own way to sample
            asked.append(prompts)
            tokens.append(int(sequences.lengths.sum()))
        return sequences, answers

    trainer.answer = note
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    experience = trainer.ppo.experience
    return {
        "asked": asked,
        "coefficient": trainer.ppo.kl_coef,
        "moments": vars(trainer.ppo.moments),
        "figures": trainer.seen["figures"],
        "advantages": experience.advantages[experience.sequences.response_mask].tolist(),
        "draw": float(torch.rand(())),
        "answers": [one.text for one in trainer.seen["answers"]],
        "weights": float(sum(make_whole(p.detach()).double().sum() for p in trainer.model.parameters())),
        "share": sum(own(p).numel() for p in trainer.model.parameters()),
        "tokens": tokens,
        "logs": trainer.state.log_history,
    }


def own(weight: torch.Tensor) -> torch.Tensor:
    """What this process has of it."""
    return getattr(weight, "_local_tensor", weight)


def train_both(*jobs: tuple[Path, str | None], **settings: Any) -> None:
    """Train in two processes, one job after the other."""
    script = jobs[0][0] / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(
                str(script),
                __file__,
                json.dumps([[str(folder), resume, settings] for folder, resume in jobs]),
            ),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def told(folder: Path) -> list[dict[str, Any]]:
    """What each process knew after training."""
    everywhere: list[dict[str, Any]] = json.loads((folder / "told.json").read_text())
    return everywhere


def policy(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a run in one process, one in two, and runs that went on behind step 3, inside of a rollout."""
    return {name: tmp_path_factory.mktemp(name) for name in ("1", "2", "2-2", "1-2", "2-1")}


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path]) -> dict[str, Any]:
    return train(folders["1"], None, gradient_accumulation_steps=2)


@pytest.fixture(scope="module")
def both(alone: dict[str, Any], folders: dict[str, Path]) -> list[dict[str, Any]]:
    checkpoints = {name: str(folders[name] / "checkpoint-3") for name in ("1", "2")}
    train_both((folders["2"], None), (folders["2-2"], checkpoints["2"]), (folders["1-2"], checkpoints["1"]))
    return told(folders["2"])


def test_two_processes_end_as_one(
    alone: dict[str, Any], both: list[dict[str, Any]], folders: dict[str, Path]
) -> None:
    ends = [policy(folders[name]) for name in ("1", "2")]
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], rtol=1e-4, atol=1e-6)
    assert both[0]["weights"] == both[1]["weights"]


def test_statistics_are_those_of_all_answers(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    for one in both:
        assert (
            one["coefficient"] == pytest.approx(alone["coefficient"], rel=1e-5)
            and alone["coefficient"] != 0.1
        )
        assert one["moments"] == pytest.approx(alone["moments"], rel=1e-5)
        assert one["figures"] == pytest.approx(alone["figures"], rel=1e-3, abs=1e-6)
    assert both[0]["figures"] == both[1]["figures"]
    white = np.concatenate([one["advantages"] for one in both])
    assert white.mean() == pytest.approx(0, abs=1e-5) and white.std() == pytest.approx(1, abs=1e-4)
    # No half of them is white by itself.
    assert all(abs(np.mean(one["advantages"])) > 1e-3 for one in both)
    logs = [{**entry, "grad_norm": 0} for entry in both[0]["logs"] if "policy/ratio" in entry]
    for log, other in zip(logs, (one for one in alone["logs"] if "policy/ratio" in one), strict=True):
        assert log["score/mean"] == pytest.approx(other["score/mean"], rel=1e-4)
        assert log["loss/value"] == pytest.approx(other["loss/value"], rel=1e-2)


def test_prompts_are_divided_and_drawn_for_apart(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    for together, *parts in zip(alone["asked"], *(one["asked"] for one in both), strict=True):
        assert together == parts[0] + parts[1]
    assert both[0]["answers"] == both[1]["answers"] == alone["answers"]
    assert both[0]["draw"] != both[1]["draw"]


def test_a_rollout_that_is_not_used_up_goes_on_in_however_many_processes(
    alone: dict[str, Any], both: list[dict[str, Any]], folders: dict[str, Path]
) -> None:
    train(folders["2-1"], str(folders["2"] / "checkpoint-3"), gradient_accumulation_steps=2)
    end = policy(folders["2"])
    for name in ("2-2", "1-2", "2-1"):
        for key, weight in policy(folders[name]).items():
            torch.testing.assert_close(weight, end[key], rtol=1e-4, atol=1e-6)
    assert all(torch.equal(weight, end[key]) for key, weight in policy(folders["2-2"]).items())
    assert told(folders["1-2"])[1]["coefficient"] == pytest.approx(alone["coefficient"], rel=1e-5)


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["full", "lora"])
def test_two_processes_that_each_have_a_part_end_as_one(lora: bool, tmp_path: Path) -> None:
    """FSDP: equal to one process, equal when it goes on, and saved as any other."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    alone, parts, again = (tmp_path / name for name in ("alone", "parts", "again"))
    for folder in (alone, parts, again):
        folder.mkdir()
    one = train(alone, None, gradient_accumulation_steps=2, lora=lora)
    train_both((parts, None), (again, str(parts / "checkpoint-3")), **FSDP, lora=lora)
    both = told(parts)
    assert both[0]["share"] + both[1]["share"] == one["share"]
    # Neither waited for the other between two tokens.
    assert both[0]["tokens"] != both[1]["tokens"]
    assert both[0]["answers"] == one["answers"]
    assert both[0]["coefficient"] == pytest.approx(one["coefficient"], rel=1e-5)
    assert both[0]["figures"] == pytest.approx(one["figures"], rel=1e-3, abs=1e-6)
    assert kls(both[0]) == pytest.approx(kls(one), rel=1e-3, abs=1e-6) and len(kls(one)) == 2
    for place in ("", "checkpoint-6/value"):
        end = policy(parts / place)
        for name, weight in policy(alone / place).items():
            torch.testing.assert_close(weight, end[name], rtol=1e-4, atol=1e-6)
    assert all(torch.equal(weight, policy(parts)[name]) for name, weight in policy(again).items())
    if not lora:
        saved = AutoModelForCausalLM.from_pretrained(parts, dtype="auto").state_dict()
        assert all(torch.equal(weight, saved[name]) for name, weight in policy(parts).items())
        scorer = AutoModelForSequenceClassification.from_pretrained(
            parts / "checkpoint-6/value", num_labels=1
        )
        assert torch.equal(scorer.score.weight, policy(parts / "checkpoint-6/value")["score.weight"])


def kls(one: dict[str, Any]) -> list[float]:
    """The divergences that evaluations found."""
    return [entry["eval_kl"] for entry in one["logs"] if "eval_kl" in entry]
