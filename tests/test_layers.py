"""Imports point down only, and siblings on one level never import each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
LEVELS = [
    {"config", "errors", "machine", "manifest", "model_card", "predictions", "records"},
    {"moe", "model_folder"},
    {"upcycle", "data"},
    {"methods", "ready"},
    {"inference", "evaluation"},
    {"training", "explain"},
    {"compression", "loading"},
    {"domains"},
    {"classifier"},
    {"batch"},
    {"bench"},
    {"pages"},
    {"service"},
    {"__main__"},
]
LEVEL = {unit: level for level, units in enumerate(LEVELS) for unit in units}


def imported_units(path: Path) -> set[str]:
    """The units of sentimoe that a file imports; relative imports are resolved from its place in the package."""
    parts = path.relative_to(SRC).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {f"{module}.{name.name}" for name in node.names} | {module}
    return {name.split(".")[1] for name in found if name.startswith("sentimoe.")} & set(LEVEL)


FILES = [path for path in (SRC / "sentimoe").rglob("*.py") if path != SRC / "sentimoe" / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_down(path):
    unit = path.relative_to(SRC / "sentimoe").with_suffix("").parts[0]
    assert unit in LEVEL, f"{unit} has no place in the layers"
    upward = {other for other in imported_units(path) - {unit} if LEVEL[other] >= LEVEL[unit] and LEVEL[other] > 0}
    assert not upward


def test_the_product_imports_no_research():
    for path in [*(SRC / "sentimoe").rglob("*.py"), *(SRC / "sentimoe_cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                assert not any(name.split(".")[0] == "experiments" for name in names), path


def test_moe_imports_torch_only():
    for path in (SRC / "sentimoe" / "moe").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] in {
                    "__future__",
                    "torch",
                    "collections",
                    "contextlib",
                    "contextvars",
                    "dataclasses",
                    "types",
                    "typing",
                }


def test_importing_the_package_imports_little_beside_torch_and_transformers():
    program = (
        "import sys, sentimoe; heavy = {'sklearn', 'pandas', 'peft', 'datasets', 'matplotlib', 'openvino', 'rich'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); sentimoe.SentimentClassifier"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_help_imports_no_torch():
    program = (
        "import sys; from typer.testing import CliRunner; import sentimoe_cli;"
        "assert 'train' in CliRunner().invoke(sentimoe_cli.app, ['--help']).output;"
        "assert '--num-experts' in CliRunner().invoke(sentimoe_cli.app, ['train', '--help']).output;"
        "assert not {'torch', 'transformers', 'sentimoe'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"COLUMNS": "200", "PATH": "/usr/bin"})
