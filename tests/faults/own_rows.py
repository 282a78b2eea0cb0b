"""Faults of ours, a second round: what rows say, and settings far out."""

from __future__ import annotations

import random

from tests.faults.plants import Fault

from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_chat, sft_full, sft_lora

OURS, NO_PPO = "ours", "TRL 1.16 has no PPO"

X201 = Fault("X201", "Every answer is the same text.", "sft", "data", OURS)


@X201.planted(sft_full, told="DATA053", at="data")
def one_answer_for_all(world: World) -> None:
    for row in world.rows:
        row["completion"] = "I am not sure about that."


X202 = Fault("X202", "Completions hold the prompt once more.", "sft", "data", OURS)


@X202.planted(sft_full, told="DATA043", at="data")
def completions_are_whole(world: World) -> None:
    for row in world.rows:
        row["completion"] = row["prompt"] + row["completion"]


X203 = Fault("X203", "Prompts end with their answer.", "sft", "data", OURS)


@X203.planted(sft_full, told="DATA054", at="data")
def the_answer_is_given(world: World) -> None:
    for row in world.rows:
        row["prompt"] += f"Answer: {row['completion']}\n"


X204 = Fault("X204", "A template stands in the rows unfilled.", "all", "data", OURS)


@X204.planted(sft_full, dpo_full, reward_full, ppo_full, told="DATA055", at="data")
def a_name_in_braces(world: World) -> None:
    for row in world.rows:
        row["prompt"] = "Dear {{ name }}, " + row["prompt"]


X205 = Fault("X205", "Missing values are trained as words.", "sft", "data", OURS)


@X205.planted(sft_full, told="DATA056", at="data")
def a_third_is_nan(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] = "nan"


X206 = Fault("X206", "Answers are lists that were turned into text.", "sft", "data", OURS)


@X206.planted(sft_full, told="DATA057", at="data")
def answers_in_brackets(world: World) -> None:
    for row in world.rows:
        row["completion"] = str([row["completion"]])


X207 = Fault("X207", "User and assistant are exchanged.", "sft", "data", OURS)


@X207.planted(sft_chat, told="DATA058", at="data")
def roles_are_exchanged(world: World) -> None:
    for row in world.rows:
        for message in row["messages"][1:]:
            message["role"] = "assistant" if message["role"] == "user" else "user"


X208 = Fault("X208", "Messages begin with the name of their speaker.", "sft", "data", OURS)


@X208.planted(sft_chat, told="DATA058", at="data")
def speakers_name_themselves(world: World) -> None:
    for row in world.rows:
        for message in row["messages"]:
            if message["role"] == "assistant":
                message["content"] = f"Assistant: {message['content']}"


X209 = Fault("X209", "Messages were rendered before, and are once more.", "sft", "data", OURS)


@X209.planted(sft_chat, told="DATA059", at="data")
def contents_are_rendered(world: World) -> None:
    for row in world.rows:
        for message in row["messages"]:
            message["content"] = f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"


X210 = Fault("X210", "Answers were shuffled without their prompts.", "sft", "data", OURS)


@X210.planted(sft_full, told="DATA052", at="data")
def answers_are_shuffled(world: World) -> None:
    answers = [row["completion"] for row in world.rows]
    random.Random(1).shuffle(answers)
    for row, answer in zip(world.rows, answers, strict=True):
        row["completion"] = answer


X211 = Fault("X211", "Answers end with the end token of another model, as text.", "sft", "data", OURS)


@X211.planted(sft_full, told="DATA016", at="data")
def another_end_token_is_written(world: World) -> None:
    for row in world.rows:
        row["completion"] += "</s>"


X212 = Fault("X212", "Dropout takes most of what is computed.", "all", "model", OURS)


@X212.planted(sft_full, dpo_full, told=("MODEL031", "DPO012"), at="model")
def attention_keeps_a_tenth(world: World) -> None:
    world.recipe["training"]["model_init_kwargs"] = {"attention_dropout": 0.9}


X213 = Fault("X213", "The rank of the adapters is beyond that of the weights.", "all", "model", OURS)


@X213.planted(sft_lora, told=("MODEL010", "MODEL032"), at="model")
def a_rank_of_thousands(world: World) -> None:
    world.recipe["model"]["lora"]["r"] = 4096


X214 = Fault("X214", "The reward of an answer changes from one asking to the next.", "ppo", "step", OURS)


@X214.planted(ppo_full, told="PPO016", at="step", trl=NO_PPO)
def the_reward_is_drawn(world: World) -> None:
    (world.folder / "rewards.py").write_text(
        "import random\n\n\ndef share_of_letters(completions):\n    return [random.random() for _ in completions]\n",
        encoding="utf-8",
    )


X215 = Fault("X215", "Answers are sampled so hot that they are noise.", "ppo", "recipe", OURS)


@X215.planted(ppo_full, told="PPO015", at="recipe", trl=NO_PPO)
def a_temperature_of_ten(world: World) -> None:
    world.recipe["training"]["temperature"] = 10.0


X216 = Fault("X216", "A rollout is trained on a hundred times.", "ppo", "recipe", OURS)


@X216.planted(ppo_full, told="PPO015", at="recipe", trl=NO_PPO)
def a_hundred_passes(world: World) -> None:
    world.recipe["training"]["num_ppo_epochs"] = 100


X217 = Fault("X217", "A mark tells the chosen side from the rejected one.", "dpo", "data", OURS)


@X217.planted(dpo_full, told="DATA070", at="data")
def answers_hold_their_rating(world: World) -> None:
    for row in world.rows:
        row["chosen"], row["rejected"] = f"[score: 5] {row['chosen']}", f"[score: 1] {row['rejected']}"


X218 = Fault("X218", "Answers are escaped for a web page.", "sft", "data", OURS)


@X218.planted(sft_full, told=())
def answers_are_html(world: World) -> None:
    for row in world.rows:
        row["completion"] = f"<p>{row['completion'].replace(' ', '&nbsp;')}</p>"


X219 = Fault("X219", "Answers are cut in their middle.", "sft", "data", OURS)


@X219.planted(sft_full, told=())
def halves_of_answers(world: World) -> None:
    for row in world.rows:
        row["completion"] = row["completion"][: len(row["completion"]) // 2]


X220 = Fault("X220", "The score depends on the prompt, and hardly on the answer.", "ppo", "step", OURS)


@X220.planted(ppo_full, told=(), trl=NO_PPO)
def the_reward_reads_the_prompt(world: World) -> None:
    (world.folder / "rewards.py").write_text(
        "def share_of_letters(prompts, completions):\n"
        "    return [float(len(p)) + 1e-4 * len(c) for p, c in zip(prompts, completions)]\n",
        encoding="utf-8",
    )
