"""The PPO trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from ftrun.runner.launching.sharding import is_divided
from ftrun.runner.ppo.callbacks import make_draw_callback, make_log_callback, make_place_callback
from ftrun.runner.ppo.checkpoint import load_networks, load_state, save_networks, save_policy, save_state
from ftrun.runner.ppo.config import PPOConfig
from ftrun.runner.ppo.evaluation import measure_divergence, tabulate
from ftrun.runner.ppo.experience import PPOState, Sequences, join, shuffle_batches
from ftrun.runner.ppo.gathering import keep_precision, whole_policy
from ftrun.runner.ppo.generation import Sampling, answer_prompts
from ftrun.runner.ppo.losses import lose
from ftrun.runner.ppo.networks import ActorCritic, as_reference, disable_dropout, evaluating, freeze
from ftrun.runner.ppo.objective import adapt_kl_coef
from ftrun.runner.ppo.pool import Pool
from ftrun.runner.ppo.prompts import PromptCollator, Prompts, RolloutBatches, strip_padding
from ftrun.runner.ppo.rewards import Answer, RewardSum
from ftrun.runner.ppo.rollout import (
    describe_answers,
    describe_scores,
    finish_scores,
    judge_sequences,
    make_experience,
    pool_answers,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerControl

Examples = Sequence[Mapping[str, Any]]


class PPOTrainer(Trainer):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
    """PPO with a KL penalty towards a frozen reference, which is the policy's own start.

    A step of the Trainer is one optimizer update on one minibatch. The data loader brings every rollout's
    prompts once for each of its micro-batches; `compute_loss` answers them when the last rollout is used up,
    with the policy of that moment, and otherwise takes the next micro-batch of it.

    For a PEFT policy the reference is the same model with its adapters off, else a copy. Beside public methods
    of Trainer this overrides the two that read weights from a checkpoint, for which it has no public ones.
    """

    control: TrainerControl
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        policy: PreTrainedModel,
        value: PreTrainedModel,
        reward: RewardSum,
        args: PPOConfig,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        stop_ids: frozenset[int],
        eval_dataset: Dataset | None = None,
        examples: Examples | None = None,
        eval_examples: Examples | None = None,
        eval_temperature: float = 0.0,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """`train_dataset` and `eval_dataset` have the column `input_ids`; `examples` and `eval_examples` are the
        rows that they were made of, in the same order, for rewards to read; without them, prompts are decoded.
        A response ends with one of `stop_ids`. Evaluation samples at `eval_temperature`; 0 is greedy."""
        if args.disable_dropout:
            disable_dropout(policy)
            disable_dropout(value)
        pad_id = int(processing_class.pad_token_id)
        super().__init__(
            model=ActorCritic(policy, value),
            args=args,
            data_collator=PromptCollator(pad_id),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[*callbacks, make_log_callback(self), make_draw_callback(), make_place_callback(self)],
        )
        if self.is_fsdp_enabled:
            keep_precision(self.accelerator)
        self.reward = reward
        self.examples, self.eval_examples = examples, eval_examples
        self.reference = None if hasattr(policy, "disable_adapter") else freeze(deepcopy(policy))
        for model in reward.models:
            freeze(model.model).to(self.args.device)
        self.sampling = Sampling(
            response_length=args.response_length,
            min_response_length=args.min_response_length,
            stop_ids=stop_ids,
            pad_id=pad_id,
            temperature=args.temperature,
            top_p=args.top_p,
        )
        self.eval_sampling = replace(self.sampling, temperature=eval_temperature)
        self.ppo = PPOState(kl_coef=args.kl_coef)
        self.table: tuple[dict[str, Any], ...] = ()
        # Of the last rollout, for those who look on: checks read it after the dry step, which puts back every
        # attribute and so leaves this one mapping as the rollout filled it. Training never reads it.
        self.seen: dict[str, Any] = {}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Each rollout's prompts, once for each of its micro-batches."""
        batches = RolloutBatches(
            rows=len(self.train_dataset),
            size=self.args.rollout_size,
            repeats=self.args.num_ppo_epochs * self.args.micro_batches,
            processes=self.accelerator.num_processes,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
        )
        loader: DataLoader[Any] = self.accelerator.prepare(
            DataLoader(
                Prompts(self.train_dataset),
                batch_sampler=batches,
                collate_fn=self.data_collator,
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )
        return loader

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of the next micro-batch, after a new rollout where the last one is used up."""
        known = None
        if self.ppo.used_up:
            self.ppo, known = self._roll_out(model, inputs)
        assert self.ppo.experience is not None
        loss, figures = lose(model, self.ppo.experience, self.ppo.position, self.args, known)
        # `lose` has divided by the tokens of all micro-batches; the Trainer is to divide by their number.
        loss = loss * self.current_gradient_accumulation_steps
        if self.ppo.position == 0:
            self.seen["first_update"] = figures
        self.ppo = replace(self.ppo.note(figures), position=self.ppo.position + 1)
        return (loss, figures) if return_outputs else loss

    def _roll_out(
        self, model: nn.Module, inputs: dict[str, Tensor]
    ) -> tuple[PPOState, tuple[Tensor, Tensor] | None]:
        """The state after new responses to the prompts of a batch, with the experience that they leave; and what
        the networks say of the first micro-batch, where the first update may take it as it is."""
        args, state = self.args, self.ppo
        # Checkpointing, and dropout, are for training mode alone; and an accumulated minibatch is to be held in
        # memory one micro-batch at a time.
        keep_first = (
            torch.is_grad_enabled()
            and args.disable_dropout
            and not args.gradient_checkpointing
            and args.gradient_accumulation_steps == 1
            and not is_divided(model)  # FSDP gathers backwards as the last forward passes went
        )
        prompts = strip_padding(inputs["input_ids"], inputs["attention_mask"])
        with (
            torch.no_grad(),
            evaluating(self.model),
            self.accelerator.autocast(),
            whole_policy(self.model, self.accelerator),
        ):
            sequences, answers = self.answer(
                self.model.policy, prompts, self._choose(self.examples, inputs["index"].flatten().tolist())
            )
            batches = shuffle_batches(len(prompts), args.num_ppo_epochs, args.train_batch_size)
            judgement = judge_sequences(
                model,
                self.refer,
                sequences,
                batches[: args.micro_batches],
                args.temperature,
                keep_first=keep_first,
            )
            scores = self.reward.score(answers)
        pooled = pool_answers(answers, scores, sequences.lengths, batches, args, self.pool)
        total, moments = finish_scores(scores, answers, pooled.scores, state.moments, args)
        experience, figures = make_experience(
            sequences, judgement, total, batches, pooled.tokens, state.kl_coef, args, self.pool
        )
        figures |= describe_scores(pooled.scores) | describe_answers(pooled.answers)
        figures |= {"objective/kl_coef": state.kl_coef}
        self.seen.update(answers=pooled.answers, scores=pooled.scores, figures=figures)
        kl_coef = state.kl_coef
        if args.kl_target is not None:
            kl, count = figures["objective/kl"], len(pooled.answers)
            kl_coef = adapt_kl_coef(kl_coef, kl, args.kl_target, args.kl_horizon, count)
        state = replace(
            state.note(figures), kl_coef=kl_coef, moments=moments, experience=experience, position=0
        )
        return state, judgement.first

    def answer(
        self,
        model: nn.Module,
        prompts: list[list[int]],
        examples: Examples | None,
        sampling: Sampling | None = None,
    ) -> tuple[Sequences, list[Answer]]:
        """Responses of a model in evaluation mode, as tokens and as rewards read them."""
        responses = answer_prompts(
            model,
            prompts,
            sampling or self.sampling,
            batch_size=self.args.local_rollout_forward_batch_size,
            device=self.args.device,
        )
        sequences = join(prompts, responses.ids, responses.lengths, self.sampling.pad_id)
        lengths = sequences.lengths.tolist()
        tokens = [row[:length] for row, length in zip(responses.ids.tolist(), lengths, strict=True)]
        texts = self.processing_class.batch_decode(tokens, skip_special_tokens=True)
        if examples is None:
            asked = self.processing_class.batch_decode(prompts, skip_special_tokens=True)
            examples = [{"prompt": prompt} for prompt in asked]
        return sequences, [
            Answer(*parts) for parts in zip(examples, lengths, texts, responses.ended.tolist(), strict=True)
        ]

    def sample(self, rows: Sequence[int]) -> list[Answer]:
        """Answers to the prompts of these rows, drawn as in a rollout; training goes on as if none had been."""
        if not rows:
            return []
        with (
            torch.no_grad(),
            evaluating(self.model),
            self.accelerator.autocast(),
            whole_policy(self.model, self.accelerator),
        ):
            prompts = self.train_dataset[rows]["input_ids"]
            return self.answer(self.model.policy, prompts, self._choose(self.examples, rows))[1]

    def _choose(self, examples: Examples | None, indices: Sequence[int]) -> Examples | None:
        return None if examples is None else [examples[index] for index in indices]

    @property
    def pool(self) -> Pool:
        """The processes that a rollout is of: all of them while training is under way, and before it, where each looks
        on its own, this one alone."""
        return Pool(self.accelerator.num_processes if self.is_in_train else 1)

    @property
    def refer(self) -> partial[Any]:
        """Opens the reference."""
        return partial(as_reference, self.model.policy, self.reference)

    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Answer the evaluation prompts, log what the answers are worth, and keep them in `table`."""
        figures, table = self.pool.gather(self.examine())[0]  # one answer, which decides what is the best
        self.table = (*self.table, *table)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def examine(self, *, start: bool = False) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Figures and a table of answers to the evaluation prompts, by the policy, or by the model that it started
        from; with the same random numbers each time, and without a trace in training's."""
        prompts = self.eval_dataset[:]["input_ids"]
        figures: dict[str, float] = {}
        with (
            torch.no_grad(),
            evaluating(self.model),
            self.accelerator.autocast(),
            whole_policy(self.model, self.accelerator),
            torch.random.fork_rng([self.args.device] if self.args.device.type == "cuda" else []),
            self.refer() if start else nullcontext(self.model.policy) as model,
        ):
            torch.manual_seed(self.args.seed)
            sequences, answers = self.answer(model, prompts, self.eval_examples, self.eval_sampling)
            scores = self.reward.score(answers)
            if not start:
                size = self.args.train_batch_size
                figures["kl"] = measure_divergence(model, self.refer, sequences, size)
        figures |= {
            name.replace("score/mean", "score").replace("/", "_"): value
            for name, value in (describe_scores(scores) | describe_answers(answers)).items()
        }
        return figures, tabulate(answers, scores, step=0 if start else self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and with a training loss the means of what was noted since the last one, in all processes."""
        if "loss" in logs:
            means, self.ppo = self.ppo.report()
            each = self.pool.gather(means)
            logs = {**logs, **{name: fmean(one[name] for one in each) for name in means}}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        """0: the inputs are prompts, which say nothing of the work that they make."""
        return 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the policy as an ordinary model folder; into a checkpoint, all that training needs besides."""
        folder = Path(output_dir or self.args.output_dir)
        if _internal_call:
            save_state(self.ppo, folder, self.accelerator.process_index)
        weights = self.accelerator.get_state_dict(self.model) if is_divided(self.model) else None
        if not self.args.should_save:
            return
        (save_networks if _internal_call else save_policy)(self.model, folder, weights)
        self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if is_divided(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_networks(self.model, Path(resume_from_checkpoint))
        self.ppo = load_state(
            Path(resume_from_checkpoint),
            self.args.device,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            batch_size=self.args.train_batch_size,
        )

    def _load_best_model(self) -> None:
        if is_divided(self.model):
            super()._load_best_model()
        else:
            load_networks(self.model, Path(self.state.best_model_checkpoint))
