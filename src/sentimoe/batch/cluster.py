"""A Ray cluster: one that runs, or one that is started on this machine for the time of a job."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import ConfigError, StoppedError

CPUS = 0.9  # of an actor, which computes in one thread; the rest is for reading


@dataclass(frozen=True)
class Cluster:
    """Where a job runs, and on how many actors, each of which holds the model.

    address: of a running cluster that this machine belongs to, such as `auto` or `10.0.0.1:6379`; None: one is started
    on this machine. actors: None: one per processor of the cluster, or as many as its GPUs can hold. gpus: of each
    actor; a fraction lets several share one.
    """

    address: str | None = None
    actors: int | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.address is not None and self.address.startswith("ray://"):
            raise ConfigError(
                f"{self.address} is of a client outside the cluster, where the inputs cannot be read; run the command "
                "on a machine of the cluster, with --ray-address auto"
            )
        if self.actors is not None and self.actors < 1:
            raise ConfigError(f"actors is {self.actors}; at least 1 is needed")
        if not 0 <= self.gpus <= 1:
            raise ConfigError(f"gpus is {self.gpus}; an actor takes from 0 to 1 of a GPU")

    @contextmanager
    def connected(self) -> Iterator[int]:
        """Connect to it, unless this process is connected already; how many actors there will be.

        Raises ConfigError where Ray is not installed, no cluster answers, or it cannot hold the actors.
        """
        try:
            import ray
        except ImportError as error:
            raise ConfigError("Ray is not installed: pip install 'sentimoe[ray]'") from error
        ours = not ray.is_initialized()
        if ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            handler = signal.getsignal(signal.SIGTERM)
            try:
                ray.init(
                    address=self.address or "local",
                    include_dashboard=False if self.address is None else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(f"no Ray cluster answers at {self.address or 'this machine'}: {error}") from error
            finally:
                if threading.current_thread() is threading.main_thread():  # Ray puts its own in the place of ours
                    signal.signal(signal.SIGTERM, handler)
        try:
            yield self._actors(ray.cluster_resources())
        except ray.exceptions.RayError as error:
            raise StoppedError(f"stopped, because Ray failed ({error}); the same command goes on") from error
        finally:
            if ours:
                ray.shutdown()

    def _actors(self, resources: dict[str, float]) -> int:
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        most = int(cpus / CPUS) if self.gpus == 0 else min(int(gpus / self.gpus), int(cpus / CPUS))
        if most < (self.actors or 1):
            raise ConfigError(
                f"the cluster has {cpus:g} processors and {gpus:g} GPUs: room for {most} actors with {CPUS:g} "
                f"processors and {self.gpus:g} GPUs each, not for {self.actors or 1}"
            )
        return self.actors or min(most, int(cpus))
