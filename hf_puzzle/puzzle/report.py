"""`report.md` and its pictures, rendered from the run's JSON files alone."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from .. import artifacts
from ..blocks import NONE, Block, Variant
from ..recipe import PuzzleRecipe
from ..stages import Estimate
from . import systems
from .block_costs import CostTable, Fit, share_of
from .estimates import PROCESS_BYTES, Pieces


# one colour per role in every picture
CHILD, PARENT, BASELINE, GRID = "#2a6fbb", "#444444", "#c46a2d", "#dddddd"


def write_report(run_dir: str | Path, recipe: PuzzleRecipe) -> None:
    """Write `report.md` and `figures/*.png` below `run_dir`; every number comes from a JSON file of the run."""
    import matplotlib

    matplotlib.use("Agg")
    run_dir = Path(run_dir)
    evaluation = artifacts.read_json(run_dir / "eval.json")
    if recipe.evaluate.systems:
        evaluation["systems"] = artifacts.read_json(run_dir / systems.TABLE)
    solutions = artifacts.read_json(run_dir / "solutions.json")
    costs = CostTable.from_dict(artifacts.read_json(run_dir / "costs.json"))
    scores = artifacts.read_jsonl(run_dir / "scores.jsonl")
    baselines = artifacts.read_jsonl(run_dir / "baselines.jsonl")
    figures = run_dir / "figures"
    figures.mkdir(exist_ok=True)
    blocks = [Block.parse(text) for text in solutions["chosen"]["blocks"]]
    parents = [Block.parse(text) for text in costs.children[solutions["chosen"]["batch_size"]][0]["blocks"]]
    draw_architecture(blocks, parents, figures / "architecture.png")
    draw_scores(scores, solutions["chosen"]["blocks"], parents, figures / "scores.png")
    draw_frontier(evaluation, baselines, figures / "frontier.png")
    draw_costs(costs, solutions, figures / "costs.png")
    if len(evaluation.get("requests") or []) > 1:
        draw_requests(evaluation["requests"], figures / "requests.png")
    if len({row["gkd_tokens"] for row in baselines}) > 1:
        draw_budgets(baselines, figures / "budgets.png")
    gkd = artifacts.read_json(run_dir / "distilled" / "puzzle.json").get("gkd")
    steps = _iteration_rows(run_dir, recipe.solve.iterations) if recipe.solve.iterations > 1 else []
    text = render(recipe, evaluation, solutions, costs, baselines, gkd, figures, steps)
    artifacts.write_text(run_dir / "report.md", text)


# -- words


def kept_text(quality: dict) -> str:
    """Top-1 accuracy relative to the parent's; a parent that is never right keeps nothing to compare with."""
    if quality["top1_kept"] is None:
        return "-"
    return f"{quality['top1_kept']:.2%} +- {quality['top1_kept_stderr']:.2%}"


