"""Optimizers to dicts and files, and back."""
