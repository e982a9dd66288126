"""The sessions behind ./dev: `./dev NAME [arguments]` runs `nox -s NAME -- arguments`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["test"]

CHECKS = ["lint", "types", "imports", "names", "suite", "wheels"]
"""What CI runs, the quick ones first; all of them run even if one fails."""

PURE_TESTS = [
    "packages/core/tests/machines", "packages/core/tests/wire", "packages/tune/tests/machines",
]  # fmt: skip
BESIDE = [
    "packages/core/tests/hosts", "packages/core/tests/semantics", "packages/tune/tests", "tests",
]  # fmt: skip
"""Tests that run beside the others, which take about as long, to make use of two cores."""
PURE_SOURCES = (
    "*/weft/_machines/*,*/weft/_wire/*,*/weft/tune/_trial*.py,*/weft/tune/_checkpoints.py"
)
PYTEST = ["pytest", "pytest-randomly", "pytest-timeout"]
TESTED_WITH = [
    "cmaes", "comet-ml", "coverage", "cryptography", "fsspec", "grpcio",
    "grpcio-tools", "hypothesis", "import-linter", "joblib", "keras",
    "lightgbm", "lightning", "matplotlib", "mlflow-skinny", "mypy", "numpy", "optuna", "pandas",
    "prometheus-client", "protobuf", "pyarrow", "scikit-learn", "scipy", "tensorboardx", "torch",
    "wandb", "xgboost-cpu",
]  # fmt: skip
DEMOS = {
    "census": ("examples/census.py", "numpy"),
    "tune": ("examples/tune_sklearn.py", "cmaes", "matplotlib", "optuna", "scikit-learn"),
}
"""By name: the example, and what it needs besides Weft."""
BENCHED_WITH = {
    "cluster": ["cryptography", "grpcio", "protobuf"],
    "control": ["grpcio", "protobuf"],
    "tune": ["cmaes", "joblib", "optuna", "ray[tune]", "scikit-learn"],
}
"""By name of a benchmark: what it needs besides Weft, Ray and numpy."""


def packages() -> list[Path]:
    """Return the folders of the packages."""
    return sorted(path.parent for path in Path("packages").glob("*/pyproject.toml"))


def install(session: nox.Session, *requirements: str) -> None:
    """Install at the versions that CI runs with."""
    session.install("--constraint", "constraints.txt", *requirements)


def build_wheels(session: nox.Session, folder: Path) -> list[str]:
    """Build every package's wheel into an empty folder; return their paths."""
    install(session, "hatchling")
    shutil.rmtree(folder, ignore_errors=True)
    for package in packages():
        with session.chdir(package):
            session.run("hatchling", "build", "-t", "wheel", "-d", str(folder), silent=True)
    return [str(wheel) for wheel in sorted(folder.glob("*.whl"))]


def install_weft(session: nox.Session) -> None:
    """Install the wheels of this tree, as users would get them."""
    wheels = build_wheels(session, Path(session.create_tmp()).absolute() / "wheels")
    install(session, *wheels)  # with what they depend on; does nothing for a version that is there
    session.install("--force-reinstall", "--no-deps", *wheels)


@nox.session(venv_backend="none")
def test(session: nox.Session) -> None:
    """Run all that CI runs."""
    for check in CHECKS:
        session.notify(check, posargs=[])


