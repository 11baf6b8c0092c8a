"""Other machines: what they are, and how work gets there. Only ray_engine.py imports Ray."""
