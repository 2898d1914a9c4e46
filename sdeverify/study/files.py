"""Finding study files, reading them, and the parameters that the command line sets."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sdeverify.base.devices import check_device
from sdeverify.errors import InvalidInputError, SdeverifyError

if TYPE_CHECKING:
    from sdeverify.study.campaign import Campaign
    from sdeverify.study.study import Study

FILE = "study.py"
VARIABLE = "STUDY"


class Found(NamedTuple):
    """A study file, and the first line of what it says about itself."""

    name: str
    path: Path
    summary: str


@dataclass(frozen=True)
class Request:
    """A study with the parameters that it is asked for.

    Args:
        source: the study file.
        parameters: of its `build`.
        seed, device: the parameters of these names, where `build` has them. A study without a
            parameter `seed` has it added to the seeds of its comparisons.
    """

    source: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    device: str | None = None

    def build(self) -> Built:
        """The campaign and its studies.

        Raises:
            InvalidInputError: the file, or a parameter, is refused.
            SdeverifyError: the file's own code fails.
        """
        campaign = load_campaign(self.source)
        known = campaign.defaults
        asked = {"seed": self.seed, "device": self.device}
        named = {k: v for k, v in asked.items() if v is not None and k in known}
        twice = [k for k, v in named.items() if self.parameters.get(k, v) != v]
        if twice:
            raise InvalidInputError(f"{twice[0]} is given twice, by --{twice[0]} and by --set.")
        if self.device is not None and "device" not in known:
            raise InvalidInputError(
                f"the study '{campaign.name}' has no parameter 'device'; it runs where its file "
                "says. Give its build(...) the parameter, or leave --device out."
            )
        parameters = {k: _like(known.get(k), v) for k, v in {**self.parameters, **named}.items()}
        check_device(parameters.get("device", known.get("device")))
        studies = explained(f"{self.source}, building the study", campaign.studies, **parameters)
        if self.seed is not None and "seed" not in known:
            studies = [replace(study, seed=study.seed + self.seed) for study in studies]
        return Built(campaign, studies, parameters)


class Built(NamedTuple):
    """A campaign, its studies, and the parameters that made them."""

    campaign: Campaign
    studies: list[Study]
    parameters: dict[str, Any]


def find_study(source: str) -> Path:
    """The study file that a path, a folder or the name of a folder under `studies` stands for.

    Raises:
        InvalidInputError: there is none.
    """
    places = [Path(source), *(root / source for root in _roots())]
    for place in places:
        if place.suffix == ".py" and place.is_file():
            return place.resolve()
        if (place / FILE).is_file():
            return (place / FILE).resolve()
    known = ", ".join(found.name for found in available_studies()) or "none"
    raise InvalidInputError(
        f"there is no study '{source}'. Name a study file, a folder with a {FILE}, or one of the "
        f"studies here: {known}."
    )


def study_name(path: Path) -> str:
    """What a study file's results are called: its folder's name, or that of the file."""
    return path.parent.name if path.name == FILE else path.stem


def available_studies() -> list[Found]:
    """The studies in the folder `studies`, here and beside the package; nothing is imported."""
    files = {file.resolve(): None for root in _roots() for file in sorted(root.glob(f"*/{FILE}"))}
    return [Found(study_name(file), file, _summary(file)) for file in files]


def load_campaign(source: str) -> Campaign:
    """Runs a study file and gives its `STUDY`.

    Raises:
        InvalidInputError: there is no such file, or no `STUDY` in it.
        SdeverifyError: the file's own code fails; the message says where.
    """
    from sdeverify.study.campaign import Campaign, as_campaign
    from sdeverify.study.study import Study

    path = find_study(source)
    name = f"sdeverify_study_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"{path} cannot be read as Python; a study is a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    explained(f"reading {path}", spec.loader.exec_module, module)
    study = getattr(module, VARIABLE, None)
    if not isinstance(study, Campaign | Study):
        found = "nothing" if study is None else f"a {type(study).__name__}"
        raise InvalidInputError(
            f"{path} must set {VARIABLE} to a Campaign or a Study; it sets {found}."
        )
    return as_campaign(study)


def explained(what: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a study's own code; its failures become one message that says where.

    Raises:
        SdeverifyError: what the code raised.
    """
    try:
        return call(*args, **kwargs)
    except SdeverifyError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise SdeverifyError(f"{what}: {type(error).__name__}: {error}{where}") from error


def _like(default: Any, value: Any) -> Any:
    """JSON has no tuples: a list is given back as the default's kind."""
    return tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value


def _roots() -> list[Path]:
    package = Path(__file__).parents[1]
    return [Path("studies"), package / "studies", package.parent / "studies"]


def _summary(file: Path) -> str:
    try:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError):
        return "cannot be read"
    return text.splitlines()[0] if text else ""
