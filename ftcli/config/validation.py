"""Check a composed job against the signatures of the classes that it names, without importing them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from ftcli.config import checks, classpath, job, paths, signature
from ftcli.config.annotations import WrongType, convert_value
from ftcli.config.job import TARGET, ComposedJob, Keys, read_keys
from ftcli.config.signature import NoSuchClass, Parameter
from ftcli.config.suggestions import (
    explain_missing_class,
    explain_unknown_job_key,
    explain_unknown_key,
)
from ftcli.config.yaml_locations import read_choices
from ftcli.core.errors import Problems, UserError

log = logging.getLogger("ftcli.config")
USUAL_JOB = "qlora_llama"  # the packaged job whose choices are proposed


def validate_and_convert(composed: ComposedJob, trust: Iterable[str] = ()) -> None:
    """Check every node of a job, and convert its values to the types of their keys, in place.

    Args:
        composed: job from `compose` or `load`.
        trust: further packages whose classes may be named, in this process and those that it starts.

    Raises:
        UserError: the only problem, with file:line and a fix; Problems: several.
    """
    classpath.trust_packages(trust)
    checker = _Checker(composed)
    checker.check_job()
    checker.problems += _find_recipe_problems(composed)
    if not checker.problems:  # contradictions are looked for once each value is valid
        checker.problems += checks.find_problems(composed)
    Problems.raise_if_any(checker.problems)


def _find_recipe_problems(composed: ComposedJob) -> list[UserError]:
    """Return the problems of a recipe's keys, which are not part of the configuration."""
    if not any(key in composed.mapping_origins for key in job.RECIPE_KEYS):
        return []
    from ftcli.config.recipe_reading import find_recipe_problems

    return find_recipe_problems(composed.job_file)


