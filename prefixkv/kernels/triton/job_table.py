"""The table from which a kernel reads what differs between the jobs of one launch: addresses, strides, lengths."""

from __future__ import annotations

import torch

from prefixkv.kernels.sending import sent


def job_table(rows: list[list[int]], device: torch.device) -> torch.Tensor:
    """Send a table to the device, which the host does not wait for.

    Args:
        rows: the numbers of each job.
        device: where the kernel runs.

    Returns:
        (jobs, numbers), int64.
    """
    return sent(torch.tensor(rows, dtype=torch.int64), device)
