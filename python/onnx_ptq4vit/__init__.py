"""Post-training int8 quantization of ONNX vision transformers (PTQ4ViT, arXiv 2111.12293).

A float model and a few images go in; out comes an ONNX file that ONNX Runtime runs with integer matrix products:

    import onnx_ptq4vit as ptq

    result = ptq.quantize("vit.onnx", loader, "vit.int8.onnx")
    print(result.check(validation_loader))
"""

from ._errors import (
    DataError,
    Error,
    InternalError,
    IoError,
    LimitError,
    ModelError,
    NotFoundError,
    PixelsError,
    UnsupportedError,
    UsageError,
)
from ._models import Runner, inspect
from ._native import __version__
from ._results import CheckResult, Result, check, quantize

__all__ = [
    "CheckResult",
    "DataError",
    "Error",
    "InternalError",
    "IoError",
    "LimitError",
    "ModelError",
    "NotFoundError",
    "PixelsError",
    "Result",
    "Runner",
    "UnsupportedError",
    "UsageError",
    "__version__",
    "check",
    "inspect",
    "quantize",
]