def summary_rows(evaluation: dict) -> list[tuple[str, str, str, str]]:
    """`(quantity, parent, child, kept or ratio)`: the table of the report and of the console."""
    speed, memory = evaluation["speed"], evaluation["memory"]
    quality, task, decides = evaluation["quality"]["distilled"], evaluation["task"], evaluation.get("decides")

    def bytes_row(name: str, key: str) -> tuple[str, str, str, str]:
        parent, child = memory["parent"][key], memory["child"][key]
        if parent is None or child is None:
            return name, "-", "-", "-"
        return name, f"{parent / 1e6:.1f} MB", f"{child / 1e6:.1f} MB", f"{child / parent:.1%}"

    def ratio(key: str) -> str:
        return _gain(speed[key])

    return [
        ("throughput, tokens/s", f"{speed['parent_tokens_per_s']:.0f}", f"{speed['tokens_per_s']:.0f}", ratio("total")),
        ("prefill speed-up", "", "", ratio("prefill")),
        *([("decode speed-up", "", "", ratio("decode"))] if evaluation.get("workload", {}).get("decode_tokens") != 1 else []),
        ("speed-up against the parent in the same code", "", "", ratio("same_code")),
        *_length_rows(speed),
        *_vocabulary_rows(evaluation.get("vocabulary")),
        *_hidden_rows(evaluation.get("hidden")),
        *([("keys and values in llama.cpp's", "f16", cache_type, "")] if (cache_type := evaluation.get("cache_type")) else []),
        *_decision_rows(evaluation),
        ("decisions right" if decides else "top-1 accuracy", f"{quality['parent_top1']:.2%}", f"{quality['top1']:.2%}",
         kept_text(quality)),
        *_cloze_rows(task),
        *_calibration_rows(quality),
        ("loss, nats", f"{quality['parent_loss']:.4f}", f"{quality['loss']:.4f}", f"+{quality['loss'] - quality['parent_loss']:.4f}"),
        (f"KL(parent || child){' over the options' if decides else ''}, nats", "0", f"{quality['kl']:.4f}", f"+- {quality['kl_stderr']:.4f}"),
        ("parameters", f"{memory['parent']['num_parameters'] / 1e6:.2f} M", f"{memory['child']['num_parameters'] / 1e6:.2f} M",
         f"{memory['child']['num_parameters'] / memory['parent']['num_parameters']:.1%}"),
        bytes_row("KV cache of the batch", "kv_bytes"),
        bytes_row("peak memory, loading and generating", "peak_bytes"),
        *_extra_rows(evaluation),
    ]  # fmt: skip


def _length_rows(speed: dict) -> list[tuple[str, str, str, str]]:
    """Throughput behind prompts of each of several lengths."""
    return [
        (f"throughput behind {each['prefill_tokens']} tokens, tokens/s", f"{each['parent_tokens_per_s']:.0f}",
         f"{each['tokens_per_s']:.0f}", _gain(each["total"]))
        for each in speed.get("by_length", [])
    ]  # fmt: skip


def _vocabulary_rows(trimmed: dict | None) -> list[tuple[str, str, str, str]]:
    """Of a child with fewer tokens than its parent: what either needs for the same text."""
    if trimmed is None:
        return []
    bits = trimmed["bits_per_byte"]
    return [
        ("tokens of the vocabulary", f"{trimmed['parent_size']}", f"{trimmed['size']}", f"{trimmed['size'] / trimmed['parent_size']:.1%}"),
        ("tokens of a kilobyte of text", f"{1e3 * trimmed['parent_tokens'] / trimmed['text_bytes']:.0f}", f"{1e3 * trimmed['tokens'] / trimmed['text_bytes']:.0f}",
         f"{trimmed['tokens'] / trimmed['parent_tokens']:.2f}x"),
        ("bits per byte of text, each with its tokens", f"{bits['parent']:.4f}", f"{bits['distilled']:.4f}", f"+{bits['distilled'] - bits['parent']:.4f}"),
        ("bits per byte of the parent without the other tokens", "", f"{bits['trimmed']:.4f}", f"+{bits['trimmed'] - bits['parent']:.4f}"),
    ]  # fmt: skip


def _hidden_rows(narrowed: dict | None) -> list[tuple[str, str, str, str]]:
    """Of a child with a narrower residual stream than its parent: what the width alone costs, before any block is exchanged."""
    if narrowed is None:
        return []
    quality, done = narrowed["quality"], " and ".join(narrowed["accepted"])
    return [
        ("channels of the residual stream", f"{narrowed['parent_size']}", f"{narrowed['size']}", f"{narrowed['size'] / narrowed['parent_size']:.1%}"),
        (f"KL(parent || parent with these channels{f', {done} corrected' if done else ''}), nats", "", f"{quality['kl']:.4f}", f"+- {quality['kl_stderr']:.4f}"),
    ]  # fmt: skip


def prompt_text(tokens: int | list[int]) -> str:
    """`64`, or `64, 256 and 4096` of several lengths."""
    if isinstance(tokens, int):
        return str(tokens)
    return " and ".join([", ".join(map(str, tokens[:-1])), str(tokens[-1])])


