"""Tensors of which each rank holds a part: how what the parts come to adds up to the sums of whole tensors."""
