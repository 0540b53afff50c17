"""RACKNet: statistics of a data set decide racks, layers and kernels of a network."""
