"""`ladder.json`: digests of the weights, from the first step to the last.

    init      the trainable weights before the first step
    steps     those at each checkpoint, by its step
    weights   the weight files of `model/`

Equal numbers are no proof of equal weights: a run that was resumed with other threads logged twelve equal losses and
gradient norms, and ended with other weights. So the weights themselves are compared.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.launching.sharding import is_divided
from ftrun.runner.record.digests import digest_trainable, digest_weights
from ftrun.runner.tracking.ledger import write_document
from ftrun.runner.tracking.run import TrackedRun

if TYPE_CHECKING:
    from transformers import TrainerCallback

LADDER_FILE = "ladder.json"


@dataclass
class Ladder:
    """The digests of a run."""

    init: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    weights: str = ""


def read_ladder(folder: Path) -> Ladder:
    """What a run folder holds; an empty one where it holds none."""
    try:
        return Ladder(**json.loads((folder / LADDER_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Ladder()


def write_ladder(run: TrackedRun, folder: Path, ladder: Ladder) -> None:
    """Write it into the run folder, for MLflow too."""
    write_document(folder / LADDER_FILE, asdict(ladder))
    run.log_artifact(folder / LADDER_FILE)


def conclude_ladder(run: TrackedRun, folder: Path) -> None:
    """Add the weight files of the trained model, and the tag that names them."""
    ladder = read_ladder(folder)
    ladder.weights = digest_weights(folder / "model")
    write_ladder(run, folder, ladder)
    run.set_tags({"ftrun.weights.digest": ladder.weights})


def make_callback(run: TrackedRun, folder: Path) -> TrainerCallback:
    """A callback that digests the trainable weights whenever a checkpoint is saved: less work than saving it."""
    from transformers import TrainerCallback

    class DigestWeights(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_save(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
            if not state.is_world_process_zero and not is_divided(model):
                return
            digest = digest_trainable(model)  # of all processes together, where each has a part
            if state.is_world_process_zero:
                ladder = read_ladder(folder)
                ladder.steps[str(state.global_step)] = digest
                write_ladder(run, folder, ladder)

    return DigestWeights()
