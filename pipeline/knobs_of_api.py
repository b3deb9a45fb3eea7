"""The knobs of the service, `pseudolabel api`, with unit, range and default."""

from pydantic import Field

from pipeline.sections import Section


class ApiConfig(Section):
    """Where the service listens, and what one client may ask of it."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address to listen on; nobody is asked who he is: keep it on this machine, "
        "or behind a proxy that asks",
    )
    port: int = Field(8765, ge=0, le=65_535, description="0: any that is free")
    hosts: tuple[str, ...] = Field(
        (),
        description="other names that requests may call a loopback address by, such as a proxy's; "
        "the rest are refused, or any web page could read the answers (DNS rebinding)",
    )
    max_upload_mb: float = Field(32, gt=0, description="of one request, all its images together")
    max_files: int = Field(32, ge=1, description="images in one request")
    max_pixels: int = Field(
        50_000_000, ge=1, description="larger uploads are refused before they are decoded"
    )
    decode_seconds: float = Field(15, gt=0, description="an upload that takes longer is refused")
    upload_seconds: float = Field(60, gt=0, description="a request must have arrived by then")
    max_waiting: int = Field(
        256, ge=1, description="requests under way; further ones are told to come again (503)"
    )
    max_uploads: int = Field(16, ge=1, description="uploads received at once; others wait")
    batch: int = Field(64, ge=1, description="requests that go through the model together")
    batch_ms: float = Field(
        2, ge=0, le=1000, description="milliseconds that a request waits for companions"
    )
    thumbnail: int = Field(512, ge=16, le=2048, description="longest side in pixels at most")
    follow_seconds: float = Field(
        0,
        ge=0,
        description="seconds between looks whether the store has changed; 0: 1 on this machine, "
        "30 in a bucket, where looks are billed",
    )
