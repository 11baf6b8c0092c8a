"""What a command says where torch is not installed."""

from __future__ import annotations

import sys

NO_TORCH_HERE = f"torch is not installed for {sys.executable}."
INSTALL_TORCH = "Install the build that https://pytorch.org/get-started/locally names, or use ComfyUI's own Python."
