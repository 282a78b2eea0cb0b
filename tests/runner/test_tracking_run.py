from __future__ import annotations

import getpass
import hashlib
import json
import math
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftrun.runner.tracking.delivered import Delivered, read_delivered
from ftrun.runner.tracking.journal import read_journal
from ftrun.runner.tracking.ledger import TrackedData, read_ledger
from ftrun.runner.tracking.pending import send_pending
from ftrun.runner.tracking.run import TrackedRun, judge_end
from ftrun.schemas.errors import TrackingError

WAIT = 120.0  # seconds; a busy machine needs some to import mlflow and make a store
HF = "hf_" + "aB3" * 11


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def closed_port() -> Iterator[str]:
    """The address of a port that nobody listens on while the test runs."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


def begin(uri: str, folder: Path, **more: Any) -> TrackedRun:
    values = {"params": {"seed": 1}, "tags": {}, "sample_seconds": None, **more}
    return TrackedRun.start(uri, "tests", folder.name, folder, **values)


def delivered(folder: Path) -> Delivered:
    ledger = read_ledger(folder)
    assert ledger is not None
    return read_delivered(folder, ledger)


def fetch(uri: str, folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri).get_run(delivered(folder).run_id)


def history(uri: str, folder: Path, key: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=uri).get_metric_history(delivered(folder).run_id, key)
    return sorted((metric.step, metric.value) for metric in found)


def list_artifacts(uri: str, folder: Path) -> dict[str, bytes]:
    root = Path(fetch(uri, folder).info.artifact_uri.removeprefix("file://"))
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_every_metric_of_every_step_is_there_exactly(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    with begin(uri, tmp_path) as run:
        for step in range(1, 1501):
            run.log(step, {"train/loss": 1 / step, "train/grad_norm": math.sqrt(step)})
        run.finish("FINISHED", WAIT)
    assert not run.pending, run.problem
    assert history(uri, tmp_path, "train/loss") == [(step, 1 / step) for step in range(1, 1501)]
    assert history(uri, tmp_path, "train/grad_norm") == [(step, math.sqrt(step)) for step in range(1, 1501)]
    times = [one.timestamp for one in MlflowClient(uri).get_metric_history(run.run_id, "train/loss")]
    assert sorted(times) == [entry.time for entry in read_journal(tmp_path / "metrics.jsonl")]
    assert list_artifacts(uri, tmp_path)["ftrun/metrics.jsonl"] == (tmp_path / "metrics.jsonl").read_bytes()


def test_nan_and_odd_names_arrive(uri: str, tmp_path: Path) -> None:
    run = begin(uri, tmp_path, params={"a@b": {"c d": "x" * 9000}}, tags={"e[f]": "g"})
    run.log(1, {"loss": math.nan, "eval/acc@1 (top)": 0.25, "../up//x": 3.0})
    outcome = run.finish("FINISHED", WAIT)
    assert not run.pending
    assert "refused" not in outcome
    assert [math.isnan(value) for _, value in history(uri, tmp_path, "loss")] == [True]
    assert history(uri, tmp_path, "eval/acc_1 _top_") == [(1, 0.25)]
    assert history(uri, tmp_path, "_/up/x") == [(1, 3.0)]
    data = fetch(uri, tmp_path).data
    assert data.params["a_b.c d"].startswith("sha256:")
    assert data.tags["e_f_"] == "g"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("no more memory\nat all"), "FAILED"),
        (SystemExit(128 + signal.SIGTERM), "KILLED"),
    ],
)
def test_the_status_tells_how_the_block_was_left(
    uri: str, tmp_path: Path, error: BaseException | None, status: str
) -> None:
    run = begin(uri, tmp_path)
    try:
        with run:
            run.log(1, {"loss": 1.0})
            if error is not None:
                raise error
    except BaseException as caught:
        assert caught is error
    assert not run.pending, run.outcome
    found = fetch(uri, tmp_path)
    assert found.info.status == status
    assert found.info.end_time >= found.info.start_time
    failure = found.data.tags.get("ftrun.failure", "")
    assert failure.split(":")[0] == ("" if error is None else type(error).__name__)
    assert "at all" not in failure


def test_an_exit_is_judged_by_its_code() -> None:
    assert judge_end(KeyboardInterrupt()) == "KILLED"
    assert judge_end(SystemExit(1)) == "FAILED"
    assert judge_end(SystemExit(None)) == "FAILED"


def test_data_files_are_inputs_with_their_whole_digest(uri: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"rows").hexdigest()
    files = [
        TrackedData("rows.jsonl", "data/rows.jsonl", digest, 12, "training"),
        TrackedData("rows.jsonl", "data/rows.jsonl", digest, 3, "eval"),
    ]
    run = begin(uri, tmp_path, datasets=files)
    run.finish("FINISHED", WAIT)
    found = {item.tags[0].value: item for item in fetch(uri, tmp_path).inputs.dataset_inputs}
    assert set(found) == {"training", "eval"}
    assert {tag.key: tag.value for tag in found["eval"].tags}["sha256"] == digest
    assert found["training"].dataset.digest == digest[:36]
    assert json.loads(found["training"].dataset.profile) == {"num_rows": 12}


def test_artifacts_arrive_and_training_args_never(uri: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "weights.safetensors").write_bytes(b"\x00\xff")
    (model / "sub" / "vocab.json").write_text('{"password": 12}')
    (model / "training_args.bin").write_bytes(HF.encode())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: one\n")
    run = begin(uri, tmp_path / "run", artifacts=[recipe])
    run.log_text("first", "notes/a.txt")
    run.log_text("second", "notes/a.txt")
    run.log_folder(model, "model")
    with pytest.raises(TrackingError, match="tokens"):
        run.log_artifact(model / "training_args.bin")
    run.finish("FINISHED", WAIT)
    found = list_artifacts(uri, tmp_path / "run")
    found.pop("ftrun/metrics.jsonl")
    assert found == {
        "ftrun/recipe.yaml": b"name: one\n",
        "ftrun/notes/a.txt": b"second",
        "model/weights.safetensors": b"\x00\xff",
        "model/sub/vocab.json": b'{"password": 12}',
    }


def test_an_artifact_that_is_gone_is_told_and_stops_nothing(uri: str, tmp_path: Path) -> None:
    lost = tmp_path / "lost.txt"
    run = begin(uri, tmp_path / "run", artifacts=[lost])
    run.log(1, {"loss": 1.0})
    outcome = run.finish("FINISHED", WAIT)
    assert "lost.txt is not there any more" in outcome
    assert history(uri, tmp_path / "run", "loss") == [(1, 1.0)]


def test_secrets_are_nowhere_in_the_store(tmp_path: Path) -> None:
    secrets = [HF, "hunter2pw", "sk-proj-" + "a1b2" * 8, "AKIA" + "ABCD1234EFGH5678", "cookie77monster"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"training:\n  hub_token: cookie77monster\nmodel:\n  path: {HF}\n")
    store = tmp_path / "store"
    run = begin(
        f"sqlite:///{store}/mlflow.db",
        tmp_path / "run",
        params={"training": {"hub_token": "cookie77monster", "note": f"with {HF}"}},
        tags={"db_password": "hunter2pw", "note": secrets[2]},
        artifacts=[recipe],
        datasets=[TrackedData("d", "https://me:hunter2pw@example.org/d", "0" * 64, 1, "training")],
    )
    run.log_text(f'key {secrets[3]} and {{"api_key": "cookie77monster"}}', "log.txt")
    run.set_tags({"ftrun.failure": f"no access with {HF}"})
    run.finish("FAILED", WAIT)
    assert not run.pending
    stored = [path.read_bytes() for path in store.rglob("*") if path.is_file()]
    assert len(stored) >= 4
    for secret in secrets:
        assert not [content for content in stored if secret.encode() in content], secret
    for name in ("tracking.json", "delivered.json"):
        assert HF not in (tmp_path / "run" / name).read_text()
    assert HF in recipe.read_text()


def test_a_closed_port_costs_nothing_and_loses_nothing(uri: str, closed_port: str, tmp_path: Path) -> None:
    run = begin(closed_port, tmp_path, params={"seed": 7})
    for step in range(500):
        run.log(step, {"loss": float(step)})
    run.log_text("kept", "note.txt")
    outcome = run.finish("FINISHED", wait_seconds=0.2)
    assert run.pending
    assert "ftrun sync" in outcome
    assert [entry.step for entry in read_journal(tmp_path / "metrics.jsonl")] == list(range(500))
    document = json.loads((tmp_path / "tracking.json").read_text())
    assert (document["uri"], document["status"]) == (closed_port, "FINISHED")
    assert run.run_id == ""
    with pytest.raises(TrackingError, match="did not take the record"):
        send_pending(tmp_path)

    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    shutil.copytree(tmp_path, moved)
    assert "The record is in MLflow" in send_pending(moved, uri)
    assert history(uri, moved, "loss") == [(step, float(step)) for step in range(500)]
    assert fetch(uri, moved).data.params == {"seed": "7"}
    assert fetch(uri, moved).info.status == "FINISHED"
    assert list_artifacts(uri, moved)["ftrun/note.txt"] == b"kept"


def test_a_line_that_a_full_disk_cut_short_is_not_waited_for(
    uri: str, closed_port: str, tmp_path: Path
) -> None:
    with begin(closed_port, tmp_path) as run:
        run.log(1, {"loss": 0.5})
        run.finish("FINISHED", 0.1)
    with (tmp_path / "metrics.jsonl").open("ab") as journal:
        journal.write(b'{"step": 2, "time": 17')
    assert send_pending(tmp_path, uri).startswith("The record is in MLflow")


def test_a_server_that_never_answers_holds_nothing_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        run = begin(f"http://127.0.0.1:{deaf.getsockname()[1]}", tmp_path)
        run.log(1, {"loss": 1.0})
        assert "ftrun sync" in run.finish("FINISHED", wait_seconds=0.2)
    assert len(read_journal(tmp_path / "metrics.jsonl")) == 1


def test_sending_everything_again_changes_nothing(uri: str, tmp_path: Path) -> None:
    run = begin(uri, tmp_path, datasets=[TrackedData("d", "d.jsonl", "1" * 64, 5, "training")])
    for step in range(30):
        run.log(step, {"loss": step / 7, "nan": math.nan})
    run.finish("FINISHED", WAIT)
    first = fetch(uri, tmp_path)
    (tmp_path / "delivered.json").unlink()
    send_pending(tmp_path)
    again = fetch(uri, tmp_path)
    assert again.info.run_id == first.info.run_id
    assert history(uri, tmp_path, "loss") == [(step, step / 7) for step in range(30)]
    assert len(history(uri, tmp_path, "nan")) == 30
    assert again.inputs.to_dictionary() == first.inputs.to_dictionary()


def test_a_resumed_run_goes_on_in_the_same_one(uri: str, tmp_path: Path) -> None:
    run = begin(uri, tmp_path, params={"epochs": 1})
    run.log(1, {"loss": 2.0})
    run.set_tags({"ftrun.failure": "interrupted"})
    run.finish("KILLED", WAIT)
    assert fetch(uri, tmp_path).data.tags["ftrun.failure"] == "interrupted"
    resumed = begin(uri, tmp_path, params={"epochs": 2, "extra": True})
    resumed.log(2, {"loss": 1.0})
    outcome = resumed.finish("FINISHED", WAIT)
    assert resumed.run_id == run.run_id
    found = fetch(uri, tmp_path)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"epochs": "1", "extra": "true"}
    assert "ftrun.failure" not in found.data.tags
    assert "parameter epochs stays 1" in outcome
    assert history(uri, tmp_path, "loss") == [(1, 2.0), (2, 1.0)]


def test_a_folder_has_one_writer(uri: str, tmp_path: Path) -> None:
    run = begin(uri, tmp_path)
    with pytest.raises(TrackingError, match="Another process"):
        begin(uri, tmp_path)
    with pytest.raises(TrackingError, match="still going"):
        send_pending(tmp_path)
    run.finish("FINISHED", WAIT)
    send_pending(tmp_path)


def test_system_metrics_arrive_under_mlflows_names(uri: str, tmp_path: Path) -> None:
    run = begin(uri, tmp_path, sample_seconds=0.05)
    run.finish("FINISHED", WAIT)
    resumed = begin(uri, tmp_path, sample_seconds=0.05)
    resumed.finish("FINISHED", WAIT)
    steps = [step for step, _ in history(uri, tmp_path, "system/cpu_utilization_percentage")]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 2
    assert history(uri, tmp_path, "system/system_memory_usage_megabytes")[0][1] > 0
    assert read_journal(tmp_path / "metrics.jsonl") == []


def test_where_to_look_is_known_at_once_and_who_runs_it_soon(uri: str, tmp_path: Path) -> None:
    run = begin(uri, tmp_path)
    assert run.describe() == f"mlflow ui --backend-store-uri {uri}"
    while not run.run_id:
        time.sleep(0.05)
    run.finish("FINISHED", WAIT)
    found = fetch(uri, tmp_path)
    assert found.data.tags["mlflow.user"] == getpass.getuser()
    assert {"ftrun.host", "ftrun.pid", "ftrun.key"} <= set(found.data.tags)
    assert int(found.data.tags["ftrun.heartbeat"]) >= found.info.start_time


def test_a_stage_is_shown_under_its_pipeline(uri: str, tmp_path: Path) -> None:
    whole = begin(uri, tmp_path / "whole")
    stage = begin(uri, tmp_path / "stage", parent=tmp_path / "whole")
    stage.finish("FINISHED", WAIT)
    assert not stage.pending, stage.outcome
    assert fetch(uri, tmp_path / "stage").data.tags["mlflow.parentRunId"] == whole.run_id != ""
    whole.finish("FINISHED", WAIT)
    with pytest.raises(TrackingError, match="not the folder of a tracked run"):
        begin(uri, tmp_path / "other", parent=tmp_path)


@pytest.mark.slow
def test_a_stage_finds_its_pipeline_when_both_are_sent_later(
    uri: str, closed_port: str, tmp_path: Path
) -> None:
    whole = begin(closed_port, tmp_path / "before" / "whole")
    stage = begin(closed_port, tmp_path / "before" / "stage", parent=tmp_path / "before" / "whole")
    stage.finish("FINISHED", 0.0)
    whole.finish("FINISHED", 0.0)
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    send_pending(tmp_path / "after" / "whole", uri)
    assert "The record is in MLflow" in send_pending(tmp_path / "after" / "stage", uri)
    parent = fetch(uri, tmp_path / "after" / "whole").info.run_id
    assert fetch(uri, tmp_path / "after" / "stage").data.tags["mlflow.parentRunId"] == parent

    (tmp_path / "after" / "whole" / "delivered.json").unlink()
    assert f"sync {tmp_path / 'after' / 'whole'} first" in send_pending(tmp_path / "after" / "stage")
