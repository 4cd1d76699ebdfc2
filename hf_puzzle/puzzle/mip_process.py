"""One mixed-integer program, solved in a process of its own: a request as JSON on stdin, its answer as JSON on stdout.

`solver.py` runs this file by its path, a fresh process for every program. Inside another program HiGHS and CBC depend on
what else that has loaded: HiGHS refuses to run after any other use of it with another number of threads, the shared
libraries of OR-tools and of python-mip exclude each other, and a crash of CBC would take all of the run with it.
Imports the standard library and mip only: neither torch nor hf_puzzle, which take seconds to load.
"""

import io
import json
import logging
import os
import signal
import sys
from importlib.util import find_spec


def main() -> None:
    """Answer one request; an exception of the solver is answered as `{"error": ...}`."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the libraries print to stdout
    request = json.load(sys.stdin)
    if hasattr(signal, "alarm"):  # a process whose parent was killed ends too; with a living one, that kills it first
        signal.alarm(int(request["deadline_s"]) + 5)
    sys.path[:] = request["path"]
    log = io.StringIO()  # where mip says why a library cannot be loaded; what it raises then does not
    logging.basicConfig(stream=log, format="%(message)s", level=logging.ERROR)
    try:
        use_highsbox()
        if "PMIP_HIGHS_LIBRARY" in os.environ:  # else mip looks into highspy, which needs it
            sys.modules["numpy"] = None  # mip does without, and then starts in half the time
        found = solve(request)
    except Exception as error:
        found = {"error": " ".join(log.getvalue().split()) or f"{type(error).__name__}: {error}"}
    with answer:
        json.dump(found, answer)


def use_highsbox() -> None:
    """Make mip load highsbox's HiGHS, unless the user names another: highspy, mip's choice, has lost the C API in 1.16."""
    if find_spec("highsbox") is None:
        return
    import highsbox

    name = {"darwin": "lib/libhighs.dylib", "win32": "bin/highs.dll"}.get(sys.platform, "lib/libhighs.so")
    os.environ.setdefault("PMIP_HIGHS_LIBRARY", os.path.join(highsbox.highs_dist_dir(), *name.split("/")))


def solve(request: dict) -> dict:
    """Minimise over 0/1 variables, exactly one of each group is 1: one thread, fixed seed, silent.

    Args:
        request: `solver` (HIGHS or CBC), `objective` (a coefficient per variable), `groups` (lists of variables), `rows`
            (variables, their coefficients, and the largest sum), `time_limit_s`, `relative_gap`.

    Returns:
        `status` (name of a mip.OptimizationStatus), `library` and `version` of the solver, and, where there is a
        solution, its `values`, `objective` and `bound`.
    """
    import mip

    name = request["solver"]
    model = mip.Model(sense=mip.MINIMIZE, solver_name=getattr(mip, name))
    model.verbose, model.threads, model.seed = 0, 1, 0
    model.max_mip_gap, model.max_mip_gap_abs = request["relative_gap"], 1e-9
    if name == "CBC":
        # its preprocessing turns some tiny infeasible models into OPTIMAL with broken rows, and saves no time here
        model.preprocess = 0
    variables = [model.add_var(var_type=mip.BINARY, obj=coefficient) for coefficient in request["objective"]]
    for group in request["groups"]:
        model.add_constr(mip.xsum(variables[i] for i in group) == 1)
    for indices, coefficients, maximum in request["rows"]:
        total = mip.xsum(c * variables[i] for i, c in zip(indices, coefficients, strict=True))
        model.add_constr(total <= maximum)
    status = model.optimize(max_seconds=request["time_limit_s"])
    found = {"status": status.name, **loaded(name)}
    if status in (mip.OptimizationStatus.OPTIMAL, mip.OptimizationStatus.FEASIBLE):
        values = [variable.x for variable in variables]
        found |= {"values": values, "objective": model.objective_value, "bound": model.objective_bound}
    return found


def loaded(name: str) -> dict[str, str | None]:
    """Path of the solver's shared library, and its version where it says so."""
    if name == "CBC":
        import mip.cbc

        return {"library": mip.cbc.libfile, "version": None}
    import mip.highs

    version = mip.highs.ffi.string(mip.highs.highslib.Highs_version())
    return {"library": mip.highs.libfile, "version": version.decode()}


if __name__ == "__main__":
    main()
