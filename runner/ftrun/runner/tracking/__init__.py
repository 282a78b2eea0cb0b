"""The record of a run: a journal in the run folder first, MLflow fed from it by a background thread.

Read `journal` (what training writes), `ledger` (what MLflow shall hold and what it already holds),
`delivery` (how the one becomes the other), then `run` (what training sees). Nothing here imports mlflow,
torch or transformers before it is needed: mlflow alone costs more than a second.
"""
