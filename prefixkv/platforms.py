"""Which operating systems and devices the tests cover, and what a user of another one is told."""

from __future__ import annotations


def platform_notice(system: str, device: str, hip: str | None) -> str | None:
    """One line for a machine on which prefixkv should run but is not tested.

    Tested are Linux with a CPU and Linux with one of NVIDIA's GPUs. Everywhere else plain torch computes: the Triton
    kernels and the captured step are for NVIDIA's GPUs.

    Args:
        system: `sys.platform`.
        device: type of the torch device that holds the model: `cpu`, `cuda` or `mps`.
        hip: `torch.version.hip`: the version of ROCm that this torch is made for; None where it is made for no AMD GPU.

    Returns:
        The line, or None where nothing has to be said.
    """
    if device == "mps":
        return "Apple's GPUs (MPS) take plain torch and are not tested; if something fails there, try --device cpu"
    if device == "cuda" and hip:
        return f"AMD's GPUs (ROCm {hip}) take plain torch, which is slower, and are not tested"
    if system != "linux":
        name = {"darwin": "macOS", "win32": "Windows"}.get(system, system)
        return f"{name} is not tested: if something fails, report it with what `prefixkv env` prints"
    return None