def _decision_rows(evaluation: dict) -> list[tuple[str, str, str, str]]:
    """Of a child of decisions: how many of its parent's it makes."""
    if not evaluation.get("decides"):
        return []
    quality = evaluation["quality"]["distilled"]
    return [(f"decisions that are the parent's ({quality['rows']})", "", "", f"{quality['agreement']:.2%} +- {quality['agreement_stderr']:.2%}")]  # fmt: skip


def _cloze_rows(task: dict | None) -> list[tuple[str, str, str, str]]:
    if task is None:
        return []
    parent, child = task["parent"], task["distilled"]
    kept = "-" if child["kept"] is None else f"{child['kept']:.1%} +- {child['kept_stderr']:.1%}"
    return [(f"cloze accuracy ({parent['items']} items)", f"{parent['accuracy']:.1%}", f"{child['accuracy']:.1%}", kept)]  # fmt: skip


def _calibration_rows(quality: dict) -> list[tuple[str, str, str, str]]:
    if "ece" not in quality:
        return []
    return [
        ("tokens that one has right and the other wrong", "", "", f"{quality['flips']:.2%}"),
        ("expected calibration error", f"{quality['parent_ece']:.4f}", f"{quality['ece']:.4f}", ""),
        ("Brier score", f"{quality['parent_brier']:.4f}", f"{quality['brier']:.4f}", ""),
    ]


def _gain(ratio: dict) -> str:
    slower = ", **slower than its parent**" if ratio["value"] < 1 else ""
    return f"{ratio['value']:.2f}x (>= {ratio['lower_bound']:.2f}x){slower}"


def slower_than_parent(evaluation: dict) -> list[str]:
    """Where a run measured its child to be slower than the parent, a line each."""
    return [f"{name}: {gain}" for name, *_, gain in summary_rows(evaluation) if "slower than its parent" in gain]


def _extra_rows(evaluation: dict) -> list[tuple[str, str, str, str]]:
    """What some runs measure: the child as draft of its parent, and with weights in fewer bits."""
    rows, memory = [], evaluation["memory"]["parent"]["weight_bytes"]
    if drafted := evaluation.get("assisted"):
        speed = drafted["speed"]
        rows.append(
            (
                f"parent, {drafted['draft_tokens']} tokens at a time drafted by the child",
                f"{drafted['median_ms']['plain']:.0f} ms",
                f"{drafted['median_ms']['assisted']:.0f} ms",
                f"{speed['value']:.2f}x (>= {speed['lower_bound']:.2f}x), {drafted['identical']} of {drafted['prompts']} identical",
            )
        )
    for row in evaluation.get("requests") or []:
        rows += _request_rows(row)
    if chats := evaluation.get("chats"):
        rows += _chat_rows(chats)
    for row in evaluation.get("keys") or []:
        kept = "-" if row["kept"] is None else f"{row['kept']:.1%} +- {row['kept_stderr']:.1%}"
        what = f"numbers found again in {row['length']} tokens ({row['items']} texts)"
        rows.append((what, f"{row['parent']:.1%}", f"{row['child']:.1%}", kept))
    for row in evaluation.get("gguf") or []:
        parent, child = row["quality"]["parent"], row["quality"]["child"]
        kind, work = f"llama.cpp, {row['outtype']}", row["workload"]
        speed = row["speed"]["total"]
        rows += [
            (f"{kind}: top-1 accuracy", f"{parent['top1']:.2%}", f"{child['top1']:.2%}", kept_text(child)),
            (f"{kind}: KL from the parent in transformers, nats", f"{parent['kl']:.4f}", f"{child['kl']:.4f}", ""),
            (f"{kind}: file", f"{row['file_bytes']['parent'] / 1e6:.1f} MB", f"{row['file_bytes']['child'] / 1e6:.1f} MB",
             f"{row['file_bytes']['child'] / row['file_bytes']['parent']:.1%}"),
            (f"{kind}: {work['prefill_tokens']} tokens in, {work['decode_tokens']} out, batch {work['batch_size']}",
             *(f"{row['median_ms'][name]['prefill_ms'] + row['median_ms'][name]['decode_ms']:.0f} ms" for name in ("parent", "child")),
             _gain(speed)),
        ]  # fmt: skip
    for row in evaluation.get("quantized", []):
        quality = row["quality"]
        rows.append(
            (f"child in {row['weights']}: weights", f"{memory / 1e6:.1f} MB", f"{row['weight_bytes'] / 1e6:.1f} MB",
             f"top-1 kept {kept_text(quality)}")
        )  # fmt: skip
    return rows


