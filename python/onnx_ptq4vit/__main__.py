"""The command line."""

import subprocess
import sys

from . import _native

PROGRAM = "onnx-ptq4vit"
EXPORT = """
In the Python package alone:
  export    Write a model of timm or Hugging Face as ONNX; see onnx-ptq4vit export --help"""


def main() -> int:
    """Runs the command that the arguments of the process say, and gives its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["export"]:
        return _export(arguments[1:])
    if arguments == ["help", "export"]:
        return _export(["--help"])
    if arguments in (["--help"], ["-h"], ["--help-all"], ["help"]):
        return _help(arguments)
    return _native.main([PROGRAM, *arguments])


def _export(arguments: list[str]) -> int:
    from .export.command import main as export

    return export(arguments)


def _help(arguments: list[str]) -> int:
    """Prints the help of the native command line, which ends its process, and then what is in Python alone."""
    native = f"import sys; from onnx_ptq4vit import _native; sys.exit(_native.main(['{PROGRAM}', *sys.argv[1:]]))"
    code = subprocess.run([sys.executable, "-c", native, *arguments], check=False).returncode
    if code == 0:
        print(EXPORT)
    return code


if __name__ == "__main__":
    sys.exit(main())
