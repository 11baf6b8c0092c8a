"""Two micro-batches at once on two devices."""
