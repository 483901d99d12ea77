"""Records of a training, and what they say about it."""

from fastupdate.monitoring.noise_scale import NoiseScale as NoiseScale
from fastupdate.monitoring.noise_scale import noise_scale as noise_scale

__all__ = ["NoiseScale", "noise_scale"]


def __dir__() -> list[str]:
    """What is for users, not the modules that it is written in."""
    return __all__
