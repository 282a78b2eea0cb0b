"""What an answer is worth: replace this with what you want more of."""


def score(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
    """A number for each answer, the higher the better; `columns` holds the other columns of the rows, as lists.

    Here: how near an answer is to ten words, from 0 to 1.
    """
    return [max(0.0, 1 - abs(len(answer.split()) - 10) / 10) for answer in completions]
