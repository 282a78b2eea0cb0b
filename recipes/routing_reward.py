"""The reward of `ppo.yaml`: how far the words of an answer are those of the right routing line."""


def overlap(completions, chosen):
    """Twice the words that an answer shares with the right line, over the words of both: 0 to 1.

    A word that is repeated counts once among the shared ones, and each time among those of the answer.
    """
    scores = []
    for answer, right in zip(completions, chosen, strict=True):
        written, wanted = words_of(answer), words_of(right[-1]["content"])
        shared = set(written) & set(wanted)
        scores.append(2 * len(shared) / (len(written) + len(wanted)))
    return scores


def words_of(line):
    return line.replace(":", " ").replace("|", " ").split()
