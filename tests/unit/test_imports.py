"""What a light import must not load, and what the wheel must hold."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("actors", "cluster", "rollout", "trainer", "verifiers")
HEAVY = ("torch", "ray", "vllm", "transformers")


def modules(pattern: str) -> list[str]:
    paths = [path for package in PACKAGES for path in (ROOT / package).glob(pattern)]
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)


def loaded_by(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter holds after `code`."""
    check = f"\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


LIGHT = sorted(
    {*modules("config.py"), *modules("records.py"), *(m for m in modules("*.py") if m.startswith("verifiers."))}
)


@pytest.mark.parametrize("module", LIGHT)
def test_records_configs_and_verifiers_load_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}") == set()


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys\nfrom cluster.cli import app, guarded\nsys.argv = ['rloop', '--help']\nassert guarded(app) == 0"
    assert loaded_by(code) == set()


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    ours = {path.stem for package in PACKAGES for path in (ROOT / package).glob("*.py")}
    assert ours & sys.stdlib_module_names - {"__init__", "__main__"} == set()


def test_the_wheel_ships_the_five_packages_and_nothing_else(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {*PACKAGES, "rloop-0.1.0.dist-info"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert "rloop-0.1.0.dist-info/licenses/LICENSE" in names
