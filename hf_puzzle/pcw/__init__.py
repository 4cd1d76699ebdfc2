"""Parallel Context Windows (arXiv 2212.10947): one decoder, many windows; public names are imported on first use."""

from importlib import import_module


# public name -> module
_PUBLIC = {
    "Decider": "..remote.decisions_pcw",
    "EncodedWindows": "..remote.generation_pcw",
    "PCWClassificationPipeline": "..remote.pipeline_pcw",
    "PCWDecisionPipeline": "..remote.pipeline_pcw",
    "PCWError": "..remote.generation_pcw",
    "PCWGenerationPipeline": "..remote.pipeline_pcw",
    "Template": "..remote.windows_pcw",
    "check_model": "..remote.generation_pcw",
    "encode_windows": "..remote.generation_pcw",
    "generate": "..remote.generation_pcw",
    "load_windows": "..remote.store_pcw",
    "save_windows": "..remote.store_pcw",
    "score_labels": "..remote.generation_pcw",
    "task_logits": "..remote.generation_pcw",
    "write_custom_generate": ".publish",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name], __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
