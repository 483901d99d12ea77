"""One step: its tensors, options, records and report."""
