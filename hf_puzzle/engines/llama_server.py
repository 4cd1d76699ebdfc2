"""llama-cpp-python's server on processors with AMX too; run by path, with `python -P`.

Its quantised products there end the process at the first prompt, and it has no flag against them: weights are left as the file
has them, as `llama_cpp.LlamaCpp` does.
"""

import runpy


def without_repacking(library) -> None:
    """Let models that `library` (`llama_cpp.llama_cpp`) opens keep their weights as the file has them, where it has AMX."""
    if b"AMX_INT8 = 1" not in library.llama_print_system_info():
        return
    plain = library.llama_model_default_params

    def changed():
        params = plain()
        params.use_extra_bufts = False
        return params

    library.llama_model_default_params = changed


if __name__ == "__main__":
    import llama_cpp.llama_cpp

    without_repacking(llama_cpp.llama_cpp)
    runpy.run_module("llama_cpp.server", run_name="__main__", alter_sys=True)
