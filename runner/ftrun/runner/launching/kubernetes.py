"""A job for Kubernetes: a TrainJob of Kubeflow Trainer 2, in which torchrun starts one process for each GPU."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

from ftrun.runner.launching.job import Job

HOME = "/workspace"
LONGEST = 50
"""Letters of a name: Kubernetes allows 63 to that of a machine, which is the job's with `-node-0-0` and more."""


def form_manifest(job: Job) -> str:
    """The manifest, for the runtime `torch-distributed` that Kubeflow Trainer installs.

    Source: the TrainJob of https://github.com/kubeflow/trainer, version 2.3, `trainer.kubeflow.org/v1alpha1`.
    """
    return "\n".join(_lines(job)) + "\n"


def make_name(name: str) -> str:
    """A recipe's name as a label of RFC 1035: lower-case letters, digits and dashes, a letter first."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    label = label if label[:1].isalpha() else f"run-{label}"
    return label[:LONGEST].strip("-")


def _lines(job: Job) -> Iterator[str]:
    yield "# Start it with `kubectl create -f FILE`. Yours to set: image, claim, and what your cluster asks for."
    yield "apiVersion: trainer.kubeflow.org/v1alpha1"
    yield "kind: TrainJob"
    yield "metadata:"
    yield f"  name: {make_name(job.name)}"
    yield "spec:"
    yield "  runtimeRef:"
    yield "    apiGroup: trainer.kubeflow.org"
    yield "    kind: ClusterTrainingRuntime"
    yield "    name: torch-distributed"
    yield "  trainer:"
    yield "    image: ftrun:latest  # an image with ftrun[train]"
    yield f"    numNodes: {job.machines}"
    yield f"    numProcPerNode: {job.per_machine}"
    yield "    command:"
    yield "      - bash"
    yield "      - -c"
    run = shlex.join(["torchrun", "-m", "ftrun", *job.words])
    yield f"      - {json.dumps(f'cd {HOME} && exec {run}', ensure_ascii=False)}"
    yield from _environment(job)
    if job.gpus:
        yield "    resourcesPerNode:"
        yield "      limits:"
        yield f"        nvidia.com/gpu: {job.gpus}"
    yield from _volumes(job)


def _environment(job: Job) -> Iterator[str]:
    yield "    env:"
    yield "      - name: PYTHONUNBUFFERED"
    yield '        value: "1"'
    if job.tracking is not None:
        yield "      - name: MLFLOW_TRACKING_URI"
        yield f"        value: {json.dumps(job.tracking)}"
    if job.hidden:
        keys = " ".join(f'--from-literal={one}="${one}"' for one in job.hidden)
        yield f"      # kubectl create secret generic ftrun {keys}"
    for name in job.hidden:
        yield f"      - name: {name}"
        yield "        valueFrom:"
        yield f"          secretKeyRef: {{name: ftrun, key: {name}}}"


def _volumes(job: Job) -> Iterator[str]:
    """A claim for recipe, data and output, and shared memory for NCCL and the data loader's processes."""
    yield "  runtimePatches:"
    yield "    - manager: ftrun.org/launch"
    yield "      trainingRuntimeSpec:"
    yield "        template:"
    yield "          spec:"
    yield "            replicatedJobs:"
    yield "              - name: node"
    yield "                template:"
    yield "                  spec:"
    yield "                    template:"
    yield "                      spec:"
    yield "                        volumes:"
    yield f"                          # Holds recipe and data, and gets {job.output}: a volume that all pods write to."
    yield "                          - name: workspace"
    yield "                            persistentVolumeClaim: {claimName: ftrun}"
    yield "                          - name: shared-memory"
    yield "                            emptyDir: {medium: Memory}"
    yield "                        containers:"
    yield "                          - name: node"
    yield "                            volumeMounts:"
    yield f"                              - {{name: workspace, mountPath: {HOME}}}"
    yield "                              - {name: shared-memory, mountPath: /dev/shm}"
