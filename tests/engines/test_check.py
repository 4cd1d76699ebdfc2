"""Verdicts on folders of all kinds, broken ones and a stranger's; nothing that lies in them runs."""

import contextlib
import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from families import family_model, own_head
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from hf_puzzle import hub
from hf_puzzle.engines import ENGINES
from hf_puzzle.engines.check import FolderError, check_folder
from hf_puzzle.engines.rewrites import as_plain
from hf_puzzle.hub import read_model_folder
from hf_puzzle.remote.configuration_decilm import DeciLMConfig, block_config
from hf_puzzle.remote.modeling_decilm import DeciLMForCausalLM


sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))
from published_layouts import LAYOUTS, config_json


HIDDEN, HEADS = 64, 4
REAL = [name for name, row in ENGINES.items() if row.rewritten]
GRAPHS = {name for name, row in ENGINES.items() if row.graphs}  # nothing opens there as it is, everything as graphs
OURS = ["transformers", "transformers-serve", "continuous-batching"]
BYTE_LEVEL = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel"}}


def verdicts(folder):
    found = {verdict.engine: verdict for verdict in check_folder(folder)}
    assert list(found) == REAL
    return found


def opening(found, status="opens"):
    """The engines with a verdict, those of graphs left out: there it is always the same."""
    assert {found[name].status for name in GRAPHS} <= {"opens after export", "no"}
    return {name for name, verdict in found.items() if verdict.status == status} - GRAPHS


def write(folder, name, value):
    (folder / name).write_text(json.dumps(value))


@pytest.fixture
def make(tmp_path):
    """A function that writes a child's folder as hf_puzzle does, with changes to its config.json."""

    def make_folder(blocks, changes=None, **overrides):
        entries = [block_config(HEADS, HIDDEN, *block) for block in blocks]
        sizes = {"vocab_size": 128, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "rope_theta": 500_000.0}
        model = DeciLMForCausalLM(DeciLMConfig(**(sizes | overrides), block_configs=entries))
        folder = hub.write_model_folder(tmp_path / "child", model)
        raw = json.loads((folder / "config.json").read_text())
        write(folder, "config.json", raw | (changes or {}))
        return folder

    return make_folder


@pytest.fixture
def published(tmp_path):
    """A function that writes the folder of a published model but for its weights."""

    def make_folder(name, **changes):
        write(tmp_path, "config.json", config_json(name) | changes)
        write(tmp_path, "tokenizer.json", BYTE_LEVEL)
        (tmp_path / "configuration_decilm.py").write_text("raise SystemExit('executed')\n")
        (tmp_path / "modeling_decilm.py").write_text(
            "from .transformers_4_44_2__modeling_rope_utils import x\nraise SystemExit('executed')\n"
        )
        return tmp_path

    return make_folder


# -- published models


@pytest.mark.parametrize(
    "name, direct, after",
    [
        ("49B", {"vllm", "sglang", "tensorrt-llm", "llama.cpp", "exllamav3", "exllamav2"}, {"mlx-lm"}),
        ("51B", {"tensorrt-llm", "llama.cpp", "exllamav2"}, {"vllm", "mlx-lm"}),
        ("253B", {"vllm", "sglang", "tensorrt-llm", "llama.cpp", "exllamav3"}, {"mlx-lm"}),
    ],
)
def test_published_models(published, name, direct, after):
    found = verdicts(published(name))
    assert opening(found) == direct
    # their code is of transformers 4
    assert opening(found, "opens after export") == after | set(OURS)
    assert "modeling_decilm.py does not run on transformers 5" in found["transformers"].reason


def test_reasons_for_the_published_models(published):
    found = verdicts(published("51B"))
    assert found["vllm"].reason.startswith(
        "layers 11, 15, 35, 38 and 14 more: no linear attention (linear map written"
    )
    assert found["sglang"].reason == "layer 11 (linear+w14336): no linear attention"
    assert found["exllamav3"].reason == "layer 11 (linear+w14336): no linear attention"
    assert "Llama 3" in found["llama.cpp"].reason
    found = verdicts(published("253B"))
    # dropping dummies means an export, and exports have no top-level rope_theta beside a scaling
    assert found["exllamav2"].status == "no"
    assert "takes rope_theta 10000 for 500000" in found["exllamav2"].reason


