"""Records of a training, and what they say about it."""
