"""How offloaded tensors are stored: packed for one copy, pinned on the host, and put back into the model."""
