"""Write the results of the committed JSON files into the README, between the markers of each section.

python benchmarks/readme_table.py          # rewrite
python benchmarks/readme_table.py --check  # exit 1 if the README is stale (a test calls it)
"""

import argparse
import collections
import json
import operator
import statistics
import sys
from pathlib import Path


ROOT = Path(__file__).parent.parent


def load(name: str) -> dict | None:
    path = ROOT / "benchmarks" / name
    return json.loads(path.read_text()) if path.exists() else None


def spread(values: list[float], pattern: str) -> str:
    """Mean, and the range where there is more than one value."""
    text = pattern.format(statistics.fmean(values))
    return text if len(values) == 1 else f"{text} ({pattern.format(min(values))} to {pattern.format(max(values))})"


def quality_table(data: dict) -> list[str]:
    lines = [
        "| speed-up, measured (lower bound) | GKD tokens | top-1 kept | KL, nats | seeds |",
        "|---|---|---|---|---|",
    ]
    groups: dict[tuple, list[dict]] = {}
    for row in data["rows"]:
        groups.setdefault((row["target"], row["gkd_tokens"]), []).append(row)
    for (_, tokens), rows in sorted(groups.items(), key=lambda item: (-item[0][0], item[0][1])):
        speed = statistics.fmean(r["measured"]["total"]["value"] for r in rows)
        bound = min(r["measured"]["total"]["lower_bound"] for r in rows)
        kept = spread([r["quality"]["top1_kept"] for r in rows], "{:.2%}")
        kl = statistics.fmean(r["quality"]["kl"] for r in rows)
        lines.append(f"| {speed:.2f}x (>= {bound:.2f}x) | {tokens:,} | {kept} | {kl:.4f} | {len(rows)} |")
    return lines


