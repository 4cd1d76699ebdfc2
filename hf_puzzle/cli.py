"""`hf-puzzle`: run a recipe, look at a run, solve it again; check, convert and export what it made."""

import argparse
import contextlib
import json
import logging
import os
import shlex
import sys
from pathlib import Path

from safetensors import SafetensorError

from .recipe import SYSTEMS, ParentRecipe, describe_keys, load_recipe, recipe_class


logger = logging.getLogger("hf_puzzle")


def main(argv: list[str] | None = None) -> int:
    """Entry point; user errors end in one line on stderr and exit code 2."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.DEBUG if args.verbose else logging.INFO)
    try:
        return args.command(args)
    except KeyboardInterrupt:
        print("interrupted: the same command continues from here", file=sys.stderr)
        return 130
    # SafetensorError: a disk is full; ImportError: an extra is missing
    except (ValueError, OSError, RuntimeError, SafetensorError, ImportError) as error:
        if args.verbose:
            raise
        print(f"hf-puzzle: {_printable(str(error))}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-puzzle", description="Cheaper children of Hugging Face language models.")
    parser.add_argument("--verbose", action="store_true", help="tracebacks and debug messages")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a recipe; finished stages are reused")
    run.add_argument("recipe", type=Path)
    run.add_argument("--out", type=Path, help="run folder (default: runs/<name of the recipe>)")
    run.add_argument("--only", metavar="STAGE", help="run this stage alone, again")
    run.add_argument("--from", dest="start", metavar="STAGE", help="run this stage and all later ones again")
    run.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=value")
    run.add_argument(
        "--on", metavar="ray[://HOST:PORT] | slurm", help="run tasks on a cluster; default: in this process"
    )
    run.set_defaults(command=_run)

    plan = commands.add_parser(
        "plan", help="time, memory and disk of a recipe's stages on a machine; loads no weights"
    )
    plan.add_argument("recipe", type=Path, nargs="?")
    plan.add_argument("--machine", default="this", metavar="NAME|FILE.yaml", help="default: this one, measured")
    plan.add_argument("--workers", type=int, default=1, metavar="N", help="tasks that run at once")
    plan.add_argument("--parent", metavar="NAME", help="llama-1b, llama-8b, llama-70b or llama-405b, without the Hub")
    plan.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=value")
    plan.add_argument(
        "--published", action="store_true", help="predicted and reported speed-ups of published children"
    )
    plan.add_argument("--json", action="store_true", help="for machines")
    plan.set_defaults(command=_plan)

    show = commands.add_parser("show", help="what a run found: table, blocks, where its files are")
    show.add_argument("run_dir", type=Path)
    show.set_defaults(command=_show)

    solve = commands.add_parser("solve", help="solve again from a run's scores and costs, in seconds")
    solve.add_argument("run_dir", type=Path)
    solve.add_argument("--set", dest="overrides", action="append", default=[], metavar="constraints.speedup=2.5")
    solve.set_defaults(command=_solve)

    evaluate = commands.add_parser("eval", help="a model against its parent: lm-eval tasks, or a run's own test text")
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="run or model folder")
    evaluate.add_argument("--tasks", metavar="a,b", help="tasks of lm-eval; default: the test text of the run")
    evaluate.add_argument("--include-path", type=Path, metavar="FOLDER", help="task YAMLs of your own")
    evaluate.add_argument("--limit", type=int, metavar="N", help="items per task, or sequences of the test text")
    evaluate.add_argument("--num-fewshot", type=int, metavar="N", help="demonstrations; default: the task's")
    evaluate.add_argument("--batch-size", type=int, default=8, metavar="N")
    evaluate.add_argument("--parent", metavar="NAME_OR_FOLDER", help="default: what DIR names")
    evaluate.add_argument("--trust-remote-code", action="store_true", help="run code of the parent's repository")
    evaluate.add_argument("--out", type=Path, metavar="FILE.json", help="also write the numbers there")
    evaluate.set_defaults(command=_eval)

    decide = commands.add_parser("decide", help="answer typed questions about states, with a probability per option")
    decide.add_argument("requests", type=Path, metavar="FILE", help="a request as JSON, a list of them, or JSON lines")
    decide.add_argument("--model", required=True, metavar="NAME_OR_FOLDER")
    decide.add_argument("--gguf-file", metavar="NAME", help="of the model, where it is one")
    decide.add_argument("--demonstrations", type=Path, metavar="FILE", help="solved requests, read before the state")
    decide.add_argument(
        "--contexts", type=Path, metavar="FILE.json", help="a list of documents, read before the state"
    )
    decide.add_argument("--num-windows", type=int, metavar="N", help="that these are dealt to")
    decide.add_argument("--windows", type=Path, metavar="FOLDER", help="keep the encoded windows there")
    decide.add_argument("--options", default="labels", choices=["labels", "whole"], help="what is scored of an option")
    decide.add_argument("--permute", type=int, default=1, metavar="N", help="average over orders of the options")
    decide.add_argument(
        "--calibrate", type=Path, metavar="FILE", help="fit temperatures on these solved requests before"
    )
    decide.add_argument("--save", type=Path, metavar="FOLDER", help="where the fitted decision.json goes")
    decide.add_argument("--evaluate", action="store_true", help="FILE holds the answers: say how good these are")
    decide.add_argument("--trust-remote-code", action="store_true", help="run code of the model's repository")
    decide.set_defaults(command=_decide)

    check = commands.add_parser("check", help="which engines open a model folder, and the layer and reason where not")
    check.add_argument("folder", type=Path)
    check.set_defaults(command=_check)

    convert = commands.add_parser("convert", help="write a child in the other format: the same function, lossless")
    convert.add_argument("folder", type=Path)
    convert.add_argument(
        "--to", required=True, choices=["decilm", "per_layer"], type=lambda name: name.replace("-", "_")
    )
    convert.add_argument("--out", type=Path, help="default: DIR-<format>")
    convert.set_defaults(command=_convert)

    export = commands.add_parser("export", help="write a child as an engine runs it: exact rewrites, or a refusal")
    export.add_argument("folder", type=Path)
    export.add_argument("--target", required=True, help="an engine of `hf-puzzle check`, or onnx")
    export.add_argument("--out", type=Path, help="default: DIR-<target>, DIR.gguf for llama.cpp")
    export.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="N", help="devices that heads are split over"
    )
    export.add_argument(
        "--outtype",
        default="f16",
        choices=["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"],
        help="of a GGUF's matrices",
    )
    export.add_argument("--as-folder", action="store_true", help="llama.cpp: a folder for its own converter, no GGUF")
    export.set_defaults(command=_export)

    serve = commands.add_parser("serve", help="run an installed engine's server on a child, with the right flags")
    serve.add_argument("path", type=Path, help="a model folder, or a GGUF file")
    serve.add_argument("--engine", help="default: the first that is installed and opens it")
    serve.add_argument("--dry-run", action="store_true", help="print the command, to add flags of your own")
    serve.set_defaults(command=_serve)

    publish = commands.add_parser("publish", help="send a run's model, or a folder, to the Hub with its code and card")
    publish.add_argument("folder", type=Path, metavar="DIR")
    publish.add_argument("repo", metavar="user/repo")
    publish.add_argument("--private", action="store_true", help="make the repository a private one")
    publish.add_argument("--dry-run", action="store_true", help="list what would be sent; needs no token and no Hub")
    publish.add_argument("--license", metavar="ID", help="default: that of the parent")
    publish.add_argument("--revision-message", metavar="TEXT", help="message of the commit")
    publish.add_argument(
        "--code-repo", metavar="user/code", help="put the modelling code there, once for many children"
    )
    publish.set_defaults(command=_publish)

    link = commands.add_parser("link", help="make `hf puzzle` run this hf-puzzle")
    link.add_argument("--remove", action="store_true", help="take it away again")
    link.set_defaults(command=_link)

    env = commands.add_parser("env", help="versions, machine, solver and engines, to paste into a bug report")
    env.add_argument("--json", action="store_true", help="for machines")
    env.set_defaults(command=_env)

    keys = commands.add_parser("keys", help="every key of a recipe, with its default")
    keys.add_argument("system", nargs="?", default="puzzle", choices=list(SYSTEMS))
    keys.set_defaults(command=_keys)
    return parser


def _printable(text: str) -> str:
    """Text that may hold what a stranger wrote: without control characters, which move a terminal's cursor or worse."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _plain(text: str) -> str:
    """The same for a cell of a table, where `[bold]` is markup."""
    from rich.markup import escape

    return escape(_printable(text))


