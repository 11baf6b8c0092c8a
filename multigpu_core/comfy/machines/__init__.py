"""Text encoders and VAEs on devices of other machines: the nodes' side at home, and the worker's side there."""
