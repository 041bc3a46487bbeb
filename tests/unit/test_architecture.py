"""The house stands: a core that never heard of the server, imports that point down, and no circles."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "apps" / "sam3d"

# From the ground up; a module may import its own floor and those below. A core module that is not named is a verb.
GROUND = ("lib.errors", "lib.settings", "lib.boxes", "lib.cache")
NOUNS = (
    *("lib.geometry", "lib.image_files", "lib.dicom_series", "lib.volumes", "lib.preprocess"),
    *("lib.prompts", "lib.clicks", "lib.contract", "lib.metrics", "lib.network", "lib.synthesis"),
)
SKIN = ("lib.infers", "lib.trainers", "lib.activelearning", "lib.viewer", "lib.datastore", "lib.dicomweb")
SKIN += ("lib.serving",)
WIRING = ("lib.configs",)
DOORS = ("main", "cli")
FLOORS = {**dict.fromkeys(GROUND, 0), **dict.fromkeys(NOUNS, 1), **dict.fromkeys(SKIN, 3)}
FLOORS |= {**dict.fromkeys(WIRING, 4), **dict.fromkeys(DOORS, 5)}
VERBS_FLOOR = 2

# What the core may not even name, beside floors above its own.
SERVER = ("monailabel", "fastapi", "starlette")


def floor_of(module):
    """The floor of a module of ours, by its longest known name."""
    parts = module.split(".")
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((FLOORS[name] for name in names if name in FLOORS), VERBS_FLOOR)


def imports_by_module(app):
    """Every module of the app, with the dotted names that its source imports, wherever in the file."""
    imports = {}
    for path in sorted(app.rglob("*.py")):
        parts = path.relative_to(app).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        imports[module] = set(imported_names(ast.parse(path.read_text(encoding="utf-8"))))
    return imports


def imported_names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(imports):
    """The same, but only modules of the app, by the name of the file they live in."""
    return {
        module: {name for imported in names for name in [file_of(imported, imports)] if name and name != module}
        for module, names in imports.items()
    }


def file_of(imported, modules):
    """The module that holds an imported name: itself, or the one it was taken from."""
    parent = imported.rpartition(".")[0]
    return next((name for name in (imported, parent) if name in modules and name), None)


def is_below(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def server_imports(imports):
    """What core modules import that belongs to the server or to the skin."""
    core = {module for module in imports if module.startswith("lib.") and floor_of(module) <= VERBS_FLOOR}
    return sorted(
        f"{module} imports {name}"
        for module in core
        for name in imports[module]
        if is_below(name, (*SERVER, *SKIN, *WIRING))
    )


def upward_imports(imports):
    return sorted(
        f"{module} imports {name}"
        for module, names in own_imports(imports).items()
        for name in names
        if floor_of(name) > floor_of(module)
    )


def circle(imports):
    """A circle of modules that import each other, or None."""
    try:
        TopologicalSorter(own_imports(imports)).prepare()
    except CycleError as error:
        return error.args[1]
    return None


@pytest.fixture(scope="module")
def app_imports():
    imports = imports_by_module(APP)
    assert {"lib.errors", "lib.settings", "lib.clicks", "lib.network.sam3d"} <= imports.keys()
    return imports


def test_the_core_does_not_know_the_server(app_imports):
    assert server_imports(app_imports) == []


def test_imports_point_down(app_imports):
    assert upward_imports(app_imports) == []


def test_imports_make_no_circle(app_imports):
    assert circle(app_imports) is None


def test_the_ground_imports_nothing_but_errors(app_imports):
    for module in GROUND:
        assert own_imports(app_imports)[module] <= {"lib.errors"}


def write(folder, files):
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return imports_by_module(folder)


def test_these_tests_can_fail(tmp_path):
    imports = write(
        tmp_path,
        {
            "main.py": "from lib.configs.sam3d import Sam3DConfig\n",
            "lib/configs/sam3d.py": "import monailabel.tasks\nfrom lib.infers import sam3d\n",
            "lib/infers/sam3d.py": "from monailabel.interfaces.tasks import infer_v2\nimport lib.predictor\n",
            "lib/predictor.py": "def load():\n    from lib.infers.sam3d import Sam3DInfer\n",
            "lib/clicks.py": "from monailabel import config\nfrom lib.predictor import Predictor\n",
        },
    )
    assert server_imports(imports) == [
        "lib.clicks imports monailabel.config",
        "lib.predictor imports lib.infers.sam3d.Sam3DInfer",
    ]
    assert upward_imports(imports) == [
        "lib.clicks imports lib.predictor",
        "lib.predictor imports lib.infers.sam3d",
    ]
    assert set(circle(imports)) == {"lib.predictor", "lib.infers.sam3d"}
