"""Packs FOLDER into ARCHIVE (.tar.gz or .zip), the same bytes for the same content: archive.py FOLDER ARCHIVE"""

import gzip
import os
import sys
import tarfile
import zipfile
from pathlib import Path

# The earliest time that a zip file can tell.
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", 315532800))


def main() -> None:
    folder, archive = Path(sys.argv[1]), Path(sys.argv[2])
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        sys.exit(f"{folder}: no files")
    pack = pack_zip if archive.suffix == ".zip" else pack_tar
    pack(folder, files, archive)


def pack_tar(folder: Path, files: list[Path], archive: Path) -> None:
    with (
        open(archive, "wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=EPOCH) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in files:
            entry = tarfile.TarInfo(name(folder, path))
            entry.size, entry.mtime, entry.mode = path.stat().st_size, EPOCH, mode(path)
            with open(path, "rb") as content:
                tar.addfile(entry, content)


def pack_zip(folder: Path, files: list[Path], archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in files:
            entry = zipfile.ZipInfo(name(folder, path), (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, mode(path) << 16
            packed.writestr(entry, path.read_bytes())


def name(folder: Path, path: Path) -> str:
    return path.relative_to(folder.parent).as_posix()


def mode(path: Path) -> int:
    return 0o755 if os.access(path, os.X_OK) else 0o644


if __name__ == "__main__":
    main()
