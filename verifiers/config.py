"""The `verifier` section of a run file."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from verifiers.spec import VerifierSpec


class VerifierSettings(BaseModel):
    """How one verifier is made, and what it may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the verifier.")
    timeout_s: float | None = Field(
        None,
        gt=0,
        le=3600,
        description="Seconds one answer may take; then its process is killed. null: the verifier's own.",
    )
    concurrency: int = Field(
        128, ge=1, le=4096, description="Answers under way at once, slow ones included; memory bounds it."
    )
    environment: list[str] = Field(
        default_factory=list,
        description="Environment variables that its processes see, e.g. a judge's key; all others are cleared.",
    )

    def spec(self, name: str) -> VerifierSpec:
        """As the pool takes it."""
        options = json.dumps(self.options, sort_keys=True)
        return VerifierSpec(name, options, self.timeout_s, self.concurrency, tuple(self.environment))


class VerifierConfig(VerifierSettings):
    """How answers are scored."""

    name: str = Field(
        "math",
        description="Built-in verifier (docs/verifiers.md), 'package.module:name', or 'trl:package.module:function'.",
    )
    processes: int = Field(
        2, ge=1, le=256, description="Answers scored at the same time; slow ones go on beside them at low priority."
    )
    pools: int = Field(
        1, ge=1, le=1024, description="Pools with so many processes each, spread over the nodes of the cluster."
    )
    max_pools: int | None = Field(
        None, ge=1, le=1024, description="More open up to so many, one for each node of the cluster; null: no more."
    )
    others: dict[str, VerifierSettings] = Field(
        default_factory=dict,
        description="Further verifiers, for rows and data sets that name them: `{code: {timeout_s: 20}}`.",
    )

    def specs(self) -> dict[str, VerifierSpec]:
        """The verifiers of the run by the names that problems use; the run's own has the empty name too."""
        own = self.spec(self.name)
        return {name: settings.spec(name) for name, settings in self.others.items()} | {self.name: own, "": own}
