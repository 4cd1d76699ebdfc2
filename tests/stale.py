"""Random sequences of what happens to a model between two readings of kept windows: right answers, or a named error."""

import random
import tempfile

import torch
from pcw_models import byte_level, tiny_llama
from peft import LoraConfig, get_peft_model
from transformers import pipeline

from hf_puzzle.remote.generation_pcw import PCWError, encode_windows, score_labels
from hf_puzzle.remote.store_pcw import load_windows, save_windows


WINDOWS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
TASKS = [[20, 21, 22], [23]]
LABELS = [[30], [31, 32], [31, 33]]
SHOTS = [("a great joy", "good"), ("a waste", "bad"), ("what a cast", "good"), ("stolen time", "bad")]
TEXTS = ["what a joy", "my card was lost"]


class Life:
    """A model with two LoRA adapters, windows kept of it in every way, and what may happen to them."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.model = tiny_llama(byte_level(), seed=seed, attention_dropout=0.1)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        self.wrapped = get_peft_model(self.model, config, adapter_name="one")
        self.wrapped.add_adapter("two", config)
        self.adapters = True
        self.saved = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.folder = tempfile.TemporaryDirectory()
        self.classifier = self.pipeline()
        self.classifier(TEXTS)
        self.kept = [encode_windows(self.wrapped, WINDOWS, [1])]
        self.store()

    def pipeline(self):
        return pipeline(
            "pcw-classification", model=self.model, tokenizer=byte_level(), device="cpu", demonstrations=SHOTS
        )

    # -- what may happen

    def _weight(self) -> torch.nn.Parameter:
        return self.random.choice(list(self.model.parameters()))

    def train(self) -> None:
        """A step of a random optimizer on what requires gradients now (the adapter), or on everything."""
        if self.random.random() < 0.5:
            self.model.requires_grad_(True)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        ids = torch.tensor([[5, 6, 7, 20]])
        if weights:
            loss = self.model(ids, labels=ids).loss
            if loss.requires_grad:
                loss.backward()
            self.random.choice([torch.optim.SGD, torch.optim.AdamW])(weights, lr=0.02).step()
            self.model.zero_grad()

    @torch.no_grad()
    def write_one_value(self) -> None:
        weight = self._weight()
        weight.view(-1)[self.random.randrange(weight.numel())] += 0.5

    @torch.no_grad()
    def write_one_row(self) -> None:
        weight = self._weight()
        weight[self.random.randrange(len(weight))].neg_()

    def scale_data(self) -> None:
        self._weight().data.mul_(1.1)

    def exchange_data(self) -> None:
        weight = self._weight()
        weight.data = weight.data * 0.9

    def exchange_parameter(self) -> None:
        module = self.random.choice(list(self.model.model.layers)).mlp
        module.up_proj.weight = torch.nn.Parameter(module.up_proj.weight.detach() + 0.01)

    def load(self) -> None:
        """What was there at the beginning, or the same weights again."""
        state = self.saved if self.random.random() < 0.5 else self.model.state_dict()
        self.model.load_state_dict({name: tensor.clone() for name, tensor in state.items()})

    def adapter(self) -> None:
        self.wrapped.set_adapter(self.random.choice(["one", "two"]))

    def adapters_off_or_on(self) -> None:
        self.adapters = not self.adapters
        (
            self.wrapped.base_model.enable_adapter_layers
            if self.adapters
            else self.wrapped.base_model.disable_adapter_layers
        )()

    def merge_or_unmerge(self) -> None:
        self.random.choice([self.wrapped.merge_adapter, self.wrapped.unmerge_adapter])()

    def cast(self) -> None:
        self.model.to(self.random.choice([torch.float32, torch.bfloat16]))

    def cast_and_back(self) -> None:
        dtype = self.model.dtype
        self.model.to(torch.bfloat16).to(dtype)

    def mode(self) -> None:
        self.model.train(self.random.random() < 0.5)

    def keep(self) -> None:
        self.kept = [*self.kept[-2:], encode_windows(self.model, WINDOWS, [1])]

    def store(self) -> None:
        self.model.eval()
        save_windows(self.folder.name, encode_windows(self.model, WINDOWS, [1]), self.model)

    CHANGES = (
        train, write_one_value, write_one_row, scale_data, exchange_data, exchange_parameter, load, adapter,
        adapters_off_or_on, merge_or_unmerge, cast, cast_and_back, mode, keep, store,
    )  # fmt: skip

    # -- readings: right, refused, or wrong

    def read(self) -> list[str]:
        """One word per reading of what is kept."""
        self.model.eval()
        with torch.no_grad():
            expected = score_labels(self.model, encode_windows(self.model, WINDOWS, [1]), TASKS, LABELS)
        found = []
        for kept in (*(lambda e=e: e for e in self.kept), lambda: load_windows(self.folder.name, self.model)):
            try:
                scores = score_labels(self.random.choice([self.model, self.wrapped]), kept(), TASKS, LABELS)
            except PCWError:
                found.append("refused")
            else:
                found.append("right" if torch.equal(scores, expected) else "wrong")
        fresh = self.pipeline()(TEXTS, top_k=None)
        return [*found, "right" if self.classifier(TEXTS, top_k=None) == fresh else "wrong"]


def live(seed: int, steps: int = 12) -> tuple[list[str], list[str]]:
    """(names of what happened, what the readings gave) of one sequence."""
    life = Life(seed)
    happened, found = [], []
    for _ in range(steps):
        change = life.random.choice(life.CHANGES)
        change(life)
        happened.append(change.__name__)
        if life.random.random() < 0.5:
            found += life.read()
    found += life.read()
    life.folder.cleanup()
    return happened, found
