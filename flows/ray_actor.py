"""The actor that Ray runs on a host: it finds the `Worker` there, or says why there is none."""

from typing import Any

from flows.ray_cluster import Share


def actor_class(ray: Any, share: Share) -> Any:
    """Return the class of the actors, each of which takes a share of a machine.

    It is made in here, and names nothing of this module: so Ray sends the class itself instead of
    its name, and a host without this package can say that it has none.
    """

    class Actor:
        def __init__(self, version: str, asked: dict[str, Any]) -> None:
            self.version, self.asked = version, asked
            self.worker: Any = None

        def begin(self) -> tuple[str, str]:
            """Return the name of the host and what is wrong with it; nothing: it can work."""
            import os
            import socket
            import sys
            from importlib import metadata

            host = socket.gethostname()
            os.environ["OMP_NUM_THREADS"] = str(self.asked["cores"])  # before torch is loaded
            try:
                here = metadata.version("pseudolabel")
            except metadata.PackageNotFoundError:
                return host, f"{sys.executable} has no pseudolabel; install it on every host"
            if here != self.version:
                return host, f"it has pseudolabel {here}, this run is of {self.version}"
            from flows.ray_worker import begin

            made = begin(**self.asked)
            if isinstance(made, str):
                return host, made
            self.worker = made
            return host, ""

        def work(self) -> Any:
            return self.worker.work()

        def news(self) -> tuple[int, int, bool]:
            told: tuple[int, int, bool] = tuple(self.worker.news())
            return told

        def give(self, shard: Any) -> None:
            self.worker.give(shard)

    return ray.remote(Actor).options(
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        max_concurrency=4,  # work, news and give at once
        max_restarts=0,  # it is replaced by one with a permit of its own
        scheduling_strategy="SPREAD",
    )
