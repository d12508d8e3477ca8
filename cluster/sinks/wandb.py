"""A run of Weights & Biases, which a resumed run goes on with. Keys and servers are its own affair (`WANDB_…`)."""

from hashlib import blake2b

import wandb

from cluster.sinks.row import Row, SinkPlace


class WeightsAndBiases:
    """One run there per run directory."""

    def __init__(self, place: SinkPlace) -> None:
        self._run = wandb.init(
            project=place.project,
            name=place.name,
            id=blake2b(str(place.run_dir.resolve()).encode(), digest_size=8).hexdigest(),
            resume="allow",
            dir=str(place.run_dir),
            config=dict(place.config),
        )
        self._run.define_metric("version")
        self._run.define_metric("*", step_metric="version")

    def put(self, row: Row) -> None:
        """Evaluations beside training come late, so versions are an axis and not the service's own steps."""
        self._run.log({**row.numbers, "version": row.version})

    def close(self) -> None:
        """Upload the rest."""
        self._run.finish()


make = WeightsAndBiases
