"""The conformance kit: does a plugin keep what its users and ComfyUI count on? Public as `multigpu.testing`."""
