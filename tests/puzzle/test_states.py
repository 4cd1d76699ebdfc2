"""A job that holds only its own layers makes the library of a job with the whole parent, wherever its states come from."""

import dataclasses
import multiprocessing.connection
import os
import queue
import signal
import threading

import pytest
import torch
from safetensors.torch import save
from tqdm.auto import tqdm
from transformers import TrainerCallback

from hf_puzzle.puzzle.block_distillation import BLDTrainer, build_layers, build_library
from hf_puzzle.puzzle.library import BlockLibrary
from hf_puzzle.puzzle.loading import Shards, layer_bytes, load_layers
from hf_puzzle.puzzle.search_space import build_search_space
from hf_puzzle.puzzle.states import LayerStream, Streamed, Upstream
from hf_puzzle.puzzle.surgery import layers_of, run_layer
from hf_puzzle.recipe import LibraryConfig, SearchSpaceConfig


CONFIG = LibraryConfig(num_tokens=512, batch_size=4, ridge_tokens=256, eval_tokens=128, evals=4)
CONTEXT = multiprocessing.get_context("fork")  # the jobs share what this process has imported
RANGES = [range(0, 1), range(1, 3), range(3, 4)]


@pytest.fixture(scope="module")
def small_space(llama):
    return build_search_space(llama.config, SearchSpaceConfig(attention=[1, "linear"], ffn=[256]))


