"""The sinks by name. Each package is imported when its sink is made, in the driver, and nowhere else."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from cluster.sinks.row import Sink, SinkPlace
from verifiers.plugin import by_path

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""Name of a sink → the package that it needs, which the extra of the same name installs."""
SINK_NAMES = tuple(_PACKAGES)


def make_sink(name: str, place: SinkPlace) -> Sink:
    """A built-in sink, or `package.module:name`, a function of a `SinkPlace`.

    Raises:
        ValueError: When there is no such sink.
        ImportError: When its package is not installed.
    """
    make: Callable[[SinkPlace], Sink] = (
        import_module(f"cluster.sinks.{name}").make if name in _PACKAGES else by_path(name, "sink", SINK_NAMES)
    )
    return make(place)


def missing(names: tuple[str, ...], installed: Callable[[str], object] = find_spec) -> list[str]:
    """A sentence per sink that there is not, or whose package is not `installed`."""
    problems = []
    for name in names:
        try:
            package = _PACKAGES.get(name)
            if package is None:
                by_path(name, "sink", SINK_NAMES)
            elif not installed(package):
                problems.append(f"{name} needs the package {package}; install rloop[{name}], or leave it out")
        except ValueError as error:
            problems.append(str(error))
    return problems
