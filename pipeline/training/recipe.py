"""What is to be trained: which heads, with which knobs, on what beside the images."""

from dataclasses import asdict, dataclass

from pipeline.training.heads.base import HeadSettings
from pipeline.training.side.settings import SideSettings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The knobs of one training."""

    heads: tuple[str, ...]  # kinds, the preferred one first
    settings: HeadSettings
    side: SideSettings
    allow_leakage: bool  # go on where side information says nearly as much as the image

    def knobs(self) -> dict[str, object]:
        """Return as JSON all that decides a head, but for what its side information holds."""
        told = asdict(self)
        del told["side"], told["settings"]["device"]
        return told
