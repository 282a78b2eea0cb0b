"""Faults of ours, a third round, thought of before the checks were read: what answers say."""

from __future__ import annotations

import html
import json

from tests.faults.plants import Fault
from tests.faults.third_material import prose, prose_chat

from ftrun.checks.testing import World

OURS = "ours"

X301 = Fault("X301", "The generator's system prompt stands in the answers.", "sft", "data", OURS)


@X301.planted(prose, told="DATA073", at="data")
def system_prompt_in_answers(world: World) -> None:
    for row in world.rows:
        row["completion"] = (
            f"You are a helpful assistant. Answer the user clearly and truthfully.\n\n{row['completion']}"
        )


X302 = Fault(
    "X302",
    "One answer in twelve is a refusal of the generator's, of harmless questions.",
    "sft",
    "data",
    OURS,
)


@X302.planted(prose, told=())
def some_refusals(world: World) -> None:
    for number, row in enumerate(world.rows[::12]):
        row["completion"] = (
            "I'm sorry, but I can't help with that request.",
            "As an AI language model, I cannot provide information on this topic.",
        )[number % 2]


X303 = Fault("X303", "The generator's preamble opens the answers of one part.", "sft", "data", OURS)


@X303.planted(prose, told=())
def a_preamble_in_half(world: World) -> None:
    for row in world.rows[120:]:
        row["completion"] = f"Sure! Here is the answer to your question:\n\n{row['completion']}"


X304 = Fault(
    "X304", "A quarter of the answers stops where the generator's budget ended.", "sft", "data", OURS
)


@X304.planted(prose, told="DATA060", at="data")
def generation_was_cut(world: World) -> None:
    for number, row in enumerate(world.rows[::4]):
        words = row["completion"].split()
        row["completion"] = " ".join(words[: min(len(words) - 2, 14 + number % 7)])


X305 = Fault("X305", "Answers of prose stand in a Markdown fence.", "sft", "data", OURS)


@X305.planted(prose, told="DATA078", at="data")
def answers_are_fenced(world: World) -> None:
    for row in world.rows:
        row["completion"] = f"```\n{row['completion']}\n```"


X306 = Fault("X306", "Answers are the generator's JSON, not the text in it.", "sft", "data", OURS)


@X306.planted(prose, prose_chat, told="DATA078", at="data")
def answers_are_json(world: World) -> None:
    for row in world.rows:
        if "messages" in row:
            row["messages"][-1]["content"] = json.dumps({"response": row["messages"][-1]["content"]})
        else:
            row["completion"] = json.dumps({"response": row["completion"]})


X307 = Fault("X307", "Answers of one source are lists that were turned into text.", "sft", "data", OURS)


@X307.planted(prose, told="DATA057", at="data")
def answers_in_brackets(world: World) -> None:
    for row in world.rows:
        row["completion"] = str([row["completion"]])


X308 = Fault("X308", "Reasoning is opened and never closed in a third of the rows.", "sft", "data", OURS)


@X308.planted(prose, prose_chat, told="DATA061", at="data")
def thoughts_stay_open(world: World) -> None:
    for number, row in enumerate(world.rows):
        closing = "" if number % 3 == 0 else "</think>\n\n"
        thought = f"<think>\nThis asks for general knowledge.\n{closing}"
        if "messages" in row:
            row["messages"][-1]["content"] = thought + row["messages"][-1]["content"]
        else:
            row["completion"] = thought + row["completion"]


X309 = Fault(
    "X309", "The tags of the reasoning were taken out, and the reasoning was not.", "sft", "data", OURS
)


@X309.planted(prose, told="DATA073", at="data")
def thoughts_without_tags(world: World) -> None:
    for row in world.rows[::2]:
        row["completion"] = (
            "Okay, the user is asking about this. Let me think about what they need and keep it short.\n\n"
            f"{row['completion']}"
        )


X310 = Fault("X310", "From one row on, answers have slipped by a row.", "sft", "data", OURS)


@X310.planted(prose, told="DATA052", at="data")
def answers_slip_from_the_middle(world: World) -> None:
    answers = [row["completion"] for row in world.rows]
    for number in range(100, len(world.rows) - 1):
        world.rows[number]["completion"] = answers[number + 1]


X311 = Fault(
    "X311", "A quarter of the answers ends with the end token of another model.", "sft", "data", OURS
)


@X311.planted(prose, told="DATA082", at="data")
def some_end_tokens_of_another_model(world: World) -> None:
    for row in world.rows[::4]:
        row["completion"] += "<|eot_id|>"


X312 = Fault("X312", "In conversations of one turn, user and assistant are exchanged.", "sft", "data", OURS)


