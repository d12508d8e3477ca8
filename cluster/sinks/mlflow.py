"""A run of MLflow, at `MLFLOW_TRACKING_URI` or in its default place, which a resumed run goes on with."""

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from cluster.sinks.row import Row, SinkPlace

_AT = "_at_"  # pass@1: MLflow's names have no @
_PARAMS = 100  # in one call, at most
_PARAM_LENGTH = 500


class MLflow:
    """One run there per run directory."""

    def __init__(self, place: SinkPlace) -> None:
        self._client = MlflowClient()
        noted = place.run_dir / "mlflow-run"
        if noted.exists():
            self._run = noted.read_text()
            return
        experiment = self._client.get_experiment_by_name(place.project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(place.project)
        self._run = self._client.create_run(number, run_name=place.name).info.run_id
        noted.write_text(self._run)
        settings = [Param(key, str(value)[:_PARAM_LENGTH]) for key, value in place.config.items()]
        for begin in range(0, len(settings), _PARAMS):
            self._client.log_batch(self._run, params=settings[begin : begin + _PARAMS])

    def put(self, row: Row) -> None:
        """All numbers in one call."""
        when = int(1000 * row.time)
        numbers = [Metric(name.replace("@", _AT), value, when, row.version) for name, value in row.numbers.items()]
        self._client.log_batch(self._run, metrics=numbers)

    def close(self) -> None:
        """The run may be resumed: it is over for now."""
        self._client.set_terminated(self._run)


make = MLflow
