"""A real ComfyUI to run in: its release, process, server and client. Imported by the demo, tests and authors."""
