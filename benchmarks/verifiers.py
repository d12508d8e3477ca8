"""The verifier pool: `verifier_rates.py`, by the name that people look for.

.venv/bin/python benchmarks/verifiers.py [--json FILE] [--quick]
"""

from pathlib import Path

# To every script of this folder, which is first on its path, this file is the package `verifiers`: so let it be that.
__path__ = [str(Path(__file__).parents[1] / "verifiers")]

if __name__ == "__main__":
    from verifier_rates import main

    main()
