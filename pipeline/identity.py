"""What makes two things the same: digests of content, and the identity of an encoder."""

import hashlib
import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class EncoderIdentity:
    """What two embeddings must share to be comparable."""

    architecture: str = field(compare=False)  # a name for people: the weights decide
    weights: str  # SHA-256 of every parameter, first 32 hex digits
    preprocessing: str  # size, resize mode, interpolation, mean and standard deviation
    dimension: int
    logit_scale: float
    logit_bias: float | None  # only models trained with a sigmoid loss have one

    def __str__(self) -> str:
        return f"{self.architecture} (weights {self.weights[:12]}, {self.dimension} dimensions)"


def digest(content: object) -> str:
    """Return 16 hex digits that stand for any JSON-able content."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()[:16]


def difference(held: EncoderIdentity, given: EncoderIdentity) -> str:
    """Name the fields in which two encoders differ, with both values."""
    pairs = zip(asdict(held).items(), asdict(given).values(), strict=True)
    told = [
        f"{name} {old} against {new}"
        for (name, old), new in pairs
        if old != new and name != "architecture"
    ]
    return ", ".join(told)
