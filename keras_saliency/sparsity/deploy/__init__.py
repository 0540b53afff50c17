"""What a sparse model is good for in production: compressed files, sparse kernels."""

from keras_saliency.sparsity.deploy.accelerate import accelerate
from keras_saliency.sparsity.deploy.merge_lora import merge_lora
from keras_saliency.sparsity.deploy.save_compressed import save_compressed

__all__ = ["accelerate", "merge_lora", "save_compressed"]
