"""The command `onnx-ptq4vit export`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from .._errors import Error, InternalError, UnsupportedError, UsageError
from . import TASKS, Exported, export

HELP = """\
Write a model of timm or Hugging Face as ONNX, and beside it how its images are prepared

Usage: onnx-ptq4vit export [OPTIONS] --output <OUT> <NAME>

Arguments:
  <NAME>  timm/NAME for a model of timm, with or without the tag of its weights; OWNER/NAME for a model of the Hugging Face hub
          (timm, transformers or OpenCLIP); or a folder with the same files

Options:
  -o, --output <OUT>     The ONNX file to write; its folder is made if it is not there
      --task <TASK>      What the outputs are for, if the model could do more than one thing [possible values: classify, embed,
                         dense]
      --image-size <S>   Height and width of the images, such as 384 or 384x512; those of the model by default
      --batch <N>        How many images the file takes at once: a number, or dynamic for any [default: dynamic]
      --opset <N>        The version of the ONNX operators [default: 18]
      --revision <REV>   A branch, tag or commit of the repository on the hub
      --random-weights   Do not load weights but make random ones, to try the tool without the network
      --json             Print as JSON
  -q, --quiet            Say nothing on stderr but warnings and errors
  -h, --help             Print help

Examples:
  onnx-ptq4vit export timm/vit_small_patch16_224 -o vit.onnx
  onnx-ptq4vit export google/vit-base-patch16-224 -o vit/vit.onnx
  onnx-ptq4vit export facebook/dinov2-small --image-size 518 -o dinov2/dinov2.onnx

The command is part of the Python package alone: pip install 'onnx-ptq4vit[export]'."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n\nUsage: onnx-ptq4vit export [OPTIONS] --output <OUT> <NAME>\n\n"
                         "For more information, try '--help'.")


def main(arguments: Sequence[str]) -> int:
    """Runs the command with what follows its name, and gives its exit code."""
    if {"-h", "--help", "--help-all"} & set(arguments):
        print(HELP)
        return 0
    try:
        given = _parser().parse_args(arguments)
        exported = export(
            given.name,
            given.output,
            task=given.task,
            revision=given.revision,
            batch=given.batch,
            image_size=given.image_size,
            opset=given.opset,
            random_weights=given.random_weights,
            progress=lambda text: _say(text, given.quiet),
        )
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return _exit_code(error)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    print(_json(exported) if given.json else _text(exported))
    return 0


def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("name")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--image-size", type=_size)
    parser.add_argument("--batch", type=_batch, default="dynamic")
    parser.add_argument("--opset", type=int, default=18)
    parser.add_argument("--revision")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")
    return parser


def _size(text: str) -> tuple[int, int]:
    try:
        sides = [int(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if not 1 <= len(sides) <= 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected pixels, such as 384 or 384x512")
    return sides[0], sides[-1]


def _batch(text: str) -> int | str:
    if text != "dynamic" and not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text}: expected a number of images, or dynamic")
    return text if text == "dynamic" else int(text)


def _say(text: str, quiet: bool) -> None:
    if not quiet or text.startswith("warning"):
        print(text, file=sys.stderr, flush=True)


def _exit_code(error: Error) -> int:
    """As of the other commands."""
    codes: dict[type[Error], int] = {UsageError: 2, UnsupportedError: 4, InternalError: 3}
    return codes.get(type(error), 3)


def _json(exported: Exported) -> str:
    return json.dumps(
        {
            "model": str(exported.model),
            "beside": [str(path) for path in exported.beside],
            "source": exported.source,
            "input": exported.input,
            "outputs": exported.outputs,
            "difference": exported.difference,
            "random": exported.random,
        },
        indent=2,
    )


def _text(exported: Exported) -> str:
    difference = "not compared with PyTorch" if exported.difference is None else (
        f"at most {exported.difference:.1e} of the largest output from PyTorch"
    )
    model = exported.model
    quantized = model.with_name(f"{model.stem}.int8.onnx")
    command = ["onnx-ptq4vit", "quantize", str(model), "--calib", "images/", "-o", str(quantized)]
    rows = {
        "weights": "random" if exported.random else None,
        "input": f"images [{', '.join(map(str, exported.input))}]",
        "output": ", ".join(exported.outputs),
        "beside": ", ".join(map(str, exported.beside)) or None,
        "check": difference,
    }
    lines = [f"  {key:8} {value}" for key, value in rows.items() if value]
    return "\n".join([f"{exported.source} -> {model}", *lines, "", f"next: {shlex.join(command)}"])
