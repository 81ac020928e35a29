"""The demo zoo: a small base model, three experts, tasks and texts, made on this machine."""

from evoaim.zoo.build import build_zoo, is_intact
from evoaim.zoo.spec import ZooSpec

__all__ = ["ZooSpec", "build_zoo", "is_intact"]