def _request_rows(row: dict) -> list[tuple[str, str, str, str]]:
    """What one of several short requests at once waits for."""
    work, median = row["workload"], row["median_ms"]
    where = f"batch {work['batch_size']}, {work['prefill_tokens']} tokens in, {work['decode_tokens']} out"

    def times(of) -> tuple[str, str]:
        return tuple(f"{of(median[name]):.1f} ms" for name in ("parent", "child"))

    rows = [
        (f"{where}: to the first token", *times(lambda t: t["prefill_ms"]), _gain(row["prefill"])),
    ]
    if work["decode_tokens"] > 1:
        rows += [(f"{where}: each further token", *times(lambda t: per_token_ms(t, work)), _gain(row["decode"]))]
    if joules := {name: used for name, used in row["joules_per_token"].items() if used is not None}:
        used = [f"{1e3 * joules[name]:.1f} mJ" for name in ("parent", "child")]
        rows += [(f"{where}: energy of the processor per token", *used, f"{joules['child'] / joules['parent']:.1%}")]
    return rows


def per_token_ms(timing: dict, workload: dict) -> float:
    """Of a `costs.Timing`: its first token came with the prompt."""
    return timing["decode_ms"] / max(1, workload["decode_tokens"] - 1)


def _chat_rows(chats: dict) -> list[tuple[str, str, str, str]]:
    """Greedy answers to the same prompts."""

    def share(name: str) -> str:
        return f"{chats[name]:.1%} +- {chats[f'{name}_stderr']:.1%}"

    where = f"chat ({chats['prompts']} prompts)"
    rows = [
        (f"{where}: tokens of the parent's answers that are the child's first choice", "", "", share("agreement")),
        (f"{where}: share of an answer before the first difference", "", "", share("same_start")),
        (f"{where}: tokens an answer, at most {chats['max_new_tokens']}", f"{chats['parent_tokens']:.0f}", f"{chats['child_tokens']:.0f}",
         f"{chats['wordiness']:.2f} +- {chats['wordiness_stderr']:.2f}" if "wordiness" in chats else "-"),
    ]  # fmt: skip
    for name, what in (("ended", "answers that end by themselves"), ("loops", "answers that end in a loop"), ("empty", "empty answers")):  # fmt: skip
        rows.append((f"{where}: {what}", share(f"parent_{name}"), share(f"child_{name}"), ""))
    return rows


