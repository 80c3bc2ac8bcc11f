"""Builds the distribution: the Python packages and the C++ executor as `spftcore._executor`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import find_packages, setup

try:
    from pybind11.setup_helpers import Pybind11Extension, build_ext
except ImportError:
    sys.exit(
        "Building spftcore needs pybind11, which is not installed here: run "
        "`pip install pybind11 wheel`, or install without --no-build-isolation."
    )

ROOT = Path(__file__).resolve().parent

# One translation unit: what a compiler must be able to build, in the order in which to ask.
PROBES = (
    (
        "int main() { return 0; }",
        "a C++ compiler ({compiler} does not run)",
        "g++",
    ),
    (
        "#include <concepts>\n#include <span>\n"
        "template <std::integral T> T twice(T x) { return x + x; }\n"
        "int main() { return twice(0); }",
        "a C++20 compiler ({compiler} is too old)",
        "g++",
    ),
    (
        "#include <sqlite3ext.h>\nSQLITE_EXTENSION_INIT1\nint main() { return 0; }",
        "the header sqlite3ext.h",
        "libsqlite3-dev",
    ),
    (
        "#include <Python.h>\nint main() { return 0; }",
        "the header Python.h",
        f"python{sys.version_info.major}.{sys.version_info.minor}-dev",
    ),
)


def compiler_command() -> list[str]:
    """The C++ compiler the build will use: $CXX, else the one this Python names, else c++."""
    named = os.environ.get("CXX") or (sysconfig.get_config_var("CXX") or "").strip()
    words = shlex.split(named) if named else []
    if words and (os.environ.get("CXX") or shutil.which(words[0])):
        return words
    return [shutil.which("g++") or shutil.which("c++") or shutil.which("clang++") or "g++"]


def missing_prerequisite() -> str | None:
    """One sentence on the first thing the compilation lacks, with the Debian package; or None."""
    compiler = compiler_command()
    flags = [
        f"-I{sysconfig.get_path('include')}",
        *shlex.split(os.environ.get("CPPFLAGS", "")),
        *shlex.split(os.environ.get("CXXFLAGS", "")),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for source, what, package in PROBES:
            probe = Path(folder) / "probe.cpp"
            probe.write_text(source, encoding="ascii")
            target = str(Path(folder) / "probe.o")
            command = [*compiler, "-std=c++20", *flags, "-c", str(probe), "-o", target]
            try:
                built = subprocess.run(command, capture_output=True, check=False).returncode == 0
            except OSError:
                built = False
            if not built:
                return (
                    f"Building spftcore needs {what.format(compiler=compiler[0])}: "
                    f"install the package {package} (on Debian or Ubuntu: "
                    f"`apt-get install {package}`) and run the installation again."
                )
    return None


class BuildExecutor(build_ext):
    """Checks for compiler and headers first, so that their absence reads as one sentence."""

    def build_extensions(self) -> None:
        reason = missing_prerequisite()
        if reason is not None:
            sys.exit(reason)
        super().build_extensions()


def version() -> str:
    """The version, read from the package's text: importing it here would need its dependencies."""
    text = (ROOT / "spftcore" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else "0.1.0"


def sources() -> list[str]:
    """Every C++ source of the executor, relative to the root as setuptools wants them."""
    found = [*(ROOT / "csrc").glob("*.cpp"), *(ROOT / "bindings").glob("*.cpp")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def headers() -> list[str]:
    """The headers whose change must rebuild the extension."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.h"))


executor = Pybind11Extension(
    "spftcore._executor",
    sources(),
    depends=headers(),
    include_dirs=["csrc"],
    cxx_std=20,
    extra_compile_args=["-O3", "-Wall", "-Wextra"],
)

FLASH = ["flash-attn>=2.7"]
VLLM = ["vllm>=0.11"]
CLUSTER = ["ray>=2.40"]

setup(
    name="spftcore",
    version=version(),
    description="SPFT-SQL: self-play fine-tuning of language models for text-to-SQL",
    license="Apache-2.0",
    packages=[*find_packages(include=["spftcore", "spftcore.*"]), "spftcore.kernels"],
    package_dir={"spftcore.kernels": "kernels"},
    package_data={
        "spftcore": [
            "py.typed",
            "demo/databases/*.sql",
            "demo/*.jsonl",
            "synthesis/library.txt",
            "templates/*",
        ]
    },
    ext_modules=[executor],
    cmdclass={"build_ext": BuildExecutor},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.11",
        "transformers>=5.16.1,<5.20",
        "triton>=3.6; platform_system == 'Linux'",
        "peft>=0.20",
        "accelerate>=1.12",
        "safetensors>=0.5",
        "numpy>=2.0",
        "apsw>=3.50",
        "sqlglot>=30",
        "networkx>=3.2",
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "rich>=13.7",
        "tensorboard>=2.16",
        "jinja2>=3.1",
        "scipy>=1.12",
    ],
    extras_require={
        "flash": FLASH,
        "vllm": VLLM,
        "gpu": [*FLASH, *VLLM],
        "cluster": CLUSTER,
        "qlora": ["bitsandbytes>=0.45"],
        "wandb": ["wandb>=0.19"],
        "bench": ["func-timeout>=4.3"],
        "dev": [
            *CLUSTER,
            "pytest>=8",
            "pytest-timeout>=2.3",
            "hypothesis>=6.100",
            "ruff>=0.12",
            "mypy>=1.15",
            "types-PyYAML",
            "clang-format>=18",
        ],
    },
)