# -- children of ours


FULL, BARE = (2, 256), (2, "none")


@pytest.mark.parametrize(
    "blocks, after, no",
    [
        ([FULL, ("none", 512)], {"continuous-batching"}, set()),
        ([(4, 256), ("none", 256)], set(), set()),
        ([FULL, (4, 256)], {"sglang", "continuous-batching"}, set()),
        ([(4, 256), (4, "none"), (4, 256)], {"exllamav2"}, set()),
        ([("none", 256), (4, 256)], {"vllm", "sglang", "exllamav2"}, set()),
        # of a layer 0 that does nothing vLLM and mlx-lm think nothing, but then the next one is their first
        ([("none", "none"), (4, 256), (4, 512)], {"sglang", "exllamav2"}, set()),
        ([("none", "none"), ("none", 256), (4, 256)], {"vllm", "sglang", "exllamav2"}, set()),
        ([(4, 256), ("linear", 256)], {"vllm", "mlx-lm"}, {"sglang", "exllamav3"}),
        ([(4, "linear"), (4, 256)], {"vllm", "mlx-lm", "exllamav2"}, {"sglang", "exllamav3"}),
        ([(4, 256), ("none", "none")], {"exllamav2"}, set()),
        ([("none", 256)], set(REAL) - set(OURS) - GRAPHS, set()),
    ],
)
def test_children(make, blocks, after, no):
    found = verdicts(make(blocks))
    after = after | {"llama.cpp"}  # its tokenizer has no place in the stock converter
    assert opening(found, "opens after export") == after
    assert opening(found, "no") == no
    assert opening(found) == set(REAL) - GRAPHS - after - no


def test_reasons_name_the_layer_and_the_rewrite(make):
    found = verdicts(make([FULL, BARE, (1, "linear"), ("none", 256)]))
    assert found["llama.cpp"].reason == (
        "layer 1: drops the attention output of a layer without FFN (FFN of zeros behind the attention); "
        "layer 2: no linear FFN (linear FFN moved to a linear attention); "
        "its converter takes a vocabulary of 128 for Llama 2's"
    )
    assert found["vllm"].reason == "layer 2: no linear FFN (linear map written as an FFN with biases)"
    assert found["sglang"][:3] == ("sglang", "no", "layer 2 (kv1+linear): no linear FFN")
    assert found["continuous-batching"].reason == "layers have 1, 2 KV heads (repeated up to all 4)"
    assert found["transformers"][:3] == ("transformers", "opens", "with trust_remote_code")
    found = verdicts(make([FULL, (1, 256)]))
    assert found["sglang"].reason == "layers have 1, 2 KV heads (repeated up to 2)"
    found = verdicts(make([("none", 256)]))
    assert found["tensorrt-llm"].reason == "no layer has attention (attention of zeros put in front)"


@pytest.mark.parametrize(
    "overrides, engine, reason",
    [
        ({"head_dim": 32}, "llama.cpp", "head_dim 32 must be"),
        ({"hidden_act": "gelu"}, "vllm", "hidden_act 'gelu' is not 'silu'"),
        ({"qkv_bias": True}, "tensorrt-llm", "no biases on q, k and v"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, "llama.cpp", "'linear'"),
    ],
)
def test_settings_that_an_engine_would_get_wrong(make, overrides, engine, reason):
    found = verdicts(make([FULL, (2, 512)], **overrides))[engine]
    assert found.status == "no"
    assert reason in found.reason


@pytest.mark.parametrize(
    "changes, engine, reason",
    [
        ({"auto_map": None}, "vllm", "config.json has no auto_map.AutoConfig"),
        ({"auto_map": {"AutoConfig": "other.X"}}, "tensorrt-llm", "other.py, which auto_map.AutoConfig names, is not"),
        ({"auto_map": {"AutoConfig": "configuration_decilm.X"}}, "transformers", "no auto_map.AutoModelForCausalLM"),
        ({"model_type": "deci"}, "mlx-lm", "model_type is 'deci', not 'nemotron-nas'"),
        ({"rope_theta": None, "rope_parameters": None}, "mlx-lm", ""),
    ],
)
def test_what_an_export_repairs(make, changes, engine, reason):
    folder = make([FULL], changes)
    if changes.get("rope_theta", 1) is None:
        raw = json.loads((folder / "config.json").read_text())
        del raw["rope_theta"]
        write(folder, "config.json", raw)
        reason = "rope_theta is not at the top level"
    found = verdicts(folder)[engine]
    assert found.status == "opens after export"
    assert reason in found.reason


