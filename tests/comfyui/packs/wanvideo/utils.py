"""What the pack's modules share; block swap and offloading read this module's own globals."""

import comfy.model_management as mm

device = mm.get_torch_device()
offload_device = mm.unet_offload_device()


def init_blockswap(transformer, block_swap_args):
    transformer.embedding.to(offload_device if block_swap_args["offload_txt_emb"] else device)
    transformer.block_swap(block_swap_args["blocks_to_swap"])


def offload_transformer(transformer):
    transformer.to(offload_device)