def _quiet_transformers() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the bars of loading weights; ours are left


def _say(line: str) -> None:
    logger.info(line)


def _run(args: argparse.Namespace) -> int:
    _quiet_transformers()
    recipe = load_recipe(args.recipe, args.overrides)
    out = args.out or Path("runs") / args.recipe.stem
    if isinstance(recipe, ParentRecipe):
        from . import artifacts
        from .puzzle.parent import train_parent

        print(f"parent: {train_parent(recipe, out, args.recipe.parent)}")
        artifacts.remove(out.with_name(f"{out.name}-checkpoints"))
        return 0
    if recipe.system == "pcw":
        from .pcw.evaluate import run_recipe

        print(run_recipe(recipe, out, args.recipe.parent, args.only, args.start, _say, args.on))
        _keep_recipe(out, args)
        return 0
    if recipe.system == "mrkl":
        from .mrkl.run import run_recipe

        print(run_recipe(recipe, out, args.recipe.parent, args.only, args.start, _say, args.on))
        _keep_recipe(out, args)
        return 0
    from .puzzle.pipeline import PuzzleRun

    run = PuzzleRun(recipe, out, args.recipe.parent, text=(args.recipe.read_text(encoding="utf-8"), args.overrides))
    run.run(args.only, args.start, _say, args.on)
    if args.only is None:
        _print_summary(out)
        _print_times(out)
    return 0