class _Checker:
    def __init__(self, composed: ComposedJob) -> None:
        self.composed = composed
        self.problems: list[UserError] = []
        self._nodes: dict[str, Keys] = {}

    def check_job(self) -> None:
        """Check the top of the job, then each group."""
        top = signature.read_signature(job.JOB_SETTINGS_CLASS).parameters
        config = self.composed.config
        known = {*top, *paths.list_groups(), *self.composed.choices, job.REQUIRES}
        for key in list(config):
            if key in top:
                self._check_key(config, key, key, top[key])
            elif key in job.COLLECTIONS:
                self._check_collection(key)
            elif key in known - {job.REQUIRES}:
                self._check_group(key)
            elif key != job.REQUIRES:
                self.problems.append(explain_unknown_job_key(self.composed, key, known))
        missing = [group for group in job.OBJECT_GROUPS if group not in config]
        if missing == list(job.OBJECT_GROUPS):
            what = f"it has no {', '.join(missing[:-1])} and {missing[-1]}."
            fix = f"start from a job: write `defaults: [{USUAL_JOB}, _self_]` there"
            self.problems.append(
                UserError(what, f"{paths.format_path(self.composed.job_file)}:1", fix)
            )
        else:
            self.problems += [self._make_absent_error(group) for group in missing]

    def _check_group(self, group: str) -> None:
        node = self.composed.config[group]
        if not isinstance(node, Mapping) or TARGET not in node:
            self._add_problem(
                group,
                f"{group} has no {TARGET}.",
                f"pick one: {group}=NAME with a name of `ftcli ls {paths.pluralize_group(group)}`",
            )
        else:
            self.check_node(node, group)

    def _make_absent_error(self, group: str) -> UserError:
        option = read_choices(paths.configs_dir() / f"{USUAL_JOB}.yaml").get(group, "NAME")
        return UserError(
            f"no {group} is chosen.",
            where=paths.format_path(self.composed.job_file),
            fix=f"{group}={option}, or `- {group}: {option}` in its defaults "
            f"(choices: ftcli ls {paths.pluralize_group(group)})",
        )

    def _check_collection(self, group: str) -> None:
        """Check a group that maps names to objects, such as `eval`."""
        nodes = self.composed.config[group] or {}
        if not isinstance(nodes, dict):
            return self._add_problem(
                group, f"{group} must be a mapping of names to settings.", None
            )
        for name in list(nodes):
            key = f"{group}.{name}"
            node = nodes[name]
            if name == job.REQUIRES or node is None:
                continue
            if isinstance(node, Mapping) and TARGET in node:
                self.check_node(node, key)
            elif self._drop_leftover(nodes, name, key):
                continue
            else:
                known = ", ".join(
                    n for n, v in nodes.items() if isinstance(v, dict) and TARGET in v
                )
                self._add_problem(
                    key,
                    f"{self.composed.format_choice(group)} has no '{name}'"
                    + (f" (it has {known})." if known else "."),
                    f"give it a _target_, or pick another: ftcli ls {paths.pluralize_group(group)}",
                )

    def check_node(self, node: Any, key: str) -> None:
        """Check a node with `_target_` and its keys."""
        target = node[TARGET]
        if not self._check_allowed(target, classpath.COMPONENTS, f"{key}.{TARGET}"):
            return
        try:
            keys = read_keys(node)
        except NoSuchClass as error:
            self.problems.append(explain_missing_class(self.composed, error, f"{key}.{TARGET}"))
            return
        if not self._check_definition(target, classpath.COMPONENTS, f"{key}.{TARGET}"):
            return
        self._check_requires_and_capabilities(node, key)
        self._nodes[key] = keys
        if keys.library and not self._check_library(keys, key):
            return
        self._check_mapping(
            node, key, keys.parameters, keys.accepts_more, {TARGET, *job.KEYS_NOT_PASSED}
        )

    def _check_requires_and_capabilities(self, node: Mapping[str, Any], key: str) -> None:
        """Check that `requires` and `capabilities`, which no class reads, are mappings."""
        for name in job.KEYS_NOT_PASSED:
            if not isinstance(node.get(name) or {}, Mapping):
                what = f"{key}.{name}={node[name]!r}: expected keys and values."
                self._add_problem(f"{key}.{name}", what, f"~{key}.{name} to leave it out")

    def _check_library(self, keys: Keys, key: str) -> bool:
        """Whether the library class that a node names is allowed and exists; adds the problem if not."""
        parameter = keys.class_signature.library_parameter
        assert parameter is not None and keys.library is not None
        named = f"{key}.{parameter.name}"
        if not self._check_allowed(keys.library, classpath.LIBRARIES, named):
            return False
        if keys.library_error:
            self.problems.append(explain_missing_class(self.composed, keys.library_error[1], named))
            return False
        return self._check_definition(keys.library, classpath.LIBRARIES, named)

    def _check_mapping(
        self,
        node: dict[str, Any],
        prefix: str,
        parameters: Mapping[str, Parameter],
        accepts_more: bool,
        ignored: set[str],
    ) -> None:
        for name in [n for n in node if n not in ignored]:
            key = f"{prefix}.{name}"
            if name in parameters:
                self._check_key(node, name, key, parameters[name])
            elif accepts_more:
                self._check_inner(node[name], key)
            elif self._drop_leftover(node, name, key):
                continue
            else:
                owner = self._describe_owner(prefix)
                self.problems.append(explain_unknown_key(self.composed, key, owner, parameters))
        for name, parameter in parameters.items():
            if parameter.required and name not in node:
                self._add_problem(
                    prefix, f"{prefix}.{name} is not given.", f"{prefix}.{name}=VALUE"
                )

    def _check_key(self, node: dict[str, Any], name: str, key: str, parameter: Parameter) -> None:
        """Check the value of a known key, and convert it to the key's type; mappings are checked inside."""
        value = node[name]
        if value == "???":
            help_ = f" ({parameter.help})" if parameter.help else ""
            self._add_problem(key, f"{key} is not given{help_}.", f"{key}=VALUE")
        elif isinstance(value, dict) and TARGET in value:
            self.check_node(value, key)
        elif nested := _list_nested(value, key, parameter):
            inner = signature.read_signature(str(parameter.nested))
            for place, settings in nested:
                self._check_mapping(settings, place, inner.parameters, inner.accepts_more, set())
        else:
            try:
                node[name] = convert_value(value, parameter.type)
            except WrongType as wrong:
                self._add_type_problem(key, value, str(wrong))
            else:
                self._check_inner(node[name], key)

    def _check_inner(self, value: Any, key: str) -> None:
        """Check the nodes in mappings and lists that no signature describes."""
        if isinstance(value, dict) and TARGET in value:
            self.check_node(value, key)
        elif isinstance(value, (dict, list)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for name, inner in items:
                self._check_inner(inner, f"{key}.{name}")

    def _check_allowed(self, target: Any, packages: tuple[str, ...], key: str) -> bool:
        if isinstance(target, str) and classpath.is_allowed(target, packages):
            return True
        names = classpath.format_packages(packages)
        what = f"{key}={target}: only classes of {names} may be named here."
        self._add_problem(key, what, classpath.suggest_access(target))
        return False

    def _check_definition(self, target: str, packages: tuple[str, ...], key: str) -> bool:
        """Whether a name is a class defined in the allowed packages; adds the problem if not."""
        other = classpath.explain_disallowed_class(target, packages)
        if other is not None:
            what = f"{key}={target}: that is {other}; only classes of "
            what += f"{classpath.format_packages(packages)} may be named here."
            self._add_problem(key, what, f"see: ftcli schema {key.split('.')[0]}")
        return other is None

    def _add_type_problem(self, key: str, value: Any, expected: str) -> None:
        where: str | None = self.composed.where(key)
        what = f"{key}={value!r}"
        if where == "command line":
            what, where = f"{what} at command line", None
        self.problems.append(UserError(f"{what}: {expected}", where, f"see: ftcli schema {key}"))

    def _describe_owner(self, prefix: str) -> str:
        """Describe a node for messages: `method=lora`, `eval.loss (Loss)`."""
        if "." not in prefix:
            return self.composed.format_choice(prefix)
        keys = self._nodes.get(prefix)
        return f"{prefix} ({keys.class_signature.target.rpartition('.')[2]})" if keys else prefix

    def _drop_leftover(self, node: dict[str, Any], name: str, key: str) -> bool:
        """Drop a key that a job set for an option that was replaced, with a warning; return whether it was one."""
        group, origin = _get_group(key), self.composed.origin(key)
        by_command_line = self.composed.overridden_groups.get(group)
        if by_command_line is None or origin.file not in self.composed.job_files:
            return False
        if not by_command_line and origin.file == self.composed.job_file:
            return False
        log.warning(
            "%s: %s is left out, %s has no such key",
            origin,
            key,
            self.composed.format_choice(group),
        )
        node.pop(name)
        self.composed.drop_origins(key)
        return True

    def _add_problem(self, key: str, what: str, fix: str | None) -> None:
        self.problems.append(UserError(what, self.composed.where(key), fix))


def _list_nested(value: Any, key: str, parameter: Parameter) -> list[tuple[str, dict[str, Any]]]:
    """Return the mappings that have the keys of a dataclass, with their places.

    Such a value is one mapping (`EvaConfig`), a list of them (`list[TrainingSource]`), or named ones
    (`dict[str, EvalSet]`). Empty where no dataclass is wanted, or the value is not of its shape.
    """
    if isinstance(value, dict) and parameter.nested and parameter.nested_in is None:
        return [(key, value)]
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict) and parameter.nested_in == "dict":
        items = value.items()
    elif isinstance(value, list) and parameter.nested_in == "list":
        items = enumerate(value)
    inner = [(f"{key}.{name}", settings) for name, settings in items]
    return inner if all(isinstance(settings, dict) for _, settings in inner) else []


def _get_group(key: str) -> str:
    return key.split(".")[0]
