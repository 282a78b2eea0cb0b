"""Asking a model, before, while and after it trains, for what it is to go on knowing.

Answers are asked for by their log-probability: one forward pass over a few short rows, in evaluation mode. Before and
after training they are also generated, for people to read. Training keeps no trace of it: modes and random states are
put back, and nothing is added to what the trainer collects. Of several processes the main one asks and tells the
others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ftrun.checks.stages import AtModel
from ftrun.checks.training import AtProbe, Recall
from ftrun.runner.answers import generate
from ftrun.runner.guarding.alarm import Alarm
from ftrun.runner.guarding.questions import Question, load_questions
from ftrun.runner.guarding.sharding import is_sharded
from ftrun.runner.ranks import is_main, share
from ftrun.runner.trial import NotMade

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ftrun.runner.guarding.watch import Watch

START_FILE = "probe.json"
SHARE = 0.02
"""Of the work of a run, what asking may cost for `every: auto`."""

LOOKS = 20
"""Looks while training at most, for `every: auto`."""

ROWS = 16
"""Rows in a forward pass: of their last columns alone logits are computed, which take little memory then."""

CERTAIN = 4.0
"""Standard errors by which the own answers of questions have to be more probable than those of others. A model that
knows nothing passes with one question file in 30,000 (a normal distribution)."""

KNOWN = 1.0
"""Nats per token by which a known answer is more probable than that to another question."""


@dataclass(frozen=True)
class Start:
    """What the model said before it was trained."""

    known: tuple[int, ...]
    """The questions whose answer it knew; empty where it knew nothing."""

    logprobs: tuple[float, ...]
    """Mean log-probability of the tokens of each answer."""

    given: tuple[str, ...]
    """What it answered; empty where it was not to answer."""


@dataclass(frozen=True)
class Budget:
    """How often a model is asked."""

    every: int
    """Steps between two looks while it trains."""

    answers: bool
    """Whether it answers before and after training."""


def plan_looks(at: AtModel, questions: Sequence[Question]) -> Budget:
    """How often the model is asked. Raises NotMade where that would cost more than its share of the run, or where no
    process has all of the model.

    Counted in tokens that pass through the model, so that all machines ask alike. Of the run every token passes
    forward and backward, which is taken for twice as much (with LoRA; without it is three times). Asking is a forward
    pass, and each token of an answer is taken for half of one.
    """
    if is_sharded(at.trainer):
        raise NotMade("each process has a part of the model")
    written = at.recipe.guards.knowledge_forgotten.every
    if written != "auto":
        return Budget(written, answers=True)
    training = at.recipe.training
    rows = at.steps * training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    length = at.train.lengths.sum() / len(at.train_dataset) + training.get("response_length", 0)
    afford = SHARE * 2 * rows * at.trainer.args.world_size * length
    look = len(questions) * sum(_widths(questions))
    answer = look * (1 + _longest(questions) / 2)
    # Before training twice: the answers to other questions as well.
    for answers in (True, False):
        left = afford - 3 * look - 2 * answer * answers
        if left >= 0:
            looks = min(LOOKS, int(left / look))
            return Budget(ceil(at.steps / (looks + 1)), answers)
    raise NotMade(f"it would cost more than {SHARE:.0%} of the run")


def _widths(questions: Sequence[Question]) -> tuple[int, int]:
    """The tokens of the longest prompt, and of the longest answer."""
    return max(len(one.prompt_ids) for one in questions), max(len(one.answer_ids) for one in questions)


def _longest(questions: Sequence[Question]) -> int:
    """Tokens that an answer may have: enough to see that it goes on otherwise."""
    return _widths(questions)[1] + 4


@contextmanager
def without_trace(at: AtModel) -> Iterator[None]:
    """Evaluation mode without gradients inside, and modes and random states as they were behind it."""
    import torch

    from ftrun.runner.ppo.networks import evaluating

    devices = [at.trainer.args.device] if at.trainer.args.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.no_grad(),
        evaluating(at.model),
        at.trainer.accelerator.autocast(),
    ):
        yield


def judge(at: AtModel, questions: Sequence[Question], answers: Sequence[Question]) -> tuple[float, ...]:
    """The mean log-probability of the tokens of each answer to its question, in nats."""
    import torch

    from ftrun.runner.ppo.generation import pad_left
    from ftrun.runner.ppo.networks import judge_tokens

    pad, device = at.tokenizer.pad_token_id, at.trainer.args.device
    means: list[float] = []
    with without_trace(at):
        for start in range(0, len(questions), ROWS):
            said = [one.answer_ids for one in answers[start : start + ROWS]]
            ids, mask = pad_left([one.prompt_ids for one in questions[start : start + ROWS]], pad, device)
            width = max(map(len, said))
            ends = torch.tensor([[*one, *[pad] * (width - len(one))] for one in said], device=device)
            lengths = torch.tensor([len(one) for one in said], device=device)
            there = torch.arange(width, device=device) < lengths[:, None]
            _, logprobs = judge_tokens(
                at.model, torch.cat([ids, ends], 1), torch.cat([mask, there.long()], 1), width, 1.0
            )
            means += ((logprobs * there).sum(1) / lengths).tolist()
    return tuple(means)


def answer(at: AtModel, questions: Sequence[Question]) -> tuple[str, ...]:
    """The model's greedy answers."""
    prompts = [list(one.prompt_ids) for one in questions]
    with without_trace(at):
        given = generate(
            prompts, at.model, at.tokenizer, at.stop_ids, max_new_tokens=_longest(questions), batch_size=ROWS
        )
    return tuple(text.strip() for text in given)


