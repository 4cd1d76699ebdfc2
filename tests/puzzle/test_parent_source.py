"""Parents in GGUF files: unpacked once into an ordinary folder that is the same model."""

import shutil

import pytest
import torch
from tiny_run import write_recipes
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from hf_puzzle.cli import main
from hf_puzzle.data import train_tokenizer
from hf_puzzle.engines.gguf import write_gguf
from hf_puzzle.puzzle.parent_source import ParentSource
from hf_puzzle.puzzle.pipeline import PuzzleRun
from hf_puzzle.recipe import DataConfig, ParentConfig, RecipeError, load_recipe


gguf = pytest.importorskip("gguf")

FILE = "model.gguf"
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder with odd head counts and a tied head, whose weights float16 holds, and its GGUF file beside it."""
    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = train_tokenizer(DataConfig(name="python-stdlib", heldout_fraction=0.5), 400, num_documents=5)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = TEMPLATE
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=36, intermediate_size=96, num_hidden_layers=3, num_attention_heads=9,
        num_key_value_heads=3, head_dim=4, tie_word_embeddings=True, rope_theta=100_000.0, max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).half().float()
    model.generation_config.eos_token_id = end
    model.save_pretrained(folder / "folder")
    tokenizer.save_pretrained(folder / "folder")
    (folder / "packed").mkdir()
    write_gguf(folder / "folder", folder / "packed" / FILE, "f16")
    return folder


def source_of(original, run_dir, **changes):
    asked = ParentConfig(**({"name": "packed", "gguf_file": FILE} | changes))
    return ParentSource(asked, original, run_dir, torch.device("cpu"))


def test_the_folder_is_the_same_model(original, tmp_path):
    source = source_of(original, tmp_path)
    assert source.unpacked
    assert source.known
    assert source.path == str(tmp_path / "parent")
    before = source.config
    assert (before.num_hidden_layers, before.num_attention_heads, before.num_key_value_heads) == (3, 9, 3)
    assert before.tie_word_embeddings
    text = "def f(x):\n    return '<|im_end|>'"
    ids = source.tokenizer(text)["input_ids"]
    source.unpack()
    stock = AutoModelForCausalLM.from_pretrained(original / "folder").eval()
    tokenizer = AutoTokenizer.from_pretrained(original / "folder")
    opened = source_of(original, tmp_path)
    assert ids == opened.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert opened.tokenizer.chat_template == TEMPLATE
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in opened.end_tokens
    assert not hasattr(opened.config, "quantization_config")
    with torch.no_grad():
        batch = torch.tensor([ids])
        assert (opened.model(batch).logits - stock(batch).logits).abs().max() < 1e-5
    assert opened.model.dtype == torch.float32
    assert GenerationConfig.from_pretrained(tmp_path / "parent") is not None


def test_the_stage_runs_again_when_the_file_changes(original, tmp_path):
    shutil.copytree(original / "packed", tmp_path / "packed")
    source = source_of(tmp_path, tmp_path / "run")
    first = source.fingerprint()
    assert first == source_of(tmp_path, tmp_path / "other").fingerprint()
    with open(tmp_path / "packed" / FILE, "ab") as file:
        file.write(b"\0")
    assert source.fingerprint() != first


def test_a_run_begins_with_it(original, tmp_path):
    folder = write_recipes(tmp_path)
    settings = [f"parent.name={original / 'packed'}", f"parent.gguf_file={FILE}", "parent.recipe=null", "search_space.ffn=[48, none]",
                "search_space.width_multiple=16"]  # fmt: skip
    recipe = load_recipe(folder / "tiny.yaml", settings)
    stages = PuzzleRun(recipe, tmp_path / "run", folder).stages()
    assert stages[0].name == "parent"
    assert stages[1].needs == ("parent",)
    arguments = ["run", str(folder / "tiny.yaml"), "--out", str(tmp_path / "run")]
    arguments += [word for setting in settings for word in ("--set", setting)]
    assert main([*arguments, "--only", "parent"]) == 0
    assert main([*arguments, "--only", "data"]) == 0
    opened = PuzzleRun(recipe, tmp_path / "run", folder)
    assert opened.parent.config.num_key_value_heads == 3
    assert opened.space.parent.id == "kv3+w96"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gguf_file": "absent.gguf"}, "absent.gguf"),
        ({"name": "nowhere", "gguf_file": FILE}, "nowhere"),
        ({"gguf_file": "broken.gguf"}, "broken.gguf"),
        ({"gguf_file": "other.gguf"}, "not supported"),
    ],
)
def test_what_is_no_parent_is_refused_by_name(original, tmp_path, changes, message):
    (original / "packed" / "broken.gguf").write_bytes(b"GGUF and nothing else")
    writer = gguf.GGUFWriter(original / "packed" / "other.gguf", "newest-architecture")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(RecipeError, match=message):
        source_of(original, tmp_path, **changes).config  # noqa: B018


def test_trained_or_unpacked_not_both(original, tmp_path):
    with pytest.raises(RecipeError, match="leave one out"):
        source_of(original, tmp_path, recipe="parent.yaml")
