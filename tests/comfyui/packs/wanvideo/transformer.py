"""A transformer of a few blocks that swaps them between two devices, which it keeps."""

import torch


class WanModel(torch.nn.Module):
    def __init__(self, main_device, offload_device, width=8, blocks=4):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.main_device, self.offload_device = main_device, offload_device
        self.embedding = torch.nn.Linear(width, width)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(blocks))
        self.blocks_to_swap = 0
        for parameter in self.parameters():
            parameter.requires_grad_(False).copy_(torch.randn(parameter.shape, generator=generator) / 3)

    def block_swap(self, blocks_to_swap):
        self.blocks_to_swap = blocks_to_swap
        for index, block in enumerate(self.blocks):
            block.to(self.offload_device if index < blocks_to_swap else self.main_device)

    def forward(self, x):
        x = self.embedding.to(self.main_device)(x)
        for index, block in enumerate(self.blocks):
            x = x + torch.tanh(block.to(self.main_device)(x))
            if index < self.blocks_to_swap:
                block.to(self.offload_device)
        return x