@pytest.mark.parametrize(
    "blocks, overrides, stock",
    [
        ([FULL, ("none", "none"), FULL], {}, "LlamaForCausalLM"),
        ([FULL, BARE, ("none", 256)], {"head_dim": 32, "mlp_bias": True}, "LlamaForCausalLM"),
        ([FULL, FULL], {"qkv_bias": True}, "Qwen2ForCausalLM"),
        ([FULL, ("none", 256)], {}, None),
        ([BARE, BARE], {}, None),
        ([FULL, ("none", 256), BARE], {}, None),
        ([FULL, (2, 512)], {}, None),
        ([("linear", 256)], {}, None),
        ([("none", "none")], {}, None),
        ([FULL], {"qkv_bias": True, "mlp_bias": True}, None),
    ],
)
def test_children_whose_layers_are_alike(make, blocks, overrides, stock):
    """A verdict promises the stock architecture exactly where an export writes it."""
    folder = make(blocks, **overrides)
    found = verdicts(folder)
    promised = {verdict.reason.split(",")[0] for verdict in found.values() if verdict.reason.startswith("as ")}
    assert promised - {"as a graph"} == ({f"as {stock}"} if stock else set())
    plain = as_plain(*read_model_folder(folder))
    assert (plain and plain[0].architectures) == (stock and [stock])
    if stock is not None:
        assert opening(found, "no") == set()


def test_serve_wants_its_own_auto_class(make):
    found = verdicts(make([FULL], {"auto_map": {"AutoConfig": "configuration_decilm.X"}}))
    assert "auto_map.AutoModelForDecision" in found["transformers-serve"].reason


def test_json_that_only_some_readers_mind(make):
    folder = make([FULL, (2, 512)], vocab_size=128)
    raw = json.loads((folder / "config.json").read_text())
    raw["block_configs"][0]["ffn"]["ffn_mult"] = 6
    del raw["block_configs"][1]["attention"]["replace_with_linear"]
    raw["block_configs"][1]["attention"]["sparsify"] = ["q_proj"]
    write(folder, "config.json", raw)
    found = verdicts(folder)
    assert found["llama.cpp"].reason.startswith("layer 0: ffn_mult is an integer, not a float; layer 1: ")
    assert "layer 1: attention.replace_with_linear is absent" in found["llama.cpp"].reason
    assert found["exllamav3"][:3] == ("exllamav3", "opens after export", "layer 1: sparsify is set")


@pytest.mark.parametrize(
    "vocabulary, tokenizer, status, reason",
    [
        (128_256, BYTE_LEVEL, "opens", "by its hash"),
        (128_256, None, "opens", "which is not in the folder"),
        (128, BYTE_LEVEL, "opens after export", "vocabulary of 128 for Llama 2's"),
        (128, {"model": {"type": "BPE", "byte_fallback": True}}, "opens after export", "wrong order"),
        (128, {"model": {"type": "Unigram"}}, "no", "type 'Unigram': only BPE"),
    ],
)
def test_tokenizers_of_llama_cpp(make, vocabulary, tokenizer, status, reason):
    folder = make([FULL])
    raw = json.loads((folder / "config.json").read_text())
    write(folder, "config.json", raw | {"vocab_size": vocabulary})
    (folder / "model.safetensors").unlink()
    if tokenizer is not None:
        write(folder, "tokenizer.json", tokenizer)
    found = verdicts(folder)["llama.cpp"]
    assert (found.status, reason in found.reason) == (status, True), found


