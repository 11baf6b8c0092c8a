"""The engine and the host adapter."""
