"""Write the pairs of answers that `recipes/reward.yaml` and `recipes/dpo.yaml` train on.

The task is that of make_support_data.py: route a customer's message. The chosen answer is the line that is
true of the message; the rejected one names the wrong team, and often more that is wrong. Both have the same
fields in the same order, so that neither length nor form tells them apart. Every answer that is true of one
message is false of another: no word of an answer is good or bad in itself. What is held out is new as it is
there, and no message occurs in the support rows.

Usage: python .ci/make_preference_data.py [FOLDER]   (the folder is recipes/data unless given)
"""

import random
import sys
from pathlib import Path

from make_support_data import PROBLEMS, PRODUCTS, URGENCY, make_splits, write_message, write_rows

TRAIN_PAIRS = 600
HELDOUT_PAIRS = 150
SEED = 21

Fields = dict[str, str]
Pair = dict[str, list[dict[str, str]]]

CHOICES = {
    "team": tuple(PROBLEMS),
    "product": PRODUCTS,
    "urgency": tuple(URGENCY),
    "order": ("given", "missing"),
}
