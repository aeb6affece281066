import subprocess
import sys

import pytest

from distillkit.plugin.disabled import OURS
from distillkit.plugin.registry import installed_plugins

ROLES = ("student", "teacher", "loss", "evaluator")
BUILT_IN = [
    plugin for role in ROLES for plugin in installed_plugins().listing(role) if plugin.owner.distribution == OURS
]


@pytest.mark.parametrize("plugin", BUILT_IN, ids=lambda plugin: f"{plugin.role}-{plugin.spec.name}")
def test_the_options_of_a_built_in_are_those_of_its_factory(plugin):
    assert plugin.spec.options is not None
    assert plugin.option_model() is plugin.load().Options


def test_the_options_of_the_built_ins_import_neither_torch_nor_timm():
    modules = sorted({plugin.spec.options.partition(":")[0] for plugin in BUILT_IN})
    code = f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'timm', 'sklearn'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