@X312.planted(prose_chat, told=())
def the_assistant_asks(world: World) -> None:
    for row in world.rows:
        asked, answered = row["messages"]
        asked["content"], answered["content"] = answered["content"], asked["content"]


X313 = Fault("X313", "Answers go on with the next turns, as text.", "sft", "data", OURS)


@X313.planted(prose, told="DATA062", at="data")
def the_dialogue_goes_on(world: World) -> None:
    for row, other in zip(world.rows[::4], world.rows[1::4], strict=True):
        row["completion"] += f"\n\nUser: {other['prompt'].strip()}\nAssistant: {other['completion']}"


X314 = Fault("X314", "Text is escaped for a web page.", "sft", "data", OURS)


@X314.planted(prose, told="DATA063", at="data")
def entities_are_left(world: World) -> None:
    for row in world.rows:
        quoted = row["completion"].replace("the ", 'the "usual" ', 1).replace(" and ", " & ")
        row["completion"] = html.escape(quoted).replace(". ", ".&nbsp;")


X315 = Fault("X315", "UTF-8 was decoded as Windows-1252.", "sft", "data", OURS)


@X315.planted(prose, told="DATA047", at="data")
def apostrophes_are_broken(world: World) -> None:
    for row in world.rows[::5]:
        row["completion"] += " It’s worth a café visit.".encode().decode("cp1252", "replace")


X316 = Fault("X316", "Every prompt begins with a byte order mark.", "sft", "data", OURS)


@X316.planted(prose, told="DATA047", at="data")
def marks_of_byte_order(world: World) -> None:
    for row in world.rows:
        row["prompt"] = f"\ufeff{row['prompt']}"


X320 = Fault("X320", "One answer in five was left in another language.", "sft", "data", OURS)


@X320.planted(prose, told="DATA065", at="data")
def some_answers_are_german(world: World) -> None:
    for number, row in enumerate(world.rows[::5]):
        row["completion"] = (
            f"Das ist eine gute Frage, und die Antwort ist nicht schwer zu finden. Nach {number + 2} Tagen sieht man, "
            "dass es mit der Zeit besser wird, wenn man sich die Mühe macht."
        )


X321 = Fault("X321", "Some answers are the placeholder that was to be filled.", "sft", "data", OURS)


@X321.planted(prose, told="DATA079", at="data")
def some_answers_are_placeholders(world: World) -> None:
    for row in world.rows[::20]:
        row["completion"] = "{{ answer }}"


X322 = Fault("X322", "Cells of a spreadsheet hold its errors.", "sft", "data", OURS)


@X322.planted(prose, told="DATA056", at="data")
def cells_hold_errors(world: World) -> None:
    for row in world.rows[::30]:
        row["completion"] = "#N/A"


X327 = Fault("X327", "Answers begin with their prompt, since generate() gives both.", "sft", "data", OURS)


@X327.planted(prose, told="DATA043", at="data")
def answers_begin_with_the_prompt(world: World) -> None:
    for row in world.rows:
        row["completion"] = f"{row['prompt'].strip()} {row['completion']}"


X328 = Fault("X328", "Answers begin with the number of their row.", "sft", "data", OURS)


@X328.planted(prose, told="DATA067", at="data")
def rows_are_numbered(world: World) -> None:
    for number, row in enumerate(world.rows, 1):
        row["completion"] = f"{number}. {row['completion']}"


X329 = Fault("X329", "Line breaks were escaped once too often.", "sft", "data", OURS)


@X329.planted(prose, told="DATA063", at="data")
def backslashes_for_lines(world: World) -> None:
    for row in world.rows:
        row["completion"] = row["completion"].replace(". ", ".\\n\\n")


X330 = Fault("X330", "A scraper took the furniture of the page along.", "sft", "data", OURS)


@X330.planted(prose, told="DATA074", at="data")
def furniture_of_a_page(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] += (
            "\n\nShare this on Facebook. Read more articles in our archive. Accept all cookies."
        )


X331 = Fault("X331", "One answer in ten loops at its end.", "sft", "data", OURS)


@X331.planted(prose, told="DATA068", at="data")
def the_generator_loops(world: World) -> None:
    for row in world.rows[::10]:
        row["completion"] += " It is worth a second look at the details." * 10


X332 = Fault("X332", "The generator speaks to whoever ordered the data.", "sft", "data", OURS)


@X332.planted(prose, told=())
def the_generator_offers_changes(world: World) -> None:
    for number, row in enumerate(world.rows):
        if number % 5 < 2:
            row["completion"] += "\n\nLet me know if you'd like me to adjust the tone or the length!"