# -- broken folders


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda raw: raw["block_configs"][1]["ffn"].update(ffn_mult=None),
            r"block_configs\[1\]\.ffn\.ffn_mult is None",
        ),
        (
            lambda raw: raw["block_configs"][1]["attention"].update(n_heads_in_group=3),
            r"\[1\].attention.n_heads_in_gr",
        ),
        (
            lambda raw: raw["block_configs"][0]["attention"].update(window_length=8),
            r"\[0\].attention.window_length is 8",
        ),
        (
            lambda raw: raw["block_configs"][0].update(parallel_blocks=[]),
            r"\[0\] has unknown keys \['parallel_blocks'\]",
        ),
        (lambda raw: raw["block_configs"].pop(), "1 entries for num_hidden_layers=2"),
        (lambda raw: raw.update(block_configs="none"), "block_configs is 'none': expected a list"),
        (lambda raw: raw.update(block_configs=[1, 2]), r"block_configs\[0\] is 1: expected an object"),
        (lambda raw: raw["block_configs"][1]["ffn"].update(ffn_mult=float("inf")), "config.json: "),
        (lambda raw: raw.update(hidden_size="64"), "hidden_size is '64': expected a positive integer"),
        (lambda raw: raw.pop("num_attention_heads"), "num_attention_heads is None"),
        (lambda raw: raw.update(rope_parameters="none"), "config.json: "),
        (lambda raw: raw.update(per_layer_config={}), "both block_configs and per_layer_config"),
        (lambda raw: raw.update(architectures=["LlamaForCausalLM"]), "block_configs of LlamaForCausalLM are another"),
        (lambda raw: raw.update(puzzle_format_version=2), "puzzle_format_version 2, and this .* upgrade with pip"),
    ],
)
def test_broken_configs(make, change, message):
    folder = make([FULL, FULL])
    raw = json.loads((folder / "config.json").read_text())
    change(raw)
    write(folder, "config.json", raw)
    with pytest.raises(FolderError, match=message):
        check_folder(folder)


def test_no_folder_no_json_and_a_newer_version(tmp_path, make):
    with pytest.raises(FolderError, match="has no config.json: name a folder with a model"):
        check_folder(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FolderError, match="config.json is not readable as JSON"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(FolderError, match="holds list, not a JSON object"):
        check_folder(tmp_path)
    folder = make([FULL])
    write(folder, "puzzle.json", {"puzzle_format_version": 7})
    with pytest.raises(FolderError, match="puzzle_format_version 7, and this hf_puzzle knows 1: upgrade"):
        check_folder(folder)
    write(folder, "puzzle.json", {"puzzle_format_version": 1})
    check_folder(folder)


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop(UP), rf"layer 1: tensor {UP} of shape \[256, 64\] is missing"),
        (lambda state: state.update({UP: state[UP][:3]}), rf"layer 1: tensor {UP} has shape \[3, 64\], the config"),
        (
            lambda state: state.update({UP.replace("up", "extra"): state[UP].clone()}),
            "layer 1: tensor .*extra_proj.* no place",
        ),
        (lambda state: state.pop("lm_head.weight"), "child: tensor lm_head.weight"),
    ],
)
def test_tensors_that_do_not_fit(make, change, message):
    folder = make([FULL, FULL])
    model = {name: torch.zeros(shape) for name, shape in shapes_of(folder).items()}
    change(model)
    save_file({name: tensor.contiguous() for name, tensor in model.items()}, folder / "model.safetensors")
    with pytest.raises(FolderError, match=message):
        check_folder(folder)
    raw = json.loads((folder / "config.json").read_text())
    write(folder, "config.json", raw | {"quantization_config": {"quant_method": "fp8"}})
    check_folder(folder)  # quantised tensors have names and shapes of their own


def shapes_of(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in list(file.keys())}