def _plan(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from .puzzle.plan import plan
    from .puzzle.planner import duration, gigabytes
    from .puzzle.published import predictions
    from .recipe import PuzzleRecipe, RecipeError

    _quiet_transformers()
    if args.published:
        rows = predictions()
        if args.json:
            print(json.dumps(rows, indent=1))
            return 0
        table = Table("child", "in/out", "devices", "batch", "per", "reported", "predicted", "off by", "source")
        for row in rows:
            table.add_row(
                row["child"], f"{row['prefill_tokens']}/{row['decode_tokens']}",
                f"{row['child_devices']} : {row['parent_devices']}", f"{row['child_batch']} : {row['parent_batch']}",
                row["per"], f"{row['speedup']:.2f}x", f"{row['predicted']:.2f}x", f"{row['error']:+.0%}", row["source"],
            )  # fmt: skip
        Console().print(table)
        return 0
    if args.recipe is None:
        raise RecipeError("plan needs a RECIPE, or --published")
    recipe = load_recipe(args.recipe, args.overrides)
    if not isinstance(recipe, PuzzleRecipe):
        raise RecipeError(f"{args.recipe} is a recipe of `system: {recipe.system}`; plans are made of puzzle recipes")
    made = plan(recipe, args.recipe.parent, args.machine, args.workers, args.parent)
    if args.json:
        print(json.dumps(made.to_dict(), indent=1))
        return 1 if made.problems else 0
    table = Table("stage", "needs", "tasks", "time", "memory of a task", "most of it", "disk")
    for stage in made.stages:
        most = max(stage.memory, key=stage.memory.get, default="")
        table.add_row(
            stage.stage, ", ".join(stage.needs), str(stage.tasks), duration(stage.seconds),
            gigabytes(stage.memory_bytes), most, gigabytes(stage.disk_bytes),
        )  # fmt: skip
    console = Console()
    console.print(table)
    total = made.to_dict()
    console.print(
        f"{made.parent_parameters / 1e9:.2f} B parameters on {made.workers} x {made.machine.name}: "
        f"{duration(total['seconds'])}, {gigabytes(total['disk_bytes'])} of disk; the child is taken to keep "
        f"{made.child_share:.0%} of the parent's blocks",
        markup=False,
    )
    for line in made.problems:
        console.print(line, markup=False)
    return 1 if made.problems else 0


def _keep_recipe(out: Path, args: argparse.Namespace) -> None:
    """Put the recipe as it was written into the run folder, where the model card reads it."""
    from . import artifacts

    artifacts.write_text(out / "recipe.yaml", args.recipe.read_text(encoding="utf-8"))
    artifacts.write_json(out / "overrides.json", args.overrides)


def _show(args: argparse.Namespace) -> int:
    _print_summary(args.run_dir)
    return 0


def _print_summary(run_dir: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from . import artifacts
    from .puzzle.baselines import describe
    from .puzzle.report import summary_rows
    from .puzzle.stored import read_chosen

    console = Console()
    if not (run_dir / "solutions.json").exists() and (run_dir / "report.md").exists():  # a run of another system
        console.print((run_dir / "report.md").read_text(encoding="utf-8"), markup=False)
        return
    blocks = read_chosen(run_dir)
    if (run_dir / "eval.json").exists():
        table = Table("", "parent", "child", "kept / ratio")
        with artifacts.reading(run_dir / "eval.json"):
            for row in summary_rows(artifacts.read_json(run_dir / "eval.json")):
                table.add_row(*map(_plain, row))
        console.print(table)
    console.print("blocks: " + describe(blocks), markup=False)
    for name, what in (("distilled", "child"), ("report.md", "report")):
        if (run_dir / name).exists():
            console.print(f"{what}: {run_dir / name}", markup=False)


def _print_times(run_dir: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from .stages import time_spent

    rows = time_spent(run_dir)
    total = sum(wall for _, wall, _ in rows) or 1.0
    table = Table("stage", "wall", "share", "work of its tasks")
    for stage, wall, work in rows:
        table.add_row(stage, f"{wall:.1f} s", f"{wall / total:.0%}", f"{work:.1f} s")
    Console().print(table)


def _solve(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from .puzzle.baselines import describe
    from .puzzle.pipeline import load_run
    from .puzzle.stored import check_run

    check_run(args.run_dir)
    candidates = load_run(args.run_dir, args.overrides).resolve()
    table = Table("batch", "score", "gap", "predicted ms", "parameters", "memory", "blocks")
    for c in candidates:
        costs = c.solution.costs
        table.add_row(
            str(c.batch_size), f"{c.solution.score:.4f}", f"{c.solution.gap:.0e}", f"{c.predicted.total_ms:.1f}",
            f"{costs['num_parameters'] / 1e6:.2f} M", f"{costs['memory_bytes'] / 1e6:.1f} MB", describe(c.blocks),
        )  # fmt: skip
    Console().print(table)
    return 0


def _eval(args: argparse.Namespace) -> int:
    _quiet_transformers()
    from rich.console import Console
    from rich.table import Table

    from . import artifacts
    from .lm_evaluation import (
        EvaluationError,
        check_tasks_can_run,
        compare_on,
        evaluate_tasks,
        find_subject,
        quality_rows,
        table_rows,
    )

    if args.out is not None and (args.out.is_dir() or not args.out.suffix):
        raise EvaluationError(f"--out {args.out}: name a file, e.g. {args.out / 'lm_eval.json'}")
    if args.out is not None and args.out.name == "eval.json" and args.out.with_name("manifest.json").exists():
        raise EvaluationError(f"--out {args.out}: the run's own measurements are there; take lm_eval.json")
    if args.tasks is not None:
        check_tasks_can_run()
    subject = find_subject(args.folder, args.parent, args.trust_remote_code)
    if args.tasks is not None:
        if subject.parent is None:
            _say(f"only the child: {subject.why_alone}; name it with --parent")
        result = evaluate_tasks(
            subject, args.tasks.split(","), args.include_path, args.limit, args.batch_size, args.num_fewshot
        )
        header, rows = table_rows(result)
    else:
        if subject.run_dir is None:
            raise EvaluationError(f"{args.folder} is a model: name --tasks, or a run folder, which has a test text")
        if args.include_path is not None or args.num_fewshot is not None:
            raise EvaluationError("--include-path and --num-fewshot belong to --tasks, which is not there")
        from .puzzle.assess import test_rows
        from .puzzle.pipeline import load_run

        run = load_run(subject.run_dir)
        result = compare_on(subject, test_rows(run), args.batch_size, args.limit)
        header, rows = ["", "parent", "child", "kept"], quality_rows(result["quality"])
    if args.out is not None:
        artifacts.write_json(args.out, result)
    table = Table()
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    return 0


def _decide(args: argparse.Namespace) -> int:
    from .pcw.decide import calibrate, open_decider, read_requests, solved_decisions
    from .training import resolve_device

    _quiet_transformers()
    if args.save is not None and args.calibrate is None:
        raise ValueError("--save is for fitted temperatures: give --calibrate FILE, too")
    requests = read_requests(args.requests)
    names = (
        "gguf_file",
        "trust_remote_code",
        "demonstrations",
        "contexts",
        "windows",
        "num_windows",
        "options",
        "permute",
    )
    settings = {name: getattr(args, name) for name in names}
    decider = open_decider(args.model, device=resolve_device("auto"), **settings)
    development = None
    if args.calibrate is not None:
        development = calibrate(decider, read_requests(args.calibrate))
        _say(f"temperatures: {decider.decision_config.temperature}")
        if args.save is not None:
            decider.decision_config.save_pretrained(args.save)
    if args.evaluate:
        for kind, each in solved_decisions(decider, requests).items():
            print(json.dumps({"type": kind, **each.to_dict((development or {}).get(kind))}))
        return 0
    for answer in decider(requests):
        print(json.dumps(answer, ensure_ascii=False))
    return 0


def _check(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from .engines.check import check_folder

    table = Table("engine", "opens", "how, or why not")
    for verdict in check_folder(args.folder):
        told = "; ".join(filter(None, (verdict.reason, verdict.source)))
        table.add_row(*map(_plain, (verdict.engine, verdict.status, told)))
    Console().print(table)
    from . import artifacts
    from .engines.burden import gains, warnings
    from .puzzle.report import slower_than_parent

    evaluation, measured = None, next((f for f in _evaluations(args.folder) if f.exists()), None)
    if measured is not None:
        # another program's eval.json says nothing of a child
        with contextlib.suppress(artifacts.ArtifactError), artifacts.reading(measured):
            evaluation = artifacts.read_json(measured)
            for line in slower_than_parent(evaluation):
                print(f"measured ({measured}): {line.replace('**', '')}")
    if warned := [*warnings(args.folder, evaluation), *gains(args.folder)]:
        print(*(each.text for each in warned), sep="\n")
        print("(`deploy` and `cost: {engine: ...}` in a recipe keep the search to blocks that pay there)")
    return 0


def _evaluations(folder: Path) -> tuple[Path, Path]:
    return folder / "eval.json", folder.parent / "eval.json"


def _convert(args: argparse.Namespace) -> int:
    _quiet_transformers()
    from .engines.export import convert_folder

    out = args.out or args.folder.with_name(f"{args.folder.resolve().name}-{args.to}")
    print(f"{args.to}: {convert_folder(args.folder, args.to, out)}")
    return 0


def _export(args: argparse.Namespace) -> int:
    _quiet_transformers()
    from .engines.export import export
    from .engines.measured import advice

    if (known := advice(args.target)) is not None:
        print(known)
    name = args.folder.resolve().name
    is_file = args.target == "llama.cpp" and not args.as_folder
    out = args.out or args.folder.with_name(f"{name}.gguf" if is_file else f"{name}-{args.target}")
    for change in export(args.folder, args.target, out, args.tensor_parallel, args.outtype, args.as_folder):
        print(f"  {change}")
    print(f"{args.target}: {out}")
    return 0


def _serve(args: argparse.Namespace) -> int:
    from .engines.measured import advice
    from .engines.serving import command

    engine, words = command(args.path, args.engine)
    if not args.dry_run and (known := advice(engine)) is not None:
        print(known, file=sys.stderr)
    if args.dry_run:
        print(shlex.join(words))
        return 0
    os.execvp(words[0], words)  # noqa: S606 (signals and exit code are the engine's)


def _publish(args: argparse.Namespace) -> int:
    from .publishing import publish

    publish(
        args.folder, args.repo, private=args.private, license=args.license, message=args.revision_message,
        code_repo=args.code_repo, dry_run=args.dry_run, say=print,
    )  # fmt: skip
    return 0


def _link(args: argparse.Namespace) -> int:
    from .hf_extension import link, unlink

    print(unlink() if args.remove else link())
    return 0


def _env(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from .bug_report import bug_report, rows

    report = bug_report()
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    for header, lines in rows(report):
        table = Table()
        for name in header:
            table.add_column(name, overflow="fold")
        for line in lines:
            table.add_row(*map(_plain, line))
        Console().print(table)
    return 0


def _keys(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table("key", "default", "meaning")
    for row in describe_keys(recipe_class(args.system)):
        table.add_row(*row)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
