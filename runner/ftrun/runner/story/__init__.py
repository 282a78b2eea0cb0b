"""What happened in a run: `ftrun runs`, `ftrun show` and `ftrun diff`.

Read `run` (a run as a store tells it at once), `record_files` (the files of its record), `folder` and `source` (where a
run is read from: its folder, or MLflow alone), `history` (all of it as one value), then `causes` and the pages that are
made of it: `listing`, `show`, `comparison`. Of a run whose folder is here nothing is asked of MLflow, and nothing is
imported that the light base lacks.
"""
