"""What a device could do at most: dense matrix products a second, as its maker states them."""

from __future__ import annotations

from typing import Literal

import torch

Kind = Literal["bf16", "tf32", "fp32"]

TERA = 1e12
PEAKS: tuple[tuple[str, dict[Kind, float]], ...] = (
    # Parts of a device's name, the most telling first; TFLOP/s without sparsity (data sheets).
    ("B200", {"bf16": 2250, "tf32": 1100, "fp32": 75}),
    ("GH200", {"bf16": 989, "tf32": 494, "fp32": 67}),
    ("H200", {"bf16": 989, "tf32": 494, "fp32": 67}),
    ("H100 PCIe", {"bf16": 756, "tf32": 378, "fp32": 51}),
    ("H100 NVL", {"bf16": 835, "tf32": 417, "fp32": 60}),
    ("H100", {"bf16": 989, "tf32": 494, "fp32": 67}),
    ("H800", {"bf16": 989, "tf32": 494, "fp32": 67}),
    ("H20", {"bf16": 148, "tf32": 74, "fp32": 44}),
    ("A100", {"bf16": 312, "tf32": 156, "fp32": 19.5}),
    ("A800", {"bf16": 312, "tf32": 156, "fp32": 19.5}),
    ("L40S", {"bf16": 362, "tf32": 183, "fp32": 91.6}),
    ("L40", {"bf16": 181, "tf32": 90.5, "fp32": 90.5}),
    ("A10G", {"bf16": 70, "tf32": 35, "fp32": 31.2}),
    ("L4", {"bf16": 121, "tf32": 60, "fp32": 30.3}),
    ("RTX 4090", {"bf16": 165, "tf32": 82.6, "fp32": 82.6}),
)


def peak_flops(device: str, kind: Kind) -> float | None:
    """The most that a device can do.

    Args:
        device: its name, as `torch.cuda.get_device_name` gives it.
        kind: number format of the products.

    Returns:
        Floating-point operations a second; None for a device that is not in the table.

    Examples:
        >>> peak_flops("NVIDIA H200", "bf16") / 1e12
        989.0
        >>> peak_flops("Some CPU", "fp32") is None
        True
    """
    words = device.replace("-", " ").split()
    for part, peaks in PEAKS:
        if all(word in words for word in part.split()):
            return peaks[kind] * TERA
    return None


def kind_of(precision: str) -> Kind:
    """The number format that matrix products run in under a trainer's precision.

    Args:
        precision: Lightning's name of it, such as "bf16-mixed".

    Returns:
        Float32 counts as TF32 where torch may use that.
    """
    if precision.startswith(("bf16", "16")):
        return "bf16"
    return "fp32" if torch.get_float32_matmul_precision() == "highest" else "tf32"
