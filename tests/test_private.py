"""Private names of other libraries that the source uses are those that docs/architecture.md lists, with the reason."""

import ast
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = ("trainer", "modeling_utils", "configuration_utils", "core_model_loading")


def private_names(tree: ast.Module) -> set[str]:
    """Names with one leading underscore: attributes, methods and strings, but no functions of the file itself."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {name for name in names - own if re.fullmatch(r"_[a-z]\w*", name)}


def test_private_interfaces_are_listed():
    package = Path(importlib.util.find_spec("transformers").origin).parent
    theirs = set(re.findall(r"\b_[a-z]\w*", "".join((package / f"{name}.py").read_text() for name in MODULES)))
    used: dict[str, set[str]] = {}
    for path in [*(ROOT / "src/sentimoe").rglob("*.py"), *(ROOT / "src/sentimoe_cli").rglob("*.py")]:
        for name in private_names(ast.parse(path.read_text(encoding="utf-8"))):
            used.setdefault(name, set()).add("/".join(path.parts[-2:]))
    section = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## Private interfaces")[1]
    listed: dict[str, set[str]] = {}
    for row in re.findall(r"^\| (`_.*?) \| (.*?) \|", section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", row[0]):
            listed[name] = set(re.findall(r"`(.*?)`", row[1]))
    assert set(used) & theirs <= set(listed), "list them in docs/architecture.md, with the reason"
    for name, places in listed.items():
        assert used.get(name) and used[name] <= places, f"{name} is used in {used.get(name)}, the table has {places}"
