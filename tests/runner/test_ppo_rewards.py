"""Rewards: models, functions and rules, and their sum."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ftrun.runner.tiny import locate
from ftrun.schemas.errors import ModelError, RunError
from ftrun.schemas.methods.ppo import Penalties, TooLong
from ftrun.schemas.sections import Source


def make_answer(text: str, prompt: Any = "Say it", ended: bool = True, **columns: Any) -> Any:
    from ftrun.runner.ppo.rewards import Answer

    return Answer({"prompt": prompt, "columns": columns}, 3, text, ended)


def load_scorer() -> Any:
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(1)
    return AutoModelForSequenceClassification.from_pretrained(str(locate()), num_labels=1).eval()


def load_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(locate()))


def test_penalties_at_their_thresholds() -> None:
    from ftrun.runner.ppo.rewards import penalise

    texts = ["a b c d e", "a a a a b", "a a b b", "a b " * 2 + "c", " ".join(map(str, range(301))), ""]
    found = penalise(Penalties(), texts)
    assert found["repetition"].tolist() == [0, -5, 0, 0, 0, 0]
    assert found["too_long"].tolist() == [0, 0, 0, 0, -2, 0]
    assert found["too_short"].tolist() == [0, 0, -3, 0, 0, -3]
    own = Penalties(repetition=None, too_long=TooLong(words=3, penalty=1.5), too_short=None)
    assert {name: part.tolist() for name, part in penalise(own, ["a b c", "a b c d"]).items()} == {
        "too_long": [0, -1.5]
    }


def test_functions_get_prompts_completions_and_the_columns_that_they_name() -> None:
    from ftrun.runner.ppo.rewards import RewardSum

    seen: dict[str, Any] = {}

    def named(completions: Sequence[str], wanted: Sequence[str]) -> list[float]:
        return [float(word in text) for text, word in zip(completions, wanted, strict=True)]

    def everything(**columns: Any) -> list[float]:
        seen.update(columns)
        return [10.0, 20.0]

    answers = [make_answer("red", wanted="red"), make_answer("blue", wanted="green", extra=4)]
    scores = RewardSum(functions={"named": named, "everything": everything}).score(answers)
    assert scores.total.tolist() == [11.0, 20.0]
    assert scores.parts["named"].tolist() == [1.0, 0.0]
    assert seen == {
        "prompts": ["Say it", "Say it"],
        "completions": ["red", "blue"],
        "wanted": ["red", "green"],
        "extra": [None, 4],
    }


@pytest.mark.parametrize("returned", [[1.0], [1.0, float("nan")], [1.0, None], 3.0])
def test_a_function_that_returns_no_scores_is_told_by_name(returned: Any) -> None:
    from ftrun.runner.ppo.rewards import call_function

    with pytest.raises(RunError, match="the reward function broken returned"):
        call_function("broken", lambda **columns: returned, [make_answer("a"), make_answer("b")])


def test_a_function_that_asks_for_what_no_row_has_is_told_what_there_is() -> None:
    from ftrun.runner.ppo.rewards import call_function

    def brevity(responses: list[str]) -> list[float]:
        return [1.0 for _ in responses]

    said = "brevity asks for responses; what it can have is prompts, completions, wanted"
    with pytest.raises(RunError, match=said):
        call_function("brevity", brevity, [make_answer("a", wanted="b")])


def test_a_function_that_raises_is_told_with_its_line(tmp_path: Path) -> None:
    from ftrun.runner.ppo.rewards import call_function, load_function

    (tmp_path / "mine.py").write_text(
        "def score(completions):\n    return [1.0 / len(one) for one in completions]\n"
    )
    with pytest.raises(RunError, match=r"score failed at .*mine.py:2 with ZeroDivisionError"):
        call_function("score", load_function("mine.py:score", tmp_path), [make_answer("")])


def test_a_function_may_return_a_tensor_and_may_not_end_the_program(tmp_path: Path) -> None:
    from ftrun.runner.ppo.rewards import call_function, load_function

    def ones(completions: list[str]) -> Any:
        return torch.ones(len(completions))

    assert call_function("score", ones, [make_answer("a")]).tolist() == [1.0]
    (tmp_path / "mine.py").write_text("import sys\n\n\ndef score(completions):\n    sys.exit(0)\n")
    with pytest.raises(RunError, match=r"score failed at .*mine.py:5 with SystemExit"):
        call_function("score", load_function("mine.py:score", tmp_path), [make_answer("")])
    (tmp_path / "ends.py").write_text("import sys\n\nsys.exit(0)\n")
    with pytest.raises(ModelError, match=r"ends.py:score cannot be loaded: SystemExit"):
        load_function("ends.py:score", tmp_path)


def test_functions_are_loaded_from_files_and_modules(tmp_path: Path) -> None:
    from ftrun.runner.ppo.rewards import load_function

    (tmp_path / "mine.py").write_text("def score(completions):\n    return [1.0 for _ in completions]\n")
    assert load_function("mine.py:score", tmp_path)(completions=["a"]) == [1.0]
    assert load_function("builtins:sorted", tmp_path)([2, 1]) == [1, 2]
    for wrong in ("mine.py:other", "other.py:score", "no_such_module_of_mine:score"):
        with pytest.raises(ModelError, match=wrong):
            load_function(wrong, tmp_path)


def test_an_ensemble_is_its_mean_less_its_disagreement() -> None:
    from ftrun.runner.ppo.rewards import RewardModel, RewardSum

    model, tokenizer = load_scorer(), load_tokenizer()
    other = load_scorer()
    other.score.weight.data *= -3
    models = [RewardModel(name, one, tokenizer) for name, one in (("a", model), ("b", other))]
    answers = [make_answer("a"), make_answer("b")]
    each = torch.stack([one.score(answers) for one in models])
    scores = RewardSum(models=models, pessimism=0.5).score(answers)
    torch.testing.assert_close(scores.total, each.mean(0) - 0.5 * each.std(0, correction=0))
    assert scores.disagreement is not None
    torch.testing.assert_close(scores.disagreement, each.std(0, correction=0))


def test_a_model_scores_as_transformers_does_and_no_batch_changes_it() -> None:
    from ftrun.runner.ppo.rewards import RewardModel

    model = load_scorer()
    scorer = RewardModel("rm", model, load_tokenizer(), batch_size=2)
    answers = [make_answer(text) for text in ("red", "green and blue and white", "black or brown")]
    with torch.no_grad():
        expected = [float(model(input_ids=torch.tensor([scorer.encode(one)])).logits) for one in answers]
    torch.testing.assert_close(scorer.score(answers), torch.tensor(expected))


CHAT = [{"role": "user", "content": "Say it"}]


@pytest.mark.parametrize("prompt", [CHAT, "Say it: "], ids=["chat", "plain"])
def test_an_answer_is_read_as_the_row_that_a_reward_model_trains_on(prompt: Any, tmp_path: Path) -> None:
    from ftrun.runner.data.encoding import encode_split
    from ftrun.runner.data.sources import load_source
    from ftrun.runner.data.splits import split_rows
    from ftrun.runner.ppo.rewards import RewardModel

    answer: Any = [{"role": "assistant", "content": "red"}] if prompt is CHAT else "red"
    row = {"prompt": prompt, "chosen": answer, "rejected": answer}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    how: Any = {"method": "reward", "loss_on": None, "has_template": True, "can_mark_turns": True}
    source = load_source(Source(path="rows.jsonl"), "data.train.0", tmp_path, **how)
    split, _ = split_rows((source,), [1.0], (), [], None, 0)
    rows = encode_split(split.origins, (source,), load_tokenizer(), max_length=None, truncation_mode=None)
    scorer = RewardModel("rm", load_scorer(), load_tokenizer())
    assert scorer.encode(make_answer("red", prompt=prompt)) == rows[0].ids.tolist()


def test_another_tokenizer_reads_the_text_in_its_own_template() -> None:
    from ftrun.runner.ppo.rewards import RewardModel

    tokenizer = load_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    other = RewardModel("other", load_scorer(), tokenizer)
    messages = [{"role": "user", "content": "Say it"}]
    chat = other.encode(make_answer("red", prompt=messages))
    assert tokenizer.decode(chat) == "<user> Say it\n<assistant> red\n"
    plain = other.encode(make_answer("red", prompt="Say it: "))
    assert plain == [*tokenizer("Say it: red")["input_ids"], tokenizer.eos_token_id]
    cut = other.encode(make_answer("red", prompt="Say it: ", ended=False))
    assert cut == tokenizer("Say it: red")["input_ids"]
    cut = other.encode(make_answer("red", prompt=messages, ended=False))
    assert tokenizer.decode(cut) == "<user> Say it\n<assistant> red"
