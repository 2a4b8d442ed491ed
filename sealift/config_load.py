"""Joins a plan file, environment variables and options into a plan.

One rule for names: the field's path in upper case, its parts joined by two underscores,
after ``SEALIFT_``: ``target.aws.region`` is ``SEALIFT_TARGET__AWS__REGION``. Lists are
written ``a,b``, maps ``name=value,name=value``. An empty variable counts as not set.
Options win over variables, variables over the file.

There are two kinds of plans. One that names a ``repository`` (or ``replication``, ``retention``)
and no ``migration`` is a replication's.
"""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sealift.config import MigrationPlan
from sealift.config_origin import Origin, Provenance
from sealift.config_repository import ReplicationPlan
from sealift.config_yaml import Document, Node, Path_, Problem, dotted, is_text, parse, read_text
from sealift.errors import ConfigError

PREFIX = "SEALIFT_"
AnyPlan = MigrationPlan | ReplicationPlan
P = TypeVar("P", MigrationPlan, ReplicationPlan)
_OF_REPLICATIONS = frozenset({"replication", "repository", "retention"})


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One value that a plan can set.

    Attributes:
        path: its parts, outermost first.
        info: type, default and description.
    """

    path: tuple[str, ...]
    info: FieldInfo

    @property
    def name(self) -> str:
        """``target.aws.region``."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """``SEALIFT_TARGET__AWS__REGION``."""
        return PREFIX + "__".join(self.path).upper()


@dataclass(frozen=True, slots=True)
class LoadedPlan(Generic[P]):
    """A valid plan and where each of its values comes from."""

    plan: P
    file: Path | None
    provenances: Mapping[str, Provenance]

    def provenance(self, name: str) -> Provenance:
        """Where the field ``target.aws.region`` comes from."""
        return self.provenances.get(name, Provenance(Origin.DEFAULT))


def fields(model: type[BaseModel] = MigrationPlan, at: tuple[str, ...] = ()) -> Iterator[FieldSpec]:
    """Every value that a plan can set, in the model's order."""
    for name, info in model.model_fields.items():
        inner = _model_of(info.annotation)
        if inner is None:
            yield FieldSpec((*at, name), info)
        else:
            yield from fields(inner, (*at, name))


def every_field() -> list[FieldSpec]:
    """Every value that a plan of either kind can set; one that both know is there once."""
    found = {spec.name: spec for kind in (MigrationPlan, ReplicationPlan) for spec in fields(kind)}
    return list(found.values())


def load_plan(
    file: Path | None,
    *,
    environ: Mapping[str, str],
    options: Mapping[str, str] | None = None,
    not_fields: frozenset[str] = frozenset(),
) -> LoadedPlan[MigrationPlan]:
    """Read, join and check a migration's plan; all problems at once.

    Args:
        file: the plan; None when everything comes from elsewhere.
        environ: where ``SEALIFT_...`` variables are looked up.
        options: values by field name, as from ``--set``.
        not_fields: variables with our prefix that mean something else.

    Raises:
        ConfigError: each problem with file, line, column and field, or with its variable;
            also as the operand ``problems``.
    """
    return _loaded(file, environ, options or {}, not_fields, MigrationPlan)


def load_replication(
    file: Path | None,
    *,
    environ: Mapping[str, str],
    options: Mapping[str, str] | None = None,
    not_fields: frozenset[str] = frozenset(),
) -> LoadedPlan[ReplicationPlan]:
    """Like ``load_plan``, for the plan of a replication."""
    return _loaded(file, environ, options or {}, not_fields, ReplicationPlan)


def load_any(
    file: Path | None,
    *,
    environ: Mapping[str, str],
    options: Mapping[str, str] | None = None,
    not_fields: frozenset[str] = frozenset(),
) -> LoadedPlan[MigrationPlan] | LoadedPlan[ReplicationPlan]:
    """Like ``load_plan``, for a plan of either kind."""
    given = _join(file, environ, options or {}, not_fields)
    if _kind_of(given.joined.values) is ReplicationPlan:
        return _checked(given, file, ReplicationPlan)
    return _checked(given, file, MigrationPlan)


@dataclass(frozen=True, slots=True)
class _Given:
    joined: "_Joined"
    problems: list[Problem]


def _loaded(
    file: Path | None,
    environ: Mapping[str, str],
    options: Mapping[str, str],
    not_fields: frozenset[str],
    wanted: type[P],
) -> LoadedPlan[P]:
    given = _join(file, environ, options, not_fields)
    if file is not None and not given.joined.document.broken:
        _refuse_other_kind(file, _kind_of(given.joined.values), wanted)
    return _checked(given, file, wanted)


