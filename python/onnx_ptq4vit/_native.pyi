from collections.abc import Callable
from typing import TypedDict

import numpy as np
import numpy.typing as npt

__version__: str

_Floats = npt.NDArray[np.float32]
_Inputs = list[tuple[str, npt.NDArray[np.float64]]]
_Listener = Callable[[str, str, int, int], object]

class QuantizeSettings(TypedDict):
    bits: str
    preset: str
    limit: int | None
    seed: int
    exclude: list[str]
    overflow_safe: bool
    target: str
    twin: str | None
    pack: bool
    metric: str | None
    gradient: str | None
    weights: str | None
    memory: int | None
    output: str | None

class CheckSettings(TypedDict):
    limit: int | None
    seed: int
    max_drop: float | None
    min_agreement: float | None
    max_kl: float | None
    min_cosine: float | None
    min_r2: float | None

class Model:
    @staticmethod
    def read(origin: str | bytes, max_tensor: int | None, task: str | None) -> Model: ...
    def with_inputs(self, inputs: _Inputs) -> Model: ...
    def input_name(self) -> str: ...
    def other_inputs(self) -> list[str]: ...
    def is_single(self, shape: list[int]) -> bool: ...
    def is_quantized(self) -> bool: ...
    def inspect(self) -> str: ...

class Runner:
    def __init__(self, model: Model) -> None: ...
    def run(self, images: _Floats) -> _Floats: ...

class Quantized:
    def save(self, path: str) -> None: ...
    def to_bytes(self) -> bytes: ...
    def float_model(self) -> Model: ...
    def quantized_model(self) -> Model: ...
    def report(self) -> str: ...
    def text(self) -> str: ...
    def calibration(self) -> str: ...
    def html(self, check: Comparison | None) -> str: ...

class Comparison:
    def report(self) -> str: ...
    def text(self) -> str: ...
    def passed(self) -> bool | None: ...
    def html(self) -> str: ...

def quantize(
    model: Model,
    source: str | _Floats,
    inputs: _Inputs,
    settings: QuantizeSettings,
    listener: _Listener | None,
) -> Quantized: ...
def check(
    float: Model,
    quantized: Model,
    source: str | _Floats,
    inputs: _Inputs,
    labels: object,
    settings: CheckSettings,
    listener: _Listener | None,
) -> Comparison: ...
def main(arguments: list[str]) -> int: ...
