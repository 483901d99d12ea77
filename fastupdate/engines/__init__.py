"""What runs a plan: native, CUDA or Numba; which one is chosen once per optimizer."""
