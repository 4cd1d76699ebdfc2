"""`hf-puzzle decide`: answer a file of decision requests, fit temperatures on solved ones, and say how good answers are."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..evaluation import Decisions
from ..remote.decisions_pcw import Decider, read_request
from ..remote.masks_pcw import PCWError
from ..remote.store_pcw import HEADER, load_windows, read_json, save_windows


MAX_BYTES = 256 * 2**20  # of a file of requests


def read_requests(path: Path) -> list[dict]:
    """Requests of a JSON file (one, or a list), or of JSON lines; ValueError naming the line that is none."""
    if path.stat().st_size > MAX_BYTES:
        raise PCWError(f"{path} has more than {MAX_BYTES // 2**20} MiB: cut it into files")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
        return [read_request(line, f"{path}, line {i}") for i, line in lines]
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise PCWError(f"{path} is not valid JSON ({error}); JSON lines are read from a .jsonl file") from None
    if isinstance(found, list):
        return [read_request(each, f"{path}, request {i}") for i, each in enumerate(found)]
    return [read_request(text, str(path))]


def open_decider(
    model: str,
    *,
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
    demonstrations: Path | None = None,
    contexts: Path | None = None,
    windows: Path | None = None,
    device: str | torch.device = "cpu",
    **settings,
) -> Decider:
    """A `Decider` of a model folder or Hub id.

    Args:
        demonstrations: file of solved requests. contexts: JSON list of documents.
        windows: store of their encoded windows; written if there is none.
        settings: other arguments of `Decider`.

    Raises PCWError as `Decider` and `load_windows`.
    """
    source = {"gguf_file": gguf_file, "trust_remote_code": trust_remote_code}
    source = {name: value for name, value in source.items() if value}
    opened = (
        AutoModelForCausalLM.from_pretrained(model, dtype="auto", **source).to(device).eval().requires_grad_(False)
    )
    tokenizer = AutoTokenizer.from_pretrained(model, **source)
    if demonstrations is not None:
        settings["demonstrations"] = read_requests(demonstrations)
    if contexts is not None:
        settings["contexts"] = read_json(contexts)
    if windows is not None and (windows / HEADER).exists():
        settings["encoded"] = load_windows(windows, opened, tokenizer)
    decider = Decider(opened, tokenizer, **settings)
    if windows is not None and "encoded" not in settings:
        if (encoded := decider.windows()) is None:
            raise PCWError("windows are kept of demonstrations or contexts: give one of them")
        save_windows(windows, encoded, opened, tokenizer)
    return decider


def solved_decisions(decider: Decider, requests: Sequence[Mapping], batch_size: int = 8) -> dict[str, Decisions]:
    """Per type of question what `decider` said of requests that hold their `answers`."""
    rows: dict[str, tuple[list, list]] = {}
    for start in range(0, len(requests), batch_size):
        chunk = requests[start : start + batch_size]
        for i, each in enumerate(chunk, start):
            answers = each.get("answers")
            if not isinstance(answers, Mapping) or set(answers) != set(each["questions"]):
                raise PCWError(f"request {i} has answers {answers!r:.80}: expected one to each of its questions")
        for request, answers in zip(chunk, decider(chunk), strict=True):
            for name, answer in answers.items():
                options = answer.get("probabilities") or {"true": answer["noul"], "false": 1 - answer["noul"]}
                value = request["answers"][name]
                option = str(value).lower() if isinstance(value, bool) else str(value)
                if option not in options:
                    raise PCWError(f"question {name!r} is answered {value!r}, expected one of {', '.join(options)}")
                found, right = rows.setdefault(answer["type"], ([], []))
                found.append(torch.tensor(list(options.values()), dtype=torch.float64))
                right.append(list(options).index(option))
    return {kind: Decisions(*each) for kind, each in rows.items()}


def calibrate(decider: Decider, development: Sequence[Mapping]) -> dict[str, Decisions]:
    """Fit the decider's temperatures on solved requests, a type at a time, the options in the order they are given in.

    Temperatures that are no likelier than those it had stay. Returns what it then says of these requests, per type.
    """
    orders, decider.permute = decider.permute, 1
    try:
        before = decider.decision_config.temperature
        found = solved_decisions(decider, development)
        decider.set_temperature({kind: before.get(kind, 1.0) * each.temperature() for kind, each in found.items()})
    finally:
        decider.permute = orders
    return solved_decisions(decider, development)
