"""How busy the machine is, sampled while a run goes on.

Names, units and steps are those of MLflow's own monitor (`system/`, steps counting samples from 0), so that
its System metrics page shows them.
"""

from __future__ import annotations

import importlib
import os
import threading
from typing import Any

from ftrun.runner.tracking.journal import Journal, read_journal

PREFIX = "system/"


class Sampler:
    """Writes a sample to `journal` every `seconds`, and a last one at `stop`."""

    def __init__(self, journal: Journal, seconds: float) -> None:
        self._journal = journal
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling, name="ftrun-system", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take the last sample; a second call changes nothing."""
        self._stopping.set()
        self._thread.join()
        self._journal.close()

    def _keep_sampling(self) -> None:
        import psutil

        entries = read_journal(self._journal.path)
        step = entries[-1].step + 1 if entries else 0
        gpus = GraphicsCards()
        psutil.cpu_percent()  # the first call only sets the point from which the next one counts
        while True:
            stopping = self._stopping.wait(self._seconds)
            metrics = {**sample_host(), **gpus.sample()}
            self._journal.append(step, {PREFIX + name: value for name, value in metrics.items()})
            step += 1
            if stopping:
                return


def sample_host() -> dict[str, float]:
    """CPU since the last call, memory and the disk of the root folder; megabytes are 10^6 bytes."""
    import psutil

    memory = psutil.virtual_memory()
    disk = psutil.disk_usage(os.sep)
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.used / memory.total * 100,
        "disk_usage_percentage": disk.percent,
        "disk_usage_megabytes": disk.used / 1e6,
        "disk_available_megabytes": disk.free / 1e6,
    }


class GraphicsCards:
    """The NVIDIA devices of this machine; none without the package nvidia-ml-py or without a driver."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._devices: list[Any] = []
        try:
            self._nvml = importlib.import_module("pynvml")
        except ImportError:
            return
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            self._devices = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except self._nvml.NVMLError:
            return

    def sample(self) -> dict[str, float]:
        """Load, memory and power of each device; what a device does not report is absent."""
        metrics: dict[str, float] = {}
        for index, device in enumerate(self._devices):
            for read in (self._read_memory, self._read_load, self._read_power):
                try:
                    found = read(device)
                except self._nvml.NVMLError:
                    continue
                metrics.update({f"gpu_{index}_{name}": value for name, value in found.items()})
        return metrics

    def _read_memory(self, device: Any) -> dict[str, float]:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
        return {
            "memory_usage_megabytes": memory.used / 1e6,
            "memory_usage_percentage": memory.used / memory.total * 100,
        }

    def _read_load(self, device: Any) -> dict[str, float]:
        return {"utilization_percentage": self._nvml.nvmlDeviceGetUtilizationRates(device).gpu}

    def _read_power(self, device: Any) -> dict[str, float]:
        milliwatts = self._nvml.nvmlDeviceGetPowerUsage(device)
        limit = self._nvml.nvmlDeviceGetEnforcedPowerLimit(device)
        return {"power_usage_watts": milliwatts / 1000, "power_usage_percentage": milliwatts / limit * 100}
