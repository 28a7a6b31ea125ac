"""The research of this repository: studies, benchmarks of its models, the pages rendered from their results.

The installed package never imports it. Run it from the root of the repository: `python -m experiments --help`.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTABLE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "  # of a fresh process, wherever it is started
