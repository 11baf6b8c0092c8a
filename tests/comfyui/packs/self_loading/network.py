"""The model of all nodes: it multiplies, and only what is on its own device."""

import torch

BYTES = 64 * 64 * 4


class Network(torch.nn.Module):
    loads = 0

    def __init__(self):
        super().__init__()
        Network.loads += 1
        self.weight = torch.nn.Parameter(torch.full((64, 64), 0.5), requires_grad=False)

    def forward(self, image):
        return image * self.weight[0, 0]
