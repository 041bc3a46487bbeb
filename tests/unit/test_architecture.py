"""The house stands: a core that never heard of the server, imports that point down, and no circles."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "apps" / "sam3d"

# From the ground up; a module or folder may import what lies below it, and its own.
FLOORS = (
    ("errors", "random_streams"),
    ("settings", "boxes", "cache", "naming", "strict_json", "access_tokens", "locks"),
    ("geometry", "memory", "network", "synthesis"),
    ("images", "weights"),
    ("interactive", "labels", "demo"),
    ("learning", "cluster"),
    ("datasets", "parity", "retraining"),
    ("evaluation",),
    ("published", "scoring"),
    ("pretraining", "works"),
    ("dicomweb", "infers"),
    ("datastore", "viewer"),
    ("activelearning", "trainers"),
    ("serving", "configs", "diagnosis", "exporting"),
    ("commands",),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
# From here up the server is known.
SKIN_FLOOR = FLOOR_OF["infers"]
SKIN = tuple(f"lib.{name}" for name, floor in FLOOR_OF.items() if floor >= SKIN_FLOOR)

# Work over several machines: only files of this beginning know by what.
ENGINE, ENGINE_FILES = ("dask", "distributed", "tornado"), "lib.cluster.dask_"

# What the core may not even name, beside floors above its own.
SERVER = ("monailabel", "fastapi", "starlette")


def floor_of(module):
    """The floor of a module of ours; the two doors, main and cli, stand above all."""
    top, _, rest = module.partition(".")
    return FLOOR_OF[rest.split(".")[0]] if top == "lib" and rest else len(FLOORS)


def room_of(module):
    """The folder below lib that a module is in, or its own name where it is in none."""
    return module.split(".")[1] if module.startswith("lib.") else module


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
    core = {module for module in imports if module.startswith("lib.") and floor_of(module) < SKIN_FLOOR}
    return sorted(
        f"{module} imports {name}" for module in core for name in imports[module] if is_below(name, (*SERVER, *SKIN))
    )


def upward_imports(imports):
    return sorted(
        f"{module} imports {name}"
        for module, names in own_imports(imports).items()
        for name in names
        if floor_of(name) > floor_of(module)
        or (floor_of(name) == floor_of(module) and room_of(name) != room_of(module))
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
    assert {"lib.errors", "lib.settings", "lib.interactive.clicks", "lib.network.sam3d"} <= imports.keys()
    return imports


def test_the_core_does_not_know_the_server(app_imports):
    assert server_imports(app_imports) == []


def engine_imports(imports):
    """What imports the engine beside the files that are there for that."""
    return sorted(
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in names
        if is_below(name, ENGINE) and not module.startswith(ENGINE_FILES)
    )


def test_the_engine_is_known_in_its_files_alone(app_imports):
    assert engine_imports(app_imports) == []
    assert any(is_below(name, ENGINE) for name in app_imports["lib.cluster.dask_client"])


def test_imports_point_down(app_imports):
    assert upward_imports(app_imports) == []


def test_imports_make_no_circle(app_imports):
    assert circle(app_imports) is None


def test_every_room_has_its_floor(app_imports):
    rooms = {room_of(module) for module in app_imports if module.startswith("lib.")}
    assert rooms == FLOOR_OF.keys()


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
            "lib/infers/sam3d.py": "import monailabel.interfaces\nimport lib.interactive.predictor\n",
            "lib/interactive/predictor.py": "def load():\n    from lib.infers.sam3d import Sam3DInfer\n",
            "lib/cluster/dask_client.py": "import distributed\n",
            "lib/cluster/link.py": "def connect():\n    from distributed.client import Client\n",
            "lib/geometry.py": "import monailabel.config\nfrom lib.interactive.predictor import Predictor\n",
        },
    )
    assert server_imports(imports) == [
        "lib.geometry imports monailabel.config",
        "lib.interactive.predictor imports lib.infers.sam3d.Sam3DInfer",
    ]
    assert engine_imports(imports) == ["lib.cluster.link imports distributed.client.Client"]
    assert upward_imports(imports) == [
        "lib.geometry imports lib.interactive.predictor",
        "lib.interactive.predictor imports lib.infers.sam3d",
    ]
    assert set(circle(imports)) == {"lib.interactive.predictor", "lib.infers.sam3d"}