def _refuse_other_kind(file: Path, found: type[AnyPlan], wanted: type[AnyPlan]) -> None:
    if found is ReplicationPlan and wanted is MigrationPlan:
        raise ConfigError(
            f"{file} is the plan of a replication: it keeps points in a repository, and nothing "
            "in it can be cut over",
            next_step="name the plan of a migration with --plan FILE",
        )
    if found is MigrationPlan and wanted is ReplicationPlan:
        raise ConfigError(
            f"{file} names no repository",
            next_step="name the plan of a replication with --plan FILE; sealift config init "
            "--kind replication writes one",
        )


def plan_given(value: object) -> AnyPlan:
    """A plan out of what it was dumped to, of either kind.

    Raises:
        pydantic.ValidationError: it is no plan.
    """
    if isinstance(value, MigrationPlan | ReplicationPlan):
        return value
    replicates = isinstance(value, dict) and "repository" in value
    return (ReplicationPlan if replicates else MigrationPlan).model_validate(value)


def _kind_of(values: Node) -> type[AnyPlan]:
    named = set(values) if isinstance(values, dict) else set()
    replicates = bool(named & _OF_REPLICATIONS) and "migration" not in named
    return ReplicationPlan if replicates else MigrationPlan


def _join(
    file: Path | None,
    environ: Mapping[str, str],
    options: Mapping[str, str],
    not_fields: frozenset[str],
) -> _Given:
    origin = str(file) if file else ""
    document = parse(read_text(file), origin) if file else Document()
    problems = list(document.problems)
    joined = _Joined(document, origin)
    problems += joined.add_environment(environ, not_fields)
    problems += joined.add_options(options)
    return _Given(joined, problems)


def _checked(given: _Given, file: Path | None, model: type[P]) -> LoadedPlan[P]:
    broken = given.joined.document.broken
    plan, more = (None, []) if broken else _validated(given.joined, model)
    problems = given.problems + more
    if problems or plan is None:
        raise _config_error(problems, file)
    return LoadedPlan(plan, file, given.joined.provenances())


class _Joined:
    """One tree of text out of three provenances, remembering which value came from where."""

    def __init__(self, document: Document, origin: str) -> None:
        self.values = document.values
        self.document = document
        self.file = origin
        self._set: dict[tuple[str, ...], tuple[Origin, str]] = {}

    def add_environment(
        self, environ: Mapping[str, str], not_fields: frozenset[str]
    ) -> list[Problem]:
        known = {spec.variable: spec for spec in every_field()}
        problems = []
        for name in sorted(n for n in environ if n.startswith(PREFIX) and n not in not_fields):
            if name not in known:
                near = _near(name, [*known, *not_fields])
                problems.append(Problem("", f"unknown variable{near}", None, name))
            elif not is_text(environ[name]):
                problems.append(Problem(dotted(known[name].path), "is not UTF-8 text", None, name))
            elif environ[name]:
                self._put(known[name].path, environ[name], Origin.ENVIRONMENT, name)
        return problems

    def add_options(self, options: Mapping[str, str]) -> list[Problem]:
        known = {spec.name: spec for spec in every_field()}
        problems = []
        for name, value in options.items():
            if name not in known:
                message = f"unknown field{_near(name, list(known))}"
                problems.append(Problem(name, message, None, "--set"))
            elif not is_text(value):
                problems.append(Problem(name, "is not UTF-8 text", None, "--set"))
            else:
                self._put(known[name].path, value, Origin.OPTION, "--set")
        return problems

    def _put(self, path: tuple[str, ...], value: str, origin: Origin, name: str) -> None:
        here = self.values
        for part in path[:-1]:
            inner = here.get(part)
            if not isinstance(inner, dict):
                inner = {}
                here[part] = inner
            here = inner
        here[path[-1]] = value
        self._set[path] = (origin, name)

    def provenances(self) -> dict[str, Provenance]:
        found = {
            dotted(path): Provenance(Origin.FILE, place.in_file(self.file))
            for path, place in self.document.places.items()
        }
        found.update({dotted(path): Provenance(*known) for path, known in self._set.items()})
        return found

    def problem(self, path: Path_, message: str) -> Problem:
        """Places a problem at the variable or at the nearest place in the file."""
        for length in range(len(path), 0, -1):
            known = self._set.get(tuple(str(part) for part in path[:length]))
            if known is not None:
                return Problem(dotted(path), message, None, known[1])
        for length in range(len(path), -1, -1):
            place = self.document.places.get(path[:length])
            if place is not None:
                return Problem(dotted(path), message, place, self.file)
        return Problem(dotted(path), message, None, self.file)


