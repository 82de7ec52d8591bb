"""The command line."""

import sys

from . import _native


def main() -> int:
    """Runs the command that the arguments of the process say, and gives its exit code."""
    return _native.main(["onnx-ptq4vit", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
