"""The command line."""

import sys

from . import _native

PROGRAM = "onnx-ptq4vit"


def main() -> int:
    """Runs the command that the arguments of the process say, and gives its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["export"]:
        return _export(arguments[1:])
    if arguments == ["help", "export"]:
        return _export(["--help"])
    return _native.main([PROGRAM, *arguments])


def _export(arguments: list[str]) -> int:
    from .export.command import main as export

    return export(arguments)


if __name__ == "__main__":
    sys.exit(main())
