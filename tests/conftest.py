"""One thread for torch: two beside other work are ten times slower than one."""

import torch

torch.set_num_threads(1)