@nox.session
def demo(session: nox.Session) -> None:
    """Run an example: `./dev demo census`, which is that of the README, or `./dev demo tune`."""
    name, *arguments = session.posargs or ["census"]
    if name not in DEMOS:
        session.error(f"give the name of a demo: {', '.join(DEMOS)}")
    program, *needed = DEMOS[name]
    install(session, *needed)
    install_weft(session)
    session.run("python", program, *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Lint and format with ruff, and print sizes; --fix mends what ruff can."""
    install(session, "ruff")
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []))
    session.run("ruff", "format", *([] if fix else ["--check"]))
    session.run("python", "tools/release.py")
    session.run("python", "tools/sizes.py")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy on the installed wheel, mypy and pyright on users' programs."""
    install(
        session,
        "basedpyright",
        "cryptography",
        "hypothesis",
        "matplotlib",
        "mypy",
        "nox",
        "numpy",
        "optuna",
        "pytest",
    )
    install_weft(session)
    session.run("mypy", "--package", "weft")
    session.run("mypy", "noxfile.py", "tools", env={"MYPYPATH": "tools"})
    programs = [str(folder) for folder in Path("packages").glob("*/tests/types")]
    session.run("mypy", *programs)
    session.run("basedpyright", "--pythonpath", f"{session.bin}/python", *programs)


@nox.session
def imports(session: nox.Session) -> None:
    """Check the import contracts on the installed wheels, and import cycles."""
    install(session, "import-linter")
    install_weft(session)
    session.run("lint-imports", "--no-logo", "--no-cache")
    session.run("python", "tools/cycles.py")


@nox.session
def names(session: nox.Session) -> None:
    """Check public names against their list (--write writes it), and words against WORDS.md."""
    # weft.testing and weft.mypy are public too: they are imported.
    install(session, "hypothesis", "mypy", "numpy", "optuna", "pytest")
    install_weft(session)
    session.run("python", "tools/public_names.py", *session.posargs)
    session.run("python", "tools/words.py")


@nox.session
def suite(session: nox.Session) -> None:
    """Run the tests, with all branches of the pure parts; arguments go to pytest."""
    install(session, *PYTEST, *TESTED_WITH)
    install_weft(session)
    if session.posargs:
        session.run("python", "-m", "pytest", *session.posargs)
        return

    def ignore(*folders: str) -> list[str]:
        return [f"--ignore={folder}" for folder in folders]

    def run_beside() -> None:
        said: Any = {"stdout": file, "stderr": subprocess.STDOUT}
        session.run("coverage", "run", "-m", "pytest", *PURE_TESTS, **said)
        session.run("python", "-m", "pytest", *BESIDE, *ignore(*PURE_TESTS), **said)
        session.run("coverage", "report", f"--include={PURE_SOURCES}", "--fail-under=100", **said)

    with tempfile.TemporaryFile("w+") as file, ThreadPoolExecutor() as pool:
        beside = pool.submit(run_beside)
        try:
            # With -m the root is on the path, and so on that of the workers that tests start: they
            # import the tests' own functions from there.
            core = "packages/core/tests"
            session.run("python", "-m", "pytest", core, *ignore(*PURE_TESTS, *BESIDE))
        finally:
            wait([beside])
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout)
        beside.result()


@nox.session
def wheels(session: nox.Session) -> None:
    """Install the wheel of weft-core alone into a fresh environment and run a task there."""
    install(session, "hatchling", *PYTEST)
    session.run("pytest", "tests/wheels", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into site/; `./dev docs serve` shows it while it is written."""
    install(session, "zensical", "mkdocstrings[python]")
    install_weft(session)  # the reference is made of what is installed
    if session.posargs:
        session.run("zensical", *session.posargs)
    else:
        session.run("zensical", "build", "--clean", "--strict")


@nox.session
def bench(session: nox.Session) -> None:
    """Run benchmarks/NAME.py beside Ray: `./dev bench core [arguments]`."""
    known = sorted(path.stem for path in Path("benchmarks").glob("[!_]*.py"))
    name, *arguments = session.posargs or [""]
    if name not in known:
        session.error(f"give the name of a benchmark: {', '.join(known)}")
    install(session, "numpy", "ray", *BENCHED_WITH.get(name, ()))
    install_weft(session)
    session.run("python", f"benchmarks/{name}.py", *arguments)


@nox.session
def soak(session: nox.Session) -> None:
    """Work at random for 20 minutes and see that nothing is wrong and nothing grows."""
    install(session, "numpy")
    install_weft(session)
    session.run("python", "tools/soak.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels and source distributions of every package into dist/."""
    install(session, "hatchling")
    folder = Path("dist").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    for package in packages():
        with session.chdir(package):
            session.run("hatchling", "build", "-d", str(folder))
