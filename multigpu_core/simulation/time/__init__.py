"""When work on simulated devices runs: streams, events, virtual time, and races."""
