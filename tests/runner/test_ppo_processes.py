"""PPO in two processes: each has rollouts of its own, and both have the same weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.util, sys
from pathlib import Path
import torch, torch.distributed as dist

spec = importlib.util.spec_from_file_location("ppo_tests", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
tests.locate_micro = lambda: str(tests.locate())  # a folder that both processes have
trainer = tests.make_trainer(Path(sys.argv[2]), max_steps=6, kl_target=1.0)
trainer.train()

def gather(value):
    found = [torch.empty_like(value) for _ in range(2)]
    dist.all_gather(found, value)
    return found

weights = gather(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
sums = gather(torch.tensor(int(trainer.ppo.experience.sequences.ids.sum())))
coefs = gather(torch.tensor(trainer.ppo.kl_coef))
if dist.get_rank() == 0:
    print("same weights", torch.equal(*weights), "same rollouts", torch.equal(*sums), "same coefficient",
          torch.equal(*coefs) and float(coefs[0]) != 0.1)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_one_policy_on_rollouts_of_their_own(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    tests = Path(__file__).with_name("test_ppo_trainer.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *(str(script), str(tests), str(tmp_path / "run")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "same weights True same rollouts False same coefficient True" in done.stdout, done.stderr[-2000:]