def markdown_table(header: list[str], rows: list) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def render(
    recipe: PuzzleRecipe,
    evaluation: dict,
    solutions: dict,
    costs: CostTable,
    baselines: list[dict],
    gkd: dict | None,
    figures: Path,
    steps: Sequence[tuple] = (),
) -> str:
    """The report's text."""
    chosen, work = solutions["chosen"], evaluation["workload"]
    fit = next(iter(costs.fits[chosen["batch_size"]].values()))
    fitted, unseen = _by_fit(costs, chosen["batch_size"])
    before = evaluation["quality"]["child"]
    solution = chosen["solution"]
    machine, name = evaluation["environment"], recipe.parent.name
    parts = [
        f"# {Path(name).name if Path(name).is_absolute() else name}: a cheaper child",
        f"Measured in {costs.workload.get('engine', 'transformers')} on {machine['gpu'] or machine['cpu']} ({machine['cpu_count']} cores), {costs.dtype}, batch {work['batch_size']}, "
        f"{prompt_text(work['prefill_tokens'])} prompt and {work['decode_tokens']} generated tokens, {costs.workload['clock']} clock, "
        f"{evaluation['speed']['total']['rounds']} interleaved rounds in {evaluation['speed']['total'].get('sessions', 1)} "
        "fresh processes; bounds are one-sided over the processes at "
        f"{evaluation['speed']['total']['confidence']:.0%}. Quality on {evaluation['quality']['distilled']['tokens']} test tokens "
        "that nothing in the search saw.",
        markdown_table(["", "parent", "child", "kept / ratio"], summary_rows(evaluation)),
        f"Before GKD the child kept {kept_text(before)} of top-1 (KL {before['kl']:.4f}); "
        f"GKD used {evaluation['gkd_tokens']} tokens{_gkd_text(gkd)}.",
        "## The child, layer by layer",
        "![architecture](figures/architecture.png)",
        markdown_table(
            ["layer", "attention", "FFN"], [(i, *text.split("+")) for i, text in enumerate(chosen["blocks"])]
        ),
        "## Scores",
        f"Replace-1-block {recipe.score.metric}; the chosen blocks are outlined. The solver ({solution['solver']}, status "
        f"{solution['status']}) proved a gap of {solution['gap']:.1e}; the sum of scores is {solution['score']:.4f}, the "
        f"distance measured on the whole child {_number(chosen['distance'])}.",
        _additivity_text(solutions.get("judged", [])),
        "![scores](figures/scores.png)",
        "## Predicted and measured cost",
        f"Stacks of {recipe.cost.stack_layers} copies, calibrated on {len(fitted)} children; {_unseen_text(fit, unseen)}",
        "![costs](figures/costs.png)",
        "## Quality against speed",
        "![frontier](figures/frontier.png)",
    ]
    if len(evaluation.get("requests") or []) > 1:
        parts += ["## Throughput against the speed of one request", "![requests](figures/requests.png)"]
    if others := evaluation.get("systems"):
        parts += ["## Windows and exact experts, with the parent and with the child", _systems_table(others)]
    if baselines:
        parts += [_baseline_table(baselines, evaluation.get("decides", False))]
        if (figures / "budgets.png").exists():
            parts += ["![budgets](figures/budgets.png)"]
    if len(steps) > 1:
        header = [
            "iteration",
            "target",
            "distance from the parent, assembled",
            "KL on validation text before GKD",
            "after",
        ]
        parts += ["## Iterations", markdown_table(header, list(steps))]
    if solutions["rounds"]:
        rows = [
            (
                r["round"],
                f"{r['margin']:.3f}",
                _ratio_text(r, "total", "value"),
                _ratio_text(r, "total", "lower_bound"),
                _ratio_text(r, "same_code", "lower_bound"),
                f"{r['total'].get('sessions', 1)}" if "total" in r else "-",
                _number(r["distance"]),
            )
            for r in solutions["rounds"]
        ]
        header = ["round", "margin", "measured", "at least", "in the same code, at least", "processes", "distance"]
        parts += ["## Rounds of the search", markdown_table(header, rows)]
    return "\n\n".join(parts) + "\n"


def _iteration_rows(run_dir: Path, count: int) -> list[tuple]:
    """Of every iteration: its target, and how far its child was from the parent."""
    rows = []
    for number in range(1, count + 1):
        folder = run_dir if number == count else run_dir / "iterations" / str(number)
        found = artifacts.read_json(folder / "solutions.json")
        gkd = artifacts.read_json(folder / "distilled" / "puzzle.json").get("gkd") or {}
        asked = ", ".join(f"{name} {value:.4g}" for name, value in found["constraints"].items() if value is not None)
        kl = [_number(gkd.get(name)) for name in ("kl_before", "kl_after")]
        rows.append((number, asked, _number(found["chosen"]["distance"]), *kl))
    return rows


def _by_fit(costs: CostTable, batch_size: int) -> tuple[list[dict], list[dict]]:
    """Measured children that the cost model was fitted on, and those that it had not seen."""
    children = [child for child in costs.children[batch_size][1:] if not child.get("all_tokens")]
    return [c for c in children if not c.get("unseen")], [c for c in children if c.get("unseen")]


