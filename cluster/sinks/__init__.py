"""Where a run's numbers go besides `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow, or a sink of your own."""

from cluster.sinks.catalogue import SINK_NAMES, make_sink, missing
from cluster.sinks.followers import following
from cluster.sinks.row import Row, Sink, SinkPlace

__all__ = ["SINK_NAMES", "Row", "Sink", "SinkPlace", "following", "make_sink", "missing"]
