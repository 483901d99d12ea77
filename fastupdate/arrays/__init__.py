"""The border: what users hand in becomes NumPy headers over the same memory, or an error that names it."""
