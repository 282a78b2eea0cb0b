"""The record of a run: a journal in the run folder first, MLflow fed from it by a process of its own.

Read `journal` (what training writes), `ledger` (what MLflow shall hold), `delivered` (what it already holds),
`delivery` (how the one becomes the other), `courier` (the process that sees to it), then `run` (what training
sees). Nothing here imports mlflow, torch or transformers before it is needed: mlflow alone costs more than a
second.
"""
