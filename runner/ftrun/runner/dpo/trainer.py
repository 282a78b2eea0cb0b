"""TRL's DPOTrainer, for rows that are tokens already, and with KL(policy‖reference) in every evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOTrainer

from ftrun.checks.reference import Batch, reference_of
from ftrun.runner.dpo.divergence import Divergence, choose_pairs, keep_distributions, measure_divergence

REFERENCE = "reference.safetensors"


class PairTrainer(DPOTrainer):  # type: ignore[misc, unused-ignore]  # TRL is untyped here
    """The trainer of `method: dpo`. Its loss, collator, reference forward pass and metrics are TRL's own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.watched: list[Batch] = []
        """The held-out pairs on which the divergence is measured."""

        self.kept: list[torch.Tensor] = []
        """The reference's logits on them, where it is not kept in memory: it is the policy as it is now."""

        if self.eval_dataset:
            self.watched = choose_pairs(self, self.args.per_device_eval_batch_size)
            with reference_of(self) as reference:
                if reference is None:
                    self.kept = keep_distributions(self, self.watched)
            self.add_callback(_MeasureStart(self))

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        # DPOTrainer has no `skip_prepare_dataset` and would look for texts in rows that hold tokens.
        return dataset

    def measure_divergence(self) -> Divergence:
        """KL(policy‖reference) on the held-out pairs that are watched, of which there is at least one."""
        return measure_divergence(self, self.watched, self.kept)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """TRL's evaluation, with `eval_kl`, `eval_kl_per_token` and `eval_kl_narrowed` beside what it logs."""
        if self.watched:
            divergence = self.measure_divergence()
            self._metrics["eval"]["kl"].append(divergence.per_answer)
            self._metrics["eval"]["kl_per_token"].append(divergence.per_token)
            self._metrics["eval"]["kl_narrowed"].append(divergence.narrowed)
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        return metrics

    # A reference that follows the policy (TR-DPO) is a part of the run's state, which TRL leaves out of checkpoints.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.args.sync_ref_model:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self.ref_model, str(folder / REFERENCE))
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.args.sync_ref_model:
            load_model(self.ref_model, str(Path(resume_from_checkpoint) / REFERENCE))


class _MeasureStart(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
    """Log the divergence before the first step, where it is 0 unless the recipe names another reference."""

    def __init__(self, trainer: PairTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0 and not args.eval_on_start:
            divergence = self.trainer.measure_divergence()
            self.trainer.log({"eval_kl": divergence.per_answer, "eval_kl_per_token": divergence.per_token})