def _unseen_text(fit: Fit, unseen: list[dict]) -> str:
    if fit.error_mean is None or not unseen:
        return "no children were kept from the fit to tell its error."
    return f"error on {len(unseen)} that it had not seen {fit.error_mean:.1%} on average, {fit.error_max:.1%} at most."


def _ratio_text(speed: dict, name: str, key: str) -> str:
    return f"{speed[name][key]:.3f}x" if name in speed else "-"


def _gkd_text(gkd: dict | None) -> str:
    """Which step of GKD its held-out text chose; `gkd` as of `distillation.Distilled`."""
    if gkd is None:
        return ""
    kept = f"step {gkd['step']} of {gkd['steps']}" if gkd["step"] else "step 0 (no step was nearer to the parent)"
    return (
        f" at learning rate {gkd['learning_rate']:.1e}: KL on validation text {gkd['kl_before']:.4f} before, "
        f"{gkd['kl_after']:.4f} at {kept}, which is kept, {_number(gkd['kl_last'])} at the last"
    )


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks from 0; equal values share the mean of theirs."""
    return ((values[:, None] > values).sum(1) + (values[:, None] >= values).sum(1) - 1).double() / 2


def additivity(judged: list[dict]) -> dict[str, float | None]:
    """How well `summed` scores stand for the `distance` of whole children, over the layouts of `judged`.

    Returns:
        `rank_correlation` (Spearman; None where either is the same throughout), and `mean_ratio` of distance to sum (None
        where no sum is positive).
    """
    summed, distance = (
        torch.tensor([row[key] for row in judged], dtype=torch.float64) for key in ("summed", "distance")
    )
    correlation = (
        torch.corrcoef(torch.stack([ranks(summed), ranks(distance)]))[0, 1].item() if len(judged) > 1 else math.nan
    )
    ratio = (distance / summed)[summed > 0].mean().item()
    return {
        "rank_correlation": correlation if math.isfinite(correlation) else None,
        "mean_ratio": ratio if math.isfinite(ratio) else None,
    }


def _additivity_text(judged: list[dict]) -> str:
    found = additivity(judged)
    text = {key: "-" if value is None else f"{value:.3f}" for key, value in found.items()}
    return (
        f"Are scores additive? Over the {len(judged)} children that the search judged whole, the rank correlation of summed "
        f"scores and measured distance is {text['rank_correlation']} (Spearman), and the distance {text['mean_ratio']} of the "
        "sum on average."
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _systems_table(rows: list[dict]) -> str:
    """What `systems.merge` wrote."""
    return markdown_table(
        ["system", "", "parent", "child", "gain"],
        [
            (row["system"], row["what"], f"{row['parent']:.1%}", f"{row['child']:.1%}",
             f"{row['gain']:+.1%}" + ("" if row["error"] is None else f" +- {row['error']:.1%}"))
            for row in rows
        ],
    )  # fmt: skip


def _baseline_table(baselines: list[dict], decides: bool = False) -> str:
    child = next(row for row in baselines if row["name"] == "searched")["speed"]["total"]["value"]
    rows = [
        (
            row["name"],
            row["gkd_tokens"],
            f"{row['speed']['total']['value']:.2f}x",
            f"{row['speed']['total']['value'] / child - 1:+.1%}",
            *([f"{row['quality']['agreement']:.2%}"] if decides else []),
            kept_text(row["quality"]),
            f"{row['quality']['loss']:.4f}",
            f"{row['quality']['kl']:.4f} +- {row['quality']['kl_stderr']:.4f}",
        )
        for row in baselines
    ]
    return markdown_table(
        [
            "network",
            "GKD tokens",
            "measured speed-up",
            "faster than the child",
            *(["the parent's decisions"] if decides else []),
            "top-1 kept",
            "loss",
            "KL",
        ],
        rows,
    )


# -- pictures


def _figure(width: float, height: float):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def draw_architecture(blocks: list[Block], parents: list[Block], path: Path) -> None:
    """Two bars a layer: KV heads and FFN width or experts as a share of the parent's; words where there is no number."""
    figure, axes = _figure(max(6.0, 0.22 * len(blocks) + 2), 3.2)
    for i, (block, own) in enumerate(zip(blocks, parents, strict=True)):
        for variant, full, offset, colour in (
            (block.attention, own.attention, -0.2, CHILD),
            (block.ffn, own.ffn, 0.2, BASELINE),
        ):
            share = share_of(variant, full)
            axes.bar(i + offset, 1, width=0.36, color="none", edgecolor=GRID)
            axes.bar(i + offset, share, width=0.36, color=colour)
            text = str(variant) if variant != NONE else "-"
            axes.text(i + offset, share + 0.02, text, ha="center", fontsize=7, rotation=90 if len(blocks) > 16 else 0)
    axes.set(
        xlabel="layer",
        ylabel="share of the parent's",
        ylim=(0, 1.15),
        xticks=range(0, len(blocks), max(1, len(blocks) // 16)),
    )
    axes.bar(0, 0, color=CHILD, label=f"KV heads (parent {_all(b.attention for b in parents)})")
    axes.bar(0, 0, color=BASELINE, label=f"FFN width (parent {_all(b.ffn for b in parents)})")
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    _save(figure, path)


def _all(variants: Iterable[Variant]) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in variants if v != NONE))


