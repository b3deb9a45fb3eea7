"""The knobs of a run as a whole, with unit, range and default."""

from typing import Literal

from pydantic import Field

from pipeline.sections import Section


class RunConfig(Section):
    """Where and in which portions the work is done."""

    engine: Literal["local", "ray"] = Field(
        "local", description="local (this process) | ray (the workers of a Ray cluster embed)"
    )
    ray_address: str = Field(
        "", description="auto | host:6379 | ray://host:10001; empty: a cluster of this machine"
    )
    ray_workers: int = Field(0, ge=0, description="at most; 0: as many as the cluster has room for")
    num_cpus: float = Field(
        0, ge=0, description="cores of a Ray worker; 0: those of its machine, shared by its GPUs"
    )
    num_gpus: float = Field(0, ge=0, description="GPUs of a Ray worker")
    store_url: str = Field(
        "",
        pattern=r"^$|^https?://[^\s<>\"'\\]+$",
        description="where the store is served over HTTP, such as https://nas/store: links to its "
        "pages begin so; empty: nowhere",
    )
    shard_rows: int = Field(8192, ge=1, description="images per task and per part")
    part_rows: int = Field(65_536, ge=1, description="rows of a part that `compact` makes, at most")
    compact_after: int = Field(
        64, ge=0, description="a run that leaves more small parts than this merges them; 0: never"
    )
    decode_workers: int = Field(
        0, ge=0, description="threads, or processes, that decode images; 0: one per core"
    )
    stall_seconds: float = Field(
        1800, ge=0, description="a run that does nothing for so long is ended; 0: never"
    )
