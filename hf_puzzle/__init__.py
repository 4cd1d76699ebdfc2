"""hf_puzzle: more out of every unit of inference cost from an off-the-shelf causal LM."""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder


__version__ = "0.1.0.dev0"

# public name -> module; imported on first use, because torch and transformers take seconds
_PUBLIC = {
    "PuzzleCallback": "puzzle.callback",
    "PuzzleRun": "puzzle.pipeline",
    "load_recipe": "recipe",
    "parse_recipe": "recipe",
}
_MODULES = ("metrics",)
__all__ = sorted((*_PUBLIC, *_MODULES))

# task -> class; transformers reads dotted names, and imports them when a pipeline is made
_PIPELINES = {
    "mrkl": f"{__name__}.remote.pipeline_mrkl.MrklPipeline",
    "pcw-classification": f"{__name__}.remote.pipeline_pcw.PCWClassificationPipeline",
    "pcw-decision": f"{__name__}.remote.pipeline_pcw.PCWDecisionPipeline",
    "pcw-generation": f"{__name__}.remote.pipeline_pcw.PCWGenerationPipeline",
}


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC, *_MODULES]


class _PipelineRegistration(MetaPathFinder):
    """Adds `_PIPELINES` to transformers' tasks once somebody imports `transformers.pipelines`, which we do not."""

    target = "transformers.pipelines"

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.target:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register_pipelines(module)

            spec.loader.exec_module = execute_and_register
        return spec


def _register_pipelines(module) -> None:
    models = (import_module("transformers").AutoModelForCausalLM,)
    for task, implementation in _PIPELINES.items():
        entry = {"impl": implementation, "pt": models, "type": "text"}
        module.PIPELINE_REGISTRY.supported_tasks.setdefault(task, entry)


if _PipelineRegistration.target in sys.modules:
    _register_pipelines(sys.modules[_PipelineRegistration.target])
else:
    sys.meta_path.insert(0, _PipelineRegistration())
