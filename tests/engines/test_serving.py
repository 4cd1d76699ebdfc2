import sys
import types

import pytest
import torch
from families import family_model

from hf_puzzle import cli, formats, hub
from hf_puzzle.blocks import Block
from hf_puzzle.engines import llama_server, serving
from hf_puzzle.engines.process import EngineError
from hf_puzzle.engines.serving import command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = formats.decilm_config(family_model("llama").config, [Block(4, 256), Block("none", 512)])
    return hub.write_model_folder(tmp_path_factory.mktemp("child") / "child", formats.model_class(config)(config))


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A function that says which packages are there."""
    (tmp_path / "transformers").touch()
    monkeypatch.setattr(serving.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(serving.shutil, "which", lambda name: None)
    monkeypatch.delenv(serving.vllm.PYTHON, raising=False)

    def these(*names):
        monkeypatch.setattr(serving, "find_spec", lambda name: name if name in names else None)
        monkeypatch.setattr(serving.vllm, "find_spec", lambda name: name if name in names else None)
        return tmp_path

    return these


def test_the_first_engine_that_is_installed_and_opens_it(folder, installed):
    place = installed("fastapi", "uvicorn")
    transformers = [str(place / "transformers"), "serve", str(folder), "--trust-remote-code"]
    assert command(folder) == ("transformers-serve", transformers)
    installed("fastapi", "uvicorn", "mlx_lm")
    assert command(folder, "transformers-serve") == ("transformers-serve", transformers)
    assert command(folder) == ("mlx-lm", [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder)])
    installed("vllm", "mlx_lm")
    engine, words = command(folder)
    assert (engine, words[1:]) == (
        "vllm",
        ["-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--trust-remote-code"],
    )


def test_gguf_files_go_to_llama_cpp(tmp_path, installed, monkeypatch):
    path = tmp_path / "child.gguf"
    path.touch()
    installed()
    with pytest.raises(EngineError, match="llama.cpp is not installed here .*: llama-server on PATH"):
        command(path)
    monkeypatch.setattr(serving.shutil, "which", lambda name: f"/bin/{name}")
    assert command(path) == ("llama.cpp", ["/bin/llama-server", "-m", str(path)])
    with pytest.raises(EngineError, match="vllm serves no GGUF files: llama.cpp does"):
        command(path, "vllm")


def test_what_cannot_be_served_is_said_with_the_way_out(folder, tmp_path, installed):
    installed()
    with pytest.raises(
        EngineError, match=r"mlx-lm is not installed here \(measured with mlx-lm .*\): pip install mlx-lm"
    ):
        command(folder)
    with pytest.raises(EngineError, match="llama.cpp serves a GGUF file: hf-puzzle export .* --target llama.cpp"):
        command(folder, "llama.cpp")
    with pytest.raises(EngineError, match="unknown engine 'vlm'.*did you mean 'vllm'"):
        command(folder, "vlm")
    config = formats.decilm_config(family_model("llama").config, [Block("linear", 256), Block(4, 512)])
    child = hub.write_model_folder(tmp_path / "linear", formats.model_class(config)(config))
    installed("mlx_lm")
    with pytest.raises(EngineError, match="mlx-lm does not open it as it is .*: hf-puzzle export .* --target mlx-lm"):
        command(child, "mlx-lm")


def test_the_command_is_printed_and_run(folder, installed, capsys, monkeypatch):
    installed("mlx_lm")
    assert cli.main(["serve", str(folder), "--dry-run"]) == 0
    expected = f"{sys.executable} -m mlx_lm server --model {folder}"
    assert capsys.readouterr().out == expected + "\n"
    ran = []
    monkeypatch.setattr(cli.os, "execvp", lambda program, words: ran.append([program, *words]))
    cli.main(["serve", str(folder)])
    assert ran == [[sys.executable, sys.executable, "-m", "mlx_lm", "server", "--model", str(folder)]]
    assert cli.main(["serve", str(folder / "nowhere")]) == 2


@pytest.mark.parametrize("system, repacks", [(b"AMX_INT8 = 1 | AVX2 = 1", False), (b"AVX2 = 1", True)])
def test_llama_cpps_server_leaves_weights_alone_where_it_has_amx(system, repacks):
    library = types.SimpleNamespace(
        llama_print_system_info=lambda: system,
        llama_model_default_params=lambda: types.SimpleNamespace(use_extra_bufts=True, n_gpu_layers=3),
    )
    llama_server.without_repacking(library)
    params = library.llama_model_default_params()
    assert params.use_extra_bufts is repacks
    assert params.n_gpu_layers == 3


def test_llama_cpps_server_is_found_beside_our_module_of_that_name(tmp_path, installed):
    installed("llama_cpp", "starlette_context")
    path = tmp_path / "a.gguf"
    path.touch()
    engine, line = command(path)
    assert (engine, line[1:]) == ("llama.cpp", ["-P", llama_server.__file__, "--model", str(path)])