def test_weight_files(make):
    folder = make([FULL])
    shutil.move(folder / "model.safetensors", folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    write(folder, index.name, {"weight_map": {"model.norm.weight": "part.safetensors"}})
    check_folder(folder)
    write(folder, index.name, {"weight_map": {"model.norm.weight": "other.safetensors"}})
    with pytest.raises(FolderError, match="lacks other.safetensors, which"):
        check_folder(folder)
    write(folder, index.name, {"weight_map": {"model.norm.weight": "../part.safetensors"}})
    with pytest.raises(FolderError, match="points outside the folder"):
        check_folder(folder)
    for wrong in ({}, {"weight_map": ["part"]}, {"weight_map": {"model.norm.weight": 1}}):
        write(folder, index.name, wrong)
        with pytest.raises(FolderError, match="weight_map must name a file"):
            check_folder(folder)
    index.unlink()
    (folder / "model.safetensors").write_bytes(b"\x01" * 20)
    with pytest.raises(FolderError, match="truncated or not safetensors"):
        check_folder(folder)


def test_one_file_beside_shards_is_refused(make):
    folder = make([FULL])
    write(
        folder,
        "model.safetensors.index.json",
        {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}},
    )
    with pytest.raises(FolderError, match="one is left over from an earlier save"):
        check_folder(folder)
    write(folder, "model.safetensors.index.json", {"weight_map": {"model.norm.weight": "model.safetensors"}})
    check_folder(folder)


@pytest.mark.parametrize("plain", [False, True])
def test_a_head_that_the_config_calls_tied(make, plain, tmp_path):
    folder = make([FULL, FULL], {"tie_word_embeddings": True})
    if plain:
        model = own_head(family_model("llama"))
        model.save_pretrained(folder := tmp_path / "plain")
    found = verdicts(folder)
    assert not opening(found)
    assert all(
        "tie_word_embeddings: true, and the weights have a head of their own" in v.reason
        for v in found.values()
        if v.status != "no"
    )
    assert "vllm obeys the flag and loses the head; `hf-puzzle export` rewrites it" in found["vllm"].reason
    assert "transformers 5 keeps the head, older versions lose it" in found["transformers"].reason
    if plain:
        model.lm_head.weight = model.model.embed_tokens.weight
        model.save_pretrained(folder)
        # mlx-lm's Llama does not look into rope_parameters, where transformers 5 writes rope_theta
        assert opening(verdicts(folder)) == set(REAL) - GRAPHS - {"mlx-lm"}


def test_an_untied_folder_without_a_head(tmp_path):
    family_model("llama").save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    write(tmp_path, "config.json", raw | {"tie_word_embeddings": False})
    with pytest.raises(FolderError, match="false, and there is no lm_head.weight: set it to true"):
        check_folder(tmp_path)


# -- other kinds of folder


def test_a_plain_model_opens_everywhere(tmp_path):
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    write(tmp_path, "config.json", raw | {"rope_theta": 10_000.0})  # as transformers 4 writes it
    found = verdicts(tmp_path)
    assert opening(found) == set(REAL) - GRAPHS
    assert {verdict.reason for name, verdict in found.items() if name not in GRAPHS} == {""}
    raw = json.loads((tmp_path / "config.json").read_text())
    write(tmp_path, "config.json", raw | {"architectures": ["GPTNeoXForCausalLM"]})
    assert verdicts(tmp_path)["mlx-lm"].reason == "where mlx-lm itself has GPTNeoXForCausalLM"
    write(tmp_path, "config.json", raw | {"architectures": ["OwnForCausalLM"]})
    assert opening(verdicts(tmp_path), "no") == set(REAL) - GRAPHS
    write(tmp_path, "config.json", raw | {"architectures": None})
    assert "a model without architectures" in verdicts(tmp_path)["vllm"].reason


def test_the_generation_of_decilm_7b(tmp_path):
    raw = {"architectures": ["DeciLMForCausalLM"], "model_type": "deci", "num_key_value_heads_per_layer": [4, 2]}
    write(tmp_path, "config.json", raw)
    assert opening(verdicts(tmp_path)) == {"llama.cpp", "exllamav2"}


