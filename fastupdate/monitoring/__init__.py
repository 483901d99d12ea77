"""Records of a training, and what they say about it."""

from fastupdate.monitoring.noise_scale import NoiseScale as NoiseScale
from fastupdate.monitoring.noise_scale import noise_scale as noise_scale
