"""The cost of every block of a search space: bytes exactly, times measured in stacks and calibrated on children.

(Puzzle, arXiv 2411.19146, section on resource measurement.)
"""

import functools
import itertools
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch

from ..artifacts import ArtifactError, reading
from ..blocks import (
    LINEAR,
    NONE,
    RECURRENT,
    Block,
    Variant,
    kv_heads,
    num_experts,
    plain,
    row_of,
    sizes_of,
    variant_id,
    weight_type,
    window,
)
from ..costs import Timing, Workload, median_timing, without_drift
from ..engines import weight_types
from ..engines.cache_types import cache_bytes
from ..formats import DECILM, decilm_width
from ..layers import as_key, fits_layer, of_key
from ..recipe import CostConfig, RecipeError, parse_as
from ..remote.caches_puzzle import find_cache
from ..remote.configuration_decilm import FFN_WIDTH_STEP
from ..remote.modeling_puzzle import norms_of
from ..stages import Estimate
from .bench import OWN, PARENT, Bench
from .network import empty_model
from .search_space import SearchSpace
from .surgery import (
    KINDS,
    count_parameters,
    empty_block,
    layer_for,
    layers_of,
    meta_parent,
    only_layers,
    sub_block,
    swapped,
)


BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PHASES = ("prefill_ms", "decode_ms")
ENOUGH = 0.004  # relative standard error of a timing at which no more rounds are needed
RIDGE = 0.1  # strength that pulls the slope to 1: (relative error of a child's time / that of a stack's sum) squared


def num_parameters(config, kind: str, variant: Variant, fmt: str = DECILM) -> int:
    """Parameters of a sub-block with its norms, biases included, as it is stored in format `fmt`."""
    return count_parameters(config, kind, stored(kind, variant, fmt))


def stored(kind: str, variant: Variant, fmt: str) -> Variant:
    """A variant in the model's dtype as it lies in a checkpoint of format `fmt`."""
    variant = plain(variant)
    return decilm_width(variant) if fmt == DECILM and kind == "ffn" and isinstance(variant, int) else variant


def weight_bytes(config, kind: str, variant: Variant, dtype: str, fmt: str = DECILM, gguf: bool = False) -> int:
    """Bytes that the weights of a sub-block and its norms hold: matrices in the number format that the variant names, the
    rest in `dtype`; in a GGUF file whatever is no matrix is float32."""
    if variant == NONE:
        return 0
    name, host = weight_type(variant), layer_for(config, kind, plain(variant))
    layer = layers_of(meta_parent(config))[host]
    block = empty_block(layer, kind, stored(kind, variant, fmt), config, host)
    maps = {id(each.weight) for each in weight_types.linear_maps(block)}
    parameters = [
        p for module in (block, *(getattr(layer, n) for n in norms_of(layer, kind))) for p in module.parameters()
    ]
    return sum(
        weight_types.held_bytes(tuple(p.shape), name, BYTES[dtype])
        if name and id(p) in maps
        else _bytes(p, dtype, gguf)
        for p in parameters
    )


def _bytes(parameter: torch.Tensor, dtype: str, gguf: bool) -> int:
    return parameter.numel() * (4 if gguf and parameter.ndim < 2 else BYTES[dtype])


