"""Packs the shared layer and the functions for Lambda. SAM calls it, through functions/Makefile and the layer's.

    python infra/pack.py layer DESTINATION
    python infra/pack.py function NAME DESTINATION [without-packages]

Environment:
    LAMBDA_PYTHON     the runtime's version, "3.13" unless set; must agree with the template's parameter PythonRuntime
    LAMBDA_PLATFORM   "aws" unless set: packages for Lambda's Linux; "host": for this machine, where it is another one
    UV                uv's path; without it, uv on the PATH, else this interpreter's pip

Needs no interpreter of the runtime's version: wheels are chosen by tag. With one, modules are compiled as well.
"""

import compileall
import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
INSTALLED = PROJECT / ".local" / "packages"  # what was installed before, by the hash of what decides its content
LAYER = PROJECT / "layers" / "energy_market"
LAYER_LIMIT_BYTES = 40_000_000

# At run time chalice is these files of itself; the rest is its command line.
CHALICE_KEPT = ("__init__.py", "app.py")
UNUSED_FOLDERS = ("tests", "test", "SelfTest", "__pycache__", "bin")
UNUSED_SUFFIXES = (".pyi", ".pyx", ".pxd", ".c", ".h", ".pyc")


def pack_layer(destination: Path) -> None:
    """Put the layer's packages and our own under `destination`/python. Refuses a layer over the limit."""
    python = destination / "python"
    install(LAYER / "requirements.txt", python)
    # Whoever deploys contracts does it from a checkout: no function needs `evm/contract.py`.
    unused = shutil.ignore_patterns("__pycache__", "contract.py")
    shutil.copytree(LAYER / "energy_market", python / "energy_market", ignore=unused)
    compile_modules(python / "energy_market", "/opt/python/energy_market")
    size = sum(file.stat().st_size for file in python.rglob("*") if file.is_file())
    if size > LAYER_LIMIT_BYTES:
        raise SystemExit(
            f"The layer has {size / 1e6:.1f} MB unzipped, over its limit of {LAYER_LIMIT_BYTES / 1e6:.0f}."
        )


def pack_function(name: str, destination: Path, *, with_packages: bool = True) -> None:
    """Put one function's code, its own packages if it has any, and the files it serves into `destination`."""
    folder = PROJECT / "functions" / name
    requirements = folder / "requirements.txt"
    if with_packages and requirements.exists():
        install(requirements, destination)
    ignored = shutil.ignore_patterns("__pycache__", "requirements.txt")
    shutil.copytree(folder, destination, dirs_exist_ok=True, ignore=ignored)
    if name == "migrations":
        shutil.copytree(PROJECT / "infra" / "migrations", destination / "migrations")
    if name == "analytics_api":
        pack_served(destination)
    for module in folder.glob("*.py"):
        compile_module(destination / module.name, f"/var/task/{module.name}")


def pack_served(destination: Path) -> None:
    """Write what analytics_api serves: the contract, the same as a page, and the schema's version to expect.

    The contract becomes JSON here: functions need no YAML reader.
    """
    import yaml  # noqa: PLC0415 - only this function's build needs it
    from docs_page import page  # noqa: PLC0415

    contract = yaml.safe_load((PROJECT / "infra" / "openapi.yaml").read_text(encoding="utf-8"))
    text = json.dumps(contract, default=str, ensure_ascii=False, separators=(",", ":"))
    (destination / "openapi.json").write_text(text, encoding="utf-8")
    (destination / "docs.html").write_text(page(json.loads(text)), encoding="utf-8")
    newest = max(int(path.name[:4]) for path in (PROJECT / "infra" / "migrations").glob("*.sql"))
    (destination / "schema_version").write_text(str(newest), encoding="utf-8")


def install(requirements: Path, destination: Path) -> None:
    """Copy what the lock file names to `destination`, installing it first if that was not done before."""
    content = [Path(__file__).read_bytes(), requirements.read_bytes(), runtime().encode(), platform().encode()]
    kept = INSTALLED / hashlib.sha256(b"\0".join([*content, str(can_compile()).encode()])).hexdigest()[:24]
    if not kept.exists():
        INSTALLED.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=INSTALLED, prefix="new-") as new:
            folder = Path(new) / "packages"
            subprocess.run(installer(requirements, folder), check=True)
            strip(folder)
            compile_modules(folder, "")
            try:
                folder.rename(kept)
            except OSError:
                if not kept.exists():  # else another build of the same was faster
                    raise
    shutil.copytree(kept, destination, dirs_exist_ok=True)


def installer(requirements: Path, destination: Path) -> list[str]:
    """Return the command that installs a lock file's wheels, exactly those and nothing else."""
    common = ["--require-hashes", "--no-deps", "--target", str(destination), "-r", str(requirements), "--quiet"]
    own = PROJECT / ".local" / "bin" / "uv"  # the set-up's
    uv = os.environ.get("UV") or (str(own) if own.exists() else shutil.which("uv"))
    if uv:
        command = [uv, "pip", "install", "--python", sys.executable, "--link-mode", "copy", *common]
        if platform() == "aws":
            command += ["--python-platform", "x86_64-manylinux2014", "--python-version", runtime()]
        return [*command, "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "install", "--no-compile", "--disable-pip-version-check", *common]
    if platform() == "aws":
        tags = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_12_x86_64", "manylinux2010_x86_64")
        command += [part for tag in tags for part in ("--platform", tag)]
        command += ["--python-version", runtime(), "--implementation", "cp"]
    return [*command, "--only-binary=:all:"]


def strip(folder: Path) -> None:
    """Remove what no function reads."""
    for part in folder.rglob("*"):
        if part.is_dir() and part.name in UNUSED_FOLDERS:
            shutil.rmtree(part)
        elif part.is_file() and part.suffix in UNUSED_SUFFIXES:
            part.unlink()
    for part in folder.glob("chalice/*"):
        if part.is_dir():
            shutil.rmtree(part)
        elif part.name not in CHALICE_KEPT:
            part.unlink()
    (folder / ".lock").unlink(missing_ok=True)


def compile_modules(folder: Path, as_path: str) -> None:
    """Compile every module below `folder`, which Lambda will see as `as_path`."""
    if can_compile():
        # Unchecked: unpacking gives files new times, so a check by time would compile all again at each cold start.
        compileall.compile_dir(
            folder, quiet=1, stripdir=str(folder), prependdir=as_path or "/opt/python",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )  # fmt: skip


def compile_module(path: Path, as_path: str) -> None:
    """Compile one module, which Lambda will see as `as_path`."""
    if can_compile():
        py_compile.compile(
            str(path), dfile=as_path, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )


def can_compile() -> bool:
    """Byte code belongs to one version of Python: compile only if this interpreter is the runtime's."""
    return runtime() == f"{sys.version_info.major}.{sys.version_info.minor}"


def runtime() -> str:
    """Return the version of the Lambda runtime, like "3.13"."""
    return os.environ.get("LAMBDA_PYTHON", "3.13")


def platform() -> str:
    """Return "aws" or "host"."""
    value = os.environ.get("LAMBDA_PLATFORM", "aws")
    if value not in {"aws", "host"}:
        raise SystemExit(f'LAMBDA_PLATFORM is "aws" or "host", not "{value}".')
    return value


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["layer", folder]:
            pack_layer(Path(folder))
        case ["function", name, folder]:
            pack_function(name, Path(folder))
        case ["function", name, folder, "without-packages"]:
            pack_function(name, Path(folder), with_packages=False)
        case _:
            raise SystemExit(__doc__)
