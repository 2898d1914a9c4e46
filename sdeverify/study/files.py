"""Finding study files and reading them."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from sdeverify.errors import InvalidInputError, SdeverifyError, did_you_mean

if TYPE_CHECKING:
    from sdeverify.study.campaign import Campaign

FILE = "study.py"
VARIABLE = "STUDY"


class Found(NamedTuple):
    """A study file, and the first line of what it says about itself."""

    name: str
    path: Path
    summary: str


def find_study(source: str | Path) -> Path:
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
    known = [available.name for available in available_studies()]
    raise InvalidInputError(
        f"there is no study '{source}'.{did_you_mean(Path(source).name, known)} Name a study file, "
        f"a folder with a {FILE}, or one of the studies here: {', '.join(known) or 'none'}."
    )


def study_name(path: Path) -> str:
    """What a study file's results are called: its folder's name, or that of the file."""
    return path.parent.name if path.name == FILE else path.stem


def available_studies() -> list[Found]:
    """The studies in the folder `studies`, here and beside the package; nothing is imported."""
    files = {file.resolve(): None for root in _roots() for file in sorted(root.glob(f"*/{FILE}"))}
    return [Found(study_name(file), file, _summary(file)) for file in files]


def load_campaign(source: str | Path, text: str | None = None) -> Campaign:
    """Runs a study file and gives its `STUDY`.

    Args:
        source: see `find_study`.
        text: the file's text, where the file may not be at hand.

    Raises:
        InvalidInputError: there is no such file, or no `STUDY` in it.
        SdeverifyError: the file's own code fails; the message says where.
    """
    from sdeverify.study.campaign import Campaign, as_campaign
    from sdeverify.study.study import Study

    path = find_study(source) if text is None else Path(source)
    name = f"sdeverify_study_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"{path} cannot be read as Python; a study is a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    explained(f"reading {path}", _execute, study_text(path) if text is None else text, module)
    study = getattr(module, VARIABLE, None)
    if not isinstance(study, Campaign | Study):
        kind = "nothing" if study is None else f"a {type(study).__name__}"
        raise InvalidInputError(
            f"{path} must set {VARIABLE} to a Campaign or a Study; it sets {kind}."
        )
    return as_campaign(study)


def study_text(path: Path) -> str:
    """The text of a study file.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} cannot be read as Python: {error}.") from error


def explained(what: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a study's own code; its failures become one message that says where.

    Raises:
        SdeverifyError: what the code raised.
    """
    try:
        return call(*args, **kwargs)
    except SdeverifyError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        remedy = ""
        if isinstance(error, SystemExit):
            remedy = ". The study ends Python itself: take sys.exit(...) or its like out"
        raise SdeverifyError(f"{what}: {type(error).__name__}: {error}{remedy}{where}") from error


def _execute(text: str, module: ModuleType) -> None:
    exec(compile(text, str(module.__file__), "exec", dont_inherit=True), vars(module))


def _roots() -> list[Path]:
    package = Path(__file__).parents[1]
    return [Path("studies"), package / "studies", package.parent / "studies"]


def _summary(file: Path) -> str:
    try:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError):
        return "cannot be read"
    return text.splitlines()[0] if text else ""