def draw_scores(scores: list[dict], chosen: list[str], parents: list[Block], path: Path) -> None:
    """Heat map, layers across and blocks down, in decades; the chosen blocks (or their sub-blocks) are outlined."""
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    names = list(dict.fromkeys(row["block"] for row in scores))
    layers = sorted({row["layer_idx"] for row in scores})
    grid = np.full((len(names), len(layers)), np.nan)
    for row in scores:
        grid[names.index(row["block"]), layers.index(row["layer_idx"])] = max(row["value"], 1e-6)
    figure, axes = _figure(max(5.0, 0.3 * len(layers) + 3), max(3.0, 0.16 * len(names) + 1))
    image = axes.imshow(
        grid, aspect="auto", norm=LogNorm(max(1e-5, np.nanmin(grid)), np.nanmax(grid)), cmap="viridis_r"
    )
    axes.set(xlabel="layer", xticks=range(0, len(layers), max(1, len(layers) // 16)), yticks=range(len(names)))
    axes.set_yticklabels(names, fontsize=6)
    for layer_idx, text in enumerate(chosen):
        block, parent = Block.parse(text), parents[layer_idx]
        halves = {Block(block.attention, parent.ffn).id, Block(parent.attention, block.ffn).id} - {parent.id}
        for name in [text] if text in names else sorted(halves & set(names)):
            place = (layers.index(layer_idx) - 0.5, names.index(name) - 0.5)
            axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor="#d02020", linewidth=1.5))
    figure.colorbar(image, ax=axes, label=f"{scores[0]['metric']} when this block is exchanged")
    _save(figure, path)


def draw_frontier(evaluation: dict, baselines: list[dict], path: Path) -> None:
    """Top-1 kept against measured speed-up: parent, child before and after GKD, baselines."""
    figure, axes = _figure(6.4, 4.0)
    speed = evaluation["speed"]["total"]
    points = [("parent", 1.0, 1.0, 0.0, PARENT, "o")]
    for name, label, marker in (("child", "child, before GKD", "s"), ("distilled", "child", "o")):
        quality = evaluation["quality"][name]
        if quality["top1_kept"] is None:
            continue
        points.append((label, speed["value"], quality["top1_kept"], quality["top1_kept_stderr"], CHILD, marker))
    for row in baselines:
        label = f"{row['name']}, {row['gkd_tokens'] // 1000}k" if row["gkd_tokens"] else row["name"]
        if (row["quality"]["top1_kept"] or 0.0) > 0.5 and row["name"] != "searched":
            quality = row["quality"]
            points.append(
                (
                    label,
                    row["speed"]["total"]["value"],
                    quality["top1_kept"],
                    quality["top1_kept_stderr"],
                    BASELINE,
                    "^",
                )
            )
    for label, x, y, error, colour, marker in points:
        axes.errorbar(x, y, yerr=error, fmt=marker, color=colour, capsize=2)
        axes.annotate(label, (x, y), textcoords="offset points", xytext=(6, -3), fontsize=8, color=colour)
    axes.set(xlabel="measured speed-up", ylabel="top-1 accuracy kept")
    axes.margins(x=0.15)
    axes.grid(color=GRID, linewidth=0.5)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    _save(figure, path)


def draw_costs(costs: CostTable, solutions: dict, path: Path) -> None:
    """Predicted against measured milliseconds: children of the fit, and those that the search timed afterwards."""
    batch_size = solutions["chosen"]["batch_size"]
    figure, axes = _figure(4.6, 4.2)
    seen = []
    fitted, unseen = _by_fit(costs, batch_size)
    groups = [
        ("calibration", fitted, lambda c: c["prefill_ms"] + c["decode_ms"], PARENT, "o"),
        ("unseen", unseen, lambda c: c["prefill_ms"] + c["decode_ms"], BASELINE, "^"),
        (
            "search",
            [r for r in solutions["rounds"] if r["batch_size"] == batch_size and "child_ms" in r],
            lambda r: r["child_ms"],
            CHILD,
            "s",
        ),
    ]
    for label, rows, measured_of, colour, marker in groups:
        pairs = [
            (costs.predict([Block.parse(b) for b in r["blocks"]], batch_size).total_ms, measured_of(r)) for r in rows
        ]
        if pairs:
            axes.plot(*zip(*pairs, strict=True), marker, color=colour, label=label)
            seen += [value for pair in pairs for value in pair]
    low, high = 0.9 * min(seen), 1.05 * max(seen)
    axes.plot([low, high], [low, high], color=GRID, zorder=0)
    axes.set(xlabel="predicted, ms per batch", ylabel="measured, ms per batch", xlim=(low, high), ylim=(low, high))
    axes.legend(frameon=False)
    _save(figure, path)


def draw_requests(rows: list[dict], path: Path) -> None:
    """Tokens per second of all requests against those of one, a line each for parent and child; labels are batch sizes."""
    figure, axes = _figure(5.4, 4.0)
    for name, colour in (("parent", PARENT), ("child", CHILD)):
        sizes = [row["workload"]["batch_size"] for row in rows]
        each = [1e3 / per_token_ms(row["median_ms"][name], row["workload"]) for row in rows]
        every = [speed * size for speed, size in zip(each, sizes, strict=True)]
        axes.plot(each, every, marker="o", color=colour, label=name)
        for x, y, size in zip(each, every, sizes, strict=True):
            axes.annotate(f"{size}", (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8, color=colour)
    axes.set(xlabel="generated tokens per second of a request", ylabel="of all requests")
    axes.grid(color=GRID, linewidth=0.5)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_budgets(baselines: list[dict], path: Path) -> None:
    """Loss over GKD tokens: one line per network at about the same measured speed."""
    figure, axes = _figure(6.4, 4.0)
    for name in dict.fromkeys(row["name"] for row in baselines if row["name"] != "scratch"):
        rows = sorted((row for row in baselines if row["name"] == name), key=lambda row: row["gkd_tokens"])
        tokens = [row["gkd_tokens"] / 1e3 for row in rows]
        style = {"color": CHILD, "linewidth": 2.2} if name == "searched" else {"linewidth": 1.2}
        axes.plot(tokens, [row["quality"]["loss"] for row in rows], marker="o", label=name, **style)
    axes.axhline(baselines[0]["quality"]["parent_loss"], color=PARENT, linestyle=":", label="parent")
    axes.set(xlabel="GKD tokens, thousands", ylabel="loss on test text, nats")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(color=GRID, linewidth=0.5)
    _save(figure, path)


def estimate_report(p: Pieces) -> Estimate:
    """Figures."""
    return Estimate(1.0, {"process": PROCESS_BYTES, "figures": 50e6}, "free some memory", 1e6)