@pytest.fixture(scope="module")
def saved(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent") / "llama"
    llama.save_pretrained(folder, max_shard_size="400KB")
    return folder


@pytest.fixture(scope="module")
def build(small_space, importance, tokens, sequence_length):
    """A function that runs one job."""

    def run(parent, layers, library, config=CONFIG, **source):
        build_layers(parent, small_space, layers, importance, tokens, library, config, sequence_length, 0, **source)

    return run


@pytest.fixture(scope="module")
def references(llama, build, tmp_path_factory):
    """A function that gives the library of jobs that hold the whole parent."""
    made = {}

    def reference(config=CONFIG):
        key = repr(config)
        if key not in made:
            made[key] = BlockLibrary(tmp_path_factory.mktemp("whole"))
            for layers in RANGES:
                build(llama, layers, made[key], config)
        return made[key]

    return reference


def assert_equal_libraries(first, second):
    assert set(first.index) == set(second.index)
    for name in first.index:
        assert first.index[name] == second.index[name]
        one, two = first.weights(name), second.weights(name)
        assert all(torch.equal(tensor, two[key]) for key, tensor in one.items()), name


def test_jobs_run_no_layer_above_their_own(llama, tokens):
    ran = []
    handles = [layer.register_forward_hook(lambda *a, i=i: ran.append(i)) for i, layer in enumerate(layers_of(llama))]
    LayerStream(llama, range(1, 3)).run(tokens["train"][:16].view(1, 16).long())
    for handle in handles:
        handle.remove()
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("lookahead", [1, 3, 1000])
@pytest.mark.parametrize("args", [{}, {"bf16": True}, {"gradient_accumulation_steps": 3}], ids=str)
def test_streamed_states_make_the_same_library(llama, saved, build, references, tmp_path, lookahead, args):
    if args and lookahead != 3:
        pytest.skip("one look-ahead is enough")
    config = dataclasses.replace(CONFIG, args=args)
    library = BlockLibrary(tmp_path)
    for layers in RANGES:
        source = Streamed(saved, llama.config, layers.start, lookahead=lookahead)
        build(load_layers(saved, llama.config, layers.start, layers.stop), layers, library, config, source=source)
    assert_equal_libraries(references(config), library)


def test_more_than_one_epoch(llama, saved, small_space, importance, tokens, sequence_length, tmp_path):
    short = {**tokens, "train": tokens["train"][: 16 * 14]}  # three and a half batches
    libraries = []
    for name in ("whole", "streamed"):
        libraries.append(BlockLibrary(tmp_path / name))
        parent, source = llama, None
        if name == "streamed":
            parent, source = load_layers(saved, llama.config, 2, 3), Streamed(saved, llama.config, 2, lookahead=5)
        build_layers(parent, small_space, range(2, 3), importance, short, libraries[-1], CONFIG, 16, source=source)
    assert_equal_libraries(*libraries)


class _Pipeline:
    """Range jobs in processes, each with only its own layers, joined by queues of two messages."""

    def __init__(self, saved, config, build, folder):
        self.saved, self.config, self.build, self.folder = saved, config, build, folder

    def run(self, config=CONFIG):
        """Exit codes; the others are killed when one job fails, as an executor does."""
        channels = [CONTEXT.Queue(2) for _ in RANGES[1:]]
        jobs = [CONTEXT.Process(target=self._job, args=(i, channels, config), daemon=True) for i in range(len(RANGES))]
        for job in jobs:
            job.start()
        while alive := [job.sentinel for job in jobs if job.is_alive()]:
            multiprocessing.connection.wait(alive, timeout=1.0)  # one that is dead by now is in no later list
            if any(job.exitcode for job in jobs):
                for job in jobs:
                    job.kill()
        for job in jobs:
            job.join()
        return [job.exitcode for job in jobs]

    def _job(self, i, channels, config):
        tqdm.set_lock(threading.RLock())  # its own is shared by forked processes, and a killed one keeps it
        layers, first = RANGES[i], i == 0
        parent = load_layers(self.saved, self.config, layers.start, layers.stop, with_embeddings=first)
        self.build(
            parent,
            layers,
            BlockLibrary(self.folder, part=f"job{i}"),
            config,
            source=None if first else Upstream(channels[i - 1]),
            hand_on=channels[i] if i < len(channels) else None,
        )


@pytest.fixture
def pipeline(saved, llama, build, tmp_path):
    return _Pipeline(saved, llama.config, build, tmp_path / "pipeline")


@pytest.mark.parametrize("args", [{}, {"bf16": True, "gradient_accumulation_steps": 2}], ids=str)
def test_a_pipeline_of_jobs_makes_the_same_library(pipeline, references, args):
    config = dataclasses.replace(CONFIG, args=args)
    assert pipeline.run(config) == [0, 0, 0]
    assert_equal_libraries(references(config), BlockLibrary(pipeline.folder))


def test_jobs_without_work_hand_on_all_the_same(pipeline, references, llama, build):
    for layers in RANGES[:2]:
        build(llama, layers, BlockLibrary(pipeline.folder))
    assert pipeline.run() == [0, 0, 0]
    assert_equal_libraries(references(), BlockLibrary(pipeline.folder))


class _KillAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("killed, step", [(0, 5), (1, 3), (2, 6)])
def test_a_pipeline_continues_after_a_kill(pipeline, references, monkeypatch, killed, step):
    original = BLDTrainer.__init__

    def init(self, parent, students, *args, **kwargs):
        original(self, parent, students, *args, **kwargs)
        if students[0].layer_idx == RANGES[killed].start:
            self.add_callback(_KillAfter(step))

    with monkeypatch.context() as patch:
        patch.setattr(BLDTrainer, "__init__", init)
        assert pipeline.run()[killed] == -signal.SIGKILL
    assert pipeline.run() == [0, 0, 0]
    assert_equal_libraries(references(), BlockLibrary(pipeline.folder))


def test_a_job_below_that_ends_early_is_an_error():
    channel = queue.Queue()
    channel.put(save({"input_ids": torch.zeros(1, 2), "states": torch.zeros(1, 2, 4)}))
    channel.put(None)
    with pytest.raises(RuntimeError, match="ended before it handed on"):
        Upstream(channel)([torch.ones(1, 2)])


def test_a_job_reads_its_own_layers_only(llama, saved):
    shards = Shards(saved)
    own = layer_bytes(shards, range(1, 3))
    load_layers(shards, llama.config, 1, 3)
    assert own <= shards.bytes_read <= own + 4 * 64  # and the final norm


def test_streamed_holds_one_layer_at_a_time(llama, saved, tokens, monkeypatch):
    held = []

    def watched(model, layer_idx, state):
        held.append(sum(p.numel() for p in model.parameters()))
        return run_layer(model, layer_idx, state)

    monkeypatch.setattr("hf_puzzle.puzzle.states.run_layer", watched)
    Streamed(saved, llama.config, 3)([tokens["train"][:16].view(1, 16).long()])
    one = sum(p.numel() for p in layers_of(llama)[0].parameters()) + llama.config.hidden_size
    assert held == [one] * 3


def test_library_of_whole_parent_is_the_default(llama, small_space, importance, tokens, references, tmp_path):
    config = dataclasses.replace(CONFIG, layers_per_job=1)
    library = build_library(llama, small_space, importance, tokens, BlockLibrary(tmp_path), config, 16)
    assert set(library.index) == set(references().index)
