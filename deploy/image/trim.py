"""Remove from this Python's site-packages what no worker reads, and compile the rest.

It is for the image's build. It removes tests, headers and sources of extensions, type stubs, symbols that no
loader needs, and all codecs of imagecodecs that gdaltools does not encode with, along with the libraries that
only they need. check.py then loads every remaining library.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

# The extensions of imagecodecs that stay: those that its import needs and those that gdaltools.cog calls.
_CODECS = ("deflate", "zstd", "shared", "shared_cython", "imcd")
_SOURCES = ("*.h", "*.hpp", "*.c", "*.cpp", "*.pyx", "*.pxd", "*.pxi", "*.pyi", "*.a")
# Names of test folders, at any depth; numpy.testing and the like are not tests.
_TESTS = ("tests", "test")
# Packages that keep such folders: numba imports one.
_KEEP_TESTS_OF = ("numba",)


def main() -> None:
    """Trim and compile site-packages; print the megabytes before and after."""
    packages = Path(sysconfig.get_path("purelib"))
    before = _megabytes(packages)
    for folder in [each for name in _TESTS for each in packages.rglob(name)]:
        if folder.is_dir() and folder.relative_to(packages).parts[0] not in _KEEP_TESTS_OF:
            shutil.rmtree(folder, ignore_errors=True)
    ours = f".cpython-{sys.version_info.major}{sys.version_info.minor}-"
    for library in packages.rglob("*.cpython-*.so"):  # some wheels ship extensions for other Pythons
        if ours not in library.name:
            library.unlink()
    for pattern in _SOURCES:
        for file in packages.rglob(pattern):
            file.unlink()
    _trim_imagecodecs(packages)
    for library in packages.rglob("*.so*"):
        subprocess.run(["strip", "--strip-unneeded", library], check=True)
    compileall.compile_dir(
        packages, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH, workers=0
    )
    print(f"{packages}: {before:.0f} MB, {_megabytes(packages):.0f} MB when trimmed and compiled")


def _trim_imagecodecs(packages: Path) -> None:
    for extension in (packages / "imagecodecs").glob("_*.so"):
        if extension.name.split(".")[0].removeprefix("_") not in _CODECS:
            extension.unlink()
    libraries = {file.name: file for file in (packages / "imagecodecs.libs").glob("*.so*")}
    needed: set[str] = set()
    waiting = list((packages / "imagecodecs").glob("_*.so"))
    while waiting:
        # The full name of a needed library is in the string table of the file that needs it.
        content = waiting.pop().read_bytes()
        found = {name for name in libraries if b"\0" + name.encode() + b"\0" in content} - needed
        needed |= found
        waiting += [libraries[name] for name in found]
    for name in libraries.keys() - needed:
        libraries[name].unlink()


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


if __name__ == "__main__":
    main()
