"""The engines in Python, for Numba on the CPU and on CUDA devices."""