def non_block_bytes(config, dtype: str, gguf: bool = False) -> int:
    """Bytes of embeddings, final norm and head, tied ones once, and in a GGUF file the factors of a scaled RoPE."""
    parent, inner = meta_parent(config), {id(p) for p in layers_of(meta_parent(config)).parameters()}
    held = sum(_bytes(p, dtype, gguf) for p in parent.parameters() if id(p) not in inner)
    scaled = gguf and config.rope_parameters.get("rope_type", "default") != "default"
    return held + (2 * (config.hidden_size // config.num_attention_heads) if scaled else 0)


def non_block_parameters(config) -> int:
    """Embeddings, final norm and head; tied matrices count once."""
    parent = meta_parent(config)
    return sum(p.numel() for p in parent.parameters()) - sum(p.numel() for p in layers_of(parent).parameters())


def kv_bytes_per_token(config, variant: Variant, dtype: str, cache_type: str | None = None) -> int:
    """Keys and values of one token in one layer: 2 * KV heads * head_dim * bytes of `dtype`, or as `cache_type` holds them;
    nothing without attention.

    A window bounds how many tokens are kept (`kv_tokens`), not what each takes.
    """
    heads = kv_heads(variant)
    if heads is None:
        return 0
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * heads * head_dim
    return numbers * BYTES[dtype] if cache_type is None else cache_bytes(numbers, cache_type)


def state_bytes(config, variant: Variant, dtype: str) -> int:
    """What a layer keeps of a sequence, however long it is: states of the parent's own mixer, as its cache has them, or of ours."""
    if variant == RECURRENT:
        return _state_bytes(as_key(config), dtype)
    size = getattr(row_of("attention", variant).module, "state_bytes", None)
    return 0 if size is None else size(config, *sizes_of("attention", variant).values(), BYTES[dtype])


@functools.lru_cache(maxsize=8)
def _state_bytes(key: tuple[type, str], dtype: str) -> int:
    model = empty_model(of_key(key), getattr(torch, dtype), "meta")
    idx, tokens = layer_for(model.config, "attention", RECURRENT), torch.zeros(1, 4, dtype=torch.long, device="meta")
    layer = layers_of(model)[idx]
    alone = (sub_block(layer, "attention"), empty_block(layer, "ffn", NONE, model.config, idx))
    with torch.no_grad(), swapped(model, {idx: alone}), only_layers(model, idx, idx + 1):
        output = model.get_decoder()(input_ids=tokens, use_cache=True)
    states = vars(find_cache((), dict(output.items())).layers[idx])
    kept = [s for name in ("conv_states", "recurrent_states") for s in states[name].values() if s is not None]
    return sum(s.numel() * s.element_size() for s in kept)


def kv_tokens(variant: Variant, tokens_per_sequence: int) -> int:
    """Tokens whose keys and values a layer keeps of each sequence."""
    return min(tokens_per_sequence, window(variant) - 1) if window(variant) else tokens_per_sequence


@dataclass(frozen=True)
class Fit:
    """Measured = offset + slope * sum of the blocks, per phase, with its error in total time on children unseen by it."""

    offset_ms: float
    slope: float
    error_mean: float | None = None
    error_max: float | None = None

    def __call__(self, total_ms: float) -> float:
        return self.offset_ms + self.slope * total_ms


@dataclass(frozen=True)
class CostTable:
    """`costs.json`: bytes and calibrated milliseconds of every variant, per batch size.

    `times[batch_size]["attention:kv4"]` holds the stack's milliseconds per copy, `fits[batch_size]` maps their sum to a
    whole model, `children[batch_size]` are the measured models: the parent, its blocks in the children's code, the
    children of the fit, and those with `unseen: true` that tell its error.

    Where the recipe names several prompt lengths, `lengths` holds a table for each, and all else is of one batch of each
    length, one after the other: its times are sums (`mixed`).
    """

    workload: dict
    parameters: dict[str, int]
    kv_bytes_per_token: dict[str, int]
    non_block_parameters: int
    dtype: str
    times: dict[int, dict[str, dict[str, float]]]
    fits: dict[int, dict[str, Fit]]
    children: dict[int, list[dict]] = field(default_factory=dict)
    state_bytes: dict[str, int] = field(default_factory=dict)  # per sequence, of variants that have a state
    lengths: dict[int, "CostTable"] = field(default_factory=dict)
    # of all variants, where some have matrices in fewer bits; else parameters times the bytes of `dtype`
    weight_bytes: dict[str, int] = field(default_factory=dict)
    non_block_bytes: int | None = None

    def to_dict(self) -> dict:
        plain, lengths = asdict(replace(self, lengths={})), {n: table.to_dict() for n, table in self.lengths.items()}
        del plain["lengths"]
        return plain | ({"lengths": lengths} if lengths else {})

    @classmethod
    def mixed(cls, tables: list["CostTable"]) -> "CostTable":
        """One batch of each length: calibrated milliseconds are summed, the model's error is of the sums."""
        first, sizes = tables[0], list(tables[0].times)
        times = {
            b: {key: {p: sum(t.fits[b][p].slope * t.times[b][key][p] for t in tables) for p in PHASES} for key in row}
            for b, row in first.times.items()
        }
        children = {
            b: [_one_after_the_other(rows) for rows in zip(*(t.children[b] for t in tables), strict=True)]
            for b in sizes
        }
        lines = {b: {p: Fit(sum(t.fits[b][p].offset_ms for t in tables), 1.0) for p in PHASES} for b in sizes}
        fits = {b: _with_errors(lines[b], children[b], times[b]) for b in sizes}
        lengths = {table.workload["prefill_tokens"]: table for table in tables}
        workload = first.workload | {"prefill_tokens": list(lengths)}
        return replace(first, workload=workload, times=times, fits=fits, children=children, lengths=lengths)

    @classmethod
    def from_dict(cls, raw: dict, where: str = "costs.json") -> "CostTable":
        """The inverse of `to_dict`, read strictly.

        Raises:
            ArtifactError: a key, a number or a batch size that is missing, or of another form.
        """
        with reading(where):
            by_batch = {
                name: {int(b): rows for b, rows in raw[name].items()} for name in ("times", "fits", "children")
            }
            each = {int(n): cls.from_dict(t, f"{where}: lengths.{n}") for n, t in raw.get("lengths", {}).items()}
            # tables of before layers had states, and weights fewer bits
            older = {"state_bytes": {}, "weight_bytes": {}, "non_block_bytes": None}
            raw = {**older, **raw, **by_batch, "lengths": {}}
        try:
            table = replace(parse_as(cls, raw, where), lengths=each)
            asked = table.workload.get("prefill_tokens")
            if (asked if isinstance(asked, list) else []) != list(each) or any(t.lengths for t in each.values()):
                raise ArtifactError(
                    f"{where}: workload.prefill_tokens {asked} and its tables differ: run its stage again"
                )
            if any(t.workload.get("prefill_tokens") != n or set(t.times) != set(table.times) for n, t in each.items()):
                raise ArtifactError(f"{where}: lengths are of other workloads: run its stage again")
            workload = {"decode_tokens": table.workload.get("decode_tokens")} | (
                {} if each else {"prefill_tokens": asked}
            )
            for name, tokens in workload.items():
                if parse_as(int, tokens, f"{where}: workload.{name}") < 0:
                    raise ArtifactError(f"{where}: workload.{name} is {tokens}: expected at least 0")
            if table.dtype not in BYTES:
                raise ArtifactError(f"{where}: dtype {table.dtype!r} is none of {', '.join(BYTES)}")
            if not table.times or not set(table.times) == set(table.fits) == set(table.children):
                raise ArtifactError(f"{where}: times, fits and children are of other batch sizes: run its stage again")
            for batch_size, children in table.children.items():
                if batch_size < 1 or len(children) < 2 or set(PHASES) - set(table.fits[batch_size]):
                    raise ArtifactError(f"{where}: batch size {batch_size} lacks measurements: run its stage again")
                for child in children:
                    milliseconds = [parse_as(float, child.get(p), f"{where}: children.{p}") for p in PHASES]
                    if not (min(milliseconds) >= 0 and 0 < sum(milliseconds) < math.inf):
                        raise ArtifactError(f"{where}: a child that takes {sum(milliseconds)} ms: run its stage again")
                    for block in parse_as(list[str], child.get("blocks"), f"{where}: children.blocks"):
                        Block.parse(block)
        except RecipeError as error:
            raise ArtifactError(f"{error}: run its stage again") from None
        return table

    def workload_of(self, batch_size: int) -> Workload:
        """Of several lengths, the longest: what memory must hold."""
        asked = self.workload["prefill_tokens"]
        return Workload(batch_size, max(self.lengths, default=asked), self.workload["decode_tokens"])

    def tokens(self, batch_size: int) -> int:
        """Prompt and generated tokens that the table's milliseconds are of."""
        tables = self.lengths.values() or [self]
        return sum(table.workload_of(batch_size).tokens for table in tables)

    def predict(self, blocks: list[Block], batch_size: int) -> Timing:
        """Milliseconds of a whole child."""
        return Timing(*(self.fits[batch_size][phase](self._sum(blocks, batch_size, phase)) for phase in PHASES))

    def _sum(self, blocks: list[Block], batch_size: int, phase: str) -> float:
        return sum(self.block_ms(block, batch_size, phase) for block in blocks)

    def block_ms(self, block: Block, batch_size: int, phase: str) -> float:
        """A block's share of the stack sum, before calibration."""
        return sum(self.times[batch_size][key][phase] for key in variant_keys(block))

    def block_costs(self, block: Block, batch_size: int) -> dict[str, float]:
        """The additive quantities the solver limits; times are calibrated, without the model's offset.

        Of several lengths also those of each, e.g. `4096_total_ms`.
        """
        attention, ffn = variant_keys(block)
        for key in (attention, ffn):
            rows = (self.parameters, self.times.get(batch_size, {}), *([self.kv_bytes_per_token] * (key == attention)))
            if not all(key in row for row in rows) or set(PHASES) - set(self.times[batch_size][key]):
                raise ArtifactError(f"costs.json has no {key} at batch size {batch_size}: run the stage `cost` again")
        parameters = self.parameters[attention] + self.parameters[ffn]
        workload = self.workload_of(batch_size)
        tokens = batch_size * kv_tokens(block.attention, workload.prefill_tokens + workload.decode_tokens)
        times = {p: self.fits[batch_size][p].slope * self.block_ms(block, batch_size, p) for p in PHASES}
        return {
            "num_parameters": parameters,
            "memory_bytes": self.held_bytes(block)
            + tokens * self.kv_bytes_per_token[attention]
            + batch_size * self.state_bytes.get(attention, 0),
            "prefill_ms": times["prefill_ms"],
            "total_ms": times["prefill_ms"] + times["decode_ms"],
            **self._by_length(lambda table: table.block_costs(block, batch_size)),
        }

    def _by_length(self, costs: Callable[["CostTable"], dict[str, float]]) -> dict[str, float]:
        each = ((length, costs(table)) for length, table in self.lengths.items())
        return {f"{n}_{name}": found[name] for n, found in each for name in ("prefill_ms", "total_ms")}

    def held_bytes(self, block: Block | None) -> int:
        """Bytes of a block's weights; None: of what a model has besides its blocks."""
        if block is None:
            return (
                self.non_block_parameters * BYTES[self.dtype] if self.non_block_bytes is None else self.non_block_bytes
            )
        keys = variant_keys(block)
        if not self.weight_bytes:
            return sum(self.parameters[key] for key in keys) * BYTES[self.dtype]
        if missing := next((key for key in keys if key not in self.weight_bytes), None):
            raise ArtifactError(f"costs.json has no bytes of {missing}: run the stage `cost` again")
        return sum(self.weight_bytes[key] for key in keys)

    def non_block_costs(self, batch_size: int) -> dict[str, float]:
        """What a model costs besides its blocks, in the same quantities."""
        offsets = {phase: self.fits[batch_size][phase].offset_ms for phase in PHASES}
        return {
            "num_parameters": self.non_block_parameters,
            "memory_bytes": self.held_bytes(None),
            "prefill_ms": offsets["prefill_ms"],
            "total_ms": sum(offsets.values()),
            **self._by_length(lambda table: table.non_block_costs(batch_size)),
        }


def variant_keys(block: Block) -> tuple[str, str]:
    return f"attention:{variant_id('attention', block.attention)}", f"ffn:{variant_id('ffn', block.ffn)}"


def measure_costs(bench: Bench, space: SearchSpace, seed: int = 0, length: int | None = None) -> CostTable:
    """Measure every variant of `space` and calibrate; only shapes matter, so the measured models have random weights.

    Args:
        length: prompt tokens; default: all lengths of the recipe, one after the other.
    """
    if length is None and len(bench.config.lengths) > 1:
        return CostTable.mixed([measure_costs(bench, space, seed, n) for n in bench.config.lengths])
    length = length or bench.config.lengths[0]
    config, parent_config = bench.config, bench.parent_config
    sizes, kv, states, held = {}, {}, {}, {}
    gguf, counts_bits = in_gguf(space), bool(space.weight_types)
    for kind, variants in space.offered.items():
        for variant in variants:
            key = f"{kind}:{variant_id(kind, variant)}"
            sizes[key] = num_parameters(parent_config, kind, variant, bench.fmt)
            if counts_bits:
                held[key] = weight_bytes(parent_config, kind, variant, config.dtype, bench.fmt, gguf)
            if kind == "attention":
                kv[key] = kv_bytes_per_token(parent_config, plain(variant), config.dtype, bench.cache_type)
                if size := state_bytes(parent_config, plain(variant), config.dtype):
                    states[key] = size
    times, fits, children = {}, {}, {}
    for batch_size in config.batch_sizes:
        times[batch_size], children[batch_size] = _measured(bench, space, batch_size, seed, length)
        fits[batch_size] = _fit(children[batch_size], times[batch_size])
    workload = {"prefill_tokens": length, "decode_tokens": config.decode_tokens, "clock": config.clock,
                "threads": config.threads, "rounds": config.rounds, "engine": config.engine}  # fmt: skip
    ends = non_block_parameters(parent_config)
    ends_bytes = non_block_bytes(parent_config, config.dtype, gguf) if held else None
    table = CostTable(workload, sizes, kv, ends, config.dtype, times, fits, children, states)
    return replace(table, weight_bytes=held, non_block_bytes=ends_bytes)


def in_gguf(space: SearchSpace) -> bool:
    """Whether blocks are offered in llama.cpp's number formats: what is counted is then a GGUF file."""
    return any(weight_types.engine_of(name) == "llama.cpp" for name in space.weight_types)


def bytes_of_fewest_bits(space: SearchSpace) -> float:
    """Bytes of a weight in the number format of the space that has the fewest bits, of a long row; without any, infinite."""
    row = (1, 4096)
    return min((weight_types.held_bytes(row, name, 2) / row[1] for name in space.weight_types), default=math.inf)


def timed_types(space: SearchSpace, config: CostConfig) -> set[str]:
    """Number formats that the engine runs in which models are timed; others take the time of the model's dtype."""
    return {name for name in space.weight_types if weight_types.engine_of(name) == config.engine}


def _measured(bench: Bench, space: SearchSpace, batch_size: int, seed: int, length: int) -> tuple[dict, list[dict]]:
    """The table's `times` and `children` at a batch size, all from one session: what slows the machine meets both alike."""
    config = bench.config
    fitted, unseen = calibration_layouts(space, config, seed)
    layouts = {str(i): blocks for i, blocks in enumerate(fitted + unseen)}
    stacks = _stacks(space, config)
    models = stacks | {name: blocks for name, blocks in layouts.items() if name != OWN}
    timed = bench.timings(models, batch_size, config.rounds, "cost: models", tolerance=ENOUGH, length=length)
    measured = without_drift(timed)
    medians = {name: asdict(median_timing(timings)) for name, timings in measured.items()}
    children = []
    for name, blocks in {PARENT: fitted[0], **layouts}.items():
        totals = [timing.total_ms for timing in measured[name]]
        spread = statistics.stdev(totals) / statistics.fmean(totals) if len(totals) > 1 else 0.0
        known = name == PARENT or int(name) < len(fitted)
        row = {"name": name, "blocks": [b.id for b in blocks], "spread": spread, "unseen": not known}
        if bench.original is not None and name in (PARENT, OWN):
            row["all_tokens"] = True  # of a parent that has more tokens than its children
        children.append(row | medians[name])
    noise = {name: _noise(measured[name], config.stack_layers) for name in stacks}
    times = _in_order(space, _stack_times(space, config, medians), noise)
    return times | _untimed(space, times), children


def _untimed(space: SearchSpace, times: dict) -> dict:
    """Rows of variants in number formats that were not timed: those of the model's dtype."""
    keys = {(kind, v): f"{kind}:{variant_id(kind, v)}" for kind, variants in space.offered.items() for v in variants}
    return {key: dict(times[keys[kind, plain(v)]]) for (kind, v), key in keys.items() if key not in times}


def _noise(timings: list[Timing], copies: int) -> dict[str, float]:
    """Standard error of a block's milliseconds, by phase, from rounds of a stack of it."""
    if len(timings) < 2:
        return dict.fromkeys(PHASES, 0.0)
    rounds = [asdict(timing) for timing in timings]
    return {p: statistics.stdev(r[p] for r in rounds) / math.sqrt(len(rounds)) / copies for p in PHASES}


def _in_order(space: SearchSpace, times: dict, noise: dict[str, dict[str, float]]) -> dict:
    """`times` where no narrower FFN and no attention of fewer KV heads is dearer by chance.

    Neighbours in the wrong order that noise explains get their mean (pool adjacent violators); any others are what the
    engine does.

    Args:
        noise: standard error of each variant's milliseconds, by phase.
    """
    found = {key: dict(row) for key, row in times.items()}
    for phase in PHASES:
        for kind, variants in space.variants.items():
            pools: list[list[str]] = []  # keys that share a time, by size
            for variant in sorted(v for v in variants if isinstance(v, int)):
                pools.append([f"{kind}:{variant_id(kind, variant)}"])
                while len(pools) > 1 and _by_chance(*(_mean_of(pool, times, noise, phase) for pool in pools[-2:])):
                    pools[-2:] = [pools[-2] + pools[-1]]
            for pool in pools:
                for key in pool if len(pool) > 1 else ():
                    found[key][phase] = _mean_of(pool, times, noise, phase)[0]
    return found


def _mean_of(pool: list[str], times: dict, noise: dict[str, dict[str, float]], phase: str) -> tuple[float, float]:
    """Mean milliseconds of variants, and its standard error."""
    error = math.sqrt(sum(noise[key][phase] ** 2 for key in pool)) / len(pool)
    return statistics.fmean(times[key][phase] for key in pool), error


def _by_chance(small: tuple[float, float], large: tuple[float, float]) -> bool:
    """Whether the smaller one came out dearer, and not surely so."""
    return 0 < small[0] - large[0] <= 2 * math.hypot(small[1], large[1])


def _stacks(space: SearchSpace, config: CostConfig) -> dict[str, list[Block]]:
    """Copies of each variant, and what is to be taken off them.

    llama.cpp and vLLM have no layers without FFN: there every layer of a stack has a narrow one, whose cost is known from a
    stack of twice as many.
    """
    filler, copies = _filler(config), config.stack_layers
    stacks = {"empty": [Block(NONE, filler)] * (1 if filler == NONE else copies)}
    if filler != NONE:
        stacks["twice"] = [Block(NONE, filler)] * (2 * copies)
    timed = {None, *timed_types(space, config)}
    for kind, variants in space.offered.items():
        for variant in variants:
            if variant != NONE and weight_type(variant) in timed:
                block = Block(variant, filler) if kind == "attention" else Block(NONE, variant)
                hosts = [own for own in space.parents if fits_layer(getattr(own, kind), kind, plain(variant))]
                # where none of them could keep keys and values, something must count tokens, as in the empty model
                counter = [Block(NONE, NONE)] * (not any(kv_heads(own.attention) for own in hosts))
                stacks[f"{kind}:{variant_id(kind, variant)}"] = counter + [block] * copies
    return stacks


def _filler(config: CostConfig) -> Variant:
    return NONE if config.engine in ("transformers", "openvino") else FFN_WIDTH_STEP


def _stack_times(space: SearchSpace, config: CostConfig, medians: dict[str, dict[str, float]]) -> dict:
    """Milliseconds per copy of each variant, by phase: (stack - empty model) / copies."""
    empty, copies = medians["empty"], config.stack_layers
    filled = _filler(config) != NONE
    fillers = {p: (medians["twice"][p] - empty[p]) / copies if filled else 0.0 for p in PHASES}
    rows = {}
    for kind, variants in space.offered.items():
        for variant in variants:
            key = f"{kind}:{variant_id(kind, variant)}"
            if key not in medians and variant != NONE:
                continue  # a number format that this engine does not run
            rows[key] = dict.fromkeys(PHASES, 0.0)
            if variant != NONE:
                replaced = fillers if kind == "ffn" else dict.fromkeys(PHASES, 0.0)
                rows[key] = {p: max(0.0, (medians[key][p] - empty[p]) / copies + replaced[p]) for p in PHASES}
    return rows


def calibration_layouts(
    space: SearchSpace, config: CostConfig, seed: int
) -> tuple[list[list[Block]], list[list[Block]]]:
    """Children that the cost model is fitted on, the parent's blocks first and then from dear to cheap, and unseen ones.

    Each layer of a child draws from a window of all its blocks, ordered by size, or, unseen, from all of them.
    """
    generator = random.Random(seed)
    fitted = [list(space.parents)]
    for i in range(config.calibration_children - 1):
        place = (i + 0.5) / max(1, config.calibration_children - 1)
        blocks = []
        for layer, own in zip(space.layers, space.parents, strict=True):
            ordered = sorted(layer.blocks, key=lambda b: _size(b, own), reverse=True)  # noqa: B023
            window = max(1, len(ordered) // 2)
            low = round(place * (len(ordered) - window))
            blocks.append(generator.choice(ordered[low : low + window]))
        fitted.append(blocks)
    unseen = [[generator.choice(layer.blocks) for layer in space.layers] for _ in range(config.unseen_children)]
    return fitted, unseen


def share_of(variant: Variant, own: Variant) -> float:
    """A variant's share of the KV heads, channels or experts of the parent's own; 0 for what has none of them."""
    variant = plain(variant)
    if variant == own:
        return float(own != NONE)
    size, whole = (v if isinstance(v, int) else kv_heads(v) or num_experts(v) or 0 for v in (variant, own))
    return size / whole if whole else 0.0


def _size(block: Block, own: Block) -> float:
    """Shares of both sub-blocks, a linear map a little above nothing."""
    return sum(0.05 if plain(v) == LINEAR else share_of(v, o) for v, o in zip(block, own, strict=True))


def _fit(children: list[dict], times: dict) -> dict[str, Fit]:
    """Affine fit of measured on summed milliseconds, errors relative.

    The parent is not in the fit: it runs its own stock code, the children run ours.
    """
    rows = [(_block_sums(child, times), child) for child in children[1:] if not child.get("all_tokens")]
    lines = {p: _affine([(summed[p], row[p]) for summed, row in rows if not row["unseen"]]) for p in PHASES}
    return _with_errors(lines, children, times)


def _block_sums(child: dict, times: dict) -> dict[str, float]:
    """Milliseconds of a measured child's blocks, before calibration, by phase."""
    keys = [key for b in child["blocks"] for key in variant_keys(Block.parse(b))]
    return {p: sum(times[key][p] for key in keys) for p in PHASES}


def _with_errors(lines: dict[str, Fit], children: list[dict], times: dict) -> dict[str, Fit]:
    """`lines` with what they are wrong by on children that they have not seen."""
    unseen = [(_block_sums(child, times), child) for child in children[1:] if child.get("unseen")]
    errors = [abs(sum(lines[p](total[p]) for p in PHASES) / sum(row[p] for p in PHASES) - 1) for total, row in unseen]
    known = {"error_mean": statistics.fmean(errors), "error_max": max(errors)} if errors else {}
    return {p: replace(line, **known) for p, line in lines.items()}


def _one_after_the_other(rows: tuple[dict, ...]) -> dict:
    """A child that was measured behind prompts of several lengths, as if it had run them all."""
    times = {p: sum(row[p] for row in rows) for p in PHASES}
    return rows[0] | times | {"spread": max(row["spread"] for row in rows)}


def _affine(points: list[tuple[float, float]]) -> Fit:
    """Least squares on relative residuals, the slope pulled to 1 by `RIDGE`; an offset below 0 is 0.

    Stacks already say what a block costs: a slope far from 1 is more often noise of a few children than true.
    """
    weights = [1 / max(y, 1e-9) ** 2 for _, y in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    variance = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    covariance = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True))
    slope = max(0.0, (covariance + RIDGE) / (variance + RIDGE))
    offset = mean_y - slope * mean_x
    if offset < 0:  # no model takes less than nothing
        squares = sum(w * x * x for w, (x, _) in zip(weights, points, strict=True))
        slope = (sum(w * x * y for w, (x, y) in zip(weights, points, strict=True)) + RIDGE) / (squares + RIDGE)
        offset = 0.0
    return Fit(offset, slope)


def estimate_cost(p, accelerator: str | None = None, length: int | None = None) -> Estimate:
    """P w + the layers of all stacks and children, which share their ends + KV cache of one + A(T) of its prompt."""
    config, clock = p.recipe.cost, p.clock_for(p.recipe.cost.dtype, "float32")
    fitted, unseen = calibration_layouts(p.space, config, p.recipe.seed)
    models = [*_stacks(p.space, config).values(), *fitted[1 - p.other_code :], *unseen]
    sizes = [sum(p.shapes.weights(kind, v) for b in blocks for kind, v in zip(KINDS, b, strict=True)) for blocks in models]  # fmt: skip
    seconds = p.open()
    for batch_size, n in itertools.product(config.batch_sizes, config.lengths if length is None else [length]):
        workload = Workload(batch_size, n, config.decode_tokens)
        seconds += sum(clock.init(p.ends + size) for size in sizes)
        timed = [p.own, *models]
        seconds += (config.rounds + 1) * sum(p.generation(blocks, workload).total_ms / 1e3 for blocks in timed)
    help = "lower cost.stack_layers, cost.calibration_children or cost.batch_sizes"
    return Estimate(seconds, p.timed(sum(sizes)), help)