def _with_empty_sections(model: type[BaseModel], values: Node) -> Node:
    """A section whose fields are all commented out is empty, not wrong."""
    if not isinstance(values, dict):
        return {} if values is None else values
    inner = {name: _model_of(info.annotation) for name, info in model.model_fields.items()}
    return {
        name: _with_empty_sections(section, value)
        if (section := inner.get(name)) and not (value is None and optional(model, name))
        else value
        for name, value in values.items()
    }


def section_model(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a section; None for a value."""
    return _model_of(model.model_fields[name].annotation)


def optional(model: type[BaseModel], name: str) -> bool:
    """Whether a section may be left out and then means that there is none."""
    return model.model_fields[name].default is None


def _validated(joined: _Joined, model: type[P]) -> tuple[P | None, list[Problem]]:
    try:
        values = _with_empty_sections(model, joined.values)
        return model.model_validate(values), []
    except ValidationError as error:
        found: dict[Path_, Problem] = {}
        for detail in error.errors(include_url=False, include_context=False):
            path = _field_path(model, detail["loc"], joined.values)
            if path not in found:
                found[path] = joined.problem(path, _message(model, detail, path))
        return None, list(found.values())


def _field_path(plan: type[BaseModel], loc: tuple[int | str, ...], values: Node) -> Path_:
    """Without the names of union members that pydantic puts in: only parts of the tree."""
    model: type[BaseModel] | None = plan
    for at, part in enumerate(loc):
        if model is None:
            return (
                loc[: at + 1] if isinstance(part, int) or _has(values, loc[: at + 1]) else loc[:at]
            )
        info = model.model_fields.get(str(part))
        model = _model_of(info.annotation) if info else None
    return loc


def _has(values: Node, path: Path_) -> bool:
    here: Any = values
    for part in path:
        if not isinstance(here, dict) or part not in here:
            return False
        here = here[part]
    return True


def _message(plan: type[BaseModel], detail: ErrorDetails, path: Path_) -> str:
    if detail["type"] == "extra_forbidden":
        model = _model_at(plan, path[:-1])
        names = list(model.model_fields) if model else []
        return f"unknown key{_near(str(path[-1]), names)}"
    if detail["type"] in ("model_type", "dict_type"):
        return f"write keys and values here (found {detail['input']!r:.80})"
    if detail["type"] == "too_short":
        return "at least one is needed"
    if detail["type"] == "missing":
        return f"is missing: {_described(plan, path)}"
    given = detail["input"]
    if detail["type"] == "string_pattern_mismatch":
        pattern = detail["msg"].partition("'")[2].rstrip("'")
        return f"{given!r:.80} does not fit {pattern}: {_described(plan, path)}"
    text = detail["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    return f"{text} (found {given!r:.80})" if isinstance(given, str) and given not in text else text


def _described(plan: type[BaseModel], path: Path_) -> str:
    model = _model_at(plan, path[:-1])
    info = model.model_fields.get(str(path[-1])) if model else None
    return (info.description if info else None) or "required"


def _model_at(plan: type[BaseModel], path: Path_) -> type[BaseModel] | None:
    model: type[BaseModel] | None = plan
    for part in path:
        info = model.model_fields.get(str(part)) if model else None
        model = _model_of(info.annotation) if info else None
    return model


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model behind an annotation, also when it may be None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next(filter(None, map(_model_of, typing.get_args(annotation))), None)
    return None


def _near(name: str, known: list[str]) -> str:
    match = get_close_matches(name, known, n=1, cutoff=0.6)
    if match:
        return f"; did you mean {match[0]}?"
    return f"; known are {', '.join(sorted(known))}" if 0 < len(known) <= 12 else ""


def _order(problem: Problem) -> tuple[int, int, str]:
    """In the order of the file; what is not in it comes last."""
    place = problem.place
    return (place.line, place.column, "") if place else (1 << 30, 0, problem.origin)


def _config_error(problems: list[Problem], file: Path | None) -> ConfigError:
    problems = sorted(problems, key=_order)
    lines = [problem.text() for problem in problems]
    name = str(file) if file else "the plan"
    count = f"{len(lines)} problem{'s' if len(lines) > 1 else ''} in {name}"
    return ConfigError(
        lines[0] if len(lines) == 1 else f"{count}:\n  " + "\n  ".join(lines),
        next_step="correct what is named; sealift config init NEW.yaml writes a plan with every "
        "field explained",
        problems=[
            {
                "file": p.origin,
                "line": p.place.line if p.place else None,
                "column": p.place.column if p.place else None,
                "field": p.field,
                "message": p.message,
            }
            for p in problems
        ],
    )