def begin(at: AtModel, questions: Sequence[Question], answers: bool) -> Start:
    """What the model says before it is trained, and which of the answers it knows.

    It knows nothing where the answers to other questions are as probable as the own ones, but for noise.
    """
    others = [_find_other(questions, number) for number in range(len(questions))]
    own, exchanged = judge(at, questions, questions), judge(at, questions, others)
    gains = [mine - other for mine, other in zip(own, exchanged, strict=True)]
    if fmean(gains) <= CERTAIN * stdev(gains) / len(gains) ** 0.5:
        return Start((), own, ())
    known = tuple(number for number, gain in enumerate(gains) if gain > KNOWN)
    return Start(known, own, answer(at, questions) if answers else ())


def _find_other(questions: Sequence[Question], number: int) -> Question:
    """A question with another answer, half of them away; the same one where all have the same."""
    own, far = questions[number], number + len(questions) // 2
    others = (questions[(far + i) % len(questions)] for i in range(len(questions)))
    return next((one for one in others if one.answer_ids != own.answer_ids), own)


def _start(at: AtModel, questions: Sequence[Question], budget: Budget, folder: Path) -> Start:
    """What the model said before training: asked now, where the run has not begun before."""
    start = _read(folder) or begin(at, questions, budget.answers)
    _keep(start, folder)
    return start


def _keep(start: Start, folder: Path) -> None:
    (folder / START_FILE).write_text(json.dumps(asdict(start), ensure_ascii=False), encoding="utf-8")


def _read(folder: Path) -> Start | None:
    """What `_keep` wrote: a run that is resumed or went back is compared with its very start."""
    file = folder / START_FILE
    if not file.is_file():
        return None
    return Start(**{key: tuple(value) for key, value in json.loads(file.read_text(encoding="utf-8")).items()})


def make_callback(watch: Watch, at: AtModel) -> TrainerCallback:
    """Asks the model before the first step, every few steps, and after the last; and the guards behind it."""
    from transformers import TrainerCallback

    questions, events = load_questions(at), watch.events
    budget, reason = None, ""
    try:
        budget = plan_looks(at, questions)
    except NotMade as why:
        reason = f"not asked: {why}"

    class Ask(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        start = Start((), (), ())

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            told = reason
            if budget is not None:
                self.start = share(partial(_start, at, questions, budget, events.folder))
                known = len(self.start.known)
                told = (
                    f"{known} of {len(questions)} answers are known" if known else "the model knows no answer"
                )
            events.run.set_tags({"ftrun.probe": told})
            if state.global_step == 0:
                self.log(state, self.start.logprobs)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step = state.global_step
            if budget is not None and step % budget.every == 0 and step < state.max_steps:
                self.look(state)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.look(state, ended=True)

        def look(self, state: Any, ended: bool = False) -> None:
            if not self.start.known:
                return
            now = share(partial(judge, at, questions, questions))
            self.log(state, now)
            recalls = [
                Recall(questions[i].text, questions[i].answer, self.start.logprobs[i], now[i])
                for i in self.start.known
            ]
            training = watch.training
            try:
                watch.ask(AtProbe(training.recipe, training.file, recalls), state.global_step)
            except Alarm:
                ended = True
                raise
            finally:
                if ended and is_main():
                    given = answer(at, questions) if self.start.given else ()
                    events.run.log_table(_tabulate(questions, self.start, now, given), "probe.json")

        def log(self, state: Any, logprobs: Sequence[float]) -> None:
            if self.start.known:
                mean = fmean(logprobs[number] for number in self.start.known)
                events.run.log(state.global_step, {"probe/logprob": mean})

    return Ask()


def _tabulate(
    questions: Sequence[Question], start: Start, now: Sequence[float], given: Sequence[str]
) -> list[dict[str, Any]]:
    """Each question with its answer before and after training; the answer that lost most comes first."""
    rows = [
        {
            "question": question.text,
            "answer": question.answer,
            "known": number in start.known,
            "logprob_before": start.logprobs[number],
            "logprob_after": now[number],
            **({"given_before": start.given[number], "given_after": given[number]} if given else {}),
        }
        for number, question in enumerate(questions)
    ]
    return sorted(rows, key=lambda row: row["logprob_after"] - row["logprob_before"])
