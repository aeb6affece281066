"""Safe file formats: no module of the product reads a file in a way that could execute code in it."""

import ast

import pytest

PRODUCT = ("distillkit/", "cli/", "export/", "plugins/")
FORBIDDEN = {
    "pickle": "pickle.load executes code in the file",
    "shelve": "uses pickle",
    "marshal": "crashes on invalid files",
    "dill": "as pickle",
    "cloudpickle": "as pickle",
    "joblib": "joblib.load uses pickle",
    "yaml": "yaml.load executes tags",
}
CALLS = {"eval", "exec", "compile", "__import__"}
ALLOWED = {
    # For the type of the error that torch raises when it refuses a pickle.
    ("distillkit/models/weight_files.py", "import pickle"),
    # Checks that a loss can be pickled, for loader processes and torch.save; it loads only what the same line dumped.
    ("distillkit/testing/loss_terms.py", "import pickle"),
    ("distillkit/testing/loss_terms.py", "pickle.loads"),
}


def callee(node: ast.Call) -> str:
    return ast.unparse(node.func)


def findings(name: str, text: str) -> set[tuple[str, str]]:
    """The imports and calls of a module that could execute code in a file."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {(name, f"import {each.name}") for each in node.names if each.name.split(".")[0] in FORBIDDEN}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            found.add((name, f"from {node.module} import"))
        elif isinstance(node, ast.Call):
            found |= {(name, call) for call in _unsafe(node)}
    return found


def _unsafe(node: ast.Call) -> list[str]:
    call, last = callee(node), callee(node).rpartition(".")[2]
    keywords = {each.arg: ast.unparse(each.value) for each in node.keywords}
    if call in CALLS or call in {"builtins.eval", "builtins.exec"}:
        return [call]
    if call.startswith("pickle.") and last in {"load", "loads", "Unpickler"}:
        return [call]
    if last == "load_state_dict_from_url" or (last == "load" and call.startswith("torch.") and "onnx" not in call):
        return [] if keywords.get("weights_only") == "True" else [f"{call} without weights_only=True"]
    if call in {"np.load", "numpy.load", "np.save", "np.savez"} and keywords.get("allow_pickle") != "False":
        return [] if call == "np.savez" else [f"{call} without allow_pickle=False"]
    if keywords.get("trust_remote_code", "False") != "False":
        return [f"{call} with trust_remote_code"]
    return []


def test_nothing_reads_a_file_in_a_way_that_could_execute_it(tracked_texts):
    modules = {name: text for name, text in tracked_texts.items() if name.startswith(PRODUCT) and name.endswith(".py")}
    assert modules
    assert set().union(*(findings(name, text) for name, text in modules.items())) == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.hub.load_state_dict_from_url(url)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "datasets.load_dataset(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds_unsafe_lines(line):
    assert findings("module.py", line)


@pytest.mark.parametrize(
    "line",
    ["torch.load(path, weights_only=True)", "model.eval()", "np.load(path, allow_pickle=False)", "re.compile(x)"],
)
def test_the_search_ignores_safe_lines(line):
    assert not findings("module.py", line)