def baseline_table(data: dict) -> list[str]:
    """One line per target, network and GKD budget, after the refit; means over seeds."""
    lines = [
        "| network | GKD tokens | speed-up (lower bound) | top-1 kept | KL, nats | behind the child, nats | GKD-token multiplier | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    place = operator.itemgetter("target", "name", "gkd_tokens")
    behind = {place(row): row for row in data["behind"] if row["refit"]}
    multipliers = {place(row): row for row in data["multipliers"]}
    groups: dict[tuple, list[dict]] = {}
    for row in data["rows"]:
        if row["refit"]:
            groups.setdefault(place(row), []).append(row["quality"])
    for (target, name, tokens), rows in groups.items():
        key, speed = (target, name, tokens), data["networks"][str(target)][name]["speed"]["total"]
        kept, kl = (statistics.fmean(row[column] for row in rows) for column in ("top1_kept", "kl"))
        lead, more = "-", "-"
        if key in behind:
            lead = f"{behind[key]['kl']:+.4f} +- {1.96 * behind[key]['kl_stderr']:.4f}"
        if key in multipliers:
            more = f"{multipliers[key]['relation'].strip('=')} {multipliers[key]['multiplier']:.2f}".strip()
        lines.append(
            f"| {name} | {tokens:,} | {speed['value']:.2f}x (>= {speed['lower_bound']:.2f}x) | {kept:.2%} | {kl:.4f} | {lead} | {more} | {len(rows)} |"
        )
    return lines


def _speeds(data: dict) -> list[dict]:
    return [network["speed"] for networks in data["networks"].values() for network in networks.values()]


def _sessions(data: dict) -> int:
    return min(speed["total"]["sessions"] for speed in _speeds(data))


def _speed_error(data: dict) -> float:
    return max(speed["total"]["value"] / speed["total"]["lower_bound"] - 1 for speed in _speeds(data))


def real_parts() -> list[str]:
    """What else was measured on the real model, a text for each file that is there."""
    parts = []
    if data := load("data_sources.json"):
        lines = [
            f"What the same child is distilled on, {data['gkd_tokens']:,} GKD tokens each (`benchmarks/data_sources.json`: "
            f"{data['note']}); KL in nats on held-out text of each kind, in brackets its distance from `both` +- 95 %, paired, by "
            f"document; share of the parent's greedy answers to {data['chats']} chats of no stream that is the child's first choice:",
            "",
            "| distilled on | different tokens | KL, natural text | KL, the parent's chats | answers |",
            "|---|---|---|---|---|",
        ]
        for row in data["rows"]:
            cells = [
                f"{on['kl']:.4f}"
                + (
                    ""
                    if row["data"] == "both"
                    else f" ({on['kl_behind_both']:+.4f} +- {1.96 * on['kl_behind_both_stderr']:.4f})"
                )
                for on in (row["on_natural"], row["on_self"])
            ]
            seen = f"{row['gkd']['different_tokens']:,}" if row["gkd"] else "-"
            lines.append(
                f"| {row['data']} | {seen} | {cells[0]} | {cells[1]} | {row['chat_agreement']:.1%} +- {1.96 * row['chat_agreement_stderr']:.1%} |"
            )
        parts.append("\n".join(lines))
    if data := load("serving.json"):
        parts.append("\n".join(serving_table(data)))
    if data := load("systems.json"):
        lines = [
            f"The other two systems on parent and child (`benchmarks/systems.json`: {data['note']}):",
            "",
            "| | parent | child | child - parent |",
            "|---|---|---|---|",
        ]
        for row in data["rows"]:
            error = "" if row["error"] is None else f" +- {1.96 * row['error']:.1%}"
            lines.append(
                f"| {row['system']}: {row['what']} | {row['parent']:.1%} | {row['child']:.1%} | {row['gain']:+.1%}{error} |"
            )
        parts.append("\n".join(lines))
    if data := load("process_starts.json"):
        low, high = data["new_over_shared"]["interval"]
        parts.append(
            f"- A cost table in {data['engine']}: {data['starts_shared']} process started, where each measurement started one before "
            f"{data['starts_new']}; times of a new process {data['new_over_shared']['mean']:.3f} of the shared one's ({low:.3f} to {high:.3f})"
        )
    return parts


def serving_table(data: dict) -> list[str]:
    """Users at once, and a line on Poisson arrivals, of each engine."""
    lines = [
        f"Behind a server, {data['max_tokens']} tokens an answer (`benchmarks/serving.json`: {data['note']}): users that ask again as "
        "soon as they are answered; tokens/s of the server, and as one user sees them from the question to the end of the answer.",
        "",
        "| engine, users | server: parent | child | ratio | a user: parent | child | ratio | first token | each further one |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for engine, found in data["engines"].items():
        for row in found["users"]:
            whole, one = row["pieces_per_s"], row["pieces_per_s_of_a_user"]
            times = " | ".join(
                f"{row[name]:.2f}x" if row[name] else "-" for name in ("first_s_p50_ratio", "each_s_p50_ratio")
            )
            lines.append(
                f"| {engine}, {row['users']} | {whole['parent']:.2f} | {whole['child']:.2f} | {row['pieces_per_s_ratio']:.2f}x | "
                f"{one['parent']:.2f} | {one['child']:.2f} | {row['pieces_per_s_of_a_user_ratio']:.2f}x | {times} |"
            )
    lines.append("")
    for engine, found in data["engines"].items():
        models, told = found["poisson"]["models"], []
        for name, what in (("first_s", "first token"), ("each_s", "each further one"), ("total_s", "whole answer")):
            times = ", ".join(
                f"{cut} {models['parent'][name][cut]:.2f} and {models['child'][name][cut]:.2f} s"
                for cut in ("p50", "p95")
            )
            told.append(f"{what} {times}")
        lines.append(
            f"- {engine}, Poisson arrivals at {data['load']:.0%} of what the parent does one after the other "
            f"({models['parent']['requests']} requests), parent and child: {'; '.join(told)}"
        )
    if told := data.get("energy"):
        lines.append(f"- Energy: {told}")
    return lines


def results() -> str:
    """Everything between the markers."""
    parts = []
    if data := load("real.json"):
        from hf_puzzle.puzzle.report import markdown_table, summary_rows

        machine, work = data["environment"], data["workload"]
        parts += [
            f"SmolLM2-135M-Instruct and its child of `make real` on {machine['cpu']}, {machine['cpu_count']} cores, trained in "
            f"{data['dtype']}; throughput and speed-ups in {data['engine']}, batch {work['batch_size']}, {work['prefill_tokens']} tokens in and {work['decode_tokens']} out, after "
            f"{data['gkd_tokens']:,} GKD tokens (`benchmarks/real.json`"
            + (f": {data['note']}" if data["note"] else "")
            + ").",
            markdown_table(["SmolLM2-135M-Instruct", "parent", "child", "kept / ratio"], summary_rows(data)),
            *real_parts(),
        ]
    if data := load("tiny_cpu.json"):
        machine = data["environment"]
        parts += [
            f"The demo's parent on {machine['cpu']}, {machine['cpu_count']} cores, 64 tokens in and 64 out, batch 64, float32 "
            "(`benchmarks/tiny_cpu.json`). Speed against the parent as transformers runs it; bounds are one-sided, 95 %, "
            "over fresh processes. Top-1 accuracy on test text, relative to the parent's "
            f"{data['rows'][0]['quality']['parent_top1']:.1%}.",
            "\n".join(quality_table(data)),
        ]
    if data := load("baselines.json"):
        machine = data["environment"]
        parts += [
            f"The demo's parent on {machine['cpu']}, {machine['cpu_count']} cores, 64 tokens in and 64 out, batch 64, float32; "
            "speed against the parent as transformers runs it (lower bound: one-sided, 95 %, over fresh processes); top-1 accuracy "
            f"on test text, relative to the parent's {data['rows'][0]['quality']['parent_top1']:.1%}. "
            "Simpler choices, and searches on the true loss, from the same library, with the same refit and the same GKD "
            "tokens, each given the child's predicted time and timed in turn by the same "
            f"{_sessions(data)} fresh processes (`benchmarks/baselines.json`; speeds are known to +- {_speed_error(data):.0%}). "
            "Behind the child: difference in KL on the same text, 95 % interval clustered by document. Multiplier: GKD tokens "
            "that reach the child's KL, by those of the child.",
            "\n".join(baseline_table(data)),
        ]
    facts = []
    if data := load("demo.json"):
        facts.append(
            f"`make demo` after installation: {data['minutes']:.1f} minutes, {data['peak_memory_gb']:.1f} GB peak; a second run "
            f"{data['second_run_s']:.0f} s" + (f" ({data['note']})" if "note" in data else "")
        )
    if data := load("costs.json"):
        errors = [row["error_mean"] for row in data["times"]]
        worst = max(row["error_max"] for row in data["times"])
        facts.append(
            f"cost model on children no fit has seen: {spread(errors, '{:.1%}')} mean error, {worst:.1%} at most"
        )
    if data := load("bld.json"):
        facts.append(
            f"BLD of all {data['blocks']} trained blocks: {data['ratio']:.1f}x one parent-training pass over the same tokens"
        )
    if data := load("solver.json"):
        rows = [row for row in data["instances"] if row["solver"] == "HIGHS"]
        facts.append(
            f"MIP, 80 layers x 54 blocks: {max(r['seconds'] for r in rows):.1f} s at most to a proven gap of "
            f"{max(r['gap'] for r in rows):.0e} (HiGHS)"
        )
    if facts:
        parts.append("\n".join(f"- {fact}" for fact in facts))
    return "\n\n".join(parts)


def engine_table() -> list[str]:
    """One line an engine, from what `make engines` measured."""
    path = ROOT / "hf_puzzle" / "engines" / "measured.json"
    if not path.exists():
        return []
    lines = [
        "| engine | version | as it is: right, refused, wrong | exported: right, refused by name | logits within |",
        "|---|---|---|---|---|",
    ]
    for name, row in json.loads(path.read_text())["engines"].items():
        counts = collections.Counter((cell["folder"], cell["verdict"]) for cell in row["cells"])
        assert not counts["exported", "wrong"]
        raw = [counts["raw", verdict] for verdict in ("right", "refuses", "wrong")]
        exported = [counts["exported", verdict] for verdict in ("right", "refuses")]
        worst = max((cell.get("difference", 0.0) for cell in row["cells"] if cell["verdict"] == "right"), default=0.0)
        lines.append(
            f"| {name} | {', '.join([row['version'], *row.get('also', {})])} | {', '.join(map(str, raw)) if any(raw) else '-'} | "
            f"{', '.join(map(str, exported)) if any(exported) else '-'} | {f'{worst:.0e}' if worst else 'tokens equal'} |"
        )
    return lines


def gains_table() -> list[str]:
    """What children gain over their parent in which engine, prompt and 128 tokens out."""
    path = ROOT / "hf_puzzle" / "engines" / "speed.json"
    if not path.exists():
        return []
    data = json.loads(path.read_text())
    rows = data["engines"]
    works = sorted({(each["batch"], each["tokens"]) for row in rows.values() for each in row["work"]})
    shapes = [f"{batch} x {tokens:,}" for batch, tokens in works]
    lines = [
        f"Speed-ups over the parent ({data['parent']}; one thread, processor time, models in turn, median of rounds; sequences x "
        f"tokens in, and 128 tokens out; `hf_puzzle/engines/speed.json`: {data['note']}) of a child of several kinds of block, of "
        "one of half the depth and of a uniform one, each as its engine opens it:",
        "",
        f"| engine | {' | '.join(shapes)} |",
        "|---" * (len(shapes) + 1) + "|",
    ]
    for name, row in rows.items():
        cells = dict.fromkeys(works, "-")
        for each in row["work"]:
            models = each["models"]
            gains = [models[child]["with 128 out"][0] for child in ("searched", "half depth", "uniform")]
            cells[each["batch"], each["tokens"]] = ", ".join(f"{gain:.2f}x" for gain in gains)
        lines.append(f"| {name} {row['version']} | {' | '.join(cells.values())} |")
    return lines


def engines() -> str:
    """What was run in other engines, and the formats' round trips."""
    facts = []
    if data := load("round_trip.json"):
        assert not data["failures"]
        facts.append(
            f"{data['children']} children of {data['families']} families (every block kind in the first, a middle and the last "
            f"layer) saved, pushed and loaded in a process without hf_puzzle: {data['bit_equal']} bit-equal, cached against "
            f"uncached {data['cached_difference_max']:.0e} at most, all refused by the stock class without trust; "
            f"{data['seconds']:.0f} s"
        )
    if data := load("versions.json"):
        total = collections.Counter()
        for count in data["counts"].values():
            total.update(count)
        assert not total["wrong"]
        assert not total["raises"]
        facts.append(
            f"{data['children']} children and {data['folders']} PCW and MRKL folders under transformers "
            f"{', '.join(data['versions'])}, every way of generating against the same without a cache: of {total.total():,} cells "
            f"{total['equal']:,} equal, {total['refused']} refused with the reason, {total['unsupported']} that this version's stock "
            "models cannot do either, 0 silently wrong"
        )
    if data := load("self_check.json"):
        shares = [row["extra_share_median"] for row in data["rows"]]
        facts.append(
            f"the proof of the first cached step on an untested version costs {max(shares):.1%} of a 256-token generation at most, "
            f"once per model ({', '.join(sorted({str(row['prompt_tokens']) for row in data['rows']}, key=int))} prompt tokens, "
            "sizes of SmolLM2-135M)"
        )
    if data := load("llamacpp.json"):
        rows = [*data["equality"]["rows"], *data["equality"]["rewritten"]]
        worst = max(max(row["max_abs_difference"].values()) for row in rows)
        assert all(row["greedy_identical"] for row in rows)
        half = next(row for row in data["speed"]["rows"] if row["layout"] == "half the layers")["ratio"]
        ids = data["token_ids"]
        facts += [
            f"llama.cpp, float32: largest logit difference {worst:.0e} over {len(rows)} layouts with every block kind of the "
            f"search space, greedy tokens identical; token ids differ on {ids['different']} of {ids['lines']:,} lines",
            f"llama.cpp, {data['speed']['outtype']}, one CPU thread: a child of half the depth runs "
            f"{half['prefill']['value']:.2f}x faster in prefill and {half['decode']['value']:.2f}x in decode "
            f"(>= {half['prefill']['lower_bound']:.2f}x and {half['decode']['lower_bound']:.2f}x)",
        ]
    if data := load("onnx.json"):
        facts.append(
            f"ONNX in onnxruntime: logits within {data['largest']:.0e} for prefill and decode of {len(data['models'])} models"
        )
    if data := load("assisted.json"):
        best = max(data["rows"], key=lambda row: row["speed"]["value"])
        facts.append(
            f"the demo's child as draft of its parent: {best['identical']} of {best['prompts']} outputs identical, "
            f"{best['accepted_per_step']:.1f} of {best['draft_tokens']} drafts accepted, {best['speed']['value']:.2f}x the parent's "
            "speed (at this size, both models wait for Python; the report of every run has its own row)"
        )
    if data := load("engines/processes.json"):
        facts.append(
            f"a cost table of {len(data['models'])} models and {data['rounds']} rounds through vLLM on a CPU: "
            f"{data['kept']['process_starts']} process start against {data['fresh']['process_starts']} of a fresh process a "
            f"measurement, {data['wall_ratio']:.2f}x the wall time and {data['cpu_ratio']:.2f}x the processor time "
            f"({data['fresh']['run']} of the fresh ones were run, the others counted as their mean)"
        )
    table = "\n".join(engine_table())
    gains = "\n".join(gains_table())
    return "\n\n".join(filter(None, [table, gains, "\n".join(f"- {fact}" for fact in facts)]))


def pcw() -> str:
    """Exactness, cost and accuracy of parallel windows."""
    facts = []
    if data := load("pcw_exact.json"):
        summary = data["summary"]
        facts.append(
            f"{summary['architectures']} architectures (sliding windows and ALiBi among them): logits within "
            f"{max(summary['max_abs_difference'].values()):.0e} of a pass with an explicit block mask, whatever the order of the "
            "windows; one window generates what the plain model does"
        )
    if data := load("pcw_speed.json"):

        def at_least(ratio: dict) -> str:
            return f"{ratio['value']:.1f}x (>= {ratio['lower_bound']:.1f}x)"

        eight = next(row for row in data["encoding"] if row["windows"] == 8)["ratio"]["windows against one sequence"]
        labels = data["labels"]
        facts += [
            f"{labels['labels']} labels scored exactly in one forward: {at_least(labels['ratio']['trie against each'])} faster than "
            f"label by label, {labels['ratio']['greedy against trie']['value']:.1f} times restricted greedy's time",
            f"16 queries packed over one copy of the cache: {at_least(data['queries']['ratio']['packed against one by one'])}; a "
            f"query on stored windows {at_least(data['stored']['ratio']['stored against encode again'])} faster than encoding them "
            f"again; 8 windows of {data['window_tokens']} tokens encoded {at_least(eight)} cheaper than one sequence",
        ]
    if data := load("decisions.json"):
        one, behind = data["one_state"], data["demonstrations"]

        def ratio(row: dict, name: str) -> str:
            return f"{row['ratio'][name]['value']:.1f}x (>= {row['ratio'][name]['lower_bound']:.1f}x)"

        facts.append(
            f"{one['questions']} decisions over a state of {one['state_tokens']} tokens: "
            f"{ratio(one, 'packed against stock calls')} faster than transformers' pipeline, "
            f"{ratio(one, 'packed against stock batch')} than padded batches, probabilities within "
            f"{one['max_abs_difference']:.0e}; {behind['questions']} behind {behind['demonstrations']} demonstrations "
            f"{ratio(behind, 'kept windows against read again with every question')} faster than reading them with every question, "
            f"{ratio(behind, 'kept windows against read again with every request')} than once a request "
            f"({data['parameters'] / 1e6:.1f} M parameters)"
        )
    if data := load("decision_child.json"):
        facts.append(decision_child(data))
    if data := load("stale_windows.json"):
        facts.append(
            f"{data['sequences']} random sequences of weight changes, adapter switches, casts and calls: of "
            f"{sum(data['readings'].values())} readings of kept windows {data['readings'].get('wrong', 0)} wrong; knowing them costs "
            f"{data['cost']['share']:.1%} of scoring one short task at 135 M parameters"
        )
    if data := load("pcw_tiny.json"):
        rows = {(r["labels"], r["num_windows"]): r for r in data["summary"] if r["mode"] == "pcw"}
        labels = sorted({key[0] for key in rows})
        facts.append(
            f"small in-context model trained here, new tasks, {rows[labels[0], 1]['draws']} draws, accuracy with 1, 3 and 8 windows: "
            + "; ".join(f"{n} labels " + ", ".join(f"{rows[n, b]['accuracy']:.1%}" for b in (1, 3, 8)) for n in labels)
        )
    if data := load("pcw_windows.json"):
        whole, *rest = data["rows"]

        def cost(row: dict) -> str:
            size = f" ({row['bytes'] / 1e6:.0f} MB)" if row["bytes"] != whole["bytes"] else ""
            return f"{row['variant']}{size} KL {row['kl']:.4f}, first label kept for {row['same_label']:.0%}"

        facts.append(
            f"{len(data['windows'])} windows of SmolLM2-135M-Instruct in a store of {whole['bytes'] / 1e6:.0f} MB (float32), against "
            f"other ways to keep and read them: {'; '.join(map(cost, rest))} ({data['texts']} texts, {data['labels']} labels)"
        )
    if data := load("pcw_kvpress.json"):
        facts.append(kvpress(data))
    return "\n\n".join(filter(None, ["\n".join(f"- {fact}" for fact in facts), pcw_real()]))


def kvpress(data: dict) -> str:
    """The long prompt of the table below with its cache pruned."""
    rows = {(r["press"], r["compression_ratio"]): r for r in data["rows"] if r["calibrated"] and r["num_windows"] == 1}
    whole, rest = rows.pop(("none", 0.0)), rows.items()
    named = ", ".join(f"{name} {row['keys_kept']:.0%} of the keys {row['accuracy']:.0%}" for (name, _), row in rest)
    return (
        f"kvpress {data['pressed_with']['kvpress']} on the long prompt of one window's demonstrations, calibrated, as in the table "
        f"below ({whole['texts']} texts): all keys {whole['accuracy']:.0%}, {named}; pip refuses it beside transformers 5.23, it was run "
        f"on {data['pressed_with']['transformers']}"
    )


def decision_child(data: dict) -> str:
    """A child for decisions beside its baselines, and how sure it is."""

    def network(row: dict) -> str:
        total = row["speed"]["total"]
        return f"{total['value']:.2f}x (>= {total['lower_bound']:.2f}x) at {row['agreement']:.1%}"

    child, sure = data["child"], data["calibration"]["child"]["with_temperature"]
    own = [row for row in data["baselines"] if row["gkd_tokens"] == 0]
    rest = ", ".join(f"{row['name']} {network(row)}" for row in own)
    return (
        f"child for decisions, prefill of {data['workload']['prefill_tokens']} tokens, batch {data['workload']['batch_size']}: "
        f"{network(child)} of its parent's {child['rows']} decisions ({child['top1']:.1%} right, the parent {child['parent_top1']:.1%}) "
        f"after {data['gkd_tokens']:,} GKD tokens; before them {rest}; calibration error {sure['ece']:.3f} with a temperature of "
        f"other requests; another order of the options changes {data['orders']['child']:.0%} of its answers, {data['orders']['parent']:.0%} of "
        "the parent's, which only ever saw one"
    )


def pcw_real() -> str:
    """The real model on package descriptions: every way on the same shots, and facts in documents."""
    if not (data := load("pcw_real.json")):
        return ""
    rows = {(row["mode"], row["num_windows"]): row for row in data["summary"]}
    counts = sorted({b for _, b in rows})
    first = data["summary"][0]
    lines = [
        f"SmolLM2-135M-Instruct names the section of a Debian package ({first['labels']} labels, {first['texts']} texts, "
        f"{first['draws']} draws; accuracy in %, 95 % interval; `benchmarks/pcw_real.json`: {data['note']}):",
        "",
        "| on the same demonstrations | " + " | ".join(f"{b * first['n_max']} in {b}" for b in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for mode in dict.fromkeys(mode for mode, _ in rows):
        cells = []
        for b in counts:
            row = rows.get((mode, b))
            interval = row and " to ".join(f"{100 * end:.0f}" for end in row["interval"])
            cells.append(f"{100 * row['accuracy']:.0f} ({interval})" if row else "-")
        lines.append(f"| {mode.replace('_', ' ')} | " + " | ".join(cells) + " |")
    if data["documents"]:
        found = ", ".join(f"{row['way'].replace('_', ' ')} {row['found']:.0%}" for row in data["documents"])
        lines += [
            "",
            f"Facts in eight documents, one of them asked for ({data['documents'][0]['items']} questions): {found}.",
        ]
    return "\n".join(lines)


def mrkl() -> str:
    """Gates of routing and answers, and the three tables of small models."""
    parts = []
    if data := load("mrkl_wordings.json"):

        def outcomes(name: str) -> list[str]:
            worlds = data[name].values()
            total = sum(world["n"] for world in worlds)
            shares = (sum(w["n"] * w[key] for w in worlds) / total for key in ("right", "abstained", "wrong silently"))
            return [f"{share:.1%}" for share in shares]

        rows = [
            ("the reader of expressions before this grammar", "before"),
            ("this grammar, first contact", "first"),
            ("now", "now"),
        ]
        table = "\n".join(f"| {label} | {' | '.join(outcomes(name))} |" for label, name in rows)
        later = (
            ("questions over two other worlds", "second"),
            ("over a fifth", "third"),
            ("more over it, chosen to be ambiguous", "fourth"),
            ("the databases of all five, asked in yet other words", "fifth"),
        )
        second = "\n".join(
            f"| {data[f'{part}_{when}']['n']} {said}, {label} | "
            + " | ".join(f"{data[f'{part}_{when}'][name]:.1%}" for name in ("right", "abstained", "wrong silently"))
            + " |"
            for said, part in later
            for label, when in (("first contact", "first"), ("now", "now"))
        )
        parts.append(
            f"{sum(world['n'] for world in data['now'].values())} questions in the words of public threads, over two small "
            "worlds (`benchmarks/mrkl_wordings.py`), written before any of their failures had been read. What is not right is "
            "left to the model, and said so, or it is **wrong silently**: the figure that counts. The failures of the first "
            "contact were read since, so the last row is no blind number.\n\n"
            f"| | right | left to the model | wrong silently |\n|---|---|---|---|\n{table}\n{second}"
        )
    if data := load("mrkl_confidence.json"):
        fitted, others = data["fitted"], data["others"]
        sure, before = others["sure"], others["before: all at 0.99 or 0.9"]["sure"]
        curve = ", ".join(f"{share:.1%}: {risk:.1%}" for share, risk in others["risk_coverage"])
        parts.append(
            f"A confidence is a share: fitted on {fitted['answers']} answers at their first contact (`benchmarks/mrkl_confidence.py`: what "
            "a question takes for granted, logistic and isotonic regression), and judged on the "
            f"{others['answers']} others, of which {others['right']} were right. At least {sure['least']} had {sure['answers']}, and "
            f"{sure['right']} of these were right ({sure['right'] / sure['answers']:.1%}; before, with one number for all, {before['right']} of "
            f"{before['answers']}); calibration error {others['ece']:.3f}, {others['coverage_at_99_precision']:.1%} answered at 99 % "
            f"precision. Answered, the surest first, and wrong of these: {curve}. Which features there are was decided with the "
            "errors of both halves known."
        )
    if data := load("tool_calls.json"):
        masks, asked = data["masks"], data["questions"]
        engines = "; ".join(
            f"{name} {masks[name]['step_us_median']:.0f} us a step (first time {masks[name]['step_us_first_time'] / 1e3:.1f} ms), first mask "
            f"{masks[name]['first_mask_ms']:.1f} ms"
            for name in ("own", "llguidance")
        )
        required, free = asked["masked_required"], asked["free"]
        parts.append(
            f"Masks of a model's own calls, {masks['tokens']:,} tokens, medians (`benchmarks/tool_calls.py`): {engines}; "
            f"{masks['steps_with_equal_masks']:,} of {masks['steps_compared']:,} steps have equal masks; a step of the model takes "
            f"{data['model_step_ms']:.0f} ms on that busy machine. SmolLM2-135M-Instruct, whose template knows no tools, called one in {free['called']} of "
            f"{free['n']} questions by itself; made to, it wrote {required['valid']} of {required['n']} valid calls, chose {required['expert']} "
            f"rightly, and {required['right']} gave the right answer: masks make calls valid, not right."
        )
    if data := load("mrkl.json"):

        def gates(name: str) -> list[str]:
            pool = data[name]
            tables = pool["tables"]
            return [
                f"{tables['all']['route']:.3f}",
                f"{tables['category arithmetic']['answer']:.3f}",
                f"{tables['category multi']['answer']:.3f}",
                f"{pool['false_call_rate']:.2f}",
                f"{pool['coverage_at_95_precision']:.2f}",
                f"{pool['ece']:.3f}",
                f"{pool['latency_ms']['p50']:.0f} ms",
            ]

        header = "| | routing | arithmetic | multi-step | false calls | coverage at 95 % | ECE | p50 |"
        blind, now = gates("first_blind"), gates("heldback")
        parts.append(
            f"{data['heldback']['rows']} held-back questions of other wordings, other tables and towns than in training, answered by "
            "the symbolic reader on one CPU thread (`benchmarks/mrkl.json`). The first row was measured before any of these "
            "questions' failures had been read, and by the reader of expressions before this grammar; both were made with those "
            "failures known, so the second row is no blind number. Questions that convert prices of a currency that nobody "
            "named are left to the model now."
            f"\n\n{header}\n|{'---|' * 8}\n| blind | {' | '.join(blind)} |\n| now | {' | '.join(now)} |"
        )
    if data := load("mrkl_tables.json"):
        names = {"slots": "MRKL, slots", "copy": "MRKL, copied", "alone": "the model alone"}
        digits = [
            f"| {title}: {form} | " + " | ".join(f"{value:.2f}" for value in data["copy_or_slots"][key][form]) + " |"
            for key, title in names.items()
            for form in ("digits", "words")
        ]
        columns = " | ".join(str(n) for n in range(1, 10))
        parts.append(
            f"A 0.9 M model trained here (`benchmarks/mrkl_tables.py`, {data['cpu_seconds']:.0f} CPU-seconds, one seed, exact match). "
            "Numbers travel as slot ids, so their length does not matter:\n\n"
            f"| operands of n digits (trained on 1 to 3) | {columns} |\n|{'---|' * 10}\n" + "\n".join(digits)
        )
        rows = [
            f"| {name} | {row['trainable']:,} | {row['seen']:.2f} | {row['carrier']:.2f} | {row['operator']:.2f} |"
            for name, row in data["prompt_or_lora"].items()
            if "trainable" in row
        ]
        parts.append(
            "| adapter on the frozen model | trainable | seen wordings | unseen openings | unseen operator words |\n"
            "|---|---|---|---|---|\n" + "\n".join(rows)
        )
    return "\n\n".join(parts)


def planner(data: dict) -> str:
    """One line: how far plans were off, and on the parent that no formula had been tried on."""
    memory, times, limits = data["gates"]["memory"], data["gates"]["time"], data["gates"]["limits"]
    unseen = [row for row in data["cases"]["unseen"]["stages"] if row["measured_cpu_s"] > 1.5]
    right = sum(abs(row["time_error"]) <= limits["time"] for row in unseen)
    return (
        f"- `plan` against {len(data['cases'])} small runs, a process per stage: peak memory within {limits['memory']:.0%} in "
        f"{memory['within']} of {memory['of']} stages (worst {memory['worst']:.0%}), time within {limits['time']:.0%} in {times['within']} of "
        f"{times['of']} (median {times['median']:.0%}, worst {times['worst']:.0%}; on the one parent that no formula had been tried on, "
        f"{right} of {len(unseen)}). A 70 B plan takes {data['plan_70b']['wall_s']:.0f} s and {data['plan_70b']['peak_bytes'] / 1e6:.0f} MB"
    )


def scale() -> str:
    """Fan-out, partial loading, the planner, survival, fuzzing."""
    lines = []
    if data := load("ray_scaling.json"):
        two, one, same = data["two_workers_to_one"], data["one_worker_to_in_process"], data["same_files"]
        lines.append(
            f"- Ray on this machine, BLD and scores: two workers (their BLD jobs chained) take {two['median']:.2f}x one worker's time, one worker "
            f"{one['median']:.2f}x the time without Ray, start-up apart; the files are {'the same bytes' if same else 'NOT the same'}"
        )
    if data := load("partial_loading.json"):
        worst = max(job["disk_ratio"] for job in data["jobs"])
        lines.append(
            f"- a BLD job for a range of layers of an 8 B-shaped parent ({data['parent_bytes'] / 1e9:.1f} GB) reads at most {worst:.2f}x "
            f"the bytes of its own layers and holds at most {data['worst_ratio']:.2f}x"
        )
    if data := load("planner.json"):
        lines.append(planner(data))
    if data := load("survive.json"):
        lines.append(
            f"- {data['kills']} kills in all stages, {data['cut_files']} files cut short, {data['full_disks']} full disks, a clock that jumps: "
            f"{data['wrong_or_lost']} runs ended with anything but the bytes of an undisturbed one"
        )
    if data := load("fuzz.json"):
        total = data["total"]
        lines.append(f"- {total['inputs']:,} fuzz inputs to every reader: {total['crashes']} errors without a name")
    if data := load("callback.json"):
        slow = data["slowdown"]
        lines.append(
            f"- `PuzzleCallback` slows fine-tuning by {slow['value'] - 1:.1%} (at most {slow['upper_bound'] - 1:.1%}) until its search starts; "
            f"weights {'bit-identical' if data['identical_weights'] else 'NOT identical'}"
        )
    return "\n".join(lines)


SECTIONS = {"scale": scale, "results": results, "engines": engines, "pcw": pcw, "mrkl": mrkl}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    readme = ROOT / "README.md"
    text = fresh = readme.read_text()
    for name, section in SECTIONS.items():
        start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        before, after = fresh.split(start)[0], fresh.split(end)[1]
        fresh = f"{before}{start}\n{section()}\n{end}{after}"
    if args.check:
        return int(fresh != text)
    readme.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
