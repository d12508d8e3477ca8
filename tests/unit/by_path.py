"""Scripts as modules: their folders are no packages."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_by_path(file: Path) -> ModuleType:
    """The module that a script's file makes."""
    spec = importlib.util.spec_from_file_location(f"by_path_{file.stem}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