PER_LAYER = {
    "architectures": ["PuzzleQwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_hidden_layers": 3,
    "auto_map": {
        "AutoModelForCausalLM": "modeling_puzzle.PuzzleQwen3ForCausalLM",
        "AutoModelForDecision": "modeling_puzzle.PuzzleQwen3ForCausalLM",
    },
    "per_layer_config": {"0": {"skip": ["attention"]}, "2": {"intermediate_size": 32}},
}


@pytest.fixture
def per_layer(tmp_path):
    def make_folder(**changes):
        write(tmp_path, "config.json", PER_LAYER | changes)
        (tmp_path / "modeling_puzzle.py").write_text("raise SystemExit('executed')\n")
        return tmp_path

    return make_folder


def test_per_layer_folders(per_layer):
    found = verdicts(per_layer())
    assert opening(found) == set(OURS)
    assert found["mlx-lm"].reason == "reads no per_layer_config"
    assert found["vllm"].status == "opens after export"
    assert found["vllm"].reason.startswith("layer 0: an attention of zeros with 1 KV head put in the place of none")
    heads = {"1": {"num_key_value_heads": 1}}
    found = verdicts(per_layer(per_layer_config=heads, model_type="llama"))
    assert opening(found) == {"transformers", "transformers-serve", "vllm"}
    assert found["continuous-batching"].reason.startswith("layer 1: other KV heads")
    assert found["mlx-lm"].status == "opens after export"
    found = verdicts(per_layer(per_layer_config={"2": {"attention_window": 8}}, attention_window=None))
    assert found["continuous-batching"].reason == "layer 2 (kv32win8+w22016): no sliding windows"
    assert found["vllm"].reason == "layer 2 (kv32win8+w22016): no sliding windows"
    found = verdicts(per_layer(auto_map={"AutoModelForCausalLM": "modeling_puzzle.X"}))
    assert opening(found) == {"transformers", "continuous-batching"}
    for family, reason in (
        ("granite", "drops logits_scaling 2"),
        ("starcoder2", "family 'starcoder2' was not measured"),
    ):
        scaling = {"logits_scaling": 2.0} if family == "granite" else {}
        found = verdicts(per_layer(per_layer_config=heads, model_type=family, **scaling))
        assert found["vllm"].status == "no"
        assert reason in found["vllm"].reason
    assert opening(verdicts(per_layer(architectures=["Qwen3ForCausalLM"]))) == set()


@pytest.mark.parametrize(
    "layers, message",
    [
        ({"3": {}}, "per_layer_config names layer '3'; the model has 3 layers"),
        ({"last": {}}, "names layer 'last'"),
        ({"1": []}, r"per_layer_config\[1\] is \[\]: expected an object"),
        ({"1": {"skip": ["ffn"]}}, r"per_layer_config\[1\].skip is \['ffn'\]"),
        ([1], r"per_layer_config is \[1\]: expected an object"),
    ],
)
def test_broken_per_layer_folders(per_layer, layers, message):
    with pytest.raises(FolderError, match=message):
        check_folder(per_layer(per_layer_config=layers))


def paths_in(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


@pytest.mark.parametrize("good", [config_json("51B", reduced=True), PER_LAYER], ids=["decilm", "per_layer"])
@pytest.mark.parametrize(
    "wrong", [None, -1, 1.5, float("nan"), float("inf"), "x", [], {}, True, [1], {"a": 1}], ids=str
)
def test_any_wrong_value_is_a_verdict_or_a_folder_error(good, wrong, tmp_path):
    for path in list(paths_in(good))[1:]:
        raw = copy.deepcopy(good)
        inner = raw
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = wrong
        write(tmp_path, "config.json", raw)
        with contextlib.suppress(FolderError):
            assert len(check_folder(tmp_path)) == len(REAL)


def test_a_strangers_folder_executes_nothing(tmp_path, monkeypatch):
    """Code, and a configuration that would import it, beside weights that would run it when unpickled."""
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked a question"))
    marker = tmp_path / "executed"
    folder = tmp_path / "model"
    folder.mkdir()
    code = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("configuration_decilm", "modeling_decilm", "modeling_puzzle", "__init__", "tokenization"):
        (folder / f"{name}.py").write_text(code)
    (folder / "pytorch_model.bin").write_bytes(b"cbuiltins\nexec\n(V" + code.encode() + b"tR.")
    for raw in (
        config_json("51B", reduced=True),
        PER_LAYER,
        {"architectures": ["OwnForCausalLM"], "auto_map": {"AutoConfig": "configuration_decilm.X"}},
    ):
        write(folder, "config.json", raw)
        check_folder(folder)
    assert not marker.exists()
    assert not list(folder.rglob("__pycache__"))


def test_every_published_layout_has_its_layers():
    assert {name: len(config_json(name)["block_configs"]) for name in LAYOUTS} == {"51B": 80, "49B": 80, "253B": 162}
