"""The recipes of a sweep: that of each arm, checked before the first one starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distillkit.errors import RecipeError, UserError
from distillkit.messages.nearest_name import unknown_name
from distillkit.messages.validation import together
from distillkit.planning.names import RecipePlugins
from distillkit.planning.preflight import CheckedRecipe, check_new_run, open_data
from distillkit.plugin.extras import require
from distillkit.plugin.registry import PluginRegistry
from distillkit.recipe.files import load_recipe
from distillkit.recipe.named_options import KEYS, NAME_OF_ENTRY
from distillkit.recipe.overrides import parse_assignment
from distillkit.recipe.schema import Recipe
from distillkit.sweeping.command_words import arm_words, entries, option_name
from distillkit.sweeping.grid import ArmSettings, SweepArm, dotted

if TYPE_CHECKING:
    from distillkit.planning.plan import Plan


def check_keys(keys: Sequence[str], options: Mapping[str, Any], what: str) -> None:
    """Refuse keys that no recipe has, and those that an option of the sweep already sets; `what` is the option.

    Only the first part of a dotted key is checked here, the rest when the recipe is loaded.
    Raises: RecipeError.
    """
    known = {*KEYS, *NAME_OF_ENTRY, *Recipe.model_fields, "loss_options"}
    # 0 counts as given: it is a valid seed.
    given = {
        dotted(key): option_name(key) for key, value in options.items() if value is not None and value is not False
    }
    if options.get("strict_data"):
        given["data.broken"] = "--strict-data"
    given |= {parse_assignment(text).key: "--set" for text in options.get("assignments") or ()}
    for key in keys:
        first, dot, _ = key.partition(".")
        if first not in known or (dot and first in KEYS and first not in Recipe.model_fields):
            # Only the part that is wrong, so that the name suggested fits in its place.
            raise RecipeError(f"{what}: {unknown_name('key', key if first in known else first, known)}")
        if dotted(key) in given:
            raise RecipeError(f"'{key}' is set by {given[dotted(key)]} and by {what}; leave one of them out")


def arm_recipe(options: Mapping[str, Any], settings: ArmSettings, plugins: PluginRegistry) -> Recipe:
    """The recipe of an arm; `options` are those of `load_recipe` that all arms share.

    Raises: as `load_recipe`.
    """
    named: dict[str, Any] = {key: entries(text) for key, text in settings.items() if key in NAME_OF_ENTRY}
    if "teacher" in named:
        (named["teacher"],) = named["teacher"]
    words = arm_words({key: text for key, text in settings.items() if key not in NAME_OF_ENTRY})
    assignments = [*(options.get("assignments") or ()), *words[1::2]]
    return load_recipe(plugins=plugins, **{**options, **named, "assignments": assignments})


def arm_recipes(options: Mapping[str, Any], arms: Sequence[SweepArm], plugins: PluginRegistry) -> dict[str, Recipe]:
    """The recipes of all arms, by name.

    Raises: UserError with everything that is wrong, or for two arms with the same recipe.
    """
    recipes: dict[str, Recipe] = {}
    wrong = Problems()
    for arm in arms:
        try:
            recipes[arm.name] = arm_recipe(options, arm.settings, plugins)
        except UserError as error:
            wrong.add(arm.name, error)
    wrong.raise_if_any()
    seen: dict[str, str] = {}
    for name, recipe in recipes.items():
        first = seen.setdefault(recipe.model_dump_json(), name)
        if first != name:
            raise RecipeError(f"the arms {first} and {name} have the same recipe; leave one of them out of the grid")
    return recipes


class Problems:
    """What is wrong with the arms of a sweep: the first arm for each different message."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], tuple[str, UserError]] = {}

    def add(self, arm: str, error: UserError) -> None:
        self._found.setdefault(error.args, (arm, error))

    def raise_if_any(self) -> None:
        """Raise the error of the arms, of its own type if there is only one."""
        problems = [(f"arm {arm}: {error.args[0]}", error) for arm, error in self._found.values()]
        if len(problems) == 1:
            (message, error) = problems[0]
            raise type(error)(message, *error.args[1:]) from error
        if problems:
            raise UserError(*together([message for message, _ in problems], prefix="the arms of the sweep"))


class ArmPlanner:
    """Plans arms without weights. Arms that differ in the seed only, or in what a plan does not read, share work."""

    def __init__(self, plugins: PluginRegistry) -> None:
        self._plugins = plugins
        self._data: dict[tuple[str, bool], Any] = {}
        self._plans: dict[str, Plan] = {}

    def plan(self, recipe: Recipe) -> Plan:
        """The plan of a recipe. Raises: as `api.plan`, and where weights are missing that a run would need."""
        # A plan has no random part, so one plan stands for all seeds.
        key = recipe.model_copy(update={"seed": 0}).model_dump_json()
        if key not in self._plans:
            found = check_new_run(recipe, self._plugins)
            require("torch", "timm", what="distillkit sweep")
            from distillkit.planning.make_plan import make_plan

            self._plans[key] = make_plan(recipe, self._plugins, self._checked(recipe, found))
        return self._plans[key]

    def _checked(self, recipe: Recipe, found: RecipePlugins) -> CheckedRecipe:
        reads_teacher = any(found.losses[entry.name].spec.signals for entry in recipe.distilling_losses)
        key = (recipe.data.model_dump_json(), reads_teacher)
        if key not in self._data:
            self._data[key] = open_data(recipe, self._plugins, found).datasets
        return CheckedRecipe(found, self._data[key])


def plan_all(recipes: Mapping[str, Recipe], plugins: PluginRegistry) -> dict[str, Plan]:
    """The plans of arms that have not started, by name.

    Raises: UserError with everything that is wrong.
    """
    planner, plans, wrong = ArmPlanner(plugins), {}, Problems()
    for name, recipe in recipes.items():
        try:
            plans[name] = planner.plan(recipe)
        except UserError as error:
            wrong.add(name, error)
    wrong.raise_if_any()
    return plans
