"""Lets Keras load models that contain layers of this package before the layers' modules are imported."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace


def register_layers(package: str, modules: dict[str, str]) -> None:
    """Registers layers with Keras now, or as soon as something imports Keras.

    Keras finds the class of a saved layer by its registered name, but does not import its module. Importing
    all modules here would load TensorFlow, which takes seconds. So this function registers a stand-in for
    each class, which imports the class when Keras restores a layer. Once a class is imported, it replaces its
    stand-in.

    Args:
        package: name of the package, such as `"losses"`.
        modules: module of each class, relative to the package, such as `{"ArcFaceLoss": ".arcface"}`.
    """

    def register(keras: ModuleType) -> None:
        for name, module in modules.items():

            def from_config(config: dict, name: str = name, module: str = module) -> object:
                return getattr(importlib.import_module(module, package), name).from_config(config)

            stand_in = SimpleNamespace(from_config=from_config)
            keras.saving.get_custom_objects().setdefault(f"margin_centre_face>{name}", stand_in)

    class KerasImportHook:
        """Calls `register` right after Keras is imported."""

        is_searching = False

        def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            if name != "keras" or self.is_searching:
                return None
            self.is_searching = True
            spec = importlib.util.find_spec(name)  # asks the other finders
            self.is_searching = False
            if spec is None or spec.loader is None:
                return spec
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                sys.meta_path.remove(self)
                register(module)

            spec.loader.exec_module = exec_module
            return spec

    if "keras" in sys.modules:
        register(sys.modules["keras"])
    else:
        sys.meta_path.insert(0, KerasImportHook())
